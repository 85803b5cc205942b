"""Classes of unequal counts under cross-entropy: which merge, and the geometry that is left as decays vanish.

**Minority collapse** (Hong & Ling 2023). At least two classes of equal count n_c share one classifier row and
one feature at every global minimum with d ≥ K − 1 exactly where s = √(λ_W λ_H) ≥ √n_c/N: each group of equal
counts has its own threshold, whatever the others do, and small classes merge first.

**SELI** (Thrampoulidis et al. 2022). As the decays fall to 0 without a bias, logits over their length tend to
the solution of min ‖Z‖_* subject to z_y − z_j ≥ 1 for each sample and j ≠ y, which is Z = Y − 11ᵀ/K, every
margin 1. On class means M = (I − J/K) diag(√n_k) = U Σ Vᵀ, and up to scale W Wᵀ = U Σ Uᵀ, H̃ᵀH̃ = V Σ Vᵀ (H̃
= [√n_k h_k]): a simplex only where counts are equal. That Z is optimal is shown, for given counts, by signs:
the subgradient U Vᵀ of the nuclear norm has to be ≤ 0 off the labels (`SELI.multipliers` ≥ 0 are the
program's multipliers).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ufm_jax.models.unconstrained.problem import checked_counts
from ufm_jax.numerics.checks import check_positive


class SELI(NamedTuple):
    """The geometry in the limit of no decay, up to one common scale of W and of H."""

    gram_w: Float[np.ndarray, "K K"]  # W Wᵀ
    gram_h: Float[np.ndarray, "K K"]  # inner products of class means
    singular_values: Float[np.ndarray, " K"]  # of M, the last 0
    multipliers: Float[
        np.ndarray, "K K"
    ]  # of margin (j, k), class k's sample against class j; 0 on the diagonal

    @property
    def cosines_w(self) -> Float[np.ndarray, "K K"]:
        """Return the cosines between rows of W."""
        return _cosines(self.gram_w)

    @property
    def cosines_h(self) -> Float[np.ndarray, "K K"]:
        """Return the cosines between class means."""
        return _cosines(self.gram_h)


def seli(counts: Sequence[int]) -> SELI:
    """Return the geometry that cross-entropy without a bias tends to as decays fall to 0, for d ≥ K − 1.

    Raises:
        ValueError: naming `counts`.
    """
    n = np.array(checked_counts(None, None, counts), float)
    K, root = len(n), np.sqrt(n)
    U, sigma, Vt = np.linalg.svd((np.eye(K) - 1.0 / K) * root)
    sigma[-1] = 0.0  # M has rank K − 1
    subgradient = (U[:, :-1] @ Vt[:-1]) / root  # in one sample of each class
    multipliers = -subgradient * (1.0 - np.eye(K))
    return SELI(U * sigma @ U.T, (Vt.T * sigma @ Vt) / np.outer(root, root), sigma, multipliers)


def merged_groups(counts: Sequence[int], strength: float) -> list[int]:
    """Return the counts whose classes merge at s = √(λ_W λ_H) = `strength`: s ≥ √n_c/N, at least two of them.

    Raises:
        ValueError: naming `counts`, or `strength`, if it is not positive.
    """
    sizes = checked_counts(None, None, counts)
    check_positive(strength=strength)
    shared = {n for n in sizes if sizes.count(n) > 1}
    return sorted(n for n in shared if strength >= n**0.5 / sum(sizes))


def _cosines(gram: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    lengths = np.sqrt(np.diag(gram))
    return gram / np.outer(lengths, lengths)
