"""Class collapse and rank reduction: no cost grows with the number of samples, or with surplus dimensions.

At a critical point all features of a class coincide when ℓ is convex in z and λ_H > 0 (for fixed W, b each
column solves the same strictly convex problem). With H̃ = [√n_1 m_1 … √n_K m_K], m_k the class means,

    f̃(W,H̃,b) = Σ_k (n_k/N) ℓ(W H̃_k/√n_k + b, k) + λ_W/2 ‖W‖² + λ_H/2 ‖H̃‖² + λ_b/2 ‖b‖²

has the same critical values, and H̃ -> H is an isometry onto the class-constant directions, so the full
Hessian's spectrum is that of f̃ and, n_k − 1 times each, the positive spectra of λ_H I + Wᵀ A_k W / N,
A_k = ∇²_z ℓ at class k. Index and nullity of f and f̃ agree. Of rank r < d, a critical point is one of the
r-dimensional problem in its own frame, and each unused feature coordinate adds the block of `tail_hessian`.
Tested against dense Hessians of the full problem at minima and saddles, to 1e-10.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.flat import hessian
from ufm_jax.landscape.spectrum import DENSE_LIMIT
from ufm_jax.models.unconstrained.objective import columns, logit_gradient, logits, members
from ufm_jax.models.unconstrained.problem import Params, Problem


def collapse(prob: Problem) -> Problem:
    """Return the collapsed problem, with K columns in place of N."""
    return replace(prob, collapsed=True)


def restrict(small: Problem, p: Params) -> Params:
    """Return points of a larger problem as points of this: H̃_k = √n_k (mean of class k), first coordinates.

    Exact where the features of a class are one, and the coordinates that are left out zero.

    Raises:
        ValueError: naming H, if it has neither N columns nor K.
    """
    H, found = p.H[..., : small.dim, :], _columns(small, p)
    if small.collapsed and found == small.num_samples != small.num_classes:
        scale = jnp.asarray(np.array(small.counts, float) ** -0.5, p.H.dtype)
        H = (H @ members(replace(small, collapsed=False), p.H.dtype)) * scale
    return p._replace(W=p.W[..., : small.dim], H=H)


def lift(large: Problem, p: Params) -> Params:
    """Return points (or directions) of a smaller problem as points of this: h_i = H̃_k / √n_k, zeros beyond.

    An isometry; `restrict(small, lift(large, p)) = p`.

    Raises:
        ValueError: naming H, if it has neither N columns nor K.
    """
    none = ((0, 0),) * (p.W.ndim - 1)
    more = (0, large.dim - p.W.shape[-1])
    p = p._replace(W=jnp.pad(p.W, (*none, more)), H=jnp.pad(p.H, (*none[1:], more, (0, 0))))
    if large.collapsed or _columns(large, p) == large.num_samples:
        return p
    scale = jnp.asarray(np.array(large.counts, float) ** -0.5, p.H.dtype)
    return p._replace(H=(p.H * scale)[..., large.labels])


def _columns(prob: Problem, p: Params) -> int:
    """Return how many columns H has: N, or K on class means."""
    found = p.H.shape[-1]
    if found not in (prob.num_samples, prob.num_classes):
        raise ValueError(
            f"H: need {prob.num_samples} columns, or {prob.num_classes} on class means, got {found}"
        )
    return found


def turned(p: Params, frame: Float[Array, "d d"]) -> Params:
    """Return a point in the coordinates of an orthonormal frame of feature space."""
    return p._replace(W=p.W @ frame, H=frame.T @ p.H)


def within_class_deviation(prob: Problem, p: Params) -> Float[Array, ""]:
    """Return ‖H − lift(restrict(H))‖_F: 0 exactly at a critical point."""
    return jnp.linalg.norm(p.H - lift(prob, restrict(collapse(prob), p)).H)


def within_class_hessian(
    prob: Problem, p: Params, z: Float[Array, " K"], t: Float[Array, " K"]
) -> Float[Array, "d d"]:
    """Return λ_H I + Wᵀ A W / N, A = ∇²_z ℓ(z, t), z the logits and t the targets of one class.

    The full Hessian on the directions in which the features of that class differ, n_k − 1 times. Only W and
    the decay of `p` and `prob` enter.
    """
    apply = prob.loss.curvature(z[:, None], t[:, None])
    AW = jax.vmap(lambda w: apply(w[:, None])[:, 0], in_axes=1, out_axes=1)(p.W)
    return prob.decay_h * jnp.eye(prob.dim, dtype=p.W.dtype) + p.W.T @ AW / prob.num_samples


def within_class_hessians(prob: Problem, p: Params) -> Float[Array, "K d d"]:
    """Return `within_class_hessian` of every class, at a point of the collapsed problem."""
    return jax.vmap(lambda z, t: within_class_hessian(prob, p, z, t))(*class_columns(prob, p))


def class_columns(prob: Problem, p: Params) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
    """Return logits and targets of each class, a row each, at a point of the collapsed problem."""
    small = collapse(prob)
    return logits(small, p).T, columns(small, p.W.dtype).T.T


def rank_bound(prob: Problem) -> int:
    """Return a bound on the rank of W H̃ at critical points: d, K, and K − 1 for softmax losses (1ᵀG = 0)."""
    K = prob.num_classes
    return min(prob.dim, K - 1 if prob.shift_invariant else K)


def feature_frame(prob: Problem, p: Params) -> Float[Array, "d d"]:
    """Return an orthonormal basis of feature space, strongest direction first.

    Eigenvectors of λ_W WᵀW + λ_H HHᵀ, whose two terms are equal at critical points: there the columns of
    W U are orthogonal, and the last d − r vanish.
    """
    M = prob.decay_w * (p.W.T @ p.W) + prob.decay_h * (p.H @ p.H.T)
    return jnp.linalg.eigh(M)[1][:, ::-1]


def check_class_means(prob: Problem) -> None:
    """Check that class means hold every critical point, which needs a loss convex in the logits.

    Raises:
        ValueError: naming the loss.
    """
    if not prob.loss.convex:
        raise ValueError(
            f"loss: class means hold every critical point only for a convex loss, which {prob.loss.name} is "
            f"not (a class says `convex = True`); it can be searched over all features, toward minima"
        )


def reduced(prob: Problem) -> Problem:
    """Return the collapsed problem in `rank_bound` feature coordinates, which has every critical orbit."""
    return replace(collapse(prob), dim=rank_bound(prob), unused=0)


def trimmed(prob: Problem) -> Problem:
    """Return the collapsed problem in `rank_bound` feature coordinates and one more, the others `unused`.

    A point of rank ≤ `rank_bound` is the same point there, up to a rotation, and one unused coordinate shows
    what each of the others does to the Hessian: it is judged as in d coordinates, at no cost in d.
    """
    dim = min(prob.dim, rank_bound(prob) + 1)
    return replace(collapse(prob), dim=dim, unused=prob.dim - dim + prob.unused)


def space(prob: Problem, purpose: str | int) -> Problem:
    """Return the problem in which f is searched, judged or kept in place of `prob` (`Landscape.space`).

    Minima of the full problem are searched in it, everything else on class means in `rank_bound` coordinates;
    saddles of one index in all of them, as the index grows with their number.

    Raises:
        ValueError: naming the loss, if class means need not hold every critical point (`check_class_means`);
            naming the dimension, if that is too large to follow eigenvectors in.
    """
    if purpose in ("minima", "certificate"):
        return reduced(prob) if prob.collapsed else prob
    if purpose in ("escape", "spectrum") or (purpose in ("rows", "points") and not prob.loss.convex):
        return prob
    check_class_means(prob)
    if purpose == "saddles":
        return reduced(prob)
    if purpose == "rows":
        return trimmed(prob)
    whole = replace(collapse(prob), dim=prob.dim + prob.unused, unused=0)
    if purpose != "points" and whole.num_variables > DENSE_LIMIT:
        raise ValueError(
            f"dim: eigenvectors are followed in at most {DENSE_LIMIT} variables, d = {whole.dim} has "
            f"{whole.num_variables}"
        )
    return whole


def spaces(prob: Problem, starts: Params) -> list[tuple[Problem, np.ndarray]]:
    """Return the reduced problem in so many coordinates as starts use, and which starts (`Landscape.spaces`).

    The gradient is zero in a coordinate that neither W nor H̃ uses, so a search never enters it. One problem
    is one program, so there are two: for ranks up to half of the highest, and for all.
    """
    small = space(prob, "saddles")
    used = np.any(starts.W != 0, axis=1) | np.any(starts.H != 0, axis=2)
    rank = np.max(used * np.arange(1, small.dim + 1), axis=1)
    ladder = sorted({-(-small.dim // 2), small.dim})
    rung = np.searchsorted(ladder, rank)
    return [(replace(small, dim=ladder[i]), np.flatnonzero(rung == i)) for i in np.unique(rung)]


def space_at(prob: Problem, p: Params) -> tuple[Problem, Params, Callable[[Params], Params]]:
    """Return `reduced`, a critical point there, and the way back to its own frame (`Landscape.space_at`).

    Where the loss is not convex, class means need not hold its branch: the problem itself.
    """
    if not prob.loss.convex:
        return prob, p, lambda q: q
    frame, small = feature_frame(prob, p), reduced(prob)
    return small, restrict(small, turned(p, frame)), lambda q: turned(lift(prob, q), frame.T)


def tail_hessian(prob: Problem, G: Float[Array, "K K"]) -> Float[Array, "twoK twoK"]:
    """Return the Hessian in one feature coordinate that W and H̃ do not use: [[λ_W I, G̃], [G̃ᵀ, λ_H I]].

    Acts on (a column of W, a row of H̃) of the collapsed problem, G̃ its `logit_gradient`. Eigenvalues
    (λ_W+λ_H)/2 ± √((λ_W−λ_H)²/4 + σ_i(G̃)²).
    """
    eye = jnp.eye(G.shape[0], dtype=G.dtype)
    return jnp.block([[prob.decay_w * eye, G], [G.T, prob.decay_h * eye]])


def full_spectrum(prob: Problem, p: Params) -> np.ndarray:
    """Return all D eigenvalues of the full Hessian, ascending, from a critical point of the collapsed one.

    Costs dense eigen-solves of size 2Kr + K and 2K, and K of size r, r = `rank_bound`: N and d do not enter.

    Raises:
        ValueError: naming W, H or b, if its shape or dtype is not the collapsed problem's.
    """
    blocks = _blocks(prob, replace(collapse(prob), unused=0).check(p))
    between, tail, within = (np.linalg.eigvalsh(block) for block in blocks)
    d, small = prob.dim, reduced(prob)
    unused = np.full((prob.num_samples - prob.num_classes) * (d - small.dim), float(prob.decay_h))
    repeated = (np.repeat(w, n - 1) for w, n in zip(within, prob.counts, strict=True))
    return np.sort(np.concatenate([between, *[tail] * (d - small.dim), *repeated, unused]))


@jax.jit
def _blocks(prob: Problem, p: Params) -> tuple[Array, Array, Array]:
    """Return the Hessian between class means, of an unused feature coordinate, and within each class."""
    small = reduced(prob)
    q = restrict(small, turned(p, feature_frame(prob, p)))
    return hessian(small, q), tail_hessian(small, logit_gradient(small, q)), within_class_hessians(small, q)
