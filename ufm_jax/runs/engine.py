"""Shards of a sweep: from start numbers and settings to tables, one row each."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array, Float

from ufm_jax import devices
from ufm_jax.landscape.evidence import Evidence
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.grid import Grid, num_settings
from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.landscape.point import leaf_name
from ufm_jax.landscape.search import CriticalPoint
from ufm_jax.landscape.sound import check_landscape, check_settings
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import check_class_means
from ufm_jax.numerics.kept import rehearsal
from ufm_jax.numerics.lanes import each_lane, for_few, keeps
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64
from ufm_jax.runs import by_orbit, merge, pipeline, rough
from ufm_jax.runs.plan import (
    LandscapeConfig,
    Plan,
    Shard,
    Sweep,
    SweepConfig,
    Target,
    lanes_of,
    settings_of,
    shards,
)
from ufm_jax.runs.recipe import grid_of

# Starts times the cube of the variables of one search. Programs compiled in haste saved 5 s at K = 4 (28
# variables) on 2 cores and cost 0.3 ms more a start, so they pay up to some 10,000 starts there.
HASTE = 2**27

Progress = Callable[[int, Counter], None]  # rows done so far, verdicts so far


class Work(NamedTuple):
    """What a plan is about."""

    landscape: Landscape  # its rows' (`Landscape.space`)
    points: Landscape  # that of the points to keep
    settings: dict[str, np.ndarray]  # fields of the landscape that differ, one entry a setting
    starts: Any = None  # one's own, along the first axis of every leaf


def work_of(config: Sweep) -> Work:
    """Return what a configuration is about.

    Raises:
        ValueError: naming the loss, for one that class means do not serve, and as `grid_of`.
    """
    grid = grid_of(config)
    if isinstance(config, LandscapeConfig):
        return work_on(grid, config)
    prob = grid.landscape
    assert isinstance(prob, Problem)
    if config.space == "full":
        for target in config.targets:
            prob.space(target)
        return Work(prob, prob, grid.settings)
    check_class_means(prob)
    return work_on(grid, config)


def work_on(grid: Grid, plan: Plan, starts: Any = None) -> Work:
    """Return what is to be done on a landscape at some settings."""
    whole = grid.landscape
    rows = whole.space("points" if isinstance(plan.target, int) else "rows")
    return Work(rows, whole.space("points"), grid.settings, starts)


def check(config: Sweep) -> None:
    """Check what a sweep is to do, before anything is computed or written.

    Raises:
        ValueError: naming the argument: as `work_of` and `rough.dtype_of`, for sizes whose arrays do not fit
            into memory, if 64-bit floating point is off.
    """
    if not isinstance(config, SweepConfig | LandscapeConfig):
        raise ValueError(f"config: need a SweepConfig or LandscapeConfig, got {type(config).__name__}")
    require_x64()
    work = work_of(config)
    require_x64(work.landscape)
    _check_target(work.landscape, config.target)
    check_landscape(work.landscape)
    name = "landscape"
    if isinstance(config, SweepConfig):
        name = "dim" if config.space == "full" and config.dim > sum(config.counts) else "num_classes"
    _check_memory(work.landscape, config.targets, name)  # before measures are traced, which hold constants
    check_settings(work.landscape, config.columns)
    rough.dtype_of(config.search_dtype, work.landscape)


def _check_target(landscape: Landscape, target: Target) -> None:
    """Check that there can be saddles of this index.

    Raises:
        ValueError: naming the target.
    """
    if isinstance(target, int) and target > landscape.space(target).num_variables:
        most = landscape.space(target).num_variables
        raise ValueError(f"target: need an index of at most {most}, got {target}")


def _check_memory(landscape: Landscape, targets: tuple[Target, ...], name: str = "landscape") -> None:
    """Check that the arrays of one call fit into memory.

    Raises:
        ValueError: naming the argument `name`, of which there is too much.
    """
    free = devices.free_memory()
    for target in targets:
        needed = len(devices.local()) * pipeline.bytes_of_call(landscape, target)
        if needed > free:
            raise ValueError(
                f"{name}: {landscape.name} with {landscape.num_variables} variables and target {target!r} "
                f"takes about {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"
            )


def sweep(config: Sweep, progress: Progress | None = None) -> pa.Table:
    """Run a whole sweep in memory and return its table: one row a start, setting and target.

    Raises:
        ValueError: as `check`.
    """
    check(config)
    return merge.rows_of(config, tables(work_of(config), config, shards(config), progress)).table


def run_shards(
    config: Sweep, todo: Iterable[Shard], progress: Progress | None = None
) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield each shard in `todo` with its table, for a folder; one compilation a target, whatever the shards.

    Whether in haste (`_few`) depends on the configuration alone, and so do the last bits of the rows: whoever
    goes on with a folder, a command, a worker or Python, writes what the others would have written, on as
    many devices (of a CPU the command has one a core, `devices.use_all_cores`, and Python one by default).

    Raises:
        ValueError: as `work_of`, or if 64-bit floating point is off.
    """
    require_x64()
    work = work_of(config)
    return tables(work, config, todo, progress, few=_few(work, config))


def tables(
    work: Work, plan: Plan, todo: Iterable[Shard], progress: Progress | None = None, *, few: bool = False
) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield each shard in `todo` with its table, which holds the points if the plan says so."""
    for shard, ends in judged(work, plan, todo, progress, few=few):
        lifted = None if ends.points is None else jax.device_get(work.points.lift(ends.points))
        yield shard, _with_points(ends.rows, lifted)


class Ends(NamedTuple):
    """Where the searches of one shard ended."""

    rows: pa.Table
    points: Any  # of `Work.landscape`, along the first axis of every leaf; None unless the plan keeps them
    setting: np.ndarray


@dataclass(frozen=True, kw_only=True)
class InMemory(Plan):
    """A plan for a landscape at hand, which no folder need name."""

    grid: Grid

    @property
    def num_settings(self) -> int:
        return num_settings(self.grid)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return self.grid.columns


def in_memory(grid: Grid, starts: Any, **plan: Any) -> tuple[Plan, Any]:
    """Return the plan of a landscape at hand, and one's own starts: None where `starts` is their number.

    Raises:
        ValueError: naming the argument, as `Plan`; the leaf of `starts` that is not as the landscape's; as
            `check_landscape`, `_check_memory` and `rough.dtype_of`.
    """
    own = None
    if isinstance(starts, bool | float | str):
        raise ValueError(f"starts: need a number of them, or points, got {starts!r}")
    if not isinstance(starts, int | np.integer):
        own = jax.tree.map(np.asarray, grid.landscape.check(starts, many=True))
        starts = len(jax.tree.leaves(own)[0])
    made = InMemory(grid=grid, starts=int(starts), **plan)
    check_landscape(grid.landscape)
    _check_target(grid.landscape, made.target)
    _check_memory(work_on(grid, made).landscape, made.targets)
    check_settings(grid.landscape, made.columns)
    rough.dtype_of(made.search_dtype, work_on(grid, made).landscape)
    return made, own


def all_ends(work: Work, plan: Plan, progress: Progress | None = None) -> Ends:
    """Run a whole sweep and return all its rows and points."""
    parts = list(judged(work, plan, shards(plan), progress))
    rows = merge.rows_of(plan, ((shard, ends.rows) for shard, ends in parts)).table
    points = jax.tree.map(lambda *a: np.concatenate(a), *(ends.points for _, ends in parts))
    return Ends(rows, points, np.concatenate([ends.setting for _, ends in parts]))


def search_again(grid: Grid, plan: Plan, own: Any, setting: int, which: tuple[int, Target]) -> Any:
    """Return where one search of a sweep ended, which is no other the second time."""
    (number, target), work = which, work_on(grid, plan, own)
    fields = {name: values[[setting]] for name, values in work.settings.items()}
    with for_few(not isinstance(plan, InMemory) and _few(work, plan)):
        point = _ends(work, plan, fields, jax.random.key(plan.seed), np.array([number]), target)
    return jax.tree.map(lambda a: a[0], point.x)


def _ends(
    work: Work, plan: Plan, fields: pipeline.Fields, key: Key, start: np.ndarray, target: Target
) -> CriticalPoint:
    dtype = rough.dtype_of(plan.search_dtype, work.landscape)
    if work.starts is None:
        return pipeline.search(work.landscape, fields, key, start, target, dtype)
    begin = jax.tree.map(lambda a: a[start], work.starts)
    return pipeline.from_starts(work.landscape, fields, begin, target, dtype)


def points_in(table: pa.Table, grid: Grid | None) -> Any:
    """Return the points that a table's columns hold, or None."""
    if grid is None:
        return None
    like = jax.eval_shape(grid.landscape.space("points").zeros)
    names = [leaf_name(path) for path, _ in tree_flatten_with_path(like)[0]]
    if any(name not in table.column_names for name in names):
        return None
    held = [
        column.to_numpy_ndarray() if hasattr(column, "to_numpy_ndarray") else column.to_numpy()
        for column in (table[name].combine_chunks() for name in names)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), held)


def settings_in(table: pa.Table, plan: Plan) -> np.ndarray:
    """Return the number of the setting of each row, by its columns."""
    number = np.zeros(table.num_rows, int)
    if plan.num_settings > 1:
        rows = np.stack([table[name].to_numpy() for name in plan.columns], axis=1)
        for setting, values in enumerate(zip(*plan.columns.values(), strict=True)):
            number[np.all(rows == values, axis=1)] = setting
    return number


def judged(
    work: Work, plan: Plan, todo: Iterable[Shard], progress: Progress | None = None, *, few: bool = False
) -> Iterator[tuple[Shard, Ends]]:
    """Search and judge the lanes of each shard in `todo`, some hundreds or more in one call.

    By programs that are compiled in haste, where there are `few`.
    """
    key = jax.random.key(plan.seed)
    best = np.asarray(_known_minima(work.landscape, work.settings))
    finished: Counter = Counter()
    done = 0
    for number, shard in enumerate(todo):
        if number == 0 and keeps():
            _rehearse(work, plan, shard.target, few)
        start, setting = lanes_of(plan, np.arange(shard.first, shard.stop))
        fields = {name: values[setting] for name, values in work.settings.items()}
        size = pipeline.lanes_of_call(work.landscape, shard.target)
        calls = []
        with for_few(few):
            for first in range(0, len(start), size):
                part = slice(first, first + size)
                here = {name: values[part] for name, values in fields.items()}
                point = _ends(work, plan, here, key, start[part], shard.target)
                calls.append((point, _look(work, plan, here, point.x, shard.target)))
                done += len(start[part])
                if progress is not None and part.stop < len(start):
                    progress(done, finished + _decided(calls))
            point, seen = jax.tree.map(lambda *a: np.concatenate(a), *calls)
            found = by_orbit.unsorted(seen)
            if plan.spectra == "all":
                found = by_orbit.sort(work.landscape, fields, point.x, seen, setting)
        rows = table_of(settings_of(plan, setting), shard.target, start, point, found, best[setting])
        finished.update(_verdicts(found.evidence))
        if progress is not None:
            progress(done, finished)
        yield shard, Ends(rows, point.x if plan.keep_points else None, setting)


def _few(work: Work, plan: Plan) -> bool:
    """Say whether a plan's searches are so few that it pays to compile in haste, by what a solve costs."""
    variables = max(work.landscape.space(target).num_variables for target in plan.targets)
    return len(plan.targets) * plan.starts * plan.num_settings * variables**3 <= HASTE


def _rehearse(work: Work, plan: Plan, target: Target, few: bool) -> None:
    """Have threads load or compile what is needed later, while that for `target` is compiled and runs.

    What fails there fails again, and is said, where it is needed.
    """
    zeros = jax.eval_shape(work.landscape.zeros)
    x = jax.tree.map(lambda a: np.zeros((1, *a.shape), a.dtype), zeros)
    fields = {name: values[:1] for name, values in work.settings.items()}
    key, number = jax.random.key(plan.seed), np.zeros(1, int)

    def judge(target: Target) -> None:
        seen = _look(work, plan, fields, x, target)
        if plan.spectra == "all" and target == plan.targets[0]:
            by_orbit.rehearse(work.landscape, fields, x, seen)

    def begin(part: Callable[[Target], Any], target: Target) -> None:
        def run() -> None:
            with contextlib.suppress(Exception), rehearsal(), for_few(few):
                part(target)

        threading.Thread(target=run, daemon=True).start()

    for other in plan.targets:
        if other != target:
            begin(lambda target: _ends(work, plan, fields, key, number, target), other)
        begin(judge, other)


def _look(work: Work, plan: Plan, fields: pipeline.Fields, x: Any, target: Target) -> by_orbit.Seen:
    """Judge the ends of one call as far as that needs no others."""
    if plan.spectra == "all":
        return by_orbit.look(work.landscape, fields, x, target)
    evidence = pipeline.judge(work.landscape, fields, x, target, plan.spectra)
    return by_orbit.Seen(evidence, np.zeros((len(evidence.loss), 0)))


def _decided(calls: list[tuple[CriticalPoint, by_orbit.Seen]]) -> Counter:
    """Count the verdicts of an unfinished shard; what is undecided may not stay so."""
    counts = sum((_verdicts(seen.evidence) for _, seen in calls), Counter())
    del counts[Verdict.UNDECIDED.name]
    return counts


def _verdicts(evidence: Evidence) -> Counter:
    codes, counts = np.unique(evidence.verdict, return_counts=True)
    return Counter({Verdict(code).name: int(count) for code, count in zip(codes, counts, strict=True)})


@jax.jit
def _known_minima(landscape: Landscape, settings: dict[str, Any]) -> Float[Array, " settings"]:
    if not settings:
        return landscape.known_minimum()[None]
    return each_lane(lambda fields: at_lane(landscape, fields).known_minimum())(settings)


def table_of(
    columns: dict[str, np.ndarray],
    target: Target,
    start: np.ndarray,
    point: CriticalPoint,
    found: by_orbit.Sorted,
    best: np.ndarray,
) -> pa.Table:
    """Return the table of one shard; what was not shown of a row is null."""
    evidence = found.evidence
    shown = evidence.columns()
    measures = {name: np.asarray(values) for name, values in evidence.measures.items()}
    numbers = {name: values for name, values in measures.items() if values.dtype.kind == "i"}
    evident = ("index", "nullity", "lambda_min", "lambda_min_residual", "dual_bound", "dual_gap")
    return pa.table(
        {
            "start": pa.array(start.astype(np.int64)),
            "loss": pa.array(np.asarray(evidence.loss)),  # NaN where a search ended so
            "grad_norm": pa.array(np.asarray(evidence.grad_norm)),
            "status": _names(Status, point.status),
            "verdict": _names(Verdict, evidence.verdict),
            **{name: pa.array(values) for name, values in numbers.items()},
            **{name: _shown(shown[name]) for name in evident},
            **{name: _shown(values) for name, values in measures.items() if name not in numbers},
            "num_steps": pa.array(np.asarray(point.num_steps)),
            "target": pa.repeat(str(target), len(start)),
            **{name: pa.array(values) for name, values in columns.items()},
            "negative_curvature": _shown(evidence.negative_curvature),
            "reason": _names(Reason, evidence.reason),
            "closed_form_loss": _shown(best),
            "rel_grad_norm": pa.array(np.asarray(evidence.rel_grad_norm)),
            "rel_dual_gap": _shown(evidence.rel_dual_gap),
            "orbit": pa.array(found.orbit, pa.int64(), mask=found.orbit < 0),
            "invariants": _vectors(len(start), found.best, found.invariants),
        }
    )


def _with_points(rows: pa.Table, points: Any) -> pa.Table:
    """Return rows with a column of tensors for each leaf of their points."""
    for path, array in tree_flatten_with_path(points)[0]:
        rows = rows.append_column(leaf_name(path), _tensors(array))
    return rows


def _shown(values: Any) -> pa.Array:
    """Return numbers with null for NaN, and for what was NOT_COUNTED."""
    values = np.asarray(values)
    return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else values == NOT_COUNTED)


def _vectors(size: int, rows: np.ndarray, vectors: np.ndarray) -> pa.Array:
    """Return a column of `size` lists that has these vectors in these rows, and null elsewhere."""
    order, held = np.argsort(rows), np.zeros(size, bool)
    held[rows] = True
    ends = np.cumsum(held) * vectors.shape[1]
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(vectors[order])), mask=pa.array(~held))


def _names(codes: type[Status] | type[Verdict] | type[Reason], values: Any) -> pa.Array:
    names = pa.array([codes(code).name for code in range(len(codes))])  # by code, which count from 0
    return pa.DictionaryArray.from_arrays(pa.array(np.asarray(values)), names).cast(pa.string())


def _tensors(a: Any) -> pa.Array:
    if np.ndim(a) == 1:  # a number a row
        return pa.array(np.asarray(a))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a))
