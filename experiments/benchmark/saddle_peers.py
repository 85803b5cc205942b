"""Critical points of any index as a careful user would look for them without this package: SciPy's `root`.

On class means, with the dense Hessian as Jacobian, one start at a time, and LAPACK for the lowest eigenvalue;
and the referee of saddles, with formulas of its own. NumPy and SciPy alone.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import root

from experiments.benchmark.peers import (
    REFEREE_GAP,
    REFEREE_GRAD,
    Function,
    Setting,
    referee,
)

Point = tuple[np.ndarray, np.ndarray, np.ndarray]  # W (K,d), H (d,N), b (K,)

# Tried, on 200 to 600 starts at K = 4 and 16 to 60 at K = 10.
# lm: xtol = ftol of 1e-2 to 1e-12, of which 3e-4 and more lose starts, and 1e-6 takes 1.2 (K = 4) and 1.6
# times (K = 10) as long as 1e-4, for no more points that the referee accepts: the last steps are quadratic.
# One of the two alone takes half as long again. A `factor` of 0.1 to 1000, a `maxiter` of 100 to 1000: no
# difference. Variables scaled alike (`diag` of ones), not by the norms of columns, make it a tenth faster at
# K = 4 and up to a tenth slower at K = 10.
# hybr: xtol of 1e-4 and 1e-6 loses starts; 1e-8 to 1e-12 take the same time. Scaled alike it loses fewer.
OPTIONS: dict[str, dict[str, float]] = {
    "lm": {"xtol": 1e-4, "ftol": 1e-4, "gtol": 0.0, "maxiter": 1000},
    "hybr": {"xtol": 1e-8, "maxfev": 1000},
}
ALIKE = {"lm": 100, "hybr": 10**6}  # variables up to which they are scaled alike
NEGATIVE = -1e-7  # curvature below which a point with ‖∇f‖ ≤ 1e-8 counts as a saddle
NOISE = 0.3


class Recipe(NamedTuple):
    """How `root` is called."""

    method: Literal["lm", "hybr"]
    coordinates: Literal["all", "enough", "rank"]  # d; K − 1, which hold all; those that the start uses
    tuned: bool = True


RECIPES = {
    "scipy-lm-plain": Recipe("lm", "all", tuned=False),
    "scipy-lm": Recipe("lm", "enough"),
    "scipy-lm-rank": Recipe("lm", "rank"),
    "scipy-hybr": Recipe("hybr", "enough"),
}


class Judged(NamedTuple):
    """A point of the full problem, and the verdict on it."""

    W: np.ndarray
    H: np.ndarray
    b: np.ndarray
    verdict: str


class Seen(NamedTuple):
    """What the referee found at a point."""

    value: float
    grad_norm: float
    gap: float
    curvature: float  # along the unit direction in which it is lowest on class means


class ClassMeans(Function):
    """f on class means in `dim` feature coordinates, √n (mean of a class) as features: with dense Hessian."""

    def __init__(self, s: Setting, dim: int):
        super().__init__(s._replace(d=dim), s.K, s.n**-0.5)

    def grad(self, x: np.ndarray) -> np.ndarray:
        return self.value_and_grad(x)[1]

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Return the Hessian (D, D), by a product of matrices a block."""
        if self.at is None or not np.array_equal(self.at, x):
            self.value_and_grad(x)
        s, K, d = self.s, self.s.K, self.s.d
        W, H, _ = self.parts(x)
        P = self.P.T
        A = -(P[:, :, None] * P[:, None, :]) / K  # of class k's logits: (diag p − p pᵀ) / K
        A[:, range(K), range(K)] += P / K
        V, E = self.scale * W, self.scale * H.T  # (K, d): ∂z/∂h, and a row a class of ∂z/∂W
        AV = A @ V
        out = np.zeros((x.size, x.size))
        w, h, b = slice(K * d), slice(K * d, 2 * K * d), slice(2 * K * d, None)
        flat = A.reshape(K, K * K).T
        squares = (E[:, :, None] * E[:, None, :]).reshape(K, d * d)
        out[w, w] = (flat @ squares).reshape(K, K, d, d).transpose(0, 2, 1, 3).reshape(K * d, K * d)
        out[w, b] = (flat @ E).reshape(K, K, d).transpose(0, 2, 1).reshape(K * d, K)
        mixed = AV.transpose(1, 2, 0)[:, None] * E.T[None, :, None]  # (K, d of W, d of H, class)
        mixed[:, range(d), range(d)] += self.scale * self.G[:, None]
        out[w, h] = mixed.reshape(K * d, d * K)
        out[h, b] = AV.transpose(2, 0, 1).reshape(d * K, K)
        of_h = out[h, h].reshape(d, K, d, K)  # a view: features of different classes do not meet
        of_h[:, range(K), :, range(K)] = V.T @ AV
        out[h, h] = of_h.reshape(d * K, d * K)
        out[b, b] = A.sum(axis=0)
        out[h, w], out[b, w], out[b, h] = out[w, h].T, out[w, b].T, out[h, b].T
        decays = (s.decay_w, s.decay_h, s.decay_b)
        out[range(x.size), range(x.size)] += np.repeat(decays, (K * d, d * K, K))
        return out


def draw_saddle_starts(s: Setting, seed: int, numbers: range) -> Point:
    """Return class-constant, balanced starts of the full problem, a row each, of ranks 0..K − 1 in turn.

    Up to noise W / (λ_H/λ_W)^¼ is the transpose of class means times √n; the size of the logits is
    log-uniform in 0.1..30, and the first coordinates alone are used. Start i depends on the seed and i alone.
    """
    K, n, S, most = s.K, s.n, len(numbers), min(s.d, s.K - 1)
    W, H, b = np.zeros((S, K, s.d)), np.zeros((S, s.d, K * n)), np.empty((S, K))
    tilt = (s.decay_h / s.decay_w) ** 0.25
    for row, i in enumerate(numbers):
        rng = np.random.default_rng([seed, 1, i])  # 1: not the numbers of starts toward minima
        rank = i % (most + 1)
        size = np.exp(rng.uniform(np.log(0.1), np.log(30.0)))
        one, other = np.sqrt(size / np.sqrt(K)) * rng.standard_normal((2, K, rank))
        one -= one.mean(axis=0)
        W[row, :, :rank] = one * tilt
        H[row, :rank] = np.repeat((one + NOISE * other).T / tilt * n**-0.5, n, axis=1)
        b[row] = NOISE * rng.standard_normal(K)
    return W, H, b


def search(s: Setting, start: Point, recipe: Recipe) -> Judged:
    """Look for a root of ∇f on class means, by one recipe."""
    W, H, b = start
    dim = s.d if recipe.coordinates == "all" else min(s.d, s.K - 1)
    if recipe.coordinates == "rank":  # ∇f is zero in the others
        dim = int(np.max(np.any(W != 0, axis=0) * np.arange(1, s.d + 1)))
    f = ClassMeans(s, dim)
    means = H[:dim, :: s.n] * s.n**0.5
    x = np.concatenate([W[:, :dim].ravel(), means.ravel(), b])
    # The Jacobian is symmetric: either order of its entries will do, and this one spares a copy.
    options: dict[str, Any] = {"col_deriv": 1}
    if recipe.tuned:
        diag = np.ones(x.size) if x.size <= ALIKE[recipe.method] else None
        options |= OPTIONS[recipe.method] | {"diag": diag}
    x = root(f.grad, x, jac=f.hessian, method=recipe.method, options=options).x
    verdict = verdict_at(f, x, unused=recipe.coordinates == "rank" and dim < s.d)
    small_W, means, b = f.parts(x)
    W, H = np.zeros((s.K, s.d)), np.zeros((s.d, s.K * s.n))
    W[:, :dim], H[:dim] = small_W, np.repeat(means * f.scale, s.n, axis=1)
    return Judged(W, H, b, verdict)


def verdict_at(f: ClassMeans, x: np.ndarray, *, unused: bool) -> str:
    """Return MINIMUM, SADDLE or NOT_CRITICAL; `unused`: feature coordinates that are left out count.

    In such a coordinate the Hessian is [[λ_W, G], [Gᵀ, λ_H]], whose lowest eigenvalue ‖G‖₂ tells.
    """
    if not np.linalg.norm(f.grad(x)) <= REFEREE_GRAD:
        return "NOT_CRITICAL"
    lowest = eigh(f.hessian(x), eigvals_only=True, subset_by_index=[0, 0])[0]
    if unused:
        mean, half = (f.s.decay_w + f.s.decay_h) / 2, (f.s.decay_w - f.s.decay_h) / 2
        lowest = min(lowest, mean - np.hypot(half, f.scale * np.linalg.norm(f.G, 2)))
    return "SADDLE" if lowest < NEGATIVE else "MINIMUM"


def one_search(job: tuple[Setting, int, int, Recipe]) -> Judged:
    """Search from start number i of a seed, drawn here: the work of one task of a pool of processes."""
    s, seed, i, recipe = job
    W, H, b = (a[0] for a in draw_saddle_starts(s, seed, range(i, i + 1)))
    return search(s, (W, H, b), recipe)


def look(s: Setting, W: np.ndarray, H: np.ndarray, b: np.ndarray) -> Seen:
    """Return what the referee finds at a point of the full problem.

    The direction comes from the dense Hessian on class means in all d coordinates; the curvature along it,
    from a product with the Hessian over all features: where it is negative, so is the lowest.
    """
    norm, gap = referee(s, W, H, b)
    small, full = ClassMeans(s, s.d), Function(s, s.K * s.n, 1.0)
    means = H.reshape(s.d, s.K, s.n).mean(axis=2) * s.n**0.5
    x = np.concatenate([W.ravel(), means.ravel(), b])
    direction = eigh(small.hessian(x), subset_by_index=[0, 0])[1][:, 0]
    dW, dH, db = small.parts(direction)
    v = np.concatenate([dW.ravel(), np.repeat(dH * small.scale, s.n, axis=1).ravel(), db])
    at = np.concatenate([W.ravel(), H.ravel(), b])
    return Seen(full.value_and_grad(at)[0], norm, gap, float(v @ full.hessp(at, v)))


def accepted(seen: Seen, verdict: str) -> bool:
    """Return whether a point is critical and is what its finder says: a saddle, or a global minimum.

    Anything else that may be said is no judgement, and does not count.
    """
    if not seen.grad_norm <= REFEREE_GRAD:
        return False
    if "SADDLE" in verdict:
        return seen.curvature < NEGATIVE
    return claims(verdict) and seen.gap <= REFEREE_GAP


def claims(verdict: str) -> bool:
    """Return whether a verdict says what a point is."""
    return "SADDLE" in verdict or "MINIMUM" in verdict


def distinct(values: np.ndarray, rtol: float = 1e-8) -> int:
    """Return how many of the values differ by more than rtol, relative, from the next smaller."""
    values = np.sort(values)
    return int(np.sum(np.diff(values) > rtol * np.abs(values[1:]))) + bool(len(values))
