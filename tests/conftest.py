"""Configuration of JAX and Hypothesis, and the points that many tests speak of.

The package is imported under jaxtyping's hook, so that every annotated shape is checked at run time.
"""

import functools
import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("ufm_jax", "beartype.beartype")

# Nearly all of the suite's time is compilation of small functions that run once: without XLA's newer code
# generator for fusions, and each by one thread, it takes a third. Hot programs are compiled as users have
# them: they say so themselves (`numerics/lanes.py`). Processes that tests start inherit this.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

import ufm_jax  # noqa: E402  (sets the number of XLA's CPU workers: before the first computation)

assert ufm_jax.MIN_CPU_WORKERS > 1

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # two processes share what is small
else:
    jax.config.update("jax_enable_compilation_cache", False)  # the command line would keep programs at home


MAPS = Path("/proc/self/maps")  # of Linux; a process has 65,530, and XLA takes a hundred a test


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drop what was compiled before there are too many memory maps: XLA would crash.

    And keep none for later processes, as the command line does in whose process it runs.
    """
    yield
    lanes.keep(None)
    if MAPS.exists() and MAPS.read_text().count("\n") > 30_000:
        jax.clear_caches()


# Files of few tests that take long, or wait for processes: begun first, or one worker waits for the other.
LONG = frozenset(
    ["faults", "cluster", "census", "training", "continuation", "losses", "spectrum", "interface", "engine"]
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


def pytest_collection_finish():
    """Collect garbage seldom: a quarter of what tracing takes was looking through what lives to the end."""
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


settings.register_profile(
    "ufm",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ufm")


from ufm_jax.landscape.flat import unravel  # noqa: E402
from ufm_jax.landscape.point import ravel  # noqa: E402
from ufm_jax.landscape.search import LevenbergMarquardt, Newton, search, search_from  # noqa: E402
from ufm_jax.models.unconstrained import starts  # noqa: E402
from ufm_jax.models.unconstrained.losses import CrossEntropy, Squared  # noqa: E402
from ufm_jax.models.unconstrained.model import problem  # noqa: E402
from ufm_jax.models.unconstrained.objective import objective  # noqa: E402
from ufm_jax.models.unconstrained.problem import Params, Problem  # noqa: E402
from ufm_jax.models.unconstrained.reduction import reduced  # noqa: E402
from ufm_jax.models.unconstrained.symmetry import rank as rank_of  # noqa: E402
from ufm_jax.numerics import lanes  # noqa: E402
from ufm_jax.numerics.status import Status  # noqa: E402
from ufm_jax.runs.plan import SweepConfig  # noqa: E402

# Prefix of a command that is to end on SIGINT: the background jobs of a shell ignore it, and hand that down.
# (Not by `preexec_fn`, whose fork JAX warns of.)
HEEDED = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
HEEDING = [sys.executable, "-c", HEEDED]

CE, SMOOTH, SQUARED = CrossEntropy(), CrossEntropy(smoothing=0.1), Squared()
BALANCED, IMBALANCED = (2, 2, 2), (3, 1, 2)
# With few starts a shard, for the tests of folders and clusters to vary.
SWEEP = SweepConfig(
    counts=BALANCED, dim=2, decay_w=(5e-3,), decay_h=(1e-3,), decay_b=(1e-2,), keep_points=True
)


def make(counts, dim, *, loss=CE, bias=True, decay_b=1e-2, decay_w=5e-3, decay_h=1e-3) -> Problem:
    """Build a problem whose decays are unequal and small enough for non-zero minimisers."""
    return problem(
        counts=counts,
        dim=dim,
        decay_w=decay_w,
        decay_h=decay_h,
        decay_b=decay_b if bias else 0.0,
        bias=bias,
        loss=loss,
    )


def difference(one: pa.Table, other: pa.Table) -> str | None:
    """The first cell in which two tables differ, NaN equal to NaN; None if all bits are the same.

    (Asserted on two texts of megabytes, pytest would look for an hour which letters differ.)
    """
    if one.schema.remove_metadata() != other.schema.remove_metadata() or one.num_rows != other.num_rows:
        return f"{one.num_rows} rows of {one.column_names}, {other.num_rows} of {other.column_names}"
    for name in one.column_names:
        pairs = zip(one[name].to_pylist(), other[name].to_pylist(), strict=True)
        for row, (a, b) in enumerate(pairs):
            if repr(a) != repr(b):
                return f"{name} of row {row}: {a!r}, {b!r}"
    return None


def assert_near(one: pa.Table, other: pa.Table, but: str) -> None:
    """Tables are the same but for a column, numbers that are not whole to rounding."""
    assert one.column_names == other.column_names
    for name in set(one.column_names) - {but}:
        a, b = (table[name].to_numpy() for table in (one, other))
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


find_minimum = search


def find_critical(prob: Problem, start: Params):
    """Search for a critical point of any index near by."""
    return search(prob, start, LevenbergMarquardt())


def minimum_from_etf(prob: Problem):
    """Descend from the simplex ETF of the balanced problem."""
    small = reduced(prob)
    return search_from(prob, small, starts.mean_etf(small), Newton(radius=small.num_classes**0.5))


@jax.jit
def gradient_norm(prob: Problem, p: Params):
    """Return ‖∇f‖₂."""
    return prob.evaluate(p).grad_norm


def dual_bound(prob: Problem, p: Params):
    """Return the lower bound on the global minimum."""
    return lower_bound(prob, prob.check(p))


lower_bound = jax.jit(lambda prob, p: prob.lower_bound(p))


@jax.jit
def curvature_floor(prob: Problem, p: Params):
    """Return the lower bound on all eigenvalues."""
    return prob.known(prob.evaluate(p), "certificate").floor


@jax.jit
def null_direction(prob: Problem, p: Params):
    """Return the direction out of a point of lower rank."""
    return prob.known(prob.evaluate(p), "escape").escape


# K = 3: d below, at and above K - 1; every pair of (d, loss), (d, bias mode), (loss, bias mode) occurs once.
PROBLEMS = {
    "below-ce-decayed": make(BALANCED, 1),
    "below-smooth-undecayed": make(IMBALANCED, 1, loss=SMOOTH, decay_b=0.0),
    "below-squared-unbiased": make(IMBALANCED, 1, loss=SQUARED, bias=False),
    "at-ce-undecayed": make(IMBALANCED, 2, decay_b=0.0),
    "at-smooth-unbiased": make(BALANCED, 2, loss=SMOOTH, bias=False),
    "at-squared-decayed": make(IMBALANCED, 2, loss=SQUARED),
    "above-ce-unbiased": make(IMBALANCED, 4, bias=False),
    "above-smooth-decayed": make(IMBALANCED, 4, loss=SMOOTH),
    "above-squared-undecayed": make(BALANCED, 4, loss=SQUARED, decay_b=0.0),
}


class Zoo(NamedTuple):
    """Critical points of one problem, batched, the lowest first."""

    prob: Problem
    points: Params
    values: np.ndarray
    grad_norms: np.ndarray
    ranks: np.ndarray
    hessians: np.ndarray  # dense, of the full problem, by automatic differentiation alone


def dense(prob: Problem, p: Params):
    """Return the dense Hessian of the objective at p, by plain automatic differentiation."""
    return jax.hessian(lambda x: objective(prob)(unravel(prob, x)))(ravel(p))


dense_batch = jax.jit(jax.vmap(dense, in_axes=(None, 0)))
values_of = jax.jit(jax.vmap(lambda prob, p: objective(prob)(p), in_axes=(None, 0)))
ranks_of = jax.jit(jax.vmap(rank_of, in_axes=(None, 0)))


@jax.jit
def saddles(prob: Problem, keys):
    """Find critical points of any index from balanced starts of every rank in turn."""
    numbers = jnp.arange(len(keys), dtype=jnp.int32)
    return jax.vmap(
        lambda key, i: find_critical(prob, starts.balanced(prob, key, starts.start_rank(prob, i)))
    )(keys, numbers)


def gaussians(prob: Problem, seed: int, count: int) -> Params:
    """Draw Gaussian points of scales from 1e-3 to 1e2; by NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    scales = 10 ** rng.uniform(-3, 2, count)
    draw = lambda a: jax.device_put(scales.reshape(-1, *[1] * a.ndim) * rng.normal(size=(count, *a.shape)))
    return jax.tree.map(draw, jax.eval_shape(prob.zeros))


def keys(seed: int, count: int):
    """Return `count` random keys."""
    return jax.random.split(jax.random.key(seed), count)


def take(batch, which):
    """Index the leading axis of every leaf; by NumPy outside of a trace, where JAX compiles once a shape."""
    traced = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((batch, which)))
    return jax.tree.map(lambda a: a[which] if traced else jax.device_put(np.asarray(a)[which]), batch)


@functools.cache
def zoo(name: str) -> Zoo:
    """Return minima and saddles of `PROBLEMS[name]`, searched for once per session."""
    prob = PROBLEMS[name]
    found = saddles(prob, keys(1, 300))
    values = np.asarray(values_of(prob, found.params))
    # At most three points of each critical value: some orbits attract most starts.
    done = np.flatnonzero(np.asarray(found.status) == Status.CONVERGED)
    levels = np.round(values[done], 8)
    order = np.concatenate([done[levels == level][:3] for level in np.unique(levels)])
    points = take(found.params, np.array(order))
    return Zoo(
        prob,
        points,
        values[order],
        np.asarray(found.grad_norm)[order],
        np.asarray(ranks_of(prob, points)),
        np.asarray(dense_batch(prob, points)),
    )
