"""The Hessian's whole spectrum at the minimiser of balanced cross-entropy, in closed form.

The minimiser is fixed by S_K, which permutes classes and turns features along, so ∇²f is one small block for
each irreducible representation (derived for this project; tested against dense Hessians). On class means, in
the K − 1 feature coordinates in use, write Ẇ = X F and Ḣ = Fᵀ Y with W = aF, H̃ = cFᵀ, FFᵀ = Π = I − J/K. Then

    vᵀ∇²f v = L(Ż) − 2 s tr(XΠYΠ) + λ_W‖X‖² + λ_H‖Y‖² + λ_b‖ḃ‖²,   Ż = (cX + aY)/√n + ḃ1ᵀ,

and L(Ż) = (1/K) Σ_k ż_kᵀ(diag p_k − p_k p_kᵀ) ż_k is pq on Π (the overall scale), q/K on the matrices with
zero row sums and zero diagonal, symmetric or antisymmetric, and (q/K)(I + (p−q) e eᵀ), e = (√(K−2), 1), on
the pair (Π diag(x) Π, x1ᵀ), Σx = 0, scaled to unit length. Here q is the softmax probability of a wrong class
and p = 1 − (K−1)q.
"""

from typing import NamedTuple

import numpy as np

from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, has_balanced_form, theta
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.problem import Problem


class Eigenvalue(NamedTuple):
    """One eigenvalue of the Hessian and the directions that have it."""

    value: float  # exactly 0.0 on rotations and on the shift of an undecayed bias
    multiplicity: int
    mode: str


class _Point(NamedTuple):
    """The minimiser's constants."""

    K: int
    n: int
    decay_w: float
    decay_h: float
    decay_b: float | None  # None without a bias
    theta: float
    gap: float  # m*
    p: float
    q: float

    @property
    def s(self) -> float:
        return self.theta / self.n**0.5

    @property
    def w_gain(self) -> float:
        """a²/n: the square of what W makes of a change of H̃ in the logits."""
        return self.gap * (self.decay_h / (self.decay_w * self.n)) ** 0.5

    @property
    def h_gain(self) -> float:
        """c²/n: the square of what H̃ makes of a change of W."""
        return self.gap * (self.decay_w / (self.decay_h * self.n)) ** 0.5


def etf_spectrum(prob: Problem) -> list[Eigenvalue]:
    """Return the Hessian's eigenvalues at the global minimiser, ascending, at a cost free of K, d and n.

    Balanced cross-entropy, plain or smoothed, d ≥ K − 1: at the simplex ETF, or at the origin where
    Kθ ≥ 1 − α. Of the full problem or, if `prob.collapsed`, the collapsed one; multiplicities sum to
    `prob.num_variables`. The decays must be numbers.

    Raises:
        ValueError: for another loss, unequal counts, or d < K − 1.
    """
    if not (isinstance(prob.loss, CrossEntropy) and has_balanced_form(prob)):
        raise ValueError(
            f"no closed form: need cross-entropy, balanced counts and dim >= K - 1; "
            f"got loss={prob.loss.name}, counts={prob.counts}, dim={prob.dim}"
        )
    K, n = prob.num_classes, prob.counts[0]
    gap, smoothing, t = float(balanced_minimum(prob).alpha), prob.loss.smoothing, float(theta(prob))
    q = t + smoothing / K if gap > 0 else 1.0 / K
    point = _Point(
        K=K,
        n=n,
        decay_w=float(prob.decay_w),
        decay_h=float(prob.decay_h),
        decay_b=float(prob.decay_b) if prob.bias else None,
        theta=t,
        gap=gap,
        p=1.0 - (K - 1) * q,
        q=q,
    )
    copies = 0 if prob.collapsed else K * (n - 1)
    if gap > 0:
        found = _frame(point) + _unused(point, prob.dim - K + 1) + _within(point, prob.dim, copies)
    else:
        found = _origin(point, prob.dim, (1.0 - smoothing) / (K * n**0.5), copies)
    return sorted(e for e in found if e.multiplicity > 0)


def _frame(point: _Point) -> list[Eigenvalue]:
    """The K − 1 feature coordinates in use, and the bias."""
    K, wrong = point.K, point.q / point.K
    traceless = point.decay_w + point.decay_h + wrong * (point.w_gain + point.h_gain)
    found = [
        *(Eigenvalue(x, 1, "overall scale") for x in _along_frame(point, point.p * point.q)),
        *(Eigenvalue(float(x), K - 1, "class scales") for x in np.linalg.eigvalsh(_class_scales(point))),
        *(Eigenvalue(x, K * (K - 3) // 2, "symmetric") for x in _along_frame(point, wrong)),
        Eigenvalue(0.0, (K - 1) * (K - 2) // 2, "rotation"),
        Eigenvalue(traceless, (K - 1) * (K - 2) // 2, "antisymmetric"),
        Eigenvalue(point.decay_w, K - 1, "classifier shift"),  # Ẇ = 1xᵀ
    ]
    return found if point.decay_b is None else [*found, Eigenvalue(point.decay_b, 1, "bias shift")]


def _along_frame(point: _Point, curvature: float) -> tuple[float, float]:
    """Eigenvalues on (X, Y) in a space of symmetric matrices ΠMΠ where L is `curvature`.

    The block [[λ_W + L c²/n, L m/√n − s], [·, λ_H + L a²/n]] has determinant 4 L s m/√n.
    """
    trace = point.decay_w + point.decay_h + curvature * (point.w_gain + point.h_gain)
    return _pair(trace, 4.0 * curvature * point.s * point.gap / point.n**0.5)


def _class_scales(point: _Point) -> np.ndarray:
    """The block of X ∝ Π diag(x) Π, Y ∝ Π diag(x) Π, Y ∝ x1ᵀ and ḃ ∝ x, one x of zero sum for all four.

    For K = 2, Π diag(x) Π = 0.
    """
    K, c, a = point.K, point.h_gain**0.5, point.w_gain**0.5
    logits = np.array([[c, a, 0.0, 0.0], [0.0, 0.0, a, K**0.5]])
    e = np.array([(K - 2) ** 0.5, 1.0])
    curvature = point.q / K * (np.eye(2) + (point.p - point.q) * np.outer(e, e))
    decays = np.diag([point.decay_w, point.decay_h, point.decay_h, point.decay_b or 0.0])
    block = logits.T @ curvature @ logits + decays
    block[0, 1] -= point.s
    block[1, 0] -= point.s
    present = np.array([K > 2, K > 2, True, point.decay_b is not None])
    return block[present][:, present]


def _unused(point: _Point, features: int) -> list[Eigenvalue]:
    """The feature coordinates in which W and H̃ vanish: [[λ_W I, −sΠ], [−sΠ, λ_H I]] each."""
    return [
        Eigenvalue(0.0, (point.K - 1) * features, "rotation"),
        Eigenvalue(point.decay_w + point.decay_h, (point.K - 1) * features, "unused features"),
        Eigenvalue(point.decay_w, features, "unused features"),
        Eigenvalue(point.decay_h, features, "unused features"),
    ]


def _within(point: _Point, dim: int, copies: int) -> list[Eigenvalue]:
    """λ_H I + a² Fᵀ A_k F/N, `copies` times: FᵀA_kF is Kpq along class k's feature, q across, 0 unused."""
    K, spread = point.K, point.q * point.w_gain
    return [
        Eigenvalue(point.decay_h + point.p * spread, copies, "within class"),
        Eigenvalue(point.decay_h + spread / K, copies * (K - 2), "within class"),
        Eigenvalue(point.decay_h, copies * (dim - K + 1), "within class"),
    ]


def _origin(point: _Point, dim: int, sigma: float, copies: int) -> list[Eigenvalue]:
    """The origin, where the gradient of the loss is G̃ = −σΠ."""
    K, pairs = point.K, (point.K - 1) * dim
    low, high = _pair(point.decay_w + point.decay_h, point.s**2 - sigma**2)
    found = [
        Eigenvalue(low, pairs, "simplex"),
        Eigenvalue(high, pairs, "simplex"),
        Eigenvalue(point.decay_w, dim, "classifier shift"),
        Eigenvalue(point.decay_h, dim, "common feature"),
        Eigenvalue(point.decay_h, copies * dim, "within class"),
    ]
    if point.decay_b is None:
        return found
    bias = Eigenvalue(point.decay_b + 1.0 / K, K - 1, "bias"), Eigenvalue(point.decay_b, 1, "bias shift")
    return [*found, *bias]


def _pair(trace: float, determinant: float) -> tuple[float, float]:
    """Eigenvalues of a symmetric 2 x 2 matrix of positive trace; the lower one to full relative accuracy."""
    high = trace / 2 + max(trace**2 / 4 - determinant, 0.0) ** 0.5
    return determinant / high, high
