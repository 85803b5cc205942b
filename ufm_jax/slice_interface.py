"""Pictures around a point: f on lines and planes, orbits as the valleys they are, the Hessian's spectrum."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ufm_jax.landscape.flat import as_rows, hessian, unravel
from ufm_jax.landscape.landscape import Landscape, check_is_landscape
from ufm_jax.landscape.orbit import TANGENT_TOL
from ufm_jax.landscape.point import ravel
from ufm_jax.numerics.checks import check_count, check_positive
from ufm_jax.precision import require_x64
from ufm_jax.report import figures, pictures

IN_PLANE = 1e-2  # of the radius: an orbit so near the plane is drawn in it
CURVE = 400  # steps of an orbit's curve, each 1/200 of the radius long at most
ALIGNING = 30  # steps toward the nearest point of an orbit; each leaves the square of the angle
SUBSTEPS = 64  # of a quarter of a radian at most: each is off by (1/256)^5/120, 1e-14
LISTED = 10**7  # entries of all tangents, up to which they are looked at
# Eigenvalues below this, relative to the largest, are drawn as zero: a dense solve rounds to 1e-15 of it.
ZERO = 1e-10


@dataclass(frozen=True)
class Slice:
    """f on a line or a plane: `values[i, j]` at x + first[i] u + second[j] v, on a line `values[i]`.

    `orbits` are curves on the plane, pairs of coordinates, along which the symmetry moves x (and `to`).
    """

    first: Float[np.ndarray, " m"]
    second: Float[np.ndarray, " n"] | None
    values: Float[np.ndarray, "m *n"] = field(repr=False)
    orbits: list[Float[np.ndarray, "k 2"]] = field(default_factory=list, repr=False)
    to: bool = False  # the second point is at u

    def plot(self, ax: Any = None) -> Any:
        """Draw f, or its level lines, on matplotlib axes or new ones; return the axes."""
        ax, ends = figures.axes(ax), [(0.0, "o"), *([(1.0, "s")] if self.to else [])]
        if self.second is None:
            return pictures.draw_line(self.first, self.values, ax, ends)
        marks = [(x, 0.0, marker) for x, marker in ends]
        return pictures.draw_slice(self.first, self.second, self.values, ax, self.orbits, marks)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the Hessian at a point, ascending, each as often as it occurs."""

    values: Float[np.ndarray, " D"] = field(repr=False)

    @property
    def zero(self) -> float:
        """What is drawn as zero: `ZERO` of the largest."""
        return ZERO * float(np.abs(self.values).max(initial=0.0))

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues, on matplotlib axes or new ones; return the axes."""
        return pictures.draw_spectrum(self.values, self.zero, figures.axes(ax))

    def __repr__(self) -> str:
        counts = (int(np.sum(self.values < -self.zero)), int(np.sum(np.abs(self.values) <= self.zero)))
        return f"Spectrum({len(self.values)} eigenvalues, {counts[0]} negative, {counts[1]} zero)"


def spectrum(landscape: Landscape, x: Any) -> Spectrum:
    """Return all eigenvalues of the Hessian at a point: a dense solve, of a few thousand variables at most.

    Raises:
        ValueError: naming the leaf of x whose shape or dtype is not the landscape's; if 64-bit floating point
            is off.
    """
    require_x64(landscape)
    return Spectrum(np.linalg.eigvalsh(np.asarray(hessian(landscape, x))))


def slice(
    landscape: Landscape,
    x: Any,
    u: Any = None,
    v: Any = None,
    *,
    to: Any = None,
    radius: float = 1.0,
    num_points: int = 61,
) -> Slice:
    """Evaluate f on the line x + a u, or on the plane x + a u + b v, `num_points` each from -`radius` to it.

    A direction is a point of the landscape; a number: that eigenvector of the Hessian at x, 0 of the lowest
    eigenvalue; "orbit": where the symmetry moves x farthest; or "bend": where that motion bends, so that the
    plane of "orbit" and "bend" holds a circle of a rotation. Those are of unit length. With `to`, a second
    point, u leads there, after the symmetry has brought it as near as it goes: it is at a = 1, and a runs
    from −0.25 to 1.25. Where an orbit stays on the plane, its curve is in `orbits`.

    Raises:
        ValueError: naming the landscape, if it is none; the leaf of a point or direction whose shape or dtype
            is not the landscape's; u or v, if it is no direction; `radius` or `num_points`.
    """
    check_is_landscape(landscape)
    check_positive(radius=radius)
    check_count(2, num_points=num_points)
    if (u is None) == (to is None):
        raise ValueError("u: need a direction, or `to`, and not both")
    x = landscape.check(x)
    steps = np.linspace(-radius, radius, num_points)
    first, ends = steps, [ravel(x)]
    if to is not None:
        ends.append(_aligned(landscape, ravel(landscape.check(to)), ends[0]))
        first = np.linspace(-0.25, 1.25, num_points)
    along = ends[1] - ends[0] if to is not None else _direction(landscape, x, "u", u)
    across = None if v is None else _direction(landscape, x, "v", v)
    back = lambda a: unravel(landscape, a)
    if across is None:
        values = np.asarray(_line(landscape, x, back(along), first))
        return Slice(first, None, values, to=to is not None)
    values = np.asarray(_plane(landscape, x, back(along), back(across), first, steps))
    plane = np.stack([np.asarray(along), np.asarray(across)])
    curves = [_curve(landscape, end, ends[0], plane, radius) for end in ends] if _listed(landscape) else []
    return Slice(first, steps, values, [curve for curve in curves if curve is not None], to is not None)


def _direction(landscape: Landscape, x: Any, name: str, told: Any) -> Float[Array, " D"]:
    """Return a direction as a vector, from what the user says of it."""
    if isinstance(told, int):
        vectors = np.linalg.eigh(np.asarray(hessian(landscape, x)))[1]
        if not -vectors.shape[1] <= told < vectors.shape[1]:
            raise ValueError(f"{name}: there are {vectors.shape[1]} eigenvectors, got number {told}")
        return jnp.asarray(vectors[:, told])
    if isinstance(told, str):
        if told not in ("orbit", "bend"):
            raise ValueError(f'{name}: need a direction, a number, "orbit" or "bend", got {told!r}')
        flat = ravel(x)
        rows = _tangents(landscape, flat) if _listed(landscape) else jnp.zeros((0, flat.size))
        norms = np.linalg.norm(np.asarray(rows), axis=1)
        if not norms.max(initial=0.0) > TANGENT_TOL * (1.0 + float(jnp.linalg.norm(flat))):
            raise ValueError(f"{name}: no symmetry that the landscape lists moves this point")
        turn = jnp.zeros(len(norms)).at[int(norms.argmax())].set(1.0)
        moved, bent = jax.jvp(lambda y: turn @ _tangents(landscape, y), (flat,), (turn @ rows,))
        if told == "bend":
            bent = bent - moved * (moved @ bent) / (moved @ moved)
        chosen = moved if told == "orbit" else bent
        return chosen / jnp.linalg.norm(chosen)
    return ravel(landscape.check(told))


def _listed(landscape: Landscape) -> bool:
    """Say whether the landscape lists directions of its symmetry, and not too many to look at."""
    rows = jax.eval_shape(lambda: _tangents(landscape, ravel(landscape.zeros())))
    return 0 < rows.size <= LISTED


def _tangents(landscape: Landscape, x: Float[Array, " D"]) -> Float[Array, "m D"]:
    return as_rows(landscape.tangents(ravel_pytree(landscape.zeros())[1](x)))


@jax.jit
def _carried(
    landscape: Landscape, x: Float[Array, " D"], turn: Float[Array, " m"], step: Float[Array, ""]
) -> Float[Array, " D"]:
    """Move x along a combination of the symmetry's directions, by small steps of Runge and Kutta's method."""
    f, h = lambda y: turn @ _tangents(landscape, y), step / SUBSTEPS

    def one(_: Any, y: Float[Array, " D"]) -> Float[Array, " D"]:
        a = f(y)
        b = f(y + h / 2 * a)
        c = f(y + h / 2 * b)
        return y + h / 6 * (a + 2 * b + 2 * c + f(y + h * c))

    return jax.lax.fori_loop(0, SUBSTEPS, one, x)


def _aligned(landscape: Landscape, y: Float[Array, " D"], x: Float[Array, " D"]) -> Float[Array, " D"]:
    """Return the point of y's orbit that is nearest to x, by Gauss–Newton steps along it: nearest near y."""
    if not _listed(landscape):
        return y
    for _ in range(ALIGNING):
        turn = jnp.linalg.lstsq(_tangents(landscape, y).T, x - y)[0]
        turn = turn / jnp.maximum(1.0, 4.0 * jnp.linalg.norm(turn))  # a quarter of a radian at most
        y = _carried(landscape, y, turn, jnp.asarray(1.0))
    return y


def _curve(
    landscape: Landscape, x: Float[Array, " D"], origin: Float[Array, " D"], plane: np.ndarray, radius: float
) -> Float[np.ndarray, "k 2"] | None:
    """Return where the orbit through x lies on the plane, as long as it stays there; None: it leaves."""
    rows = np.asarray(_tangents(landscape, x))
    basis = np.linalg.qr(plane.T)[0]
    left, singular, turned = np.linalg.svd(rows.T, full_matrices=False)
    moves = singular > TANGENT_TOL * (1.0 + float(jnp.linalg.norm(x)))
    inside, cosines, _ = np.linalg.svd(left[:, moves].T @ basis)
    if not cosines.size or cosines[0] < 1 - IN_PLANE**2:
        return None
    turn = jnp.asarray(turned[moves].T @ (inside[:, 0] / singular[moves]))  # of unit speed at x
    size = radius * float(np.linalg.norm(plane, axis=1).max())
    halves = []
    for sign in (1.0, -1.0):
        y, half = x, []
        for _ in range(CURVE):
            away = np.asarray(y - origin)
            at = np.linalg.lstsq(plane.T, away, rcond=None)[0]
            if np.linalg.norm(away - at @ plane) > IN_PLANE * size:
                break
            half.append(at)
            y = _carried(landscape, y, turn, jnp.asarray(sign * size / (CURVE / 2)))
        halves.append(half)
    curve = np.array([*halves[1][:0:-1], *halves[0]])
    return curve if len(curve) > 2 else None


@jax.jit
def _line(landscape: Landscape, x: Any, u: Any, steps: Array) -> Float[Array, " m"]:
    return jax.lax.map(lambda a: landscape.value(jax.tree.map(lambda x, u: x + a * u, x, u)), steps)


@jax.jit
def _plane(landscape: Landscape, x: Any, u: Any, v: Any, first: Array, second: Array) -> Float[Array, "m n"]:
    def value(a: Array, b: Array) -> Array:
        return landscape.value(jax.tree.map(lambda x, u, v: x + a * u + b * v, x, u, v))

    return jax.lax.map(lambda a: jax.vmap(lambda b: value(a, b))(second), first)
