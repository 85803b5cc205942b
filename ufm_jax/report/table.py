"""Tables as text: the verdicts of a sweep, the orbits of a census."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ufm_jax.landscape.census import OrbitRow


def verdict_table(table: pa.Table) -> str:
    """Return counts by target and verdict with ranges of loss, index, gradient norm and gap, then totals."""
    header = ("target", "verdict", "rows", "loss", "index", "max |grad|", "max gap")
    lines = [_row(header)]
    for target in sorted(set(table["target"].to_pylist())):
        of_target = table.filter(pc.field("target") == target)
        counts = of_target["verdict"].value_counts().to_pylist()
        for item in sorted(counts, key=lambda c: -c["counts"]):
            rows = of_target.filter(pc.field("verdict") == item["values"])
            known = item["values"] != "NOT_CRITICAL"
            lines.append(
                _row(
                    (
                        target,
                        item["values"],
                        str(rows.num_rows),
                        _range(rows["loss"], ".8g"),
                        _range(rows["index"], "d") if known else "-",
                        f"{np.max(rows['grad_norm'].to_numpy()):.1e}",
                        f"{np.max(rows['dual_gap'].to_numpy()):.1e}",
                    )
                )
            )
    statuses = ", ".join(f"{c['values']} {c['counts']}" for c in table["status"].value_counts().to_pylist())
    return "\n".join([*lines, f"status: {statuses}; {table.num_rows} rows in all"])


def census_report(orbits: list[OrbitRow], summary: dict[str, Any], *, head: int = 20, tail: int = 10) -> str:
    """Return the table of orbits, of a long one the first and the last, and what is known of completeness."""
    cells = [list(OrbitRow._fields), *([f"{row.loss:.8f}", *map(str, row[1:])] for row in orbits)]
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
        says = {True: "passed", False: "VIOLATED", None: "not applicable, an orbit is degenerate"}
        line = f"d = {test['dim']}: Morse-Bott inequalities {says[test['passed']]}, Euler sum {test['euler']}"
        shown.append(line if test["passed"] else f"{line}, R = {test['remainder']}")
    return "\n".join(shown)


def _range(column: pa.ChunkedArray, form: str) -> str:
    low, high = pc.min_max(column).as_py().values()
    if low is None:
        return "not counted"
    same = format(low, form) == format(high, form)
    return format(low, form) if same else f"{low:{form}}..{high:{form}}"


def _row(cells: tuple[str, ...]) -> str:
    widths = (8, 15, 7, 24, 9, 11, 9)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
