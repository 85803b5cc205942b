"""A critical orbit proved over a whole interval of one field of its landscape, a piece after another.

On a piece [t₁, t₂] the field is a ball, and so is all that is evaluated with it. At t₁ the critical point x₁*
is known to lie in a small box around x₁. With Ξ the tangents at x₁, consider for t in [t₁, t₂] and c in
C = Ξ(box − x₁)

    F(x, μ; t, c) = (∇f_t(x) + Ξᵀμ,  Ξ(x − x₁) − c) = 0.

If Krawczyk's operator (`krawczyk`) of all these t and c at once maps a box Z into its interior, then for each
t and c there is exactly one zero in Z. It depends smoothly on both, and is a critical point of the same index
and nullity, as no matrix in the enclosure of F′ is singular. x₁* is the zero for t₁ and c* = Ξ(x₁* − x₁), if
Z holds the small box. All zeros at t₁, as c goes from c* to 0, are on its orbit: near each of them the
critical points are a manifold of the orbit's dimension (nullity), so that the orbit is open in it. From there
t goes to t₂ with c = 0, where a small box around x₂ inside Z is shown to hold the zero: the next piece begins
there.

Where ∇f is affine in the field, so is Y F at the centre: the hull of its values at the ends holds it. That is
far less than what a ball for the field makes of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ufm_jax.landscape.balls import (
    BallMatrix,
    Balls,
    Beyond,
    Unproved,
    around,
    bordered,
    column,
    flint,
    lower_float,
    stacked,
    upper_float,
)
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.krawczyk import (
    NotInside,
    Section,
    enclosed,
    inverse_near,
    mapped_into_itself,
    polished,
    residual_at,
    section_at,
)
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proof import Proof, prove_near
from ufm_jax.precision import require_x64

PRECISION = 128  # bits
SMALL = 2.0**-64  # radius of the boxes where pieces meet
FIRST, LEAST = (
    2.0**-6,
    2.0**-20,
)  # lengths of pieces, relative to the field: of the first, and where it gives up
LONGER = 1.25  # a piece than the one before
INFLATIONS, INFLATED_BY = 4, 1.5  # times and factor by which a box grows that is not mapped into itself
TOO_MUCH = 4.0  # growth at once beyond which no larger box will do either
MOST_PIECES = 20_000


class Piece(NamedTuple):
    """An interval of the field, over all of which the branch is proved."""

    low: float
    high: float
    loss: tuple[float, float]  # holds the critical values of all of it
    radius: float  # of the box that holds the branch's part, in its widest direction


@dataclass(frozen=True)
class ProvedBranch:
    """A critical orbit proved over [`low`, `high`] of a field: of one index, nullity and rank all along.

    `below` and `above` say why it was not proved further down or up; None: the interval's end was reached.
    """

    name: str  # of the field
    low: float
    high: float
    below: str | None
    above: str | None
    index: int | None
    nullity: int | None
    rank: int | None
    global_minimum: bool | None  # all along; None: not shown
    pieces: tuple[Piece, ...] = field(repr=False)

    @property
    def reached(self) -> bool:
        """Whether all of the interval asked for is proved."""
        return self.below is None and self.above is None

    def __str__(self) -> str:
        rank = "" if self.rank is None else f" rank {self.rank},"
        lines = [
            f"proved for all {self.name} in [{self.low!r}, {self.high!r}], in {len(self.pieces)} pieces:"
            f"{rank} index {self.index}, nullity {self.nullity}"
        ]
        lines += [f"not below: {self.below}"] if self.below else []
        return "\n".join([*lines, *([f"not above: {self.above}"] if self.above else [])])


class _Place(NamedTuple):
    """Where pieces meet: x ± SMALL holds the branch's point at t."""

    t: float
    x: BallMatrix
    index: int  # type: ignore[assignment]  # in the coordinates of the proof


class _Branch(NamedTuple):
    """What stays the same along it."""

    landscape: Landscape
    start: Any
    name: str
    proof: Proof

    def at(self, value: Any) -> Balls:
        """Return the landscape over balls, with a number or ball in place of the field."""
        return self.landscape.balls(self.start, **{self.name: value})


def prove_branch(landscape: Landscape, x: Any, **fields: Any) -> ProvedBranch:
    """Prove that a critical orbit goes on, with its index, over an interval of a field of its landscape.

    `fields` is one field by name and the ends of the interval, which holds the landscape's own value, where x
    is near the orbit: `prove_branch(prob, x, decay_w=(1e-3, 1e-2))`. It goes both ways from there as far as
    it can: at a bifurcation no piece can be proved.

    Raises:
        ValueError: naming the field, if there is none or several, or the interval does not hold its value; as
            `prove`, if nothing is proved at x itself.
    """
    require_x64(landscape)
    flint()
    x = landscape.check(x)
    check_finite(x)
    name, (low, high), own = _interval(landscape, fields)
    proof = prove_near(landscape.balls(x))
    if not proof.proved:
        raise ValueError(f"x: nothing is proved at the landscape's own {name} = {own!r}: {proof.failed}")
    branch = _Branch(landscape, x, name, proof)
    with flint().ctx.workprec(PRECISION):
        place = _begin(branch, own)
        down, below, shown_down = _go(branch, place, low)
        up, above, shown_up = _go(branch, place, high)
    pieces = (*reversed(down), *up)
    minimum = proof.global_minimum if shown_down and shown_up else None
    return ProvedBranch(
        name,
        min([own, *(p.low for p in pieces)]),
        max([own, *(p.high for p in pieces)]),
        below,
        above,
        proof.index,
        proof.nullity,
        proof.rank,
        minimum,
        pieces,
    )


def _interval(landscape: Landscape, fields: dict[str, Any]) -> tuple[str, tuple[float, float], float]:
    if len(fields) != 1:
        raise ValueError(f"fields: need one field and its interval, got {sorted(fields)}")
    ((name, ends),) = fields.items()
    if name not in landscape.leaf_names():
        raise ValueError(f"{name}: need a field of numbers, one of {landscape.leaf_names()}")
    if np.ndim(getattr(landscape, name)):
        shape = np.shape(getattr(landscape, name))
        raise ValueError(f"{name}: need a field of one number, this is an array of shape {shape}")
    own = float(getattr(landscape, name))
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: need the two ends of an interval, got {ends!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= own <= high):
        raise ValueError(
            f"{name}: need an interval that holds the landscape's own {own!r}, got ({low}, {high})"
        )
    return name, (low, high), own


def _begin(branch: _Branch, own: float) -> _Place:
    balls = branch.at(own)
    start = column([float(value) for value in balls.start])
    section = section_at(balls, start)
    x, inverse = polished(balls, start, section, PRECISION)
    return _Place(own, x, enclosed(balls, x, inverse, section, SMALL).index)


def _next(balls: Balls, t: float, place: _Place, section: Section) -> _Place:
    """Enclose the critical point at t of the section through the place."""
    x, inverse = polished(balls, place.x, section, PRECISION)
    radii = [SMALL] * inverse.nrows()
    step = inverse * residual_at(balls, x, section, place.x)
    mapped_into_itself(balls, x, inverse, section, step, radii)
    return _Place(t, x, place.index)


def _go(branch: _Branch, place: _Place, end: float) -> tuple[list[Piece], str | None, bool]:
    """Go on to `end`, or as far as pieces can be proved: these, why it ends before, if a minimum is shown."""
    pieces: list[Piece] = []
    length, minimum = math.copysign(FIRST * _scale(place.t, end), end - place.t), True
    while place.t != end:
        if len(pieces) == MOST_PIECES:
            return pieces, f"at {place.t!r}: {MOST_PIECES} pieces are made at most", minimum
        t = place.t + length if abs(length) < abs(end - place.t) else end
        try:
            place, piece, beyond = _piece(branch, place, t)
        except Unproved as error:
            length /= 2
            if abs(length) < LEAST * _scale(place.t, end):
                return pieces, f"at {place.t!r}: {error}", minimum
            continue
        pieces.append(piece)
        minimum &= beyond.global_minimum is branch.proof.global_minimum
        length *= LONGER
    return pieces, None, minimum


def _scale(t: float, end: float) -> float:
    return abs(t) or abs(end)


def _piece(branch: _Branch, place: _Place, t: float) -> tuple[_Place, Piece, Beyond]:
    """Prove the branch from a place to t.

    Raises:
        Unproved: saying what could not be shown.
    """
    over, there = branch.at(flint().arb(place.t).union(flint().arb(t))), branch.at(t)
    section = section_at(over, place.x)
    ends = place, _next(there, t, place, section)
    middle = ((ends[0].x + ends[1].x) / 2).mid()
    inverse = inverse_near(bordered(over.expand(middle)[2], section.rows), section.rows.nrows())
    free = stacked(flint().arb_mat(middle.nrows(), 1), section.rows * _around_zero(middle.nrows()))  # C
    step = _hull(
        inverse * (residual_at(balls, middle, section, place.x) + free)
        for balls in ((branch.at(place.t), there) if over.affine else (over,))
    )
    box, value, widest = _inflated(over, middle, inverse, section, step)
    if not all(box.contains(end.x + _around_zero(middle.nrows())) for end in ends):
        raise Unproved("the box does not hold both of its ends")
    beyond = over.beyond(box, place.index)
    if place.index + beyond.index != branch.proof.index:
        raise Unproved("the index changes in coordinates that the point does not use")
    low, high = sorted((place.t, t))
    return ends[1], Piece(low, high, (lower_float(value), upper_float(value)), widest), beyond


def _hull(columns: Iterable[BallMatrix]) -> BallMatrix:
    first, *others = (matrix.entries() for matrix in columns)
    for other in others:
        first = [a.union(b) for a, b in zip(first, other, strict=True)]
    return column(first)


def _around_zero(size: int) -> BallMatrix:
    return around(flint().arb_mat(size, 1), [SMALL] * size)


def _inflated(
    balls: Balls, centre: BallMatrix, inverse: BallMatrix, section: Section, step: BallMatrix
) -> tuple[BallMatrix, Any, float]:
    """Return a box that is mapped into itself, f there, its largest radius: by epsilon-inflation (Rump)."""
    radii = [4 * SMALL + INFLATED_BY * upper_float(a.abs_upper()) for a in step.entries()]
    for _ in range(INFLATIONS):
        try:
            box, value, _ = mapped_into_itself(balls, centre, inverse, section, step, radii)
            return box, value, max(radii[: centre.nrows()], default=0.0)
        except NotInside as error:
            failed, grown = error, [4 * SMALL + INFLATED_BY * radius for radius in error.radii]
            if not max(grown) < TOO_MUCH * max(radii):
                break
            radii = [max(new, old) for new, old in zip(grown, radii, strict=True)]
    raise failed
