"""The Python interface: sweeps, verdicts and pictures of any landscape, as records that print well."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float

from ufm_jax.landscape import evidence
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.grid import Grid, as_grid, at_setting, num_settings
from ufm_jax.landscape.landscape import Effort, Landscape, at_lane
from ufm_jax.landscape.orbits import sorted_into
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import CriticalPoint, Newton, search
from ufm_jax.landscape.sound import check_landscape
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import GAP_TOL, GRAD_TOL, Reason, Verdict
from ufm_jax.numerics.checks import check_count, check_positive
from ufm_jax.numerics.flow import Trajectory, gradient_flow
from ufm_jax.precision import require_x64
from ufm_jax.report.table import verdict_table
from ufm_jax.runs import engine
from ufm_jax.runs.plan import Spectra, Target

CRITICAL = ("GLOBAL_MINIMUM", "LOCAL_MINIMUM", "STRICT_SADDLE", "DEGENERATE", "UNDECIDED")


@dataclass(frozen=True)
class Run:
    """A sweep: a row a start, setting and target, and where each search ended."""

    landscape: Landscape
    table: pa.Table  # the columns of a run's Parquet files
    points: Any = field(repr=False)  # as a point, each leaf with a leading axis: one entry a row
    grid: Grid = field(repr=False)
    setting: np.ndarray = field(repr=False)  # of each row
    orbit: np.ndarray = field(repr=False)  # line of `orbits` of each row, or -1: not critical

    @property
    def orbits(self) -> pa.Table:
        """The distinct critical orbits of each setting, the lowest first: one row of `table` stands for each.

        That row is the one of least gradient; `hits` counts those that ended there, `row` is its number.
        """
        rows = []
        norms = self.table["grad_norm"].to_numpy()
        for line in range(self.orbit.max(initial=-1) + 1):
            members = np.flatnonzero(self.orbit == line)
            best = int(members[np.argmin(norms[members])])
            rows.append(
                {
                    **{name: self.table[name][best].as_py() for name in self._orbit_columns},
                    "hits": len(members),
                    "row": best,
                }
            )
        names = [*self._orbit_columns, "hits", "row"]
        return pa.table({name: [row[name] for row in rows] for name in names})

    @property
    def _orbit_columns(self) -> list[str]:
        return ["loss", "verdict", "index", "nullity", "lambda_min", *self.grid.columns]

    def point(self, row: int) -> CriticalPoint:
        """Return where the search of a row ended, in the full space, measured there.

        Raises:
            ValueError: naming `row`, if there is none of this number.
        """
        if not 0 <= row < self.table.num_rows:
            raise ValueError(f"row: need 0 <= row < {self.table.num_rows}, got {row}")
        here = at_setting(self.grid, int(self.setting[row]))
        x = here.lift(jax.tree.map(lambda a: jnp.asarray(a[row]), self.points))
        status = engine.Status[self.table["status"][row].as_py()]
        steps = self.table["num_steps"][row].as_py()
        return CriticalPoint(x, here.evaluate(x).grad_norm, jnp.int32(status), jnp.int32(steps))

    def plot(self) -> Any:
        """Draw index against value of the distinct critical orbits; return a matplotlib figure."""
        from ufm_jax.report import figures

        return figures.draw_index(figures.points(figures.critical(self.table)))

    def __str__(self) -> str:
        lines = [f"{self.landscape.name}: {self.table.num_rows} searches", verdict_table(self.table), ""]
        found = self.orbits
        lines.append(f"{found.num_rows} distinct critical orbits")
        columns = [name for name in found.column_names if name not in ("row", "lambda_min")]
        lines.append("".join(f"{name:>17}" for name in columns))
        for line in found.select(columns).slice(0, ORBITS_SHOWN).to_pylist():
            lines.append("".join(f"{_cell(line[name]):>17}" for name in columns))
        if found.num_rows > ORBITS_SHOWN:
            lines.append(f"... and {found.num_rows - ORBITS_SHOWN} more in .orbits")
        return "\n".join(lines)


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
    progress: bool = False,
) -> Run:
    """Search from many starts, judge every end, and sort the critical points into orbits.

    `starts` is a number of random starts for each setting and target, or your own: as a point, each leaf with
    a leading axis. `target`: "minima" (descents), "saddles" (of any index), "both" (twice as many rows), or
    a number: saddles of that index. With spectra "needed" there are no eigenvalues where certificates decide.

    Raises:
        ValueError: naming the argument that is wrong; naming the leaf of `starts` whose shape or dtype is not
            the landscape's; naming `tangents`, if f changes along them; if 64-bit floating point is off.
    """
    grid = as_grid(landscape)
    require_x64(grid.landscape)
    plan: dict[str, Any] = {"target": target, "seed": seed, "spectra": spectra}
    if progress:
        from ufm_jax.report.progress import Reporter

        count = starts if isinstance(starts, int) else len(jax.tree.leaves(starts)[0])
        rows = count * num_settings(grid) * (2 if target == "both" else 1)
        with Reporter(rows, "sweep", already=0) as reporter:
            ends = engine.in_memory(grid, starts, reporter, **plan)
    else:
        ends = engine.in_memory(grid, starts, **plan)
    return Run(grid.landscape, ends.rows, ends.points, grid, ends.setting, _orbits(grid, ends))


def _orbits(grid: Grid, ends: engine.Ends) -> np.ndarray:
    """Number the orbits of critical rows, setting by setting, the lowest first; -1 elsewhere."""
    loss, norms = ends.rows["loss"].to_numpy(), ends.rows["grad_norm"].to_numpy()
    critical = np.isin(ends.rows["verdict"].to_numpy(zero_copy_only=False), CRITICAL)
    space = grid.landscape.space("points")
    number = np.full(len(loss), -1)
    first = 0
    for setting in range(num_settings(grid)):
        rows = np.flatnonzero(critical & (ends.setting == setting))
        if not len(rows):
            continue
        rows = rows[np.argsort(norms[rows], kind="stable")]  # the best solved stands for its orbit
        fields = {name: values[setting] for name, values in grid.settings.items()}
        points = jax.tree.map(lambda a, rows=rows: a[rows], ends.points)
        found = sorted_into(np.asarray(_invariants(space, fields, points)))
        lowest = [loss[rows[found == orbit]].min() for orbit in range(found.max() + 1)]
        place = np.argsort(np.argsort(lowest, kind="stable"), kind="stable")
        number[rows] = first + place[found]
        first += len(lowest)
    return number


@jax.jit
def _invariants(landscape: Landscape, fields: dict[str, Array], points: Any) -> Float[Array, "m F"]:
    here = at_lane(landscape, fields)
    return jax.lax.map(lambda x: here.invariants(x), points)


@dataclass(frozen=True)
class Judged:
    """A verdict on one point, and its evidence; what was not shown is None."""

    verdict: Verdict
    reason: Reason  # why UNDECIDED, else NONE
    loss: float
    grad_norm: float
    index: int | None  # negative eigenvalues of the Hessian
    nullity: int | None  # zero ones, those of the orbit among them
    orbit_dim: int | None  # dimension of the symmetry's orbit
    lambda_min: float | None  # lowest eigenvalue modulo the orbit
    bound: float | None  # on the global minimum
    gap: float | None  # loss − bound
    curvature: float | None  # vᵀHv of `direction`
    measures: dict[str, float | None]  # the landscape's own
    direction: Any = field(repr=False)  # of unit length and lowest curvature, as the point; None: none tried

    def __str__(self) -> str:
        shown = {**vars(self), **self.measures}
        del shown["direction"], shown["measures"]
        shown["verdict"] = self.verdict.name
        shown["reason"] = None if self.reason == Reason.NONE else self.reason.name
        return "\n".join(f"{name:<12} {_cell(value)}" for name, value in shown.items())


def classify(
    landscape: Landscape,
    x: Any,
    *,
    effort: Effort = "spectrum",
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Judged:
    """Judge one point of a landscape: compiled once a shape.

    With effort "certificate" or "escape" the Hessian's eigenvalues are not computed; see `evidence.examine`.

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
        **counts,
        orbit_dim=None if spectrum is None else int(spectrum.orbit_dim),
        lambda_min=_finite(row["lambda_min"]),
        bound=_finite(row["dual_bound"]),
        gap=_finite(row["dual_gap"]),
        curvature=_finite(row["negative_curvature"]),
        measures={name: _finite(row[name]) for name in seen.evidence.measures},
        direction=seen.direction,
    )


@partial(jax.jit, static_argnames=("effort", "grad_tol", "gap_tol"))
def _examine(landscape: Landscape, x: Any, effort: Effort, grad_tol: float, gap_tol: float) -> Any:
    return evidence.examine(landscape, x, effort, grad_tol=grad_tol, gap_tol=gap_tol)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


class Flow(NamedTuple):
    """A gradient flow, and the critical point at its end."""

    path: Trajectory
    end: CriticalPoint


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


@dataclass(frozen=True)
class Slice:
    """f on a plane through a point: `values[i, j]` at x + first[i] u + second[j] v."""

    first: Float[np.ndarray, " m"]
    second: Float[np.ndarray, " n"]
    values: Float[np.ndarray, "m n"] = field(repr=False)

    def plot(self) -> Any:
        """Draw level lines; return a matplotlib figure."""
        from ufm_jax.report import figures

        return figures.draw_slice(self.first, self.second, self.values)


def slice(
    landscape: Landscape, x: Any, u: Any, v: Any, *, radius: float = 1.0, num_points: int = 61
) -> Slice:
    """Evaluate f on the plane through x along two directions, `num_points` each from -`radius` to `radius`.

    Raises:
        ValueError: naming the leaf of x, u or v whose shape or dtype is not the landscape's; `radius` or
            `num_points`.
    """
    check_positive(radius=radius)
    check_count(2, num_points=num_points)
    x, u, v = (landscape.check(a) for a in (x, u, v))
    steps = np.linspace(-radius, radius, num_points)
    return Slice(steps, steps, np.asarray(_plane(landscape, x, u, v, steps)))


@jax.jit
def _plane(landscape: Landscape, x: Any, u: Any, v: Any, steps: Array) -> Float[Array, "m n"]:
    def value(a: Array, b: Array) -> Array:
        return landscape.value(jax.tree.map(lambda x, u, v: x + a * u + b * v, x, u, v))

    return jax.lax.map(lambda a: jax.vmap(lambda b: value(a, b))(steps), steps)
