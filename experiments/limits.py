"""How close the hot path is to the machine: operations and bytes counted, against its measured rates.

`python -m experiments.limits [descents|saddles]` prints one JSON object. Counted are the additions and
multiplications of the formulas, an exponential or logarithm as one (`experiments.costs`), and the bytes that
go in and out, at the rate of arrays as large as what a batch holds: those of a batch never leave the caches.
So the ratio says what a perfect program would gain, not how busy the units are.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from experiments.benchmark.settings import problem_of, setting
from experiments.common import set_up
from experiments.costs import (
    WORD,
    Cost,
    approach_cost,
    gradient_cost,
    lanczos_cost,
    product_cost,
    solve_cost,
    step_cost,
)
from ufm_jax.landscape.flat import oracle
from ufm_jax.landscape.search import LevenbergMarquardt, approach_together, descend_together
from ufm_jax.models.unconstrained import shifted
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import collapse, reduced, trimmed
from ufm_jax.models.unconstrained.stacked import batch_size, batched, product
from ufm_jax.models.unconstrained.starts import balanced
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.lanes import each_lane, jit_small

MATRIX = 2048  # size of the matrix product that stands for the machine's rate
TRIAD = 2**25  # numbers of each array of the triad that stands for its bandwidth
Part = Literal["descents", "saddles"]
REPEATS = 200  # evaluations in one timed call


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
    """Measure all cores: operations a second in a matrix product, bytes a second in a triad."""
    return {"operations_per_s": product_rate((MATRIX,) * 3), "bytes_per_s": triad_rate(TRIAD)}


def product_rate(
    sizes: tuple[int, int, int], count: int = 0, *, batch_last: bool = False, dtype: Any = jnp.float64
) -> float:
    """Measure additions and multiplications a second of an m x k by k x n product, or of `count` at once.

    Where the batch is last, the product is the one that searches write out (`unconstrained.stacked.product`).
    """
    m, k, n = sizes
    keys = jax.random.split(jax.random.key(0))
    batch = (count,) if count else ()
    shapes = [(*s, *batch) if batch_last else (*batch, *s) for s in ((m, k), (k, n))]
    A, B = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))
    return 2.0 * m * k * n * max(count, 1) / seconds(jax.jit(product if batch_last else jnp.matmul), A, B)


def triad_rate(count: int) -> float:
    """Measure bytes a second that b ← b/2 + c reads and writes, `count` numbers each, on all cores.

    In place: a new array's pages would have to be found first, which takes five times as long.
    """
    f = jax.jit(lambda b, c: b / 2.0 + c, donate_argnums=0)
    b, c = jnp.ones(count), jnp.ones(count)

    def again() -> jax.Array:
        nonlocal b
        b = f(b, c)
        return b

    return 3.0 * count * WORD / seconds(again)


@functools.cache
def cached_rate(count: int) -> float:
    """Measure the same again and again on one device, whose caches hold arrays that are small."""
    b, c = jnp.ones(count), jnp.ones(count)
    f = jit_small(lambda b, c: jax.lax.fori_loop(0, REPEATS, lambda _, b: b / 2.0 + c, b))
    return 3.0 * count * WORD * REPEATS / seconds(f, b, c)


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
    fields = _fields(prob, starts)
    begin = jax.jit(jax.vmap(small.start))(jax.random.split(jax.random.key(0), starts))
    run = jit_small(lambda fields, begin: descend_together(prob, small, fields, begin, starts))
    found = run(fields, begin)
    return seconds(run, fields, begin, repeats=3) / starts, float(jnp.mean(found.num_steps))


def step_seconds(small: Problem) -> float:
    """Time one step toward any critical point, a start of the batch that searches use, on one device."""
    width = shifted.batch_size(small)
    f = shifted.shifted(_each(small, width))
    x = f.into(_saddle_starts(small, width))

    def step(_: Any, x: jax.Array) -> jax.Array:
        grad = f.slope(x, f.data).grad
        return x - 1e-3 * f.shift(x, f.data, grad, jnp.full(width, 0.03)).re

    repeats = REPEATS // 10
    return seconds(jit_small(lambda x: jax.lax.fori_loop(0, repeats, step, x)), x) / repeats / width


def approach_seconds(prob: Problem, starts: int) -> tuple[float, float]:
    """Time one whole search toward any critical point on one device, and count its steps."""
    small = reduced(prob)
    begin, fields = _saddle_starts(small, starts), _fields(prob, starts)
    method = LevenbergMarquardt()
    run = jit_small(lambda fields, begin: approach_together(prob, small, fields, begin, starts, method))
    found = run(fields, begin)
    return seconds(run, fields, begin, repeats=3) / starts, float(jnp.mean(found.num_steps))


def table(parts: tuple[Part, ...] = ("descents", "saddles")) -> list[dict[str, Any]]:
    """Measure every row of these parts: what, on which sizes, counted, measured, its share of the limit."""
    limit = machine()
    rows: list[dict[str, Any]] = []
    one = 1 / jax.local_device_count()  # a lane has one device; large products have all cores

    def add(what: str, prob: Problem, cost: Cost, measured: float, share: float, **more: Any) -> None:
        together = int(cost.bytes / WORD * more.get("batch", 1))
        rate = limit["bytes_per_s"] if share == 1.0 else cached_rate(max(together // 2, 64))
        floor = max(cost.operations / (share * limit["operations_per_s"]), cost.bytes / rate)
        sizes = {"K": prob.num_classes, "d": prob.dim, "columns": prob.num_columns, "D": prob.num_variables}
        counted = {"operations": cost.operations, "bytes": cost.bytes}
        timed = {"measured_us": measured * 1e6, "limit_us": floor * 1e6, "share_of_limit": floor / measured}
        rows.append({"what": what, **sizes, **counted, **timed, **more})

    for K, n, d, starts in ((4, 5, 6, 2048), (10, 20, 16, 64)) if "saddles" in parts else ():
        prob = trimmed(problem_of(setting(K, n, d)))
        small = reduced(prob)  # starts have its rank, r = K − 1
        more = {"rank": small.dim, "batch": shifted.batch_size(small)}
        add("saddle step", small, step_cost(small), step_seconds(small), one, **more)
        took, steps = approach_seconds(prob, starts)
        add("saddle search", small, approach_cost(small, steps), took, one, steps=steps, **more)
    if "descents" not in parts:
        return [{"what": "machine", **limit}, *rows]
    for K, n, d, starts in ((4, 5, 6, 4096), (10, 20, 16, 1024)):
        full = problem_of(setting(K, n, d))
        small = reduced(full)
        add("gradient", small, gradient_cost(small), gradient_seconds(small), one, batch=batch_size(small))
        add("gradient", full, gradient_cost(full), gradient_seconds(full), one, batch=batch_size(full))
        add("Hessian product", small, product_cost(small), product_seconds(small), one)
        took, evaluations = solve_seconds(collapse(full), starts)
        cost = solve_cost(small, evaluations)
        add("whole descent", small, cost, took, one, batch=batch_size(small), evaluations=evaluations)
    large, basis = reduced(problem_of(setting(300, 5, 300))), 64
    add("Lanczos step", large, lanczos_cost(large, basis), lanczos_seconds(large, basis), 1.0, basis=basis)
    return [{"what": "machine", **limit}, *rows]


def _each(prob: Problem, count: int) -> Problem:
    return jax.tree.map(partial(jnp.full, count), prob)


def _fields(prob: Problem, count: int) -> dict[str, jax.Array]:
    return {name: jnp.full(count, getattr(prob, name)) for name in ("decay_w", "decay_h", "decay_b")}


def _saddle_starts(small: Problem, count: int) -> Any:
    """Draw starts toward saddles, of the highest rank."""
    return jax.jit(jax.vmap(lambda key: balanced(small, key, small.dim)))(
        jax.random.split(jax.random.key(0), count)
    )


def main() -> None:
    """Print the table as JSON, or the part of it that the command line names."""
    set_up()
    parts = tuple(part for part in get_args(Part) if not sys.argv[1:] or part in sys.argv[1:])
    print(json.dumps({"limits": table(parts), "device": jax.devices()[0].device_kind}))


if __name__ == "__main__":
    main()
