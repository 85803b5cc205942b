"""The page of a sweep: verdicts, figures, decay settings, and every row that has no verdict."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ufm_jax.report import figures
from ufm_jax.report.markup import facts, figure, folded, paragraph, table
from ufm_jax.report.orbit_table import orbit_table, sweep_orbits
from ufm_jax.report.parts import frame, index_figure, origin, precise, tally, when
from ufm_jax.report.rerun import command
from ufm_jax.report.table import HEADER, floats, setting_names, setting_rows, status_counts, verdict_rows
from ufm_jax.report.terms import glossary, heads
from ufm_jax.runs.plan import LandscapeConfig, SweepConfig
from ufm_jax.runs.store import load

WORST = 20  # rows with the largest gaps
SHOWN = 200  # rows that are NOT_CRITICAL
LONG = 60  # rows of a table that is folded
ALIKE = ("reason", "decay_b")  # columns that are left out where they say nothing
FIRST = ("start", "target")
THEN = (
    *("verdict", "reason", "loss", "grad_norm", "dual_gap", "lambda_min", "lambda_min_residual"),
    *("rank", "index", "nullity", "status", "num_steps"),
)
MEANING = {
    "GLOBAL_MINIMUM": "gradient and duality gap within tolerance, no negative curvature",
    "LOCAL_MINIMUM": "Hessian positive on the complement of the symmetry orbit; gap open",
    "STRICT_SADDLE": "a direction whose measured curvature is negative beyond its error",
    "DEGENERATE": "no negative curvature, but null directions beyond those of the symmetries",
    "UNDECIDED": "the evidence is not enough",
    "NOT_CRITICAL": "gradient above tolerance",
}
REASONS = {
    "SPECTRUM_UNRESOLVED": "an eigenvalue modulo the orbit is too near zero to have a sign",
    "RESIDUAL_TOO_LARGE": "the eigenvector did not stand up in the problem asked about",
    "SPECTRUM_NOT_TAKEN": "the certificates alone do not decide",
    "BOUND_ABOVE_VALUE": "a contradiction: the lower bound on the global minimum lies above the loss",
    "INDEX_NOT_COUNTED": "too large to diagonalise: no negative curvature found, or shown to be absent",
}


def sweep_page(config: SweepConfig | LandscapeConfig, manifest: dict[str, Any], out: Path) -> str:
    """Return the page of a sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that rows are missing: the page says so
        rows = load(out)
    names = rows.column_names
    orbits, pictures = sweep_orbits(config, rows)
    rows = rows.select(names[: names.index("closed_form_loss") + 1])  # points stand behind
    undecided = rows.filter(pc.field("verdict") == "UNDECIDED")
    lost = rows.filter(pc.field("verdict") == "NOT_CRITICAL")
    again = command(config, out)
    named = ["name"] if any(row["name"] for row in orbits) else []
    named += ["logits"] if any(picture is not None for picture in pictures) else []
    terms = ("orbit", "hits", *named, *HEADER, *setting_names(rows), *FIRST, *THEN)
    sections = {
        f"Distinct orbits ({len(orbits)})": _orbits(orbits, pictures),
        "Verdicts": _verdicts(rows),
        "Figures": _figures(rows),
        "Settings": _settings(rows),
        "Largest gaps": _worst(rows),
        f"Undecided starts ({undecided.num_rows})": _undecided(undecided),
        f"Starts that ended at no critical point ({lost.num_rows})": _lost(lost),
        "Terms": glossary(terms),
        **origin(manifest, again),
    }
    missing = config.num_rows - rows.num_rows
    state = f"{rows.num_rows} of {config.num_rows} rows: " + ", ".join(tally(rows["verdict"].to_pylist()))
    lead = [paragraph(state), paragraph(when(out))]
    if missing:
        says = (
            f"Unfinished: {missing} of {config.num_rows} rows are missing. The command below does the rest."
        )
        lead = [paragraph(says, notice=True), *lead]
    return frame("Sweep", config, lead, sections)


def _orbits(orbits: list[dict[str, Any]], pictures: list[Any]) -> str:
    if not orbits:
        return paragraph("No row is critical and has its index counted.")
    return orbit_table("Critical rows by orbit, the lowest loss first", orbits, pictures)


def _verdicts(rows: pa.Table) -> str:
    return (
        table("Rows by target and verdict, with ranges", heads(HEADER), verdict_rows(rows))
        + paragraph(f"How the searches ended: {status_counts(rows)}.")
        + folded("What the verdicts mean", facts("Verdicts claim what was shown:", MEANING.items()))
    )


def _figures(rows: pa.Table) -> str:
    settings = setting_rows(rows)
    known = figures.critical(rows)
    parts = [
        figure(
            figures.data_uri(figures.draw_losses, rows),
            "A histogram of the rows' losses, by verdict.",
            "How many rows ended at each loss, by verdict.",
        ),
        index_figure(
            figures.points(known),
            "rows",
            f"{rows.num_rows - known.num_rows} rows are not critical or have no index, and are left out.",
        ),
        figure(
            figures.data_uri(figures.draw_tolerances, rows),
            "Two histograms of rows, by verdict: duality gap, and gradient norm.",
            f"Duality gap and gradient norm, by verdict; grey: the tolerances of a verdict. "
            f"{int((~np.isfinite(floats(rows['dual_gap']))).sum())} rows have no finite gap. "
            "The gap of a saddle is open by nature.",
        ),
    ]
    if figures.varied(settings):
        minima = [s for s in settings if s.target == "minima"] or settings
        parts.append(
            figure(
                figures.data_uri(figures.draw_map, minima),
                "Maps over the grid of settings: lowest loss found; share of rows GLOBAL_MINIMUM.",
                f"Over the grid of settings, searches toward {minima[0].target}: the lowest loss found and "
                "the share of rows judged GLOBAL_MINIMUM. Hatched: not done yet.",
            )
        )
    return "\n".join(parts)


def _settings(rows: pa.Table) -> str:
    settings = setting_rows(rows)
    verdicts = [name for name in MEANING if any(name in s.verdicts for s in settings)]
    header = (
        "target",
        *setting_names(rows),
        *verdicts,
        "lowest loss",
        "closed form",
        "largest gap",
    )
    cells = [
        (
            s.target,
            *s.values.values(),
            *(s.verdicts.get(v, 0) for v in verdicts),
            precise(s.lowest),
            precise(s.closed_form),
            s.max_gap,
        )
        for s in settings
    ]
    caption = "For each target and setting; the largest gap leaves out saddles and NOT_CRITICAL rows"
    made = table(caption, header, cells)
    return folded(f"All {len(cells)} rows", made) if len(cells) > LONG else made


def _worst(rows: pa.Table) -> str:
    judged = rows.filter(~pc.field("verdict").isin(["STRICT_SADDLE", "NOT_CRITICAL"]))
    gaps = floats(judged["dual_gap"])
    order = [i for i in np.argsort(-gaps, kind="stable") if not np.isnan(gaps[i])][:WORST]
    if not order:
        return paragraph("No row but saddles and NOT_CRITICAL ones has a duality gap.")
    caption = (
        f"The {len(order)} largest gaps of {judged.num_rows} rows, without saddles and NOT_CRITICAL ones"
    )
    return _row_table(caption, judged.take(order))


def _undecided(rows: pa.Table) -> str:
    if not rows.num_rows:
        return paragraph("None: every row has a verdict.")
    reasons = Counter(rows["reason"].to_pylist()).most_common()
    cells = [(reason, count, REASONS.get(reason, "")) for reason, count in reasons]
    return table("Reasons", ("reason", "rows", "meaning"), cells) + _row_table(
        f"All {rows.num_rows} undecided rows", rows
    )


def _lost(rows: pa.Table) -> str:
    if not rows.num_rows:
        return paragraph("None.")
    shown = rows.slice(0, SHOWN)
    caption = f"{shown.num_rows} of {rows.num_rows} rows that are NOT_CRITICAL: the search stalled"
    return folded(f"Show {shown.num_rows} of {rows.num_rows}", _row_table(caption, shown))


def _row_table(caption: str, rows: pa.Table) -> str:
    alike = {
        name
        for name in ALIKE
        if name in rows.column_names and rows[name].unique().to_pylist() in (["NONE"], [0.0])
    }
    shown = (*FIRST, *setting_names(rows), *THEN)
    names = [name for name in shown if name in rows.column_names and name not in alike]
    columns = [rows[name].to_pylist() for name in names]
    columns[names.index("loss")] = list(map(precise, columns[names.index("loss")]))
    return table(caption, heads(names), zip(*columns, strict=True))
