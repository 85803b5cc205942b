"""Where gradient flow leads from each saddle: the directed graph of critical orbits joined by flows.

Flows start beside a saddle: along its negative eigenvectors, in random directions of their span, and in
directions fixed by some of the saddle's symmetries, whose flows stay among the points so fixed and may end at
lower saddles. An edge is shown by a flow that ended there; a missing edge shows nothing.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Bool, Float

from ufm_jax.landscape.flat import hessian, oracle, unravel
from ufm_jax.landscape.orbits import Census
from ufm_jax.landscape.units import SOLVED
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained.census import shape_of
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.permutations import Shape, matching
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import reduced
from ufm_jax.numerics.flow import gradient_flow
from ufm_jax.numerics.lanes import each_lane, in_batches
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status

FLOW_GTOL = 1e-6
HORIZON = 1e7  # flow time; the slowest decay rate met so far is about 1e-4
LANES = 64  # flows of one compiled batch
ORIGIN = 1e-6  # a shorter W is 0: elsewhere ‖W‖ is of order one, and what a search leaves of 0 is below 1e-8

Progress = Callable[[int, list[int]], None]


class Sampling(NamedTuple):
    """How many flows leave each saddle, and from how far."""

    generic: int = 40  # in random directions of its negative eigenspace
    symmetric: int = 120  # in random directions fixed by a random subgroup of the saddle's symmetries
    displacement: float = 1e-2


class Edge(NamedTuple):
    """Flows from one orbit that ended at another; both are lines of the orbit table, from 0."""

    saddle: int
    reached: int
    generic: float  # share of the flows in random directions
    other: float  # share of those along eigenvectors and in symmetric directions
    flows: int


class Flows(NamedTuple):
    """Starts of gradient flows from one saddle; `projections` keep a flow in the subspace it starts in."""

    starts: Float[np.ndarray, "F D"]
    projections: Float[np.ndarray, "F D D"]
    generic: np.ndarray  # whether the direction was random in the whole negative eigenspace


def starts_from(
    small: Problem, x: Float[np.ndarray, " D"], sampling: Sampling, rng: np.random.Generator
) -> Flows:
    """Displace a saddle along ± its negative eigenvectors and in random and symmetric negative directions.

    A symmetric direction is fixed by a random subgroup of the permutations and rotations that fix the saddle.
    The flow then stays among the points so fixed, and it is projected there, since rounding would leave.
    """
    values, vectors = np.linalg.eigh(hessian(small, unravel(small, jnp.asarray(x))))
    V = vectors[:, values < -1e-8 * abs(values).max()]
    whole = np.eye(len(x))
    directions = [(sign * v, whole, False) for v in V.T for sign in (1, -1)]
    directions += [(V @ rng.normal(size=V.shape[1]), whole, True) for _ in range(sampling.generic)]
    actions = symmetries(small, x)
    for _ in range(sampling.symmetric):
        # The first is the identity on classes: with signs, it keeps features unused.
        number = rng.integers(len(actions), size=rng.integers(1, 4)) * (rng.random() < 0.7)
        axes = _null(np.eye(small.dim) - actions[0].unused)
        axes = axes @ np.linalg.qr(rng.normal(size=(axes.shape[1], axes.shape[1])))[0]
        moved = np.concatenate([_matrix(small, actions[i], axes, rng) - whole for i in number])
        fixed, inside = _null(moved), _null(moved @ V)
        if 0 < inside.shape[1] < V.shape[1]:
            direction = V @ (inside @ rng.normal(size=inside.shape[1]))
            directions.append((direction, fixed @ fixed.T, False))
    away = [x + sampling.displacement * v / np.linalg.norm(v) for v, _, _ in directions]
    return Flows(
        np.array(away), np.array([P for _, P, _ in directions]), np.array([g for _, _, g in directions])
    )


class Symmetry(NamedTuple):
    """A permutation of classes that moves a point within its orbit: W[order] rotation = W."""

    order: list[int]
    rotation: Float[np.ndarray, "d d"]  # of the features that the point uses; zero on the others
    unused: Float[np.ndarray, "d d"]  # projection onto the others


def symmetries(small: Problem, x: Float[np.ndarray, " D"]) -> list[Symmetry]:
    """Return all symmetries of a point, the identity first."""
    W, shape = np.asarray(unravel(small, jnp.asarray(x)).W), shape_of(small, x)
    W = W if np.linalg.norm(W) > ORIGIN else np.zeros_like(W)  # else directions of rounding would count
    unused = np.eye(small.dim) - np.linalg.pinv(W, rcond=1e-6) @ W
    return [
        Symmetry(p, np.linalg.pinv(W[p], rcond=1e-6) @ W, unused)
        for p in map(list, permutations(range(small.num_classes)))
        if np.abs(shape.M[np.ix_(p, p)] - shape.M).max() <= shape.tolerance
        and np.abs(shape.b[p] - shape.b).max() <= shape.tolerance
    ]


def _matrix(small: Problem, s: Symmetry, axes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the matrix of (W, H, b) -> (W[p] Q, Qᵀ H[:, p], b[p]) in the order of `ravel`.

    Q adds to the rotation an identity on the unused features, in which some of the `axes` are reversed.
    """
    Q = s.rotation + (axes * rng.choice((-1, 1), size=axes.shape[1])) @ axes.T
    order = np.eye(small.num_classes)[s.order]
    return np.asarray(block_diag(np.kron(order, Q.T), np.kron(Q.T, order), order))


def _null(A: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the null space, in columns."""
    _, singular, Vt = np.linalg.svd(A)
    return Vt[np.sum(singular > 1e-6) :].T


@jax.jit
def descend(
    small: Problem, starts: Float[Array, "F D"], projections: Float[Array, "F D D"]
) -> tuple[Float[Array, " F"], Float[Array, "F D"], Float[Array, " F"], Bool[Array, " F"]]:
    """Return f where flows stop (‖∇f‖ ≤ `FLOW_GTOL`), the critical point near, f there, and success.

    An implicit ODE solver is used, not a descent method: a minimiser's long steps may jump into the basin of
    another orbit, and what is asked for is where the flow goes.
    """

    def one(x: Float[Array, " D"], P: Float[Array, "D D"]) -> Any:
        f = objective(small)
        along = gradient_flow(
            lambda y: f(unravel(small, x + P @ (y - x))),
            x,
            jnp.array([0.0, HORIZON]),
            gtol=FLOW_GTOL,
            rtol=1e-6,
            atol=1e-8,
        )
        end = along.points[-1]
        near = levenberg_marquardt(oracle(small), end, gtol=SOLVED)
        good = (along.status == Status.CONVERGED) & (near.status == Status.CONVERGED)
        return along.values[-1], near.x, near.value, good

    return each_lane(one)(starts, projections)


def edges(
    prob: Problem, state: Census, sampling: Sampling, *, seed: int = 0, progress: Progress | None = None
) -> tuple[list[Edge], int]:
    """Flow down from every saddle of a census; return what was reached and how many flows ended elsewhere.

    `progress` is called with a line of the orbit table and the lines reached, −1 for no known orbit.
    """
    small = reduced(prob)
    shapes = [shape_of(small, x) for x in state.points]
    rng, found, unknown = np.random.default_rng(seed), [], 0
    for line, x in enumerate(state.points):
        if state.evidence["verdict"][line] != Verdict.STRICT_SADDLE:
            continue
        flows = starts_from(small, x, sampling, rng)
        ends = in_batches(partial(descend, small), LANES, flows.starts, flows.projections)
        above = float(state.evidence["loss"][line])
        reached = [_reached(small, shapes, above, *end) for end in zip(*ends, strict=True)]
        if progress is not None:
            progress(line, reached)
        unknown += reached.count(-1)
        total = Counter(flows.generic.tolist())
        by = Counter(zip(flows.generic.tolist(), reached, strict=True))
        for target in sorted(set(reached) - {-1}):
            generic, other = (by[kind, target] / max(total[kind], 1) for kind in (True, False))
            found.append(Edge(line, target, generic, other, by[True, target] + by[False, target]))
    return found, unknown


def _reached(
    small: Problem, shapes: list[Shape], above: float, stopped: float, x: np.ndarray, value: float, good: bool
) -> int:
    """Return the line of the orbit at which one flow ended, or −1."""
    # The polish must not have left: near a critical point f moves by (1e-6)²/λ.
    if not (good and abs(stopped - value) < 1e-6 and value < above):
        return -1
    shape = shape_of(small, x)
    return next((n for n, s in enumerate(shapes) if matching(s, shape) is not None), -1)
