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
from ufm_jax.precision import unrounded

ROWS = 2**23  # entries of a K x K matrix that are held at once: 64 MiB, a few times
HEAVY = 1e11  # multiplications of K x K products beyond which they are taken in float32: metrics to 1e-6
NAMES = (
    *("nc1", "nc2", "nc3", "nc4", "cdnv"),
    *("equinorm_w", "equinorm_h", "equiangle_w", "equiangle_h"),
)


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
            "nc4": float(np.linalg.norm(mean_logits)),
            "equinorm_w": _spread_of_norms(W),
            "equinorm_h": _spread_of_norms(arms),
            **_of_pairs(W, arms, spreads / counts),
        }
    return {name: float(found[name]) if np.isfinite(found[name]) else None for name in NAMES}


def _within_over_between(within: np.ndarray, arms: np.ndarray) -> float:
    """Return tr(Σ_W Σ_B^†)/K, by the smaller of the two matrices whose spectrum is Σ_B's."""
    K, d = arms.shape
    eigenvalues, V = np.linalg.eigh(arms @ arms.T / K if d >= K else arms.T @ arms / K)
    kept = eigenvalues > PINV_RTOL * eigenvalues[-1]
    V, eigenvalues = V[:, kept], eigenvalues[kept]
    if d >= K:  # eigenvectors of Σ_B are Aᵀ V Λ^{-1/2}/√K, A the arms
        V = arms.T @ V / np.sqrt(K * eigenvalues)
    return float(np.sum(np.sum(V * (within @ V), axis=0) / eigenvalues) / K)


def _of_pairs(W: np.ndarray, arms: np.ndarray, variances: np.ndarray) -> dict[str, float]:
    """Return what is a mean or a norm over pairs of classes, in one loop over rows of K x K matrices."""
    K, total = len(W), np.zeros(5)
    gram_w, gram_h = W.T @ W, arms.T @ arms
    size_w, size_wh = np.linalg.norm(gram_w), np.sqrt(np.vdot(gram_w, gram_h))  # ‖WWᵀ‖ and ‖W arms‖
    cosines = [(np.linalg.norm(A, axis=1), _mean_cosine(A)) for A in (W, arms)]
    squares = np.sum(arms**2, axis=1)
    for rows in _blocks(K):
        own = np.arange(rows.stop - rows.start), np.arange(K)[rows]
        ww, hh = _product(W[rows], W), _product(arms[rows], arms)
        between = squares[rows, None] + squares - 2 * hh
        parts = [
            _from_simplex(ww / size_w, own) ** 2,
            _from_simplex(_product(W[rows], arms) / size_wh, own) ** 2,
            (variances[rows, None] + variances) / (2 * between),
            *(
                (A / (lengths[rows, None] * lengths) - mean) ** 2
                for A, (lengths, mean) in zip((ww, hh), cosines, strict=True)
            ),
        ]
        for part in parts[2:]:
            part[own] = 0.0
        total += [np.sum(part) for part in parts]
    pairs = K * (K - 1)
    nc2, nc3, w, h = np.sqrt([total[0], total[1], total[3] / pairs, total[4] / pairs])
    return {"nc2": nc2, "nc3": nc3, "cdnv": total[2] / pairs, "equiangle_w": w, "equiangle_h": h}


def _blocks(K: int) -> Iterator[slice]:
    size = max(1, ROWS // K)
    return (slice(first, min(first + size, K)) for first in range(0, K, size))


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return ABᵀ; of many classes on all cores, as NumPy has one (`ufm_jax/__init__.py`), and in float32."""
    if len(B) ** 2 * B.shape[1] < HEAVY:
        return A @ B.T
    with unrounded():
        return np.asarray(jnp.asarray(A, jnp.float32) @ jnp.asarray(B, jnp.float32).T, np.float64)


def _from_simplex(rows: np.ndarray, own: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return rows less those of (I − J/K)/√(K−1), the diagonal at `own`."""
    K = rows.shape[1]
    apart = rows + 1.0 / (K * np.sqrt(K - 1.0))
    apart[own] -= 1.0 / np.sqrt(K - 1.0)
    return apart


def _spread_of_norms(A: np.ndarray) -> float:
    """Return the standard deviation of the rows' lengths over their mean."""
    lengths = np.linalg.norm(A, axis=1)
    return float(np.std(lengths) / np.mean(lengths))


def _mean_cosine(A: np.ndarray) -> float:
    """Return the mean cosine between different rows."""
    K = len(A)
    together = np.sum(A / np.linalg.norm(A, axis=1)[:, None], axis=0)
    return float((together @ together - K) / (K * (K - 1)))
