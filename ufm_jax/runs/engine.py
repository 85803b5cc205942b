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
from jaxtyping import Array, Float

from ufm_jax.landscape.evidence import Evidence
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.grid import Grid, num_settings
from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.landscape.search import CriticalPoint
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.numerics.kept import rehearsal
from ufm_jax.numerics.lanes import each_lane, for_few, keeps
from ufm_jax.precision import require_x64
from ufm_jax.runs import by_orbit, merge, pipeline, rough
from ufm_jax.runs.plan import (
    Plan,
    Shard,
    Sweep,
    Target,
    lanes_of,
    settings_of,
    shards,
)
from ufm_jax.runs.table import table_of, with_points
from ufm_jax.runs.work import Work, check, check_plan, work_of, work_on

# Starts times the cube of the variables of one search. Programs compiled in haste saved 5 s at K = 4 (28
# variables) on 2 cores and cost 0.3 ms more a start, so they pay up to some 10,000 starts there the first
# time, and to 3,000 where the same is asked a few times.
HASTE = 2**26

Progress = Callable[[int, Counter], None]  # rows done so far, verdicts so far


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
        yield shard, with_points(ends.rows, lifted)


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
            `check_plan`.
    """
    own = None
    if isinstance(starts, bool | float | str):
        raise ValueError(f"starts: need a number of them, or points, got {starts!r}")
    if not isinstance(starts, int | np.integer):
        own = jax.tree.map(np.asarray, grid.landscape.check(starts, many=True))
        starts = len(jax.tree.leaves(own)[0])
    made = InMemory(grid=grid, starts=int(starts), **plan)
    check_plan(made, grid.landscape, work_on(grid, made).landscape)
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
