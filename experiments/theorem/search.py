"""Branch and prune over a chamber of column spaces: every box is excluded, or lies where one zero was shown
to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.theorem import convex
from experiments.theorem.convex import Chart
from experiments.theorem.enclose import Boxes, Enclosed, enclose
from experiments.theorem.intervals import Interval
from experiments.theorem.minimiser import find_zero, solve, solve_afresh

BATCH = 512  # enough for NumPy's overheads, few enough for a core's cache
PIECES = 8  # boxes to begin with, a side: a power of two
NARROWEST = 1e-8  # half a box's width below which it is given up
RADII = 2.0 ** -np.arange(3, 41)  # half widths tried of a box that shall hold one zero
NEAR = 4.0  # Newton steps, in half widths, from which a zero is looked for
SAVE_EVERY = 30.0  # seconds
DUAL_SCALE = {3: 3, 4: 8, 5: 25}  # makes the dual of the weights' basis integer; checked


@dataclass(frozen=True)
class Zero:
    """A critical column space V(s): where it is, the only one in its box, and what was enclosed at it."""

    s: tuple[float, ...]  # within `within`
    radius: float  # half width of the box of uniqueness, centred at s
    within: float
    loss: tuple[float, float]  # lower and upper bound of f


@dataclass
class State:
    """What is left to do, and what was found."""

    boxes: Boxes
    zeros: list[Zero] = field(default_factory=list)
    undecided: list[list[float]] = field(default_factory=list)  # centre and half widths of what was given up
    evaluated: int = 0
    excluded: int = 0
    absorbed: int = 0  # inside a box that holds one zero
    outside: int = 0  # of the chamber
    seconds: float = 0.0
    drawn: list[np.ndarray] = field(default_factory=list)  # of excluded boxes (centre, half widths, R's ends)

    @property
    def complete(self) -> bool:
        """Whether the zeros found are all there are."""
        return not len(self.boxes.centre) and not self.undecided


def chamber(K: int, rank: int) -> Chart:
    """Return the chart of directions v = ω_1 + Σ s_i (ω_{i+1} − ω_1): those v_1 ≥ … ≥ v_K are s ≥ 0, Σ s ≤ 1.

    Column spaces of rank 1 are the lines of v, those of rank K − 2 the complements of v. ω_i = (K−i, …, −i)
    over their greatest common divisor: i entries above, K − i below. Every v ≠ 0 with 1ᵀv = 0 is a multiple
    of one of them, after a permutation. v ↦ −v reversed exchanges ω_i and ω_{K−i}.

    Raises:
        ValueError: naming `rank`, if it is neither.
    """
    if rank not in (1, K - 2):
        raise ValueError(f"rank must be 1 or K − 2 = {K - 2}, got {rank}: between them there is no chart yet")
    weights = []
    for i in range(1, K):
        w = np.r_[np.full(i, K - i), np.full(K - i, -i)]
        weights.append(w / np.gcd.reduce(w))
    basis = np.concatenate([weights[:1], np.array(weights[1:]) - weights[0]])
    if rank == 1:
        return Chart(basis[:, :, None])
    # (a_{i+1} − s_i a_0)·(v_0 + Σ s_j v_j) = 0 if a_i·v_j = const δ_ij.
    dual = np.linalg.inv(np.concatenate([basis, np.ones((1, K))]))[:, : K - 1].T
    dual = np.rint(dual * DUAL_SCALE[K])
    products = basis @ dual.T  # of small integers: exact
    assert np.array_equal(products, products[0, 0] * np.eye(K - 1))
    assert not np.any(dual.sum(1))
    V = np.zeros((K - 1, K, K - 2))
    for i in range(K - 2):
        V[0, :, i] = dual[i + 1]
        V[i + 1, :, i] = -dual[0]
    return Chart(V)


def direction(chart: Chart, s: np.ndarray) -> np.ndarray:
    """Return v(s), (K,): of rank 1 the column space, of rank K − 2 its normal."""
    K = chart.num_classes
    line = chamber(K, 1).V[:, :, 0]
    return line[0] + s @ line[1:]


def beyond(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Say which boxes of s, (n, m), hold nothing of half the chamber: s ≥ 0, Σ s ≤ 1, s_m ≤ 1 − Σ s.

    The last by v ↦ −v reversed: the coefficient of ω_{K−1} is at most that of ω_1. Doubts are a box's
    benefit.
    """
    doubt = 1e-12
    return np.any(high < -doubt, axis=1) | (low.sum(1) + np.maximum(low[:, -1], 0) > 1 + doubt)


def begin(
    chart: Chart, strengths: Interval, claimed: Sequence[Sequence[float]] = (), pieces: int = PIECES
) -> State:
    """Cover half the chamber, which lies in [0, 1]^m, by boxes; of zeros claimed, s each, take those shown to
    be.
    """
    m, half = chart.dim, 0.5 / pieces
    middle, radius = strengths.halves()
    axes = np.meshgrid(*[(np.arange(pieces) + 0.5) / pieces] * m, indexing="ij")
    s = np.stack([a.ravel() for a in axes], axis=1)
    s = s[~beyond(s - half, s + half)]
    centre = np.concatenate([s, np.tile(middle, (len(s), 1))], axis=1)
    around = np.concatenate([np.full_like(s, half), np.tile(radius, (len(s), 1))], axis=1)
    guess = np.array([solve_afresh(chart, c) for c in centre])
    zeros = []
    for one in claimed:
        x = np.r_[np.array(one, float), middle]
        zero = certify(chart, x, solve_afresh(chart, x), strengths)
        zeros += [zero] if zero else []
    return State(Boxes(centre, around, guess, np.zeros(len(s))), zeros)


def search(
    chart: Chart,
    strengths: Interval,
    state: State,
    *,
    most: int = 10**9,
    discover: bool = True,
    draw: bool = False,
    save: Callable[[State], Any] = lambda state: None,
    tell: Callable[[State], Any] = lambda state: None,
) -> State:
    """Go on with a search until nothing is left, or about `most` boxes were evaluated; return its state.

    With `discover` false no zero is looked for beyond those of `state`, which must be of this very setting
    (`begin` shows those claimed to be): a list that lacks one is not proved.
    """
    began = last = time.perf_counter()
    before = state.seconds
    while len(state.boxes.centre) and state.evaluated < most:
        step(chart, strengths, state, discover=discover, draw=draw)
        now = time.perf_counter()
        state.seconds = before + now - began
        if now - last > SAVE_EVERY:
            last = now
            save(state)
            tell(state)
    save(state)
    tell(state)
    return state


def step(
    chart: Chart, strengths: Interval, state: State, *, discover: bool = True, draw: bool = False
) -> None:
    """Evaluate the last BATCH boxes and put what is left of them, halved, back."""
    m = chart.dim
    boxes, rest = state.boxes.take(slice(-BATCH, None)), state.boxes.take(slice(0, -BATCH))
    shown = enclose(chart, boxes)
    centre, radius = boxes.centre[:, :m], boxes.radius[:, :m]
    if discover:
        _discover(chart, strengths, state, boxes, shown)
    absorbed = _known(state.zeros, centre - radius, centre + radius) & ~shown.excluded
    left = ~shown.excluded & ~absorbed
    state.evaluated += len(centre)
    state.excluded += int(np.sum(shown.excluded))
    state.absorbed += int(np.sum(absorbed))
    described = np.concatenate([centre, radius], axis=1)
    if draw:
        ends = np.concatenate([shown.R.lo, shown.R.hi], axis=1)
        state.drawn.append(np.concatenate([described, ends], axis=1)[shown.excluded])
    narrow = left & np.all(radius <= NARROWEST, axis=1)
    state.undecided += described[narrow].tolist()
    children = halve(boxes, shown, left & ~narrow, m)
    s, half = children.centre[:, :m], children.radius[:, :m]
    outside = beyond(s - half, s + half)
    state.outside += int(np.sum(outside))
    state.boxes = rest.join(solve_centres(chart, children.take(~outside)))


def _known(zeros: list[Zero], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Say which boxes of s lie in a box in which a zero is the only one."""
    inside = np.zeros(len(low), bool)
    for zero in zeros:
        radius = zero.radius * (1 - 1e-9)  # so that rounding of low and high does not matter
        inside |= np.all((low >= np.array(zero.s) - radius) & (high <= np.array(zero.s) + radius), axis=1)
    return inside


def _discover(chart: Chart, strengths: Interval, state: State, boxes: Boxes, shown: Enclosed) -> None:
    """Look for zeros not known yet near boxes that are left, and add those that are shown to be there."""
    m = chart.dim
    near = shown.solved & ~shown.excluded & np.all(np.abs(shown.newton) <= NEAR * boxes.radius[:, :m], axis=1)
    for i in np.flatnonzero(near):
        guess = boxes.centre[i].copy()
        guess[:m] += shown.newton[i]
        if _known(state.zeros, guess[None, :m], guess[None, :m])[0]:
            continue
        x, y, good = find_zero(chart, guess, shown.guess[i])
        if not good or _known(state.zeros, x[None, :m], x[None, :m])[0]:
            continue
        zero = certify(chart, x, y, strengths)
        if zero is not None and not _outside(zero):
            state.zeros.append(zero)


def _outside(zero: Zero) -> bool:
    """Say whether a zero lies outside half the chamber: a mirror image of one inside, not to be counted."""
    s = np.array(zero.s)[None]
    return bool(beyond(s - zero.within, s + zero.within)[0])


def certify(chart: Chart, x: np.ndarray, y: np.ndarray, strengths: Interval) -> Zero | None:
    """Show that a box around an approximate zero holds exactly one: the widest and the narrowest of RADII
    that will do.

    The boxes cross the walls of the chamber, as zeros lie on them: R and φ know nothing of walls, so that
    uniqueness in a box around a wall is that of the zero on it and its mirror images.
    """
    m, count = chart.dim, len(RADII)
    centre = np.tile(x, (count, 1))
    radius = np.tile(np.r_[np.zeros(m), strengths.halves()[1]], (count, 1))
    radius[:, :m] = RADII[:, None]
    boxes = Boxes(centre, radius, np.tile(y, (count, 1)), np.zeros(count))
    shown = enclose(chart, boxes)
    good = np.flatnonzero(shown.unique)
    if not len(good):
        return None
    last = good[-1:]
    frame = convex.Frame(shown.frame.F[last], shown.frame.V[last])
    value = convex.loss(chart, frame, shown.y[last], Interval.around(centre[last], radius[last]))
    return Zero(
        tuple(map(float, x[:m])),
        float(RADII[good[0]]),
        float(RADII[last[0]]),
        (float(value.lo[0]), float(value.hi[0])),
    )


def halve(boxes: Boxes, shown: Enclosed, which: np.ndarray, sides: int) -> Boxes:
    """Halve boxes along that of their first `sides` sides in which y moves most; dyadic ends stay exact."""
    boxes, guess, follow = boxes.take(which), shown.guess[which], shown.follow[which]
    n = np.arange(len(boxes.centre))
    # Γ is of second order in the radius: a half's h is about a quarter; unknown, it is asked for afresh.
    h = np.where(np.isfinite(shown.h[which]), shown.h[which], 0.0) / 3
    widths = boxes.radius[:, :sides]
    moves = np.nan_to_num(np.abs(follow[:, :, :sides]).max(1)) * widths
    # No side more than four times another.
    moves = moves * (widths > widths.max(1, keepdims=True) / 4) + 1e-3 * widths
    along = np.argmax(moves, axis=1)
    radius = boxes.radius.copy()
    radius[n, along] /= 2
    halves = []
    for side in (-1.0, 1.0):
        centre = boxes.centre.copy()
        centre[n, along] += side * radius[n, along]
        moved = (follow @ (centre - boxes.centre)[:, :, None])[:, :, 0]
        halves.append(Boxes(centre, radius, guess + np.nan_to_num(moved), h))
    return halves[0].join(halves[1])


def solve_centres(chart: Chart, boxes: Boxes) -> Boxes:
    """Replace guesses by approximate minimisers at the centres."""
    if not len(boxes.centre):
        return boxes
    y, good = solve(chart, boxes.centre, boxes.guess)
    for i in np.flatnonzero(~good):
        y[i] = solve_afresh(chart, boxes.centre[i])
    return boxes._replace(guess=y)
