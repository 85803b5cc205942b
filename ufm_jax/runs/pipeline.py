"""The pipeline start -> search -> evidence -> verdict for any number of starts, on all local devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from ufm_jax.models.unconstrained.critical import (
    CriticalPoint,
    critical_from,
    descend_further,
    find_minima,
    minima_from,
    searched,
    start_rank,
)
from ufm_jax.models.unconstrained.evidence import Evidence, by_duality, by_escape, examine
from ufm_jax.models.unconstrained.problem import Params, Problem, checked_point
from ufm_jax.models.unconstrained.reduction import check_class_means, narrowed, rank_bound, reduced, trimmed
from ufm_jax.models.unconstrained.spectrum import BASIS_BYTES, DENSE_LIMIT
from ufm_jax.models.unconstrained.stacked import batch_size
from ufm_jax.models.unconstrained.starts import Key, Keys
from ufm_jax.models.unconstrained.verdict import Verdict
from ufm_jax.numerics.lanes import each_lane, in_shares, jit_small, over_devices
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.runs.plan import Spectra, Target

# Lanes a device and call, at least; progress is reported after it. Descents have sixteen fillings of the pool
# of `lockstep`, whose last, when lanes run dry, is then a few percent of the work; no more numbers than fit.
BATCH = 256
FILLINGS = 16
NUMBERS = 2**25
JUDGED = 2**16  # judged at once: eigen-solvers of accelerators take workspace a matrix, and count in 32 bits


def lanes_of_call(prob: Problem, target: Target) -> int:
    """Return how many searches fill one call on all local devices."""
    return _share(prob, target) * jax.local_device_count()


def bytes_of_call(prob: Problem, target: Target) -> int:
    """Return about how much one device holds at once: the arrays of the lanes of a call, some ten of each."""
    small = reduced(prob) if target == "saddles" or prob.collapsed else prob
    logits = small.num_classes * small.num_columns
    points = 8 * 10 * max(small.num_variables, prob.num_variables, logits) * _share(prob, target)
    variables = reduced(prob).num_variables
    dense = target == "saddles" or variables <= DENSE_LIMIT
    return points + (8 * 6 * variables**2 if dense else 2 * BASIS_BYTES)


def search(prob: Problem, key: Key, start: np.ndarray, target: Target) -> CriticalPoint:
    """Search from each start number (int64), with decays one entry a start.

    A start's key is folded from `key` and its number, of which a key takes 32 bits at a time.
    """
    run = partial(_searches, key=key, target=target)
    low, high = (start & 0xFFFFFFFF).astype(np.uint32), (start >> 32).astype(np.uint32)
    point = in_shares(run, _share(prob, target), prob, low, high, start_rank(prob, start))
    return _finished(prob, point) if target == "minima" else point


def descend(
    prob: Problem, begin: Params, *, space: Literal["auto", "full"] = "auto", spectra: Spectra = "needed"
) -> tuple[CriticalPoint, Evidence]:
    """Descend from your own starts, S of them along the first axis of W, H and b, and judge where they end.

    Starts are points of the full problem `prob`, whose decays are single numbers. With `space` "auto" the
    descents and the results are on class means (`unconstrained.reduction.collapse`), from the start's first
    `rank_bound` feature coordinates; with "full" over all variables.

    Raises:
        ValueError: naming W, H or b, if its shape or dtype is not that of S points of `prob`; the loss, if it
            is not convex and `space` is not "full"; `space` or `spectra`, if there is no such; if 64-bit
            floating point is off.
    """
    require_x64(prob)
    for name, value, allowed in (("space", space, ("auto", "full")), ("spectra", spectra, get_args(Spectra))):
        if value not in allowed:
            raise ValueError(f"{name}: need one of {allowed}, got {value!r}")
    begin, dim = checked_point(prob, begin, many=True), prob.dim
    if not len(begin.W):
        raise ValueError("W: need at least one start along the first axis, got none")
    if space == "auto":
        check_class_means(prob)
        begin, prob = narrowed(prob, _class_means(prob, begin)), trimmed(prob)
    here = jax.tree.map(lambda decay: jnp.full(len(begin.W), decay), prob)
    point = _finished(here, in_shares(_descents, _share(prob, "minima"), here, begin))
    evidence = judge(here, point.params, "minima", spectra)
    return point._replace(params=padded(point.params, dim)), evidence


def padded(p: Params, dim: int) -> Params:
    """Return points, S of them, in `dim` feature coordinates, those beyond their own zero; on the host."""
    more = (0, dim - p.W.shape[-1])
    none = (0, 0)
    W, H = np.pad(np.asarray(p.W), (none, none, more)), np.pad(np.asarray(p.H), (none, more, none))
    return jax.tree.unflatten(jax.tree.structure(p), [a for a in (W, H, p.b) if a is not None])


def judge(prob: Problem, p: Params, target: Target, spectra: Spectra) -> Evidence:
    """Examine each point; with spectra "needed", only those that certificates do not decide."""
    few = _dense_share(prob)
    if spectra == "all" or not prob.loss.convex:
        return in_shares(partial(_evidence, method=examine), few, prob, p)
    first = by_duality if target == "minima" else by_escape
    evidence = in_shares(partial(_evidence, method=first), min(_share(prob, target), JUDGED), prob, p)
    for method in (by_escape, examine):
        left = np.flatnonzero(evidence.verdict == Verdict.UNDECIDED)
        if len(left):
            closer = in_shares(partial(_evidence, method=method), few, *_take(left, prob, p))
            evidence = jax.tree.map(partial(_put, left), evidence, closer)
    return evidence


def _share(prob: Problem, target: Target) -> int:
    if target == "saddles":
        return _dense_share(prob)
    small = searched(prob)
    return max(1, min(max(BATCH, FILLINGS * batch_size(small)), NUMBERS // small.num_variables))


def _dense_share(prob: Problem) -> int:
    """Return how many lanes at most hold Hessians of the reduced problem, and points, within `NUMBERS`."""
    variables = reduced(prob).num_variables
    each = variables**2 if variables <= DENSE_LIMIT else BASIS_BYTES // 8
    return max(1, min(BATCH, NUMBERS // max(each, prob.num_variables)))


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
    further = in_shares(_further, _dense_share(prob), *_take(more, prob, point))
    return jax.tree.map(partial(_put, more), point, further)


def _take(lanes: np.ndarray, *trees: Any) -> Any:
    return jax.tree.map(lambda a: a[lanes], trees)


def _put(lanes: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    out = np.array(old)
    out[lanes] = new
    return out


@partial(jit_small, static_argnames=("target",))
def _searches(
    prob: Problem,
    low: UInt32[Array, " B"],
    high: UInt32[Array, " B"],
    ranks: Int[Array, " B"],
    counts: Int[Array, " devices"],
    *,
    key: Key,
    target: str,
) -> CriticalPoint:
    def share(prob: Problem, keys: Keys, ranks: Int[Array, " b"], count: Int[Array, "1"]) -> CriticalPoint:
        if target == "minima":
            return minima_from(prob, keys, count[0])
        return each_lane(critical_from)(prob, keys, ranks)

    def key_of(low: UInt32[Array, ""], high: UInt32[Array, ""]) -> Key:
        folded = jax.random.fold_in(key, low)
        return jnp.where(high > 0, jax.random.fold_in(folded, high), folded)

    return over_devices(share)(prob, jax.vmap(key_of)(low, high), ranks, counts)


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
    if method is by_duality and prob.collapsed:  # which asks for nothing that sees the others, all zero
        prob, p = reduced(prob), narrowed(prob, p)
    return over_devices(jax.vmap(method))(prob, p)
