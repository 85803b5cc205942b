"""A critical point followed while fields of its landscape change: x(t) with ∇f_t(x(t)) = 0, t from 0 to 1.

Euler's predictor ẋ = −H⁺ ∂_t∇f, with H⁺ on the complement of the orbit's tangents, and Levenberg–Marquardt
on ∇f as corrector (Allgower & Georg 2003). A step is taken if the tangent at its start points to its end and
the tangent at its end back to its start (`BEND`), else it is halved: where a branch ends on another, that one
passes the first test and not the second. A step that changes the index is taken only at about the least
length; a longer one may have fallen onto a neighbour.

What is shown: that a critical point is at each value recorded, with the verdict recorded there. That two
recorded points lie on one branch rests on the test of the steps, and is not proved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape import units as sizes
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.evidence import Evidence, examine, measured
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.flat import oracle, unravel
from ufm_jax.landscape.landscape import Landscape, sizes_of
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.sound import check_landscape
from ufm_jax.landscape.spectrum import DENSE_LIMIT, NOT_COUNTED, eigen
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.numerics.checks import check_count
from ufm_jax.numerics.derivatives import dense_matrix
from ufm_jax.numerics.descent import Solution
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

LONGEST = 1 / 16  # of t: a path has more points than this says
LEAST = 1e-6  # of t: what steps of this length cannot follow has ended
# How far, in lengths of a step, its end may be from where the tangent at either end points. Where a branch
# ends as the square root of the distance in t, steps are at most 0.45 of that distance.
BEND = 0.2
# Relative to 1 + ‖x‖: what both tests let pass. A branch that comes nearer than this to the one it ends on
# before its steps are `LEAST` goes on along it.
SOLVED = 1e-6
CORRECTIONS = 50  # steps of the corrector, which takes a few where it is of use
NULL_RTOL = 1e-9  # eigenvalues of H below this, relative, have no part in H⁺
ROWS_SHOWN = 20

Fields = dict[str, Any]


class Path(NamedTuple):
    """Fields that change together: by equal ratios where values stay positive, else by equal differences."""

    begin: Fields
    end: Fields

    def at(self, t: Float[Array, ""]) -> Fields:
        """Return the fields at a share of the way."""

        def one(a: Array, b: Array) -> Array:
            ratio = (a > 0) & (b > 0)
            first, last = jnp.where(ratio, a, 1.0), jnp.where(ratio, b, 1.0)
            return jnp.where(ratio, first ** (1.0 - t) * last**t, a + t * (b - a))

        return {name: jax.tree.map(one, a, self.end[name]) for name, a in self.begin.items()}


class IndexChange(NamedTuple):
    """The index was counted at two points of a path, not between them, and is not the same."""

    before: int
    after: int
    low: int  # numbers of the points
    high: int


@dataclass(frozen=True, eq=False)
class Followed:
    """A branch of critical points, one entry a step; the last is the end."""

    landscape: Landscape  # at the end
    reached: bool  # the values asked for; else the branch could not be followed beyond the last point
    fields: Fields  # their values, along the first axis
    points: Any = field(repr=False)  # as x, each leaf with a leading axis
    t: Float[np.ndarray, " m"] = field(repr=False)  # share of the way, by ratios where values are positive
    loss: Float[np.ndarray, " m"] = field(repr=False)
    grad_norm: Float[np.ndarray, " m"] = field(repr=False)
    verdict: Int[np.ndarray, " m"] = field(repr=False)  # codes of `Verdict`
    index: Int[np.ndarray, " m"] = field(repr=False)  # NOT_COUNTED where it was not shown; so `nullity`
    nullity: Int[np.ndarray, " m"] = field(repr=False)
    nearest_zero: Float[np.ndarray, " m"] = field(repr=False)  # eigenvalue modulo the orbit: where it may end

    def __len__(self) -> int:
        return len(self.t)

    @property
    def x(self) -> Any:
        """The end of the path."""
        return jax.tree.map(lambda a: jnp.asarray(a[-1]), self.points)

    @property
    def changes(self) -> list[IndexChange]:
        """Where the index changes."""
        counted = np.flatnonzero(self.index != NOT_COUNTED)
        return [
            IndexChange(int(self.index[i]), int(self.index[j]), int(i), int(j))
            for i, j in pairwise(counted)
            if self.index[i] != self.index[j]
        ]

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss, and the index by colour, along the path, on axes or new ones; return the axes."""
        from ufm_jax.report import figures, pictures

        name, values = next(iter(self._columns.items()), ("t", self.t))
        return pictures.draw_path(name, values, self.loss, self.index, figures.axes(ax))

    @property
    def _columns(self) -> dict[str, np.ndarray]:
        """The fields that are single numbers."""
        return {name: np.asarray(a) for name, a in self.fields.items() if np.ndim(a) == 1}

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {a[0]:.6g} -> {a[-1]:.6g}" for name, a in self._columns.items())
        how = "reached" if self.reached else "NOT reached"
        return f"Followed({self.landscape.name}: {said or ', '.join(self.fields)}, {how}, {len(self)} points)"

    def __str__(self) -> str:
        columns = {**(self._columns or {"t": self.t}), "loss": self.loss}
        names = [*columns, "verdict", "index", "nullity"]
        lines = [repr(self)[len("Followed(") : -1], "".join(f"{name:>17}" for name in names)]
        even = np.linspace(0, len(self) - 1, min(len(self), ROWS_SHOWN)).round().astype(int)
        beside = [number for change in self.changes for number in (change.low, change.high)]
        for i in sorted({*even.tolist(), *beside}):
            counts = ["-" if n[i] == NOT_COUNTED else str(n[i]) for n in (self.index, self.nullity)]
            cells = [*(f"{a[i]:.8g}" for a in columns.values()), Verdict(int(self.verdict[i])).name, *counts]
            lines.append("".join(f"{cell:>17}" for cell in cells))
        if not self.reached:
            lines.append(f"no step further; eigenvalue nearest to zero there {self.nearest_zero[-1]:.2e}")
        return "\n".join(lines)


def follow(landscape: Landscape, x: Any, /, *, max_steps: int = 1000, **fields: Any) -> Followed:
    """Follow a critical point while fields of its landscape go from their values to those given.

    `follow(landscape, x, decay=1e-3)`: values that stay positive change by equal ratios, others by equal
    differences. At most `max_steps` steps are tried. Points are judged in the landscape itself.

    Raises:
        ValueError: naming the field that the landscape lacks, that is static, or whose value does not have
            the shape of its own; naming x, if it does not fit or is no critical point; `landscape`, if it has
            too many variables; if 64-bit floating point is off.
    """
    require_x64(landscape)
    check_count(max_steps=max_steps)
    path = _path(landscape, fields)
    x = landscape.check(x)
    check_finite(x)
    check_landscape(landscape)
    units, slope = measured(landscape, landscape.evaluate(x))
    if not (norm := float(slope / units.gradient)) <= sizes.GRAD_TOL:
        raise ValueError(
            f"x: need a critical point, the norm of its gradient is {norm:.1e} in units, above "
            f"{sizes.GRAD_TOL:g}; ufm.search(landscape, x), or with ufm.LevenbergMarquardt(), may find one"
        )
    space, start, back = landscape.space_at(x)
    if space.num_variables > DENSE_LIMIT:
        raise ValueError(f"landscape: need at most {DENSE_LIMIT} variables, got {space.num_variables}")
    times, held = walk(space, path, ravel(start), max_steps=max_steps)
    return _judged(landscape, path, times, held, lambda y: back(unravel(space, y)))


def _path(landscape: Landscape, fields: Fields) -> Path:
    leaves = landscape.leaf_names()
    if not fields:
        raise ValueError(f"fields: give a value to go to, of one of {', '.join(leaves) or 'none'}")
    begin, end = {}, {}
    for name, value in fields.items():
        if name not in leaves:
            raise ValueError(
                f"{name}: {landscape.name} has no such leaf; it has {', '.join(leaves) or 'none'}"
            )
        begin[name] = getattr(landscape, name)
        end[name] = jax.tree.map(partial(_checked, name), begin[name], value)
    return Path(begin, end)


def _checked(name: str, like: Array, value: Any) -> Array:
    try:
        array = np.asarray(value, dtype=like.dtype)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: need numbers, got {value!r}") from None
    if array.shape != like.shape or not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: need finite numbers of shape {like.shape}, got {value!r}")
    return jnp.asarray(array)


class Here(NamedTuple):
    """A point of a branch."""

    x: Float[Array, " D"]
    slope: Float[Array, " D"]  # ẋ
    negative: Int[Array, ""]  # eigenvalues, modulo the orbit
    nearest_zero: Float[Array, ""]


def _here(space: Landscape, path: Path, t: Float[Array, ""], x: Float[Array, " D"]) -> Here:
    here = at_lane(space, path.at(t))
    point = here.evaluate(unravel(here, x))
    project = here.orbit(point).project
    flat = lambda apply: dense_matrix(lambda v: ravel(apply(unravel(here, v))), x)
    values, vectors, _ = eigen(flat(point.hv), flat(project))
    size = jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0)
    zero = NULL_RTOL * jnp.max(size)
    gradient = lambda t: ravel(jax.grad(at_lane(space, path.at(t)).value)(point.x))
    _, push = jax.jvp(gradient, (t,), (jnp.ones_like(t),))
    inverse = jnp.where(size > zero, 1.0 / jnp.where(size > zero, values, 1.0), 0.0)
    nearest = values[jnp.argmin(jnp.abs(values))]
    negative = jnp.sum(values < -zero).astype(jnp.int32)
    return Here(x, -(vectors @ (inverse * (vectors.T @ push))), negative, nearest)


def _corrected(landscape: Landscape, x: Float[Array, " D"], max_steps: int = 300) -> Solution:
    unit = lambda value: sizes_of(landscape, value).gradient
    return levenberg_marquardt(oracle(landscape), x, gtol=sizes.SOLVED, max_steps=max_steps, unit=unit)


@jax.jit
def _begin(space: Landscape, path: Path, x: Float[Array, " D"]) -> tuple[Here, Bool[Array, ""]]:
    t = jnp.zeros((), x.dtype)
    found = _corrected(at_lane(space, path.at(t)), x)
    return _here(space, path, t, found.x), found.status == Status.CONVERGED


@jax.jit
def _step(
    space: Landscape,
    path: Path,
    here: Here,
    t: Float[Array, ""],
    aim: Float[Array, ""],
) -> tuple[Here, Bool[Array, ""]]:
    """Predict and correct from t to `aim`; return the point there and whether the step is to be taken."""
    length = aim - t
    predicted = here.x + length * here.slope
    there = at_lane(space, path.at(aim))
    found = _corrected(there, predicted, CORRECTIONS)
    new = _here(space, path, aim, found.x)
    along = there.orbit(there.evaluate(unravel(there, found.x))).project

    def off(v: Float[Array, " D"]) -> Float[Array, ""]:
        return jnp.linalg.norm(v - ravel(along(unravel(there, v))))

    slower = jnp.minimum(jnp.linalg.norm(here.slope), jnp.linalg.norm(new.slope))
    room = BEND * length * slower + SOLVED * (1.0 + jnp.linalg.norm(found.x))
    ahead, behind = off(new.x - predicted), off(new.x - length * new.slope - here.x)
    same = (new.negative == here.negative) | (length <= 2 * LEAST)
    return new, (found.status == Status.CONVERGED) & (ahead <= room) & (behind <= room) & same


def walk(
    space: Landscape,
    path: Path,
    x: Float[Array, " D"],
    *,
    stops: Sequence[float] = (1.0,),
    max_steps: int = 1000,
) -> tuple[list[float], list[Here]]:
    """Follow a critical point from t = 0; return t and points of the accepted steps, the start among them.

    Steps end at every one of `stops`, which ascend, and the walk at the last: the last t is that, or where
    the branch could not be followed any further.

    Raises:
        ValueError: naming x, if there is no critical point at t = 0.
    """
    here, solved = _begin(space, path, x)
    if not solved:
        raise ValueError("x: no critical point was met from there; search from it first")
    times, held, step, ahead = [0.0], [here], LONGEST, [stop for stop in stops if stop > 0.0]
    for _ in range(max_steps):
        if not ahead or step < LEAST:
            break
        aim = ahead[0] if times[-1] + step * (1 + 1e-9) >= ahead[0] else times[-1] + step
        new, good = _step(space, path, held[-1], *(jnp.asarray(a, x.dtype) for a in (times[-1], aim)))
        step = min(2 * step, LONGEST) if good else (aim - times[-1]) / 2
        if good:
            times.append(aim)
            held.append(new)
            ahead = [stop for stop in ahead if stop > aim]
    return times, held


def _judged(
    landscape: Landscape,
    path: Path,
    times: list[float],
    held: list[Here],
    lift: Callable[[Float[Array, " D"]], Any],
) -> Followed:
    fields = [path.at(jnp.asarray(t, here.x.dtype)) for t, here in zip(times, held, strict=True)]
    points = [lift(here.x) for here in held]
    rows = [_examine(landscape, *one) for one in zip(fields, points, strict=True)]
    stacked = lambda trees: jax.tree.map(lambda *a: np.stack([np.asarray(b) for b in a]), *trees)
    seen = stacked(rows)
    return Followed(
        landscape=at_lane(landscape, fields[-1]),
        reached=times[-1] == 1.0,
        fields=stacked(fields),
        points=stacked(points),
        t=np.array(times),
        loss=seen.loss,
        grad_norm=seen.grad_norm,
        verdict=seen.verdict,
        index=seen.index,
        nullity=seen.nullity,
        nearest_zero=np.array([float(here.nearest_zero) for here in held]),
    )


@jax.jit
def _examine(landscape: Landscape, fields: Fields, x: Any) -> Evidence:
    return examine(at_lane(landscape, fields), x).evidence
