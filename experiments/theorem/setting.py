"""The decays of a theorem as enclosed strengths, and what is known at all decays in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.theorem.intervals import Interval, interval, log, reciprocal, root


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
    """A critical orbit under rotations and permutations of classes: rank, loss between bounds, v(s) where
    there is one.
    """

    rank: int
    loss: tuple[float, float]
    direction: tuple[float, ...] | None = None


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
