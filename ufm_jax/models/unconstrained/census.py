"""What is known beforehand of a census of f, up to rotation and permutation of classes (`landscape.census`).

It is taken in the collapsed, rank-reduced problem, from symmetric and generic starts of every rank
(`symmetric`); orbits are counted with their copies under permutations, and tested by `completeness`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ufm_jax.landscape.census import LONGEST, seconds_of
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.landscape.search import LevenbergMarquardt
from ufm_jax.models.unconstrained import symmetric
from ufm_jax.models.unconstrained.completeness import Counted, MorseBott, morse_bott
from ufm_jax.models.unconstrained.objective import logit_gradient
from ufm_jax.models.unconstrained.permutations import Shape, group_order, matching, stabiliser_order
from ufm_jax.models.unconstrained.problem import Params, Problem, check_single
from ufm_jax.models.unconstrained.reduction import check_class_means, reduced

# Far below a search's own 1e-10: beside a bifurcation whole neighbourhoods of a family meet that.
METHOD = LevenbergMarquardt(gtol=1e-12)


def check(prob: Problem, starts: int | None) -> None:
    """Refuse a census that would not end within `LONGEST` seconds, by a rough estimate from K ≤ 8 on 2 cores.

    `starts` as of `Landscape.check_census`.

    Raises:
        ValueError: naming `prob`, if it is on class means; a decay that is not a single number; the loss, if
            it is not convex; the counts, with the estimate.
    """
    check_single(prob)
    if prob.collapsed or prob.unused:
        raise ValueError("prob: need the full problem, got one on class means; a census goes there by itself")
    check_class_means(prob)
    if starts is None:
        return
    small = reduced(prob)
    labelled = math.factorial(prob.num_classes) // group_order(prob.kinds)
    orbits = 4.0 * 2.6 ** max(small.dim - 2, 0) * labelled
    needed = float(starts) or 1000.0 * orbits
    if (seconds := seconds_of(needed, small.num_variables)) > LONGEST:
        raise ValueError(
            f"counts: a census of K = {prob.num_classes} in d = {prob.dim} would make about {needed:.1g} "
            f"starts (some {orbits:.1g} orbits) and take about {seconds / 3600:.1g} hours;"
            f" {'lower' if starts else 'bound'} its starts (--starts), or insist by force (--force)"
        )


def starts(prob: Problem, seed: int, number: int, size: int) -> tuple[Params, LevenbergMarquardt]:
    """Return a round's starts in the reduced problem, and how to search from them."""
    rng = np.random.default_rng([seed, number])
    drawn = zip(*(symmetric.draw(prob, rng) for _ in range(size)), strict=True)
    W, H, b = (jnp.asarray(np.stack(a)) for a in drawn)
    return Params(W, H, b if prob.bias else None), METHOD


def copies(small: Problem, x: Float[np.ndarray, " D"]) -> int:
    """Count the orbits under rotations that permutations of classes make of one: |group|/|stabiliser|."""
    return group_order(small.kinds) // stabiliser_order(shape_of(small, x))


def completeness(prob: Problem, rows: list[OrbitRow], points: Float[np.ndarray, "m D"]) -> list[MorseBott]:
    """Test the list at every d from 1 to the one asked about: each has those of its orbits of rank ≤ d.

    Beyond d = 2K no orbit is new and indices grow evenly: the tests end there, at no cost in d.
    """
    small = reduced(prob)
    counted = []
    for row, x in zip(rows, points, strict=True):
        G = logit_gradient(small, unravel(small, jnp.asarray(x)))
        singular = np.linalg.svd(G, compute_uv=False)
        growth = int(np.sum(singular > float(prob.strength) * (1 + 1e-6)))
        unclear = row.index is None or row.nullity != row.orbit_dim
        counted.append(Counted(row.rank or 0, row.copies or 0, row.index or 0, growth, unclear))
    tested = range(1, min(prob.dim, 2 * prob.num_classes) + 1)
    return [morse_bott(counted, prob.dim, d) for d in tested]


def shape_of(small: Problem, x: Float[np.ndarray, " D"]) -> Shape:
    """Return a point of the reduced problem modulo rotations; in NumPy, since every start asks for it."""
    K, r = small.num_classes, small.dim
    W, H = x[: K * r].reshape(K, r), x[K * r : 2 * K * r].reshape(r, K)
    b = x[2 * K * r :] if small.bias else np.zeros(K)
    shifts = small.bias and small.shift_invariant and float(small.decay_b) == 0  # `shift_dimension`
    return Shape(W @ H, b - b.mean() if shifts else b, small.kinds)


def same_orbit(small: Problem, x: Float[np.ndarray, " D"], y: Float[np.ndarray, " D"]) -> bool:
    """Say whether a rotation and a permutation of classes make one point of the reduced problem the other."""
    return matching(shape_of(small, x), shape_of(small, y)) is not None
