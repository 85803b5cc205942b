"""Tables as text: the verdicts of a sweep, the orbits of a census."""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.runs.merge import counted


class VerdictRow(NamedTuple):
    """One target and verdict of a sweep, ready to be printed."""

    target: str
    verdict: str
    rows: str
    loss: str
    morse: str  # indices
    max_grad: str
    max_gap: str


# Of a completeness test of a census.
OUTCOMES = {True: "passed", False: "VIOLATED", None: "not applicable, an orbit is degenerate"}
HEADER = ("target", "verdict", "rows", "loss", "index", "max |grad|", "max gap")


class Setting(NamedTuple):
    """What a sweep found for one target and setting."""

    target: str
    values: dict[str, float]  # the setting, by name: decays, say
    verdicts: dict[str, int]
    lowest: float  # loss of the lowest row
    closed_form: float  # NaN where theory knows none
    max_gap: float  # over all rows but strict saddles and NOT_CRITICAL ones, whose gaps are open; NaN if none


def verdict_rows(table: pa.Table) -> list[VerdictRow]:
    """Return counts by target and verdict with ranges of loss, index, gradient norm and gap."""
    found = []
    for target in sorted(counted(table["target"])):
        of_target = pc.equal(table["target"], target)
        for verdict, count in counted(table["verdict"].filter(of_target)).items():
            chosen = pc.and_(of_target, pc.equal(table["verdict"], verdict))
            rows = {name: table[name].filter(chosen) for name in ("loss", "index", "grad_norm", "dual_gap")}
            known = verdict != "NOT_CRITICAL"
            found.append(
                VerdictRow(
                    target,
                    verdict,
                    str(count),
                    _range(rows["loss"], ".8g"),
                    _range(rows["index"], "d") if known else "-",
                    _largest(rows["grad_norm"]),
                    _largest(rows["dual_gap"]),
                )
            )
    return found


def status_counts(table: pa.Table) -> str:
    """Return how the searches ended, and the number of rows."""
    ended = ", ".join(f"{name} {count}" for name, count in counted(table["status"]).items())
    return f"{ended}; {table.num_rows} rows in all"


def verdict_table(table: pa.Table) -> str:
    """Return `verdict_rows` as text, then totals."""
    lines = [_row(HEADER), *map(_row, verdict_rows(table))]
    return "\n".join([*lines, f"status: {status_counts(table)}"])


def setting_names(table: pa.Table) -> list[str]:
    """Return the columns that say which setting a row has: they stand behind its target."""
    names = table.column_names
    return names[names.index("target") + 1 : names.index("negative_curvature")]


def setting_rows(table: pa.Table) -> list[Setting]:
    """Return what was found for each target and setting, in order of the values."""
    keys = ["target", *setting_names(table)]
    measures = [("loss", "min"), ("loss", "count"), ("closed_form_loss", "max"), ("dual_gap", "max")]
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for group in table.group_by([*keys, "verdict"]).aggregate(measures).to_pylist():
        groups[tuple(group[key] for key in keys)].append(group)
    return [_setting(dict(zip(keys, key, strict=True)), groups[key]) for key in sorted(groups)]


def _setting(key: dict[str, Any], groups: list[dict[str, Any]]) -> Setting:
    gaps = [g["dual_gap_max"] for g in groups if g["verdict"] not in ("STRICT_SADDLE", "NOT_CRITICAL")]
    return Setting(
        key.pop("target"),
        key,
        {g["verdict"]: g["loss_count"] for g in groups},
        _extreme(np.fmin, [g["loss_min"] for g in groups]),
        _extreme(np.fmax, [g["closed_form_loss_max"] for g in groups]),
        _extreme(np.fmax, gaps),
    )


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64, nulls as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), float)


def _extreme(choose: np.ufunc, values: list[float | None]) -> float:
    return float(choose.reduce([np.nan if v is None else v for v in values], initial=np.nan))


def _largest(column: pa.ChunkedArray) -> str:
    value = np.fmax.reduce(floats(column), initial=np.nan)
    return "-" if np.isnan(value) else f"{value:.1e}"


def census_report(orbits: list[OrbitRow], summary: dict[str, Any], *, head: int = 20, tail: int = 10) -> str:
    """Return the table of orbits, of a long one the first and the last, and what is known of completeness."""
    names = [
        name for name in OrbitRow._fields if name != "proved" or any(r.proved is not None for r in orbits)
    ]
    told = (["-" if (v := getattr(row, name)) is None else str(v) for name in names[1:]] for row in orbits)
    cells = [names, *([f"{row.loss:.8f}", *t] for row, t in zip(orbits, told, strict=True))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    if len(orbits) > head + tail:
        shown[head + 1 : -tail] = [f"  ... {len(orbits) - head - tail} more ..."]
    mass = summary["unseen_mass"]
    shown.append(
        f"{summary['orbits']} orbits from {summary['num_starts']} starts ({summary['num_failed']} met no "
        f"critical point), the last new one within {summary['last_new']}"
    )
    shown.append(
        "chance that the next start finds a new one (Good-Turing): "
        + ("-" if mass is None else f"{mass:.1e}")
    )
    for test in summary["tests"]:
        says = OUTCOMES[test["passed"]]
        line = f"d = {test['dim']}: Morse-Bott inequalities {says}, Euler sum {test['euler']}"
        shown.append(line if test["passed"] else f"{line}, R = {test['remainder']}")
    return "\n".join(shown)


def _range(column: pa.ChunkedArray, form: str) -> str:
    low, high = pc.min_max(column).as_py().values()
    if low is None:
        return "not counted"
    if np.isnan(low):
        return "-"
    same = format(low, form) == format(high, form)
    return format(low, form) if same else f"{low:{form}}..{high:{form}}"


def _row(cells: tuple[str, ...]) -> str:
    widths = (8, 15, 7, 24, 9, 11, 9)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
