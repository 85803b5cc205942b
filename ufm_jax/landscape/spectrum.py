"""The Hessian at a critical point: lowest eigenvalue modulo the symmetry orbit, Morse index, nullity.

The spectrum is that of small dense blocks, exactly (`model.reduction`): one of the collapsed problem in
r = `rank_bound` feature coordinates, one repeated for each unused coordinate, one repeated for the directions
in which the features of a class differ. So neither N nor d enters the cost. What comes out is then checked
in the problem that was asked about: the residual of λ_min is measured there with the exact Hessian product.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.model.objective import expand, hessian, logit_gradient, ravel, unravel
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.reduction import (
    collapse,
    compress,
    embed,
    lift,
    restrict,
    tail_hessian,
    within_class_hessians,
)
from ufm_jax.model.symmetry import feature_frame, orbit_dimension, orbit_tangent

# An eigenvalue is called zero when |λ| <= ZERO_RTOL ‖H‖ + ZERO_PER_GRAD ‖∇f‖. The first term covers the
# eigen-solver's rounding (about 1e-15 ‖H‖), the second the distance to the exact critical point, which moves
# eigenvalues by ‖∇f‖ times the third derivative over the smallest non-zero eigenvalue.
ZERO_RTOL = 1e-10
ZERO_PER_GRAD = 100.0


class Spectrum(NamedTuple):
    """Evidence about the Hessian of f at a (numerically) critical point."""

    lambda_min: Float[Array, ""]  # smallest eigenvalue modulo the orbit: on the complement of its tangent
    residual: Float[
        Array, ""
    ]  # ‖H v − λ_min v‖₂ measured in the problem asked about: an eigenvalue is so near
    direction: Params  # v, ‖v‖ = 1
    # Eigenvalues below −tolerance; the name hides tuple.index.
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]  # eigenvalues within ±tolerance, the orbit's included
    orbit_dim: Int[Array, ""]
    orbit_residual: Float[Array, ""]  # largest ‖H q‖ over unit tangents q of the orbit
    tolerance: Float[Array, ""]  # below which |λ| is called zero
    resolved: Bool[
        Array, ""
    ]  # no eigenvalue modulo the orbit has tolerance < |λ| < 10 tolerance, orbit is null


class _Block(NamedTuple):
    """Eigenvalues modulo the orbit (ascending, deflated ones at +∞) and the lowest eigenvector."""

    values: Array  # (m,)
    vector: Array  # (m,), or in feature space for the within-class block
    orbit_residual: Float[Array, ""]
    norm: Float[Array, ""]


def spectrum(prob: Problem, p: Params, rank: Int[Array, ""]) -> Spectrum:
    """Return the spectrum's evidence at a critical point of the given rank (`symmetry.rank`).

    Costs dense eigen-solves of size 2Kr + K, 2K and K times r, with r ≤ min(d, K); K up to about 30.
    """
    frame = feature_frame(prob, p)
    small, q = compress(collapse(prob), frame, restrict(prob, p))
    r, K = small.dim, small.num_classes
    main = _eigen(hessian(small, q), orbit_tangent(small, q, jnp.eye(r, dtype=p.W.dtype), rank))
    directions = [lift(prob, embed(prob, frame, unravel(small, main.vector)))]
    blocks, copies = [main], [jnp.ones_like(main.values, dtype=jnp.int32)]
    if prob.dim > r:
        tail = _eigen(tail_hessian(small, logit_gradient(small, q)), _tail_tangent(q, rank))
        blocks.append(tail)
        copies.append(jnp.full(2 * K, prob.dim - r, jnp.int32))
        unused = frame[:, -1]
        directions.append(
            lift(
                prob,
                Params(
                    jnp.outer(tail.vector[:K], unused),
                    jnp.outer(unused, tail.vector[K:]),
                    None if p.b is None else jnp.zeros_like(p.b),
                ),
            )
        )
    if not prob.collapsed and max(prob.counts) > 1:
        within, multiplicities, direction = _within(prob, small, q, frame)
        blocks.append(within)
        copies.append(multiplicities)
        directions.append(direction)
    return _assemble(prob, p, rank, blocks, copies, directions)


def _assemble(
    prob: Problem,
    p: Params,
    rank: Int[Array, ""],
    blocks: list[_Block],
    copies: list[Array],
    directions: list[Params],
) -> Spectrum:
    here = expand(prob, p)
    lowest = jnp.stack([b.values[0] for b in blocks])
    best = jnp.argmin(lowest)
    direction = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *directions)
    values, copies_all = jnp.concatenate([b.values for b in blocks]), jnp.concatenate(copies)
    norm = jnp.max(jnp.stack([b.norm for b in blocks]))
    orbit_residual = jnp.max(jnp.stack([b.orbit_residual for b in blocks]))
    tolerance = ZERO_RTOL * norm + ZERO_PER_GRAD * jnp.linalg.norm(ravel(here.grad))
    orbit_dim = orbit_dimension(prob, rank)
    null_elsewhere = jnp.sum(jnp.where(jnp.abs(values) <= tolerance, copies_all, 0))
    unclear = (jnp.abs(values) > tolerance) & (jnp.abs(values) < 10 * tolerance)
    image = ravel(here.hv(direction))
    return Spectrum(
        lambda_min=lowest[best],
        residual=jnp.linalg.norm(image - lowest[best] * ravel(direction)),
        direction=direction,
        index=jnp.sum(jnp.where(values < -tolerance, copies_all, 0)).astype(jnp.int32),
        nullity=null_elsewhere.astype(jnp.int32) + orbit_dim,
        orbit_dim=orbit_dim,
        orbit_residual=orbit_residual,
        tolerance=tolerance,
        resolved=~jnp.any(unclear) & (orbit_residual <= tolerance),
    )


def _eigen(H: Float[Array, "m m"], Q: Float[Array, "m q"]) -> _Block:
    """Eigen-decompose H on the complement of its null vectors Q, orthonormal or zero columns."""
    HQ = H @ Q
    deflated = H - Q @ HQ.T - HQ @ Q.T + Q @ (Q.T @ HQ) @ Q.T
    away = 2.0 * jnp.linalg.norm(H) + 1.0
    values, vectors = jnp.linalg.eigh(deflated + away * Q @ Q.T)
    kept = jnp.where(values > away / 2 + jnp.linalg.norm(H) / 2, jnp.inf, values)
    norm = jnp.max(jnp.where(jnp.isfinite(kept), jnp.abs(kept), 0.0))
    return _Block(kept, vectors[:, 0], jnp.max(jnp.linalg.norm(HQ, axis=0), initial=0.0), norm)


def _tail_tangent(q: Params, rank: Int[Array, ""]) -> Float[Array, "twoK r"]:
    """Rotations of the used feature coordinates into one unused: (W u_i, H̃ᵀ u_i), i < rank, normalised."""
    turns = jnp.concatenate([q.W, q.H.T])
    used = jnp.arange(q.W.shape[1], dtype=jnp.int32) < rank
    lengths = jnp.linalg.norm(turns, axis=0)
    return jnp.where(used, turns / jnp.where(used, lengths, 1.0), 0.0)


def _within(
    prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"]
) -> tuple[_Block, Int[Array, " m"], Params]:
    """Directions in which the features of one class differ; eigenvalues are positive for a convex loss."""
    counts = jnp.asarray(prob.counts, jnp.int32)
    values, vectors = jnp.linalg.eigh(within_class_hessians(small, q))
    r = small.dim
    exists = (counts > 1)[:, None]
    shown = jnp.where(exists, values, jnp.inf)
    unused = jnp.asarray([prob.decay_h] * (prob.dim > r), values.dtype)  # feature coordinates W does not use
    k = jnp.argmin(shown[:, 0])
    many = max(range(len(prob.counts)), key=prob.counts.__getitem__)
    vector = frame[:, :r] @ vectors[k, :, 0]
    if prob.dim > r:
        uses_tail = prob.decay_h < shown[k, 0]
        k = jnp.where(uses_tail, many, k).astype(k.dtype)
        vector = jnp.where(uses_tail, frame[:, -1], vector)
    first = (jnp.cumsum(counts)[k] - counts[k]).astype(jnp.int32)  # the class's first two samples move apart
    column = jnp.arange(prob.num_columns, dtype=jnp.int32)
    sign = ((column == first).astype(values.dtype) - (column == first + 1).astype(values.dtype)) / jnp.sqrt(
        2.0
    )
    zeros = prob.zeros()
    direction = Params(zeros.W, jnp.outer(vector, sign), zeros.b)
    flat = jnp.concatenate([jnp.ravel(shown), unused])
    copies = jnp.concatenate(
        [
            jnp.repeat(counts - 1, r),
            jnp.full(unused.size, (prob.num_samples - prob.num_classes) * (prob.dim - r), jnp.int32),
        ]
    )
    order = jnp.argsort(flat)
    norm = jnp.max(jnp.where(jnp.isfinite(flat), jnp.abs(flat), 0.0))
    return _Block(flat[order], vector, jnp.zeros((), values.dtype), norm), copies[order], direction
