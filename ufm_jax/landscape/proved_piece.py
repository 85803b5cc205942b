"""A branch proved over one short interval of a field: a tube around a curve that follows it.

The field is t + τ, τ in T, and what is claimed is about every τ at once. Let x(τ) = x₀ + x₁τ + … + x_pτ^p
be near the branch, Y(τ) = Y₀ + … + Y_pτ^p near the inverses of F′ along it, Z a box around 0 of (y, μ). If

    −Y(τ) F(x(τ), 0; t + τ) + (1 − Y(τ) F′(x(τ) + Z; t + τ)) Z

is in the interior of Z for every τ, then F(·; t + τ) has exactly one zero in x(τ) + Z, for every τ, and no
matrix in F′ there is singular (`krawczyk`). By Taylor and the mean value theorem

    F(x(τ)) = F₀ + F₁τ + … + F_pτ^p + F_{p+1}(ξ) τ^{p+1},
    F′(x(τ) + y) = A₀ + A₁τ + … + A_pτ^p + A_{p+1}(ξ) τ^{p+1} + D³f(X)[y],

coefficients being those of series (`Balls.series`), the last ones over all of T, and X ⊇ x(T) + Z. The x_k
are such that F_k ≈ 0, and the Y_k such that the coefficients of Y(τ) (A₀ + … + A_pτ^p) but for the first are
≈ 0: what is left is of order τ^{p+1}, where a box around the branch would leave a first order, times
condition numbers. Where `series` and `third` are not given (`Balls.bends`), p = 0.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

from ufm_jax.landscape.balls import (
    Ball,
    BallMatrix,
    Balls,
    Beyond,
    Unproved,
    bordered,
    column,
    flint,
    identity,
    stacked,
    upper_float,
)
from ufm_jax.landscape.krawczyk import NotInside, Section, check_gram, inverse_near, why_singular

SMALL = 2.0**-64  # radius of the boxes where pieces meet
INFLATIONS, INFLATED_BY = 4, 1.5  # times and factor by which a box grows that is not mapped into itself
TOO_MUCH = 4.0  # growth at once beyond which no larger box will do either
ORDER = 4  # p: more cost more than they save
HALVINGS = 5  # of a piece where its rank, or what is beyond its coordinates, is not shown over all of it


class Curve(NamedTuple):
    """What follows a branch near a point of it, where the field is t."""

    path: list[BallMatrix]  # x₀, x₁, …
    turns: list[BallMatrix]  # Y₀, Y₁, …
    known: tuple[list[Ball], list[BallMatrix], list[BallMatrix]] | None  # series of f, ∇f and ∇²f along it

    def at(self, tau: Ball) -> BallMatrix:
        """Return x(τ), over a ball."""
        return _summed(self.path, tau)

    def moved(self, tau: Ball) -> list[BallMatrix]:
        """Return the coefficients of the same curve about τ, over a ball."""
        path, p = self.path, len(self.path)
        return [_summed([path[i] * math.comb(i, k) for i in range(k, p)], tau) for k in range(p)]


class Tube(NamedTuple):
    """p(τ) + Z, τ in T, which holds one zero for each τ."""

    curve: Curve
    radii: list[float]  # of Z
    section: Section

    def over(self, tau: Ball) -> BallMatrix:
        """Return a box around the part of it where τ is in this ball, without μ."""
        p, arb = self.curve.at(tau).entries(), flint().arb
        return column([a + arb(0, r) for a, r in zip(p, self.radii, strict=False)])

    def holds(self, tau: Ball, x: BallMatrix) -> bool:
        """Say whether x ± SMALL is in it at the number τ."""
        arb, apart = flint().arb, (x - self.curve.at(tau)).entries()
        return all(arb(0, r).contains(a + arb(0, SMALL)) for a, r in zip(apart, self.radii, strict=False))


def curve_at(balls: Balls, x: BallMatrix, section: Section) -> Curve:
    """Return the curve through a point of the branch: as a single point where the landscape knows no series.

    Raises:
        Unproved: where F′ is singular.
    """
    m, none = section.rows.nrows(), flint().arb_mat(x.nrows(), 1)
    inverse = inverse_near(bordered(balls.expand(x)[2], section.rows), m)
    if not balls.bends:
        return Curve([x], [inverse], None)
    path, turns = [x], [inverse]
    for k in range(1, ORDER + 1):
        rest = balls.series([*path, none], k)[1][k]
        solved = (inverse * stacked(rest, flint().arb_mat(m, 1))).mid().entries()
        path.append(column([-a for a in solved[: x.nrows()]]))
    known = balls.series(path, ORDER)
    for k in range(1, ORDER + 1):
        off = sum(
            (turns[j] * _padded(known[2][k - j], m) for j in range(1, k)), inverse * _padded(known[2][k], m)
        )
        turns.append(-(off * inverse).mid())
    return Curve(path, turns, known)


def tube_around(
    curve: Curve,
    at: Balls,
    over: Balls,
    T: Ball,
    section: Section,
    origin: BallMatrix,
    ends: tuple[Balls, Balls],
) -> tuple[Tube, Ball]:
    """Return a tube that holds one zero for each τ in T, by epsilon-inflation (Rump), and f along the branch.

    `at` is the landscape at t, `over` where t + τ is, and `ends` at the ends of that.

    Raises:
        Unproved: saying what could not be shown.
    """
    free = section.rows * column([flint().arb(0, SMALL)] * origin.nrows())  # C
    behind = section.rows * (curve.path[0] - origin) + free
    about = (_about_curve if over.bends else _about_point)(curve, at, over, T, section, behind, ends)
    radii = [4 * SMALL + INFLATED_BY * upper_float(a.abs_upper()) for a in about.residual.entries()]
    arb, grown = flint().arb, radii
    for _ in range(INFLATIONS):
        defect, value = about.within(radii)
        image = defect * column([arb(0, r) for r in radii]) - about.residual
        if all(arb(0, r).contains_interior(a) for a, r in zip(image.entries(), radii, strict=True)):
            return Tube(curve, radii, section), value
        grown = [4 * SMALL + INFLATED_BY * upper_float(a.abs_upper()) for a in image.entries()]
        if not max(grown) < TOO_MUCH * max(radii):
            break
        radii = [max(new, old) for new, old in zip(grown, radii, strict=True)]
    jacobian = bordered(at.expand(curve.path[0])[2], section.rows)
    raise NotInside(f"no box is mapped into itself; {why_singular(jacobian, section.rows.nrows())}", grown)


class _About(NamedTuple):
    """What holds near a curve for every τ in T."""

    residual: BallMatrix  # Y(τ) F(x(τ))
    within: Callable[[list[float]], tuple[BallMatrix, Ball]]  # radii of Z -> 1 − Y(τ) F′ and f, in the tube


def _about_point(
    curve: Curve,
    at: Balls,
    over: Balls,
    T: Ball,
    section: Section,
    behind: BallMatrix,
    ends: tuple[Balls, Balls],
) -> _About:
    """Enclose over a box around x₀.

    Where ∇f is affine in the field, so is Y F at x₀: the hull of its values at the ends holds it, which is
    far less than what a ball for the field makes of it.
    """
    x, inverse = curve.path[0], curve.turns[0]

    def within(radii: list[float]) -> tuple[BallMatrix, Ball]:
        value, _, hess = over.expand(Tube(curve, radii, section).over(T))
        return identity(len(radii)) - inverse * bordered(hess, section.rows), value

    residuals = [
        (inverse * stacked(balls.expand(x)[1], behind)).entries()
        for balls in (ends if over.affine else (over,))
    ]
    hull = residuals[0] if len(residuals) == 1 else [a.union(b) for a, b in zip(*residuals, strict=True)]
    return _About(column(hull), within)


def _about_curve(
    curve: Curve,
    at: Balls,
    over: Balls,
    T: Ball,
    section: Section,
    behind: BallMatrix,
    ends: tuple[Balls, Balls],
) -> _About:
    """Enclose along the curve by the series, and over the tube by the third derivative."""
    assert curve.known is not None
    rows, m, path, size = section.rows, section.rows.nrows(), curve.path, curve.turns[0].nrows()
    last = over.series(curve.moved(T), ORDER + 1)
    values, grads, hesses = (
        [*known, all_over[-1]] for known, all_over in zip(curve.known, last, strict=True)
    )
    below = [behind, *(rows * x for x in path[1:]), flint().arb_mat(m, 1)]
    residual = _summed([stacked(a, c) for a, c in zip(grads, below, strict=True)], T)

    slopes = [bordered(hesses[0], rows), *(_padded(hess, m) for hess in hesses[1:])]
    terms = [flint().arb_mat(size, size) for _ in range(2 * ORDER + 2)]
    for (i, turn), (j, slope) in product(enumerate(curve.turns), enumerate(slopes)):
        terms[i + j] += turn * slope
    turned, along = _summed(curve.turns, T), identity(size) - _summed(terms, T)

    def within(radii: list[float]) -> tuple[BallMatrix, Ball]:
        around, X = (
            column([flint().arb(0, r) for r in radii[: size - m]]),
            Tube(curve, radii, section).over(T),
        )
        value = _summed(values, T) + (over.expand(X)[1].transpose() * around)[0, 0]
        return along - turned * _padded(over.third(X, around), m), value

    return _About(turned * residual, within)


def shown_over(
    at: Callable[[Ball], Balls], tube: Tube, T: Ball, t: Ball, index: int, minimum: bool | None
) -> Beyond:
    """Show that the section is one all over the tube, and what is beyond its coordinates there, in parts.

    Raises:
        Unproved: saying what could not be shown, or that it is not the same all along.
    """

    def shown(part: Ball, halvings: int) -> Beyond:
        balls, box = at(t + part), tube.over(part)
        try:
            check_gram(balls, box, tube.section)
            found = balls.beyond(box, index)
            if found.global_minimum is minimum or not halvings:
                return found
        except Unproved:
            if not halvings:
                raise
        middle, (low, high) = part.mid(), (part.lower(), part.upper())
        one, other = (shown(end.union(middle), halvings - 1) for end in (low, high))
        if one[:2] != other[:2] or one.rank != other.rank:
            raise Unproved("index, nullity or rank change in coordinates that the point does not use")
        return one if one.global_minimum is other.global_minimum else one._replace(global_minimum=None)

    return shown(T, HALVINGS)


def _summed(coefficients: Sequence[Any], tau: Ball) -> Any:
    """Return c₀ + c₁τ + … over a ball around zero: each power is a ball as narrow as it can be."""
    found, power = coefficients[0], tau
    for coefficient in coefficients[1:]:
        found, power = found + coefficient * power, power * tau
    return found


def _padded(matrix: BallMatrix, m: int) -> BallMatrix:
    """Return [[A, 0], [0, 0]]."""
    return bordered(matrix, flint().arb_mat(m, matrix.nrows()))


def split(low: float, high: float) -> tuple[float, Ball]:
    """Return a number between the ends, and a ball T so that it + T holds all between them."""
    middle, arb = low + (high - low) / 2, flint().arb
    return middle, (arb(low) - arb(middle)).union(arb(high) - arb(middle))


def sizes(tube: Tube, T: Ball) -> float:
    """Return the radius of a box around all of the tube, in its widest direction."""
    return max((upper_float(a.rad()) for a in tube.over(T).entries()), default=0.0)
