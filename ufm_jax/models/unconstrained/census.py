"""A census of critical orbits: all critical points of f, up to rotation and permutation of classes.

Symmetric and generic starts of every rank (`symmetric`) are sent to a critical point nearby in the
collapsed, rank-reduced problem, and the points found are sorted into orbits by their invariants, never by
their loss. It goes on until as many starts again as were needed so far bring nothing new and the list
violates no test of `completeness`; what may still be missing is estimated there.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.evidence import Evidence, examine
from ufm_jax.landscape.flat import oracle, unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import search_start
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import symmetric
from ufm_jax.models.unconstrained.completeness import Counted, MorseBott, morse_bott
from ufm_jax.models.unconstrained.geometry import CollapseMetrics
from ufm_jax.models.unconstrained.names import name_of
from ufm_jax.models.unconstrained.objective import logit_gradient
from ufm_jax.models.unconstrained.permutations import (
    Shape,
    fingerprint,
    group_order,
    matching,
    stabiliser_order,
)
from ufm_jax.models.unconstrained.problem import Params, Problem, check_single
from ufm_jax.models.unconstrained.reduction import check_class_means, collapse, lift, reduced, trimmed
from ufm_jax.models.unconstrained.starts import Keys
from ufm_jax.models.unconstrained.symmetry import orbit_dimension, shift_dimension
from ufm_jax.numerics.checks import check_count
from ufm_jax.numerics.lanes import each_lane, in_batches
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

Target = Literal["critical", "minima"]

# Far below a search's own 1e-10: beside a bifurcation whole neighbourhoods of a family meet that.
GTOL = 1e-13
ROUND = 1000  # starts between reports
LEAST = 4000  # starts before a census may end by itself
PATIENCE = 10  # how much longer to look for an orbit that a violated test shows to be missing
EVIDENCE_BATCH = 32
FAMILY_LOSS_TOL = 1e-8  # degenerate points converge slowly: their loss is good to about 1e-10
EVIDENCE = (*(name for name in Evidence._fields if name != "measures"), "rank", *CollapseMetrics._fields)
LONGEST = 3600.0  # seconds a census may be expected to take


class Census(NamedTuple):
    """Orbits found so far, one row each, the lowest loss first, and how they were found."""

    points: Float[np.ndarray, "m D"]  # representatives, in `rank_bound` feature coordinates, raveled
    hits: Int[np.ndarray, " m"]
    copies: Int[np.ndarray, " m"]  # `copies_of`
    evidence: dict[str, np.ndarray]  # of each representative, in the problem asked about, and measures
    num_starts: int = 0
    num_failed: int = 0  # searches that met no critical point
    last_new: int = 0  # starts done when the last new orbit was found

    @property
    def settled(self) -> bool:
        """True when as many starts again as were needed have brought nothing new."""
        return self.num_starts >= max(LEAST, 2 * self.last_new)


class OrbitRow(NamedTuple):
    """One row of orbits.csv; index and nullity are those of f in the d asked about."""

    loss: float
    rank: int
    index: int | None  # type: ignore[assignment]  # None: not counted
    nullity: int | None
    orbit_dim: int
    copies: int  # orbits under rotations that permutations of classes make of it; 0: a continuum of orbits
    verdict: str
    hits: int
    name: str = ""  # `names`
    stabiliser: int | None = None  # number of permutations of alike classes that leave it; None: a continuum


def begin(prob: Problem) -> Census:
    """Return a census that has found nothing yet."""
    num_variables = reduced(prob).num_variables
    empty = {name: np.zeros(0) for name in EVIDENCE}
    none = np.zeros(0, np.int64)
    return Census(np.zeros((0, num_variables)), none, none, empty)


def check_size(prob: Problem, starts: int | None = None) -> None:
    """Refuse a census that would not end within `LONGEST` seconds, by a rough estimate from K ≤ 8 on 2 cores.

    Raises:
        ValueError: naming the counts, with the estimate.
    """
    check_single(prob)
    small = reduced(prob)
    labelled = math.factorial(prob.num_classes) // group_order(prob.kinds)
    orbits = 4.0 * 2.6 ** max(small.dim - 2, 0) * labelled
    needed = 300.0 * orbits if starts is None else float(starts)
    seconds = needed * (2e-4 + 2.5e-9 * small.num_variables**3)
    if seconds > LONGEST:
        raise ValueError(
            f"counts: a census of K = {prob.num_classes} in d = {prob.dim} would make about {needed:.1g} "
            f"starts (some {orbits:.1g} orbits) and take about {seconds / 3600:.1g} hours;"
            f" {'bound' if starts is None else 'lower'} its starts (--starts), or insist by force (--force)"
        )


def rounds(
    prob: Problem, state: Census, *, seed: int, starts: int | None = None, target: Target = "critical"
) -> Iterator[Census]:
    """Go on from `state`, yielding it after every round, until `starts` starts are done.

    By default until it has settled and no completeness test is violated, or after `PATIENCE` times the starts
    that would settle it. A round's starts depend on `seed` and its number alone, so a census may be cut
    anywhere and go on. `target` "minima" descends from Gaussian starts instead and lists minima alone, which
    no completeness test can judge.

    Raises:
        ValueError: if 64-bit floating point is off, or the loss is not convex (`check_class_means`).
    """
    require_x64()
    check_class_means(prob)
    small = reduced(prob)
    shapes = [shape_of(small, x) for x in state.points]
    unfinished = _unfinished if target == "critical" else lambda _, state: not state.settled
    while unfinished(prob, state) if starts is None else state.num_starts < starts:
        number, first = divmod(state.num_starts, ROUND)
        last = ROUND if starts is None else min(ROUND, first + starts - state.num_starts)
        ends, status = jax.device_get(_search(prob, small, seed, number, target))
        converged = first + np.flatnonzero(status[first:last] == Status.CONVERGED)
        state = _sorted_in(prob, small, state, shapes, ends[converged], last - first)
        yield state


def find_orbits(
    prob: Problem, *, seed: int = 0, starts: int | None = None, target: Target = "critical"
) -> Census:
    """Take a census to its end (`rounds`); its table is `rows`, its tests are `completeness`.

    Raises:
        ValueError: if 64-bit floating point is off; naming the counts if it would take hours; naming `seed`,
            `starts` or `target`, if it is none, or a decay that is not a single number.
    """
    if starts is not None:
        check_count(starts=starts)
    check_count(0, seed=seed)
    if target not in get_args(Target):
        raise ValueError(f"target: need one of {get_args(Target)}, got {target!r}")
    check_size(prob, starts)
    return functools.reduce(
        lambda _, later: later, rounds(prob, begin(prob), seed=seed, starts=starts, target=target)
    )


def _unfinished(prob: Problem, state: Census) -> bool:
    if not state.settled:
        return True
    if state.num_starts >= PATIENCE * max(LEAST, 2 * state.last_new):
        return False
    return any(test.passed is False for test in completeness(prob, state))


def rows(prob: Problem, state: Census) -> list[OrbitRow]:
    """Return the orbits found, in their order."""
    e = state.evidence
    return [
        OrbitRow(
            loss=float(e["loss"][i]),
            rank=int(e["rank"][i]),
            index=_counted(e["index"][i]),
            nullity=_counted(e["nullity"][i]),
            orbit_dim=int(orbit_dimension(prob, int(e["rank"][i]))),
            copies=int(state.copies[i]),
            verdict=Verdict(int(e["verdict"][i])).name,
            hits=int(state.hits[i]),
            name=name_of(prob, shape_of(reduced(prob), state.points[i])),
            stabiliser=group_order(prob.kinds) // int(state.copies[i]) if state.copies[i] else None,
        )
        for i in range(len(state.hits))
    ]


def _counted(number: Any) -> int | None:
    return None if number == NOT_COUNTED else int(number)


def copies_of(
    prob: Problem, points: Float[np.ndarray, "m D"], evidence: dict[str, np.ndarray]
) -> Int[np.ndarray, " m"]:
    """Count the orbits under rotations that permutations of classes make of each: |group|/|stabiliser|.

    0 for a degenerate point, which stands for a continuum of orbits.
    """
    small, whole = reduced(prob), group_order(prob.kinds)
    family = _degenerate(prob, evidence)
    orders = [
        1 if skip else stabiliser_order(shape_of(small, x)) for x, skip in zip(points, family, strict=True)
    ]
    return np.where(family, 0, whole // np.array(orders, int))


def completeness(prob: Problem, state: Census) -> list[MorseBott]:
    """Test the list at every d from 1 to the one asked about: each has those of its orbits of rank ≤ d.

    Beyond d = 2K no orbit is new and indices grow evenly: the tests end there, at no cost in d.
    """
    small = reduced(prob)
    counted = []
    for row, x in zip(rows(prob, state), state.points, strict=True):
        G = logit_gradient(small, unravel(small, jnp.asarray(x)))
        singular = np.linalg.svd(G, compute_uv=False)
        growth = int(np.sum(singular > float(prob.strength) * (1 + 1e-6)))
        unclear = row.index is None or row.nullity != row.orbit_dim
        counted.append(Counted(row.rank, row.copies, row.index or 0, growth, unclear))
    tested = range(1, min(prob.dim, 2 * prob.num_classes) + 1)
    return [morse_bott(counted, prob.dim, d) for d in tested]


def representative(prob: Problem, x: Float[np.ndarray, " D"] | Float[Array, " D"]) -> Params:
    """Return a point of a census in the collapsed problem of `prob`'s d."""
    return lift(collapse(prob), unravel(reduced(prob), jnp.asarray(x)))


def _sorted_in(
    prob: Problem, small: Problem, state: Census, shapes: list[Shape], found: np.ndarray, size: int
) -> Census:
    """Add the critical points of one round; `shapes` grows with the orbits."""
    hits, new = list(state.hits), []
    prints = np.array([fingerprint(s) for s in shapes])
    for x in found:
        shape = shape_of(small, x)
        own = fingerprint(shape)
        near = np.flatnonzero(np.abs(prints.reshape(-1, own.size) - own).max(axis=1) <= shape.tolerance)
        known = next((i for i in near if matching(shapes[i], shape) is not None), None)
        if known is None:
            shapes.append(shape)
            prints = np.append(prints.reshape(-1, own.size), own[None], axis=0)
            hits.append(1)
            new.append(x)
        else:
            hits[known] += 1
    num_starts = state.num_starts + size
    evidence = _extended(prob, state.evidence, new)
    kept, totals = _one_of_each_family(prob, evidence, np.array(hits, np.int64))
    points = np.concatenate([state.points, np.array(new).reshape(len(new), state.points.shape[1])])[kept]
    evidence = {name: values[kept] for name, values in evidence.items()}
    old = len(state.hits)  # all of them kept
    fresh = copies_of(prob, points[old:], {name: values[old:] for name, values in evidence.items()})
    order = np.argsort(evidence["loss"], kind="stable")
    shapes[:] = [shapes[kept[i]] for i in order]
    return Census(
        points=points[order],
        hits=totals[kept][order],
        copies=np.concatenate([state.copies, fresh])[order],
        evidence={name: values[order] for name, values in evidence.items()},
        num_starts=num_starts,
        num_failed=state.num_failed + size - len(found),
        last_new=num_starts if len(kept) > old else state.last_new,
    )


def _degenerate(prob: Problem, evidence: dict[str, np.ndarray]) -> np.ndarray:
    """True for points whose nullity is above their orbit's dimension."""
    orbit_dims = [int(orbit_dimension(prob, int(rank))) for rank in evidence["rank"]]
    return np.array(evidence["nullity"] > np.array(orbit_dims, int), bool)


def _one_of_each_family(
    prob: Problem, evidence: dict[str, np.ndarray], hits: Int[np.ndarray, " m"]
) -> tuple[list[int], Int[np.ndarray, " m"]]:
    """Return which points to keep, and hits with those of the others added to their family's first.

    Degenerate points lie on continua of orbits, of which no list can hold each: one stands for all that share
    loss, rank, index and nullity.
    """
    degenerate, hits = _degenerate(prob, evidence), hits.copy()
    kept: list[int] = []
    names = ("rank", "index", "nullity")
    for i in range(len(hits)):
        family = (
            j
            for j in kept
            if degenerate[i]
            and degenerate[j]
            and abs(evidence["loss"][i] - evidence["loss"][j]) <= FAMILY_LOSS_TOL
            and all(evidence[name][i] == evidence[name][j] for name in names)
        )
        first = next(family, None)
        if first is None:
            kept.append(i)
        else:
            hits[first] += hits[i]
    return kept, hits


def _extended(prob: Problem, evidence: dict[str, np.ndarray], new: list[np.ndarray]) -> dict[str, np.ndarray]:
    if not new:
        return evidence
    measured = in_batches(functools.partial(_examine, prob), EVIDENCE_BATCH, np.array(new)).columns()
    return {name: np.concatenate([evidence[name], measured[name]]) for name in evidence}


def _search(
    prob: Problem, small: Problem, seed: int, number: int, target: Target
) -> tuple[Float[Array, "B D"], Int[Array, " B"]]:
    """Make one round's searches; return where they ended and how."""
    if target == "minima":
        return _descend(small, jax.random.split(jax.random.fold_in(jax.random.key(seed), number), ROUND))
    rng = np.random.default_rng([seed, number])
    begun = [np.concatenate([a.ravel() for a in symmetric.draw(prob, rng)]) for _ in range(ROUND)]
    return _solve(small, jnp.asarray(np.stack(begun)))


@jax.jit
def _solve(small: Problem, begun: Float[Array, "B D"]) -> tuple[Float[Array, "B D"], Int[Array, " B"]]:
    found = each_lane(lambda x: levenberg_marquardt(oracle(small), x, gtol=GTOL))(begun)
    return found.x, found.status


@jax.jit
def _descend(small: Problem, keys: Keys) -> tuple[Float[Array, "B D"], Int[Array, " B"]]:
    found = each_lane(lambda key: search_start(small, key))(keys)
    return jax.vmap(ravel)(found.x), found.status


@jax.jit
def _examine(prob: Problem, points: Float[Array, "B D"]) -> Evidence:
    trim = trimmed(prob)
    return each_lane(lambda x: examine(trim, representative(trim, x)).evidence)(points)


def shape_of(small: Problem, x: Float[np.ndarray, " D"]) -> Shape:
    """Return a point of the reduced problem modulo rotations; in NumPy, since every start asks for it."""
    K, r = small.num_classes, small.dim
    W, H = x[: K * r].reshape(K, r), x[K * r : 2 * K * r].reshape(r, K)
    b = x[2 * K * r :] if small.bias else np.zeros(K)
    return Shape(W @ H, b - b.mean() if int(shift_dimension(small)) else b, small.kinds)
