"""Who decides what counts: gradients and Hessians of Lennard-Jones clusters, written out in NumPy alone.

A reported point is accepted as a stationary point of an index if Newton's method takes it, by a short way, to
where the gradient vanishes to rounding, and the Hessian has so many negative eigenvalues and six zero ones
there. Points are the same if their sorted distances are: no motion, mirror or order of the atoms changes
these.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOVED = 0.05  # the longest way that polishing may take, of atoms about 1.1 apart
SOLVED = 1e-9  # of the gradient; its rounding is about 1e-13
ZERO = 1e-5  # eigenvalues below are zero; others that were met are above 1e-2 (stiff ones are about 300)
SAME = 1e-5  # distances of polished points, whose errors are about SOLVED / 1e-2
STEPS = 8


@dataclass(frozen=True)
class Seen:
    """What is at a stationary point."""

    index: int
    value: float
    distances: NDArray


def derivatives(x: NDArray) -> tuple[float, NDArray, NDArray]:
    """Return value, gradient (3n,) and Hessian (3n, 3n) of V = 4 Σ (r⁻¹² − r⁻⁶) at positions (n, 3).

    With u = r² and φ(u) = 4 (u⁻⁶ − u⁻³) a pair has the gradient 2φ′d and the Hessian 2φ′I + 4φ″ddᵀ.
    """
    n = len(x)
    i, j = np.triu_indices(n, 1)
    d = x[i] - x[j]
    u = np.sum(d**2, axis=1)
    slope = 4 * (-6 * u**-7 + 3 * u**-4)
    bend = 4 * (42 * u**-8 - 12 * u**-5)
    gradient, hessian = np.zeros((n, 3)), np.zeros((n, 3, n, 3))
    np.add.at(gradient, i, 2 * slope[:, None] * d)
    np.add.at(gradient, j, -2 * slope[:, None] * d)
    for a, b, s, t, e in zip(i, j, slope, bend, d, strict=True):
        block = 2 * s * np.eye(3) + 4 * t * np.outer(e, e)
        for p, q, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            hessian[p, :, q, :] += sign * block
    value = float(4 * np.sum(u**-6.0 - u**-3.0))
    return value, gradient.ravel(), hessian.reshape(3 * n, 3 * n)


def seen_at(x: NDArray) -> Seen | None:
    """Return what is at a reported point, (n, 3) or (3n,); None if it is not near a stationary point."""
    start = np.asarray(x, float).reshape(-1, 3)
    if not np.all(np.isfinite(start)) or len({tuple(p) for p in start}) < len(start):
        return None
    here = start
    for _ in range(STEPS):
        _, gradient, hessian = derivatives(here)
        if not np.all(np.isfinite(hessian)):
            return None
        here = here - (np.linalg.pinv(hessian, rcond=1e-7, hermitian=True) @ gradient).reshape(-1, 3)
        if np.max(np.abs(here - start)) > MOVED:
            return None
    value, gradient, hessian = derivatives(here)
    if np.max(np.abs(gradient)) > SOLVED:
        return None
    eigenvalues = np.linalg.eigvalsh(hessian)
    if np.sum(np.abs(eigenvalues) < ZERO) != 6:
        return None
    i, j = np.triu_indices(len(here), 1)
    distances = np.sort(np.linalg.norm(here[i] - here[j], axis=1))
    return Seen(int(np.sum(eigenvalues < -ZERO)), value, distances)


class Book:
    """The distinct stationary points of one index, in the order in which they were accepted."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.points: list[Seen] = []
        self.refused = 0

    def enter(self, x: NDArray) -> bool:
        """Look at a reported point; return whether it is accepted and new."""
        seen = seen_at(x)
        if seen is None or seen.index != self.index:
            self.refused += 1
            return False
        if any(np.max(np.abs(seen.distances - other.distances)) < SAME for other in self.points):
            return False
        self.points.append(seen)
        return True

    @property
    def values(self) -> list[float]:
        """Energies, the lowest first."""
        return sorted(point.value for point in self.points)


def counted(index: int, reported: Iterable[NDArray]) -> Book:
    """Return the book of one index after all reported points."""
    book = Book(index)
    for x in reported:
        book.enter(x)
    return book
