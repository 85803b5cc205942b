"""A critical orbit proved over a whole interval of one field of its landscape, a piece after another.

On a piece the field is a ball. At its beginning t₁ the critical point x₁* is known to lie in a small box
around x₁. With Ξ the tangents at x₁, consider for t in the piece and c in C = Ξ(box − x₁)

    F(x, μ; t, c) = (∇f_t(x) + Ξᵀμ,  Ξ(x − x₁) − c) = 0.

`proved_piece` shows for all these t and c at once that there is exactly one zero in a tube p(t) + Z. It
depends smoothly on both, and is a critical point of the same index and nullity, as no matrix in the enclosure
of F′ is singular. x₁* is the zero for t₁ and c* = Ξ(x₁* − x₁), if the tube holds the small box. All zeros at
t₁, as c goes from c* to 0, are on its orbit: near each of them the critical points are a manifold of the
orbit's dimension (nullity), so that the orbit is open in it. From there t goes to the piece's end t₂ with
c = 0, where a small box around x₂ inside the tube is shown to hold the zero: the next piece begins there.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ufm_jax.landscape.balls import (
    BallMatrix,
    Balls,
    Beyond,
    Unproved,
    column,
    flint,
    lower_float,
    upper_float,
)
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.krawczyk import (
    Section,
    enclosed,
    mapped_into_itself,
    polished,
    residual_at,
    section_at,
)
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proof import Proof, prove_near
from ufm_jax.landscape.proved_piece import SMALL, curve_at, shown_over, sizes, split, tube_around
from ufm_jax.precision import require_x64

PRECISION = 128  # bits
# Lengths of pieces, relative to the field: of the first, and where it gives up.
FIRST, LEAST = 2.0**-6, 2.0**-20
LONGER = 1.5  # a piece than the one before
MOST_PIECES = 20_000

Listen = Callable[[int, int, str], None]  # how much is done, of how much, what to say


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
    listen: Listen | None
    balls: Balls

    def at(self, value: Any) -> Balls:
        """Return the landscape over balls, with a number or ball in place of the field."""
        fields = {self.name: value}
        return self.balls.given(**fields) if self.balls.bends else self.landscape.balls(self.start, **fields)


def proved_over(
    landscape: Landscape, x: Any, fields: dict[str, Any], listen: Listen | None = None
) -> ProvedBranch:
    """Prove that a critical orbit goes on, with its index, over an interval of a field of its landscape.

    `fields` is one field by name and the ends of the interval, which holds the landscape's own value, where x
    is near the orbit. It goes both ways from there as far as it can: at a bifurcation no piece can be proved.
    `listen` hears of every piece.

    Raises:
        ValueError: naming the field, if there is none or several, if the interval does not hold its value, or
            if it reaches where there is no such landscape, as for a decay of 0; as `prove`, if nothing is
            proved at x itself.
    """
    require_x64(landscape)
    flint()
    x = landscape.check(x)
    check_finite(x)
    name, (low, high), own = _interval(landscape, fields)
    for end in (low, high):
        try:
            dataclasses.replace(landscape, **{name: np.asarray(end)})  # checks itself, where it can
            landscape.balls(x, **{name: end})
        except ValueError as error:
            raise ValueError(f"{name}: the interval ({low}, {high}) reaches too far: {error}") from error
    balls = landscape.balls(x)
    proof = prove_near(balls)
    if not proof.proved:
        raise ValueError(f"x: nothing is proved at the landscape's own {name} = {own!r}: {proof.failed}")
    branch = _Branch(landscape, x, name, proof, listen, balls)
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
    if low > high:
        raise ValueError(f"{name}: need the lower end first, got ({low}, {high})")
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
    first = place.t
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
        _tell(branch, first, place.t, end, len(pieces))
        minimum &= beyond.global_minimum is branch.proof.global_minimum
        length *= LONGER
    return pieces, None, minimum


def _scale(t: float, end: float) -> float:
    return abs(t) or abs(end)


def _tell(branch: _Branch, first: float, t: float, end: float, pieces: int) -> None:
    """Say how far it has come on its way from `first` to `end`, in hundredths, of ratios where it can."""
    if branch.listen is None:
        return
    whole, done = (math.log(a / first) if first * end > 0 else a - first for a in (end, t))
    way = "down" if end < first else "up"
    branch.listen(round(100 * done / whole), 100, f"% {way}, at {branch.name} = {t:.6g}, {pieces} pieces")


def _piece(branch: _Branch, place: _Place, t: float) -> tuple[_Place, Piece, Beyond]:
    """Prove the branch from a place to t.

    Raises:
        Unproved: saying what could not be shown.
    """
    arb, (low, high) = flint().arb, sorted((place.t, t))
    middle, T = split(low, high)
    at, over, there = branch.at(middle), branch.at(arb(middle) + T), branch.at(t)
    section = section_at(over, place.x)
    ends = place, _next(there, t, place, section)
    x = ((ends[0].x + ends[1].x) / 2).mid()
    curve = curve_at(at, polished(at, x, section, PRECISION)[0] if over.bends else x, section)
    tube, value = tube_around(curve, at, over, T, section, place.x, (branch.at(place.t), there))
    if not all(tube.holds(arb(end.t) - arb(middle), end.x) for end in ends):
        raise Unproved("the tube does not hold both of its ends")
    beyond = shown_over(branch.at, tube, T, arb(middle), place.index, branch.proof.global_minimum)
    if place.index + beyond.index != branch.proof.index:
        raise Unproved("the index changes in coordinates that the point does not use")
    return ends[1], Piece(low, high, (lower_float(value), upper_float(value)), sizes(tube, T)), beyond
