"""The Hessian at a critical point: lowest eigenvalue modulo the symmetry orbit, Morse index, nullity.

The spectrum is that of small blocks, exactly (`reduction`): one of the collapsed problem in
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
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.models.unconstrained.certificate import curvature_floor
from ufm_jax.models.unconstrained.objective import expand, hessian, logit_gradient, oracle, ravel, unravel
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import (
    class_columns,
    collapse,
    compress,
    embed,
    feature_frame,
    lift,
    restrict,
    tail_hessian,
    within_class_deviation,
    within_class_hessian,
)
from ufm_jax.models.unconstrained.symmetry import orbit_dimension, orbit_projection, orbit_radius
from ufm_jax.numerics.derivatives import Vector, dense_matrix
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.status import Status

# An eigenvalue is called zero when |λ| <= ZERO_RTOL ‖H‖ + (ZERO_PER_GRAD + TURN / ρ) ‖∇f‖. The first term
# covers the eigen-solver's rounding (about 1e-15 ‖H‖), the second the distance to the exact critical point,
# which moves eigenvalues by ‖∇f‖ times the third derivative over the smallest non-zero eigenvalue. The third
# holds along the orbit of a small point: ∇f(e^{tA} x) = e^{tA} ∇f(x) for A skew, so H A x = A ∇f, and along a
# rotation in one plane ‖H v‖ ≤ ‖∇f‖/ρ, ρ the least ‖A x‖ (`symmetry.orbit_radius`); TURN is room for many.
ZERO_RTOL = 1e-10
ZERO_PER_GRAD = 100.0
TURN = 10.0
# A negative eigenvalue −c at a point not quite critical need not be that of the critical point near by. Where
# an orbit is born from another (Kθ = 1), f is −c x²/2 + q x⁴/24 along some direction, q of order one (even,
# by a reflection), and its slope stays below c^{3/2} (8/9q)^{1/2} from one critical point to the other: only
# if c is well beyond (q ‖∇f‖²)^{1/3} is it known which of them is near. Where the gap is closed, a saddle
# would be within GAP_TOL of the global minimum, and Kantorovich's condition must hold: c² > ‖∇f‖, third
# derivatives being of order one.
FLAT = 10.0
DENSE_LIMIT = 2000  # variables of the reduced problem: K up to 31 for d >= K − 1; some seconds a point there
NOT_COUNTED = -1  # an index or a nullity that nobody counted
APART_RTOL = 1e-6  # features of a class that differ by more, relative to 1 + ‖H‖, are not one
BASIS_BYTES = 2**28  # what a Lanczos basis may take: it is held twice
# What a Lanczos search may cost in Hessian products, at 12 K² r flop each: minutes on 2 cores. At K = 1000,
# where gaps between the lowest eigenvalues are 1e-9 of the largest, it ends there, not converged.
LANCZOS_FLOP = 2e12


class Spectrum(NamedTuple):
    """Evidence about the Hessian of f at a (numerically) critical point."""

    lambda_min: Float[Array, ""]  # smallest eigenvalue of f modulo the orbit: on its tangent's complement
    residual: Float[Array, ""]  # ‖H v − λ_min v‖₂ of its eigenvector v, measured: an eigenvalue is so near
    direction: Params  # the lowest eigenvector that the problem asked about has room for, ‖·‖ = 1
    # Eigenvalues below −tolerance, or NOT_COUNTED; the name hides tuple.index.
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]  # eigenvalues within ±tolerance, the orbit's included, or NOT_COUNTED
    orbit_dim: Int[Array, ""]
    orbit_residual: Float[Array, ""]  # ‖H Q‖, Q the projection onto the orbit's tangent space
    tolerance: Float[Array, ""]  # below which |λ| is called zero
    clear: Bool[
        Array, ""
    ]  # no eigenvalue is negative and near the tolerance or in `noise`; the orbit is null
    resolved: Bool[Array, ""]  # and no positive one, modulo the orbit, is near the tolerance


class _Block(NamedTuple):
    """Eigenvalues modulo the orbit (ascending, those of the orbit at +∞): all of a block, or its lowest."""

    values: Float[Array, " m"]
    copies: Int[Array, " m"]
    direction: Params | None  # of the lowest, in the problem asked about; None where that has no room for it
    residual: Float[Array, ""]  # of the lowest, where there is no direction to measure it along
    orbit_residual: Float[Array, ""]
    norm: Float[Array, ""]
    sound: Bool[Array, ""]


def zero_tolerance(
    size: Float[Array, ""], grad_norm: Float[Array, ""], radius: Float[Array, ""]
) -> Float[Array, ""]:
    """Return what |λ| may be of a zero eigenvalue, `size` a bound on ‖H‖, `radius` that of the orbit."""
    return ZERO_RTOL * size + (ZERO_PER_GRAD + TURN / radius) * grad_norm


def noise(tolerance: Float[Array, ""], grad_norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return below what a negative curvature shows nothing about the critical point near by."""
    return jnp.maximum(tolerance, FLAT * jnp.cbrt(grad_norm**2))


def noise_at_closed_gap(tolerance: Float[Array, ""], grad_norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return `noise` where the point may as well be the global minimum."""
    return jnp.maximum(noise(tolerance, grad_norm), jnp.sqrt(grad_norm))


def spectrum(prob: Problem, p: Params, rank: Int[Array, ""]) -> Spectrum:
    """Return the spectrum's evidence at a critical point of the given rank (`symmetry.rank`).

    With r ≤ min(d, K): a dense eigen-solve of size 2Kr + K, or Lanczos beyond `DENSE_LIMIT`; dense ones of
    size d (the frame), of 2K where d > r, and of K times r where d = r. Of a collapsed problem it is the
    spectrum of f all the same: the directions in which the features of a class differ are counted in.
    """
    frame = feature_frame(prob, p)
    small, q = compress(collapse(prob), frame, restrict(prob, p))
    dense = small.num_variables <= DENSE_LIMIT
    main = _diagonalised(small, q, rank) if dense else _by_lanczos(small, q, rank)
    assert main.direction is not None
    blocks = [main._replace(direction=lift(prob, embed(prob, frame, main.direction)))]
    if prob.dim > small.dim:
        blocks.append(_tail(prob, small, q, frame, rank))
    if max(prob.counts) > 1:
        blocks.append(_within(prob, small, q, frame))
    assembled = _assemble(prob, p, rank, orbit_radius(prob, p, frame, rank), blocks)
    if not prob.loss.convex:  # features of a class may differ at critical points, which the blocks leave out
        apart = within_class_deviation(prob, p) > APART_RTOL * (1.0 + jnp.linalg.norm(p.H))
        assembled = assembled._replace(clear=assembled.clear & ~apart, resolved=assembled.resolved & ~apart)
    if dense:
        return assembled
    # One eigenpair is known: the index by a bound on all, the nullity where the lowest is not zero.
    none_null = main.sound & (main.values[0] > assembled.tolerance)
    at_least = curvature_floor(small, q)
    return assembled._replace(
        index=jnp.where(at_least >= -assembled.tolerance, 0, NOT_COUNTED).astype(jnp.int32),
        nullity=jnp.where(none_null, assembled.nullity, NOT_COUNTED).astype(jnp.int32),
    )


def _assemble(
    prob: Problem, p: Params, rank: Int[Array, ""], radius: Float[Array, ""], blocks: list[_Block]
) -> Spectrum:
    here = expand(prob, p)
    grad_norm = jnp.linalg.norm(ravel(here.grad))
    held = [b for b in blocks if b.direction is not None]
    which = jnp.argmin(jnp.stack([b.values[0] for b in held]))
    direction = jax.tree.map(lambda *leaves: jnp.stack(leaves)[which], *(b.direction for b in held))
    along = jnp.stack([b.values[0] for b in held])[which]
    measured = jnp.linalg.norm(ravel(here.hv(direction)) - along * ravel(direction))
    lowest = jnp.stack([along, *(b.values[0] for b in blocks if b.direction is None)])
    residual = jnp.stack([measured, *(b.residual for b in blocks if b.direction is None)])
    values, copies = (jnp.concatenate([getattr(b, name) for b in blocks]) for name in ("values", "copies"))
    orbit_residual = jnp.max(jnp.stack([b.orbit_residual for b in blocks]))
    norm = jnp.max(jnp.stack([b.norm for b in blocks]))
    tolerance = zero_tolerance(norm, grad_norm, radius)
    orbit_dim = orbit_dimension(prob, rank)
    null_elsewhere = jnp.sum(jnp.where(jnp.abs(values) <= tolerance, copies, 0))
    unsure = jnp.maximum(10 * tolerance, noise(tolerance, grad_norm))
    sound = jnp.all(jnp.stack([b.sound for b in blocks]))
    clear = ~jnp.any((values < -tolerance) & (values > -unsure)) & (orbit_residual <= tolerance) & sound
    clear &= measured <= 10 * tolerance  # also where it is not the lowest's
    return Spectrum(
        lambda_min=jnp.min(lowest),
        residual=residual[jnp.argmin(lowest)],
        direction=direction,
        index=jnp.sum(jnp.where(values < -tolerance, copies, 0)).astype(jnp.int32),
        nullity=null_elsewhere.astype(jnp.int32) + orbit_dim,
        orbit_dim=orbit_dim,
        orbit_residual=orbit_residual,
        tolerance=tolerance,
        clear=clear,
        resolved=clear & ~jnp.any((values > tolerance) & (values < 10 * tolerance)),
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
    direction: Params | None,
    orbit_residual: Float[Array, ""],
    copies: Int[Array, " m"] | int = 1,
) -> _Block:
    norm = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0))
    copies = jnp.broadcast_to(jnp.asarray(copies, jnp.int32), values.shape)
    unmeasured = jnp.full((), jnp.nan, values.dtype)
    return _Block(values, copies, direction, unmeasured, orbit_residual, norm, jnp.asarray(True))


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
    """Return the eigenpairs in one unused feature coordinate, which each of the d − r of them has."""
    turns = jnp.concatenate([q.W, q.H.T])  # rotations of the used coordinates into the unused one
    used = jnp.arange(small.dim, dtype=jnp.int32) < rank
    lengths = jnp.linalg.norm(turns, axis=0)
    tangent = jnp.where(used, turns / jnp.where(used, lengths, 1.0), 0.0)
    values, vectors, residual = _eigen(tail_hessian(small, logit_gradient(small, q)), tangent @ tangent.T)
    K, unused = small.num_classes, frame[:, -1]
    W, H = jnp.outer(vectors[:K, 0], unused), jnp.outer(unused, vectors[K:, 0])
    direction = lift(prob, Params(W, H, None if q.b is None else jnp.zeros_like(q.b)))
    return _block(values, direction, residual, prob.dim - small.dim + prob.unused)


def _within(prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"]) -> _Block:
    """Return eigenvalues on directions in which the features of one class differ: ≥ λ_H for a convex loss.

    These directions are in the full problem alone. On class means the residual of the lowest is that of the
    eigen-solve, since at a class-constant point the Hessian maps such directions to such, whatever ∇f is.
    """
    counts, dtype = jnp.asarray(prob.counts, jnp.int32), q.W.dtype
    extra = prob.num_samples - prob.num_classes
    if prob.dim > small.dim and prob.loss.convex:
        # A feature coordinate that W does not use gives λ_H itself, the lowest there can be.
        k, vector = jnp.argmax(counts), frame[:, -1]
        values, residual = prob.decay_h[None], jnp.zeros((), dtype)
        many = extra * (prob.dim - small.dim + prob.unused)
        copies = jnp.asarray([min(many, np.iinfo(np.int32).max)], jnp.int32)
    else:
        spectra, vectors, residuals = jax.lax.map(
            lambda column: _eigen_of_class(small, q, *column),
            class_columns(small, q),
            batch_size=min(small.num_classes, 32),
        )
        shown = jnp.where((counts > 1)[:, None], spectra, jnp.inf)
        k = jnp.argmin(shown[:, 0])
        vector, residual = frame[:, : small.dim] @ vectors[k, :, 0], residuals[k]
        order = jnp.argsort(jnp.ravel(shown))
        values, copies = jnp.ravel(shown)[order], jnp.repeat(counts - 1, small.dim)[order]
    block = _block(values, None, jnp.zeros((), dtype), copies)
    if prob.collapsed:
        return block._replace(residual=residual)
    first = (jnp.cumsum(counts)[k] - counts[k]).astype(jnp.int32)  # the class's first two samples move apart
    column = jnp.arange(prob.num_columns, dtype=jnp.int32)
    apart = (column == first).astype(dtype) - (column == first + 1).astype(dtype)
    zeros = prob.zeros()
    H = jnp.outer(vector, apart / jnp.sqrt(2.0).astype(dtype))
    return block._replace(direction=Params(zeros.W, H, zeros.b))


def _eigen_of_class(
    small: Problem, q: Params, z: Float[Array, " K"], t: Float[Array, " K"]
) -> tuple[Array, Array, Float[Array, ""]]:
    """Return eigenvalues and vectors of `within_class_hessian`, and the residual of the lowest."""
    M = within_class_hessian(small, q, z, t)
    values, vectors = jnp.linalg.eigh(M)
    return values, vectors, jnp.linalg.norm(M @ vectors[:, 0] - values[0] * vectors[:, 0])
