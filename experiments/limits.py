"""How close the hot path is to the machine: operations and bytes counted, against its measured rates.

`python -m experiments.limits` prints one JSON object. Counted are the additions and multiplications of the
formulas, an exponential or logarithm as one, and the bytes that must move if everything else stays in cache:
so the ratio says what a perfect program would gain, not how busy the units are.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmark.contenders import problem_of, setting
from experiments.common import set_up
from ufm_jax.landscape.flat import oracle
from ufm_jax.landscape.search import descend_together
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import collapse, reduced
from ufm_jax.models.unconstrained.stacked import batch_size, batched, product
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.lanes import each_lane, jit_small

MATRIX = 2048  # size of the matrix product that stands for the machine's rate
TRIAD = 2**25  # numbers of each array of the triad that stands for its bandwidth
REPEATS = 200  # evaluations in one timed call
WORD = 8


class Cost(NamedTuple):
    """What one application needs, for one start."""

    operations: float
    bytes: float


def gradient_cost(prob: Problem) -> Cost:
    """Three products of K x d by d x C, the softmax, the decays; x is read, the gradient written."""
    K, d, C, D = prob.num_classes, prob.dim, prob.num_columns, prob.num_variables
    return Cost(6 * K * d * C + 10 * K * C + 5 * D, 2 * D * WORD)


def product_cost(prob: Problem) -> Cost:
    """Six products, the curvature of the softmax, the decays; x, v are read, the product written."""
    K, d, C, D = prob.num_classes, prob.dim, prob.num_columns, prob.num_variables
    return Cost(12 * K * d * C + 6 * K * C + 2 * D, 3 * D * WORD)


def lanczos_cost(prob: Problem, basis: int) -> Cost:
    """A Hessian product, and two passes of orthogonalisation against half of the basis on average."""
    D = prob.num_variables
    return Cost(
        product_cost(prob).operations + 4 * D * basis, product_cost(prob).bytes + 2 * D * basis * WORD
    )


def solve_cost(prob: Problem, evaluations: float) -> Cost:
    """`evaluations` gradients, and for each the four inner products and three updates of memoryless BFGS."""
    one, D = gradient_cost(prob), prob.num_variables
    return Cost(evaluations * (one.operations + 15 * D), 2 * D * WORD)


def seconds(f: Callable[..., Any], *args: Any, repeats: int = 5) -> float:
    """Return the least time of a call after the first."""
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - began)
    return min(times)


def machine() -> dict[str, float]:
    """Measure all cores: operations a second in a matrix product, bytes a second in a = b + 2 c."""
    return {"operations_per_s": product_rate((MATRIX,) * 3), "bytes_per_s": triad_rate(TRIAD)}


def product_rate(sizes: tuple[int, int, int], count: int = 0, *, batch_last: bool = False) -> float:
    """Measure additions and multiplications a second of an m x k by k x n product, or of `count` at once.

    Where the batch is last, the product is the one that searches write out (`unconstrained.stacked.product`).
    """
    m, k, n = sizes
    keys = jax.random.split(jax.random.key(0))
    batch = (count,) if count else ()
    shapes = [(*s, *batch) if batch_last else (*batch, *s) for s in ((m, k), (k, n))]
    A, B = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return 2.0 * m * k * n * max(count, 1) / seconds(jax.jit(product if batch_last else jnp.matmul), A, B)


def triad_rate(count: int) -> float:
    """Measure bytes a second that a = b + 2 c reads and writes, `count` numbers each."""
    b, c = jnp.ones(count), jnp.ones(count)
    return 3.0 * count * WORD / seconds(jax.jit(lambda b, c: b + 2.0 * c), b, c)


def gradient_seconds(prob: Problem) -> float:
    """Time one gradient, a start of the batch that searches use, on one device."""
    B = batch_size(prob)
    many = batched(_each(prob, B))
    f, lanes = many.at, many.data
    x = jax.random.normal(jax.random.key(0), (prob.num_variables, B))
    step = lambda i, x: x - 1e-3 * f(x, lanes)[1]
    return seconds(jit_small(lambda x: jax.lax.fori_loop(0, REPEATS, step, x)), x) / REPEATS / B


def product_seconds(prob: Problem, lanes: int = 64) -> float:
    """Time one Hessian product as Newton's method makes it, lane after lane, on one device."""
    hv = lambda x, v: oracle(prob)(x).hv(v)

    def products(x: jax.Array) -> jax.Array:
        here = oracle(prob)(x)
        return jax.lax.fori_loop(0, REPEATS, lambda i, v: here.hv(v) * 0.5, hv(x, x))

    x = jax.random.normal(jax.random.key(0), (lanes, prob.num_variables))
    return seconds(jit_small(lambda x: each_lane(products)(x)), x) / REPEATS / lanes


def lanczos_seconds(prob: Problem, basis: int) -> float:
    """Time one Lanczos step, on one device."""
    x = jax.random.normal(jax.random.key(0), (prob.num_variables,))

    def run(x: jax.Array) -> Any:
        hv = oracle(prob)(x).hv
        return extreme_eigenpairs(
            hv, x.size, key=jax.random.key(1), rtol=1e-30, basis_size=basis, max_restarts=1, dtype=x.dtype
        ).values

    return seconds(jax.jit(run), x, repeats=3) / basis


def solve_seconds(prob: Problem, starts: int) -> tuple[float, float]:
    """Time one whole descent on one device, and count its evaluations."""
    small = prob.space("minima")
    fields = {name: jnp.full(starts, getattr(prob, name)) for name in ("decay_w", "decay_h", "decay_b")}
    begin = jax.jit(jax.vmap(small.start))(jax.random.split(jax.random.key(0), starts))
    run = jit_small(lambda fields, begin: descend_together(prob, small, fields, begin, starts))
    found = run(fields, begin)
    return seconds(run, fields, begin, repeats=3) / starts, float(jnp.mean(found.num_steps))


def table() -> list[dict[str, Any]]:
    """Measure every row: what, on which sizes, counted, measured, and its share of the limit."""
    limit = machine()
    rows: list[dict[str, Any]] = []
    one = 1 / jax.local_device_count()  # a lane has one device; large products have all cores

    def add(what: str, prob: Problem, cost: Cost, measured: float, share: float, **more: Any) -> None:
        at_best = (cost.operations / limit["operations_per_s"], cost.bytes / limit["bytes_per_s"])
        floor = max(at_best) / share
        sizes = {"K": prob.num_classes, "d": prob.dim, "columns": prob.num_columns, "D": prob.num_variables}
        counted = {"operations": cost.operations, "bytes": cost.bytes}
        timed = {"measured_us": measured * 1e6, "limit_us": floor * 1e6, "share_of_limit": floor / measured}
        rows.append({"what": what, **sizes, **counted, **timed, **more})

    for K, n, d, starts in ((4, 5, 6, 4096), (10, 20, 16, 1024)):
        full = problem_of(setting(K, n, d))
        small = reduced(full)
        add("gradient", small, gradient_cost(small), gradient_seconds(small), one, batch=batch_size(small))
        add("gradient", full, gradient_cost(full), gradient_seconds(full), one, batch=batch_size(full))
        add("Hessian product", small, product_cost(small), product_seconds(small), one)
        took, evaluations = solve_seconds(collapse(full), starts)
        add("whole descent", small, solve_cost(small, evaluations), took, one, evaluations=evaluations)
    large, basis = reduced(problem_of(setting(300, 5, 300))), 64
    add("Lanczos step", large, lanczos_cost(large, basis), lanczos_seconds(large, basis), 1.0, basis=basis)
    return [{"what": "machine", **limit}, *rows]


def _each(prob: Problem, count: int) -> Problem:
    return jax.tree.map(partial(jnp.full, count), prob)


def main() -> None:
    """Print the table as JSON."""
    set_up()
    print(json.dumps({"limits": table(), "device": jax.devices()[0].device_kind}))


if __name__ == "__main__":
    main()
