"""Many roots of gradients at once: Levenberg–Marquardt on a pool of lanes that advance together (`pool`).

As `rootfind.levenberg_marquardt`, in which the signs of curvature play no part: minima, saddles and maxima
all attract. Two things are other. A step −(H² + σ²)⁻¹ H g is the real part of −(H + iσ)⁻¹ g, for which
whoever evaluates the gradient solves: with the structure that H has, and without its square. And a lane that
comes down too slowly is pushed along its gradient and begins again there. It is then near a local minimum of
‖g‖ with g ≠ 0, as a fold is: H has a null vector, and g is along it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ufm_jax.numerics.derivatives import floating
from ufm_jax.numerics.pool import Ended, pooled
from ufm_jax.numerics.status import Status

FIRST_DAMPING = 0.03  # σ, in units of about ‖H‖
# No less: what rounding leaves of g along the null directions of a symmetry is eps ‖g‖, to be divided by it.
LEAST_DAMPING = 1e-12
SLOW, PATIENCE = 0.9, 8  # so often may ‖g‖² keep more than this share (each step that is better forgives one)
# Pushes go down, up, down, … by lengths that grow. Points of the feature model are 20 to 50 long; of first
# lengths 1 to 12 and factors 1.2 to 2 these left the fewest lanes behind at K = 4, 6 and 10. Shorter pushes
# fall back into the same fold more often, and longer ones go astray.
PUSH, FURTHER = 9.0, -1.3
FAR_BELOW = 1e-3  # of `gtol`: no further step is tried


class Slope(NamedTuple):
    """The first derivatives of a batch."""

    value: Float[Array, " B"]
    grad: Float[Array, "D B"]
    unit: Float[Array, " B"]  # of the gradient's length, in which `gtol` is
    rounding: Float[Array, " B"]  # what may be left of that length


class Shift(NamedTuple):
    """(H + iσ)⁻¹ g of a batch."""

    re: Float[Array, "D B"]
    im: Float[Array, "D B"]
    sigma: Float[Array, " B"]


class _Lanes(NamedTuple):
    x: Float[Array, "D B"]
    value: Float[Array, " B"]
    grad: Float[Array, "D B"]
    norm: Float[Array, " B"]  # ‖g‖ in its unit, or in what rounding leaves
    damping: Float[Array, " B"]
    push: Float[Array, " B"]  # length of the next, with its sign
    slow: Int[Array, " B"]
    status: Int[Array, " B"]
    num_steps: Int[Array, " B"]


def marquardt(
    slope: Callable[[Float[Array, "D B"], Any], Slope],
    shift: Callable[[Float[Array, "D B"], Any, Float[Array, "D B"], Float[Array, " B"]], Shift],
    starts: Shaped[Array, "D S"],
    data: Any,
    count: Int[Array, ""] | int,
    *,
    width: int,
    gtol: float,
    max_steps: int = 300,
) -> Ended:
    """Find roots of ∇f from the first `count` of S starts, `width` at a time, by steps −Re (H + iσ)⁻¹ g.

    `slope` takes points and constants of the lanes, out of `data`; `shift` takes g and σ, too, the latter in
    units of about ‖H‖. Having met `gtol`, one more step is kept if it lowers ‖g‖. A lane whose start is not
    finite ends as NONFINITE; the results of starts beyond `count` mean nothing.

    Raises:
        ValueError: if `starts` are not floating-point.
    """
    starts = floating(starts, "starts")

    def fresh(x: Float[Array, "D B"], given: Bool[Array, " B"]) -> _Lanes:
        row, none = jnp.zeros_like(x[0]), jnp.zeros(x.shape[1], jnp.int32)
        status = jnp.where(given, Status.RUNNING, Status.CONVERGED).astype(jnp.int32)
        first, push = jnp.full_like(row, FIRST_DAMPING), jnp.full_like(row, -PUSH)
        # Not evaluated yet: its first step is none.
        return _Lanes(x, row, jnp.zeros_like(x), jnp.full_like(row, jnp.inf), first, push, none, status, none)

    advance = lambda lanes, here: _advance(slope, shift, here, lanes, gtol, max_steps)
    return pooled(fresh, advance, starts, data, count, width)


def _advance(slope: Any, shift: Any, data: Any, s: _Lanes, gtol: float, max_steps: int) -> _Lanes:
    """Take one step of every lane, or push it, or evaluate it where it starts."""
    tiny = jnp.finfo(s.grad.dtype).tiny
    running, begun = s.status == Status.RUNNING, jnp.isfinite(s.norm)
    pushed = begun & (s.slow >= PATIENCE)
    merit = jnp.sum(s.grad**2, axis=0)
    z = shift(s.x, data, s.grad, s.damping)
    # Of ‖g‖²: H δ = −g − σ Im z, and the model's fall is ‖H δ‖² + 2 σ² ‖δ‖².
    fall = jnp.sum((s.grad + z.sigma * z.im) ** 2, axis=0) + 2 * z.sigma**2 * jnp.sum(z.re**2, axis=0)
    along = s.push / jnp.sqrt(jnp.maximum(merit, tiny)) * s.grad
    x = s.x + jnp.where(begun, jnp.where(pushed, along, -z.re), 0.0)
    there = slope(x, data)

    left = jnp.sum(there.grad**2, axis=0)
    norm = jnp.sqrt(left) / jnp.maximum(there.unit, there.rounding / gtol)
    ratio = (merit - left) / jnp.maximum(fall, tiny)
    finite = jnp.isfinite(norm)
    met = begun & (s.norm <= gtol)  # so this was the step more
    better = finite & jnp.where(met, norm < s.norm, ratio > 1e-4)
    accept = running & finite & (~begun | pushed | better)
    # σ² as μ by Nielsen's rule
    easier = s.damping * jnp.sqrt(jnp.clip(1 - (2 * ratio - 1) ** 3, 0.05, 2.0))
    damping = jnp.where(better, jnp.maximum(easier, LEAST_DAMPING), 2 * s.damping)
    slow = jnp.where(left <= SLOW * merit, jnp.maximum(s.slow - 1, 0), s.slow + 1)
    anew = ~begun | pushed

    num_steps = s.num_steps + running.astype(jnp.int32)
    far_below = accept & (norm <= FAR_BELOW * gtol)
    status = jnp.select(
        [~running, ~finite & ~begun, met | far_below, num_steps >= max_steps],
        [s.status, Status.NONFINITE, Status.CONVERGED, Status.MAX_STEPS],
        Status.RUNNING,
    )
    pick = lambda new, old: jnp.where(accept, new, old)
    return _Lanes(
        x=pick(x, s.x),
        value=pick(there.value, s.value),
        grad=pick(there.grad, s.grad),
        norm=pick(norm, s.norm),
        damping=jnp.where(anew, FIRST_DAMPING, damping),
        push=jnp.where(pushed, FURTHER * s.push, s.push),
        slow=jnp.where(anew, 0, slow),
        status=status.astype(jnp.int32),
        num_steps=num_steps,
    )
