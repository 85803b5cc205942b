"""Critical points of any index from many starts, on all local devices.

A batch is a landscape and `fields`: those of its leaves that differ from start to start, by name, with one
entry a start. The other leaves are the same for all, and on every device.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.search import CriticalPoint, LevenbergMarquardt, approach_together, search_from
from ufm_jax.landscape.spectrum import BASIS_BYTES, DENSE_LIMIT
from ufm_jax.numerics.lanes import (
    QUICK,
    are_few,
    each_lane,
    in_shares,
    jit_small,
    over_devices,
    put,
    take,
)
from ufm_jax.numerics.status import Status

Fields = dict[str, Any]

# Lanes a device and call, at least; progress is reported after it. Searches that advance together have
# sixteen fillings of their pool, whose last, when lanes run dry, is then a few percent of the work; no more
# numbers than fit.
BATCH = 256
FILLINGS = 16
NUMBERS = 2**25


def critical_points(
    landscape: Landscape,
    fields: Fields,
    begin: Any,
    method: LevenbergMarquardt | None = None,
    *,
    again: bool = True,
) -> CriticalPoint:
    """Search from points of `landscape.space("saddles")`, along the first axis of every leaf.

    Together where the landscape can (`Landscape.shifted`), in smaller spaces that the starts do not leave
    (`Landscape.spaces`); those that do not come down so, if they are to try `again`, and all of another
    landscape, each by itself.
    """
    method = method or LevenbergMarquardt()
    total = len(jax.tree.leaves(begin)[0])
    if not landscape.space("saddles").shift_size:
        return _each(landscape, fields, begin, method, np.arange(total))
    begin, parts = jax.device_get(begin), []
    spaces = Landscape.spaces(landscape, begin) if are_few() else landscape.spaces(begin)  # one program
    for space, which in spaces:
        run = partial(_approaches, landscape, space, method=method)
        parts.append((which, in_shares(run, lanes_together(space), *take(which, fields, begin))))
    empty = lambda a: np.zeros((total, *a.shape[1:]), a.dtype)
    point = jax.tree.map(empty, parts[0][1])
    for which, part in parts:
        point = jax.tree.map(partial(put, which), point, part)
    lost = np.flatnonzero(point.status != Status.CONVERGED)
    if not (again and len(lost)):
        return point
    alone = _each(landscape, fields, begin, method, lost)
    alone = alone._replace(num_steps=alone.num_steps + point.num_steps[lost])
    return jax.tree.map(partial(put, lost), point, alone)


def lanes_together(space: Landscape) -> int:
    """Return how many lanes of a device one call holds, of searches that advance together."""
    return max(BATCH, FILLINGS * space.shift_size)


def dense_share(landscape: Landscape) -> int:
    """Return how many lanes at most hold Hessians of the largest block, and points, within `NUMBERS`."""
    variables = landscape.largest_block
    each = variables**2 if variables <= DENSE_LIMIT else BASIS_BYTES // 8
    return max(1, min(BATCH, NUMBERS // max(each, landscape.num_variables)))


def _each(
    landscape: Landscape,
    fields: Fields,
    begin: Any,
    method: LevenbergMarquardt,
    which: Int[np.ndarray, " m"],
) -> CriticalPoint:
    run = partial(_one_by_one, landscape, method=method)
    return in_shares(run, dense_share(landscape), *take(which, fields, begin))


@partial(jit_small, static_argnames=("method",), options=QUICK)
def _approaches(
    landscape: Landscape,
    space: Landscape,
    fields: Fields,
    begin: Any,
    counts: Int[Array, " devices"],
    *,
    method: LevenbergMarquardt,
) -> CriticalPoint:
    def share(both: Any, fields: Fields, begin: Any, count: Any) -> CriticalPoint:
        landscape, space = both
        starts = jax.vmap(space.restrict)(begin)
        return approach_together(landscape, space, fields, starts, count[0], method)

    return over_devices(share)((landscape, space), fields, begin, counts)


@partial(jit_small, static_argnames=("method",), options=QUICK)
def _one_by_one(
    landscape: Landscape,
    fields: Fields,
    begin: Any,
    counts: Int[Array, " devices"],
    *,
    method: LevenbergMarquardt,
) -> CriticalPoint:
    def share(landscape: Landscape, fields: Fields, begin: Any, count: Any) -> CriticalPoint:
        def one(fields: Fields, x: Any) -> CriticalPoint:
            here = at_lane(landscape, fields)
            return search_from(here, here.space("saddles"), x, method)

        return each_lane(one, count[0])(fields, begin)

    return over_devices(share)(landscape, fields, begin, counts)
