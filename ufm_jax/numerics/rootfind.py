"""Critical points of any index: roots of ∇f, by Levenberg–Marquardt and by Newton's method.

Both form the dense Hessian (D products a step): meant for D up to about a thousand, which class collapse and
rank reduction make the usual case here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ufm_jax.numerics.checks import check_positive, check_search
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
    expand: Oracle,
    start: Shaped[Array, " D"],
    *,
    gtol: float = 1e-10,
    max_steps: int = 300,
    unit: Unit = one,
    polish: bool = True,
) -> Solution:
    """Find a root of ∇f by steps −(H² + μI)⁻¹ H g, accepted where ‖g‖ falls (Moré 1978; Nielsen 1999).

    The sign of curvature plays no part, so minima, saddles and maxima all attract. Singular roots (orbits of
    a symmetry) are met quadratically as μ -> 0 (Yamashita & Fukushima 2001). A local minimum of ‖g‖ with
    g ≠ 0 ends as STALLED. Having met `gtol`, in units of `unit(f)`, one more step is kept if it lowers ‖g‖;
    without `polish` none is made from a start that meets it.

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
        met = jnp.sqrt(merit) <= gtol * unit(s.value)
        stuck = (s.damping > 1e8) | (jnp.sqrt(predicted) <= 1e-7 * jnp.sqrt(merit))
        status = jnp.where(met, Status.CONVERGED, jnp.where(stuck, Status.STALLED, s.status))
        return _Marquardt(x, value, grad, damping, status.astype(jnp.int32), s.num_steps + 1)

    first, begin = begun(expand, start, None if polish else _meets(gtol, unit))
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Marquardt(
            start, first.value, first.grad, jnp.asarray(1e-3, start.dtype), begin, jnp.zeros((), jnp.int32)
        ),
    )
    return solution(end.x, end.value, end.grad, end.status, end.num_steps, gtol * unit(end.value))


class _Natural(NamedTuple):
    x: Float[Array, " D"]
    value: Float[Array, ""]
    grad: Float[Array, " D"]
    share: Float[Array, ""]  # of the Newton step that is tried
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def natural_newton(
    expand: Oracle,
    start: Shaped[Array, " D"],
    *,
    gtol: float = 1e-10,
    max_steps: int = 100,
    unit: Unit = one,
    longest: float = 1.0,
) -> Solution:
    """Find a root of ∇f by steps −H⁺ g of length `longest` at most, accepted where ‖H⁺ g‖ falls, H kept.

    The error-oriented Newton method with the natural monotonicity test (Deuflhard 2004, alg. NLEQ-ERR): no
    change of coordinates matters to it. Where H has eigenvalues of very different sizes, as in the tails of
    exponentials, the small ones drown in H² (`levenberg_marquardt`), and are seen here. Along a bent valley
    it crawls, too. H⁺ leaves out what is rounding of H, and so the orbits of a symmetry. Costs an eigen-solve
    a step.

    Raises:
        ValueError: if `start` is not floating-point.
    """
    check_search(gtol, max_steps)
    check_positive(longest=longest)
    start = floating(start)
    eps, tiny = jnp.finfo(start.dtype).eps, jnp.finfo(start.dtype).tiny

    def step(s: _Natural) -> _Natural:
        values, vectors = jnp.linalg.eigh(dense_matrix(expand(s.x).hv, s.x))
        size = jnp.abs(values)
        used = size > ROUNDING_UNITS * eps * jnp.max(size)
        inverse = jnp.where(used, 1.0 / jnp.where(used, values, 1.0), 0.0)
        newton = lambda g: -(vectors @ (inverse * (vectors.T @ g)))
        delta = newton(s.grad)
        length = jnp.linalg.norm(delta)
        share = jnp.minimum(s.share, longest / jnp.maximum(length, tiny))
        trial = s.x + share * delta
        there = expand(trial)
        left = jnp.linalg.norm(newton(there.grad)) / jnp.maximum(length, tiny)
        met = jnp.linalg.norm(s.grad) <= gtol * unit(s.value)  # `delta` was the extra step
        smaller = jnp.linalg.norm(there.grad) < jnp.linalg.norm(s.grad)
        accept = jnp.isfinite(there.value) & jnp.where(met, smaller, left <= 1 - share / 4)
        share = jnp.where(accept, jnp.minimum(1.0, 2 * share), share / 4)
        x, value, grad = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old),
            (trial, there.value, there.grad),
            s[:3],
        )
        stuck = ~accept & ((share < 1e-4) | (length <= ROUNDING_UNITS * eps * (1 + jnp.linalg.norm(s.x))))
        status = jnp.where(met, Status.CONVERGED, jnp.where(stuck, Status.STALLED, s.status))
        return _Natural(x, value, grad, share, status.astype(jnp.int32), s.num_steps + 1)

    first, begin = begun(expand, start, _meets(gtol, unit))
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Natural(
            start,
            first.value,
            first.grad,
            jnp.ones((), start.dtype),
            begin,
            jnp.zeros((), jnp.int32),
        ),
    )
    return solution(end.x, end.value, end.grad, end.status, end.num_steps, gtol * unit(end.value))


def _meets(gtol: float, unit: Unit) -> Callable[[Expansion], Bool[Array, ""]]:
    return lambda here: jnp.linalg.norm(here.grad) <= gtol * unit(here.value)


def begun(
    expand: Oracle, start: Vector, met: Callable[[Expansion], Bool[Array, ""]] | None = None
) -> tuple[Expansion, Int[Array, ""]]:
    """Evaluate a start; it is RUNNING, NONFINITE, or CONVERGED where `met` says so."""
    first = expand(start)
    finite = jnp.isfinite(first.value) & jnp.all(jnp.isfinite(first.grad))
    status = jnp.where(finite, Status.RUNNING, Status.NONFINITE)
    if met is not None:
        status = jnp.where(finite & met(first), Status.CONVERGED, status)
    return first, status.astype(jnp.int32)
