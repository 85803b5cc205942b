"""Neural collapse of class means and their classifier, for any number of classes: K x K a few rows at a time.

NC1–NC4 are those of `geometry.collapse_metrics`, over the classes that have samples. Beside them, from later
literature: CDNV, the class-distance-normalised variance (Galanti et al. 2022), and how far the rows of W and
the centred class means are from equal lengths and equal angles (Papyan et al. 2020).
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ufm_jax.models.unconstrained.geometry import PINV_RTOL

ROWS = 2**24  # entries of a K x K matrix that are held at once: 128 MiB


def class_geometry(
    W: Float[np.ndarray, "K d"],
    b: Float[np.ndarray, " K"] | None,
    means: Float[np.ndarray, "K d"],
    counts: np.ndarray,
    spreads: Float[np.ndarray, " K"],
    within: Float[np.ndarray, "d d"] | None,
) -> dict[str, float | None]:
    """Return the metrics by name, of classes that all have samples; None where one is 0/0 or not to be had.

    `spreads` are Σ ‖h − h̄_k‖² and `within` is Σ (h − h̄_k)(h − h̄_k)ᵀ, None where d is too large.
    """
    centre = counts @ means / counts.sum()
    arms = means - centre
    mean_logits = W @ centre + (0.0 if b is None else b)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "nc1": np.nan if within is None else _within_over_between(within / counts.sum(), arms),
            "nc2": _to_simplex(W, W),
            "nc3": _to_simplex(W, arms),
            "nc4": float(np.linalg.norm(mean_logits)),
            "cdnv": _cdnv(arms, spreads / counts),
            "equinorm_w": _spread_of_norms(W),
            "equinorm_h": _spread_of_norms(arms),
            "equiangle_w": _spread_of_cosines(W),
            "equiangle_h": _spread_of_cosines(arms),
        }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}


def _within_over_between(within: np.ndarray, arms: np.ndarray) -> float:
    """Return tr(Σ_W Σ_B^†)/K, by the smaller of the two matrices whose spectrum is Σ_B's."""
    K, d = arms.shape
    eigenvalues, V = np.linalg.eigh(arms @ arms.T / K if d >= K else arms.T @ arms / K)
    kept = eigenvalues > PINV_RTOL * eigenvalues[-1]
    V, eigenvalues = V[:, kept], eigenvalues[kept]
    if d >= K:  # eigenvectors of Σ_B are Aᵀ V Λ^{-1/2}/√K, A the arms
        V = arms.T @ V / np.sqrt(K * eigenvalues)
    return float(np.sum(np.sum(V * (within @ V), axis=0) / eigenvalues) / K)


def _blocks(K: int) -> Iterator[slice]:
    size = max(1, ROWS // K)
    return (slice(first, min(first + size, K)) for first in range(0, K, size))


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return ABᵀ, of large matrices on all cores: NumPy has one (`ufm_jax/__init__.py`)."""
    return A @ B.T if A.size < ROWS else np.array(jnp.asarray(A) @ jnp.asarray(B).T)


def _to_simplex(A: np.ndarray, B: np.ndarray) -> float:
    """Return ‖ABᵀ/‖ABᵀ‖ − (I − J/K)/√(K−1)‖, Frobenius norms."""
    K = len(A)
    size = np.sqrt(sum(np.sum(_product(A[rows], B) ** 2) for rows in _blocks(K)))
    total = 0.0
    for rows in _blocks(K):
        apart = _product(A[rows], B) / size + 1.0 / (K * np.sqrt(K - 1.0))
        apart[np.arange(len(apart)), np.arange(K)[rows]] -= 1.0 / np.sqrt(K - 1.0)
        total += np.sum(apart**2)
    return float(np.sqrt(total))


def _cdnv(arms: np.ndarray, variances: np.ndarray) -> float:
    """Return the mean over pairs j ≠ k of (v_j + v_k)/(2 ‖h̄_j − h̄_k‖²)."""
    K, squares, total = len(arms), np.sum(arms**2, axis=1), 0.0
    for rows in _blocks(K):
        between = squares[rows, None] + squares - 2 * _product(arms[rows], arms)
        ratio = (variances[rows, None] + variances) / (2 * between)
        ratio[np.arange(len(ratio)), np.arange(K)[rows]] = 0.0
        total += float(np.sum(ratio))
    return total / (K * (K - 1))


def _spread_of_norms(A: np.ndarray) -> float:
    """Return the standard deviation of the rows' lengths over their mean."""
    lengths = np.linalg.norm(A, axis=1)
    return float(np.std(lengths) / np.mean(lengths))


def _spread_of_cosines(A: np.ndarray) -> float:
    """Return the standard deviation of the cosines between different rows."""
    K = len(A)
    unit = A / np.linalg.norm(A, axis=1)[:, None]
    mean = (np.sum(np.sum(unit, axis=0) ** 2) - K) / (K * (K - 1))
    total = 0.0
    for rows in _blocks(K):
        apart = _product(unit[rows], unit) - mean
        apart[np.arange(len(apart)), np.arange(K)[rows]] = 0.0
        total += float(np.sum(apart**2))
    return float(np.sqrt(total / (K * (K - 1))))
