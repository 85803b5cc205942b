"""The objective f(W, H, b) and its exact first and second derivatives.

    f(W,H,b) = Σ_i ω_i ℓ(σ_i W h_i + b, t_i) + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖²

over the columns h_i of H (Zhu et al. 2021, eq. 5). In the full problem ω_i = 1/N and σ_i = 1; in the
collapsed one ω_k = n_k/N and σ_k = 1/√n_k (`reduction`), so one code serves both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax.landscape.point import Point
from ufm_jax.models.unconstrained.problem import Params, Problem

LARGE = 2**22  # numbers in H, 32 MiB: beyond, memory counts more than a microsecond


class Columns(NamedTuple):
    """Constants of the columns, in the dtype of the parameters."""

    T: Float[Array, "K C"]  # targets
    weights: Float[Array, " C"]  # ω
    scales: Float[Array, " C"]  # σ


def columns(prob: Problem, dtype: jnp.dtype) -> Columns:
    """Return the constants of the columns."""
    T = prob.loss.targets_of(members(prob, dtype).T)
    return Columns(T, *(jnp.asarray(a, dtype) for a in (prob.weights, prob.scales)))


def members(prob: Problem, dtype: jnp.dtype) -> Float[Array, "C K"]:
    """Return 1 where a column belongs to a class, else 0.

    Made from labels in traced code: as a constant it would be as large as all logits, on every device.
    """
    labels = jnp.asarray(prob.labels, jnp.int32)
    return (labels[:, None] == jnp.arange(prob.num_classes, dtype=jnp.int32)).astype(dtype)


def logits(prob: Problem, p: Params) -> Float[Array, "K C"]:
    """Return Z with columns σ_i W h_i + b."""
    Z = (p.W @ p.H) * columns(prob, p.W.dtype).scales
    return Z if p.b is None else Z + p.b[:, None]


def square_sum(a: Array) -> Float[Array, ""]:
    """Return ‖a‖², of a large array row by row: XLA may hold all squares."""
    return jnp.sum(jax.lax.map(lambda row: jnp.sum(row**2), a)) if a.size > LARGE else jnp.sum(a**2)


def decay(prob: Problem, p: Params) -> Float[Array, ""]:
    """Return the weight-decay part of f."""
    squares = prob.decay_w * jnp.sum(p.W**2) + prob.decay_h * square_sum(p.H)
    return (squares if p.b is None else squares + prob.decay_b * jnp.sum(p.b**2)) / 2


def objective(prob: Problem) -> Callable[[Params], Float[Array, ""]]:
    """Build Params -> f, pure and jittable; stable for logits of any finite size.

    f raises ValueError naming W, H or b, if its shape or dtype is not the problem's.
    """

    def f(p: Params) -> Float[Array, ""]:
        p = prob.check(p)
        cols = columns(prob, p.W.dtype)
        return jnp.dot(cols.weights, prob.loss.value(logits(prob, p), cols.T)) + decay(prob, p)

    return f


def logit_gradient(prob: Problem, p: Params) -> Float[Array, "K C"]:
    """Return G with columns ω_i σ_i ∇_z ℓ: ∂(loss)/∂(W H). Full problem: (P − T)/N for cross-entropy."""
    cols = columns(prob, p.W.dtype)
    return prob.loss.slope(logits(prob, p), cols.T) * (cols.weights * cols.scales)


def expand(prob: Problem, p: Params) -> Point:
    """Return f, its gradient and its exact Hessian-vector product at p, in closed form.

    What it shares is G = `logit_gradient`.
    With Ż = σ(ẆH + WḢ) + ḃ, Ġ = ω ∇²ℓ Ż:  Hv = (λ_W Ẇ + σĠHᵀ + GḢᵀ, λ_H Ḣ + Wᵀσ Ġ + ẆᵀG, λ_b ḃ + Ġ1).
    """
    cols = columns(prob, p.W.dtype)
    Z = logits(prob, p)
    value = jnp.dot(cols.weights, prob.loss.value(Z, cols.T)) + decay(prob, p)
    slope = prob.loss.slope(Z, cols.T) * cols.weights
    G = slope * cols.scales
    curvature = prob.loss.curvature(Z, cols.T)
    grad = Params(
        G @ p.H.T + prob.decay_w * p.W,
        p.W.T @ G + prob.decay_h * p.H,
        None if p.b is None else jnp.sum(slope, axis=1) + prob.decay_b * p.b,
    )

    def hv(v: Params) -> Params:
        dZ = (v.W @ p.H + p.W @ v.H) * cols.scales
        dslope = curvature(dZ if v.b is None else dZ + v.b[:, None]) * cols.weights
        dG = dslope * cols.scales
        return Params(
            dG @ p.H.T + G @ v.H.T + prob.decay_w * v.W,
            p.W.T @ dG + v.W.T @ G + prob.decay_h * v.H,
            None if v.b is None else jnp.sum(dslope, axis=1) + prob.decay_b * v.b,
        )

    return Point(p, value, grad, hv, shared=G)
