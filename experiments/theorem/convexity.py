"""How convex φ is over a whole box: a lower bound of its Hessian in a basis in which it is about 1.

The factors 1 ± 1e-12 cover the few roundings of a computation with numbers of one sign.
"""

from __future__ import annotations

import numpy as np

from experiments.theorem.convex import At, Chart, transposed
from experiments.theorem.intervals import Interval, interval, reciprocal

LESS, MORE = 1 - 1e-12, 1 + 1e-12
ORTHOGONAL = 1e-6  # how far approximate eigenvectors may be from orthonormal ones


def convexity(chart: Chart, C: np.ndarray, a: At) -> np.ndarray:
    """Return lower bounds μ of CᵀHC, H the Hessian of φ in y, over a box: (n,), NaN where there is none.

    H = Σ_i ω_i t_i t_iᵀ ⪰ TᵀT, T the matrix with rows √ω_i t_i and lower bounds of ω_i; see `enclose` for
    what they are.
    """
    TC = _squares(chart, a) @ interval(C)
    middle, radius = TC.halves()
    gram = interval(transposed(middle)) @ interval(middle)
    smallest = np.sqrt(np.maximum(_smallest_eigenvalue(gram), 0)) * LESS  # singular value of the middle
    low = smallest - (np.sqrt(np.sum(radius * radius, axis=(1, 2))) * MORE + 1e-150)
    return np.where(low > 0, low * low * LESS, np.nan)


def _squares(chart: Chart, a: At) -> Interval:
    """Return T, (n, rows, D), NaN where M is not shown to be positive definite."""
    K, r, D, n = chart.num_classes, chart.rank, chart.unknowns, len(a.p.lo)
    rows, columns = chart.pairs
    t = len(rows)
    shift = t + r * K  # where c begins
    j, l = np.triu_indices(K, 1)
    count = K * len(j) + K * r + K + 1
    T = Interval(np.zeros((n, count, D)), np.zeros((n, count, D)))
    # √(p_j p_l) of the change of z_j − z_l, at each class
    p = np.maximum(a.p.lo, 0.0)
    weight = np.sqrt(p[:, j] * p[:, l] * LESS) * LESS  # (n, pairs, class)
    apart = a.V[:, j] - a.V[:, l]  # (n, pairs, r)
    for k in range(K):
        slot = k * len(j)
        for e in range(r):
            T[:, slot : slot + len(j), t + e * K + k] = apart[:, :, e] * weight[:, :, k]
        for i in range(len(j)):
            of_c = a.gamma[:, 0, 0] * weight[:, i, k]
            T[:, slot + i, shift + j[i]] = of_c
            T[:, slot + i, shift + l[i]] = -of_c
    # √(ελ) (dX − dM Q), a class's column at a time: M ⪯ ‖M‖ = 1/λ in the norm of row sums, so that M⁻¹ ⪰ λ
    norm = a.M.size().sum(2).max(1) * MORE
    lam = np.where(positive_definite(a.M), reciprocal(interval(norm)).lo, np.nan)
    scale = np.sqrt(a.epsilon.lo[:, 0, 0] * lam * LESS) * LESS
    for k in range(K):
        slot = K * len(j) + k * r
        for e in range(r):
            T[:, slot + e, t + e * K + k] = scale
        for i, (e, f) in enumerate(zip(rows, columns, strict=True)):
            T[:, slot + e, i] = -(a.Q[:, f, k] * scale)
            if e != f:
                T[:, slot + f, i] = -(a.Q[:, e, k] * scale)
    # √(1 − γ²) dc, 1ᵀdc
    slot = K * len(j) + K * r
    own = np.maximum((1.0 - a.gamma * a.gamma).lo[:, 0, 0], 0.0)
    for k in range(K):
        T[:, slot + k, shift + k] = np.sqrt(own) * LESS
    T[:, slot + K, shift:] = 1.0
    return T


def _smallest_eigenvalue(gram: Interval) -> np.ndarray:
    """Return lower bounds of the eigenvalues of symmetric positive semidefinite matrices, by Gershgorin's
    discs.

    With approximate eigenvectors U, |UᵀU − 1| ≤ e < 1, and A = Uᵀ gram U ⪰ λ ≥ 0: for x = Uz, xᵀ gram x ≥
    λ|z|² ≥ λ|x|²/(1 + e).
    """
    middle = gram.halves()[0]
    D = middle.shape[-1]
    _, U = np.linalg.eigh(np.where(np.isfinite(middle), middle, 0))
    e = (interval(transposed(U)) @ interval(U) - np.eye(D)).size().sum(2).max(1) * MORE
    A = (interval(transposed(U)) @ gram) @ interval(U)
    size = A.size()
    others = (size * (1 - np.eye(D))).sum(2) * MORE
    low = (np.diagonal(A.lo, axis1=1, axis2=2) * LESS - others).min(1)
    return np.where((e < ORTHOGONAL) & (low > 0), low / (1 + 2 * ORTHOGONAL), np.nan)


def positive_definite(M: Interval) -> np.ndarray:
    """Say where every symmetric matrix in M (n, r, r) is positive definite: the pivots of elimination are
    positive.
    """
    A = Interval(M.lo.copy(), M.hi.copy())
    good = np.ones(len(A.lo), bool)
    for i in range(A.shape[-1]):
        good &= A.lo[:, i, i] > 0
        pivot = reciprocal(A[:, i, i])
        for j in range(i + 1, A.shape[-1]):
            factor = A[:, j, i] * pivot
            A[:, j, i:] = A[:, j, i:] - factor[:, None] * A[:, i, i:]
    return good
