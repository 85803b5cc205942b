"""The convex function of docs/theorem.md over a chart of column spaces, and its derivatives.

K classes, balanced; ε = Kθ; γ² = 1/(1 + Kλ_b): γ = 1 is λ_b = 0, γ = 0 no bias. A column space of dimension r
in the plane 1ᵀx = 0 is spanned by V(s) = V₀ + N₀ S, S the (K−1−r) × r matrix of the entries of s. With y =
(M, X, c), M symmetric positive definite r × r, X r × K, c ∈ R^K, and the bias b = γc,

    φ = Σ_k crossentropy(V x_k + γc, k) + ε/2 tr(VᵀV M) + ε/2 tr(Xᵀ M⁻¹ X) + (1 − γ²)/2 |c|² + ½ (1ᵀc)²

is convex in y (Kλ_b |b|² = (1 − γ²) |c|²). Its gradient g and R = ∂φ/∂S are, with G = softmax(VX + γc1ᵀ) − I
and Q = M⁻¹X,

    ε/2 (VᵀV − QQᵀ),   VᵀG + εQ,   γ G1 + (1 − γ²) c + (1ᵀc) 1,          R = N₀ᵀ (G Xᵀ + ε V M).

g = 0 has one solution for each V at most, and critical points of rank r are the zeros of R there. The same
code runs on float arrays and on `Interval`s: what it needs are +, −, ×, @, and softmax and inverse of either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from experiments.theorem.intervals import Interval, exp, interval, log, reciprocal


class Chart(NamedTuple):
    """V(s) = V[0] + Σ s_i V[i+1], (K, r), entries exact; V[i+1] has one column, number i mod r, that is not
    zero: column i // r of N₀.
    """

    V: np.ndarray  # (m + 1, K, r), m = (K − 1 − r) r

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
        return r * (r + 1) // 2 + (r + 1) * self.num_classes


def _zeros(like: Any, *shape: int) -> Any:
    return Interval(np.zeros(shape), np.zeros(shape)) if isinstance(like, Interval) else np.zeros(shape)


def unpack(chart: Chart, y: Any) -> tuple[Any, Any, Any]:
    """Return M (..., r, r), X (..., r, K), c (..., K) of y (..., D)."""
    r, K, lead = chart.rank, chart.num_classes, y.shape[:-1]
    rows, columns = chart.pairs
    t = len(rows)
    M = _zeros(y, *lead, r, r)
    M[..., rows, columns] = y[..., :t]
    M[..., columns, rows] = y[..., :t]
    return M, y[..., t : t + r * K].reshape(*lead, r, K), y[..., t + r * K :]


def pack(chart: Chart, of_M: Any, of_X: Any, of_c: Any) -> Any:
    """Return the vector (..., D) of a gradient: entries off M's diagonal count twice."""
    r, K, lead = chart.rank, chart.num_classes, of_M.shape[:-2]
    rows, columns = chart.pairs
    t = len(rows)
    g = _zeros(of_M, *lead, chart.unknowns)
    g[..., :t] = of_M[..., rows, columns] * np.where(rows == columns, 1.0, 2.0)
    g[..., t : t + r * K] = of_X.reshape(*lead, r * K)
    g[..., t + r * K :] = of_c
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
    M, X, c = unpack(chart, y)
    M, X = F @ M @ transposed(F), F @ X
    rows, columns = chart.pairs
    return np.concatenate([M[..., rows, columns], X.reshape(*X.shape[:-2], -1), c], axis=-1)


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
    """Return 1 / softmax, Σ_l exp(z_l − z_j), j on axis 1, from differences z_l − z_j, (n, l, j, k)."""
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
    c: Any  # (n, K)
    inverse: Any  # M⁻¹
    Q: Any  # (n, r, K)
    p: Any  # (n, K, K), column k that of class k
    G: Any
    epsilon: Any  # (n, 1, 1)
    gamma: Any


def logits(V: Any, X: Any, c: Any, gamma: Any) -> Any:
    """Return Z = VX + γc1ᵀ, (n, K, K)."""
    return V @ X + gamma * c[:, :, None]


def at(chart: Chart, fr: Frame, y: Any, x: Any, p: Any = None) -> At:
    """Evaluate at y (n, D), x = (s, ε, γ) (n, m + 2); p is given where better intervals of it are known."""
    m = chart.dim
    M, X, c = unpack(chart, y)
    V, epsilon, gamma = subspace(fr, x[:, :m]), x[:, m, None, None], x[:, m + 1, None, None]
    p = softmax(logits(V, X, c, gamma)) if p is None else p
    inv = inverse(M)
    return At(fr, V, M, X, c, inv, inv @ X, p, p - np.eye(chart.num_classes), epsilon, gamma)


def gradient(chart: Chart, a: At) -> Any:
    """Return g, (n, D)."""
    gamma = a.gamma[:, 0]
    of_M = (transposed(a.V) @ a.V - a.Q @ transposed(a.Q)) * (a.epsilon * 0.5)
    of_X = transposed(a.V) @ a.G + a.epsilon * a.Q
    of_c = gamma * a.G.sum(2) + (1.0 - gamma * gamma) * a.c + a.c.sum(1)[:, None]
    return pack(chart, of_M, of_X, of_c)


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
    c: Any
    Q: Any
    p: Any  # (n, q, K, K)
    shifted: Any  # Z' less its mean under p, (n, q, K, K)
    epsilon: np.ndarray  # (n, q, 1, 1), 0 or 1
    gamma: np.ndarray


def _subspace_motion(fr: Frame, dx: np.ndarray) -> Any:
    """Return V', (n, q, K, r), along unit vectors or zeros dx (q, m + 2)."""
    n, m1, K, r = fr.V.shape
    V = _zeros(fr.V, n, len(dx), K, r)
    for i, j in zip(*np.nonzero(dx[:, : m1 - 1]), strict=True):
        V[:, i] = fr.V[:, j + 1]
    return V


def logits_motion(fr: Frame, dx: np.ndarray, V: Any, X: Any, c: Any, gamma: Any, dX: Any, dc: Any) -> Any:
    """Return Z', (n, q, K, K), along directions dX (n, q, r, K), dc (n, q, K), dx (q, m + 2)."""
    along_c = gamma[:, None] * dc[..., None] + c[:, None, :, None] * dx[:, -1, None, None]
    return _subspace_motion(fr, dx) @ X[:, None] + V[:, None] @ dX + along_c


def motion(chart: Chart, a: At, dy: Any, dx: np.ndarray, dZ: Any = None) -> Motion:
    """Return derivatives along dy (n, q, D) and unit vectors or zeros dx (q, m + 2)."""
    dM, dX, dc = unpack(chart, dy)
    if dZ is None:
        dZ = logits_motion(a.frame, dx, a.V, a.X, a.c, a.gamma, dX, dc)
    p = a.p[:, None]
    shifted = _less_mean(p, dZ)
    dQ = a.inverse[:, None] @ (dX - dM @ a.Q[:, None])
    unit = np.broadcast_to(dx[:, -2:, None, None], (a.V.shape[0], len(dx), 2, 1, 1))
    dV = _subspace_motion(a.frame, dx)
    return Motion(dV, dM, dX, dc, dQ, p * shifted, shifted, unit[:, :, 0], unit[:, :, 1])


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
    V, M, X, c, Q, G = (part[:, None] for part in (a.V, a.M, a.X, a.c, a.Q, a.G))
    eps, gamma, dgamma = a.epsilon[:, None], a.gamma[:, None, 0], d.gamma[..., 0]
    S = transposed(V) @ V - Q @ transposed(Q)
    of_M = _balance_motion(V, Q, d) * (eps * 0.5) + S * (0.5 * d.epsilon)
    of_X = transposed(d.V) @ G + transposed(V) @ d.p + eps * d.Q + Q * d.epsilon
    of_c = gamma * d.p.sum(-1) + (1.0 - gamma * gamma) * d.c + d.c.sum(-1)[..., None]
    of_c = of_c + (G.sum(-1) - 2.0 * (gamma * c)) * dgamma
    W = (V @ d.M + d.V @ M) * eps + (V @ M) * d.epsilon
    of_s = d.p @ transposed(X) + G @ transposed(d.X) + W
    return pack(chart, of_M, of_X, of_c), _along(chart, a.frame.F, of_s)


def _balance_motion(V: Any, Q: Any, d: Motion) -> Any:
    """Return the derivative of VᵀV − QQᵀ."""
    VdV, QdQ = transposed(V) @ d.V, Q @ transposed(d.Q)
    return VdV + transposed(VdV) - (QdQ + transposed(QdQ))


def bend(chart: Chart, a: At, d: Motion, i: np.ndarray, j: np.ndarray) -> tuple[Any, Any]:
    """Return second derivatives of g and R along pairs (i, j) of directions, straight in y and x."""
    one, two = (Motion(*(part[:, w] for part in d)) for w in (i, j))
    V, M, X, c, Q, p = (part[:, None] for part in (a.V, a.M, a.X, a.c, a.Q, a.p))
    eps, gamma, gamma_1, gamma_2 = (
        a.epsilon[:, None],
        a.gamma[:, None, 0],
        one.gamma[..., 0],
        two.gamma[..., 0],
    )
    # With z̃ = z' less its mean under p: p' = p z̃, p'' = p (z̃_i z̃_j + z'', less their means)
    ddZ = one.V @ two.X + two.V @ one.X + one.c[..., None] * two.gamma + two.c[..., None] * one.gamma
    ddp = p * (_less_mean(p, one.shifted * two.shifted) + _less_mean(p, ddZ))
    ddQ = -(a.inverse[:, None] @ (one.M @ two.Q + two.M @ one.Q))
    VV, QQ, QddQ = transposed(one.V) @ two.V, one.Q @ transposed(two.Q), Q @ transposed(ddQ)
    ddS = VV + transposed(VV) - (QQ + transposed(QQ)) - (QddQ + transposed(QddQ))
    of_M = ddS * (eps * 0.5)
    of_M = (
        of_M
        + _balance_motion(V, Q, one) * (0.5 * two.epsilon)
        + _balance_motion(V, Q, two) * (0.5 * one.epsilon)
    )
    of_X = transposed(one.V) @ two.p + transposed(two.V) @ one.p + transposed(V) @ ddp
    of_X = of_X + eps * ddQ + two.Q * one.epsilon + one.Q * two.epsilon
    of_c = gamma * ddp.sum(-1) - 2.0 * (c * (gamma_1 * gamma_2))
    of_c = (
        of_c
        + (two.p.sum(-1) - 2.0 * (gamma * two.c)) * gamma_1
        + (one.p.sum(-1) - 2.0 * (gamma * one.c)) * gamma_2
    )
    W = (one.V @ two.M + two.V @ one.M) * eps
    W = W + (V @ one.M + one.V @ M) * two.epsilon + (V @ two.M + two.V @ M) * one.epsilon
    of_s = ddp @ transposed(X) + one.p @ transposed(two.X) + two.p @ transposed(one.X) + W
    return pack(chart, of_M, of_X, of_c), _along(chart, a.frame.F, of_s)


def loss(chart: Chart, fr: Frame, y: Interval, x: Interval) -> Interval:
    """Enclose f at zeros of g, where tr(Xᵀ M⁻¹ X) = tr(VᵀV M).

    K f = Σ_k cross-entropy + ε tr(VᵀV M) + (1 − γ²)/2 |c|².
    """
    K, n = chart.num_classes, y.shape[0]
    M, X, c = unpack(chart, y)
    V, gamma = subspace(fr, x[:, :-2]), x[:, -1]
    Z = logits(V, X, c, gamma[:, None, None])
    D = denominators(Z[:, :, None] - Z[:, None, :])
    mistakes = log(D[:, range(K), range(K)]).sum(1)
    trace = (V * (V @ M)).reshape(n, -1).sum(1)
    total = mistakes + x[:, -2] * trace + (c * c).sum(1) * (1.0 - gamma * gamma) * 0.5
    return total * reciprocal(interval(np.full(n, float(K))))
