"""The page of a census: its orbits, its completeness tests, and the orbits that have no verdict."""

from pathlib import Path
from typing import Any

from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.report import figures
from ufm_jax.report.markup import facts, paragraph, table
from ufm_jax.report.parts import frame, index_figure, origin, precise, tally
from ufm_jax.report.rerun import command
from ufm_jax.report.table import OUTCOMES
from ufm_jax.runs.orbits import Config, table_of


def census_page(
    config: Config, manifest: dict[str, Any], found: list[OrbitRow], summary: dict[str, Any], out: Path
) -> str:
    """Return the page of a census."""
    orbits = [row._asdict() for row in found]
    undecided = [row for row in orbits if row["verdict"] in ("UNDECIDED", "NOT_CRITICAL")]
    title = f"Undecided orbits ({len(undecided)})"
    lead = [paragraph(f"{len(orbits)} orbits: " + ", ".join(tally(row["verdict"] for row in orbits)))]
    if not summary.get("settled"):
        says = "Unfinished: the search had not settled when it ended, so that orbits may be missing."
        lead = [paragraph(says, notice=True), *lead]
    if summary.get("complete_as_tested") is False:
        lead = [paragraph("A completeness test is violated: an orbit is missing.", notice=True), *lead]
    sections = {
        "Completeness": _completeness(summary),
        "Figures": index_figure(figures.points(table_of(found)), "orbits"),
        "Orbits": _orbit_table("All orbits, the lowest loss first", orbits),
        title: _orbit_table("Orbits without a verdict", undecided) if undecided else paragraph("None."),
        **origin(manifest, command(config, out)),
    }
    return frame("Census", config, lead, sections)


def _completeness(summary: dict[str, Any]) -> str:
    tests = [
        (test.get("dim"), OUTCOMES[test.get("passed")], test.get("euler"), str(test.get("remainder")))
        for test in summary.get("tests", [])
    ]
    known = [(name, value) for name, value in summary.items() if name != "tests"]
    if not tests:
        return facts("The search", known) + paragraph("The landscape knows no test of completeness.")
    header = ("d", "Morse–Bott inequalities", "Euler sum", "R(t)")
    return facts("The search", known) + table("Completeness tests, by feature dimension", header, tests)


def _orbit_table(caption: str, orbits: list[dict[str, Any]]) -> str:
    if not orbits:
        return paragraph("None.")
    cells = [[precise(v) if k == "loss" else v for k, v in row.items()] for row in orbits]
    return table(caption, list(orbits[0]), cells)
