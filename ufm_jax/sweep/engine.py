"""The pipeline start -> search -> evidence -> verdict, vmapped over starts and decays."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.critical import CriticalPoint, critical_from, minimum_from, start_rank
from ufm_jax.landscape.evidence import Evidence, examine
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.starts import Key
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.model.losses import loss_of
from ufm_jax.model.problem import Problem, problem
from ufm_jax.model.reduction import check_class_means, collapse
from ufm_jax.model.theory import global_minimum
from ufm_jax.numerics.lanes import each_lane
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.sweep.plan import Shard, SweepConfig, shards

# Lanes of one call: progress is reported and memory bounded by it.
BATCH = 256

Progress = Callable[[int, Counter], None]  # rows done so far, verdicts so far


def problem_of(config: SweepConfig) -> Problem:
    """Return the problem of a sweep, decays with one entry a setting; collapsed unless `space` is full."""
    w, h, b = (np.array(column) for column in zip(*config.settings, strict=True))
    prob = problem(
        counts=config.counts,
        dim=config.dim,
        decay_w=w,
        decay_h=h,
        decay_b=b,
        bias=config.bias,
        loss=loss_of(config.loss, config.smoothing, config.gamma),
    )
    if config.space != "full" or config.target != "minima":
        check_class_means(prob)
    return prob if config.space == "full" else collapse(prob)


def sweep(config: SweepConfig, progress: Progress | None = None) -> pa.Table:
    """Run a whole sweep in memory and return its table: one row a start, setting and target."""
    return pa.concat_tables(run_shards(config, list(shards(config)), progress))


def run_shards(
    config: SweepConfig, todo: list[Shard], progress: Progress | None = None
) -> Iterator[pa.Table]:
    """Yield the table of each shard in `todo`; one compilation a target, however many settings and shards.

    Raises:
        ValueError: if 64-bit floating point is off, or for what `model.problem.problem` refuses.
    """
    require_x64()
    prob = problem_of(config)
    key = jax.random.key(config.seed)
    seen: Counter = Counter()
    done = 0
    for shard in todo:
        batches = []
        for first in range(shard.first, shard.stop, BATCH):
            lanes = np.arange(first, min(first + BATCH, shard.stop))
            batches.append(_run_lanes(prob, key, shard.target, lanes, config))
            done += len(lanes)
            seen.update(batches[-1]["verdict"].to_pylist())
            if progress is not None:
                progress(done, seen)
        yield pa.concat_tables(batches)


def _run_lanes(prob: Problem, key: Key, target: str, lanes: np.ndarray, config: SweepConfig) -> pa.Table:
    padded = np.resize(lanes, BATCH) if len(lanes) < BATCH and lanes[0] > 0 else lanes
    start, setting = padded % config.starts, padded // config.starts
    here = jax.tree.map(lambda decays: decays[setting], prob)
    lane_results = jax.device_get(_lanes(here, key, jnp.asarray(start, jnp.int32), target))
    point, evidence, best = jax.tree.map(lambda a: a[: len(lanes)], lane_results)
    decays = np.array(config.settings)[setting[: len(lanes)]]
    return _table(decays, target, start[: len(lanes)], point, evidence, best, config.keep_points)


@partial(jax.jit, static_argnames="target")
def _lanes(
    prob: Problem, key: Key, start: Int[Array, " B"], target: str
) -> tuple[CriticalPoint, Evidence, Float[Array, " B"]]:
    def lane(prob: Problem, start: Int[Array, ""]) -> tuple[CriticalPoint, Evidence, Float[Array, ""]]:
        own = jax.random.fold_in(key, start)
        point = (
            minimum_from(prob, own)
            if target == "minima"
            else critical_from(prob, own, start_rank(prob, start))
        )
        return point, examine(prob, point.params).evidence, global_minimum(prob)

    return each_lane(lane)(prob, start)


def _table(
    decays: np.ndarray,
    target: str,
    start: np.ndarray,
    point: CriticalPoint,
    evidence: Evidence,
    best: np.ndarray,
    keep_points: bool,
) -> pa.Table:
    """Return the table of one call; `index` and `nullity` are null where they were not counted."""
    e = {name: pa.array(np.asarray(value)) for name, value in evidence._asdict().items()}
    for name in ("index", "nullity"):
        values = np.asarray(getattr(evidence, name))
        e[name] = pa.array(values, mask=values == NOT_COUNTED)
    rows = {
        "start": pa.array(start.astype(np.int64)),
        "loss": e["loss"],
        "grad_norm": e["grad_norm"],
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
        "target": pa.array([target] * len(start)),
        "decay_w": pa.array(decays[:, 0]),
        "decay_h": pa.array(decays[:, 1]),
        "decay_b": pa.array(decays[:, 2]),
        "negative_curvature": e["negative_curvature"],
        "reason": _names(Reason, evidence.reason),
        "closed_form_loss": pa.array(np.asarray(best)),
    }
    if keep_points:
        rows |= {name: _tensors(a) for name, a in zip("WHb", point.params, strict=True) if a is not None}
    return pa.table(rows)


def _names(codes: type[Status] | type[Verdict] | type[Reason], values: Any) -> pa.Array:
    return pa.array([codes(int(v)).name for v in np.asarray(values)])


def _tensors(a: Any) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a))
