"""The simplex equiangular tight frame and the neural-collapse metrics that measure the way to it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.objective import members
from ufm_jax.models.unconstrained.problem import Params, Problem

# Eigenvalues of Σ_B below this share of the largest are rounding of exact zeros (Σ_B has rank ≤ K − 1).
PINV_RTOL = 1e-10


class CollapseMetrics(NamedTuple):
    """Neural-collapse metrics of Zhu et al. 2021 as their released code computes them; 0 at collapse.

    NaN where a metric is 0/0: NC2 at W = 0, NC3 at W H̄ = 0.
    """

    nc1: Float[Array, ""]  # tr(Σ_W Σ_B^†)/K: within-class variability
    nc2: Float[Array, ""]  # ‖WWᵀ/‖WWᵀ‖ − ETF Gram/‖·‖‖: classifier rows form a simplex ETF
    nc3: Float[Array, ""]  # the same of W H̄: features align with the classifier
    nc4: Float[Array, ""]  # ‖W h_G + b‖: the bias cancels the global mean


def simplex_gram(num_classes: int) -> np.ndarray:
    """Return (I − J/K)/√(K−1), the Gram matrix of a simplex ETF with unit Frobenius norm."""
    K = num_classes
    return (np.eye(K) - 1.0 / K) / np.sqrt(K - 1.0)


def simplex_etf(num_classes: int, dim: int) -> np.ndarray:
    """Return K unit rows in R^d with pairwise inner products −1/(K−1).

    Raises:
        ValueError: if d < K − 1, where no simplex ETF exists.
    """
    K = num_classes
    if dim < K - 1:
        raise ValueError(f"dim: a simplex ETF of {K} classes needs dim >= {K - 1}, got {dim}")
    # Helmert's basis of the vectors with zero sum, orthonormal columns.
    basis = np.triu(np.ones((K, K - 1))) - np.arange(1, K) * np.eye(K, K - 1, -1)
    basis = basis / np.linalg.norm(basis, axis=0)
    return np.pad(basis * np.sqrt(K / (K - 1.0)), ((0, 0), (0, dim - (K - 1))))


def collapse_metrics(prob: Problem, p: Params) -> CollapseMetrics:
    """Return NC1–NC4 of raw (not normalised) features, of the full problem or of the collapsed one.

    Σ_W = N⁻¹ Σ (h − h̄_k)(h − h̄_k)ᵀ, Σ_B = K⁻¹ Σ_k (h̄_k − h_G)(h̄_k − h_G)ᵀ, h_G the mean of all N features.
    A point of the collapsed problem has the metrics of its lift: its features are H̃_k/√n_k, n_k times each.

    Raises:
        ValueError: naming W, H or b, if its shape or dtype is not the problem's.
    """
    p = prob.check(p)
    features, share = p.H, jnp.asarray(prob.weights, p.H.dtype)
    if prob.collapsed:
        features = features * jnp.asarray(prob.scales, p.H.dtype)
    per_class = np.array(prob.counts, float) / prob.num_samples
    member = members(prob, p.H.dtype)
    means = features @ (member * share[:, None]) / jnp.asarray(per_class, p.H.dtype)
    centre = features @ share
    between = means - centre[:, None]
    mean_logits = p.W @ centre
    white = whitening(between)
    within = (white @ features - (white @ means) @ member.T) * jnp.sqrt(share)  # nothing else as large as H
    return CollapseMetrics(
        # On class means the features of a class are one.
        nc1=jnp.zeros_like(p.H[0, 0]) if prob.collapsed else jnp.sum(within**2) / prob.num_classes,
        nc2=distance_to_simplex(p.W @ p.W.T),
        nc3=distance_to_simplex(p.W @ between),
        nc4=jnp.linalg.norm(mean_logits if p.b is None else mean_logits + p.b),
    )


def whitening(between: Float[Array, "d K"]) -> Float[Array, "K d"]:
    """Return P with PᵀP = Σ_B^†, Σ_B = BBᵀ/K, the columns of B = `between` class means less the global mean.

    By the K x K Gram matrix, whose spectrum is Σ_B's: Σ_B = U Λ Uᵀ with U = B V Λ^{-1/2}/√K.
    """
    K = between.shape[1]
    eigenvalues, V = jnp.linalg.eigh(between.T @ between / K)
    kept = eigenvalues > PINV_RTOL * jnp.max(eigenvalues)
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, eigenvalues, 1.0), 0.0)
    return (between @ (V * inverse)).T / jnp.sqrt(jnp.asarray(K, between.dtype))


def distance_to_simplex(A: Float[Array, "K K"]) -> Float[Array, ""]:
    """Return ‖A/‖A‖_F − `simplex_gram`‖_F; NaN at A = 0."""
    return jnp.linalg.norm(A / jnp.linalg.norm(A) - jnp.asarray(simplex_gram(A.shape[0]), A.dtype))
