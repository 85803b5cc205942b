"""Where searches begin."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from jaxtyping import Key as KeyArray

from ufm_jax.landscape.landscape import START_SCALES, Key, Target
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import lift, rank_bound, space

# Feature dimensions up to which a balanced start is drawn in all of them, of which it uses the first
# `rank_bound`: so a seed gives the rows that it has always given, and beyond, d costs nothing.
DRAWN = 256

Keys = KeyArray[Array, " S"]


def gaussian(prob: Problem, key: Key, scale: Float[Array, ""] | float = 1.0) -> Params:
    """Return independent N(0, scale²) entries in W, H and b."""
    zeros = prob.zeros()
    w_key, h_key, b_key = jax.random.split(key, 3)

    def draw(key: Key, like: Float[Array, "..."]) -> Float[Array, "..."]:
        return scale * jax.random.normal(key, like.shape, like.dtype)

    b = None if zeros.b is None else draw(b_key, zeros.b)
    return Params(draw(w_key, zeros.W), draw(h_key, zeros.H), b)


def gaussian_of_some_scale(prob: Problem, key: Key) -> Params:
    """Return independent N(0, σ²) entries, log σ uniform over `START_SCALES`."""
    scale_key, point_key = jax.random.split(key)
    return gaussian(prob, point_key, log_uniform_scale(scale_key, *START_SCALES))


def draw(prob: Problem, key: Key, number: Int[Array, ""] | int, target: Target) -> Params:
    """Return the start of this number toward a target.

    Toward minima Gaussian, on class means in the coordinates that are searched (`reduction.space`); toward
    saddles `balanced`, of ranks 0..`rank_bound` in turn.
    """
    if target == "minima":
        return lift(prob, gaussian_of_some_scale(space(prob, "minima"), key))
    return balanced(prob, key, start_rank(prob, number))


def start_rank(prob: Problem, number: Int[Array, ""] | int) -> Int[Array, ""]:
    """Return the rank of the start of this number toward saddles."""
    return jnp.asarray(number % (rank_bound(prob) + 1), jnp.int32)


def log_uniform_scale(key: Key, low: float, high: float) -> Float[Array, ""]:
    """Return a scale whose logarithm is uniform between those of `low` and `high`."""
    return jnp.exp(jax.random.uniform(key, minval=np.log(low), maxval=np.log(high)))


def balanced(prob: Problem, key: Key, rank: Int[Array, ""] | int, noise: float = 0.3) -> Params:
    """Return a class-constant point of a rank ≤ `rank_bound`, balanced (λ_W WᵀW ≈ λ_H HHᵀ) up to `noise`.

    Critical points are exactly balanced and class-constant, so such starts reach far more saddles than
    Gaussian ones. Only the first `rank` feature coordinates are non-zero: f is invariant under the
    reflection of a coordinate, so a Newton-type search keeps the others exactly zero. The logits' size is
    log-uniform in 0.1..30.
    """
    K, r, d = prob.num_classes, rank_bound(prob), prob.dim + prob.unused
    drawn = d if d <= DRAWN else r
    size_key, w_key, h_key, b_key = jax.random.split(key, 4)
    logit_size = log_uniform_scale(size_key, 0.1, 30.0)
    used = jnp.where(jnp.arange(r, dtype=jnp.int32) < rank, jnp.sqrt(logit_size / np.sqrt(K)), 0.0)
    A = jax.random.normal(w_key, (K, drawn))[:, :r] * used
    if prob.shift_invariant:  # then 1ᵀW = 0 at every critical point
        A = A - jnp.mean(A, axis=0)
    B = A + noise * jax.random.normal(h_key, (K, drawn))[:, :r] * used
    tilt = (prob.decay_h / prob.decay_w) ** 0.25
    b = noise * jax.random.normal(b_key, (K,)) if prob.bias else None
    return lift(prob, Params(A * tilt, B.T / tilt, b))


def mean_etf(prob: Problem) -> Params:
    """Return W and H along one simplex ETF with the logit gap of N/K samples a class, at least 1; b = 0.

    In fewer than K − 1 dimensions, the projection of one. Of a collapsed problem.
    """
    K, d, mean_count = prob.num_classes, prob.dim, prob.num_samples / prob.num_classes
    theta = np.sqrt(mean_count) * prob.strength
    gap = jnp.log(jnp.maximum(1.0 / theta - K + 1.0, math.e))
    frame = simplex_etf(K, max(d, K - 1))[:, :d]
    tilt = (mean_count * prob.decay_h / prob.decay_w) ** 0.5
    W = jnp.sqrt((K - 1) / K * tilt * gap) * jnp.asarray(frame, theta.dtype)
    b = jnp.zeros(K, theta.dtype) if prob.bias else None
    return Params(W, (W / tilt).T * jnp.asarray(np.array(prob.counts, float) ** 0.5, theta.dtype), b)


def near(prob: Problem, key: Key, p: Params, radius: Float[Array, ""] | float) -> Params:
    """Return p plus independent N(0, radius²) entries."""
    return jax.tree.map(jnp.add, p, gaussian(prob, key, radius))
