"""Critical orbits followed as the decays grow: which are born, split, merge and die, and where.

λ_W and λ_H are multiplied by t = Kθ / (Kθ of the problem given); λ_b stays. Each orbit of a census is
followed up and down a grid of Kθ (`landscape.continuation`); where it can be followed no further, it ended.

For Kθ ≥ 1 nothing is followed: the origin is then the only critical point, for every d. The loss g is convex
in the logits, so at a critical point 0 ≤ ⟨∇g(Z) − ∇g(0), Z⟩ ≤ −s ‖WH‖_* − λ_b ‖b‖² + ‖WH‖_* √n/N, where
√n/N ≤ s; equality leaves WH = 0.

What is shown: that an orbit exists at the grid values where it is recorded, with the evidence recorded there;
an event is located to a grid interval. What is not: orbits born and dead between two grid values, and orbits
that no census found, are not seen, though the Morse–Bott tests at each grid value may betray them; that two
recorded points lie on one branch rests on the acceptance test of the steps, and is not proved.
"""

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape import census
from ufm_jax.landscape.continuation import Path, walk
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.orbits import Census
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import LevenbergMarquardt, search
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.units import LEVEL_TOL
from ufm_jax.models.unconstrained.census import METHOD, same_orbit, shape_of
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.permutations import Shape, stabiliser_order
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import reduced
from ufm_jax.models.unconstrained.symmetry import RANK_ATOL
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

NEAR = 0.15  # of max|M|: orbits so close where one of them ends are taken to meet there
STEPS = 10_000  # at most, of one branch over the whole grid


class Event(NamedTuple):
    """What happened between two grid values, read with Kθ growing."""

    kind: str  # birth, split (off an orbit that was there), death, merge (into one that stays), rank, index
    low: float
    high: float
    branches: tuple[int, ...]  # numbers of branches: the one it happens to, then those it meets there


class Continuation(NamedTuple):
    """Branches of critical orbits, in the order of finding; NaN and −1 where absent, −1 where not counted."""

    kt: Float[np.ndarray, " G"]
    points: Float[np.ndarray, "B G D"]  # as in `orbits.Census`
    loss: Float[np.ndarray, "B G"]
    rank: Int[np.ndarray, "B G"]
    index: Int[np.ndarray, "B G"]  # type: ignore[assignment]
    excess: Int[np.ndarray, "B G"]  # nullity above the orbit's dimension: 0 for Morse–Bott
    copies: Int[np.ndarray, "B G"]
    complete: tuple[bool | None, ...]  # the Morse–Bott tests at every d; None if an orbit is degenerate
    events: tuple[Event, ...]


def kt_grid(size: int = 40, low: float = 1e-3, high: float = 0.98) -> Float[np.ndarray, " G"]:
    """Return values of Kθ, even in log(Kθ/(1 − Kθ)) from `low` to `high`, and one beyond 1.

    Nearer 1 the orbits of one rank differ in loss by (1 − Kθ)³ and less, and a corrector that stops at
    `units.SOLVED` no longer tells them apart.
    """
    u = np.linspace(np.log(low / (1 - low)), np.log(high / (1 - high)), size - 1)
    return np.append(1 / (1 + np.exp(-u)), 2 - high)


def at_kt(prob: Problem, kt: float | Float[Array, ""]) -> Problem:
    """Return the problem with λ_W and λ_H multiplied by the same number so that Kθ is `kt`."""
    factor = kt / (prob.num_classes * theta(prob))
    return replace(prob, decay_w=prob.decay_w * factor, decay_h=prob.decay_h * factor)


def follow(
    prob: Problem, kt: Float[np.ndarray, " G"], *, censuses: tuple[int, ...], seed: int = 0
) -> Continuation:
    """Find the critical orbits by a census at some numbers of the grid and follow them over all of it.

    `kt` ascends; its last value is ≥ 1, all others below. Orbits that an earlier census found and that were
    followed to the place of a later one are known there.

    Raises:
        ValueError: if `prob` is not balanced cross-entropy without smoothing, the grid is not as said, or
            64-bit floating point is off.
    """
    require_x64()
    if not prob.balanced or prob.loss != CrossEntropy():
        raise ValueError(f"prob: need balanced classes and cross-entropy, got {prob.counts}, {prob.loss}")
    if not (np.all(np.diff(kt) > 0) and kt[0] > 0 and kt[-2] < 1 <= kt[-1]):
        raise ValueError(f"kt: need 0 < ascending < 1 and then one value >= 1, got {kt}")
    small = reduced(prob)
    points = np.full((0, len(kt), small.num_variables), np.nan)
    events: list[Event] = []
    for start in censuses:
        there = at_kt(prob, float(kt[start]))
        *_, state = census.rounds(there, census.begin(there), seed=seed)
        known = points[~np.isnan(points[:, start, 0]), start]
        fresh = [x for x in state.points if not any(same_orbit(small, y, x) for y in known)]
        new = np.arange(len(points), len(points) + len(fresh))
        points = np.concatenate([points, np.full((len(fresh), *points.shape[1:]), np.nan)])
        points[new, start] = np.array(fresh).reshape(len(fresh), points.shape[2])
        for path in (range(start, len(kt)), range(start, -1, -1)):
            points, met = _along(small, kt, points, new, list(path))
            events += met
    return _measured(prob, kt, points, events)


def advance(
    small: Problem, x: Float[np.ndarray, " D"], start: float, goals: Float[np.ndarray, " m"]
) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Follow a critical point of the reduced problem from one Kθ to others, each farther, all below 1.

    Returns the points at those that were reached, and the last point on the way with its Kθ.
    """
    goals = goals[goals != start]
    if not goals.size:
        return [], x, start
    stops = np.log(goals / start) / np.log(goals[-1] / start)
    ends = (at_kt(small, kt) for kt in (start, goals[-1]))
    decays = [{"decay_w": p.decay_w, "decay_h": p.decay_h} for p in ends]
    times, held = walk(small, Path(*decays), jnp.asarray(x), stops=tuple(stops), max_steps=STEPS)
    reached = [np.asarray(here.x) for t, here in zip(times, held, strict=True) if t in stops]
    return reached, np.asarray(held[-1].x), float(start * (goals[-1] / start) ** times[-1])


def branches_of(prob: Problem, held: dict[str, Any], points: Float[np.ndarray, "m D"]) -> list[int | None]:
    """Return the branch on which each critical point of the problem itself is, as `orbits.Census` has them.

    `held` has `kt`, and `loss` and `rank` a branch, as `recorded`. Each point is followed to the nearest
    value of Kθ there: it is on the one branch that has its loss (to `LEVEL_TOL`) and rank at that value.
    """
    small, own = reduced(prob), float(prob.num_classes * theta(prob))
    kt, loss = np.array(held["kt"]), np.array(held["loss"], dtype=float)
    below = np.flatnonzero(kt < 1)
    g = int(below[np.argmin(np.abs(np.log(kt[below] / own)))])
    there, rank = at_kt(small, float(kt[g])), np.array(held["rank"])[:, g]

    def of(x: np.ndarray) -> int | None:
        reached, *_ = advance(small, x, own, kt[g : g + 1])
        if not (reached or kt[g] == own):
            return None
        end = reached[0] if reached else x
        f, shape = float(there.value(unravel(there, jnp.asarray(end)))), shape_of(small, end)
        own_rank = int(np.sum(np.linalg.svd(shape.M, compute_uv=False) > RANK_ATOL))
        found = np.flatnonzero((np.abs(loss[:, g] - f) <= LEVEL_TOL * f) & (rank == own_rank))
        return int(found[0]) if len(found) == 1 else None

    return [of(x) for x in points]


def recorded(paths: Continuation, heights: Float[np.ndarray, "B G"]) -> dict[str, Any]:
    """Return branches for JSON; `heights` are `figures.relative_heights`."""
    return {
        "kt": paths.kt.tolist(),
        "loss": at_grid(paths.loss),
        "relative_height": at_grid(heights),
        **{name: getattr(paths, name).tolist() for name in ("rank", "index", "excess", "copies")},
        "complete": list(paths.complete),
        "events": [e._asdict() for e in paths.events],
    }


def at_grid(values: Float[np.ndarray, "B G"]) -> list[list[float | None]]:
    """Return numbers of branches as nested lists, None where a branch is absent."""
    return [[None if np.isnan(v) else float(v) for v in line] for line in values]


def distance(one: Shape, other: Shape) -> float:
    """Return the least max-norm difference of M and b over all permutations of classes (K! of them)."""
    orders = (list(order) for order in permutations(range(len(one.b))))
    return min(
        float(max(np.abs(one.M - other.M[np.ix_(p, p)]).max(), np.abs(one.b - other.b[p]).max()))
        for p in orders
    )


def _along(
    small: Problem, kt: np.ndarray, points: np.ndarray, new: np.ndarray, path: list[int]
) -> tuple[np.ndarray, list[Event]]:
    """Follow the branches `new` along grid numbers `path`; return all branches and what was met."""
    points, live, events = points.copy(), [int(i) for i in new], set()
    below = [g for g in path[1:] if kt[g] < 1]
    ends = {}
    for i in live:
        reached, *end = advance(small, points[i, path[0]], kt[path[0]], kt[below])
        ends[i] = tuple(end)
        for g, x in zip(below, reached, strict=False):
            points[i, g] = x
        if len(reached) == len(below) < len(path) - 1:
            points[i, path[-1]] = _corrected(small, points[i, path[-2]], kt[path[-1]])
    for a, b in pairwise(path):
        lost = [i for i in live if np.isnan(points[i, b, 0])]
        live = [i for i in live if i not in lost]
        for i in lost:
            met = _met(small, points[:, a], kt[a], i, ends[i])
            pair = all(np.isnan(points[j, b, 0]) for j in met)  # also where it ended alone
            events.add(_named(kt[a], kt[b], (i, *met), pair=pair))
        for group in _coinciding(small, points[:, b], live):
            stays = next((j for j in group if _same_kind(small, points[j, a], points[j, b])), group[0])
            for gone in set(group) - {stays}:
                points[gone, path[path.index(b) :]] = np.nan
                live = [k for k in live if k != gone]
                events.add(_named(kt[a], kt[b], (gone, stays), pair=False))
    return points, list(events)


def _named(start: float, end: float, branches: tuple[int, ...], *, pair: bool) -> Event:
    """Name the end of a branch followed from `start` to `end`; a pair ends together, else the others stay."""
    kinds = ("death", "merge") if end > start else ("birth", "split")
    low, high = sorted((float(start), float(end)))
    return Event(kinds[not pair], low, high, tuple(sorted(branches)) if pair else branches)


def _met(small: Problem, points: np.ndarray, start: float, i: int, end: tuple) -> list[int]:
    """Return the branches near branch i where it ended, a point and its Kθ, the nearest first."""
    x, at = end
    others = np.flatnonzero(~np.isnan(points[:, 0]) & (np.arange(len(points)) != i))
    there = [advance(small, y, start, np.array([at]))[1] for y in points[others]]
    shape = shape_of(small, x)
    far = np.array([distance(shape, shape_of(small, y)) for y in there])
    close = np.argsort(far, kind="stable")[: int(np.sum(far <= NEAR * np.abs(shape.M).max()))]
    return [int(j) for j in others[close]]


def _coinciding(small: Problem, points: np.ndarray, live: list[int]) -> list[list[int]]:
    """Return the sets of branches that are one orbit, of those with a live branch among them."""
    groups: list[list[int]] = []
    for i in map(int, np.flatnonzero(~np.isnan(points[:, 0]))):
        for group in groups:
            if same_orbit(small, points[group[0]], points[i]):
                group.append(i)
                break
        else:
            groups.append([i])
    return [g for g in groups if len(g) > 1 and set(g) & set(live)]


def _same_kind(small: Problem, before: np.ndarray, after: np.ndarray) -> bool:
    """True if a branch kept rank and symmetry: where two become one, it is the one that stays."""
    if np.isnan(before[0]):
        return True
    one, other = shape_of(small, before), shape_of(small, after)
    ranks = [int(np.sum(np.linalg.svd(s.M, compute_uv=False) > RANK_ATOL)) for s in (one, other)]
    return ranks[0] == ranks[1] and stabiliser_order(one) == stabiliser_order(other)


def _corrected(small: Problem, x: Float[np.ndarray, " D"], kt: float) -> Float[np.ndarray, " D"]:
    """Solve at a Kθ ≥ 1 from a point below 1; NaN where no critical point was met."""
    there = at_kt(small, kt)
    found = search(there, unravel(there, jnp.asarray(x)), LevenbergMarquardt())
    return np.asarray(ravel(found.x)) if found.status == Status.CONVERGED else np.full_like(x, np.nan)


def _polished(there: Problem, points: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "m D"]:
    """Solve as exactly as a census does: near Kθ = 1 an index is counted only where ∇f is next to nothing."""
    found = search(there, jax.vmap(lambda x: unravel(there, x))(jnp.asarray(points)), METHOD)
    good = np.asarray(found.status == Status.CONVERGED)
    return np.where(good[:, None], jax.vmap(ravel)(found.x), points)


def _measured(prob: Problem, kt: np.ndarray, points: np.ndarray, events: list[Event]) -> Continuation:
    """Judge every branch at every grid value and list changes of rank and index."""
    shape = points.shape[:2]
    loss = np.full(shape, np.nan)
    counts = {k: np.full(shape, -1) for k in ("rank", "index", "excess", "copies")}
    complete: list[bool | None] = []
    for g, here_kt in enumerate(kt):
        b, there = np.flatnonzero(~np.isnan(points[:, g, 0])), at_kt(prob, float(here_kt))
        points[b, g] = _polished(reduced(there), points[b, g])
        here = census.measured(there, points[b, g])
        copies = census.copies_of(there, points[b, g], here)
        state = Census(points[b, g], np.zeros(len(b), np.int64), copies, here)
        loss[b, g] = here["loss"]
        uncounted = here["nullity"] == NOT_COUNTED
        excess = np.where(uncounted, NOT_COUNTED, here["nullity"] - here["orbit_dim"])
        measured = {"rank": here["rank"], "index": here["index"], "excess": excess, "copies": copies}
        for name, values in measured.items():
            counts[name][b, g] = values
        passed = [test.passed for test in census.completeness(there, state)]
        complete.append(None if None in passed else all(passed))
    for kind in ("rank", "index"):
        value = counts[kind]
        for i, g in np.argwhere((np.diff(value) != 0) & (value[:, 1:] >= 0) & (value[:, :-1] >= 0)):
            events.append(Event(kind, float(kt[g]), float(kt[g + 1]), (int(i),)))
    events = sorted(events, key=lambda e: (e.low, e.kind, e.branches))
    return Continuation(kt, points, loss, **counts, complete=tuple(complete), events=tuple(events))
