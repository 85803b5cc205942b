"""The Hessian's spectrum at a critical point of f, block by block (`reduction`), whatever N and d are.

One block is that of the collapsed problem in r = `rank_bound` feature coordinates, one is repeated for each
unused coordinate, one for the directions in which the features of a class differ. Where a shift of all logits
changes no loss, its direction (0, 0, 1) has the eigenvalue λ_b exactly, at every point, and is a block, too:
H (0, 0, 1) = (0, 0, λ_b 1), since ∇²ℓ 1 = 0. However small λ_b > 0 is, it is no zero.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.orbit import Orbit
from ufm_jax.landscape.point import Point
from ufm_jax.landscape.spectrum import Block, block, eigen, whole_block
from ufm_jax.models.unconstrained.objective import expand, logit_gradient
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import (
    class_columns,
    collapse,
    feature_frame,
    lift,
    reduced,
    restrict,
    tail_hessian,
    turned,
    within_class_deviation,
    within_class_hessian,
)
from ufm_jax.models.unconstrained.symmetry import orbit, rank

APART_RTOL = 1e-6  # features of a class that differ by more, relative to 1 + ‖H‖, are not one


def blocks(prob: Problem, point: Point, *, counting: bool = False) -> tuple[Orbit, list[Block]]:
    """Return the orbit of a critical point, and the Hessian's blocks modulo the orbit.

    With r ≤ min(d, K): a dense eigen-solve of size 2Kr + K, or Lanczos where that is too large; dense ones of
    size d (the frame), of 2K where d > r, and of K times r where d = r. Of a collapsed problem they are the
    blocks of f all the same: the directions in which the features of a class differ are counted in.
    """
    p = point.x
    r, frame, small = rank(prob, p), feature_frame(prob, p), reduced(prob)
    q = restrict(small, turned(p, frame))
    eye = jnp.eye(small.dim, dtype=p.W.dtype)
    flop = 12.0 * small.num_classes**2 * small.dim
    there = _unshifted(small, expand(small, q), orbit(small, q, eye, r))
    main = whole_block(*there, flop=flop, counting=counting)
    flat = replace(collapse(prob), unused=0)
    if main.direction is not None:
        main = main._replace(direction=lift(prob, turned(lift(flat, main.direction), frame.T)))
    found = [main, *_shift(prob)]
    if prob.dim > small.dim:
        found.append(_tail(prob, small, q, frame, r))
    if max(prob.counts) > 1:
        found.append(_within(prob, small, q, frame))
    if not prob.loss.convex:  # features of a class may differ at critical points: no block has that
        apart = within_class_deviation(prob, p) > APART_RTOL * (1.0 + jnp.linalg.norm(p.H))
        found = [b._replace(sound=b.sound & ~apart) for b in found]
    return orbit(prob, p, frame, r), found


def _shifts(prob: Problem) -> bool:
    """Say whether b -> b + c1 changes no loss: with λ_b = 0 that is of the orbit, else it costs λ_b."""
    return prob.bias and prob.shift_invariant


def _unshifted(prob: Problem, point: Point, turns: Orbit) -> tuple[Point, Orbit]:
    """Return the point and orbit with the shift's direction null, and projected onto, whatever λ_b is."""
    if not _shifts(prob):
        return point, turns

    def hv(v: Params) -> Params:
        pushed = point.hv(v)
        return pushed._replace(b=pushed.b - prob.decay_b * _mean(v.b))

    def project(v: Params) -> Params:
        return turns.project(v)._replace(b=_mean(v.b))

    return point._replace(hv=hv), turns._replace(project=project)


def _mean(b: Float[Array, " K"] | None) -> Float[Array, " K"]:
    assert b is not None
    return jnp.full_like(b, jnp.mean(b))


def _shift(prob: Problem) -> list[Block]:
    """Return the block of the shift, where it has one: it is no block where it is of the orbit."""
    if not _shifts(prob):
        return []
    K, decayed, zeros = prob.num_classes, prob.decay_b > 0, prob.zeros()
    value, copies = jnp.where(decayed, prob.decay_b, jnp.inf)[None], decayed.astype(jnp.int32)[None]
    direction = zeros._replace(b=jnp.full((K,), K**-0.5, zeros.W.dtype))
    found = block(value, direction, jnp.zeros((), zeros.W.dtype), copies)
    return [found._replace(positive=True)]


def _tail(
    prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]
) -> Block:
    """Return the eigenpairs in one unused feature coordinate, which each of the d − r of them has."""
    turns = jnp.concatenate([q.W, q.H.T])  # rotations of the used coordinates into the unused one
    used = jnp.arange(small.dim, dtype=jnp.int32) < rank
    lengths = jnp.linalg.norm(turns, axis=0)
    tangent = jnp.where(used, turns / jnp.where(used, lengths, 1.0), 0.0)
    values, vectors, residual = eigen(tail_hessian(small, logit_gradient(small, q)), tangent @ tangent.T)
    K, unused = small.num_classes, frame[:, -1]
    W, H = jnp.outer(vectors[:K, 0], unused), jnp.outer(unused, vectors[K:, 0])
    direction = lift(prob, Params(W, H, None if q.b is None else jnp.zeros_like(q.b)))
    return block(values, direction, residual, prob.dim - small.dim + prob.unused)


def _within(prob: Problem, small: Problem, q: Params, frame: Float[Array, "d d"]) -> Block:
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
    found = block(values, None, jnp.zeros((), dtype), copies)._replace(positive=prob.loss.convex)
    if prob.collapsed:
        return found._replace(residual=residual)
    first = (jnp.cumsum(counts)[k] - counts[k]).astype(jnp.int32)  # the class's first two samples move apart
    column = jnp.arange(prob.num_columns, dtype=jnp.int32)
    apart = (column == first).astype(dtype) - (column == first + 1).astype(dtype)
    zeros = prob.zeros()
    H = jnp.outer(vector, apart / jnp.sqrt(2.0).astype(dtype))
    return found._replace(direction=Params(zeros.W, H, zeros.b))


def _eigen_of_class(
    small: Problem, q: Params, z: Float[Array, " K"], t: Float[Array, " K"]
) -> tuple[Array, Array, Float[Array, ""]]:
    """Return eigenvalues and vectors of `within_class_hessian`, and the residual of the lowest."""
    M = within_class_hessian(small, q, z, t)
    values, vectors = jnp.linalg.eigh(M)
    return values, vectors, jnp.linalg.norm(M @ vectors[:, 0] - values[0] * vectors[:, 0])
