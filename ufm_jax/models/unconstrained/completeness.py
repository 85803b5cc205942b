"""How complete is a list of critical orbits? Two tests that a complete list must pass.

The sublevel sets of f are compact modulo the shift of an undecayed bias, so Morse–Bott theory applies when
every orbit is non-degenerate: with Z₂ coefficients, Σ t^index P(orbit; t) = 1 + (1 + t) R(t), where R has
coefficients ≥ 0 (Bott 1954), and at t = −1, Σ (−1)^index χ(orbit) = 1. A violation proves that an orbit is
missing or miscounted; passing proves nothing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Counted(NamedTuple):
    """What the tests need of an orbit: its rank, and its Morse index at any d ≥ rank."""

    rank: int
    copies: int  # orbits under rotations that permutations of classes make of it
    index: int  # type: ignore[assignment]  # at d = dim
    per_dimension: int  # by how much the index grows with d: #{i : σ_i(G) > s}
    degenerate: bool  # nullity above the orbit's dimension


class MorseBott(NamedTuple):
    """The tests at one d. `passed` is None where an orbit is degenerate: they then say nothing."""

    dim: int
    euler: int  # Σ (−1)^index χ(orbit); 1 if complete
    remainder: tuple[int, ...]  # coefficients of R; all ≥ 0 if complete
    passed: bool | None


def stiefel_poincare(dim: int, rank: int) -> Int[np.ndarray, " n"]:
    """Return the coefficients of P(V_{d,r}; t) = Π_{j=d−r}^{d−1} (1 + t^j) over Z₂, lowest first."""
    polynomial = np.ones(1, np.int64)
    for j in range(dim - rank, dim):
        factor = np.zeros(j + 1, np.int64)
        factor[0] += 1
        factor[j] += 1
        polynomial = np.convolve(polynomial, factor)
    return polynomial


def morse_bott(orbits: list[Counted], dim: int, at: int) -> MorseBott:
    """Test a list of orbits, counted at d = `dim`, as a list for d = `at`.

    Its orbits of rank ≤ `at` are then all there are: critical points of rank r are the same in every d ≥ r
    (`reduction`), and their index is affine in d.
    """
    present = [o for o in orbits if o.rank <= at]
    # Of a degenerate orbit the index may not have been counted, and what is said of it here means nothing.
    low = [max(o.index + (at - dim) * o.per_dimension, 0) for o in present]
    terms = [(o, stiefel_poincare(at, o.rank), index) for o, index in zip(present, low, strict=True)]
    total = np.zeros(1 + max((len(p) + i for _, p, i in terms), default=1), np.int64)
    for orbit, polynomial, index in terms:
        total[index : index + len(polynomial)] += orbit.copies * polynomial
    total[0] -= 1
    quotient = np.zeros_like(total)  # of the division by 1 + t, with remainder quotient[-1]
    for i, coefficient in enumerate(total):
        quotient[i] = coefficient - (quotient[i - 1] if i else 0)
    euler = int(np.sum(total[::2]) - np.sum(total[1::2])) + 1
    passed = euler == 1 and bool(np.all(quotient >= 0))
    remainder = tuple(int(c) for c in np.trim_zeros(quotient, "b"))
    return MorseBott(at, euler, remainder, None if any(o.degenerate for o in present) else passed)
