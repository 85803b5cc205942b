"""Many minimisations at once: memoryless BFGS on a pool of lanes that advance together.

In one trip each lane evaluates f and its gradient once, at the trial point of its own line search; no lane
waits for another's (`pool`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ufm_jax.numerics.derivatives import floating
from ufm_jax.numerics.pool import Ended, pooled
from ufm_jax.numerics.status import Status

# (x, data) -> value (B,), gradient (D, B); `data` are constants of the lanes, their last
# axis; a single number is every lane's.
Stacked = Callable[[Float[Array, "D B"], Any], tuple[Float[Array, " B"], Float[Array, "D B"]]]
# (value, data) -> sizes V of f and C of its curvature (B,): ‖∇f‖ is compared with √(C V).
Sizes = Callable[[Float[Array, " B"], Any], tuple[Float[Array, "*B"], Float[Array, "*B"]]]

SUFFICIENT = 1e-4  # Armijo's constant
FLATTER = 0.8  # in the noise of f a step is good if the slope along it shrinks to this share
NOISE = 1e-12  # of f, relative to V + |f|: sums of logits of size 10 to 100 cancel in it
SHORTEST = 1e-9  # a line search whose length comes down to this has failed; 1 is the BFGS step


class _Lanes(NamedTuple):
    x: Float[Array, "D B"]
    grad: Float[Array, "D B"]
    step: Float[Array, "D B"]  # the trial point is x + length * step
    value: Float[Array, " B"]
    norm: Float[Array, " B"]  # ‖∇f‖/√(C V), what `gtol` bounds
    noise: Float[Array, " B"]  # of f
    square: Float[Array, " B"]  # gᵀg
    slope: Float[Array, " B"]  # gᵀ step
    length: Float[Array, " B"]
    plain: Bool[Array, " B"]  # step is −g
    status: Int[Array, " B"]
    num_steps: Int[Array, " B"]


def bfgs(
    f: Stacked,
    starts: Shaped[Array, "D S"],
    data: Any,
    count: Int[Array, ""] | int,
    *,
    width: int,
    gtol: float,
    sizes: Sizes = lambda value, data: (jnp.ones_like(value), jnp.ones_like(value)),
    max_steps: int = 2000,
) -> Ended:
    """Minimise f from the first `count` of S starts, `width` at a time, until ‖∇f‖ ≤ `gtol` √(C V).

    BFGS that keeps one pair (Shanno 1978): in coordinates of even scale more pairs save little, and with one
    nearly all of the work is in f. C and V, from `sizes`, are 1 unless said otherwise; the norms returned are
    in units of √(C V). A step is accepted on Armijo's condition or, in the noise of f, on the slope
    (approximate Wolfe condition, Hager & Zhang 2005). A lane whose line search fails along −g ends as
    STALLED, one that starts at a non-finite f or gradient as NONFINITE. The results of starts beyond `count`
    mean nothing.

    Raises:
        ValueError: if `starts` are not floating-point.
    """
    starts = floating(starts, "starts")
    return pooled(
        _fresh,
        lambda lanes, here: _advance(f, here, lanes, sizes, gtol, max_steps),
        starts,
        data,
        count,
        width,
    )


def _fresh(x: Float[Array, "D B"], given: Bool[Array, " B"]) -> _Lanes:
    """Return lanes whose first trial point is x itself; those not `given` a start have nothing to do."""
    still, row, infinite = jnp.zeros_like(x), jnp.zeros_like(x[0]), jnp.full_like(x[0], jnp.inf)
    status = jnp.where(given, Status.RUNNING, Status.CONVERGED).astype(jnp.int32)
    none = jnp.zeros_like(status)
    return _Lanes(x, still, still, infinite, infinite, row, row, row, row, none == 0, status, none)


def _advance(f: Stacked, data: Any, s: _Lanes, sizes: Sizes, gtol: float, max_steps: int) -> _Lanes:
    """Evaluate every lane's trial point once; move and choose a new direction, or shorten the step."""
    running, fresh = s.status == Status.RUNNING, s.num_steps == 0
    trial = s.x + s.length * s.step
    value, grad = f(trial, data)
    square, slope = jnp.sum(grad * grad, axis=0), jnp.sum(grad * s.step, axis=0)
    V, C = sizes(value, data)
    norm = jnp.sqrt(square / C) / jnp.sqrt(V)

    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    falls = value <= s.value + SUFFICIENT * s.length * s.slope
    in_noise = (value <= s.value + s.noise) & (slope <= -FLATTER * s.slope)
    accept = running & finite & (fresh | falls | in_noise)
    failed = running & ~accept & (s.length <= SHORTEST) & ~fresh  # then −g is tried, unless it was that

    overlap = jnp.sum(s.grad * grad, axis=0)
    new_step, descent, plain = _direction(s, grad, square, overlap, slope)
    unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.where(accept, square, s.square), jnp.finfo(grad.dtype).tiny))

    curvature = value - s.value - s.length * s.slope
    shorter = jnp.where(curvature > 0, -s.slope * s.length / (2 * curvature), 0.0)
    shorter = s.length * jnp.clip(jnp.where(finite, shorter, 0.0), 0.1, 0.5)
    num_steps = s.num_steps + running.astype(jnp.int32)
    at = jnp.where(accept, norm, s.norm)
    status = jnp.select(
        [~running, fresh & ~finite, at <= gtol, failed & s.plain, num_steps >= max_steps],
        [s.status, Status.NONFINITE, Status.CONVERGED, Status.STALLED, Status.MAX_STEPS],
        Status.RUNNING,
    )
    pick = lambda new, again, old: jnp.where(accept, new, jnp.where(failed, again, old))
    return _Lanes(
        x=jnp.where(accept, trial, s.x),
        grad=jnp.where(accept, grad, s.grad),
        step=pick(new_step, -s.grad, s.step),
        value=jnp.where(accept, value, s.value),
        norm=at,
        noise=jnp.where(accept, NOISE * (V + jnp.abs(value)), s.noise),
        square=jnp.where(accept, square, s.square),
        slope=pick(-descent, -s.square, s.slope),
        length=pick(jnp.where(plain, unit, 1.0), unit, shorter),
        plain=pick(plain, True, s.plain),
        status=status.astype(jnp.int32),
        num_steps=num_steps,
    )


def _direction(
    s: _Lanes,
    grad: Float[Array, "D B"],
    square: Float[Array, " B"],
    overlap: Float[Array, " B"],
    slope: Float[Array, " B"],
) -> tuple[Float[Array, "D B"], Float[Array, " B"], Bool[Array, " B"]]:
    """Return −H g at the trial point, gᵀH g, and where H is the identity: else BFGS's matrix of one move.

    The pair is (move, y = g − s.grad), and H before it moveᵀy/yᵀy times the identity, if that is positive.
    `square`, `overlap` and `slope` are the products of g with itself, with s.grad and with s.step.
    """
    moved = s.length * slope  # moveᵀ g
    sy = moved - s.length * s.slope
    yy = square - 2 * overlap + s.square
    curved = (s.num_steps > 0) & (sy > jnp.finfo(grad.dtype).eps * yy) & (yy > 0)
    sy, yy = jnp.where(curved, sy, 1.0), jnp.where(curved, yy, 1.0)
    gamma, ratio, yg = sy / yy, moved / sy, square - overlap
    # H g = γ g + along_move move − along_y y.
    along_move, along_y = 2 * ratio - gamma * yg / sy, gamma * ratio
    descent = gamma * square + along_move * moved - along_y * yg
    plain = ~curved | ~(descent > 0)
    on_grad = jnp.where(plain, 1.0, gamma - along_y)
    on_step, on_old = (jnp.where(plain, 0.0, c) for c in (along_move * s.length, along_y))
    step = -(on_grad * grad + on_step * s.step + on_old * s.grad)
    return step, jnp.where(plain, square, descent), plain
