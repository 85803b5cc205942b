"""Approximate minimisers of φ and zeros of R, by Newton's method: they steer, and prove nothing."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from experiments.theorem import convex
from experiments.theorem.convex import At, Chart, Frame, safe_inverse

NEWTON = 30
SOLVED = 1e-9  # |g| of an approximate minimiser
FURTHEST = 0.3  # a step of s beyond which Newton's method for zeros of R is given up
CONVERGED = 1e-11  # its last step


def _unit_directions(chart: Chart, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return directions along each unknown, then each parameter: dy (n, q, D), dx (q, m + 2)."""
    D, m = chart.unknowns, chart.dim
    q = D + m + 2
    dy, dx = np.zeros((q, D)), np.zeros((q, m + 2))
    dy[:D] = np.eye(D)
    dx[D:] = np.eye(m + 2)
    return np.broadcast_to(dy, (n, q, D)), dx


def _own(chart: Chart, n: int) -> Frame:
    r = chart.rank
    return convex.frame(chart, np.broadcast_to(np.eye(r), (n, r, r)), chart.V)


def derivatives(
    chart: Chart, y: np.ndarray, x: np.ndarray, fr: Frame | None = None
) -> tuple[At, np.ndarray, np.ndarray]:
    """Return φ's parts, and dg (n, q, D) and dR (n, q, m) along `_unit_directions`; `fr` the chart's own by
    default.
    """
    a = convex.at(chart, _own(chart, len(y)) if fr is None else fr, y, x)
    return a, *convex.slope(chart, a, convex.motion(chart, a, *_unit_directions(chart, len(y))))


def solve(chart: Chart, x: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return approximate minimisers y of φ at x by damped Newton steps, and where it went well."""
    y, D = guess.copy(), chart.unknowns
    with np.errstate(all="ignore"):
        for _ in range(NEWTON):
            a, dg, _ = derivatives(chart, y, x)
            g = convex.gradient(chart, a)
            step = -(safe_inverse(dg[:, :D]) @ g[:, :, None])[:, :, 0]
            # Newton decrement: within 1/4 a full step of a self-concordant function goes well.
            decrement = np.sqrt(np.abs(np.sum(step * g, axis=1)))
            y = y + step / np.maximum(1.0, 2 * decrement)[:, None]
            if not np.any(np.abs(step).max(1) > 1e-12 * (1 + np.abs(y).max(1))):
                break
        a = convex.at(chart, _own(chart, len(y)), y, x)
        good = np.abs(convex.gradient(chart, a)).max(1) < SOLVED
        good &= np.linalg.eigvalsh(np.where(np.isfinite(a.M), a.M, 0)).min(1) > 0
    return y, good


def solve_afresh(chart: Chart, x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return an approximate minimiser y of φ at one x (m + 2,), by descent on factors of X, whose minima are
    global.
    """
    K, r, m = chart.num_classes, chart.rank, chart.dim
    V = chart.V[0] + np.tensordot(x[:m], chart.V[1:], 1)
    orthonormal, triangle = np.linalg.qr(V)
    epsilon, gamma = x[m], x[m + 1]
    beta = 1 - gamma**2

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        A, B = z[: r * r].reshape(r, r), z[r * r : r * r + r * K].reshape(r, K)
        c = z[r * r + r * K :]
        W = orthonormal @ A
        Z = W @ B + gamma * c[:, None]
        top = Z.max(0)
        P = np.exp(Z - top)
        total = P.sum(0)
        G = P / total - np.eye(K)
        f = np.sum(np.log(total) + top - np.diag(Z)) + epsilon / 2 * (np.sum(W**2) + np.sum(B**2))
        slope = (
            orthonormal.T @ (G @ B.T) + epsilon * A,
            W.T @ G + epsilon * B,
            gamma * G.sum(1) + beta * c + c.sum(),
        )
        return float(f + beta / 2 * c @ c + c.sum() ** 2 / 2), np.concatenate([a.ravel() for a in slope])

    start = 0.5 * np.random.default_rng(seed).normal(size=r * r + r * K + K)
    start[r * r + r * K :] = 0
    best = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).x
    A, B = np.linalg.solve(triangle, best[: r * r].reshape(r, r)), best[r * r : r * r + r * K].reshape(r, K)
    M = A @ A.T
    y = np.concatenate([M[chart.pairs], (A @ B).ravel(), best[r * r + r * K :]])
    return solve(chart, x[None], y[None])[0][0]


def find_zero(chart: Chart, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return an approximate zero of R near one x (m + 2,), its y, and whether Newton's method converged."""
    m, D = chart.dim, chart.unknowns
    x, step = x.copy(), np.full(m, np.inf)
    with np.errstate(all="ignore"):
        for _ in range(NEWTON):
            y = solve(chart, x[None], y[None])[0][0]
            a, dg, dR = derivatives(chart, y[None], x[None])
            try:
                P = -np.linalg.solve(dg[0, :D].T, dg[0, D : D + m].T)
                step = np.linalg.solve(dR[0, D : D + m].T + dR[0, :D].T @ P, convex.tilt(chart, a)[0])
            except np.linalg.LinAlgError:
                return x, y, False
            if not np.all(np.abs(step) <= FURTHEST):
                return x, y, False
            x[:m] -= step
            y = y - P @ step
            if np.max(np.abs(step)) < 1e-15:
                break
    return x, y, bool(np.max(np.abs(step)) < CONVERGED)
