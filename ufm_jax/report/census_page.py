"""The page of a census: its orbits, its completeness tests, and the orbits that have no verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.report import figures
from ufm_jax.report.markup import facts, paragraph, table
from ufm_jax.report.orbit_table import NONE, orbit_table
from ufm_jax.report.parts import frame, index_figure, origin, tally, when
from ufm_jax.report.rerun import command
from ufm_jax.report.table import OUTCOMES
from ufm_jax.report.terms import glossary, heads
from ufm_jax.runs.orbits import Config, table_of

SEARCH = {
    "orbits": "orbits found",
    "num_starts": "searches",
    "num_failed": "of which met no critical point",
    "last_new": "searches done when the last new orbit was found",
    "settled": "settled: twice as many searches again brought nothing new",
    "unseen_mass": "chance that the next search finds a new one (Good and Turing)",
    "complete_as_tested": "no test of completeness is violated",
}


def census_page(
    config: Config,
    manifest: dict[str, Any],
    found: list[OrbitRow],
    summary: dict[str, Any],
    out: Path,
    pictures: list[Any],
) -> str:
    """Return the page of a census; `pictures` are matrices of its first orbits, or None."""
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
        "Orbits": _orbit_table("All orbits, the lowest loss first", orbits, pictures),
        "Completeness": _completeness(summary),
        "Figures": index_figure(figures.points(table_of(found)), "orbits"),
        title: _orbit_table("Orbits without a verdict", undecided) if undecided else paragraph("None."),
        "Terms": glossary(
            ("orbit", *(orbits[0] if orbits else ()), "Morse–Bott inequalities", "Euler sum", "R(t)")
        ),
        **origin(manifest, command(config, out)),
    }
    return frame("Census", config, [*lead, paragraph(when(out))], sections)


def _completeness(summary: dict[str, Any]) -> str:
    tests = [
        (test.get("dim"), OUTCOMES[test.get("passed")], test.get("euler"), str(test.get("remainder")))
        for test in summary.get("tests", [])
    ]
    untold = ("tests",) if tests else ("tests", "complete_as_tested")
    known = [(SEARCH.get(name, name), _said(value)) for name, value in summary.items() if name not in untold]
    if not tests:
        return facts("The search", known) + paragraph("The landscape knows no test of completeness.")
    header = heads(("d", "Morse–Bott inequalities", "Euler sum", "R(t)"))
    return facts("The search", known) + table("Completeness tests, by feature dimension", header, tests)


def _said(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _orbit_table(caption: str, orbits: list[dict[str, Any]], pictures: Sequence[Any] = NONE) -> str:
    return orbit_table(caption, orbits, pictures) if orbits else paragraph("None.")
