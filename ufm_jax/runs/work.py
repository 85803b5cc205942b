"""What a plan is about: the landscapes of its rows and points, and whether it can be done at all."""

from typing import Any, NamedTuple

import numpy as np

from ufm_jax import devices
from ufm_jax.landscape.grid import Grid
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.sound import check_landscape, check_settings
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import check_class_means
from ufm_jax.precision import require_x64
from ufm_jax.runs import pipeline, rough
from ufm_jax.runs.plan import LandscapeConfig, Plan, Sweep, SweepConfig, Target
from ufm_jax.runs.recipe import grid_of


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
    name = "landscape"
    if isinstance(config, SweepConfig):
        name = "dim" if config.space == "full" and config.dim > sum(config.counts) else "num_classes"
    check_plan(config, work.landscape, work.landscape, name)


def check_plan(plan: Plan, landscape: Landscape, rows: Landscape, name: str = "landscape") -> None:
    """Check that a plan can be carried out on a landscape, by searches in the space of its `rows`.

    Raises:
        ValueError: naming the target, the landscape, the argument `name` of which there is too much, a
            setting, or `search_dtype`.
    """
    _check_target(landscape, plan.target)
    check_landscape(landscape)
    _check_memory(rows, plan.targets, name)  # before measures are traced, which hold constants
    check_settings(landscape, plan.columns)
    rough.dtype_of(plan.search_dtype, rows)


def _check_target(landscape: Landscape, target: Target) -> None:
    """Check that there can be saddles of this index.

    Raises:
        ValueError: naming the target.
    """
    if isinstance(target, int) and target > landscape.space(target).num_variables:
        most = landscape.space(target).num_variables
        raise ValueError(f"target: need an index of at most {most}, got {target}")


def _check_memory(landscape: Landscape, targets: tuple[Target, ...], name: str) -> None:
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
