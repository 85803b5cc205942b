"""Interval arithmetic on arrays in float64: each operation rounded outwards, exp its own.

What is assumed: +, −, ×, ÷ and √ of float64 are correctly rounded to nearest (IEEE 754), as are NumPy's; a
matrix product or a sum returns what some order of such operations returns, fused or not.

*Outward.* Let v = fl(x ∘ y), u = 2⁻⁵³. Then |x ∘ y − v| ≤ u|v|/(1 − u), or ≤ 2⁻¹⁰⁷⁴ where the result is
subnormal. `_down` subtracts |v| 2⁻⁵¹ + 10⁻³⁰⁰, which is four times as much as that, and rounding in its own
operations takes away less than half of it. An overflow becomes an infinite end or NaN; every test in this
package is written so that NaN fails it.

*Products of matrices* of inner size m ≤ 256: with midpoints a, b and radii r, q, |AB − ab| ≤ |a| q + r (|b| +
q), and the rounding of each of the sums of m products is below m u/(1 − m u) ≤ 3·10⁻¹⁴ of the sum of absolute
values in whatever order they are added (Higham 2002, (3.13)); 10⁻¹³ is added, twice. *Sums* of m ≤ 256 terms
likewise.

*exp.* For |x| ≤ 700: k = rint(x / ln 2), |k| ≤ 1010, ρ = (x − k L) − k M, where L has 32 bits, so that k L is
exact, and M = fl(ln 2 − L), |M| < 2⁻³². x/ln 2 is off by less than 1010·2u, so |ρ| ≤ 0.3467. The two
differences are each rounded by at most 0.35 u, k M (below 3·10⁻⁷) and M add less than 10⁻⁶ u: ρ is off by
less than u. Taylor's polynomial of degree 13 is off by less than 0.35¹⁴/14! · e^0.35 < 10⁻¹⁷ < u/10; Horner's
rule by γ_28 Σ|c_j||ρ|^j ≤ 29 u · e^0.35, and the rounded coefficients by u e^0.35. As e^ρ > 0.70, the
relative error is below (1 + 1 + 30 · 1.42/0.70) u < 64 u = 2⁻⁴⁷. The polynomial is widened by 2⁻⁴⁶ and scaled
by 2^k, which is exact: results are above 10⁻³⁰⁵. Beyond ±700 an end is that at ±700, or 0, or infinite.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

ULPS = 2.0**-51  # four units of roundoff
TINY = 1e-300
SUMS = 1e-13  # relative, of sums of up to MOST terms
MOST = 256
EXP_ERROR = 2.0**-46
EXP_RANGE = 700.0
# ln 2 = LN2_HIGH + LN2_LOW + (less than 2⁻⁸⁵): its first 32 bits, and the next 53.
LN2_HIGH = float.fromhex("0x1.62e42feep-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
TAYLOR = tuple(1.0 / factorial(j) for j in range(14))


def _down(v: np.ndarray) -> np.ndarray:
    return v - (np.abs(v) * ULPS + TINY)


def _up(v: np.ndarray) -> np.ndarray:
    return v + (np.abs(v) * ULPS + TINY)


class Interval:
    """An array of intervals [lo, hi]; mixed with arrays, which are then points."""

    __array_ufunc__ = None  # arrays leave mixed operations to this class
    __slots__ = ("hi", "lo")

    def __init__(self, lo: Any, hi: Any = None) -> None:
        self.lo = np.asarray(lo, float)
        self.hi = self.lo if hi is None else np.asarray(hi, float)

    @staticmethod
    def around(middle: np.ndarray, radius: np.ndarray) -> Interval:
        """Return what holds middle ± radius."""
        return Interval(_down(middle - radius), _up(middle + radius))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lo.shape

    def __getitem__(self, index: Any) -> Interval:
        return Interval(self.lo[index], self.hi[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        value = interval(value)
        self.lo[index], self.hi[index] = value.lo, value.hi

    def reshape(self, *shape: int) -> Interval:
        return Interval(self.lo.reshape(*shape), self.hi.reshape(*shape))

    def transpose(self, *axes: int) -> Interval:
        return Interval(self.lo.transpose(*axes), self.hi.transpose(*axes))

    def swapaxes(self, i: int, j: int) -> Interval:
        return Interval(self.lo.swapaxes(i, j), self.hi.swapaxes(i, j))

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __add__(self, other: Any) -> Interval:
        other = interval(other)
        return Interval(_down(self.lo + other.lo), _up(self.hi + other.hi))

    def __sub__(self, other: Any) -> Interval:
        other = interval(other)
        return Interval(_down(self.lo - other.hi), _up(self.hi - other.lo))

    def __rsub__(self, other: Any) -> Interval:
        return interval(other) - self

    def __mul__(self, other: Any) -> Interval:
        other = interval(other)
        a, b = self.lo * other.lo, self.hi * other.hi
        c, d = self.lo * other.hi, self.hi * other.lo
        low = np.minimum(np.minimum(a, b), np.minimum(c, d))
        high = np.maximum(np.maximum(a, b), np.maximum(c, d))
        return Interval(_down(low), _up(high))

    __radd__ = __add__
    __rmul__ = __mul__

    def __matmul__(self, other: Any) -> Interval:
        return _product(self, interval(other))

    def __rmatmul__(self, other: Any) -> Interval:
        return _product(interval(other), self)

    def sum(self, axis: int) -> Interval:
        """Return the sum of up to MOST entries along an axis."""
        assert self.shape[axis] <= MOST
        low = self.lo.sum(axis) - (SUMS * np.abs(self.lo).sum(axis) + TINY)
        high = self.hi.sum(axis) + (SUMS * np.abs(self.hi).sum(axis) + TINY)
        return Interval(_down(low), _up(high))

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (middle, radius) such that middle ± radius holds the interval."""
        middle = 0.5 * self.lo + 0.5 * self.hi
        return middle, _up(np.maximum(self.hi - middle, middle - self.lo))

    def size(self) -> np.ndarray:
        """Return the largest absolute value, exactly."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def holds(self, x: Any) -> np.ndarray:
        """Say where a number, or the whole of an interval, lies inside."""
        x = interval(x)
        return (self.lo <= x.lo) & (x.hi <= self.hi)

    def meet(self, other: Interval) -> Interval:
        """Return what both hold; empty (lo > hi) if nothing."""
        return Interval(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi))


def interval(x: Any) -> Interval:
    """Return x, or the point interval of a number or an array."""
    return x if isinstance(x, Interval) else Interval(x)


def _product(a: Interval, b: Interval) -> Interval:
    assert a.shape[-1] <= MOST
    (am, ar), (bm, br) = a.halves(), b.halves()
    size_a, size_b = np.abs(am), np.abs(bm)
    middle = am @ bm
    radius = size_a @ (br + SUMS * size_b) + ar @ (size_b + br)
    return Interval.around(middle, radius * (1 + SUMS) + TINY)


def reciprocal(x: Interval) -> Interval:
    """Return 1/x where x > 0; NaN elsewhere."""
    low = np.where(x.lo > 0, x.lo, np.nan)
    with np.errstate(invalid="ignore"):
        return Interval(_down(1.0 / x.hi), _up(1.0 / low))


def root(x: Interval) -> Interval:
    """Return √x where x ≥ 0; NaN elsewhere."""
    low = np.where(x.lo >= 0, x.lo, np.nan)
    return Interval(np.maximum(_down(np.sqrt(low)), 0.0), _up(np.sqrt(np.where(x.lo >= 0, x.hi, np.nan))))


def _exp(x: np.ndarray) -> np.ndarray:
    """Return e^x for |x| ≤ EXP_RANGE, to a relative error below EXP_ERROR / 2: see the module."""
    k = np.rint(x * INVERSE_LN2)
    rho = (x - k * LN2_HIGH) - k * LN2_LOW
    value = np.full_like(rho, TAYLOR[-1])
    for c in TAYLOR[-2::-1]:
        value = value * rho + c
    return np.ldexp(value, np.where(np.isnan(k), 0, k).astype(np.int64))


def exp(x: Interval) -> Interval:
    """Return e^x, proved: see the module."""
    low = _exp(np.clip(x.lo, -EXP_RANGE, EXP_RANGE)) * (1 - EXP_ERROR)
    high = _exp(np.clip(x.hi, -EXP_RANGE, EXP_RANGE)) * (1 + EXP_ERROR)
    return Interval(np.where(x.lo < -EXP_RANGE, 0.0, low), np.where(x.hi > EXP_RANGE, np.inf, high))


def log(x: Interval) -> Interval:
    """Return log x, x > 0: a guess of the library's, accepted where `exp` shows it; infinite or NaN
    elsewhere.
    """
    with np.errstate(all="ignore"):
        margin = 4 * EXP_ERROR
        low, high = np.log(x.lo), np.log(x.hi)
        low, high = low - (np.abs(low) * margin + margin), high + (np.abs(high) * margin + margin)
        low = np.where(exp(Interval(low)).hi <= x.lo, low, -np.inf)
        return Interval(low, np.where(exp(Interval(high)).lo >= x.hi, high, np.inf))
