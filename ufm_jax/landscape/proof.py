"""Proof that a critical orbit is near a point, and of its index: interval arithmetic, no rounding left open.

The mathematics is in `krawczyk`, what a landscape has to say of itself in `balls`. All is about the exact
binary numbers in the landscape's leaves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ufm_jax.landscape.balls import Balls, Unproved, centres, column, flint, lower_float, upper_float, written
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.krawczyk import enclosed, polished, section_at
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.precision import require_x64

PRECISIONS = (128, 256, 512)  # bits, one after another until a proof holds
# The critical point proved is within this of the point asked about, relative to 1 + ‖x‖: three digits of it.
NEAR = 1e-3
MOST_VARIABLES = 600  # about two minutes and 1 GB


@dataclass(frozen=True)
class Proof:
    """What was proved of one point; if `proved` is False, `failed` says what could not be shown.

    Index and nullity are those of f in all its coordinates, `nullity` is the orbit's dimension, and `loss`
    holds the critical value between two float64 numbers. `global_minimum` is None where neither was shown.
    """

    proved: bool
    failed: str | None
    index: int | None = None
    nullity: int | None = None
    rank: int | None = None
    loss: tuple[float, float] | None = None
    global_minimum: bool | None = None
    distance: float | None = None  # from the point to the orbit, at most
    precision: int | None = None  # bits
    radius: float | None = None  # ρ, of the box around `centre` that holds it
    centre: tuple[str, ...] = field(default=(), repr=False)  # exactly (`balls.written`), as `Balls.start`
    invariants: tuple[Any, ...] = field(default=(), repr=False, compare=False)  # balls, of `Balls.invariants`
    value: Any = field(default=None, repr=False, compare=False)  # the ball that holds the critical value

    @property
    def statement(self) -> str:
        """The theorem in words."""
        if not self.proved:
            return self._shown
        return f"{self._shown}; the orbit is within {self.distance:.1e} of the point"

    @property
    def _shown(self) -> str:
        """The theorem without the point asked about: what a record says, in words."""
        if not self.proved:
            return f"nothing is proved: {self.failed}"
        assert self.loss is not None
        rank = "" if self.rank is None else f"rank {self.rank}, "
        ends = {True: ", a global minimum", False: ", no global minimum", None: ""}
        return (
            f"one critical orbit meets the box: {rank}index {self.index}, nullity {self.nullity} "
            f"(its dimension), f in [{self.loss[0]!r}, {self.loss[1]!r}]{ends[self.global_minimum]}"
        )

    def record(self) -> dict[str, Any]:
        """Return what a proof says and rests on, for JSON: floating-point numbers exactly, in hexadecimal.

        The statement is that of the other entries in words, and no more: without the distance to a point.
        """
        lower, upper = (None, None) if self.loss is None else (bound.hex() for bound in self.loss)
        return {
            **{name: getattr(self, name) for name in ("proved", "failed", "rank", "index", "nullity")},
            **{"lower": lower, "upper": upper, "global_minimum": self.global_minimum},
            "precision": self.precision,
            "radius": None if self.radius is None else self.radius.hex(),
            "centre": list(self.centre),
            "statement": self._shown,
        }

    def digits(self, number: int = 30) -> tuple[str, str] | None:
        """Return the critical value in so many decimals, if they are proved, and how far off it may be."""
        if self.value is None:
            return None
        said = self.value.str(number).strip("[]").split(" +/- ")
        return said[0], said[1] if len(said) > 1 else "0"

    def columns(self) -> dict[str, Any]:
        """Return what a table says of a proof beside what was found in floating point; None: not shown."""
        lower, upper = self.loss or (None, None)
        return {
            "proved": self.proved,
            "not_proved": self.failed,
            **{f"proved_{name}": getattr(self, name) for name in ("rank", "index", "nullity")},
            **{"loss_lower": lower, "loss_upper": upper, "proved_global_minimum": self.global_minimum},
            "proved_within": self.distance,
        }

    def __str__(self) -> str:
        lines = [f"proved        {self.proved}", f"statement     {self.statement}"]
        if self.proved:
            for name in ("rank", "index", "nullity", "global_minimum"):
                value = getattr(self, name)
                lines.append(f"{name:<14}{'-' if value is None else value}")
            lines.append(f"made with     {self.precision} bits, a box of radius {self.radius:.1e}")
        return "\n".join(lines)


def prove(landscape: Landscape, x: Any) -> Proof:
    """Prove that a critical orbit is near x, of which index and nullity, and between which values f is there.

    Raises:
        ValueError: naming the landscape, if it cannot be evaluated over balls; the leaf of x whose shape or
            dtype is not the landscape's, or that is not finite; python-flint, if it is missing; if 64-bit
            floating point is off.
    """
    require_x64(landscape)
    flint()
    x = landscape.check(x)
    check_finite(x)
    return prove_near(landscape.balls(x))


def can_prove(landscape: Landscape) -> None:
    """Raise ValueError unless proofs can be made of this landscape's points: before a search is begun."""
    flint()
    landscape.balls(landscape.zeros())


def prove_near(balls: Balls, precisions: Sequence[int] = PRECISIONS) -> Proof:
    """Prove what there is to prove at `balls.start`, with as much precision as it takes.

    Of n bits the box has a radius of 2^−n/2, and the critical value about as many bits.
    """
    failed, started, size = "", float(np.linalg.norm(balls.start)), len(balls.start)
    if size > MOST_VARIABLES:
        return Proof(proved=False, failed=f"too large: {size} variables, the most is {MOST_VARIABLES}")
    for precision in precisions:
        try:
            with flint().ctx.workprec(precision):
                return _proved(balls, precision, NEAR * (1 + started))
        except Unproved as error:
            failed = f"{error} (at {precision} bits)"
    return Proof(proved=False, failed=failed)


def _proved(balls: Balls, precision: int, near: float) -> Proof:
    start = column([float(value) for value in balls.start])
    section = section_at(balls, start)
    centre, inverse = polished(balls, start, section, precision)
    radius = 2.0 ** -(precision // 2)
    distance = _distance(balls, centres(centre - start), radius)
    if not distance <= near:
        raise Unproved(f"the critical point next to x is {distance:.1e} away from it")
    found = enclosed(balls, centre, inverse, section, radius)
    return Proof(
        proved=True,
        failed=None,
        index=found.index + found.beyond.index,
        nullity=section.rows.nrows() + found.beyond.nullity,
        rank=found.beyond.rank,
        loss=(lower_float(found.value), upper_float(found.value)),
        value=found.value,
        global_minimum=found.beyond.global_minimum,
        distance=distance,
        precision=precision,
        radius=radius,
        centre=tuple(written(entry) for entry in centre.entries()),
        invariants=tuple(balls.invariants(found.box)),
    )


def _distance(balls: Balls, moved: np.ndarray, radius: float) -> float:
    """Bound the distance from the point asked about, with room for rounding, here and where it is printed."""
    size, apart = len(balls.start), float(np.linalg.norm(moved))
    rounding = size * float(np.finfo(float).eps) * float(np.linalg.norm(balls.start))
    return 1.1 * (apart + balls.dropped + radius * math.sqrt(size) + rounding)


def prove_row(balls: Balls, row: Any, precisions: Sequence[int] = PRECISIONS) -> Proof:
    """Prove a row of a table at its point: rank, index and nullity are to be what it says."""
    proof = prove_near(balls, precisions)
    if not proof.proved:
        return proof
    told = {name: getattr(row, name) for name in ("rank", "index", "nullity")}
    wrong = [name for name, value in told.items() if value is not None and value != getattr(proof, name)]
    if not wrong:
        return proof
    said = ", ".join(f"{name} {told[name]}, proved is {getattr(proof, name)}" for name in wrong)
    return Proof(proved=False, failed=f"the row has {said}")


def alike(proofs: Sequence[Proof]) -> list[tuple[int, int]]:
    """Return which pairs of proved orbits were not shown to differ in index, rank, value or invariants."""
    lines = [i for i, proof in enumerate(proofs) if proof.proved]
    lines.sort(key=lambda i: proofs[i].loss or (0.0, 0.0))
    pairs = []
    for place, i in enumerate(lines):
        for j in lines[place + 1 :]:
            if proofs[j].loss[0] > proofs[i].loss[1]:  # type: ignore[index]
                break  # nor does any later one meet it
            if not _apart(proofs[i], proofs[j]):
                pairs.append((min(i, j), max(i, j)))
    return sorted(pairs)


def _apart(a: Proof, b: Proof) -> bool:
    if (a.rank, a.index, a.nullity) != (b.rank, b.index, b.nullity):
        return True
    return any(not one.overlaps(other) for one, other in zip(a.invariants, b.invariants, strict=True))
