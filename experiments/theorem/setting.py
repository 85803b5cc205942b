"""The decays of a theorem as enclosed strengths, and what is known at all decays in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.theorem.intervals import Interval, interval, log, reciprocal, root

ROUNDING = 1e-14  # more than that of v ± spread, |v| ≤ 4


@dataclass(frozen=True)
class Setting:
    """Balanced cross-entropy: decays as given in binary; `decay_b` None for no bias."""

    num_classes: int
    per_class: int
    decay_w: float
    decay_h: float
    decay_b: float | None

    def strengths(self) -> Interval:
        """Enclose (ε, γ): ε = K √(n λ_W λ_H), γ = (1 + Kλ_b)^{−1/2}, 0 without a bias."""
        K = float(self.num_classes)
        epsilon = root(interval(np.array([self.decay_w])) * self.decay_h * float(self.per_class)) * K
        if self.decay_b is None:
            gamma = interval(np.zeros(1))
        elif self.decay_b == 0:
            gamma = interval(np.ones(1))
        else:
            gamma = root(reciprocal(interval(np.array([self.decay_b])) * K + 1.0))
        return Interval(np.r_[epsilon.lo, gamma.lo], np.r_[epsilon.hi, gamma.hi])


@dataclass(frozen=True)
class Orbit:
    """A critical orbit under rotations and permutations of classes: its rank, and its loss between bounds.

    Where it was searched for, also the v of its column space (of rank 1, its line; of rank K − 2, its
    normal), each entry within `spread`.
    """

    rank: int
    loss: tuple[float, float]
    direction: tuple[float, ...] | None = None
    spread: float = 0.0

    def differs(self, other: Orbit) -> bool:
        """Say whether two orbits are shown to be two: by rank, loss, or v up to permutations and factors."""
        if self.rank != other.rank or self.loss[1] < other.loss[0] or other.loss[1] < self.loss[0]:
            return True
        if self.direction is None or other.direction is None:
            return False
        ours, theirs = self._shape(1), [other._shape(sign) for sign in (1, -1)]
        return all(bool(np.any((ours.lo > t.hi) | (ours.hi < t.lo))) for t in theirs)

    def _shape(self, sign: int) -> Interval:
        """Enclose the entries of sign · v in order, divided by the largest less the smallest."""
        v = sign * np.array(self.direction)
        ends = np.sort(v - self.spread), np.sort(v + self.spread)  # ends of k-th entries are k-th ends
        entries = Interval(*ends) + Interval(np.array(-ROUNDING), np.array(ROUNDING))
        return entries * reciprocal(entries[-1] - entries[0])


def closed_forms(setting: Setting) -> list[Orbit]:
    """Return the origin, f = log K, and the global minimum of rank K − 1, f = −log(1 − (K−1)θ) + (K−1)θ
    log(1/θ − K + 1).

    Raises:
        ValueError: naming the decays, unless Kθ < 1 is shown; from Kθ = 1 on the origin is the only critical
            point.
    """
    K = float(setting.num_classes)
    epsilon = setting.strengths()[:1]
    if not epsilon.hi[0] < 1:
        raise ValueError(
            f"decays: Kθ must be below 1, got {epsilon.hi[0]}: from 1 on the origin alone is critical"
        )
    theta = epsilon * reciprocal(interval(np.array([K])))
    gap = log(reciprocal(theta) - (K - 1.0))
    minimum = (theta * (K - 1.0)) * gap - log(1.0 - theta * (K - 1.0))
    return [
        Orbit(setting.num_classes - 1, _ends(minimum)),
        Orbit(0, _ends(log(interval(np.array([K]))))),
    ]


def _ends(x: Interval) -> tuple[float, float]:
    return float(x.lo[0]), float(x.hi[0])
