"""What is proved over one box of column spaces: where φ's minimiser y is, and whether R has a zero there; in
batches.

For x = (s, ε, γ) in a box c ± ρ let ŷ be an approximate minimiser at c, P ≈ dy/dx there, and y = ŷ + P (x −
c) + C w, C a fixed matrix (about H^{−1/2}, H the Hessian of φ in y). Suppose that for all x of the box and
all |w| ≤ h

    CᵀHC ⪰ μ > 0,       and at w = 0       |Cᵀ g| ≤ Γ < μ h.

φ is convex, so on the sphere |w| = h its slope outwards is at least μh² − Γh > 0: a minimiser lies inside, it
is the only one, and |w| ≤ Γ/μ.

*Γ* comes from Taylor's formula of second order along P: for |δ| ≤ ρ, at w = 0, g = g(ŷ, c) + g'(c) δ + ½
g''[δ, δ], where g'(c), nearly 0 by the choice of P, is enclosed at the centre and g'' over the box. Likewise
R.

*μ.* The Hessian is a sum of squares Σ_i ω_i (t_i·v)²: over classes and pairs j < l, ω = p_j p_l and t·v = the
change of z_j − z_l at the class (diag(p) − ppᵀ = Σ_{j<l} p_j p_l (e_j − e_l)(e_j − e_l)ᵀ); of the decays, ε
|M^{−1/2} (dX − dM Q)|², (1 − γ²) |dc|² and (1ᵀdc)². With lower bounds of ω over the box, and λ ≤ M⁻¹ in place
of M⁻¹ (the basis of a column space is chosen such that M ≈ 1), let T be the matrix with rows √ω_i t_i: √μ ≥
σ_min(TC) ≥ σ_min(mid) − |rad|_F, mid ± rad enclosing TC over the box.

Then R(y(x), x) lies in its Taylor enclosure widened by |Cᵀ R_y| Γ/μ; and d/ds_j R(y(s), s) in R' widened by
|Cᵀ R_y| Γ'_j/μ, where Γ'_j bounds |Cᵀ g'_j| over the box with |w| ≤ h: for H (y' − P) = −g'. A box where R ≠
0 holds no critical point; Krawczyk's test with this derivative shows exactly one. Why not Krawczyk's test on
g = 0: probabilities that nearly vanish make the Hessian nearly singular, which a bound relative to it does
not mind. It takes boxes a hundred times as wide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from experiments.theorem import convex
from experiments.theorem.convex import At, Chart, Frame, Motion, safe_inverse, transposed, unpack
from experiments.theorem.convexity import LESS, MORE, convexity
from experiments.theorem.intervals import Interval, interval, reciprocal
from experiments.theorem.minimiser import derivatives, solve

TRIES = 3  # of guessing h
LEAST = 1e-12  # h to begin with: below it rounding keeps Γ from being less than μh
ROUNDOFF = 1e-12  # radii of (ε, γ) below this come from rounding, and Taylor's formula does not follow them


class Boxes(NamedTuple):
    """Boxes centre ± radius of x = (s, ε, γ), a guess of y at each centre, and one of h."""

    centre: np.ndarray  # (n, m + 2)
    radius: np.ndarray  # (n, m + 2)
    guess: np.ndarray  # (n, D)
    h: np.ndarray  # (n,)

    def take(self, which: np.ndarray | slice) -> Boxes:
        """Return some of the boxes."""
        return Boxes(*(a[which] for a in self))

    def join(self, other: Boxes) -> Boxes:
        """Return these boxes, then others."""
        return Boxes(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Enclosed(NamedTuple):
    """What was shown of each box; of those not `solved` nothing else is."""

    solved: np.ndarray  # the minimiser is enclosed over the whole box
    excluded: np.ndarray  # no zero of R
    unique: np.ndarray  # exactly one zero of R for each (ε, γ), and it lies inside
    R: Interval  # (n, m)
    newton: np.ndarray  # (n, m): the step of Newton's method from the centre, to find zeros by
    guess: np.ndarray  # (n, D): ŷ
    follow: np.ndarray  # (n, D, m + 2): P
    frame: Frame
    y: Interval  # (n, D), in this frame
    h: np.ndarray  # (n,): Γ/μ, or NaN


def enclose(chart: Chart, boxes: Boxes) -> Enclosed:
    """Prove what can be proved of each box."""
    with np.errstate(all="ignore"):
        return _enclose(chart, boxes)


class _Centre(NamedTuple):
    """What belongs to the centres: numbers that steer, and enclosures of g, R and their slopes along P."""

    frame: Frame  # in which M ≈ 1
    y: np.ndarray
    P: np.ndarray  # (n, D, q)
    C: np.ndarray  # (n, D, D)
    g: Interval  # (n, D), at c; for all (ε, γ) of the box if the directions are those of s alone
    R: Interval
    dg: Interval  # (n, q, D) along (P_j, e_j)
    dR: Interval
    Z: Interval


class _Over(NamedTuple):
    """What belongs to whole boxes, |w| ≤ h included."""

    y: Interval
    a: At
    d: Motion
    g2: Interval  # (n, pairs, D)
    R2: Interval
    mu: np.ndarray  # lower bounds; NaN where there is none


def _enclose(chart: Chart, boxes: Boxes) -> Enclosed:
    n, m, D = len(boxes.centre), chart.dim, chart.unknowns
    dx = _directions(chart, boxes)
    k = _centre(chart, boxes, dx)
    solved, excluded, unique = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    newton, reached = np.full((n, m), np.nan), np.full(n, np.nan)
    y = Interval(np.full((n, D), -np.inf), np.full((n, D), np.inf))
    R = Interval(np.full((n, m), -np.inf), np.full((n, m), np.inf))
    h, todo = np.maximum(boxes.h, LEAST), np.arange(n)
    for _ in range(TRIES):
        part, centre = boxes.take(todo), _of_centre(k, todo)
        over = _over(chart, part, centre, dx, h[todo])
        ratio = _slope_at_guess(centre, part, over) / over.mu * MORE
        good = ratio < h[todo] * LESS
        if np.any(good):
            which, shown = todo[good], _of_over(over, good)
            conclusion = _conclude(chart, part.take(good), _of_centre(centre, good), dx, shown, ratio[good])
            excluded[which], unique[which], R[which], newton[which] = conclusion
            solved[which], y[which], reached[which] = True, shown.y, ratio[good]
        h[todo] = 1.25 * ratio + LEAST
        todo = todo[~good & (ratio < 1.0)]
        if not len(todo):
            break
    guess = convex.change_basis(chart, k.y, k.frame.F)
    follow = np.zeros((m + 2, n, D))
    follow[: len(dx)] = convex.change_basis(chart, np.moveaxis(k.P, 2, 0), k.frame.F)
    return Enclosed(
        solved, excluded, unique, R, newton, guess, np.moveaxis(follow, 0, 2), k.frame, y, reached
    )


def _directions(chart: Chart, boxes: Boxes) -> np.ndarray:
    """Return the parameters that Taylor's formula follows: s alone if the boxes of (ε, γ) are roundoff, else
    all.
    """
    wide = bool(np.any(boxes.radius[:, chart.dim :] > ROUNDOFF))
    return np.eye(chart.dim + 2)[: chart.dim + 2 * wide]


def _centre(chart: Chart, boxes: Boxes, dx: np.ndarray) -> _Centre:
    D, q = chart.unknowns, len(dx)
    y, good = solve(chart, boxes.centre, boxes.guess)
    M = np.where(good[:, None, None], unpack(chart, y)[0], np.eye(chart.rank))
    F = np.linalg.cholesky(M)  # triangular with positive diagonal, so regular
    y = convex.change_basis(chart, y, np.linalg.inv(F))
    y[~good] = np.nan
    _, dg, _ = derivatives(chart, y, boxes.centre, convex.frame(chart, F, y))
    H = dg[:, :D]
    P = -safe_inverse(H) @ transposed(dg[:, D : D + q])
    values, vectors = np.linalg.eigh(np.where(np.isfinite(H), H, 0))
    C = vectors * (np.maximum(values, 1e-300) ** -0.5)[:, None]
    radius = boxes.radius.copy()
    radius[:, :q] = 0.0
    x = Interval.around(boxes.centre, radius)
    frame = convex.frame(chart, F, x)
    a = convex.at(chart, frame, interval(y), x)
    slopes = convex.slope(chart, a, convex.motion(chart, a, interval(transposed(P)), dx))
    Z = convex.logits(a.V, a.X, a.c, a.gamma)
    return _Centre(frame, y, P, C, convex.gradient(chart, a), convex.tilt(chart, a), *slopes, Z)


def _over(chart: Chart, boxes: Boxes, k: _Centre, dx: np.ndarray, h: np.ndarray) -> _Over:
    rho = boxes.radius[:, : len(dx)]
    delta = Interval(-rho, rho)
    x = Interval.around(boxes.centre, boxes.radius)
    away = _norm(interval(k.C)) * h[:, None] * MORE  # |C w| ≤ this, by unknown
    moved = (interval(k.P) @ delta[:, :, None])[:, :, 0]
    y = moved + Interval(-away, away) + k.y
    V = convex.subspace(k.frame, x[:, : chart.dim])
    P = interval(transposed(k.P))
    gamma = x[:, -1, None, None]
    dX, dc = unpack(chart, P)[1:]
    dZ = convex.logits_motion(k.frame, dx, V, *unpack(chart, y)[1:], gamma, dX, dc)
    a = convex.at(chart, k.frame, y, x, _softmax(chart, k.Z, V, gamma, dZ, delta, away))
    d = convex.motion(chart, a, P, dx, dZ)
    g2, R2 = convex.bend(chart, a, d, *np.triu_indices(len(dx)))
    return _Over(y, a, d, g2, R2, convexity(chart, k.C, a))


def _softmax(
    chart: Chart, Z: Interval, V: Interval, gamma: Interval, dZ: Interval, delta: Interval, away: np.ndarray
) -> Interval:
    """Enclose p over the box: differences of logits are those at the centre + Z' δ + what w adds, V X_w +
    b_w.
    """
    _, of_X, of_c = unpack(chart, away)
    of_b = gamma.size()[:, 0] * of_c * MORE
    differences = Z[:, :, None] - Z[:, None, :]  # (n, l, j, k)
    by_delta = dZ[:, :, :, None] - dZ[:, :, None, :]  # (n, q, l, j, k)
    differences = differences + (by_delta * delta[:, :, None, None, None]).sum(1)
    rows = (V[:, :, None] - V[:, None, :]).size()  # (n, l, j, r)
    added = np.einsum("nlja,nak->nljk", rows, of_X) + (of_b[:, :, None] + of_b[:, None, :])[..., None]
    added = added * MORE
    return reciprocal(convex.denominators(differences + Interval(-added, added)))


def _norm(v: Interval) -> np.ndarray:
    """Return upper bounds of Euclidean norms along the last axis."""
    return np.sqrt(np.sum(v.size() ** 2, axis=-1)) * MORE + 1e-150


def _products(rho: np.ndarray) -> Interval:
    """Enclose ½ δ_i² and, for i < j, δ_i δ_j, |δ| ≤ ρ: (n, pairs)."""
    i, j = np.triu_indices(rho.shape[1])
    size = rho[:, i] * rho[:, j] * np.where(i == j, 0.5, 1.0) * MORE + 1e-300
    return Interval(np.where(i == j, 0.0, -size), size)


def _taylor(value: Interval, first: Interval, second: Interval, rho: np.ndarray) -> Interval:
    """Enclose value + first·δ + ½ second[δ, δ], |δ| ≤ ρ; derivatives (n, directions or pairs, components)."""
    delta = Interval(-rho, rho)
    linear = (transposed(first) @ delta[:, :, None])[:, :, 0]
    return value + linear + (transposed(second) @ _products(rho)[:, :, None])[:, :, 0]


def _apply(matrix: np.ndarray, v: Interval) -> Interval:
    """Return matrix (n, D, D) times vectors (n, ..., D)."""
    return (
        v @ interval(transposed(matrix))
        if len(v.shape) == 3
        else (v[:, None] @ interval(transposed(matrix)))[:, 0]
    )


def _slope_at_guess(k: _Centre, boxes: Boxes, over: _Over) -> np.ndarray:
    """Return Γ, a bound of |Cᵀ g| at w = 0 over the box: Cᵀ is applied before intervals are added."""
    Ct = transposed(k.C)
    rho = boxes.radius[:, : k.dg.shape[1]]
    return _norm(_taylor(_apply(Ct, k.g), _apply(Ct, k.dg), _apply(Ct, over.g2), rho))


def _conclude(
    chart: Chart, boxes: Boxes, k: _Centre, dx: np.ndarray, over: _Over, ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Interval, np.ndarray]:
    """Return where R has no zero, where exactly one, R, and Newton's step from the centre; ratio is Γ/μ."""
    m, q, n = chart.dim, len(dx), len(ratio)
    rho, Ct = boxes.radius[:, :q], transposed(k.C)
    # R_y = ∂g/∂s at fixed y
    still = convex.motion(chart, over.a, interval(np.zeros((n, m, chart.unknowns))), np.eye(m + 2)[:m])
    R_y = convex.slope(chart, over.a, still)[0]  # (n, m, D)
    reach = _norm(_apply(Ct, R_y))  # (n, m)
    error = reach * ratio[:, None] * MORE
    R = _taylor(k.R, k.dR, over.R2, rho) + Interval(-error, error)
    # dR/ds over the whole box
    dg, dR = convex.slope(chart, over.a, over.d)
    slack = reach[:, :, None] * (_norm(_apply(Ct, dg))[:, :m] / over.mu[:, None])[:, None, :] * MORE
    total = transposed(dR[:, :m]) + Interval(-slack, slack)  # (n, component of R, along)
    # R at s = the centre; with (ε, γ) followed, for all of them, else as they are in k.R
    if q > m:
        still_rho = np.where(np.arange(q) < m, 0.0, rho)
        at = _taylor(k.R, k.dR, over.R2, still_rho) + Interval(-error, error)
    else:
        at_error = reach * (_norm(_apply(Ct, k.g)) / over.mu)[:, None] * MORE
        at = k.R + Interval(-at_error, at_error)
    middle = 0.5 * total.lo + 0.5 * total.hi
    N = safe_inverse(np.where(np.isfinite(middle), middle, 0))
    radius = boxes.radius[:, :m]
    inner = Interval(-radius, radius)[:, :, None]
    step = ((np.eye(m) - interval(N) @ total) @ inner - interval(N) @ at[:, :, None])[:, :, 0]
    apart = np.any((R.lo > 0) | (R.hi < 0), axis=1) | np.any((step.lo > radius) | (step.hi < -radius), axis=1)
    unique = np.all((step.lo > -radius) & (step.hi < radius), axis=1)
    newton = -(N @ (0.5 * at.lo + 0.5 * at.hi)[:, :, None])[:, :, 0]
    return apart, unique, R, newton


def _of_frame(f: Frame, which: np.ndarray) -> Frame:
    return Frame(f.F[which], f.V[which])


def _of_centre(k: _Centre, which: np.ndarray) -> _Centre:
    parts: tuple[Any, ...] = k[1:]
    return _Centre(_of_frame(k.frame, which), *(part[which] for part in parts))


def _of_over(o: _Over, which: np.ndarray) -> _Over:
    a = At(_of_frame(o.a.frame, which), *(part[which] for part in o.a[1:]))
    d = Motion(*(part[which] for part in o.d))
    return _Over(o.y[which], a, d, o.g2[which], o.R2[which], o.mu[which])
