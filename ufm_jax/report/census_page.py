"""The page of a census: its orbits, its completeness tests, and the orbits that have no verdict."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.report.figures import Points
from ufm_jax.report.markup import facts, paragraph, table
from ufm_jax.report.parts import frame, index_figure, origin, precise, tally
from ufm_jax.report.rerun import command
from ufm_jax.report.table import OUTCOMES
from ufm_jax.runs.orbits import check_rows
from ufm_jax.runs.plan import CensusConfig


def census_page(config: CensusConfig, manifest: dict[str, Any], out: Path) -> str:
    """Return the page of a census."""
    orbits, summary = _orbits(out), _summary(config, out)
    check_rows(config, out, [float(row["loss"]) for row in orbits])
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
        "Figures": index_figure(
            _points(orbits),
            "orbits",
        ),
        "Orbits": _orbit_table("All orbits, the lowest loss first", orbits),
        title: _orbit_table("Orbits without a verdict", undecided) if undecided else paragraph("None."),
        **origin(manifest, command(config, out)),
    }
    return frame("Census", config, lead, sections)


def _points(orbits: list[dict[str, str]]) -> Points:
    index, loss, rank = (
        np.array([float(row[name] or "nan") for row in orbits]) for name in ("index", "loss", "rank")
    )
    return Points(index, loss, rank, np.array([row["verdict"] for row in orbits], dtype=str))


def _completeness(summary: dict[str, Any]) -> str:
    if not summary:
        return paragraph("There is no summary.json yet.")
    tests = [
        (test.get("dim"), OUTCOMES[test.get("passed")], test.get("euler"), str(test.get("remainder")))
        for test in summary.get("tests", [])
    ]
    known = [(name, value) for name, value in summary.items() if name != "tests"]
    header = ("d", "Morse–Bott inequalities", "Euler sum", "R(t)")
    return facts("The search", known) + table("Completeness tests, by feature dimension", header, tests)


def _orbit_table(caption: str, orbits: list[dict[str, str]]) -> str:
    if not orbits:
        return paragraph("None.")
    cells = [[precise(float(v)) if k == "loss" else v or None for k, v in row.items()] for row in orbits]
    return table(caption, list(orbits[0]), cells)


def _orbits(out: Path) -> list[dict[str, str]]:
    path = out / "orbits.csv"
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise ValueError(f"out: {out} holds no orbits.csv yet; the census's command goes on") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"out: cannot read {path}: {error}") from error


def _summary(config: CensusConfig, out: Path) -> dict[str, Any]:
    path = out / "summary.json"
    try:
        held = dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"out: cannot read {path}: {error}") from error
    if held.pop("digest", config.digest()) != config.digest():
        raise ValueError(f"out: {path} is of another run; the census's command writes it again")
    return held
