"""Contenders in the search for critical points of any index, but for this package's (`contenders.ours`)."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from experiments.benchmark import saddle_peers
from experiments.benchmark.peers import REFEREE_GRAD, Setting
from experiments.benchmark.saddle_peers import NEGATIVE, Recipe
from experiments.benchmark.settings import SEED, LiftedRows, Run, problem_of
from ufm_jax.devices import cores

# rtol = atol: 1e-4 leaves every tenth start with a gradient that the referee refuses, 1e-6 as few as 1e-10,
# which hardly takes longer: a batch takes as many steps as its slowest start. Normal equations, by Cholesky,
# in place of QR: the same ends, 1.4 times as fast at K = 10, no slower at K = 4.
OPTIMISTIX_TOL = 1e-6
OPTIMISTIX_STEPS = 1000


def scipy_root(s: Setting, count: int, *, recipe: Recipe) -> Run:
    """SciPy's `root`, one process a core."""
    pool = ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))
    jobs = [(s, SEED, i, recipe) for i in range(count)]

    def run() -> Any:
        chunk = max(1, min(16, count // (4 * cores())))
        found = list(pool.map(saddle_peers.one_search, jobs, chunksize=chunk))
        W, H, b = (np.stack([getattr(j, name) for j in found]) for name in "WHb")
        return (W, H, b), [j.verdict for j in found]

    return run


def optimistix_lm(s: Setting, count: int) -> Run:
    """optimistix's `LevenbergMarquardt` on class means in K − 1 coordinates, vmapped; a dense eigen-solve."""
    import jax
    import jax.numpy as jnp
    import lineax as lx
    import optimistix as optx

    from ufm_jax.models.unconstrained.objective import objective
    from ufm_jax.models.unconstrained.problem import Params
    from ufm_jax.numerics.derivatives import dense_hessian

    prob = problem_of(s)
    small, points = prob.space("saddles"), prob.space("points")
    f = objective(small)
    solver: Any = optx.LevenbergMarquardt(
        rtol=OPTIMISTIX_TOL, atol=OPTIMISTIX_TOL, linear_solver=lx.Normal(lx.Cholesky())
    )

    def one(p: Params) -> tuple[Params, Any, Any]:
        grad = lambda p, _: jax.grad(f)(p)
        x = optx.root_find(grad, solver, p, max_steps=OPTIMISTIX_STEPS, throw=False).value
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grad(x, None))))
        return points.lift(x), norm, jnp.linalg.eigvalsh(dense_hessian(f)(x))[0]

    begin = saddle_peers.draw_saddle_starts(s, SEED, range(count))
    solve = jax.jit(lambda p: jax.vmap(lambda p: one(small.restrict(p)))(p))

    def run() -> Any:
        (W, means, b), norms, lowest = jax.device_get(solve(Params(*map(jnp.asarray, begin))))
        found = np.where(lowest < NEGATIVE, "SADDLE", "MINIMUM")
        return (W, LiftedRows(means, s.n), b), list(np.where(norms <= REFEREE_GRAD, found, "NOT_CRITICAL"))

    return run
