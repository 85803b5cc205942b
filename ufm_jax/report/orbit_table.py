"""The table of distinct orbits that a page begins with: what was found, and what it looks like."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from ufm_jax.landscape.grid import Grid, at_setting
from ufm_jax.landscape.units import LEVEL_TOL
from ufm_jax.report import svg
from ufm_jax.report.figures import critical
from ufm_jax.report.markup import paragraph, table
from ufm_jax.report.parts import precise
from ufm_jax.report.table import floats, setting_names
from ufm_jax.report.terms import heads
from ufm_jax.runs.engine import search_again
from ufm_jax.runs.plan import LandscapeConfig, SweepConfig
from ufm_jax.runs.recipe import grid_of
from ufm_jax.runs.table import points_in, settings_in

FIRST = ("loss", "name", "index", "hits", "verdict")
SHOWN = 200  # orbits
PICTURED = 60  # of them with a picture: 400 squares are 20 kB
AGAIN = 60  # orbits, at most, that are searched for again: a second, after seconds of compilation
NONE: Sequence[Any] = ()
ALIKE = 9  # decimals of loss by which rows are told apart where nobody sorted them into orbits


def orbit_table(caption: str, orbits: Sequence[dict[str, Any]], pictures: Sequence[Any] = NONE) -> str:
    """Return a table of orbits, each a dictionary of the same names; `pictures` of the first, or None."""
    shown = orbits[:SHOWN]
    known = [name for name in orbits[0] if any(row[name] not in (None, "") for row in orbits)]
    names = [*(n for n in FIRST if n in known), *(n for n in known if n not in FIRST)]
    drawn = [_drawn(line, matrix) for line, matrix in enumerate(pictures)]
    drawn += [""] * (len(shown) - len(drawn))
    looks = any(drawn)
    cells = [
        [line, *(precise(row[n]) if n == "loss" else row[n] for n in names), *([look] if looks else [])]
        for line, (row, look) in enumerate(zip(shown, drawn, strict=False))
    ]
    made = table(caption, heads(["orbit", *names, *(["logits"] if looks else [])]), cells)
    more = len(orbits) - len(shown)
    return made + (paragraph(f"{more} more are not shown.") if more else "")


def sweep_orbits(
    config: SweepConfig | LandscapeConfig, rows: pa.Table
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return the distinct critical orbits of a sweep's rows, and pictures of the first.

    The best solved row stands for each. Names and pictures are there where the landscape can be made again
    and has them. Points that were not kept are searched for again, if they are few, and used where that ends
    at the same value.
    """
    found = critical(rows.append_column("row", pa.array(np.arange(rows.num_rows))))
    names = [name for name in setting_names(rows) if len(found[name].unique()) > 1]
    sorted_here = "orbit" in rows.column_names and not found["orbit"].null_count
    keys = [found["orbit"].to_pylist()] if sorted_here else [np.round(floats(found["loss"]), ALIKE).tolist()]
    keys += [] if sorted_here else [found[name].to_pylist() for name in ("index", "nullity", *names)]
    groups: dict[Any, list[int]] = {}
    for place, key in enumerate(zip(*keys, strict=True)):
        groups.setdefault(key, []).append(place)
    slope, loss = floats(found["grad_norm"]), floats(found["loss"])
    best = {key: min(places, key=lambda place: slope[place]) for key, places in groups.items()}
    ordered = sorted(groups, key=lambda key: loss[best[key]])
    columns = ("loss", "index", "nullity", "verdict", *names, "row")
    chosen = pa.array([best[key] for key in ordered], pa.int64())
    held = found.select(columns).take(chosen).to_pylist()
    points = _Points(config, rows, again=len(held) <= AGAIN) if held else None
    orbits, pictures = [], []
    for number, (row, key) in enumerate(zip(held, ordered, strict=True)):
        name, matrix = points.at(row.pop("row")) if points and number < SHOWN else ("", None)
        orbits.append({**row, "hits": len(groups[key]), "name": name})
        pictures += [matrix] if number < PICTURED else []
    return orbits, pictures


class _Points:
    """Where the rows of a sweep ended, if that was kept and what it was of can be made again."""

    def __init__(self, config: SweepConfig | LandscapeConfig, rows: pa.Table, *, again: bool) -> None:
        self.points: Any = None
        self.rows, self.config, self.again = rows, config, False
        try:
            self.grid: Grid = grid_of(config)
            self.points = points_in(rows, self.grid)
        except ValueError:  # its class may be gone: the numbers are there all the same
            return
        self.setting = settings_in(rows, config)
        first = at_setting(self.grid, 0).space("points")
        pictured = first.picture(first.zeros()) if again and self.points is None else None
        self.again = pictured is not None and pictured.size <= svg.CELLS

    def at(self, row: int) -> tuple[str, Any]:
        """Return the name and the picture of a row's point: nothing, where they are not known."""
        if self.points is None and not self.again:
            return "", None
        setting = int(self.setting[row])
        space = at_setting(self.grid, setting).space("points")
        if self.points is None:
            start, target = (self.rows[name][row].as_py() for name in ("start", "target"))
            which = (start, int(target) if target.isdecimal() else target)
            found = jax.tree.map(jnp.asarray, search_again(self.grid, self.config, None, setting, which))
        else:
            found = jax.tree.map(lambda a: jnp.asarray(a[row]), self.points)
        x, told = space.lift(found), self.rows["loss"][row].as_py()
        if self.points is None and abs(float(space.value(x)) - told) > LEVEL_TOL * max(1.0, abs(told)):
            return "", None  # another version or device searched here
        return space.name_of(x), space.picture(x)


def _drawn(line: int, matrix: Any) -> str:
    if matrix is None or matrix.size > svg.CELLS:
        return ""
    return svg.matrix(matrix, f"logits of orbit {line}", cell=6)
