"""From a start to a critical point."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import gradient_norm, oracle, ravel, unravel
from ufm_jax.models.unconstrained.problem import Params, Problem, checked_point
from ufm_jax.models.unconstrained.reduction import (
    check_class_means,
    lift,
    narrowed,
    rank_bound,
    reduced,
    restrict,
    widened,
)
from ufm_jax.models.unconstrained.stacked import (
    balance,
    batch_size,
    gradient_norms,
    norm_bounds,
    scales,
    stacked,
    unbalance,
)
from ufm_jax.numerics import lockstep
from ufm_jax.numerics.descent import Solution, trust_region_newton
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64

SOLVE_GTOL = 1e-10  # what a search must reach; it then takes one more Newton step
LOCKSTEP_GTOL = 1e-12  # first-order searches have no last Newton step: they go on to this
START_SCALES = (0.01, 3.0)  # range of the standard deviation of Gaussian starts


class CriticalPoint(NamedTuple):
    """Where a search ended, in the problem it was asked about."""

    params: Params
    grad_norm: Float[Array, ""]  # measured again here, whatever space the search ran in
    status: Int[Array, ""]
    num_steps: Int[Array, ""]


def find_minimum(prob: Problem, start: Params, *, max_steps: int = 500) -> CriticalPoint:
    """Descend from `start` by trust-region Newton to ‖∇f‖₂ ≤ 1e-10.

    Raises:
        ValueError: naming W, H or b, if its shape or dtype is not the problem's, or if 64-bit floating point
            is off.
    """
    require_x64(prob)
    start = checked_point(prob, start)
    found = trust_region_newton(oracle(prob), ravel(start), gtol=SOLVE_GTOL, max_steps=max_steps)
    return _measured(prob, unravel(prob, found.x), found)


def find_critical(prob: Problem, start: Params, *, max_steps: int = 300) -> CriticalPoint:
    """Find a critical point of any index near a class-constant `start` in the first `rank_bound` coordinates.

    Levenberg–Marquardt on ∇f in the collapsed, rank-reduced problem, which has every critical point
    (`reduction`): the features of `start` are replaced by their class means, its other coordinates
    dropped. The result is lifted back and measured in `prob`.

    Raises:
        ValueError: as `find_minimum`, and naming the loss, if it is not convex.
    """
    require_x64(prob)
    check_class_means(prob)
    start = checked_point(prob, start)
    small, first = reduced(prob), narrowed(prob, restrict(prob, start))
    found = levenberg_marquardt(oracle(small), ravel(first), gtol=SOLVE_GTOL, max_steps=max_steps)
    return _measured(prob, lift(prob, widened(prob, unravel(small, found.x))), found)


def minimum_from(prob: Problem, key: starts.Key) -> CriticalPoint:
    """Draw a Gaussian start with log-uniform scale in `START_SCALES` and descend.

    The collapsed problem is searched in `rank_bound` feature coordinates, which hold every critical point up
    to a rotation; the full problem in all of them.
    """
    small = searched(prob)
    found = find_minimum(small, gaussian_start(small, key))
    return found._replace(params=widened(prob, found.params))


def gaussian_start(prob: Problem, key: starts.Key) -> Params:
    """Return independent N(0, σ²) entries, log σ uniform over `START_SCALES`."""
    scale_key, point_key = jax.random.split(key)
    return starts.gaussian(prob, point_key, starts.log_uniform_scale(scale_key, *START_SCALES))


def minima_from(prob: Problem, keys: starts.Keys, count: Int[Array, ""] | int) -> CriticalPoint:
    """Draw a start as `minimum_from` does for each of S keys and descend from the first `count` at once.

    Decays have one entry a key, and so have the results. First order (`numerics.lockstep`), some fifty to a
    hundred gradients a start where K is 4 to 10: many times faster than `minimum_from` where there are many
    starts, and nearly as exact.
    """
    small = searched(prob)
    return find_minima(prob, jax.vmap(gaussian_start)(small, keys), count)


def find_minima(prob: Problem, begin: Params, count: Int[Array, ""] | int) -> CriticalPoint:
    """Descend from the first `count` of S starts at once; CONVERGED is ‖∇f‖₂ ≤ 1e-10, as for `find_minimum`.

    Starts, decays and results have S entries along their first axis. The starts are points of `reduced(prob)`
    where `prob` is collapsed.
    """
    small = searched(prob)
    lanes = scales(small)
    found = lockstep.bfgs(
        stacked(small),
        balance(small, lanes, jax.vmap(ravel)(begin).T),
        lanes,
        count,
        width=batch_size(small),
        gtol=LOCKSTEP_GTOL,
        norm=partial(norm_bounds, small),
    )
    norms = gradient_norms(small, lanes, stacked(small)(found.x, lanes)[1])
    x = unbalance(small, lanes, found.x)
    params = jax.vmap(lambda x: widened(prob, unravel(small, x)))(x.T)
    status = jnp.where(norms <= SOLVE_GTOL, Status.CONVERGED, found.status).astype(jnp.int32)
    return CriticalPoint(params, norms, status, found.num_steps)


def descend_further(prob: Problem, p: Params) -> CriticalPoint:
    """Descend by trust-region Newton from where `find_minima` ended."""
    small = searched(prob)
    found = find_minimum(small, narrowed(prob, p) if prob.collapsed else p)
    return found._replace(params=widened(prob, found.params))


def searched(prob: Problem) -> Problem:
    """Return the problem that descents run in: where `prob` is collapsed, in `rank_bound` coordinates."""
    return reduced(prob) if prob.collapsed else prob


def critical_from(prob: Problem, key: starts.Key, rank: Int[Array, ""]) -> CriticalPoint:
    """Draw a balanced start of the given rank and find a critical point of any index."""
    return find_critical(prob, starts.balanced(prob, key, rank))


def minimum_from_etf(prob: Problem) -> CriticalPoint:
    """Descend from the simplex ETF of the balanced problem with N/K samples a class.

    One start, so near the global minimiser that sizes such as K = 1000 are reached. Whether the end is global
    is for its duality gap to say. Runs in the collapsed problem in `rank_bound` coordinates.
    """
    small = reduced(prob)
    found = trust_region_newton(
        oracle(small), ravel(starts.mean_etf(small)), gtol=SOLVE_GTOL, radius=small.num_classes**0.5
    )
    return _measured(prob, lift(prob, widened(prob, unravel(small, found.x))), found)


def start_rank(prob: Problem, start: Any) -> Any:
    """Return the ranks of starts toward saddles, int32, by their numbers: 0..`rank_bound` in turn."""
    return (start % (rank_bound(prob) + 1)).astype(np.int32)


def _measured(prob: Problem, p: Params, found: Solution) -> CriticalPoint:
    norm = gradient_norm(prob, p)
    lost = (found.status == Status.CONVERGED) & ~(norm <= 10 * SOLVE_GTOL)
    status = jnp.where(lost, Status.STALLED, found.status).astype(jnp.int32)
    return CriticalPoint(p, norm, status, found.num_steps)
