"""A spectrum once an orbit: the rows of a shard that end at one orbit take it from the best solved of them.

Only where nothing else can be true (`landscape.evidence.alike`): any other row's spectrum is its own, and all
are where a landscape does not tell orbits apart without it (`Landscape.tells_orbits`). All of it is a
function of the shard's rows: no bit depends on other shards.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax import devices
from ufm_jax.landscape.evidence import (
    Evidence,
    Representative,
    alike,
    examine,
    examine_off_critical,
    representative,
)
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Effort, Landscape, Target, sizes_of
from ufm_jax.landscape.orbits import grouped, with_value
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.polish import polished
from ufm_jax.landscape.sound import of_package
from ufm_jax.landscape.spectrum import DENSE_LIMIT, NOT_COUNTED
from ufm_jax.landscape.together import Fields, dense_share
from ufm_jax.landscape.units import FLAT, PER_GRAD, ZERO_RTOL
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.lanes import QUICK, each_lane, in_shares, jit_small, over_devices, put, take
from ufm_jax.runs.pipeline import JUDGED, lanes_of_call

ROWS = 4096  # of which numbers alone are compared in one call


class Seen(NamedTuple):
    """What is known of ends of searches before they are compared."""

    evidence: Evidence
    shape: Float[np.ndarray, "B m"]  # `Landscape.shape`


class Sorted(NamedTuple):
    """A shard's rows, judged, and its orbits."""

    evidence: Evidence
    orbit: Int[np.ndarray, " B"]  # numbered as they first appear; -1: no critical point
    best: Int[np.ndarray, " orbits"]  # the row of each that is solved best
    invariants: Float[np.ndarray, "orbits F"]


def look(landscape: Landscape, fields: Fields, x: Any, target: Target) -> Seen:
    """Examine ends of searches by certificates, or by spectra where orbits cannot be told apart without."""
    effort: Effort | None = "spectrum"
    if landscape.tells_orbits:
        effort = next(iter(landscape.efforts(target)), None)
    certified = effort in ("certificate", "escape")
    share = min(_share(landscape, target), JUDGED) if certified else dense_share(landscape)
    seen: Seen = in_shares(partial(_seen, landscape, effort=effort), share, fields, x)
    return seen


def sort(landscape: Landscape, fields: Fields, x: Any, seen: Seen, setting: Int[np.ndarray, " B"]) -> Sorted:
    """Sort the rows of a shard into orbits, and give each row its orbit's eigenvalues, or its own."""
    evidence = seen.evidence
    critical = np.flatnonzero(evidence.verdict != Verdict.NOT_CRITICAL)
    best_first = critical[np.argsort(evidence.rel_grad_norm[critical], kind="stable")]
    place = _places(landscape, fields, x, seen.shape, setting, best_first)
    if landscape.tells_orbits:
        evidence = _with_spectra(landscape, fields, x, evidence, place)
    orbit, best = _numbered(evidence, place.orbit, best_first)
    return Sorted(evidence, orbit, best, place.invariants[place.line[best]])


def rehearse(landscape: Landscape, fields: Fields, x: Any, seen: Seen) -> None:
    """Compile what `sort` is about to use, of one point: it does what `sort` does of rows on one orbit."""
    in_shares(partial(_invariants, landscape), dense_share(landscape), fields, x)
    if landscape.tells_orbits:
        found = _spectra(landscape, fields, x, np.zeros(1, int), polish=True)
        in_shares(partial(_alike, landscape), ROWS, fields, seen.evidence, np.zeros(1), found)


def unsorted(seen: Seen) -> Sorted:
    """Return judged rows that nobody compared."""
    none = np.zeros(0, int)
    return Sorted(seen.evidence, np.full(len(seen.evidence.loss), -1), none, np.zeros((0, 0)))


class _Places(NamedTuple):
    """Where the critical rows of a shard are, by what symmetry leaves alone."""

    orbit: Int[np.ndarray, " B"]  # the first row, the best solved, at this place; -1: no critical point
    apart: Float[np.ndarray, " B"]  # how far its invariants are
    line: Int[np.ndarray, " B"]  # of `invariants`
    invariants: Float[np.ndarray, "places F"]


def _places(
    landscape: Landscape,
    fields: Fields,
    x: Any,
    shape: Float[np.ndarray, "B m"],
    setting: Int[np.ndarray, " B"],
    best_first: Int[np.ndarray, " k"],
) -> _Places:
    """Compare rows by their shapes, and the first of each shape by their invariants and `same_orbit`."""
    kind = type(landscape)
    known = landscape.tells_orbits and kind.same_orbit is not Landscape.same_orbit
    shaped = kind.shape is not Landscape.shape
    pattern = np.full(len(setting), -1)
    pattern[best_first] = best_first
    if shaped or not known:
        pattern = grouped(shape, best_first, setting)
    firsts = best_first[pattern[best_first] == best_first]
    line = np.full(len(setting), -1)
    line[firsts] = np.arange(len(firsts))
    invariants, points = shape[firsts], None
    if len(firsts) and (shaped or known):
        run = partial(_invariants, landscape)
        invariants, points = in_shares(run, dense_share(landscape), *take(firsts, fields, x))
    same = _same_orbit(landscape, fields, firsts, points) if known and points is not None else None
    joined = grouped(invariants, np.arange(len(firsts)), setting[firsts], same)
    orbit, apart = np.full(len(setting), -1), np.zeros(len(setting))
    line[best_first] = line[pattern[best_first]]
    orbit[best_first] = firsts[joined[line[best_first]]]
    between = np.abs(invariants - invariants[joined]).max(axis=1, initial=0.0)
    moved = np.abs(shape[best_first] - shape[pattern[best_first]]).max(axis=1, initial=0.0)
    apart[best_first] = moved + between[line[best_first]]
    return _Places(orbit, apart, line, invariants)


def _same_orbit(
    landscape: Landscape, fields: Fields, rows: Int[np.ndarray, " m"], points: Float[np.ndarray, "m D"]
) -> Callable[[int, int], bool]:
    """Return `Landscape.same_orbit` of two lines of `points`, which are `rows` of one setting."""

    def same(i: int, j: int) -> bool:
        here = at_lane(landscape, {name: values[rows[i]] for name, values in fields.items()})
        return here.space("saddles").same_orbit(points[i], points[j])

    return same


def _with_spectra(
    landscape: Landscape, fields: Fields, x: Any, evidence: Evidence, place: _Places
) -> Evidence:
    """Fill in eigenvalues: of the orbit's representative where that is allowed, else the row's own."""
    rows = np.arange(len(place.orbit))
    firsts, hits = np.unique(place.orbit[place.orbit >= 0], return_counts=True)
    firsts = firsts[hits > 1]
    shared = rows[np.isin(place.orbit, firsts)]
    done = np.zeros(len(rows), bool)
    if len(firsts):
        found = _spectra(landscape, fields, x, firsts, polish=True)
        (theirs,) = take(np.searchsorted(firsts, place.orbit[shared]), found)
        filled, allowed = in_shares(
            partial(_alike, landscape), ROWS, *take(shared, fields, evidence, place.apart), theirs
        )
        if not of_package(landscape):
            first = np.searchsorted(shared, place.orbit[shared])
            allowed &= _as_curved(landscape, fields, x, shared, first, evidence, theirs)
        done[shared] = allowed
        evidence = jax.tree.map(
            partial(put, shared[allowed]), evidence, *take(np.flatnonzero(allowed), filled)
        )
    alone = rows[~done]
    if len(alone):
        evidence = jax.tree.map(
            partial(put, alone), evidence, _spectra(landscape, fields, x, alone, polish=False).evidence
        )
    return evidence


def _as_curved(
    landscape: Landscape,
    fields: Fields,
    x: Any,
    rows: Int[np.ndarray, " m"],
    first: Int[np.ndarray, " m"],
    evidence: Evidence,
    theirs: Representative,
) -> Bool[np.ndarray, " m"]:
    """Say of rows of a user's landscape whether tr H and ‖H‖_F are those of their orbit's first row.

    What its invariants leave out shows there, and a symmetry that stretches: eigenvalues change along its
    orbits. Off its critical point, by ‖∇f‖/|λ| at most, a row's H is others' by that times third derivatives.
    """
    if landscape.num_variables > DENSE_LIMIT:  # no index is counted there, and nothing shared
        return np.zeros(len(rows), bool)
    share = dense_share(landscape)
    traces = in_shares(partial(_traces, landscape), share, *take(rows, fields, x))
    slope = evidence.grad_norm[rows] + evidence.grad_norm[rows[first]]
    apart = np.abs(traces[:, :2] - traces[first, :2]).max(axis=1, initial=0.0) / landscape.num_variables
    over = apart - ZERO_RTOL * traces[:, 1] - PER_GRAD * slope
    agree: Bool[np.ndarray, " m"] = over * theirs.spectrum.least <= FLAT * traces[:, 2] * slope
    return agree


def _spectra(
    landscape: Landscape, fields: Fields, x: Any, rows: Int[np.ndarray, " m"], *, polish: bool
) -> Representative:
    run, share = partial(_judged, landscape), dense_share(landscape)
    found: Representative = in_shares(run, share, *take(rows, fields, x), np.full(len(rows), polish))
    return found


def _numbered(
    evidence: Evidence, place: Int[np.ndarray, " B"], best_first: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " orbits"]]:
    """Number the orbits: places, told apart by what was counted there; and the best row of each.

    A row of which nothing was counted is on the orbit of the best solved row at its place of which it was.
    """
    counts = np.stack([place, evidence.index, evidence.nullity], axis=1)[best_first]
    counted = (counts[:, 1] != NOT_COUNTED) & (counts[:, 2] != NOT_COUNTED)
    counts[~counted, 1:] = NOT_COUNTED
    known, at = np.unique(counts[counted, 0], return_index=True)
    for line in np.flatnonzero(~counted & np.isin(counts[:, 0], known)):
        counts[line] = counts[counted][at[np.searchsorted(known, counts[line, 0])]]
    number = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    orbits = number.max(initial=-1) + 1
    lowest = np.full(orbits, len(place))
    np.minimum.at(lowest, number, best_first)  # where each first appears
    best = np.full(orbits, -1)
    best[number[::-1]] = best_first[::-1]
    order = np.argsort(lowest)
    orbit = np.full(len(place), -1)
    orbit[best_first] = np.argsort(order)[number]
    return orbit, best[order]


def _share(landscape: Landscape, target: Target) -> int:
    return lanes_of_call(landscape, target) // len(devices.local())


@partial(jit_small, static_argnames=("effort",), options=QUICK)
def _seen(
    landscape: Landscape, fields: Fields, x: Any, counts: Int[Array, " devices"], *, effort: Effort | None
) -> Seen:
    def share(landscape: Landscape, fields: Fields, x: Any, count: Any) -> Seen:
        def one(fields: Fields, x: Any) -> Seen:
            here = at_lane(landscape, fields)
            space = here.space(effort or "spectrum")
            start = space.restrict(x)
            seen = examine_off_critical(space, start) if effort is None else examine(space, start, effort)
            return Seen(seen.evidence, with_value(here, x, here.shape(x)))  # type: ignore[arg-type]

        by_certificate = effort in ("certificate", "escape")
        return (jax.vmap(one) if by_certificate else each_lane(one, count[0]))(fields, x)

    return over_devices(share)(landscape, fields, x, counts)


@partial(jit_small, options=QUICK)
def _invariants(
    landscape: Landscape, fields: Fields, x: Any, counts: Int[Array, " devices"]
) -> tuple[Float[Array, "B F"], Float[Array, "B D"]]:
    def share(landscape: Landscape, fields: Fields, x: Any, count: Any) -> tuple[Array, Array]:
        def one(fields: Fields, x: Any) -> tuple[Array, Array]:
            here = at_lane(landscape, fields)
            return with_value(here, x, here.invariants(x)), ravel(here.space_at(x)[1])

        return each_lane(one, count[0])(fields, x)

    return over_devices(share)(landscape, fields, x, counts)


@partial(jit_small, options=QUICK)
def _traces(
    landscape: Landscape, fields: Fields, x: Any, counts: Int[Array, " devices"]
) -> Float[Array, "B 3"]:
    """Return tr H, ‖H‖_F and V (`Landscape.units`)."""

    def share(landscape: Landscape, fields: Fields, x: Any, count: Any) -> Array:
        def one(fields: Fields, x: Any) -> Array:
            here = at_lane(landscape, fields)
            H = dense_hessian(here.value)(x)
            return jnp.stack([jnp.trace(H), jnp.linalg.norm(H), sizes_of(here, here.value(x)).value])

        return each_lane(one, count[0])(fields, x)

    return over_devices(share)(landscape, fields, x, counts)


@partial(jit_small, options=QUICK)
def _judged(
    landscape: Landscape,
    fields: Fields,
    x: Any,
    polish: Bool[Array, " B"],
    counts: Int[Array, " devices"],
) -> Representative:
    def share(
        landscape: Landscape, fields: Fields, x: Any, polish: Bool[Array, " B"], count: Any
    ) -> Representative:
        def one(fields: Fields, x: Any, polish: Bool[Array, ""]) -> Representative:
            space = at_lane(landscape, fields).space("spectrum")
            y = space.restrict(x)
            y = jax.lax.cond(polish, partial(polished, space), lambda y: y, y)
            return representative(space, y)

        return each_lane(one, count[0])(fields, x, polish)

    return over_devices(share)(landscape, fields, x, polish, counts)


@partial(jit_small, options=QUICK)
def _alike(
    landscape: Landscape,
    fields: Fields,
    row: Evidence,
    apart: Float[Array, " B"],
    other: Representative,
    counts: Int[Array, " devices"],
) -> tuple[Evidence, Bool[Array, " B"]]:
    def share(landscape: Landscape, *lanes: Any) -> tuple[Evidence, Bool[Array, " B"]]:
        def one(fields: Fields, row: Evidence, apart: Array, other: Representative) -> tuple[Evidence, Array]:
            return alike(at_lane(landscape, fields), row, apart, other)

        return jax.vmap(one)(*lanes[:-1])

    return over_devices(share)(landscape, fields, row, apart, other, counts)
