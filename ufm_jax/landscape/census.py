"""A census: all critical orbits of a landscape, by rounds of searches until they bring nothing new.

Half of a round's searches descend, half go to a critical point of any index near by, from the landscape's own
starts; a landscape that knows better starts gives those (`Landscape.census_starts`). Ends are sorted into
orbits by their invariants, never by their value alone. It goes on until twice as many starts again as were
needed so far bring nothing new and the list violates no test that the landscape knows
(`Landscape.completeness`).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.orbits import (
    LEAST,
    MATCH_TOL,
    Census,
    degenerate,
    near,
    one_of_each_family,
    rows,
    with_value,
)
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import (
    CriticalPoint,
    LevenbergMarquardt,
    search_from,
    search_start,
)
from ufm_jax.landscape.sound import check_landscape
from ufm_jax.landscape.spectrum import DENSE_LIMIT, NOT_COUNTED
from ufm_jax.landscape.together import critical_points
from ufm_jax.numerics.checks import check_count
from ufm_jax.numerics.lanes import QUICK, each_lane, in_batches, jit_small
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

Target = Literal["critical", "minima"]

ROUND = 1000  # starts between reports
PATIENCE = 10  # how much longer to look for an orbit that a violated test shows to be missing
EVIDENCE_BATCH = 32
LONGEST = 3600.0  # seconds a census may be expected to take


def begin(landscape: Landscape) -> Census:
    """Return a census that has found nothing yet."""
    none = np.zeros(0, np.int64)
    return Census(np.zeros((0, space_of(landscape).num_variables)), none, none, {})


def space_of(landscape: Landscape) -> Landscape:
    """Return the landscape in which the searches of a census are made and points compared."""
    return landscape.space("saddles")


def check(landscape: Landscape, starts: int | None = None, *, seed: int = 0, force: bool = False) -> None:
    """Check what a census is to be of, before anything is computed; `force` allows one that takes hours.

    Raises:
        ValueError: naming `starts` or `seed`, if it is none; naming what is wrong with the landscape
            (`check_landscape`, `Landscape.check_census`); if 64-bit floating point is off.
    """
    if starts is not None:
        check_count(starts=starts)
    check_count(0, seed=seed)
    require_x64()
    landscape.check_census(None if force else (starts or 0))
    require_x64(landscape)
    check_landscape(landscape)
    D = space_of(landscape).num_variables
    if D > DENSE_LIMIT:
        raise ValueError(
            f"landscape: a census is of at most {DENSE_LIMIT} variables, {landscape.name} has {D}; "
            "ufm.sweep(landscape).orbits lists what descents find"
        )
    hours = seconds_of(starts or LEAST, D) / 3600
    if hours > LONGEST / 3600 and not force:
        raise ValueError(
            f"landscape: a census of {landscape.name}, which has {D} variables, would take about "
            f"{hours:.1g} hours; lower its starts (--starts), or insist by force (--force)"
        )


def seconds_of(num_starts: int | float, num_variables: int) -> float:
    """Return about how long searches take one by one, by K ≤ 8 classes on 2 cores; together, half as long."""
    return num_starts * (2e-4 + 2.5e-9 * num_variables**3)


def rounds(
    landscape: Landscape,
    state: Census,
    *,
    seed: int,
    starts: int | None = None,
    target: Target = "critical",
) -> Iterator[Census]:
    """Go on from `state`, yielding it after every round, until `starts` starts are done.

    By default until it has settled and no test is violated, or after `PATIENCE` times the starts that would
    settle it. A round's starts depend on `seed` and its number alone, so a census may be cut anywhere and go
    on. `target` "minima" descends from all starts and lists minima alone, which no test can judge.

    Raises:
        ValueError: if 64-bit floating point is off, or as `Landscape.space` for saddles.
    """
    require_x64()
    space = space_of(landscape)
    prints = _invariants_of(space, state.points)
    unfinished = _unfinished if target == "critical" else lambda _, state: not state.settled
    while unfinished(landscape, state) if starts is None else state.num_starts < starts:
        number, first = divmod(state.num_starts, ROUND)
        last = ROUND if starts is None else min(ROUND, first + starts - state.num_starts)
        ends, status = _round(space, landscape, seed, number, target)
        converged = first + np.flatnonzero(status[first:last] == Status.CONVERGED)
        state, prints = _sorted_in(landscape, state, prints, ends[converged], last - first)
        yield state


def find_orbits(
    landscape: Landscape, *, seed: int = 0, starts: int | None = None, target: Target = "critical"
) -> Census:
    """Take a census to its end (`rounds`); its table is `rows`.

    Raises:
        ValueError: as `check`; naming `target`, if it is none.
    """
    if target not in get_args(Target):
        raise ValueError(f"target: need one of {get_args(Target)}, got {target!r}")
    check(landscape, starts, seed=seed)
    later = rounds(landscape, begin(landscape), seed=seed, starts=starts, target=target)
    return functools.reduce(lambda _, state: state, later)


def _unfinished(landscape: Landscape, state: Census) -> bool:
    if not state.settled:
        return True
    if state.num_starts >= PATIENCE * state.enough:
        return False
    return any(test.passed is False for test in completeness(landscape, state))


def completeness(landscape: Landscape, state: Census) -> list[Any]:
    """Return what the landscape's tests say of the list: [] where it knows none."""
    return landscape.completeness(rows(landscape, state), state.points)


def point_of(landscape: Landscape, state: Census, line: int) -> Any:
    """Return the representative of an orbit, in the landscape."""
    return landscape.lift(unravel(space_of(landscape), jnp.asarray(state.points[line])))


def locate(landscape: Landscape, state: Census, x: Any) -> int | None:
    """Return the line of the orbit that x is on, or None.

    On it is what is within `MATCH_TOL`, relative, of a critical point there. Of a continuum of degenerate
    orbits only the one that the census keeps is known.
    """
    space, start, back = landscape.space_at(x)
    found = _solved(space, start)
    moved = np.asarray(ravel(back(found.x)) - ravel(x))
    if found.status != Status.CONVERGED or not len(state.hits):
        return None
    if np.linalg.norm(moved) > MATCH_TOL * (1.0 + float(jnp.linalg.norm(ravel(x)))):
        return None
    end = np.asarray(ravel(found.x))
    own = _invariants_of(space, end[None])[0]
    return _known(space, list(state.points), _invariants_of(space, state.points), end, own)


def nearest(landscape: Landscape, state: Census, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the line of the orbit nearest to each of some points, a leading axis on each leaf, and how far.

    By the landscape's invariants: the largest difference, relative to 1 + the orbit's largest, as `near`.
    """
    held = [ravel(point_of(landscape, state, line)) for line in range(len(state.hits))]
    orbits, own = (_invariants(landscape, flat) for flat in (jnp.stack(held), jax.vmap(ravel)(points)))
    apart = jnp.max(jnp.abs(own[:, None] - orbits), axis=2) / (1.0 + jnp.max(jnp.abs(orbits), axis=1))
    return np.asarray(jnp.argmin(apart, axis=1)), np.asarray(jnp.min(apart, axis=1))


def _known(
    space: Landscape,
    points: Sequence[Float[np.ndarray, " D"]],
    prints: Float[np.ndarray, "m F"],
    x: Float[np.ndarray, " D"],
    own: Float[np.ndarray, " F"],
) -> int | None:
    """Return which of some points x is on one orbit with, by their invariants and then by the landscape."""
    candidates = np.flatnonzero(near(prints, own)).tolist()
    return next((i for i in candidates if space.same_orbit(points[i], x)), None)


def _sorted_in(
    landscape: Landscape,
    state: Census,
    prints: Float[np.ndarray, "m F"],
    found: Float[np.ndarray, "n D"],
    size: int,
) -> tuple[Census, Float[np.ndarray, "k F"]]:
    """Add the critical points of one round of `size` starts; `prints` are the orbits' invariants."""
    space, points, hits = space_of(landscape), list(state.points), list(state.hits)
    old = len(state.hits)
    for x, own in zip(found, _invariants_of(space, found), strict=True):
        line = _known(space, points, prints, x, own)
        if line is None:
            points.append(x)
            prints = np.append(prints, own[None], axis=0)
            hits.append(1)
        else:
            hits[line] += 1
    num_starts = state.num_starts + size
    evidence = _extended(landscape, state.evidence, points[old:])
    kept, totals = one_of_each_family(landscape, evidence, np.array(hits, np.int64))
    evidence = {name: values[kept] for name, values in evidence.items()}
    chosen = np.array(points).reshape(len(points), state.points.shape[1])[kept]
    fresh = {name: values[old:] for name, values in evidence.items()}  # all of the old ones are kept
    copies = np.concatenate([state.copies, copies_of(landscape, chosen[old:], fresh)])
    order = np.argsort(evidence["loss"], kind="stable") if evidence else np.zeros(0, int)
    ordered = Census(
        points=chosen[order],
        hits=totals[kept][order],
        copies=copies[order],
        evidence={name: values[order] for name, values in evidence.items()},
        num_starts=num_starts,
        num_failed=state.num_failed + size - len(found),
        last_new=num_starts if len(kept) > old else state.last_new,
    )
    return ordered, prints[kept][order]


def copies_of(
    landscape: Landscape, points: Float[np.ndarray, "m D"], evidence: dict[str, np.ndarray]
) -> Int[np.ndarray, " m"]:
    """Return `OrbitRow.copies` of points: NOT_COUNTED where the landscape does not say."""
    if not len(points):
        return np.zeros(0, np.int64)
    space, family = space_of(landscape), degenerate(evidence)
    said = [space.copies_of(x) for x in points]
    each = [NOT_COUNTED if n is None else 0 if f else n for n, f in zip(said, family, strict=True)]
    return np.array(each, np.int64)


def measured(landscape: Landscape, points: Float[np.ndarray, "m D"]) -> dict[str, np.ndarray]:
    """Judge representatives: everything in their rows of evidence, and `orbit_dim`."""
    seen: dict[str, np.ndarray] = in_batches(
        functools.partial(_examine, landscape), EVIDENCE_BATCH, np.asarray(points)
    )
    return seen


def _extended(
    landscape: Landscape, evidence: dict[str, np.ndarray], new: list[np.ndarray]
) -> dict[str, np.ndarray]:
    if not new:
        return evidence
    more = measured(landscape, np.array(new))
    return {name: np.concatenate([evidence[name], v]) if evidence else v for name, v in more.items()}


def _invariants_of(space: Landscape, points: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "m F"]:
    """Return the invariants of points of the space, which are compiled for a round of them."""
    if not len(points):
        return np.zeros((0, jax.eval_shape(functools.partial(_print, space), space.zeros()).size))
    size = ROUND if len(points) > EVIDENCE_BATCH else EVIDENCE_BATCH
    return np.asarray(in_batches(functools.partial(_invariants, space), size, np.asarray(points)))


def _print(space: Landscape, x: Any) -> Float[Array, " F"]:
    return with_value(space, x, space.invariants(x))


def _round(
    space: Landscape, landscape: Landscape, seed: int, number: int, target: Target
) -> tuple[Float[np.ndarray, "B D"], Int[np.ndarray, " B"]]:
    """Make one round's searches; return where they ended and how."""
    own = landscape.census_starts(seed, number, ROUND) if target == "critical" else None
    if own is not None:
        found = critical_points(space, {}, *own)
        return jax.device_get((jax.vmap(ravel)(found.x), found.status))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), ROUND)
    numbers = number * ROUND + np.arange(ROUND)
    if target == "minima":
        return jax.device_get(_drawn(space, keys, numbers, "minima"))
    # In turns, so that a census of a few starts has both.
    halves = [_drawn(space, keys[i::2], numbers[i::2], kind) for i, kind in enumerate(("minima", "saddles"))]
    ends, status = (jnp.stack(part, axis=1) for part in zip(*halves, strict=True))
    return jax.device_get((ends.reshape(ROUND, -1), status.reshape(ROUND)))


@functools.partial(jit_small, static_argnames=("target",), options=QUICK)
def _drawn(
    space: Landscape, keys: Shaped[Array, "B *key"], numbers: Int[Array, " B"], target: str
) -> tuple[Array, Array]:
    found = each_lane(lambda key, number: search_start(space, key, number, target))(keys, numbers)
    return jax.vmap(ravel)(found.x), found.status


@functools.partial(jit_small, options=QUICK)
def _invariants(space: Landscape, points: Float[Array, "B D"]) -> Float[Array, "B F"]:
    return each_lane(lambda x: _print(space, unravel(space, x)))(points)


@functools.partial(jit_small, options=QUICK)
def _examine(landscape: Landscape, points: Float[Array, "B D"]) -> dict[str, Array]:
    space, wide = space_of(landscape), landscape.space("rows")

    def one(x: Float[Array, " D"]) -> dict[str, Array]:
        y = wide.lift(unravel(space, x))
        evidence = examine(wide, y).evidence.columns()
        return evidence | {"orbit_dim": wide.orbit(wide.evaluate(y)).dim}

    return each_lane(one)(points)


@functools.partial(jit_small, options=QUICK)
def _solved(space: Landscape, x: Any) -> CriticalPoint:
    return search_from(space, space, x, LevenbergMarquardt())
