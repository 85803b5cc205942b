"""Many roots of gradients at once: Levenberg–Marquardt on a pool of lanes that advance together (`pool`).

As `rootfind.levenberg_marquardt`, in which the signs of curvature play no part: minima, saddles and maxima
all attract. Two things are more. Some of the variables may be eliminated by whoever evaluates the gradient;
and a lane that comes down too slowly is pushed along its gradient and begins again there. It is then near a
local minimum of ‖g‖ with g ≠ 0, as a fold is: H has a null vector, and g is along it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ufm_jax.numerics.derivatives import floating
from ufm_jax.numerics.pool import Ended, pooled
from ufm_jax.numerics.solve import product, solve_positive
from ufm_jax.numerics.status import Status

FIRST_DAMPING = 1e-3  # in units of the largest column of H, squared
SLOW, PATIENCE = 0.9, 8  # so often may ‖g‖² keep more than this share (each step that is better forgives one)
# Pushes go down, up, down, … by lengths that grow. Points of the feature model are 20 to 50 long; of first
# lengths 1 to 12 and factors 1.2 to 2 these left the fewest lanes behind at K = 4, 6 and 10. Shorter pushes
# fall back into the same fold more often, and longer ones go astray.
PUSH, FURTHER = 9.0, -1.3
FAR_BELOW = 1e-3  # of `gtol`: no further step is tried


class Expanded(NamedTuple):
    """One evaluation of a batch."""

    x: Float[Array, "D B"]  # its last D − n rows as they should be, given the others
    value: Float[Array, " B"]
    grad: Float[Array, "n B"]  # with respect to the first n variables
    hess: Float[Array, "n n B"]
    norm: Float[Array, " B"]  # ‖∇f‖ over all variables, in the units in which `gtol` is
    settled: Bool[Array, " B"]  # `grad` is that of the others' best values, near enough


Expand = Callable[[Float[Array, "D B"], Any], Expanded]


class _Lanes(NamedTuple):
    x: Float[Array, "D B"]
    value: Float[Array, " B"]
    grad: Float[Array, "n B"]
    hess: Float[Array, "n n B"]
    norm: Float[Array, " B"]
    settled: Bool[Array, " B"]
    damping: Float[Array, " B"]
    push: Float[Array, " B"]  # length of the next, with its sign
    slow: Int[Array, " B"]
    status: Int[Array, " B"]
    num_steps: Int[Array, " B"]


def marquardt(
    expand: Expand,
    starts: Shaped[Array, "D S"],
    data: Any,
    count: Int[Array, ""] | int,
    *,
    free: int,
    width: int,
    gtol: float,
    max_steps: int = 300,
) -> Ended:
    """Find roots of ∇f from the first `count` of S starts, `width` at a time, by steps −(H² + μI)⁻¹ H g.

    `expand` takes points and constants of the lanes, out of `data`. The first `free` variables are
    searched in; the others follow (`Expanded.x`), and g and H are those of what is left. Having met `gtol`,
    one more step is kept if it lowers ‖g‖. A lane whose start is not finite ends as NONFINITE; the
    results of starts beyond `count` mean nothing.

    Raises:
        ValueError: if `starts` are not floating-point.
    """
    starts = floating(starts, "starts")

    def fresh(x: Float[Array, "D B"], given: Bool[Array, " B"]) -> _Lanes:
        row, none = jnp.zeros_like(x[0]), jnp.zeros(x.shape[1], jnp.int32)
        status = jnp.where(given, Status.RUNNING, Status.CONVERGED).astype(jnp.int32)
        grad, infinite = jnp.zeros_like(x[:free]), jnp.full_like(row, jnp.inf)
        hess = jnp.zeros((free, *grad.shape), x.dtype)
        first, push = jnp.full_like(row, FIRST_DAMPING), jnp.full_like(row, -PUSH)
        return _Lanes(x, row, grad, hess, infinite, none > 0, first, push, none, status, none)

    advance = lambda lanes, here: _advance(expand, here, lanes, gtol, max_steps)
    return pooled(fresh, advance, starts, data, count, width)


def _advance(expand: Expand, data: Any, s: _Lanes, gtol: float, max_steps: int) -> _Lanes:
    """Take one step of every lane, or push it, or let its other variables settle where it is."""
    n, tiny = len(s.grad), jnp.finfo(s.grad.dtype).tiny
    least = 10 * jnp.finfo(s.grad.dtype).eps
    running, pushed = s.status == Status.RUNNING, s.settled & (s.slow >= PATIENCE)
    merit = jnp.sum(s.grad**2, axis=0)
    step, predicted = _step(s, jnp.maximum(jnp.max(jnp.sum(s.hess**2, axis=0), axis=0), tiny))
    along = s.push / jnp.sqrt(jnp.maximum(merit, tiny)) * s.grad
    move = jnp.where(s.settled, jnp.where(pushed, along, step), 0.0)
    there = expand(jnp.concatenate([s.x[:n] + move, s.x[n:]]), data)

    left = jnp.sum(there.grad**2, axis=0)
    ratio = (merit - left) / predicted
    finite = jnp.isfinite(there.norm) & jnp.isfinite(left)
    met = s.settled & (s.norm <= gtol)  # so this was the step more
    better = there.settled & jnp.where(met, there.norm < s.norm, ratio > 1e-4)
    accept = running & finite & (~s.settled | pushed | better)
    easier = s.damping * jnp.clip(1 - (2 * ratio - 1) ** 3, 0.05, 2.0)
    damping = jnp.where(better & finite, jnp.maximum(easier, least), 4 * jnp.maximum(s.damping, least))
    slow = jnp.where(there.settled & (left <= SLOW * merit), jnp.maximum(s.slow - 1, 0), s.slow + 1)
    anew = ~s.settled | pushed

    num_steps = s.num_steps + running.astype(jnp.int32)
    far_below = accept & there.settled & (there.norm <= FAR_BELOW * gtol)
    status = jnp.select(
        [~running, ~finite & ~s.settled, met | far_below, num_steps >= max_steps],
        [s.status, Status.NONFINITE, Status.CONVERGED, Status.MAX_STEPS],
        Status.RUNNING,
    )
    pick = lambda new, old: jnp.where(accept, new, old)
    x, value, grad, hess, norm, settled = (pick(new, old) for new, old in zip(there, s[:6], strict=True))
    return _Lanes(
        x=x,
        value=value,
        grad=grad,
        hess=hess,
        norm=norm,
        settled=settled,
        damping=jnp.where(anew, FIRST_DAMPING, damping),
        push=jnp.where(pushed, FURTHER * s.push, s.push),
        slow=jnp.where(anew, 0, slow),
        status=status.astype(jnp.int32),
        num_steps=num_steps,
    )


def _step(s: _Lanes, size: Float[Array, " B"]) -> tuple[Float[Array, "n B"], Float[Array, " B"]]:
    """Return −(H² + μI)⁻¹ H g, μ in units of `size`, and by how much ‖g‖² should fall along it."""
    one = s.grad.shape[1] == 1  # of one lane, linear algebra is a library's
    H, g = (s.hess[..., 0], s.grad) if one else (s.hess, s.grad[:, None])
    mu = s.damping * size
    eye = jnp.eye(len(g), dtype=g.dtype).reshape(len(g), len(g), *(1,) * (H.ndim - 2))
    Hg = product(H, g)
    step = -solve_positive(product(H, H) + (mu[0] if one else mu) * eye, Hg)
    Hg, step = (Hg, step) if one else (Hg[:, 0], step[:, 0])
    return step, mu * jnp.sum(step**2, axis=0) - jnp.sum(step * Hg, axis=0)
