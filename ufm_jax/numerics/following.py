"""Saddles of one index: eigenvector following, modulo the directions of a symmetry.

Forms the dense Hessian, as `rootfind`: meant for D up to about a thousand.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from ufm_jax.numerics.checks import check_count, check_positive, check_search
from ufm_jax.numerics.derivatives import (
    Expansion,
    Objective,
    Oracle,
    Vector,
    dense_matrix,
    floating,
    on_vectors,
    second_order,
)
from ufm_jax.numerics.descent import ROUNDING_UNITS, Solution, Unit, one, solution
from ufm_jax.numerics.rootfind import begun
from ufm_jax.numerics.status import Status

# Eigenvector following compares the change of the gradient with H's prediction, as a part of ‖g‖ + ‖Hδ‖: up
# to the first it lengthens its steps, from the second on it shortens them, from the third it takes them back.
ERROR_SMALL, ERROR_LARGE, ERROR_REFUSED = 0.1, 0.3, 1.0
# It keeps to the eigenvectors that it climbs for so many steps, in which most searches of small clusters of
# atoms end, and then takes the lowest anew: one of them may by then be a stiff one.
STEPS_KEPT = 40


Tangents = Callable[[Vector], Float[Array, "m D"]]


class _Follow(NamedTuple):
    x: Float[Array, " D"]
    value: Float[Array, ""]
    grad: Float[Array, " D"]
    climbed: Float[Array, "k D"]  # eigenvectors of the last step
    delta: Float[Array, " D"]  # the last step
    radius: Float[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def follow_to_index(
    f: Objective,
    start: Any,
    index: int,
    *,
    tangents: Callable[[Any], Any] | None = None,
    gtol: float = 1e-10,
    max_steps: int = 1000,
    max_length: float = 0.1,
) -> Solution:
    """Find a critical point of f of `index` negative eigenvalues, by `eigenvector_following` from `start`.

    `start` is any pytree. `tangents` takes a point and returns the directions in which a symmetry of f moves
    it, as the point, each leaf with a leading axis: null directions, which are not to be climbed.

    Raises:
        ValueError: if `index` is not within 0..D; naming `tangents`, if it returns other shapes; and as
            `critical_point`.
    """
    flat, x, unravel = on_vectors(f, start)
    along = None if tangents is None else _flat_tangents(tangents, x, unravel)
    found = eigenvector_following(
        second_order(flat), x, index, tangents=along, gtol=gtol, max_steps=max_steps, max_length=max_length
    )
    return found._replace(x=unravel(found.x))


def _flat_tangents(tangents: Callable[[Any], Any], x: Vector, unravel: Callable[[Vector], Any]) -> Tangents:
    """Return `tangents` as a function from a flat vector to rows of as many numbers, its shapes checked."""
    leaves, form = jax.tree.flatten(jax.eval_shape(lambda y: tangents(unravel(y)), x))
    wanted, point = jax.tree.flatten(jax.eval_shape(unravel, x))
    m = next((a.shape[0] for a in leaves if a.ndim), 0)
    got, need = [a.shape for a in leaves], [(m, *a.shape) for a in wanted]
    if repr(form) != repr(point) or got != need or any(a.dtype != x.dtype for a in leaves):
        raise ValueError(
            f"tangents: need {need} of {x.dtype} as leaves of {point}, their first axis any, got {got} of "
            f"{[a.dtype.name for a in leaves]} as leaves of {form}"
        )

    def rows(y: Vector) -> Float[Array, "m D"]:
        leaves = jax.tree.leaves(tangents(unravel(y)))
        return jnp.concatenate([a.reshape(m, math.prod(a.shape[1:])) for a in leaves], axis=1)

    return rows


def eigenvector_following(
    expand: Oracle,
    start: Shaped[Array, " D"],
    index: int,
    *,
    tangents: Tangents | None = None,
    gtol: float = 1e-10,
    max_steps: int = 1000,
    max_length: float = 0.1,
    unit: Unit = one,
) -> Solution:
    """Climb along the `index` lowest eigenvectors and descend along all others, to a saddle of that index.

    Rational-function steps (Cerjan & Miller 1981; Banerjee et al. 1985): along each eigenvector with slope g
    and curvature λ, |step| = 2|g| / (|λ| + √(λ² + 4 g²)), the whole step cut to a length that begins as
    `max_length` and follows how well H predicts the change of the gradient. Gradient and Hessian are taken
    on the orthogonal complement of the rows of `tangents(x)`, directions of a symmetry, which may be
    dependent or zero. Having met `gtol`, one more step is kept if it lowers ‖g‖.

    Where two eigenvalues cross, "the lowest" changes from step to step, and a search that climbs it may
    circle there for ever (Levitt & Ortner 2017): the eigenvectors climbed are those nearest to the last
    step's, chosen anew as the lowest every `STEPS_KEPT` steps. A step that turns back halves the length.

    A critical point of another index repels, and so may one where tangents vanish that do not around it (a
    fixed point of the symmetry), whatever its index: look for those without `tangents`. What ends at one
    nevertheless, or where a null direction takes the place of a negative one, is STALLED: CONVERGED says that
    `index` eigenvalues are negative beyond rounding. At an exactly critical start nothing moves, and a mode
    that no other couples to may be climbed on the side of a wall: perturb, or start on either side.

    Raises:
        ValueError: if `index` is not within 0..D, or if `start` is not floating-point.
    """
    check_search(gtol, max_steps)
    check_positive(max_length=max_length)
    check_count(0, index=index)
    start = floating(start)
    if not 0 <= index <= start.size:
        raise ValueError(f"index: need 0 <= index <= {start.size}, got {index}")

    def step(s: _Follow) -> _Follow:
        H = dense_matrix(expand(s.x).hv, s.x)
        delta, length, climbed = _climb(s, H, _orthonormal(tangents, s.x), index)
        return _stepped(s, expand(s.x + delta), (delta, length, H @ delta), climbed, gtol * unit(s.value))

    first, begin = begun(expand, start)
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Follow(
            start,
            first.value,
            first.grad,
            jnp.zeros((index, start.size), start.dtype),
            jnp.zeros_like(start),
            jnp.asarray(max_length, start.dtype),
            begin,
            jnp.zeros((), jnp.int32),
        ),
    )
    found = solution(end.x, end.value, end.grad, end.status, end.num_steps, gtol * unit(end.value))
    other = (found.status == Status.CONVERGED) & (_num_negative(expand, tangents, end.x) != index)
    return found._replace(status=jnp.where(other, Status.STALLED, found.status).astype(jnp.int32))


def _climb(
    s: _Follow, H: Float[Array, "D D"], orbit: Float[Array, "m D"] | None, index: int
) -> tuple[Vector, Float[Array, ""], Float[Array, "k D"]]:
    """Return a rational-function step, cut to the radius, its length, and the eigenvectors that it climbs."""
    dtype, tiny = s.x.dtype, jnp.finfo(s.x.dtype).tiny
    eigenvalues, vectors = jnp.linalg.eigh(_lifted(H, orbit))
    kept = jnp.sum((s.climbed @ vectors) ** 2, axis=0)
    lowest = -jnp.arange(s.x.size, dtype=dtype)
    anew = s.num_steps % STEPS_KEPT == 0
    _, chosen = jax.lax.top_k(jnp.where(anew, lowest, kept), index)
    sign = jnp.full(s.x.size, -1.0, dtype).at[chosen].set(1.0)
    g = vectors.T @ _without(orbit, s.grad)
    size = jnp.abs(eigenvalues)
    move = sign * 2 * g / (size + jnp.sqrt(size**2 + 4 * g**2) + tiny)
    delta = _without(orbit, vectors @ move)
    length = jnp.linalg.norm(delta)
    cut = jnp.minimum(1.0, s.radius / (length + tiny))
    return cut * delta, cut * length, vectors.T[chosen]


def _stepped(
    s: _Follow,
    there: Expansion,
    moved: tuple[Vector, Float[Array, ""], Vector],
    climbed: Float[Array, "k D"],
    enough: Float[Array, ""],
) -> _Follow:
    """Take a step or refuse it, and choose the next radius, by how well H predicted the gradient there.

    `moved` are the step δ, its length and H δ; `enough` is the norm of the gradient that is to be met.
    """
    delta, length, Hd = moved
    eps, tiny = jnp.finfo(s.x.dtype).eps, jnp.finfo(s.x.dtype).tiny
    norm, new_norm = jnp.linalg.norm(s.grad), jnp.linalg.norm(there.grad)
    error = jnp.linalg.norm(there.grad - s.grad - Hd) / (norm + jnp.linalg.norm(Hd) + tiny)
    met = norm <= enough  # `delta` was the extra step
    usable = jnp.isfinite(there.value) & jnp.isfinite(new_norm)
    accept = usable & jnp.where(met, new_norm < norm, error < ERROR_REFUSED)
    back = jnp.dot(delta, s.delta) < -length * jnp.linalg.norm(s.delta) / 2
    wider = jnp.where(error < ERROR_SMALL, jnp.maximum(s.radius, 2 * length), s.radius)
    radius = jnp.where(usable & (error < ERROR_LARGE) & ~back, wider, length / 2)
    x, value, grad = jax.tree.map(
        lambda new, old: jnp.where(accept, new, old), (s.x + delta, there.value, there.grad), s[:3]
    )
    stuck = ~accept & (length <= 4 * eps * (1 + jnp.linalg.norm(s.x)))
    status = jnp.where(met, Status.CONVERGED, jnp.where(stuck, Status.STALLED, s.status))
    return _Follow(x, value, grad, climbed, delta, radius, status.astype(jnp.int32), s.num_steps + 1)


def _orthonormal(tangents: Tangents | None, x: Vector) -> Float[Array, "m D"] | None:
    """Return an orthonormal basis of the tangents' span as rows, with rows of zeros for what is dependent."""
    if tangents is None:
        return None
    T = tangents(x)
    if len(T) == 0:
        return None
    _, lengths, rows = jnp.linalg.svd(T, full_matrices=False)
    rounding = ROUNDING_UNITS * jnp.finfo(T.dtype).eps * lengths[0]
    return jnp.where((lengths > rounding)[:, None], rows, 0.0)


def _without(orbit: Float[Array, "m D"] | None, v: Vector) -> Vector:
    return v if orbit is None else v - orbit.T @ (orbit @ v)


def _lifted(H: Float[Array, "D D"], orbit: Float[Array, "m D"] | None) -> Float[Array, "D D"]:
    """Return H on the complement of the orbit's directions, and these as its highest eigenvectors."""
    if orbit is None:
        return H
    along = orbit.T @ orbit
    across = jnp.eye(len(H), dtype=H.dtype) - along
    return across @ H @ across + 2 * jnp.linalg.norm(H) * along


def _num_negative(expand: Oracle, tangents: Tangents | None, x: Vector) -> Int[Array, ""]:
    """Count the eigenvalues at a critical point that are negative beyond rounding.

    A tangent that is not null there points along no orbit (at a fixed point of the symmetry, all tangents
    are rounding): only those with ‖Hξ‖ below √ε ‖H‖ are left out.
    """
    H = dense_matrix(expand(x).hv, x)
    orbit = _orthonormal(tangents, x)
    eps = jnp.finfo(H.dtype).eps
    if orbit is not None:
        null = jnp.linalg.norm(orbit @ H, axis=1) <= jnp.sqrt(eps) * jnp.linalg.norm(H)
        orbit = jnp.where(null[:, None], orbit, 0.0)
    eigenvalues = jnp.linalg.eigvalsh(_lifted(H, orbit))
    rounding = ROUNDING_UNITS * len(H) * eps * jnp.linalg.norm(H)
    return jnp.sum(eigenvalues < -rounding, dtype=jnp.int32)
