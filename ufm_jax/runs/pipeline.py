"""The pipeline start -> search -> evidence -> verdict for any number of starts, on all local devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ufm_jax.landscape.critical import (
    CriticalPoint,
    critical_from,
    descend_further,
    find_minima,
    minima_from,
    searched,
    start_rank,
)
from ufm_jax.landscape.evidence import Evidence, by_duality, by_escape, examine
from ufm_jax.landscape.starts import Key, Keys
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.reduction import collapse, narrowed, rank_bound, reduced
from ufm_jax.model.stacked import batch_size
from ufm_jax.numerics.lanes import each_lane, in_shares, jit_small, over_devices
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.runs.plan import Spectra, Target

# Lanes a device and call, at least; progress is reported after it. Descents have sixteen fillings of the pool
# of `lockstep`, whose last, when lanes run dry, is then a few percent of the work; no more numbers than fit.
BATCH = 256
FILLINGS = 16
NUMBERS = 2**25


def lanes_of_call(prob: Problem, target: Target) -> int:
    """Return how many searches fill one call on all local devices."""
    return _share(prob, target) * jax.local_device_count()


def search(prob: Problem, key: Key, start: np.ndarray, target: Target) -> CriticalPoint:
    """Search from each start number, with decays one entry a start; a start's key is folded from `key`."""
    run = partial(_searches, key=key, target=target)
    point = in_shares(run, _share(prob, target), prob, start.astype(np.int32))
    return _finished(prob, point) if target == "minima" else point


def descend(
    prob: Problem, begin: Params, *, space: Literal["auto", "full"] = "auto", spectra: Spectra = "needed"
) -> tuple[CriticalPoint, Evidence]:
    """Descend from your own starts, S of them along the first axis of W, H and b, and judge where they end.

    Starts are points of the full problem `prob`, whose decays are single numbers. With `space` "auto" the
    descents and the results are on class means (`model.reduction.collapse`), from the start's first
    `rank_bound` feature coordinates; with "full" over all variables.

    Raises:
        ValueError: if 64-bit floating point is off.
    """
    require_x64()
    if space == "auto":
        begin, prob = narrowed(prob, _class_means(prob, begin)), collapse(prob)
    here = jax.tree.map(lambda decay: jnp.full(len(begin.W), decay), prob)
    point = _finished(here, in_shares(_descents, _share(prob, "minima"), here, begin))
    return point, judge(here, point.params, "minima", spectra)


def judge(prob: Problem, p: Params, target: Target, spectra: Spectra) -> Evidence:
    """Examine each point; with spectra "needed", only those that certificates do not decide."""
    if spectra == "all" or not prob.loss.certified:
        return in_shares(partial(_evidence, method=examine), BATCH, prob, p)
    first = by_duality if target == "minima" else by_escape
    evidence = in_shares(partial(_evidence, method=first), _share(prob, target), prob, p)
    for method in (by_escape, examine):
        left = np.flatnonzero(evidence.verdict == Verdict.UNDECIDED)
        if len(left):
            closer = in_shares(partial(_evidence, method=method), BATCH, *_take(left, prob, p))
            evidence = jax.tree.map(partial(_put, left), evidence, closer)
    return evidence


def _share(prob: Problem, target: Target) -> int:
    if target == "saddles":
        return BATCH
    small = searched(prob)
    return max(1, min(max(BATCH, FILLINGS * batch_size(small)), NUMBERS // small.num_variables))


def _class_means(prob: Problem, p: Params) -> Params:
    """Restrict many points to class means, as `reduction.restrict` does, on the host: H is read in place."""
    first = np.cumsum((0, *prob.counts[:-1]))
    sums = np.add.reduceat(np.asarray(p.H)[:, : rank_bound(prob)], first, axis=2)
    return p._replace(H=jnp.asarray(sums * np.array(prob.counts, float) ** -0.5))


def _finished(prob: Problem, point: CriticalPoint) -> CriticalPoint:
    """Go on by second order with the descents that did not come down."""
    more = np.flatnonzero(point.status != Status.CONVERGED)
    if not len(more):
        return point
    further = in_shares(_further, BATCH, *_take(more, prob, point))
    return jax.tree.map(partial(_put, more), point, further)


def _take(lanes: np.ndarray, *trees: Any) -> Any:
    return jax.tree.map(lambda a: a[lanes], trees)


def _put(lanes: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    out = np.array(old)
    out[lanes] = new
    return out


@partial(jit_small, static_argnames=("target",))
def _searches(
    prob: Problem, start: Int[Array, " B"], counts: Int[Array, " devices"], *, key: Key, target: str
) -> CriticalPoint:
    def share(prob: Problem, keys: Keys, start: Int[Array, " b"], count: Int[Array, "1"]) -> CriticalPoint:
        if target == "minima":
            return minima_from(prob, keys, count[0])
        ranks = jax.vmap(partial(start_rank, prob))(start)
        return each_lane(critical_from)(prob, keys, ranks)

    keys = jax.vmap(partial(jax.random.fold_in, key))(start)
    return over_devices(share)(prob, keys, start, counts)


@jit_small
def _descents(prob: Problem, begin: Params, counts: Int[Array, " devices"]) -> CriticalPoint:
    def share(prob: Problem, begin: Params, count: Int[Array, "1"]) -> CriticalPoint:
        return find_minima(prob, begin, count[0])

    return over_devices(share)(prob, begin, counts)


@jit_small
def _further(prob: Problem, point: CriticalPoint, counts: Int[Array, " devices"]) -> CriticalPoint:
    def one(prob: Problem, point: CriticalPoint) -> CriticalPoint:
        found = descend_further(prob, point.params)
        return found._replace(num_steps=point.num_steps + found.num_steps)

    return over_devices(each_lane(one))(prob, point)


@partial(jit_small, static_argnames=("method",))
def _evidence(
    prob: Problem, p: Params, counts: Int[Array, " devices"], *, method: Callable[..., Any]
) -> Evidence:
    if method is examine:
        return over_devices(each_lane(lambda prob, p: examine(prob, p).evidence))(prob, p)
    if (
        method is by_duality and prob.collapsed
    ):  # nothing that it asks for sees the other coordinates, all zero
        prob, p = reduced(prob), narrowed(prob, p)
    return over_devices(jax.vmap(method))(prob, p)
