"""The Hessian at a critical point: lowest eigenvalue modulo the symmetry orbit, Morse index, nullity.

The spectrum is that of small blocks, exactly (`model.reduction`): one of the collapsed problem in
r = `rank_bound` feature coordinates, one repeated for each unused coordinate, one repeated for the directions
in which the features of a class differ. So neither N nor d enters the cost. Up to `DENSE_LIMIT` variables the
first block is diagonalised; beyond, Lanczos looks for its lowest eigenvalue, the bound of
`certificate.curvature_floor` shows that a minimum has index 0, and the index of a saddle is not counted. What
comes out is checked in the problem that was asked about: the residual of λ_min is measured there with the
exact Hessian product.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.certificate import curvature_floor
from ufm_jax.model.objective import expand, hessian, logit_gradient, oracle, ravel, unravel
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.reduction import (
    class_columns,
    collapse,
    compress,
    embed,
    feature_frame,
    lift,
    restrict,
    tail_hessian,
    within_class_hessian,
)
from ufm_jax.model.symmetry import orbit_dimension, orbit_projection
from ufm_jax.numerics.derivatives import Vector, dense_matrix
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.status import Status

# An eigenvalue is called zero when |λ| <= ZERO_RTOL ‖H‖ + ZERO_PER_GRAD ‖∇f‖. The first term covers the
# eigen-solver's rounding (about 1e-15 ‖H‖), the second the distance to the exact critical point, which moves
# eigenvalues by ‖∇f‖ times the third derivative over the smallest non-zero eigenvalue.
ZERO_RTOL = 1e-10
ZERO_PER_GRAD = 100.0
DENSE_LIMIT = 2000  # variables of the reduced problem: K up to 31 for d >= K − 1; some seconds a point there
NOT_COUNTED = -1  # an index or a nullity that Lanczos cannot give
BASIS_BYTES = 2**28  # what a Lanczos basis may take: it is held twice
# What a Lanczos search may cost in Hessian products, at 12 K² r flop each: minutes on 2 cores. At K = 1000,
# where gaps between the lowest eigenvalues are 1e-9 of the largest, it ends there, not converged.
LANCZOS_FLOP = 2e12


class Spectrum(NamedTuple):
    """Evidence about the Hessian of f at a (numerically) critical point."""

    lambda_min: Float[Array, ""]  # smallest eigenvalue modulo the orbit: on the complement of its tangent
    residual: Float[
        Array, ""
    ]  # ‖H v − λ_min v‖₂ measured in the problem asked about: an eigenvalue is so near
    direction: Params  # v, ‖v‖ = 1
    # Eigenvalues below −tolerance, or NOT_COUNTED; the name hides tuple.index.
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]  # eigenvalues within ±tolerance, the orbit's included, or NOT_COUNTED
    orbit_dim: Int[Array, ""]
    orbit_residual: Float[Array, ""]  # ‖H Q‖, Q the projection onto the orbit's tangent space
    tolerance: Float[Array, ""]  # below which |λ| is called zero
    resolved: Bool[
        Array, ""
    ]  # no eigenvalue modulo the orbit has tolerance < |λ| < 10 tolerance, orbit is null


class _Block(NamedTuple):
    """Eigenvalues modulo the orbit (ascending, those of the orbit at +∞): all of a block, or its lowest."""

    values: Float[Array, " m"]
    copies: Int[Array, " m"]
    direction: Params  # of the lowest, in the problem asked about
    orbit_residual: Float[Array, ""]
    norm: Float[Array, ""]
    sound: Bool[Array, ""]


def spectrum(prob: Problem, p: Params, rank: Int[Array, ""]) -> Spectrum:
    """Return the spectrum's evidence at a critical point of the given rank (`symmetry.rank`).

    With r ≤ min(d, K): a dense eigen-solve of size 2Kr + K, or Lanczos beyond `DENSE_LIMIT`; dense ones of
    size d (the frame), of 2K where d > r, and of K times r in the full problem where d = r.
    """
    frame = feature_frame(prob, p)
    small, q = compress(collapse(prob), frame, restrict(prob, p))
    dense = small.num_variables <= DENSE_LIMIT
    main = _diagonalised(small, q, rank) if dense else _by_lanczos(small, q, rank)
    blocks = [main._replace(direction=lift(prob, embed(prob, frame, main.direction)))]
    if prob.dim > small.dim:
        blocks.append(_tail(prob, small, q, frame, rank))
    if not prob.collapsed and max(prob.counts) > 1:
        blocks.append(_within(prob, small, q, frame))
    assembled = _assemble(prob, p, rank, blocks)
    if dense:
        return assembled
    at_least = curvature_floor(small, q)
    return assembled._replace(
        index=jnp.where(at_least >= -assembled.tolerance, assembled.index, NOT_COUNTED).astype(jnp.int32),
        nullity=jnp.where(main.sound, assembled.nullity, NOT_COUNTED).astype(jnp.int32),
    )


def _assemble(prob: Problem, p: Params, rank: Int[Array, ""], blocks: list[_Block]) -> Spectrum:
    here = expand(prob, p)
    lowest = jnp.stack([b.values[0] for b in blocks])
    best = jnp.argmin(lowest)
    direction = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *(b.direction for b in blocks))
    values, copies = (jnp.concatenate([getattr(b, name) for b in blocks]) for name in ("values", "copies"))
    orbit_residual = jnp.max(jnp.stack([b.orbit_residual for b in blocks]))
    norm = jnp.max(jnp.stack([b.norm for b in blocks]))
    tolerance = ZERO_RTOL * norm + ZERO_PER_GRAD * jnp.linalg.norm(ravel(here.grad))
    orbit_dim = orbit_dimension(prob, rank)
    null_elsewhere = jnp.sum(jnp.where(jnp.abs(values) <= tolerance, copies, 0))
    unclear = (jnp.abs(values) > tolerance) & (jnp.abs(values) < 10 * tolerance)
    image = ravel(here.hv(direction))
    return Spectrum(
        lambda_min=lowest[best],
        residual=jnp.linalg.norm(image - lowest[best] * ravel(direction)),
        direction=direction,
        index=jnp.sum(jnp.where(values < -tolerance, copies, 0)).astype(jnp.int32),
        nullity=null_elsewhere.astype(jnp.int32) + orbit_dim,
        orbit_dim=orbit_dim,
        orbit_residual=orbit_residual,
        tolerance=tolerance,
        resolved=~jnp.any(unclear)
        & (orbit_residual <= tolerance)
        & jnp.all(jnp.stack([b.sound for b in blocks])),
    )


def _diagonalised(small: Problem, q: Params, rank: Int[Array, ""]) -> _Block:
    """Return all eigenpairs of the reduced problem."""
    eye = jnp.eye(small.dim, dtype=q.W.dtype)
    project = orbit_projection(small, q, eye, rank)
    Q = dense_matrix(lambda v: ravel(project(unravel(small, v))), ravel(q))
    values, vectors, residual = _eigen(hessian(small, q), Q)
    return _block(values, unravel(small, vectors[:, 0]), residual)


def _eigen(H: Float[Array, "m m"], Q: Float[Array, "m m"]) -> tuple[Array, Array, Array]:
    """Return eigenvalues and vectors of H, those in the range of the projection Q at +∞, and ‖H Q‖_F.

    As H Q ≈ 0, adding a multiple of Q moves the orbit's null directions out of the way, and changes the
    other eigenvalues by ‖H Q‖² at most.
    """
    away = 2.0 * jnp.linalg.norm(H) + 1.0
    values, vectors = jnp.linalg.eigh(H + away * Q)
    kept = jnp.where(values > away / 2 + jnp.linalg.norm(H) / 2, jnp.inf, values)
    return kept, vectors, jnp.linalg.norm(H @ Q)


def _block(
    values: Float[Array, " m"],
    direction: Params,
    orbit_residual: Float[Array, ""],
    copies: Int[Array, " m"] | int = 1,
) -> _Block:
    norm = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0))
    copies = jnp.broadcast_to(jnp.asarray(copies, jnp.int32), values.shape)
    return _Block(values, copies, direction, orbit_residual, norm, jnp.asarray(True))


def _by_lanczos(small: Problem, q: Params, rank: Int[Array, ""]) -> _Block:
    """Return the lowest eigenpair of the reduced problem, with the orbit's null directions raised.

    Where `LANCZOS_FLOP` did not suffice the block is not sound: its value is above the lowest eigenvalue.
    """
    key, x, eye = jax.random.key(0), ravel(q), jnp.eye(small.dim, dtype=q.W.dtype)
    project, hv, D = orbit_projection(small, q, eye, rank), oracle(small)(x).hv, small.num_variables
    basis = max(16, min(96, BASIS_BYTES // (D * x.dtype.itemsize)))
    cycles = int(LANCZOS_FLOP / (12 * small.num_classes**2 * small.dim * basis))

    def on_orbit(v: Vector) -> Vector:
        return ravel(project(unravel(small, v)))

    top = extreme_eigenpairs(
        hv, D, which="largest", key=key, rtol=1e-2, basis_size=basis, max_restarts=3, dtype=x.dtype
    )
    low = extreme_eigenpairs(
        lambda v: hv(v) + 2.0 * top.norm * on_orbit(v),
        D,
        key=key,
        rtol=ZERO_RTOL,
        basis_size=basis,
        max_restarts=max(1, min(400, cycles)),
        dtype=x.dtype,
    )
    tangent = on_orbit(jax.random.normal(key, x.shape, x.dtype))
    length = jnp.maximum(jnp.linalg.norm(tangent), jnp.finfo(x.dtype).tiny)
    block = _block(low.values, unravel(small, low.vectors[:, 0]), jnp.linalg.norm(hv(tangent)) / length)
    return block._replace(norm=top.norm, sound=low.status == Status.CONVERGED)


def _tail(
    prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]
) -> _Block:
    """Return the eigenpairs in one unused feature coordinate, for each of the d − r of them."""
    turns = jnp.concatenate([q.W, q.H.T])  # rotations of the used coordinates into the unused one
    used = jnp.arange(small.dim, dtype=jnp.int32) < rank
    lengths = jnp.linalg.norm(turns, axis=0)
    tangent = jnp.where(used, turns / jnp.where(used, lengths, 1.0), 0.0)
    values, vectors, residual = _eigen(tail_hessian(small, logit_gradient(small, q)), tangent @ tangent.T)
    K, unused = small.num_classes, frame[:, -1]
    W, H = jnp.outer(vectors[:K, 0], unused), jnp.outer(unused, vectors[K:, 0])
    direction = lift(prob, Params(W, H, None if q.b is None else jnp.zeros_like(q.b)))
    return _block(values, direction, residual, prob.dim - small.dim)


def _within(prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"]) -> _Block:
    """Return eigenvalues on directions in which the features of one class differ: ≥ λ_H for a convex loss."""
    counts, dtype = jnp.asarray(prob.counts, jnp.int32), q.W.dtype
    if prob.dim > small.dim and prob.loss.certified:
        # A feature coordinate that W does not use gives λ_H itself, the lowest there can be.
        k, vector = jnp.argmax(counts), frame[:, -1]
        values = prob.decay_h[None]
        copies = jnp.asarray([(prob.num_samples - prob.num_classes) * (prob.dim - small.dim)], jnp.int32)
    else:
        spectra, vectors = jax.lax.map(
            lambda column: jnp.linalg.eigh(within_class_hessian(small, q, *column)),
            class_columns(small, q),
            batch_size=min(small.num_classes, 32),
        )
        shown = jnp.where((counts > 1)[:, None], spectra, jnp.inf)
        k = jnp.argmin(shown[:, 0])
        vector = frame[:, : small.dim] @ vectors[k, :, 0]
        order = jnp.argsort(jnp.ravel(shown))
        values, copies = jnp.ravel(shown)[order], jnp.repeat(counts - 1, small.dim)[order]
    first = (jnp.cumsum(counts)[k] - counts[k]).astype(jnp.int32)  # the class's first two samples move apart
    column = jnp.arange(prob.num_columns, dtype=jnp.int32)
    apart = (column == first).astype(dtype) - (column == first + 1).astype(dtype)
    zeros = prob.zeros()
    direction = Params(zeros.W, jnp.outer(vector, apart / jnp.sqrt(2.0).astype(dtype)), zeros.b)
    return _block(values, direction, jnp.zeros((), dtype), copies)
