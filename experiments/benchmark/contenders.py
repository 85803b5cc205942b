"""A contender in a process of its own: `python -m experiments.benchmark.contenders NAME K n d S R`.

Prints one JSON object: seconds of the first call on S starts (with compilation, or the start of processes)
and of the best of R later ones, peak memory, what the referee says of the points. All have the same starts.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Literal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # processes of one thread, whoever imports NumPy first

import numpy as np

from experiments.benchmark import peers, saddle_peers
from experiments.benchmark.peers import Setting
from experiments.benchmark.saddle_contenders import optimistix_lm, scipy_root
from experiments.benchmark.settings import COMPARED, REFEREED, SEED, LiftedRows, Run, problem_of, setting
from ufm_jax.devices import cores
from ufm_jax.runs.plan import Spectra


def scipy_processes(s: Setting, count: int, *, means: bool) -> Run:
    """SciPy's recipe, one process a core; a positive lowest eigenvalue, to 1e-7, counts as a minimum."""
    pool = ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))
    jobs = [(s, SEED, i, means) for i in range(count)]

    def run() -> Any:
        found = list(pool.map(peers.one_start, jobs, chunksize=max(1, min(16, count // (4 * cores())))))
        W, H, b = (np.stack([getattr(j, name) for j in found]) for name in "WHb")
        return (W, H, b), ["MINIMUM" if j.lambda_min > -1e-7 else "SADDLE" for j in found]

    return run


def plain_jax(s: Setting, count: int, *, batched: bool) -> Run:
    """optax's L-BFGS on the full problem and a dense eigen-solve: vmapped, or one jitted call a start."""
    import jax
    import jax.numpy as jnp

    from ufm_jax.models.unconstrained.objective import objective
    from ufm_jax.models.unconstrained.problem import Params
    from ufm_jax.numerics.derivatives import dense_hessian
    from ufm_jax.numerics.descent import lbfgs

    f = objective(problem_of(s))

    def one(p: Params) -> tuple[Params, Any]:
        x = lbfgs(f, p, gtol=peers.NEWTON_GTOL).x
        return x, jnp.linalg.eigvalsh(dense_hessian(f)(x))[0]

    begin = Params(*map(jnp.asarray, peers.draw_starts(s, SEED, range(count))))
    solve = jax.jit(jax.vmap(one)) if batched else jax.jit(one)

    def run() -> Any:
        if batched:
            p, lowest = jax.device_get(solve(begin))
        else:
            each = [jax.device_get(solve(jax.tree.map(lambda a: a[i], begin))) for i in range(count)]  # noqa: B023
            p, lowest = jax.tree.map(lambda *a: np.stack(a), *each)
        return tuple(p), ["MINIMUM" if v > -1e-7 else "SADDLE" for v in lowest]

    return run


def ours(
    s: Setting,
    count: int,
    *,
    space: Literal["auto", "full"] = "auto",
    target: Literal["minima", "saddles"] = "minima",
    spectra: Spectra = "needed",
) -> Run:
    """This package: `runs.pipeline`, all local devices."""
    from ufm_jax.landscape.verdict import Verdict
    from ufm_jax.models.unconstrained.problem import Params
    from ufm_jax.runs.pipeline import from_starts, judge

    prob = problem_of(s)
    rows, points = (prob.space("rows"), prob.space("points")) if space == "auto" else (prob, prob)
    draw = peers.draw_starts if target == "minima" else saddle_peers.draw_saddle_starts
    begin: Any = draw(s, SEED, range(count))  # NumPy's: putting them on the device is part of it

    def run() -> Any:
        point = from_starts(rows, {}, Params(*begin), target)
        evidence = judge(rows, {}, point.x, target, spectra)
        W, H, b = map(np.asarray, points.lift(point.x))
        # Class means times √n; lifting them is not part of a sweep, but the referee needs it.
        features = LiftedRows(H, s.n) if space == "auto" else H
        return (W, features, b), [Verdict(int(v)).name for v in evidence.verdict]

    return run


MINIMA: dict[str, Callable[[Setting, int], Run]] = {
    "scipy": partial(scipy_processes, means=False),
    "optax-vmap": partial(plain_jax, batched=True),
    "jit-loop": partial(plain_jax, batched=False),
    "scipy-means": partial(scipy_processes, means=True),
    "ours-full": partial(ours, space="full"),
    "ours": ours,
    "ours-spectra": partial(ours, spectra="all"),
}
SADDLES: dict[str, Callable[[Setting, int], Run]] = {
    **{name: partial(scipy_root, recipe=recipe) for name, recipe in saddle_peers.RECIPES.items()},
    "optimistix-lm": optimistix_lm,
    "ours-saddles": partial(ours, target="saddles"),
    "ours-saddles-spectra": partial(ours, target="saddles", spectra="all"),
}


def measure(name: str, s: Setting, count: int, repeats: int) -> dict[str, Any]:
    """Time a contender, then let the referee check its points."""
    run = (MINIMA | SADDLES)[name](s, count)
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        points, verdicts = run()
        seconds.append(time.perf_counter() - began)
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "contender": name,
        **s._asdict(),
        "starts": count,
        "first_s": seconds[0],
        "warm_s": min(seconds[1:]) if repeats else None,
        "peak_mib": own + children * (cores() if name.startswith("scipy") else 0),
        **(_minima_seen if name in MINIMA else _saddles_seen)(s, points, verdicts),
        "verdicts": {v: verdicts.count(v) for v in sorted(set(verdicts))},
    }


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, REFEREED).astype(int))


def _minima_seen(s: Setting, points: Any, verdicts: list[str]) -> dict[str, Any]:
    W, H, b = points
    looked_at = _spread(len(verdicts))
    seen = np.array([peers.referee(s, W[i], H[i], b[i]) for i in looked_at])
    good = (seen[:, 0] <= peers.REFEREE_GRAD) & (seen[:, 1] <= peers.REFEREE_GAP)
    return {
        "refereed": len(looked_at),
        "accepted": int(good.sum()),
        "max_grad_norm": float(seen[:, 0].max()),
        "max_gap": float(seen[:, 1].max()),
    }


def _saddles_seen(s: Setting, points: Any, verdicts: list[str]) -> dict[str, Any]:
    """Return what the referee accepts, which claims it refuses, and critical values from the first starts."""
    W, H, b = points
    first = np.arange(min(COMPARED, len(verdicts)))
    looked_at = np.union1d(first, _spread(len(verdicts)))
    seen = [saddle_peers.look(s, W[i], H[i], b[i]) for i in looked_at]
    good = np.array([saddle_peers.accepted(at, verdicts[i]) for i, at in zip(looked_at, seen, strict=True)])
    claimed = np.array([saddle_peers.claims(verdicts[i]) for i in looked_at])
    values, norms = np.array([(at.value, at.grad_norm) for at in seen]).T
    return {
        "refereed": len(looked_at),
        "accepted": int(good.sum()),
        "refused": int((claimed & ~good).sum()),
        "max_grad_norm": float(max(norms[good], default=np.nan)),
        "distinct": saddle_peers.distinct(values[good & np.isin(looked_at, first)]),
        "distinct_of": len(first),
    }


def main() -> None:
    """Measure the contender that the command line names."""
    name, *sizes = sys.argv[1:]
    K, n, d, count, repeats = map(int, sizes)
    if not name.startswith("scipy"):
        from experiments.common import set_up

        set_up()
    result = measure(name, setting(K, n, d), count, repeats)
    if not name.startswith("scipy"):
        import jax

        result |= {"device": jax.devices()[0].device_kind, "devices": jax.local_device_count()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
