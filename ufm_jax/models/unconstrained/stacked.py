"""f and its gradient at many points at once, the batch last: what a sweep evaluates a hundred times a start.

x is (D, B) in the order of `point.ravel`, in even coordinates (`sizes`). A first-order search saves from a
third (K = 4) to two thirds (K = 10) of its evaluations in them.

Products of small matrices are sums of outer products, one term an entry of the contracted index, elementwise
over the batch: XLA fuses them into a vectorised loop. Larger ones are matrix products, one a point.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax import devices
from ufm_jax.landscape.landscape import Batched
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.sizes import scale, units
from ufm_jax.numerics.lockstep import Stacked
from ufm_jax.numerics.solve import product

# Multiplications in a product W H up to which it is written out; beyond, it is a matrix product a lane.
# On class means the first is 1.6 times faster at K = 16 and slower at K = 18 (2 cores, a core's seconds).
WRITTEN_OUT = 4096
# Numbers in the logits of a batch up to which its arrays stay in the first cache: with half as many again
# descents take two to three times as long (K = 12, 14, 16).
LOGITS = 2**13
WIDTHS = 256, 128, 64, 32, 16
# Multiplications behind a number of Z, times classes, up to which sums over classes are best left to XLA's
# fusions: 10% to 16% faster at K = 4 to 10, 30% slower at K = 11.
SHORT = 90


class Lanes(NamedTuple):
    """What may differ from lane to lane; single numbers do not."""

    strength: Float[Array, "*B"]  # s
    decay_b: Float[Array, "*B"]  # λ_b
    bias: Float[Array, "*B"]  # β


def batched(prob: Problem) -> Batched:
    """Return f at many points in even coordinates, for a problem whose decays have one entry a lane."""
    factors, lanes = scale(prob), lanes_of(prob)
    beta = lanes.bias
    return Batched(
        at=stacked(prob),
        data=lanes,
        sizes=lambda value, lanes: (units(prob, value).value, lanes.strength),
        into=lambda x: jnp.concatenate(_each(prob, x, 1 / factors.W, 1 / factors.H, 1 / beta)),
        back=lambda x: jnp.concatenate(_each(prob, x, factors.W, factors.H, beta)),
        width=batch_size(prob),
    )


def lanes_of(prob: Problem) -> Lanes:
    """Return what may differ from lane to lane."""
    beta = scale(prob).b
    return Lanes(prob.strength, prob.decay_b, jnp.ones_like(prob.strength) if beta is None else beta)


def stacked(prob: Problem) -> Stacked:
    """Build (x, lanes) -> f (B,), ∇f (D, B), x and ∇f in even coordinates."""
    at = partial(_value_and_grad, prob)
    if _written_out(prob):
        return at

    def each(x: Float[Array, "D B"], lanes: Lanes) -> tuple[Float[Array, " B"], Float[Array, "D B"]]:
        own = jax.tree.map(lambda a: 0 if a.ndim else None, lanes)
        return jax.vmap(at, in_axes=(1, own), out_axes=(0, 1))(x, lanes)

    return each


def batch_size(prob: Problem) -> int:
    """Return how many points to evaluate at once: on a CPU what a core's cache holds, else a device's fill.

    A function of the problem's sizes and the backend alone, since another batch may round otherwise.
    """
    if devices.platform() != "cpu":
        return max(256, min(2**16, 2**28 // prob.num_variables))
    if not _written_out(prob):
        return 1
    logits = prob.num_classes * prob.num_columns
    return next((width for width in WIDTHS if width * logits <= LOGITS), WIDTHS[-1])


def short_sums(prob: Problem) -> bool:
    """True where XLA need not call its library for sums; see `SHORT`."""
    return _written_out(prob) and prob.num_classes * prob.dim <= SHORT


def _written_out(prob: Problem) -> bool:
    return prob.num_classes * prob.dim * prob.num_columns <= WRITTEN_OUT


def _value_and_grad(
    prob: Problem, x: Float[Array, "D *B"], lanes: Lanes
) -> tuple[Float[Array, "*B"], Float[Array, "D *B"]]:
    """Return f and ∇f of a batch, or of one point."""
    K, d, C = prob.num_classes, prob.dim, prob.num_columns
    batch, one = x.shape[1:], (1,) * (x.ndim - 1)
    W, H, b = _parts(prob, x)
    W, H = W.reshape(K, d, *batch), H.reshape(d, C, *batch)
    T, weights, factors = (jnp.asarray(a, x.dtype) for a in (prob.targets, prob.weights, prob.scales))
    T, weights, factors = T.reshape(K, C, *one), weights.reshape(C, *one), factors.reshape(C, *one)
    Z = product(W, H) * factors
    if prob.bias:
        Z = Z + (lanes.bias * b)[:, None]
    losses, slope = prob.loss.value_and_slope(Z, T)
    slope = slope * weights
    G = slope * factors
    s, decay_b = lanes.strength, lanes.decay_b * lanes.bias**2
    grad = [
        product(G, jnp.swapaxes(H, 0, 1)).reshape(K * d, *batch),
        product(jnp.swapaxes(W, 0, 1), G).reshape(d * C, *batch),
    ]
    squares = s * jnp.sum(x**2, axis=0)  # and what b's decay is more than s
    if prob.bias:
        grad.append(lanes.bias * jnp.sum(slope, axis=1) + (decay_b - s) * b)
        squares = squares + (decay_b - s) * jnp.sum(b**2, axis=0)
    return jnp.sum(losses * weights, axis=0) + squares / 2, jnp.concatenate(grad) + s * x


def _parts(prob: Problem, x: Float[Array, "D *B"]) -> tuple[Array, Array, Array]:
    """Return the rows of W, H and b, none for b where there is no bias."""
    ends = prob.num_classes * prob.dim, (prob.num_classes + prob.num_columns) * prob.dim
    return x[: ends[0]], x[ends[0] : ends[1]], x[ends[1] :]


def _each(prob: Problem, x: Float[Array, "D B"], w: Array, h: Array, b: Array) -> list[Array]:
    return [factor * part for factor, part in zip((w, h, b), _parts(prob, x), strict=True)]
