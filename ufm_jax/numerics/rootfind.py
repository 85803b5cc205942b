"""Critical points of any index: roots of ∇f, by Levenberg–Marquardt and by eigenvector following.

Both form the dense Hessian (D products a step): meant for D up to about a thousand, which class collapse and
rank reduction make the usual case here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from ufm_jax.numerics.checks import check_count, check_positive, check_search
from ufm_jax.numerics.derivatives import Objective, Oracle, dense_matrix, floating, on_vectors, second_order
from ufm_jax.numerics.descent import Solution, solution
from ufm_jax.numerics.status import Status


class _Marquardt(NamedTuple):
    x: Float[Array, " D"]
    value: Float[Array, ""]
    grad: Float[Array, " D"]
    damping: Float[Array, ""]  # in units of ‖H‖²
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def critical_point(f: Objective, start: Any, *, gtol: float = 1e-10, max_steps: int = 300) -> Solution:
    """Find a critical point of f near `start`, any pytree, by `levenberg_marquardt`.

    Raises:
        ValueError: naming the leaf of `start` that is not floating-point, or not of the others' dtype; `gtol`
            or `max_steps`, if it is none.
    """
    flat, x, unravel = on_vectors(f, start)
    found = levenberg_marquardt(second_order(flat), x, gtol=gtol, max_steps=max_steps)
    return found._replace(x=unravel(found.x))


def levenberg_marquardt(
    expand: Oracle, start: Shaped[Array, " D"], *, gtol: float = 1e-10, max_steps: int = 300
) -> Solution:
    """Find a root of ∇f by steps −(H² + μI)⁻¹ H g, accepted where ‖g‖ falls (Moré 1978; Nielsen 1999).

    The sign of curvature plays no part, so minima, saddles and maxima all attract. Singular roots (orbits of
    a symmetry) are met quadratically as μ -> 0 (Yamashita & Fukushima 2001). A local minimum of ‖g‖ with
    g ≠ 0 ends as STALLED. Having met `gtol`, one more step is kept if it lowers ‖g‖.

    Raises:
        ValueError: if `start` is not floating-point.
    """
    check_search(gtol, max_steps)
    start = floating(start)
    eps = jnp.finfo(start.dtype).eps
    least = 10 * eps

    def step(s: _Marquardt) -> _Marquardt:
        H = dense_matrix(expand(s.x).hv, s.x)
        size = jnp.maximum(jnp.sum(H**2, axis=0).max(), jnp.finfo(start.dtype).tiny)
        normal = H @ H + s.damping * size * jnp.eye(s.x.size, dtype=s.x.dtype)
        Hg = H @ s.grad
        delta = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(normal), Hg)
        there = expand(s.x + delta)
        merit = jnp.dot(s.grad, s.grad)
        new_merit = jnp.dot(there.grad, there.grad)
        predicted = -jnp.dot(delta, Hg) + s.damping * size * jnp.dot(delta, delta)  # of merit, in full
        ratio = (merit - new_merit) / predicted
        accept = (new_merit < merit) & (ratio > 1e-4) & jnp.isfinite(there.value)
        easier = s.damping * jnp.clip(1 - (2 * ratio - 1) ** 3, 0.05, 2.0)
        damping = jnp.where(accept, jnp.maximum(easier, least), 4 * jnp.maximum(s.damping, least))
        x, value, grad = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old), (s.x + delta, there.value, there.grad), s[:3]
        )
        met = jnp.sqrt(merit) <= gtol
        stuck = (s.damping > 1e8) | (jnp.sqrt(predicted) <= 1e-7 * jnp.sqrt(merit))
        status = jnp.where(met, Status.CONVERGED, jnp.where(stuck, Status.STALLED, s.status))
        return _Marquardt(x, value, grad, damping, status.astype(jnp.int32), s.num_steps + 1)

    first = expand(start)
    finite = jnp.isfinite(first.value) & jnp.all(jnp.isfinite(first.grad))
    begin = jnp.where(finite, Status.RUNNING, Status.NONFINITE).astype(jnp.int32)
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Marquardt(
            start, first.value, first.grad, jnp.asarray(1e-3, start.dtype), begin, jnp.zeros((), jnp.int32)
        ),
    )
    return solution(end.x, end.value, end.grad, end.status, end.num_steps, gtol)


class _Follow(NamedTuple):
    x: Float[Array, " D"]
    value: Float[Array, ""]
    grad: Float[Array, " D"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def follow_to_index(
    f: Objective,
    start: Any,
    index: int,
    *,
    gtol: float = 1e-10,
    max_steps: int = 1000,
    max_length: float = 0.1,
) -> Solution:
    """Climb along the `index` lowest eigenvectors and descend along all others, to a saddle of that index.

    Eigenvector following with rational-function steps (Cerjan & Miller 1981; Banerjee et al. 1985):
    along each eigenvector with slope g and curvature λ, |step| = 2|g| / (|λ| + √(λ² + 4 g²)), the whole
    step cut to `max_length`. A critical point of another index repels, so the ending has the index asked for
    wherever the Hessian has no other null directions; measure it all the same. At an exactly critical start
    nothing moves: perturb it first.

    Raises:
        ValueError: if `index` is not within 0..D, and as `critical_point`.
    """
    check_search(gtol, max_steps)
    check_positive(max_length=max_length)
    check_count(0, index=index)
    flat, x0, unravel = on_vectors(f, start)
    if not 0 <= index <= x0.size:
        raise ValueError(f"index: need 0 <= index <= {x0.size}, got {index}")
    expand = second_order(flat)
    sign = jnp.where(jnp.arange(x0.size) < index, 1.0, -1.0).astype(x0.dtype)

    def step(s: _Follow) -> _Follow:
        eigenvalues, vectors = jnp.linalg.eigh(dense_matrix(expand(s.x).hv, s.x))
        g = vectors.T @ s.grad
        size = jnp.abs(eigenvalues)
        floor = jnp.finfo(x0.dtype).tiny
        move = sign * 2 * g / (size + jnp.sqrt(size**2 + 4 * g**2) + floor)
        delta = vectors @ move
        delta = delta * jnp.minimum(1.0, max_length / (jnp.linalg.norm(delta) + floor))
        there = expand(s.x + delta)
        finite = jnp.isfinite(there.value) & jnp.all(jnp.isfinite(there.grad))
        x, value, grad = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (s.x + delta, there.value, there.grad), s[:3]
        )
        met = jnp.linalg.norm(grad) <= gtol
        status = jnp.where(met, Status.CONVERGED, jnp.where(finite, s.status, Status.NONFINITE))
        return _Follow(x, value, grad, status.astype(jnp.int32), s.num_steps + 1)

    first = expand(x0)
    begin = jnp.where(jnp.linalg.norm(first.grad) <= gtol, Status.CONVERGED, Status.RUNNING)
    begin = jnp.where(jnp.all(jnp.isfinite(first.grad)), begin, Status.NONFINITE).astype(jnp.int32)
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Follow(x0, first.value, first.grad, begin, jnp.zeros((), jnp.int32)),
    )
    return solution(unravel(end.x), end.value, end.grad, end.status, end.num_steps, gtol)


def eigenvector_following(*args: Any, **kwargs: Any) -> Solution:
    raise NotImplementedError
