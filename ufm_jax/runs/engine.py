"""Shards of a sweep: from start numbers and decay settings to tables, one row each."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float

from ufm_jax.devices import free_memory
from ufm_jax.models.unconstrained.critical import CriticalPoint
from ufm_jax.models.unconstrained.evidence import Evidence
from ufm_jax.models.unconstrained.problem import Params, Problem, problem
from ufm_jax.models.unconstrained.reduction import check_class_means, trimmed
from ufm_jax.models.unconstrained.spectrum import NOT_COUNTED
from ufm_jax.models.unconstrained.starts import Key
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.models.unconstrained.verdict import Reason, Verdict
from ufm_jax.numerics.lanes import each_lane
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.runs.pipeline import bytes_of_call, judge, lanes_of_call, padded, search
from ufm_jax.runs.plan import Shard, SweepConfig, Target, built_loss, lanes_of, settings_of, shards

Progress = Callable[[int, Counter], None]  # rows done so far, verdicts so far


def problem_of(config: SweepConfig) -> Problem:
    """Return the problem of a sweep, decays with one entry a setting; `trimmed` unless `space` is full."""
    w, h, b = (np.array(column) for column in zip(*config.settings, strict=True))
    prob = problem(
        counts=config.counts,
        dim=config.dim,
        decay_w=w,
        decay_h=h,
        decay_b=b,
        bias=config.bias,
        loss=built_loss(config),
    )
    if config.space != "full" or config.target != "minima":
        check_class_means(prob)
    return prob if config.space == "full" else trimmed(prob)


def check(config: SweepConfig) -> None:
    """Check what a sweep is to do, before anything is computed or written.

    Raises:
        ValueError: naming the argument: for what `problem` refuses, for a loss that class means
            do not serve, for sizes whose arrays do not fit into memory, if 64-bit floating point is off.
    """
    if not isinstance(config, SweepConfig):
        raise ValueError(f"config: need a SweepConfig, got {type(config).__name__}")
    require_x64()
    prob, free = problem_of(config), free_memory()
    for target in config.targets:
        needed = jax.local_device_count() * bytes_of_call(prob, target)
        if needed > free:
            name = "dim" if config.space == "full" and config.dim > prob.num_samples else "num_classes"
            raise ValueError(
                f"{name}: K = {prob.num_classes}, d = {config.dim}, N = {prob.num_samples} to {target} takes"
                f" about {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"
            )


def sweep(config: SweepConfig, progress: Progress | None = None) -> pa.Table:
    """Run a whole sweep in memory and return its table: one row a start, setting and target.

    Raises:
        ValueError: as `check`.
    """
    check(config)
    return pa.concat_tables(table for _, table in run_shards(config, shards(config), progress))


def run_shards(
    config: SweepConfig, todo: Iterable[Shard], progress: Progress | None = None
) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield each shard in `todo` with its table; one compilation a target, whatever the settings and shards.

    Raises:
        ValueError: as `problem_of`, or if 64-bit floating point is off.
    """
    require_x64()
    prob = problem_of(config)
    key = jax.random.key(config.seed)
    best = np.asarray(_closed_forms(prob))
    seen: Counter = Counter()
    done = 0
    for shard in todo:
        size = lanes_of_call(prob, shard.target)
        batches = []
        for first in range(shard.first, shard.stop, size):
            lanes = np.arange(first, min(first + size, shard.stop))
            batches.append(_run_lanes(prob, key, shard.target, lanes, best, config))
            done += len(lanes)
            counts = batches[-1]["verdict"].value_counts().to_pylist()
            seen.update({item["values"]: item["counts"] for item in counts})
            if progress is not None:
                progress(done, seen)
        yield shard, pa.concat_tables(batches)


def _run_lanes(
    prob: Problem, key: Key, target: Target, lanes: np.ndarray, best: np.ndarray, config: SweepConfig
) -> pa.Table:
    start, setting = lanes_of(config, lanes)
    here = jax.tree.map(lambda decays: decays[setting], prob)
    point = search(here, key, start, target)
    evidence = judge(here, point.params, target, config.spectra)
    decays = settings_of(config, setting)
    kept = padded(point.params, config.dim) if config.keep_points else None
    return _table(decays, target, start, point, evidence, best[setting], kept)


@jax.jit
def _closed_forms(prob: Problem) -> Float[Array, " settings"]:
    return each_lane(global_minimum)(prob)


def _table(
    decays: dict[str, np.ndarray],
    target: str,
    start: np.ndarray,
    point: CriticalPoint,
    evidence: Evidence,
    best: np.ndarray,
    kept: Params | None,
) -> pa.Table:
    """Return the table of one call; what was not shown of a row is null."""
    e = {name: _shown(value) for name, value in evidence._asdict().items()}
    rows = {
        "start": pa.array(start.astype(np.int64)),
        "loss": pa.array(np.asarray(evidence.loss)),  # NaN where a search ended so
        "grad_norm": pa.array(np.asarray(evidence.grad_norm)),
        "status": _names(Status, point.status),
        "verdict": _names(Verdict, evidence.verdict),
        **{
            name: e[name]
            for name in (
                *("rank", "index", "nullity", "lambda_min", "lambda_min_residual", "dual_bound", "dual_gap"),
                *("nc1", "nc2", "nc3", "nc4"),
            )
        },
        "num_steps": pa.array(np.asarray(point.num_steps)),
        "target": pa.repeat(target, len(start)),
        **{name: pa.array(values) for name, values in decays.items()},
        "negative_curvature": e["negative_curvature"],
        "reason": _names(Reason, evidence.reason),
        "closed_form_loss": _shown(best),
    }
    if kept is not None:
        rows |= {name: _tensors(a) for name, a in zip("WHb", kept, strict=True) if a is not None}
    return pa.table(rows)


def _shown(values: Any) -> pa.Array:
    """Return numbers with null for NaN, and for what was NOT_COUNTED."""
    values = np.asarray(values)
    return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else values == NOT_COUNTED)


def _names(codes: type[Status] | type[Verdict] | type[Reason], values: Any) -> pa.Array:
    names = pa.array([codes(code).name for code in range(len(codes))])  # by code, which count from 0
    return pa.DictionaryArray.from_arrays(pa.array(np.asarray(values)), names).cast(pa.string())


def _tensors(a: Any) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a))
