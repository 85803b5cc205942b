"""f and its gradient at many points at once, the batch last: what a sweep evaluates a hundred times a start.

x is (D, B) in the order of `objective.ravel`, in balanced coordinates: W = τ Ŵ, H = Ĥ/τ, b = β b̂ with
τ = (λ_H/λ_W)^¼ and β = √(s/(λ_b + s)), s = √(λ_W λ_H). Both decays are then s, and near s in b as well; at a
critical point λ_W WᵀW = λ_H HHᵀ becomes ŴᵀŴ = ĤĤᵀ. A first-order search saves from a third (K = 4) to two
thirds (K = 10) of its evaluations in these coordinates.

Products of small matrices are sums of outer products, one term an entry of the contracted index, elementwise
over the batch: XLA fuses them into a vectorised loop.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax.model.problem import Params, Problem
from ufm_jax.numerics.lockstep import Stacked

UNROLLED = 32  # longest contraction that is written out; beyond, batched matrix products are as fast


class Scales(NamedTuple):
    """What differs from lane to lane."""

    strength: Float[Array, " B"]  # s
    decay_b: Float[Array, " B"]  # λ_b
    tilt: Float[Array, " B"]  # τ
    bias: Float[Array, " B"]  # β


def scales(prob: Problem) -> Scales:
    """Return the scales of a problem whose decays have one entry a lane."""
    s = prob.strength
    tilt = (prob.decay_h / prob.decay_w) ** 0.25
    return Scales(s, prob.decay_b, tilt, jnp.sqrt(s / (prob.decay_b + s)))


def balance(prob: Problem, lanes: Scales, x: Float[Array, "D B"]) -> Float[Array, "D B"]:
    """Return the balanced coordinates of points."""
    return jnp.concatenate(_each(prob, x, 1 / lanes.tilt, lanes.tilt, 1 / lanes.bias))


def unbalance(prob: Problem, lanes: Scales, x: Float[Array, "D B"]) -> Float[Array, "D B"]:
    """Undo `balance`."""
    return jnp.concatenate(_each(prob, x, lanes.tilt, 1 / lanes.tilt, lanes.bias))


def gradient_norms(prob: Problem, lanes: Scales, grad: Float[Array, "D B"]) -> Float[Array, " B"]:
    """Return ‖∇f‖₂ with respect to W, H and b where `grad` is the gradient in balanced coordinates."""
    parts = _each(prob, grad**2, lanes.tilt**-2, lanes.tilt**2, lanes.bias**-2)
    return jnp.sqrt(sum(jnp.sum(p, axis=0) for p in parts))


def norm_bounds(
    prob: Problem, grad: Float[Array, "D B"], square: Float[Array, " B"], lanes: Scales
) -> Float[Array, " B"]:
    """Return a bound on `gradient_norms`, at most max(τ, 1/τ)² too large, from `square` = ‖grad‖²."""
    worst = jnp.maximum(lanes.tilt, 1 / lanes.tilt) ** 2
    b = _parts(prob, grad).b
    return jnp.sqrt(worst * square + jnp.maximum(lanes.bias**-2 - worst, 0.0) * jnp.sum(b**2, axis=0))


def stacked(prob: Problem) -> Stacked:
    """Build (x, scales) -> f (B,), ∇f (D, B), x and ∇f in balanced coordinates."""
    K, d, C = prob.num_classes, prob.dim, prob.num_columns

    def f(x: Float[Array, "D B"], lanes: Scales) -> tuple[Float[Array, " B"], Float[Array, "D B"]]:
        B, dtype = x.shape[1], x.dtype
        W, H, b = _parts(prob, x)
        W, H = W.reshape(K, d, B), H.reshape(d, C, B)
        T, weights, factors = (jnp.asarray(a, dtype) for a in (prob.targets, prob.weights, prob.scales))
        T, weights, factors = T[:, :, None], weights[:, None], factors[:, None]
        Z = product(W, H) * factors
        if prob.bias:
            Z = Z + (lanes.bias * b)[:, None, :]
        losses, slope = prob.loss.value_and_slope(Z, T)
        slope = slope * weights
        G = slope * factors
        s, decay_b = lanes.strength, lanes.decay_b * lanes.bias**2
        by_W, by_H = product(G, jnp.swapaxes(H, 0, 1)), product(jnp.swapaxes(W, 0, 1), G)
        grad = [by_W.reshape(K * d, B), by_H.reshape(d * C, B)]
        squares = s * jnp.sum(x**2, axis=0)  # and what b's decay is more than s
        if prob.bias:
            grad.append(lanes.bias * jnp.sum(slope, axis=1) + (decay_b - s) * b)
            squares = squares + (decay_b - s) * jnp.sum(b**2, axis=0)
        return jnp.sum(losses * weights, axis=0) + squares / 2, jnp.concatenate(grad) + s * x

    return f


def _parts(prob: Problem, x: Float[Array, "D B"]) -> Params:
    ends = prob.num_classes * prob.dim, (prob.num_classes + prob.num_columns) * prob.dim
    return Params(x[: ends[0]], x[ends[0] : ends[1]], x[ends[1] :])


def _each(prob: Problem, x: Float[Array, "D B"], w: Array, h: Array, b: Array) -> list[Array]:
    return [factor * part for factor, part in zip((w, h, b), _parts(prob, x), strict=True)]


def product(A: Float[Array, "m k B"], X: Float[Array, "k n B"]) -> Float[Array, "m n B"]:
    """Return the matrix products of two stacks."""
    k = A.shape[1]
    if k > UNROLLED:
        return jnp.einsum("mkb,knb->mnb", A, X)
    total = A[:, 0, None, :] * X[None, 0, :, :]
    for i in range(1, k):
        total = total + A[:, i, None, :] * X[None, i, :, :]
    return total
