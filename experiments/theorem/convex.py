"""The convex function of docs/theorem.md over a chart of column spaces, and its derivatives, on numbers or
intervals.

K classes, balanced; ε = Kθ, β = Kλ_b. A column space of dimension r in the plane 1ᵀx = 0 is spanned by V(s) =
V₀ + N₀ S, S the (K−1−r) × r matrix of the entries of s. With y = (M, X, b), M symmetric positive definite r ×
r, X r × K, b ∈ R^K,

    φ(y, s) = Σ_k crossentropy(V x_k + b, k) + ε/2 tr(VᵀV M) + ε/2 tr(Xᵀ M⁻¹ X) + β/2 |b|² + ½ (1ᵀb)²

is convex in y. With G = softmax(VX + b1ᵀ) − I and Q = M⁻¹X its gradient g and R = ∂φ/∂S are

    ε/2 (VᵀV − QQᵀ),   VᵀG + εQ,   G1 + βb + (1ᵀb) 1,          R = N₀ᵀ (G Xᵀ + ε V M).

g = 0 has one solution for each V at most, and critical points of rank r are the zeros of R there. The same
code runs on float arrays and on `Interval`s: what it needs are +, −, ×, @ and softmax and inverse of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.theorem.intervals import Interval, exp, interval, log, reciprocal, root


class Chart(NamedTuple):
    """V(s) = V[0] + Σ s_i V[i+1], (K, r), entries exact; V[i+1] has one column, number i mod r, that is not
    zero: column i // r of N₀.
    """

    V: np.ndarray  # (m + 1, K, r), m = (K − 1 − r) r
    bias: bool = True

    @property
    def rank(self) -> int:
        return self.V.shape[2]

    @property
    def num_classes(self) -> int:
        return self.V.shape[1]

    @property
    def dim(self) -> int:
        return len(self.V) - 1

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of M's upper triangle."""
        return np.triu_indices(self.rank)

    @property
    def unknowns(self) -> int:
        r = self.rank
        return r * (r + 1) // 2 + (r + self.bias) * self.num_classes


def _zeros(like: Any, *shape: int) -> Any:
    return Interval(np.zeros(shape), np.zeros(shape)) if isinstance(like, Interval) else np.zeros(shape)


def unpack(chart: Chart, y: Any) -> tuple[Any, Any, Any]:
    """Return M (..., r, r), X (..., r, K), b (..., K) of y (..., D); b = 0 without a bias."""
    r, K, lead = chart.rank, chart.num_classes, y.shape[:-1]
    rows, columns = chart.pairs
    t = len(rows)
    M = _zeros(y, *lead, r, r)
    M[..., rows, columns] = y[..., :t]
    M[..., columns, rows] = y[..., :t]
    X = y[..., t : t + r * K].reshape(*lead, r, K)
    return M, X, y[..., t + r * K :] if chart.bias else _zeros(y, *lead, K)


def pack(chart: Chart, of_M: Any, of_X: Any, of_b: Any) -> Any:
    """Return the vector (..., D) of a gradient: entries off M's diagonal count twice."""
    r, K, lead = chart.rank, chart.num_classes, of_M.shape[:-2]
    rows, columns = chart.pairs
    t = len(rows)
    g = _zeros(of_M, *lead, chart.unknowns)
    g[..., :t] = of_M[..., rows, columns] * np.where(rows == columns, 1.0, 2.0)
    g[..., t : t + r * K] = of_X.reshape(*lead, r * K)
    if chart.bias:
        g[..., t + r * K :] = of_b
    return g


class Frame(NamedTuple):
    """Bases of a box of their own: V(s) F spans the same space; with the right F, M ≈ 1 at the centre."""

    F: np.ndarray  # (n, r, r)
    V: Any  # (n, m + 1, K, r): the chart's V, times F; enclosed, for intervals


def frame(chart: Chart, F: np.ndarray, like: Any) -> Frame:
    """Return the frame of F for numbers or for intervals, whichever `like` is."""
    V = interval(chart.V) if isinstance(like, Interval) else chart.V
    return Frame(F, V @ F[:, None])


def change_basis(chart: Chart, y: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Return y (..., n, D) of the chart's own basis, of the frame F's: M = F M' Fᵀ, X = F X'."""
    M, X, b = unpack(chart, y)
    M, X = F @ M @ transposed(F), F @ X
    rows, columns = chart.pairs
    parts = [M[..., rows, columns], X.reshape(*X.shape[:-2], -1)]
    return np.concatenate([*parts, b] if chart.bias else parts, axis=-1)


def subspace(fr: Frame, s: Any) -> Any:
    """Return V(s), (n, K, r)."""
    value = fr.V[:, 0]
    for i in range(fr.V.shape[1] - 1):
        value = s[:, i, None, None] * fr.V[:, i + 1] + value
    return value


def softmax(Z: Any) -> Any:
    """Return softmax over axis 1."""
    if isinstance(Z, Interval):
        return reciprocal(denominators(Z[:, :, None] - Z[:, None, :]))
    P = np.exp(Z - Z.max(axis=1, keepdims=True))
    return P / P.sum(axis=1, keepdims=True)


def denominators(differences: Interval) -> Interval:
    """Return Σ_l exp(z_l − z_j), j on axis 1, of differences z_l − z_j, (n, l, j, k): the inverse of softmax."""
    K = differences.shape[1]
    E = exp(differences)
    E[:, range(K), range(K)] = 1.0
    return E.sum(1)


def inverse(M: Any) -> Any:
    """Return inverses (n, r, r); of intervals, what holds those of all matrices in them, infinite if not
    shown.

    With a point C, E = I − CM and ‖E‖ < 1 in the maximum norm: M⁻¹ = (I + E + E² + …) C.
    """
    if not isinstance(M, Interval):
        return np.linalg.inv(M)
    if M.shape[-1] == 1:
        return reciprocal(M)
    C = safe_inverse(M.halves()[0])
    E = np.eye(M.shape[-1]) - C @ M
    norm = interval(E.size()).sum(2).hi.max(1)
    tail = (
        interval(norm) * norm * reciprocal(interval(1.0) - norm) * np.abs(C).sum(2).max(1) * (1 + 1e-12)
    ).hi
    tail = np.where(norm < 1, tail, np.inf)[:, None, None]
    return C + E @ C + Interval(-tail, tail)


def safe_inverse(matrix: np.ndarray) -> np.ndarray:
    """Return approximate inverses, NaN where there is none."""
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        inverses = np.full_like(matrix, np.nan)
        for i, one in enumerate(matrix):
            if np.all(np.isfinite(one)) and np.linalg.cond(one) < 1e15:
                inverses[i] = np.linalg.inv(one)
        return inverses


class At(NamedTuple):
    """φ's parts at y, s (or over boxes of them)."""

    frame: Frame
    V: Any  # (n, K, r)
    M: Any  # (n, r, r)
    X: Any  # (n, r, K)
    b: Any  # (n, K)
    inverse: Any  # M⁻¹
    Q: Any  # (n, r, K)
    p: Any  # (n, K, K), column k that of class k
    G: Any
    epsilon: Any  # (n, 1, 1)
    beta: Any


def at(chart: Chart, fr: Frame, y: Any, x: Any, p: Any = None) -> At:
    """Evaluate at y (n, D), x = (s, ε, β) (n, m + 2); with p given where it is known better than by Z's
    intervals.
    """
    m = chart.dim
    M, X, b = unpack(chart, y)
    V = subspace(fr, x[:, :m])
    if p is None:
        Z = V @ X + b[:, :, None]
        p = softmax(Z)
    inv = inverse(M)
    G = p - np.eye(chart.num_classes)
    return At(fr, V, M, X, b, inv, inv @ X, p, G, x[:, m, None, None], x[:, m + 1, None, None])


def gradient(chart: Chart, a: At) -> Any:
    """Return g, (n, D)."""
    of_M = (transposed(a.V) @ a.V - a.Q @ transposed(a.Q)) * (a.epsilon * 0.5)
    of_X = transposed(a.V) @ a.G + a.epsilon * a.Q
    of_b = a.G.sum(2) + a.beta[:, 0] * a.b + a.b.sum(1)[:, None]
    return pack(chart, of_M, of_X, of_b)


def tilt(chart: Chart, a: At) -> Any:
    """Return R = ∂φ/∂s, (n, m)."""
    return _along(chart, a.frame.F, a.G @ transposed(a.X) + (a.V @ a.M) * a.epsilon)


def _along(chart: Chart, F: np.ndarray, D: Any) -> Any:
    """Return ⟨D, V_i F⟩ = (N₀ᵀ D Fᵀ) at row i // r, column i mod r, of D (n, …, K, r)."""
    N = chart.V[1 :: chart.rank, :, 0]  # (c, K)
    lead = D.shape[:-2]
    F = transposed(F).reshape(len(F), *[1] * (len(lead) - 1), *F.shape[1:])
    return ((N @ D) @ F).reshape(*lead, chart.dim)


def transposed(a: Any) -> Any:
    return a.swapaxes(-1, -2)


class Motion(NamedTuple):
    """First derivatives along q directions."""

    V: Any  # (n, q, K, r)
    M: Any
    X: Any
    b: Any
    Q: Any
    p: Any  # (n, q, K, K)
    shifted: Any  # Z' less its mean under p, (n, q, K, K)
    epsilon: Any  # (n, q, 1, 1)
    beta: Any


def _subspace_motion(fr: Frame, dx: np.ndarray) -> Any:
    """Return V', (n, q, K, r), along unit vectors or zeros dx (q, m + 2)."""
    n, m1, K, r = fr.V.shape
    V = _zeros(fr.V, n, len(dx), K, r)
    for i, j in zip(*np.nonzero(dx[:, : m1 - 1]), strict=True):
        V[:, i] = fr.V[:, j + 1]
    return V


def logits_motion(chart: Chart, fr: Frame, V: Any, X: Any, dy: Any, dx: np.ndarray) -> Any:
    """Return Z', (n, q, K, K), along directions dy (n, q, D), dx (q, m + 2)."""
    _, dX, db = unpack(chart, dy)
    dV = _subspace_motion(fr, dx)
    return dV @ X[:, None] + V[:, None] @ dX + db[..., None]


def motion(chart: Chart, a: At, dy: Any, dx: np.ndarray, dZ: Any = None) -> Motion:
    """Return derivatives along dy (n, q, D) and unit vectors or zeros dx (q, m + 2)."""
    m = chart.dim
    dM, dX, db = unpack(chart, dy)
    dV = _subspace_motion(a.frame, dx)
    dZ = logits_motion(chart, a.frame, a.V, a.X, dy, dx) if dZ is None else dZ
    p = a.p[:, None]
    shifted = _less_mean(p, dZ)
    dQ = a.inverse[:, None] @ (dX - dM @ a.Q[:, None])
    return Motion(dV, dM, dX, db, dQ, p * shifted, shifted, dx[:, m, None, None], dx[:, m + 1, None, None])


def _less_mean(p: Any, dZ: Any) -> Any:
    """Return dZ − Σ_j p_j dZ_j; for intervals about a point near the mean, which makes no difference to the
    value.
    """
    if isinstance(dZ, Interval):
        p_middle, z_middle = p.halves()[0], dZ.halves()[0]
        dZ = dZ - (p_middle * z_middle).sum(-2)[..., None, :]
    return dZ - (p * dZ).sum(-2)[..., None, :]


def slope(chart: Chart, a: At, d: Motion) -> tuple[Any, Any]:
    """Return derivatives of g, (n, q, D), and of R, (n, q, m), along the directions of a `motion`."""
    V, M, X, b, Q, G = (part[:, None] for part in (a.V, a.M, a.X, a.b, a.Q, a.G))
    eps, beta = a.epsilon[:, None], a.beta[:, None]
    VdV, QdQ = transposed(V) @ d.V, Q @ transposed(d.Q)
    S = (transposed(V) @ V) - Q @ transposed(Q)
    dS = VdV + transposed(VdV) - (QdQ + transposed(QdQ))
    of_M = dS * (eps * 0.5) + S * (0.5 * d.epsilon)
    of_X = transposed(d.V) @ G + transposed(V) @ d.p + eps * d.Q + Q * d.epsilon
    of_b = d.p.sum(-1) + beta[..., 0] * d.b + d.beta[..., 0] * b + d.b.sum(-1)[..., None]
    W = (V @ d.M + d.V @ M) * eps + (V @ M) * d.epsilon
    of_s = d.p @ transposed(X) + G @ transposed(d.X) + W
    return pack(chart, of_M, of_X, of_b), _along(chart, a.frame.F, of_s)


def bend(chart: Chart, a: At, d: Motion, i: np.ndarray, j: np.ndarray) -> tuple[Any, Any]:
    """Return second derivatives of g and R along pairs (i, j) of directions, straight in y and s."""
    one, two = (Motion(*(part[:, w] if is_batched(part) else part[w] for part in d)) for w in (i, j))
    V, X, Q, p = (part[:, None] for part in (a.V, a.X, a.Q, a.p))
    eps = a.epsilon[:, None]
    # Z'' = 2 V'X' symmetrised; p'' = p (z̃_i z̃_j − mean + Z'' − mean)
    ddZ = one.V @ two.X + two.V @ one.X
    product = one.shifted * two.shifted
    ddp = p * (_less_mean(p, product) + _less_mean(p, ddZ))
    ddQ = -(a.inverse[:, None] @ (one.M @ two.Q + two.M @ one.Q))
    VV, QQ, QddQ = transposed(one.V) @ two.V, one.Q @ transposed(two.Q), Q @ transposed(ddQ)
    ddS = VV + transposed(VV) - (QQ + transposed(QQ)) - (QddQ + transposed(QddQ))

    def dS(o: Motion) -> Any:
        VdV, QdQ = transposed(V) @ o.V, Q @ transposed(o.Q)
        return VdV + transposed(VdV) - (QdQ + transposed(QdQ))

    of_M = ddS * (eps * 0.5) + dS(one) * (0.5 * two.epsilon) + dS(two) * (0.5 * one.epsilon)
    of_X = transposed(one.V) @ two.p + transposed(two.V) @ one.p + transposed(V) @ ddp
    of_X = of_X + eps * ddQ + two.Q * one.epsilon + one.Q * two.epsilon
    of_b = ddp.sum(-1) + two.b * one.beta[..., 0] + one.b * two.beta[..., 0]
    WM = one.V @ two.M + two.V @ one.M
    W = WM * eps + _VM(a, one) * two.epsilon + _VM(a, two) * one.epsilon
    of_s = ddp @ transposed(X) + one.p @ transposed(two.X) + two.p @ transposed(one.X) + W
    return pack(chart, of_M, of_X, of_b), _along(chart, a.frame.F, of_s)


def _VM(a: At, o: Motion) -> Any:
    return a.V[:, None] @ o.M + o.V @ a.M[:, None]


def is_batched(part: Any) -> bool:
    """Say whether a part of a Motion has a batch axis: ε' and β' have none."""
    return len(part.shape) == 4 or (len(part.shape) == 3 and part.shape[-2:] != (1, 1))


def loss(chart: Chart, fr: Frame, y: Interval, x: Interval) -> Interval:
    """Enclose f = (Σ_k cross-entropy + ε tr(VᵀV M) + β/2 |b|²) / K at zeros of g, where Xᵀ M⁻¹ X = QᵀMQ, QQᵀ
    = VᵀV.
    """
    K, n = chart.num_classes, y.shape[0]
    M, X, b = unpack(chart, y)
    V = subspace(fr, x[:, :-2])
    Z = V @ X + b[:, :, None]
    D = denominators(Z[:, :, None] - Z[:, None, :])
    mistakes = log(D[:, range(K), range(K)]).sum(1)
    trace = (V * (V @ M)).reshape(n, -1).sum(1)
    total = mistakes + x[:, -2] * trace + (b * b).sum(1) * x[:, -1] * 0.5
    return total * reciprocal(interval(np.full(n, float(K))))


@dataclass(frozen=True)
class Setting:
    """Balanced cross-entropy: decays as given in binary; `decay_b` None for no bias."""

    num_classes: int
    per_class: int
    decay_w: float
    decay_h: float
    decay_b: float | None

    def strengths(self) -> Interval:
        """Enclose (ε, β) = (K √(n λ_W λ_H), Kλ_b); β is 0 without a bias, where it means nothing."""
        K = float(self.num_classes)
        epsilon = root(interval(np.array([self.decay_w])) * self.decay_h * float(self.per_class)) * K
        beta = interval(np.array([self.decay_b or 0.0])) * K if self.decay_b else interval(np.zeros(1))
        return Interval(np.r_[epsilon.lo, beta.lo], np.r_[epsilon.hi, beta.hi])
