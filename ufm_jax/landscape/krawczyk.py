"""A critical orbit enclosed, and its negative eigenvalues counted: Krawczyk's operator and Sylvester's law.

Let x₀ be the point, bettered by Newton's method, and Ξ any m x D matrix of numbers, here the tangents of the
symmetry at the point given, orthonormalised in float64. Consider

    F(x, μ) = (∇f(x) + Ξᵀμ,  Ξ(x − x₀)) = 0.

*Existence.* Krawczyk's operator, −Y F(x₀, 0) + (1 − Y F′(X))(Z − z₀), Y near the inverse of F′, F′ enclosed
over the box X = x₀ ± ρ: if it maps the box Z of (x, μ) into its interior, F has exactly one zero there, and
every matrix in F′(X) = [[∇²f(X), Ξᵀ], [Ξ, 0]] is regular (Neumaier 1990, thm. 5.1.8). At the zero, with ξ_i
the tangents there, ⟨∇f, ξ_i⟩ = 0 for every x, so Σ_j μ_j ⟨Ξ_j, ξ_i⟩ = 0: if the Gram matrix ⟨Ξ_j, ξ_i(X)⟩ is
regular, μ = 0, and x is a critical point.
*Index and nullity.* There the span T of the ξ_i, of dimension m, is in the null space of ∇²f, and is a
complement of ker Ξ. In such coordinates F′ is [[0, 0, Gᵀ], [0, A, 0], [G, 0, 0]], A = ∇²f on ker Ξ: F′
is regular, so A is, the nullity is m and no more, and F′ has m negative eigenvalues more than ∇²f.
They are counted over the box by `balls.signs`. The orbit has dimension m, and is isolated (Morse–Bott).
*What the coordinates leave out* is the landscape's to show (`Balls.beyond`).

All of it is about the exact binary numbers in the landscape's leaves.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ufm_jax.landscape.balls import (
    Ball,
    BallMatrix,
    Balls,
    Beyond,
    Unproved,
    around,
    bordered,
    centres,
    column,
    exact,
    flint,
    identity,
    nonsingular,
    signs,
    stacked,
    upper_float,
)
from ufm_jax.landscape.orbit import TANGENT_TOL

NEWTON_STEPS = 12  # from a float64 point three are usual
STALE = 2.0**-20  # an inverse serves for further steps while each is shorter than the last by this
SINGULAR = 1e-10  # eigenvalues of the bordered Hessian below this, relative, are named where a proof fails


class NotInside(Unproved):
    """A box that Krawczyk's operator does not map into its interior, but into one of these radii."""

    def __init__(self, why: str, radii: list[float]) -> None:
        super().__init__(why)
        self.radii = radii


class Section(NamedTuple):
    """A complement of the orbit: {x: rows (x − point) = 0}, and the tangents that it is a complement of."""

    rows: BallMatrix  # Ξ, exact
    chosen: list[int]  # rows of `Balls.tangents`


class Enclosed(NamedTuple):
    """A box that holds one critical point of the section."""

    centre: BallMatrix
    box: BallMatrix
    value: Ball  # f at the critical point
    index: int  # type: ignore[assignment]  # in the box's coordinates
    beyond: Beyond


def section_at(balls: Balls, x: BallMatrix) -> Section:
    """Orthonormalise the tangents at x in float64, leaving out what depends on the others (Gram–Schmidt)."""
    rows = centres(balls.tangents(x))
    left = rows.copy()
    chosen: list[int] = []
    basis: list[np.ndarray] = []
    least = TANGENT_TOL * max((float(np.linalg.norm(row)) for row in rows), default=0.0)
    while len(left) > len(chosen):
        norms = np.linalg.norm(left, axis=1)
        if not norms.max() > least:
            break
        chosen.append(int(norms.argmax()))
        basis.append(left[chosen[-1]] / norms.max())
        for _ in range(2):  # twice is enough (Kahan)
            left -= np.outer(left @ basis[-1], basis[-1])
        left[chosen] = 0.0
    return Section(exact(np.array(basis).reshape(len(basis), len(balls.start))), chosen)


def polished(balls: Balls, x: BallMatrix, section: Section, precision: int) -> tuple[BallMatrix, BallMatrix]:
    """Go from x to the zero of F on the section through x, by Newton's method in full precision.

    It comes with the inverse of F′ near it.

    Raises:
        Unproved: where F′ is singular, or the steps do not get short.
    """
    size, start, inverse = x.nrows(), x, None
    goal = 2.0 ** -(3 * precision // 4)
    last = math.inf
    for _ in range(NEWTON_STEPS):
        _, grad, hess = balls.expand(x)
        if inverse is None:
            inverse = inverse_near(bordered(hess, section.rows), section.rows.nrows())
        step = (inverse * stacked(grad, section.rows * (x - start))).mid()
        x = (x - column(step.entries()[:size])).mid()
        length = float(np.linalg.norm(centres(step)))
        if length <= goal:
            return x, inverse
        if not math.isfinite(length) or length > 1e100:
            break
        if length > STALE * last:
            inverse = None
        last = length
    raise Unproved(
        f"Newton's method from x does not converge: after {NEWTON_STEPS} steps one is {length:.1e} long; "
        + why_singular(bordered(hess, section.rows), section.rows.nrows())
    )


def enclosed(
    balls: Balls, centre: BallMatrix, inverse: BallMatrix, section: Section, radius: float
) -> Enclosed:
    """Show that one critical orbit meets the section in centre ± radius, and count what is negative there.

    Raises:
        Unproved: saying what could not be shown.
    """
    radii = [radius] * inverse.nrows()
    step = inverse * residual_at(balls, centre, section, centre)
    box, value, jacobian = mapped_into_itself(balls, centre, inverse, section, step, radii)
    index = signs(jacobian)[0] - section.rows.nrows()
    return Enclosed(centre, box, value, index, balls.beyond(box, index))


def residual_at(balls: Balls, x: BallMatrix, section: Section, origin: BallMatrix) -> BallMatrix:
    """Return F(x, 0), of the section through `origin`."""
    return stacked(balls.expand(x)[1], section.rows * (x - origin))


def mapped_into_itself(
    balls: Balls,
    centre: BallMatrix,
    inverse: BallMatrix,
    section: Section,
    step: BallMatrix,
    radii: Sequence[float],
) -> tuple[BallMatrix, Ball, BallMatrix]:
    """Return the box of these radii (of x, then μ) around the centre, f and F′ there, if it holds one zero.

    `step` encloses Y F at the centre. The zero is a critical point of f: the section is a complement of the
    tangents all over the box.

    Raises:
        Unproved: saying what could not be shown.
    """
    box = around(centre, radii[: centre.nrows()])
    value, _, hess = balls.expand(box)
    jacobian = bordered(hess, section.rows)
    image, arb = krawczyk(inverse, step, jacobian, radii), flint().arb
    if not all(arb(0, r).contains_interior(a) for a, r in zip(image.entries(), radii, strict=True)):
        raise NotInside(
            f"no box is mapped into itself; {why_singular(jacobian, section.rows.nrows())}",
            [upper_float(entry.abs_upper()) for entry in image.entries()],
        )
    check_gram(balls, box, section)
    return box, value, jacobian


def inverse_near(jacobian: BallMatrix, m: int) -> BallMatrix:
    """Return numbers near the inverse of the centre of F′.

    Raises:
        Unproved: if it has none.
    """
    try:
        return jacobian.mid().inv().mid() if jacobian.nrows() else jacobian
    except ZeroDivisionError:
        raise Unproved(why_singular(jacobian, m)) from None


def krawczyk(
    inverse: BallMatrix, step: BallMatrix, jacobian: BallMatrix, radii: Sequence[float]
) -> BallMatrix:
    """Return −Y F(z₀) + (1 − Y F′(X))(Z − z₀), Z − z₀ being the box of these radii around zero."""
    arb = flint().arb
    around_zero = column([arb(0, radius) for radius in radii])
    return (identity(len(radii)) - inverse * jacobian) * around_zero - step


def check_gram(balls: Balls, box: BallMatrix, section: Section) -> None:
    """Raise Unproved unless the section is a complement of the tangents, all over the box."""
    if not section.chosen:
        return
    rows = balls.tangents(box).tolist()
    tangents = flint().arb_mat([rows[i] for i in section.chosen])
    if not nonsingular(section.rows * tangents.transpose()):
        raise Unproved("the tangents of the symmetry are not shown to be independent over the box")


def why_singular(jacobian: BallMatrix, m: int) -> str:
    """Return what float64 sees of the bordered Hessian where a proof fails."""
    middle = centres(jacobian)
    if not np.all(np.isfinite(middle)):
        return "the Hessian is not finite"
    values: Float[np.ndarray, " n"] = np.abs(np.linalg.eigvalsh((middle + middle.T) / 2))
    null = int(np.sum(values <= SINGULAR * values.max(initial=0.0)))
    if null:
        return (
            f"the bordered Hessian is nearly singular, {null} of its eigenvalues below {SINGULAR:g} of the "
            f"largest: a nullity above the orbit's {m} (a continuum of critical orbits), or a bifurcation"
        )
    return f"the bordered Hessian is regular, of condition {values.max() / values.min():.1e}"
