"""How a landscape is made: from a configuration that a folder can hold, and back."""

from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np

from ufm_jax import objects
from ufm_jax.landscape.grid import Grid
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.runs.plan import (
    CensusConfig,
    LandscapeCensusConfig,
    LandscapeConfig,
    Sweep,
    SweepConfig,
    built_loss,
)

HELD = 10_000  # numbers of a leaf that a manifest holds


def grid_of(config: Sweep) -> Grid:
    """Make the landscapes that a configuration names, which are to differ in their leaves alone.

    Raises:
        ValueError: naming the argument that `unconstrained.model.problem` refuses; naming the landscape, for
            what `objects.make` refuses, if it is none, or if a setting with several values changes what is
            compiled.
    """
    if isinstance(config, SweepConfig):
        settings: dict[str, Any] = config.columns
        first: dict[str, Any] = {name: values[0] for name, values in settings.items()}
        loss = built_loss(config)
        prob = problem(counts=config.counts, dim=config.dim, bias=config.bias, loss=loss, **first)
        problem(counts=config.counts, dim=config.dim, bias=config.bias, **settings)  # checks all decays
        return Grid(prob, settings)
    given = dict(config.landscape.settings)
    made = [
        landscape_named(replace(config.landscape, settings=objects.held(given | more)))
        for more in config.combinations
    ]
    leaves = type(made[0]).leaf_names()
    forms: list[Any] = [jax.tree.structure(one) for one in made]
    if any(form != forms[0] for form in forms):
        raise ValueError(
            f"set: {', '.join(n for n, _ in config.grid)}: these values change the sizes or choices of "
            f"{made[0].name}, which are compiled in; give each a sweep of its own"
        )
    stacked = {n: jax.tree.map(lambda *a: np.stack(a), *(getattr(one, n) for one in made)) for n in leaves}
    differ = {n: v for n, v in stacked.items() if any(np.any(a != a[:1]) for a in jax.tree.leaves(v))}
    if len(made) > 1 and not differ:
        raise ValueError(
            f"set: {', '.join(n for n, _ in config.grid)}: all values make one and the same landscape"
        )
    return Grid(made[0], differ)


def landscape_of(config: CensusConfig | LandscapeCensusConfig) -> Landscape:
    """Make the landscape that a census is of.

    Raises:
        ValueError: as `grid_of`.
    """
    if isinstance(config, LandscapeCensusConfig):
        return landscape_named(config.landscape)
    names = ("counts", "dim", "decay_w", "decay_h", "decay_b", "bias")
    return problem(**{name: getattr(config, name) for name in names}, loss=built_loss(config))


def landscape_named(spec: objects.Spec) -> Landscape:
    """Make a landscape of its name and parameters.

    Raises:
        ValueError: as `objects.make`; naming the landscape, if it is none.
    """
    one = objects.make("landscape", spec)
    if isinstance(one, type) or not isinstance(one, Landscape):
        raise ValueError(
            f"landscape: {spec.name} must be, or return, a Landscape; got {type(one).__name__} "
            "(a function without parameters is called, too)"
        )
    return one


def census_config_of(
    landscape: Landscape, *, starts: int | None, seed: int
) -> CensusConfig | LandscapeCensusConfig:
    """Return the configuration by which a folder says what a census of this landscape is.

    Raises:
        ValueError: naming what a folder cannot hold of the landscape.
    """
    if isinstance(landscape, Problem):
        decays: dict[str, Any] = {n: float(getattr(landscape, n)) for n in ("decay_w", "decay_h", "decay_b")}
        sizes: dict[str, Any] = {n: getattr(landscape, n) for n in ("counts", "dim", "bias", "loss")}
        return CensusConfig(**sizes, **decays, seed=seed, starts=starts)
    return LandscapeCensusConfig(_landscape_spec(landscape, set()), seed=seed, starts=starts)


def config_of(grid: Grid, *, starts: Any, **plan: Any) -> Sweep:
    """Return the configuration by which a folder says what a sweep of this landscape is.

    Raises:
        ValueError: naming `starts`, if they are one's own; naming what a folder cannot hold of the landscape.
    """
    if isinstance(starts, bool) or not isinstance(starts, int | np.integer):
        raise ValueError("starts: a folder holds runs of a number of random starts; leave out= for your own")
    axes = grid.axes
    if axes is None:
        raise ValueError("landscape: a folder holds a grid over single fields, made by ufm.grid")
    made = grid.landscape
    if isinstance(made, Problem):
        names = ("decay_w", "decay_h", "decay_b")
        decays: dict[str, Any] = {n: axes.get(n, (float(getattr(made, n)),)) for n in names}
        sizes: dict[str, Any] = {"counts": made.counts, "dim": made.dim, "bias": made.bias}
        return SweepConfig(**sizes, **decays, loss=made.loss, starts=int(starts), **plan)
    return LandscapeConfig(
        landscape=_landscape_spec(made, set(axes)), grid=objects.held(axes), starts=int(starts), **plan
    )


def _landscape_spec(landscape: Landscape, without: set[str]) -> objects.Spec:
    """Return how to make a landscape again: its class, sizes, and leaves number by number.

    Raises:
        ValueError: naming the field that a folder cannot hold.
    """
    if "." in type(landscape).__qualname__ or type(landscape).__name__.startswith("_"):
        raise ValueError(
            f"landscape: a folder cannot say how to make {landscape.name} again; write it as a class at the "
            "top of a file, or run in memory"
        )
    settings = {}
    for name in (field.name for field in fields(landscape)):
        value = getattr(landscape, name)
        if name in without:
            continue
        if name in landscape.leaf_names():
            whole = isinstance(value, jax.Array | np.ndarray) and np.asarray(value).dtype.kind == "f"
            if not whole or value.size > HELD:
                raise ValueError(
                    f"{name}: a folder holds leaves that are arrays of at most {HELD} floating-point "
                    "numbers; run in memory, or write a function that makes the landscape, for "
                    "ufm sweep --landscape"
                )
            value = np.asarray(value).tolist()
        settings[name] = value
    kind = type(landscape)
    return objects.spec_of_class("landscape", kind, settings)
