"""Symmetries of f: rotations of feature space, O(d), and, with an undecayed bias, a shift of all logits."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.model.objective import ravel
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.reduction import restrict

# A singular value of W H̃ (in logits) below this is zero: solved points have 0 or more than 1e-6, except
# within 1e-6 of a threshold such as Kθ = 1.
RANK_ATOL = 1e-8


def rank(prob: Problem, p: Params) -> Int[Array, ""]:
    """Return the number of singular values of W H̃ above `RANK_ATOL` logits."""
    singular = jnp.linalg.svd(p.W @ restrict(prob, p).H, compute_uv=False)
    return jnp.sum(singular > RANK_ATOL).astype(jnp.int32)


def shift_dimension(prob: Problem) -> Int[Array, ""]:
    """Return 1 where b -> b + c1 leaves f unchanged (λ_b = 0, a softmax loss, a bias), else 0."""
    if not (prob.bias and prob.loss.shift_invariant):
        return jnp.zeros((), jnp.int32)
    return (prob.decay_b == 0).astype(jnp.int32)


def orbit_dimension(prob: Problem, rank: Int[Array, ""] | int) -> Int[Array, ""]:
    """Return the dimension of the symmetry orbit of a rank-r point: dr − r(r+1)/2, + 1 for the logit shift.

    The O(d)-orbit is the Stiefel manifold V_{d,r}.
    """
    r = jnp.asarray(rank, jnp.int32)
    return (prob.dim * r - r * (r + 1) // 2 + shift_dimension(prob)).astype(jnp.int32)


def feature_frame(prob: Problem, p: Params) -> Float[Array, "d d"]:
    """Return an orthonormal basis of feature space, strongest direction first.

    Eigenvectors of λ_W WᵀW + λ_H HHᵀ, whose two terms are equal at critical points: there the columns of
    W U are orthogonal, and the last d − r vanish.
    """
    M = prob.decay_w * p.W.T @ p.W + prob.decay_h * p.H @ p.H.T
    return jnp.linalg.eigh(M)[1][:, ::-1]


def orbit_tangent(
    prob: Problem, p: Params, frame: Float[Array, "d d"], rank: Int[Array, ""]
) -> Float[Array, "D q"]:
    """Return the orbit's tangent space at a critical point, as orthonormal or zero columns.

    q = d(d−1)/2 + 1 is fixed by the sizes; as many columns are non-zero as the orbit has dimensions.
    The rotation in the plane of frame vectors i < j is (W A, −A H) with A = u_i u_jᵀ − u_j u_iᵀ; different
    planes are orthogonal, as both Gram matrices are diagonal in the frame (`feature_frame`).
    """
    d = prob.dim
    i, j = np.triu_indices(d, 1)
    WU, UH = p.W @ frame, frame.T @ p.H
    dW = jnp.einsum("kq,qd->qkd", WU[:, i], frame.T[j]) - jnp.einsum("kq,qd->qkd", WU[:, j], frame.T[i])
    dH = jnp.einsum("qd,qc->qdc", frame.T[j], UH[i]) - jnp.einsum("qd,qc->qdc", frame.T[i], UH[j])
    turns = jnp.concatenate([dW.reshape(len(i), p.W.size), dH.reshape(len(i), p.H.size)], axis=1)
    lengths = jnp.linalg.norm(turns, axis=1, keepdims=True)
    moves = jnp.asarray(i, jnp.int32)[:, None] < rank
    turns = jnp.where(moves, turns / jnp.where(moves, lengths, 1.0), 0.0)
    if p.b is not None:
        turns = jnp.concatenate([turns, jnp.zeros((len(i), p.b.size), p.W.dtype)], axis=1)
    return jnp.concatenate([turns, _shift(prob, p)[None]]).T


def _shift(prob: Problem, p: Params) -> Float[Array, " D"]:
    zero = jnp.zeros_like(ravel(p))
    if p.b is None:
        return zero
    K = prob.num_classes
    return zero.at[-K:].set(shift_dimension(prob).astype(p.W.dtype) / np.sqrt(K))
