"""Minimisers of a smooth function: trust-region Newton and L-BFGS, each lane with its own ending."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.numerics.checks import check_count, check_positive, check_search
from ufm_jax.numerics.derivatives import Objective, floating, on_vectors, second_order
from ufm_jax.numerics.status import Status

# A change of f below this many units of rounding says nothing about f: the gradient is asked instead.
ROUNDING_UNITS = 50.0


class Solution(NamedTuple):
    """Where a search ended. `x` has the shape of the start; the gradient norm is measured at `x`."""

    x: Any
    value: Float[Array, ""]
    grad_norm: Float[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


Unit = Callable[[Float[Array, ""]], Float[Array, ""]]  # f -> that of ‖∇f‖


def one(value: Float[Array, ""]) -> Float[Array, ""]:
    """Return 1: the unit of a function of which nothing is known."""
    return jnp.ones_like(value)


class _Newton(NamedTuple):
    x: Any
    value: Float[Array, ""]
    grad: Any
    radius: Float[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def minimise(f: Objective, start: Any, *, gtol: float = 1e-10, max_steps: int = 500) -> Solution:
    """Minimise f from `start`, any pytree, by `trust_region_newton` with exact automatic derivatives.

    Raises:
        ValueError: naming the leaf of `start` that is not floating-point, or not of the others' dtype; `gtol`
            or `max_steps`, if it is none.
    """
    flat, x, unravel = on_vectors(f, start)
    found = trust_region_newton(second_order(flat), x, gtol=gtol, max_steps=max_steps)
    return found._replace(x=unravel(found.x))


def trust_region_newton(
    expand: Callable[[Any], Any],
    start: Any,
    *,
    gtol: float = 1e-10,
    max_steps: int = 500,
    max_products: int | None = None,
    radius: float = 1.0,
    unit: Unit = one,
) -> Solution:
    """Trust-region Newton with Steihaug–Toint conjugate gradients (Nocedal & Wright 2006, algs. 4.1, 7.2).

    `expand` is an `Oracle`, or the like on any pytree: its arrays then keep their layout over devices.
    Negative curvature is followed to the trust region's edge, so saddles are left; null directions (a
    symmetry's orbit) carry no gradient and are left alone. Where the change in f drowns in rounding, a step
    is judged by the gradient norm. `gtol` bounds ‖∇f‖₂ in units of `unit(f)`; having met it, one more Newton
    step is kept if it lowers the gradient norm. `max_products` Hessian products at most per step (default
    2 D).

    Raises:
        ValueError: as `minimise`.
    """
    check_search(gtol, max_steps)
    check_positive(radius=radius)
    start = floating(start)
    leaves = jax.tree.leaves(start)
    dtype = leaves[0].dtype
    cap = 2 * sum(a.size for a in leaves) if max_products is None else max_products
    eps = jnp.finfo(dtype).eps

    def step(s: _Newton) -> _Newton:
        here = expand(s.x)
        norm = _norm(s.grad)
        size = unit(s.value)
        enough = jnp.minimum(0.1, jnp.sqrt(norm / size)) * norm
        p, Hp, at_edge = _steihaug(here.hv, s.grad, s.radius, enough, cap)
        predicted = -(_dot(s.grad, p) + _dot(p, Hp) / 2)
        trial = _along(s.x, 1.0, p)
        there = expand(trial)
        new_norm = _norm(there.grad)
        drowned = predicted <= ROUNDING_UNITS * eps * jnp.abs(s.value)
        ratio = jnp.where(
            drowned, jnp.where(new_norm < norm, 1.0, -1.0), (s.value - there.value) / predicted
        ).astype(dtype)
        # A non-finite trial is only a step too long; the start itself is checked in `init`.
        accept = (ratio > 0.05) & jnp.isfinite(there.value) & jnp.isfinite(new_norm)
        length = _norm(p)
        shrunk = jnp.where((ratio > 0.75) & at_edge, 2 * s.radius, s.radius)
        new_radius = jnp.where(accept & (ratio >= 0.25), shrunk, 0.25 * length)
        x, value, grad = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old), (trial, there.value, there.grad), s[:3]
        )
        met = norm <= gtol * size  # `p` was the extra step
        stuck = ~accept & (length <= 4 * eps * (1 + _norm(s.x)))
        status = jnp.where(met, Status.CONVERGED, jnp.where(stuck, Status.STALLED, s.status))
        return _Newton(x, value, grad, new_radius, status.astype(jnp.int32), s.num_steps + 1)

    def run(s: _Newton) -> _Newton:
        return jax.lax.while_loop(lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps), step, s)

    first = expand(start)
    finite = jnp.isfinite(first.value) & jnp.isfinite(_norm(first.grad))
    end = run(
        _Newton(
            start,
            first.value,
            first.grad,
            jnp.asarray(radius, dtype),
            jnp.where(finite, Status.RUNNING, Status.NONFINITE).astype(jnp.int32),
            jnp.zeros((), jnp.int32),
        )
    )
    return solution(end.x, end.value, end.grad, end.status, end.num_steps, gtol * unit(end.value))


def solution(
    x: Any,
    value: Float[Array, ""],
    grad: Any,
    status: Int[Array, ""],
    num_steps: Int[Array, ""],
    gtol: float | Float[Array, ""],
) -> Solution:
    """Measure the gradient norm at the end; CONVERGED means that it meets `gtol`, and nothing else does."""
    norm = _norm(grad)
    ended = jnp.where(status == Status.RUNNING, Status.MAX_STEPS, status)
    ended = jnp.where(norm <= gtol, Status.CONVERGED, ended)
    ended = jnp.where((status == Status.CONVERGED) & ~(norm <= gtol), Status.STALLED, ended)
    return Solution(x, value, norm, ended.astype(jnp.int32), num_steps)


class _Conjugate(NamedTuple):
    p: Any
    Hp: Any
    r: Any
    v: Any
    at_edge: Bool[Array, ""]
    num_products: Int[Array, ""]


def _steihaug(
    hv: Callable[[Any], Any],
    grad: Any,
    radius: Float[Array, ""],
    tolerance: Float[Array, ""],
    cap: int,
) -> tuple[Any, Any, Bool[Array, ""]]:
    """Return p, H p and whether ‖p‖ = radius, p an approximate minimiser of gᵀp + ½pᵀHp, ‖p‖ ≤ radius."""

    def step(s: _Conjugate) -> _Conjugate:
        Hv = hv(s.v)
        rr, curvature = _dot(s.r, s.r), _dot(s.v, Hv)
        alpha = rr / curvature
        leaves = (curvature <= 0) | (_norm(_along(s.p, alpha, s.v)) >= radius)
        alpha = jnp.where(leaves, _to_edge(s.p, s.v, radius), alpha)
        r = _along(s.r, alpha, Hv)
        v = _along(jax.tree.map(jnp.negative, r), _dot(r, r) / rr, s.v)
        p, Hp = _along(s.p, alpha, s.v), _along(s.Hp, alpha, Hv)
        return _Conjugate(p, Hp, r, v, leaves, s.num_products + 1)

    def go_on(s: _Conjugate) -> Bool[Array, ""]:
        return ~s.at_edge & (_norm(s.r) > tolerance) & (s.num_products < cap)

    zero, down = jax.tree.map(jnp.zeros_like, grad), jax.tree.map(jnp.negative, grad)
    first = _Conjugate(zero, zero, grad, down, jnp.asarray(False), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(go_on, step, first)
    return end.p, end.Hp, end.at_edge


def _dot(a: Any, b: Any) -> Float[Array, ""]:
    # Over all axes at once: flattening would gather an array that is spread over devices.
    products = jax.tree.map(lambda x, y: jnp.tensordot(x, y, axes=x.ndim), a, b)
    return jax.tree.reduce(jnp.add, products)


def _norm(a: Any) -> Float[Array, ""]:
    return jnp.sqrt(_dot(a, a))


def _along(a: Any, t: Float[Array, ""] | float, b: Any) -> Any:
    """Return a + t b."""
    return jax.tree.map(lambda x, y: x + t * y, a, b)


def _to_edge(p: Any, v: Any, radius: Float[Array, ""]) -> Float[Array, ""]:
    """Return τ ≥ 0 with ‖p + τ v‖ = radius."""
    a, b, c = _dot(v, v), _dot(p, v), _dot(p, p) - radius**2
    root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0.0))
    # The form without cancellation for either sign of b.
    return jnp.where(b > 0, -c / (b + root), (root - b) / a)


class _Quasi(NamedTuple):
    x: Float[Array, " D"]
    optimiser: Any
    value: Float[Array, ""]
    grad: Float[Array, " D"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def lbfgs(
    f: Objective, start: Any, *, gtol: float = 1e-10, max_steps: int = 2000, memory: int = 10
) -> Solution:
    """Minimise f by optax's L-BFGS with a zoom line search, stopped on ‖∇f‖₂ and on failing steps.

    First order: near 1e-10 the line search's f differences drown in rounding and it may end as STALLED;
    `trust_region_newton` then polishes.

    Raises:
        ValueError: as `minimise`.
    """
    import optax  # a tenth of a second, which no other search waits for

    check_search(gtol, max_steps)
    check_count(memory=memory)
    flat, x0, unravel = on_vectors(f, start)
    optimiser = optax.lbfgs(memory_size=memory)
    cached = optax.value_and_grad_from_state(flat)

    def step(s: _Quasi) -> _Quasi:
        # optax's L-BFGS adds int32 to int64 indices, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(
                s.grad, s.optimiser, s.x, value=s.value, grad=s.grad, value_fn=flat
            )
        x = optax.apply_updates(s.x, updates)
        value, grad = cached(x, state=state)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad))
        moved = jnp.any(x != s.x)
        status = jnp.where(finite, jnp.where(moved, s.status, Status.STALLED), Status.NONFINITE)
        status = jnp.where(jnp.linalg.norm(grad) <= gtol, Status.CONVERGED, status)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (x, value, grad), (s.x, s.value, s.grad)
        )
        return _Quasi(kept[0], state, kept[1], kept[2], status.astype(jnp.int32), s.num_steps + 1)

    value, grad = jax.value_and_grad(flat)(x0)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad))
    begin = jnp.where(jnp.linalg.norm(grad) <= gtol, Status.CONVERGED, Status.RUNNING)
    begin = jnp.where(finite, begin, Status.NONFINITE).astype(jnp.int32)
    end = jax.lax.while_loop(
        lambda s: (s.status == Status.RUNNING) & (s.num_steps < max_steps),
        step,
        _Quasi(x0, optimiser.init(x0), value, grad, begin, jnp.zeros((), jnp.int32)),
    )
    measured = jax.grad(flat)(end.x)
    return solution(unravel(end.x), end.value, measured, end.status, end.num_steps, gtol)
