"""The Python interface: sweeps, verdicts and pictures of any landscape, as records that print well."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float, Int

from ufm_jax.landscape import evidence
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.grid import Grid, as_grid, at_setting
from ufm_jax.landscape.landscape import Effort, Landscape
from ufm_jax.landscape.orbits import sorted_into, with_value
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import CriticalPoint, Newton, search
from ufm_jax.landscape.sound import check_landscape
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.numerics.checks import check_count, check_positive
from ufm_jax.numerics.flow import Trajectory, gradient_flow
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.report import figures, pictures
from ufm_jax.report.progress import Reporter
from ufm_jax.report.table import floats, verdict_table
from ufm_jax.runs import engine, merge, orbits, store
from ufm_jax.runs.folder import configuration
from ufm_jax.runs.orbits import Atlas
from ufm_jax.runs.plan import CensusPlan, Plan, SearchDtype, Spectra, Target
from ufm_jax.runs.recipe import config_of, grid_of
from ufm_jax.runs.table import points_in, settings_in
from ufm_jax.runs.work import work_on

CRITICAL = ("GLOBAL_MINIMUM", "LOCAL_MINIMUM", "STRICT_SADDLE", "DEGENERATE", "UNDECIDED")


@dataclass(frozen=True)
class Run:
    """A sweep: a row a start, setting and target, and where each search ended."""

    table: pa.Table  # the columns of a run's Parquet files
    plan: Plan = field(repr=False)
    grid: Grid | None = field(repr=False)  # None: of a folder whose landscape could not be made again
    points: Any = field(repr=False)  # as a point, each leaf with one entry a row; None: not kept
    setting: np.ndarray = field(repr=False)  # of each row
    starts: Any = field(repr=False, default=None)  # one's own

    @property
    def landscape(self) -> Landscape:
        """The landscape at its first setting.

        Raises:
            ValueError: if it could not be made from what the folder says.
        """
        return at_setting(self._made, 0)

    @property
    def _made(self) -> Grid:
        if self.grid is None:
            raise ValueError(
                "landscape: it could not be made again; give it, as ufm.load(DIR, landscape=...)"
            )
        return self.grid

    @cached_property
    def orbit(self) -> np.ndarray:
        """Line of `orbits` of each row, or -1 where a row is not critical.

        As `table` has it. Where nobody sorted the rows (`spectra` "needed", older folders): by the
        landscape's invariants, or where points were not kept by loss, index and nullity.
        """
        if "orbit" in self.table.column_names and self.plan.spectra == "all":
            return self.table["orbit"].fill_null(-1).to_numpy()
        loss, norms = (self.table[name].to_numpy() for name in ("loss", "grad_norm"))
        critical = np.isin(np.array(self.table["verdict"].to_pylist()), CRITICAL)
        number = np.full(len(loss), -1)
        for setting in np.unique(self.setting[critical]):
            rows = np.flatnonzero(critical & (self.setting == setting))
            rows = rows[np.argsort(norms[rows], kind="stable")]  # the best solved stands for its orbit
            found = sorted_into(self._invariants(rows, int(setting)), self._kinds(rows))
            number[rows] = number.max() + 1 + found
        return merge.in_order(number, loss, self.setting)

    def _kinds(self, rows: np.ndarray) -> Int[np.ndarray, " m"]:
        """Number what was counted of each row; -1 where nothing was."""
        columns = self.table.select(["index", "nullity"]).take(rows).columns
        index, nullity = (np.nan_to_num(floats(column), nan=-1) for column in columns)
        return np.where(
            (index < 0) | (nullity < 0), -1, index * (1 + nullity.max(initial=0)) + nullity
        ).astype(int)

    def _invariants(self, rows: np.ndarray, setting: int) -> Float[np.ndarray, "m F"]:
        if self.points is None or self.grid is None:
            few = self.table.select(["loss", "index", "nullity"]).take(rows)
            return np.nan_to_num(np.stack([floats(column) for column in few.columns], axis=1), nan=-1.0)
        fields = {name: values[setting] for name, values in self.grid.settings.items()}
        space = self.grid.landscape.space("points")
        return np.asarray(_invariants(space, fields, jax.tree.map(lambda a: a[rows], self.points)))

    @cached_property
    def orbits(self) -> pa.Table:
        """The distinct critical orbits of each setting, the lowest first: one row of `table` stands for each.

        That row is the one of least gradient; `hits` counts those that ended there, `row` is its number,
        `name` what the landscape calls it, if it has names and points were kept.
        """
        table = merge.listed(self.table, self.orbit, self.plan.columns)
        called = self._names(table["row"].to_numpy())
        return table.append_column("name", pa.array(called, pa.string())) if any(called) else table

    def _names(self, rows: np.ndarray) -> list[str]:
        """Return what the landscape calls the points of rows; nothing where they were not kept."""
        if self.points is None or self.grid is None:
            return [""] * len(rows)

        def name(row: int) -> str:
            here = at_setting(self._made, int(self.setting[row])).space("points")
            return here.name_of(here.lift(jax.tree.map(lambda a: jnp.asarray(a[row]), self.points)))

        return [name(int(row)) for row in rows]

    def point(self, row: int) -> CriticalPoint:
        """Return where the search of a row ended, in the full space; where it was not kept, search again.

        Raises:
            ValueError: naming `row`, if there is none of this number; as `landscape`.
        """
        if not 0 <= row < self.table.num_rows:
            raise ValueError(f"row: need 0 <= row < {self.table.num_rows}, got {row}")
        here = at_setting(self._made, int(self.setting[row]))
        if self.points is None:
            found = engine.search_again(
                self._made, self.plan, self.starts, int(self.setting[row]), self._start(row)
            )
        else:
            found = jax.tree.map(lambda a: a[row], self.points)
        x = here.lift(jax.tree.map(jnp.asarray, found))
        status = Status[self.table["status"][row].as_py()]
        steps = self.table["num_steps"][row].as_py()
        return CriticalPoint(x, here.evaluate(x).grad_norm, jnp.int32(status), jnp.int32(steps))

    def _start(self, row: int) -> tuple[int, Target]:
        target = self.table["target"][row].as_py()
        return self.table["start"][row].as_py(), int(target) if target.isdecimal() else target

    def plot(self, ax: Any = None) -> Any:
        """Draw index against value of the critical rows, on matplotlib axes or new ones; return the axes."""
        return figures.draw_index(figures.points(figures.critical(self.table)), figures.axes(ax))

    def __str__(self) -> str:
        name = "" if self.grid is None else f"{self.grid.landscape.name}: "
        found = self.orbits
        lines = [f"{name}{self.table.num_rows} searches", verdict_table(self.table), ""]
        lines.append(f"{found.num_rows} distinct critical orbits")
        alike = {name for name in self.plan.columns if len(set(found[name].to_pylist())) == 1}
        columns = [name for name in found.column_names if name not in alike | {"row", "lambda_min"}]
        rows = found.select(columns).slice(0, ORBITS_SHOWN).to_pylist()
        shown = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
        widths = [2 + max(map(len, column)) for column in zip(*shown, strict=True)]
        lines += ["".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in shown]
        if found.num_rows > ORBITS_SHOWN:
            lines.append(f"... and {found.num_rows - ORBITS_SHOWN} more in .orbits")
        return "\n".join(lines)

    __repr__ = __str__


ORBITS_SHOWN = 20


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)


def sweep(
    landscape: Landscape | Grid,
    *,
    starts: Any = 1000,
    target: Target = "minima",
    seed: int = 0,
    spectra: Spectra = "all",
    search_dtype: SearchDtype = "auto",
    out: Path | str | None = None,
    keep_points: bool = True,
    shard_size: int = 4096,
    repair: bool = False,
    progress: bool = False,
) -> Run:
    """Search from many starts, judge every end, and sort the critical points into orbits.

    `starts` is a number of random starts for each setting and target, or your own: as a point, each leaf with
    a leading axis. `target`: "minima" (descents), "saddles" (of any index), "both" (twice as many rows), or
    a number: saddles of that index. With spectra "needed" there are no eigenvalues where certificates decide,
    and no `orbit` in the table; else each orbit has one spectrum, which its rows share (`runs.by_orbit`).
    With `search_dtype` "float32" searches (not toward an index) begin in float32 and go on in float64, which
    pays where float64 is slow; "auto" does so on devices that have no float64.
    With `out` the run is a folder: the same call goes on with it, `ufm report` and `load` read it, and
    `shard_size` rows are a file.

    Raises:
        ValueError: naming the argument that is wrong; naming the leaf of `starts` whose shape or dtype is not
            the landscape's; naming `tangents`, if f changes along them; naming the landscape or a field, if
            a folder cannot say how to make it again; naming `out`, if it holds another run; if 64-bit
            floating point is off.
    """
    grid = as_grid(landscape)
    require_x64(grid.landscape)
    plan: dict[str, Any] = {"target": target, "seed": seed, "spectra": spectra, "shard_size": shard_size}
    plan["search_dtype"] = search_dtype
    if out is not None:
        config = config_of(grid, starts=starts, keep_points=keep_points, **plan)
        there = store.rows_there(config, Path(out), repair=repair)
        with Reporter(config.num_rows, "sweep", already=there) if progress else nullcontext() as reporter:
            store.run(config, Path(out), reporter, repair=repair)
        return _loaded(Path(out), config, grid)
    made, own = engine.in_memory(grid, starts, keep_points=keep_points, **plan)
    with Reporter(made.num_rows, "sweep", already=0) if progress else nullcontext() as reporter:
        ends = engine.all_ends(work_on(grid, made, own), made, reporter)
    return Run(ends.rows, made, grid, ends.points if keep_points else None, ends.setting, own)


def load(out: Path | str, *, landscape: Landscape | Grid | None = None) -> Run | Atlas:
    """Return the finished rows of the sweep, or the orbits of the census, in a folder.

    `landscape` is what it was of, where the folder cannot say it: its class may be gone.

    Raises:
        ValueError: naming `out`, if it holds no run, nothing finished, or what cannot be read or is not its
            own; of a census, if 64-bit floating point is off.
    """
    out = Path(out)
    config = configuration(out)
    if isinstance(config, CensusPlan):
        if isinstance(landscape, Grid):
            raise ValueError("landscape: a census is of one setting, got a grid")
        return orbits.atlas(config, out, landscape)
    grid = None if landscape is None else as_grid(landscape)
    if grid is None:
        with suppress(ValueError):  # what its name says may be gone: then `Run.point` asks for it
            grid = grid_of(config)
            store.check_probe(out, store.probe(grid))
    else:
        store.check_probe(out, store.probe(grid))
    return _loaded(out, config, grid)


def _loaded(out: Path, config: Plan, grid: Grid | None) -> Run:
    table = store.load(out)
    return Run(table, config, grid, points_in(table, grid), settings_in(table, config))


@jax.jit
def _invariants(landscape: Landscape, fields: dict[str, Array], points: Any) -> Float[Array, "m F"]:
    here = at_lane(landscape, fields)
    return jax.lax.map(lambda x: with_value(here, x, here.invariants(x)), points)


@dataclass(frozen=True)
class Judged:
    """A verdict on one point, and its evidence; what was not shown is None."""

    verdict: Verdict
    reason: Reason  # why UNDECIDED, else NONE
    loss: float
    grad_norm: float
    rel_grad_norm: float  # in units (`landscape.units`): what `grad_tol` bounds
    index: int | None  # negative eigenvalues of the Hessian
    nullity: int | None  # zero ones, those of the orbit among them
    orbit_dim: int | None  # dimension of the symmetry's orbit
    lambda_min: float | None  # lowest eigenvalue modulo the orbit
    bound: float | None  # on the global minimum
    gap: float | None  # loss − bound
    rel_gap: float | None  # in units: what `gap_tol` bounds
    curvature: float | None  # vᵀHv of `direction`
    measures: dict[str, float | None]  # the landscape's own
    direction: Any = field(repr=False)  # of unit length and lowest curvature, as the point; None: none tried

    def __str__(self) -> str:
        shown = {**vars(self), **self.measures}
        del shown["direction"], shown["measures"]
        shown["verdict"] = self.verdict.name
        shown["reason"] = None if self.reason == Reason.NONE else self.reason.name
        return "\n".join(f"{name:<14} {_cell(value)}" for name, value in shown.items())


def classify(
    landscape: Landscape,
    x: Any,
    *,
    effort: Effort = "spectrum",
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Judged:
    """Judge one point of a landscape: compiled once a shape.

    `grad_tol` and `gap_tol` are relative to the landscape's units: of f, to √(f s) and to f. With effort
    "certificate" or "escape" the Hessian's eigenvalues are not computed; see `evidence.examine`.

    Raises:
        ValueError: naming the leaf of x whose shape or dtype is not the landscape's, or that is not finite; a
            tolerance that is not a finite number above 0; 64-bit floating point, if it is off.
    """
    require_x64(landscape)
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    if effort not in get_args(Effort):
        raise ValueError(f"effort: need one of {get_args(Effort)}, got {effort!r}")
    x = landscape.check(x)
    check_finite(x)
    check_landscape(landscape)
    return judged_of(_examine(landscape, x, effort, grad_tol, gap_tol))


def judged_of(seen: evidence.Examined) -> Judged:
    """Return evidence as a record of plain numbers."""
    row = {name: np.asarray(value).item() for name, value in seen.evidence.columns().items()}
    counts = {name: None if row[name] == NOT_COUNTED else row[name] for name in ("index", "nullity")}
    spectrum = None if row["verdict"] == Verdict.NOT_CRITICAL else seen.spectrum
    return Judged(
        verdict=Verdict(row["verdict"]),
        reason=Reason(row["reason"]),
        loss=row["loss"],
        grad_norm=row["grad_norm"],
        rel_grad_norm=row["rel_grad_norm"],
        **counts,
        orbit_dim=None if spectrum is None else int(spectrum.orbit_dim),
        lambda_min=_finite(row["lambda_min"]),
        bound=_finite(row["dual_bound"]),
        gap=_finite(row["dual_gap"]),
        rel_gap=_finite(row["rel_dual_gap"]),
        curvature=_finite(row["negative_curvature"]),
        measures={name: _finite(row[name]) for name in seen.evidence.measures},
        direction=seen.direction,
    )


@partial(jax.jit, static_argnames=("effort", "grad_tol", "gap_tol"))
def _examine(landscape: Landscape, x: Any, effort: Effort, grad_tol: float, gap_tol: float) -> Any:
    return evidence.examine(landscape, x, effort, grad_tol=grad_tol, gap_tol=gap_tol)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


PASSED = 0.1  # of the size of an orbit's invariants: a flow so near it is beside it


class Flow(NamedTuple):
    """A gradient flow, and the critical point at its end."""

    path: Trajectory
    end: CriticalPoint

    def plot(self, ax: Any = None, *, atlas: Atlas | None = None) -> Any:
        """Draw f over time, on axes or new ones; with an atlas, which orbits it passes. Return the axes.

        On the atlas's graph (value against index) arrows lead from orbit to orbit that the flow comes near.
        """
        if atlas is None:
            times, values = (np.asarray(a) for a in (self.path.times, self.path.values))
            return pictures.draw_flow(times, values, figures.axes(ax))
        lines, apart = atlas.nearest(self.path.points)
        met = [line for line, far in zip(lines.tolist(), apart.tolist(), strict=True) if far <= PASSED]
        return pictures.draw_steps(
            figures.points(figures.critical(atlas.table)),
            [(atlas.rows[line].index, atlas.rows[line].loss) for line, _ in groupby(met)],
            figures.axes(ax),
        )

    def __repr__(self) -> str:
        first, last = self.path.values[0], self.path.values[-1]
        return f"Flow(loss {first:.8g} to {last:.8g} in {len(self.path.times)} points, end={self.end!r})"


def flow_from(
    landscape: Landscape,
    x: Any,
    *,
    sign: int = 1,
    displacement: float = 1e-3,
    horizon: float = 1e7,
    num_times: int = 100,
) -> Flow:
    """Leave a saddle along its direction of lowest curvature and follow the gradient flow down.

    The flow starts at x + `sign` `displacement` (1 + ‖x‖) v and is reported at `num_times` times up to
    `horizon`; where it ends, a descent polishes.

    Raises:
        ValueError: naming x, if no negative curvature is shown there; and as `classify`.
    """
    if sign not in (1, -1):
        raise ValueError(f"sign: need 1 or -1, got {sign!r}")
    check_positive(displacement=displacement, horizon=horizon)
    check_count(2, num_times=num_times)
    seen = classify(landscape, x)
    if seen.verdict != Verdict.STRICT_SADDLE:
        raise ValueError(f"x: need a strict saddle to flow down from, this is {seen.verdict.name}")
    step = sign * displacement * (1.0 + float(jnp.linalg.norm(ravel(x))))
    start = jax.tree.map(lambda a, v: a + step * v, landscape.check(x), seen.direction)
    times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(horizon * 1e-9, horizon, num_times - 1)])
    path = _flow(landscape, start, times)
    return Flow(path, search(landscape, jax.tree.map(lambda a: a[-1], path.points), Newton()))


@jax.jit
def _flow(landscape: Landscape, start: Any, times: Array) -> Trajectory:
    return gradient_flow(landscape.value, start, times, gtol=1e-8)
