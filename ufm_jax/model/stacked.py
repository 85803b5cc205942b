"""f and its gradient at many points at once, the batch last: what a sweep evaluates a hundred times a start.

x is (D, B) in the order of `objective.ravel`. Products of small matrices are sums of outer products, one term
an entry of the contracted index, elementwise over the batch: XLA fuses them into a vectorised loop.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax.model.problem import Problem
from ufm_jax.numerics.lockstep import Stacked

UNROLLED = 32  # longest contraction that is written out; beyond, batched matrix products are as fast


def stacked(prob: Problem) -> Stacked:
    """Build (x, decays) -> f (B,), ∇f (D, B), with λ_W, λ_H, λ_b from `decays` and all else from `prob`."""
    K, d, C = prob.num_classes, prob.dim, prob.num_columns

    def f(
        x: Float[Array, "D B"], decays: Float[Array, "3 B"]
    ) -> tuple[Float[Array, " B"], Float[Array, "D B"]]:
        B, dtype = x.shape[1], x.dtype
        W, H = x[: K * d].reshape(K, d, B), x[K * d : (K + C) * d].reshape(d, C, B)
        b = x[(K + C) * d :]
        T, weights, scales = (jnp.asarray(a, dtype) for a in (prob.targets, prob.weights, prob.scales))
        T, weights, scales = T[:, :, None], weights[:, None], scales[:, None]
        Z = product(W, H) * scales
        if prob.bias:
            Z = Z + b[:, None, :]
        slope = prob.loss.slope(Z, T) * weights
        G = slope * scales
        grad = [
            (product(G, jnp.swapaxes(H, 0, 1)) + decays[0] * W).reshape(K * d, B),
            (product(jnp.swapaxes(W, 0, 1), G) + decays[1] * H).reshape(d * C, B),
        ]
        squares = decays[0] * jnp.sum(W**2, axis=(0, 1)) + decays[1] * jnp.sum(H**2, axis=(0, 1))
        if prob.bias:
            grad.append(jnp.sum(slope, axis=1) + decays[2] * b)
            squares = squares + decays[2] * jnp.sum(b**2, axis=0)
        value = jnp.sum(prob.loss.value(Z, T) * weights, axis=0) + squares / 2
        return value, jnp.concatenate(grad)

    return f


def product(A: Float[Array, "m k B"], X: Float[Array, "k n B"]) -> Float[Array, "m n B"]:
    """Return the matrix products of two stacks."""
    k = A.shape[1]
    if k > UNROLLED:
        return jnp.einsum("mkb,knb->mnb", A, X)
    total = A[:, 0, None, :] * X[None, 0, :, :]
    for i in range(1, k):
        total = total + A[:, i, None, :] * X[None, i, :, :]
    return total
