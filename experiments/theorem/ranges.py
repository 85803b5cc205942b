"""K = 3 for whole ranges of decays: the only critical lines are those on the chamber's walls.

x = (s, ε, γ), s over [0, ½], the half chamber from v = (2, −1, −1) to (1, 0, −1), and (ε, γ) over a
rectangle: boxes of all three are halved. Both ends are critical at all decays, by symmetry: exchanging
classes 2 and 3 maps the line of v(s) to that of v(−s/(1 − s)); exchanging 1 and 3, with v ↦ −v, to that of
v(1 − s). So a box is done if no zero of R is in it, or if in a wider one about s = 0 or ½ there is exactly
one for each (ε, γ): it is the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.theorem.enclose import Boxes, enclose
from experiments.theorem.minimiser import solve_afresh
from experiments.theorem.search import BATCH, chamber, halve, solve_centres

WALLS = np.array([0.0, 0.5])
TOUCHES = 3.0  # half widths of a box from a wall within which it is tried as part of one about the wall
NARROWEST = 1e-7  # half width of s below which a box is given up


@dataclass
class Range:
    """(ε, γ) over a rectangle: ε from Kθ's lower to its upper end; what was counted."""

    epsilon: tuple[float, float]
    gamma: tuple[float, float]
    evaluated: int = 0
    excluded: int = 0
    walls: int = 0
    undecided: int = 0
    left: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the walls are shown to be the only critical lines."""
        return not self.left and not self.undecided


def prove_range(
    epsilon: tuple[float, float],
    gamma: tuple[float, float],
    *,
    most: int = 10**9,
    tell: Callable[[Range], Any] = lambda found: None,
) -> Range:
    """Show that at K = 3 the two walls are the only critical lines for all (ε, γ) of a rectangle.

    Its ends are dyadic numbers of few digits, so that halves of it are exact.
    """
    chart = chamber(3, 1)
    found = Range(epsilon, gamma)
    low, high = np.array([0.0, epsilon[0], gamma[0]]), np.array([0.5, epsilon[1], gamma[1]])
    centre, radius = 0.5 * (low + high)[None], 0.5 * (high - low)[None]
    boxes = Boxes(centre, radius, solve_afresh(chart, centre[0])[None], np.zeros(1))
    began = last = time.perf_counter()
    while len(boxes.centre) and found.evaluated < most:
        part, rest = boxes.take(slice(-BATCH, None)), boxes.take(slice(0, -BATCH))
        shown = enclose(chart, part)
        left = ~shown.excluded
        at_wall = np.zeros(len(left), bool)
        for wall in WALLS:
            at_wall |= _is_wall(part, shown.guess, shown.follow, left & shown.solved & ~at_wall, wall)
        left &= ~at_wall
        narrow = left & (part.radius[:, 0] < NARROWEST)
        found.evaluated += len(left)
        found.excluded += int(np.sum(shown.excluded))
        found.walls += int(np.sum(at_wall))
        found.undecided += int(np.sum(narrow))
        boxes = rest.join(solve_centres(chart, halve(part, shown, left & ~narrow, 3)))
        found.left, found.seconds = len(boxes.centre), time.perf_counter() - began
        if time.perf_counter() - last > 10:
            last = time.perf_counter()
            tell(found)
    return found


def _is_wall(
    boxes: Boxes, guess: np.ndarray, follow: np.ndarray, which: np.ndarray, wall: float
) -> np.ndarray:
    """Say which boxes lie in one about a wall that holds exactly one zero for each (ε, γ)."""
    distance = np.abs(boxes.centre[:, 0] - wall)
    near = np.flatnonzero(which & (distance <= TOUCHES * boxes.radius[:, 0]))
    shown = np.zeros(len(which), bool)
    if len(near):
        centre, radius = boxes.centre[near].copy(), boxes.radius[near].copy()
        radius[:, 0] = (distance[near] + radius[:, 0]) * (1 + 1e-6)
        y = guess[near] + follow[near][:, :, 0] * (wall - centre[:, :1])
        centre[:, 0] = wall
        shown[near] = enclose(chamber(3, 1), Boxes(centre, radius, y, np.zeros(len(near)))).unique
    return shown
