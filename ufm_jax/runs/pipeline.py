"""The pipeline start -> search -> evidence -> verdict for any number of starts, on all local devices.

Of batches see `landscape.together`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ufm_jax import devices
from ufm_jax.landscape.evidence import Evidence, examine
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Effort, Key, Landscape, Target
from ufm_jax.landscape.search import (
    CriticalPoint,
    Newton,
    descend_together,
    method_of,
    search_from,
)
from ufm_jax.landscape.spectrum import BASIS_BYTES, DENSE_LIMIT
from ufm_jax.landscape.together import (
    BATCH,
    FILLINGS,
    NUMBERS,
    Fields,
    critical_points,
    dense_share,
    lanes_together,
)
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.numerics.lanes import (
    QUICK,
    QUICKEST,
    SHORT_SUMS,
    each_lane,
    in_shares,
    jit_small,
    over_devices,
    put,
    take,
)
from ufm_jax.numerics.status import Status
from ufm_jax.runs.plan import SearchDtype, Spectra
from ufm_jax.runs.rough import rough_ends

DRAWN = 2**13  # starts toward saddles drawn at once, and searched from in one call, at least
JUDGED = 2**16  # judged at once: eigen-solvers of accelerators take workspace a matrix, and count in 32 bits


def lanes_of_call(landscape: Landscape, target: Target) -> int:
    """Return how many searches fill one call on all local devices."""
    return _share(landscape, target) * len(devices.local())


def bytes_of_call(landscape: Landscape, target: Target) -> int:
    """Return about how much one device holds at once: the arrays of the lanes of a call, some ten of each."""
    variables = landscape.largest_block
    dense = target != "minima" or variables <= DENSE_LIMIT
    matrices = 8 * 6 * variables**2 if dense else 2 * BASIS_BYTES
    return 8 * 10 * _numbers(landscape, target) * _share(landscape, target) + matrices


def _numbers(landscape: Landscape, target: Target) -> int:
    """Return how many numbers a lane holds at least: a point, there or where it is searched."""
    return max(landscape.space(target).numbers_held, landscape.num_variables)


def search(
    landscape: Landscape,
    fields: Fields,
    key: Key,
    start: np.ndarray,
    target: Target,
    dtype: SearchDtype = "float64",
) -> CriticalPoint:
    """Search from each start number (int64). A start's key is folded from `key` and its number.

    As `searched`, where starts need not come to the host in between.
    """
    drawn = partial(_drawn, landscape, key=key, target=target)
    if target == "saddles" or dtype == "float32":
        begin = in_shares(drawn, _share(landscape, target), fields, start)
        return searched(landscape, fields, begin, target, dtype)

    def run(fields: Fields, start: Any, counts: Any) -> CriticalPoint:
        begin = drawn(fields, start, counts)
        found: CriticalPoint = _program(landscape, target)(fields, begin, counts)
        return found

    point = in_shares(run, _share(landscape, target), fields, start)
    return _finished(landscape, fields, point) if target == "minima" else point


def from_starts(
    landscape: Landscape, fields: Fields, begin: Any, target: Target, dtype: SearchDtype = "float64"
) -> CriticalPoint:
    """Search from starts of one's own: points of any larger space, along the first axis of every leaf."""
    return searched(landscape, fields, jax.vmap(landscape.space(target).restrict)(begin), target, dtype)


def searched(
    landscape: Landscape, fields: Fields, begin: Any, target: Target, dtype: SearchDtype
) -> CriticalPoint:
    """Search from points of `landscape.space(target)`; "float32" begins so, but not toward an index."""
    share, before = _share(landscape, target), np.zeros((), np.int32)
    if dtype == "float32" and not isinstance(target, int):
        begin, before = rough_ends(landscape, fields, begin, target, share)
    if target == "saddles":
        point = critical_points(landscape, fields, begin)
    else:
        point = in_shares(_program(landscape, target), share, fields, begin)
    if target == "minima":
        point = _finished(landscape, fields, point)
    return point._replace(num_steps=point.num_steps + before)


def judge(landscape: Landscape, fields: Fields, x: Any, target: Target, spectra: Spectra) -> Evidence:
    """Examine each point; with spectra "needed", only those that certificates do not decide."""
    few = dense_share(landscape)
    efforts = landscape.efforts(target) if spectra == "needed" else ()
    evidence: Evidence | None = None
    for effort in (*efforts, "spectrum"):
        run = partial(_evidence, landscape, effort=effort)
        if evidence is None:
            share = few if effort == "spectrum" else min(_share(landscape, target), JUDGED)
            evidence = in_shares(run, share, fields, x)
            continue
        left = np.flatnonzero(evidence.verdict == Verdict.UNDECIDED)
        if len(left):
            closer = in_shares(run, few, *take(left, fields, x))
            evidence = jax.tree.map(partial(put, left), evidence, closer)
    assert evidence is not None
    return evidence


def _together(landscape: Landscape, target: Target) -> bool:
    """True if searches toward the target advance together, though they are no descents."""
    return target == "saddles" and landscape.space(target).shift_size > 0


def _share(landscape: Landscape, target: Target) -> int:
    if _together(landscape, target):
        wanted = max(lanes_together(landscape.space(target)), DRAWN)
        return max(1, min(wanted, NUMBERS // _numbers(landscape, target)))
    if target != "minima":
        return dense_share(landscape)
    space = landscape.space("minima")
    return max(1, min(max(BATCH, FILLINGS * space.batch_size), NUMBERS // space.num_variables))


def _finished(landscape: Landscape, fields: Fields, point: CriticalPoint) -> CriticalPoint:
    """Go on by second order with the descents that did not come down."""
    more = np.flatnonzero(point.status != Status.CONVERGED)
    if not len(more):
        return point
    further = in_shares(partial(_further, landscape), dense_share(landscape), *take(more, fields, point))
    return jax.tree.map(partial(put, more), point, further)


@partial(jit_small, static_argnames=("target",), options=QUICKEST)
def _drawn(
    landscape: Landscape,
    fields: Fields,
    start: Int[Array, " B"],
    counts: Int[Array, " devices"],
    *,
    key: Key,
    target: Target,
) -> Any:
    def share(landscape: Landscape, fields: Fields, keys: Any, start: Any, count: Any) -> Any:
        return jax.vmap(partial(_start_of, landscape, target))(fields, keys, start)

    return over_devices(share)(landscape, fields, jax.vmap(partial(_key_of, key))(start), start, counts)


def _start_of(landscape: Landscape, target: Target, fields: Fields, key: Key, start: Int[Array, ""]) -> Any:
    here = at_lane(landscape, fields)
    return here.space(target).restrict(here.draw(key, start, target))


def _key_of(key: Key, start: Int[Array, ""]) -> Key:
    """Fold in a start's number, of which a key takes 32 bits at a time."""
    high = (start >> 32).astype(jnp.uint32)
    folded = jax.random.fold_in(key, (start & 0xFFFFFFFF).astype(jnp.uint32))
    return jnp.where(high > 0, jax.random.fold_in(folded, high), folded)


def _program(landscape: Landscape, target: Target) -> Callable[..., CriticalPoint]:
    """Return the compiled searches toward a target."""
    short = target == "minima" and landscape.space(target).short_sums
    return partial(_short_descents if short else _searches, landscape, target=target)


def _each_search(
    landscape: Landscape, fields: Fields, begin: Any, counts: Int[Array, " devices"], *, target: Target
) -> CriticalPoint:
    def share(landscape: Landscape, fields: Fields, begin: Any, count: Any) -> CriticalPoint:
        def one(fields: Fields, x: Any) -> CriticalPoint:
            here = at_lane(landscape, fields)
            return search_from(here, here.space(target), x, method_of(target))

        if target != "minima":
            return each_lane(one, count[0])(fields, begin)
        return descend_together(landscape, landscape.space(target), fields, begin, count[0])

    return over_devices(share)(landscape, fields, begin, counts)


_searches = jit_small(_each_search, ("target",))
_short_descents = jit_small(_each_search, ("target",), options=SHORT_SUMS)


@jit_small
def _further(
    landscape: Landscape, fields: Fields, point: CriticalPoint, counts: Int[Array, " devices"]
) -> CriticalPoint:
    def share(landscape: Landscape, fields: Fields, point: CriticalPoint, count: Any) -> CriticalPoint:
        def one(fields: Fields, point: CriticalPoint) -> CriticalPoint:
            here = at_lane(landscape, fields)
            space = here.space("minima")
            found = search_from(here, space, space.restrict(point.x), Newton())
            return found._replace(num_steps=point.num_steps + found.num_steps)

        return each_lane(one, count[0])(fields, point)

    return over_devices(share)(landscape, fields, point, counts)


@partial(jit_small, static_argnames=("effort",), options=QUICK)
def _evidence(
    landscape: Landscape, fields: Fields, x: Any, counts: Int[Array, " devices"], *, effort: Effort
) -> Evidence:
    def share(landscape: Landscape, fields: Fields, x: Any, count: Any) -> Evidence:
        def one(fields: Fields, x: Any) -> Evidence:
            space = at_lane(landscape, fields).space(effort)
            return examine(space, space.restrict(x), effort).evidence

        return (each_lane(one, count[0]) if effort == "spectrum" else jax.vmap(one))(fields, x)

    return over_devices(share)(landscape, fields, x, counts)
