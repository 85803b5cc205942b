"""Symmetries of f: rotations of feature space, O(d), and, with an undecayed bias, a shift of all logits."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.orbit import Orbit
from ufm_jax.landscape.point import Point
from ufm_jax.landscape.units import GRAD_TOL
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, restrict
from ufm_jax.models.unconstrained.sizes import gradient_norms, noise, units

# A singular value of W H̃ (in logits) below this is zero: solved points have 0 or more than 1e-6, except
# within 1e-6 of a threshold such as Kθ = 1. Where a coordinate is unused, W and H̃ are off by about ‖∇f‖/s in
# it, both, and so W H̃ by its square: `ROOM` of that is zero, too.
RANK_ATOL = 1e-8
ROOM = 10.0


def rank(prob: Problem, p: Params) -> Int[Array, ""]:
    """Return the number of singular values of W H̃ above `RANK_ATOL` and what an inexact point leaves."""
    singular = jnp.linalg.svd(p.W @ restrict(collapse(prob), p).H, compute_uv=False)
    return jnp.sum(singular > _zero_logits(prob, p)).astype(jnp.int32)


def _zero_logits(prob: Problem, p: Params) -> Float[Array, ""]:
    point = expand(prob, p)
    most = GRAD_TOL * units(prob, point.value).gradient + noise(prob, point)  # beyond, p is not critical
    off = jnp.minimum(gradient_norms(prob, point)[1], most) / prob.strength
    return RANK_ATOL + ROOM * jnp.minimum(off, 1.0) ** 2


def balanced_rank(prob: Problem, p: Params) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Return `rank`, and `_orbit_radius` in even coordinates, at a balanced point, λ_W WᵀW = λ_H H̃H̃ᵀ.

    Every critical point is.
    There the singular values of W H̃ are √(λ_W/λ_H) times the eigenvalues of WᵀW (or WWᵀ), which are cheaper,
    and zeros among them are off by the square of the distance to the critical point only.
    """
    gram = p.W.T @ p.W if prob.dim < prob.num_classes else p.W @ p.W.T
    eigenvalues = jnp.linalg.eigvalsh(gram)
    logits = eigenvalues * (jnp.sqrt(prob.decay_w) / jnp.sqrt(prob.decay_h))
    used = logits > _zero_logits(prob, p)
    least = jnp.min(jnp.where(used, logits, jnp.inf))
    return jnp.sum(used).astype(jnp.int32), jnp.sqrt(2.0 * least)


def shift_dimension(prob: Problem) -> Int[Array, ""]:
    """Return 1 where b -> b + c1 leaves f unchanged (λ_b = 0, a softmax loss, a bias), else 0."""
    if not (prob.bias and prob.shift_invariant):
        return jnp.zeros((), jnp.int32)
    return (prob.decay_b == 0).astype(jnp.int32)


def orbit_dimension(prob: Problem, rank: Int[Array, ""] | int) -> Int[Array, ""]:
    """Return the dimension of the symmetry orbit of a rank-r point: dr − r(r+1)/2, + 1 for the logit shift.

    The O(d)-orbit is the Stiefel manifold V_{d,r}.
    """
    r = jnp.asarray(rank, jnp.int32)
    return ((prob.dim + prob.unused) * r - r * (r + 1) // 2 + shift_dimension(prob)).astype(jnp.int32)


def orbit(prob: Problem, p: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]) -> Orbit:
    """Return the orbit of a critical point of this rank; `frame` as for `orbit_projection`."""
    return Orbit(
        orbit_dimension(prob, rank),
        orbit_projection(prob, p, frame, rank),
        _orbit_radius(prob, p, frame, rank),
    )


def orbit_at(prob: Problem, point: Point) -> Orbit:
    """Return the orbit of a critical point."""
    return orbit(prob, point.x, feature_frame(prob, point.x), rank(prob, point.x))


def tangents(prob: Problem, p: Params) -> Params:
    """Return (W A, −A H) for A = e_i e_jᵀ − e_j e_iᵀ, i < j, and the shift of b where it is a symmetry."""
    i, j = np.triu_indices(prob.dim, 1)
    turn, WT = np.arange(len(i)), p.W.T
    W = jnp.zeros((len(i) + 1, *p.W.shape), p.W.dtype).at[turn, :, j].set(WT[i]).at[turn, :, i].set(-WT[j])
    H = jnp.zeros((len(i) + 1, *p.H.shape), p.H.dtype).at[turn, i].set(-p.H[j]).at[turn, j].set(p.H[i])
    if p.b is None:
        return Params(W, H, None)
    b = jnp.zeros((len(i) + 1, len(p.b)), p.b.dtype)
    return Params(W, H, b.at[-1].set(shift_dimension(prob).astype(p.b.dtype)))


def invariants(prob: Problem, p: Params) -> Float[Array, " m"]:
    """Return numbers that rotations and permutations of classes leave alone, in units of logits.

    Sorted entries of M = W H̃, on its diagonal and off it, those of b (centred where its shift is a symmetry),
    and the singular values of M over K. Each changes by at most the largest change of an entry.
    """
    M = p.W @ restrict(collapse(prob), p).H
    K = prob.num_classes
    parts = [jnp.sort(jnp.diag(M)), jnp.sort(M[~np.eye(K, dtype=bool)])]
    if p.b is not None:
        parts.append(jnp.sort(p.b - shift_dimension(prob).astype(p.b.dtype) * jnp.mean(p.b)))
    return jnp.concatenate([*parts, jnp.linalg.svd(M, compute_uv=False) / K])


def shape(prob: Problem, p: Params) -> Float[Array, " m"]:
    """Return M = W H̃ and b (centred where its shift is a symmetry): a critical point up to rotations."""
    M = jnp.ravel(p.W @ restrict(collapse(prob), p).H)
    if p.b is None:
        return M
    return jnp.concatenate([M, p.b - shift_dimension(prob).astype(p.b.dtype) * jnp.mean(p.b)])


def _orbit_radius(
    prob: Problem, p: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]
) -> Float[Array, ""]:
    """Return the least ‖(WA, −AH)‖ over rotations A of one plane that move p; ∞ where none does.

    For the planes of `orbit_projection`: how far the orbit is from a point, which rotations leave in place.
    """
    squares = jnp.sum((p.W @ frame) ** 2, axis=0) + jnp.sum((frame.T @ p.H) ** 2, axis=1)
    used = jnp.arange(prob.dim, dtype=jnp.int32) < rank
    return jnp.sqrt(jnp.min(jnp.where(used, squares, jnp.inf)))


def orbit_projection(
    prob: Problem, p: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]
) -> Callable[[Params], Params]:
    """Build v -> its orthogonal projection onto the orbit's tangent space at a critical point.

    Rotations move p along (W A, −A H), A skew. With `frame` = U from `reduction.feature_frame`, those of the
    planes (u_i, u_j), i < rank, are mutually orthogonal and span the tangent space; so a projection costs a
    few matrix products and no basis is stored.
    """
    WU, UH = p.W @ frame, frame.T @ p.H
    squares = jnp.sum(WU**2, axis=0) + jnp.sum(UH**2, axis=1)
    i = np.arange(prob.dim, dtype=np.int32)
    moves = (jnp.minimum(i[:, None], i) < rank) & (i[:, None] != i)
    inverse = jnp.where(moves, 1.0 / jnp.where(moves, squares[:, None] + squares, 1.0), 0.0)
    shift = shift_dimension(prob).astype(p.W.dtype)

    def project(v: Params) -> Params:
        M = WU.T @ (v.W @ frame) - (frame.T @ v.H) @ UH.T
        A = (M - M.T) * inverse
        b = None if v.b is None else jnp.full_like(v.b, shift * jnp.mean(v.b))
        return Params(WU @ A @ frame.T, -frame @ (A @ UH), b)

    return project
