"""What a careful user would write without this package: NumPy and SciPy, one start at a time. No JAX here.

L-BFGS-B, then trust-region Newton with the exact Hessian product, then ARPACK for the lowest eigenvalue; and
the referee, which checks every method's points by formulas of its own.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh

LBFGS_GTOL = (
    1e-4  # largest gradient entry where L-BFGS-B hands over: of 1e-4, 1e-5, 1e-6 the fastest for K = 10
)
NEWTON_GTOL = 1e-9  # ‖∇f‖₂ where trust-ncg ends
EIGEN_TOL = 1e-2  # of ARPACK, relative: only a sign is wanted, and 1e-4 takes as long
REFEREE_GRAD, REFEREE_GAP = 1e-8, 1e-7  # the gap of a point with ‖∇f‖ = 1e-9 is up to 2e-8


class Setting(NamedTuple):
    """One balanced cross-entropy problem."""

    K: int
    n: int
    d: int
    decay_w: float
    decay_h: float
    decay_b: float


class Judged(NamedTuple):
    """A point of the full problem and what was found out about it; nan where nothing was."""

    W: np.ndarray
    H: np.ndarray
    b: np.ndarray
    lambda_min: float


class Function:
    """f, ∇f and Hessian products of K x C columns, each with weight 1/C, features scaled by `scale`.

    scale = 1 and C = nK: the full problem. scale = 1/√n and C = K: the problem of class means.
    """

    def __init__(self, s: Setting, columns: int, scale: float):
        self.s, self.C, self.scale = s, columns, scale
        self.labels = np.repeat(np.arange(s.K), columns // s.K)
        self.sample = np.arange(columns)
        self.at: np.ndarray | None = None

    def parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        K, d = self.s.K, self.s.d
        return x[: K * d].reshape(K, d), x[K * d : -K].reshape(d, self.C), x[-K:]

    def value_and_grad(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        s = self.s
        W, H, b = self.parts(x)
        Z = self.scale * (W @ H) + b[:, None]
        Z -= Z.max(axis=0)
        right = Z[self.labels, self.sample]
        P = np.exp(Z, out=Z)
        total = P.sum(axis=0)
        value = (np.log(total) - right).sum() / self.C
        P /= total
        G = P.copy()
        G[self.labels, self.sample] -= 1.0
        G *= 1.0 / self.C
        grad = np.empty_like(x)
        gW, gH, gb = self.parts(grad)
        np.add(self.scale * (G @ H.T), s.decay_w * W, out=gW)
        np.add(self.scale * (W.T @ G), s.decay_h * H, out=gH)
        gb[:] = G.sum(axis=1) + s.decay_b * b
        w, h = x[: W.size], x[W.size : -s.K]
        value += (s.decay_w * (w @ w) + s.decay_h * (h @ h) + s.decay_b * (b @ b)) / 2
        self.at, self.P, self.G = x.copy(), P, G
        return value, grad

    def hessp(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        if self.at is None or not np.array_equal(self.at, x):
            self.value_and_grad(x)
        s = self.s
        W, H, _ = self.parts(x)
        dW, dH, db = self.parts(v)
        dZ = self.scale * (dW @ H + W @ dH) + db[:, None]
        PV = self.P * dZ
        dG = (PV - self.P * PV.sum(axis=0)) / self.C
        out = np.empty_like(v)
        oW, oH, ob = self.parts(out)
        oW[:] = self.scale * (dG @ H.T + self.G @ dH.T) + s.decay_w * dW
        oH[:] = self.scale * (W.T @ dG + dW.T @ self.G) + s.decay_h * dH
        ob[:] = dG.sum(axis=1) + s.decay_b * db
        return out


def scipy_recipe(s: Setting, start: tuple[np.ndarray, np.ndarray, np.ndarray], *, means: bool) -> Judged:
    """Search from one start of the full problem, on class means or over all features; then λ_min."""
    W, H, b = start
    scale = s.n**-0.5 if means else 1.0
    if means:
        H = H.reshape(s.d, s.K, s.n).sum(axis=2) * scale
    f = Function(s, H.shape[1], scale)
    x = np.concatenate([W.ravel(), H.ravel(), b])
    x = minimize(
        f.value_and_grad,
        x,
        jac=True,
        method="L-BFGS-B",
        options={
            "gtol": LBFGS_GTOL,
            "ftol": 0.0,
            "maxiter": 5000,
            "maxfun": 10000,
            "maxcor": 10,
        },
    ).x
    x = minimize(
        f.value_and_grad,
        x,
        jac=True,
        hessp=f.hessp,
        method="trust-ncg",
        options={"gtol": NEWTON_GTOL, "maxiter": 500},
    ).x
    f.value_and_grad(x)
    shift = 2.0 * max(s.decay_w, s.decay_h, s.decay_b)
    shifted = LinearOperator((x.size, x.size), matvec=lambda v: f.hessp(x, v) + shift * v, dtype=float)
    lowest = eigsh(shifted, k=1, which="SA", tol=EIGEN_TOL, return_eigenvectors=False)[0] - shift
    W, H, b = f.parts(x)
    return Judged(W, np.repeat(H * scale, s.n, axis=1) if means else H, b, float(lowest))


def referee(s: Setting, W: np.ndarray, H: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return ‖∇f‖₂ and the duality gap at a point of the full problem."""
    N = s.K * s.n
    Y = np.repeat(np.eye(s.K), s.n, axis=1)
    Z = W @ H + b[:, None]
    logsum = np.log(np.exp(Z - Z.max(axis=0)).sum(axis=0)) + Z.max(axis=0)
    G = (np.exp(Z - logsum) - Y) / N
    parts = (G @ H.T + s.decay_w * W, W.T @ G + s.decay_h * H, G.sum(axis=1) + s.decay_b * b)
    norm = np.sqrt(sum(np.sum(g**2) for g in parts))
    value = np.mean(logsum - np.sum(Y * Z, axis=0))
    value += (s.decay_w * np.sum(W**2) + s.decay_h * np.sum(H**2) + s.decay_b * np.sum(b**2)) / 2
    c = min(1.0, np.sqrt(s.decay_w * s.decay_h) / np.linalg.norm(G, 2))
    q = np.maximum(Y + c * N * G, 1e-300)
    bound = -np.mean(np.sum(q * np.log(q), axis=0)) - np.sum((c * G.sum(axis=1)) ** 2) / (2 * s.decay_b)
    return float(norm), float(value - bound)


def draw_starts(s: Setting, seed: int, numbers: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Gaussian starts of the full problem, scales log-uniform in 0.01..3, a row each.

    Start i depends on the seed and i alone.
    """
    N, S = s.K * s.n, len(numbers)
    W, H, b = np.empty((S, s.K, s.d)), np.empty((S, s.d, N)), np.empty((S, s.K))
    for row, i in enumerate(numbers):
        rng = np.random.default_rng([seed, i])
        scale = np.exp(rng.uniform(np.log(0.01), np.log(3.0)))
        for a in (W, H, b):
            a[row] = scale * rng.standard_normal(a.shape[1:])
    return W, H, b


def one_start(job: tuple[Setting, int, int, bool]) -> Judged:
    """Run the recipe on start number i of a seed, drawn here: the work of one task of a pool of processes."""
    s, seed, i, means = job
    W, H, b = (a[0] for a in draw_starts(s, seed, range(i, i + 1)))
    return scipy_recipe(s, (W, H, b), means=means)
