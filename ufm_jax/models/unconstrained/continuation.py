"""Critical orbits followed as the decays grow: which are born, split, merge and die, and where.

λ_W and λ_H are multiplied by t = Kθ / (Kθ of the problem given); λ_b stays. An orbit is followed from one
grid value of Kθ to the next by Euler's predictor −H⁺ ∂∇f/∂(Kθ) and Levenberg–Marquardt on ∇f as corrector
(Allgower & Georg 2003). A step is taken if corrector and predictor differ little for its length (`BEND`) in
the logits and the bias, else it is halved; an orbit that cannot be followed by steps of 2^−`HALVINGS` of the
interval has ended there. A step that changes the index is taken only at about that least length: a longer
one may have fallen onto a neighbour.

For Kθ ≥ 1 nothing is followed: the origin is then the only critical point, for every d. The loss g is convex
in the logits, so at a critical point 0 ≤ ⟨∇g(Z) − ∇g(0), Z⟩ ≤ −s ‖WH‖_* − λ_b ‖b‖² + ‖WH‖_* √n/N, where
√n/N ≤ s; equality leaves WH = 0.

What is shown: that an orbit exists at the grid values where it is recorded, with the evidence recorded there;
an event is located to a grid interval. What is not: orbits born and dead between two grid values, and orbits
that no census found, are not seen, though the Morse–Bott tests at each grid value may betray them; that two
recorded points lie on one branch rests on the acceptance test of the steps, and is not proved.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise, permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape import census
from ufm_jax.landscape.evidence import Evidence, examine
from ufm_jax.landscape.flat import hessian, oracle, unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import SOLVE_GTOL
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.models.unconstrained.census import shape_of
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.permutations import Shape, matching, stabiliser_order
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, lift, reduced
from ufm_jax.models.unconstrained.symmetry import RANK_ATOL, orbit_dimension
from ufm_jax.numerics.descent import Solution
from ufm_jax.numerics.lanes import each_lane, in_batches
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

BEND = 0.1  # predictor and corrector may differ by this much of max|M| per unit of log(Kθ/(1 − Kθ))
HALVINGS = 14
NEAR = 0.15  # of max|M|: orbits so close where one of them ends are taken to meet there
SOLVED = 1e-9  # logits: what a corrected point is good to
NULL_RTOL = 1e-9  # eigenvalues of H below this, relative, have no part in H⁺
LANES = 16  # a compiled batch


class Event(NamedTuple):
    """What happened between two grid values, read with Kθ growing."""

    kind: str  # birth, split (off an orbit that was there), death, merge (into one that stays), rank, index
    low: float
    high: float
    branches: tuple[int, ...]  # numbers of branches: the one it happens to, then those it meets there


class Continuation(NamedTuple):
    """Branches of critical orbits, in the order of finding; NaN and −1 where absent, −1 where not counted."""

    kt: Float[np.ndarray, " G"]
    points: Float[np.ndarray, "B G D"]  # as in `census.Census`
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
    `SOLVE_GTOL` no longer tells them apart.
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
        known = [shape_of(small, x) for x in points[~np.isnan(points[:, start, 0]), start]]
        fresh = [x for x in state.points if all(matching(s, shape_of(small, x)) is None for s in known)]
        new = np.arange(len(points), len(points) + len(fresh))
        points = np.concatenate([points, np.full((len(fresh), *points.shape[1:]), np.nan)])
        points[new, start] = np.array(fresh).reshape(len(fresh), points.shape[2])
        for path in (range(start, len(kt)), range(start, -1, -1)):
            points, met = _along(small, kt, points, new, list(path))
            events += met
    return _measured(prob, kt, points, events)


def advance(
    small: Problem, points: Float[np.ndarray, "m D"], start: float, target: float
) -> tuple[Float[np.ndarray, "m D"], Float[np.ndarray, " m"]]:
    """Follow critical points of the reduced problem from one Kθ < 1 to another; return points and Kθ reached.

    A point that cannot be followed stays where its last accepted step ended.
    """
    x, at = points.copy(), np.full(len(points), start)
    step = np.full(len(points), target - start)
    least = abs(target - start) * 0.5**HALVINGS
    while (going := np.flatnonzero((at != target) & (abs(step) >= least))).size:
        aim = np.where(abs(target - at) <= abs(step) * (1 + 1e-9), target, at + step)
        one = partial(_step, small, least=least)
        found, good = in_batches(one, LANES, x[going], at[going], aim[going])
        taken = going[good]
        x[taken], at[taken] = found[good], aim[taken]
        step[going] *= np.where(good, 2.0, 0.5)
    return x, at


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
    for a, b in pairwise(path):
        if not live:
            break
        if kt[b] < 1:
            x, at = advance(small, points[live, a], kt[a], kt[b])
        else:
            x, at = _corrected(small, points[live, a], kt[b])
        lost = {i: (xi, ti) for i, xi, ti in zip(live, x, at, strict=True) if ti != kt[b]}
        live = [i for i in live if i not in lost]
        points[live, b] = x[at == kt[b]]
        for i, (xi, ti) in lost.items():
            met = _met(small, points[:, a], kt[a], i, xi, ti)
            ends = all(np.isnan(points[j, b, 0]) for j in met)  # also where it ended alone
            events.add(_named(kt[a], kt[b], (i, *met), pair=ends))
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


def _met(small: Problem, points: np.ndarray, start: float, i: int, x: np.ndarray, at: float) -> list[int]:
    """Return the branches near branch i, which was lost at x and Kθ = `at`, nearest first."""
    others = np.flatnonzero(~np.isnan(points[:, 0]) & (np.arange(len(points)) != i))
    there, _ = advance(small, points[others], start, at)
    shape = shape_of(small, x)
    far = np.array([distance(shape, shape_of(small, y)) for y in there])
    close = np.argsort(far, kind="stable")[: int(np.sum(far <= NEAR * np.abs(shape.M).max()))]
    return [int(j) for j in others[close]]


def _coinciding(small: Problem, points: np.ndarray, live: list[int]) -> list[list[int]]:
    """Return the sets of branches that are one orbit, of those with a live branch among them."""
    groups: list[list[int]] = []
    for i in map(int, np.flatnonzero(~np.isnan(points[:, 0]))):
        shape = shape_of(small, points[i])
        for group in groups:
            if matching(shape_of(small, points[group[0]]), shape) is not None:
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


def _corrected(
    small: Problem, points: Float[np.ndarray, "m D"], target: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve at a Kθ ≥ 1 from points below 1; NaN for the Kθ reached where no critical point was met."""
    found = jax.device_get(_solve(at_kt(small, target), jnp.asarray(points)))
    return found.x, np.where(found.status == Status.CONVERGED, target, np.nan)


def _measured(prob: Problem, kt: np.ndarray, points: np.ndarray, events: list[Event]) -> Continuation:
    """Judge every branch at every grid value and list changes of rank and index."""
    where = np.argwhere(~np.isnan(points[:, :, 0]))
    lanes = kt[where[:, 1]], points[where[:, 0], where[:, 1]]
    evidence = in_batches(partial(_examine, prob), census.EVIDENCE_BATCH, *lanes).columns()
    shape = points.shape[:2]
    loss = np.full(shape, np.nan)
    counts = {k: np.full(shape, -1) for k in ("rank", "index", "excess", "copies")}
    complete: list[bool | None] = []
    for g in range(len(kt)):
        own = where[:, 1] == g
        b = where[own, 0]
        there, here = at_kt(prob, float(kt[g])), {name: values[own] for name, values in evidence.items()}
        orbit_dims = np.array([int(orbit_dimension(there, int(rank))) for rank in here["rank"]])
        here["orbit_dim"] = orbit_dims
        copies = census.copies_of(there, points[b, g], here)
        state = census.Census(points[b, g], np.zeros(len(b), np.int64), copies, here)
        loss[b, g] = here["loss"]
        excess = np.where(here["nullity"] == NOT_COUNTED, NOT_COUNTED, here["nullity"] - orbit_dims)
        measured = {"rank": here["rank"], "index": here["index"], "excess": excess}
        for name, values in (measured | {"copies": copies}).items():
            counts[name][b, g] = values
        passed = [test.passed for test in census.completeness(there, state)]
        complete.append(None if None in passed else all(passed))
    for kind in ("rank", "index"):
        value = counts[kind]
        for i, g in np.argwhere((np.diff(value) != 0) & (value[:, 1:] >= 0) & (value[:, :-1] >= 0)):
            events.append(Event(kind, float(kt[g]), float(kt[g + 1]), (int(i),)))
    events = sorted(events, key=lambda e: (e.low, e.kind, e.branches))
    return Continuation(kt, points, loss, **counts, complete=tuple(complete), events=tuple(events))


@jax.jit
def _step(
    small: Problem,
    points: Float[Array, "B D"],
    at: Float[Array, " B"],
    aim: Float[Array, " B"],
    least: float | Float[Array, ""],
) -> tuple[Float[Array, "B D"], Bool[Array, " B"]]:
    """Predict and correct from Kθ = `at` to `aim`; return points and whether each step is to be taken."""

    def one(x: Float[Array, " D"], a: Float[Array, ""], b: Float[Array, ""]) -> tuple[Array, Array]:
        here, there, p = at_kt(small, a), at_kt(small, b), unravel(small, x)
        slope = ravel(
            Params(here.decay_w * p.W / a, here.decay_h * p.H / a, jax.tree.map(jnp.zeros_like, p.b))
        )
        values, vectors = jnp.linalg.eigh(hessian(here, p))
        zero = NULL_RTOL * jnp.max(jnp.abs(values))
        inverse = jnp.where(jnp.abs(values) > zero, 1 / jnp.where(jnp.abs(values) > zero, values, 1.0), 0.0)
        predicted = x - (b - a) * (vectors @ (inverse * (vectors.T @ slope)))
        found = levenberg_marquardt(oracle(there), predicted, gtol=SOLVE_GTOL)
        pairs = zip(_invariant(small, found.x), _invariant(small, predicted), strict=True)
        far = jnp.maximum(*[jnp.max(jnp.abs(u - v)) for u, v in pairs])
        length = jnp.abs(b - a) / (a * (1 - a))
        straight = far <= BEND * length * jnp.max(jnp.abs(_invariant(small, x)[0])) + SOLVED
        negative = jnp.sum(jnp.linalg.eigvalsh(hessian(there, unravel(small, found.x))) < -zero)
        same = (negative == jnp.sum(values < -zero)) | (jnp.abs(b - a) <= 2 * least)
        return found.x, (found.status == Status.CONVERGED) & straight & same

    return each_lane(one)(points, at, aim)


def _invariant(small: Problem, x: Float[Array, " D"]) -> tuple[Float[Array, "K K"], Float[Array, " K"]]:
    """Return M and b, which rotations leave alone."""
    p = unravel(small, x)
    return p.W @ p.H, jnp.zeros(1, x.dtype) if p.b is None else p.b


@jax.jit
def _solve(there: Problem, points: Float[Array, "B D"]) -> Solution:
    return each_lane(lambda x: levenberg_marquardt(oracle(there), x, gtol=SOLVE_GTOL))(points)


@jax.jit
def _examine(prob: Problem, kt: Float[Array, " B"], points: Float[Array, "B D"]) -> Evidence:
    def one(t: Float[Array, ""], x: Float[Array, " D"]) -> Evidence:
        there = at_kt(prob, t)
        return examine(collapse(there), lift(collapse(there), unravel(reduced(there), x))).evidence

    return each_lane(one)(kt, points)
