"""A landscape at several settings of its leaves, which compile once."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Landscape, check_is_landscape


class Grid(NamedTuple):
    """A landscape, and values of some of its fields: one entry a setting, along the first axis."""

    landscape: Landscape
    settings: dict[str, np.ndarray]
    axes: dict[str, tuple[float, ...]] | None = None  # values of each field, where all are combined

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The settings that are single numbers, as columns of a table."""
        return {name: values for name, values in self.settings.items() if values.ndim == 1}


def grid(landscape: Landscape, **fields: Any) -> Grid:
    """Return a landscape at every combination of values of some of its leaves, the last field fastest.

    `grid(landscape, decay=[0.1, 0.2], scale=[1.0, 2.0])` are four settings. A field that is an array itself
    takes a sequence of such arrays.

    Raises:
        ValueError: naming the landscape, if it is none; the field that it lacks, that is static, or whose
            values do not have the shape of its own.
    """
    check_is_landscape(landscape)
    leaves = set(landscape.leaf_names())
    given = {}
    for name, values in fields.items():
        if name not in leaves:
            has = ", ".join(sorted(leaves)) or "none"
            raise ValueError(f"{name}: {landscape.name} has no such leaf; it has {has}")
        like = getattr(landscape, name)
        if len(jax.tree.leaves(like)) != 1 or like is not jax.tree.leaves(like)[0]:
            raise ValueError(f"{name}: need a field that is one array, got {type(like).__name__}")
        stacked = np.asarray(values, dtype=np.asarray(like).dtype)
        if stacked.ndim != np.ndim(like) + 1 or stacked.shape[1:] != np.shape(like) or not len(stacked):
            shape = np.shape(like)
            raise ValueError(f"{name}: need a sequence of values of shape {shape}, got {stacked.shape}")
        given[name] = stacked
    every = list(itertools.product(*(range(len(values)) for values in given.values())))
    which = np.array(every, int).reshape(len(every), len(given)).T
    settings = {name: values[i] for (name, values), i in zip(given.items(), which, strict=True)}
    single = all(values.ndim == 1 for values in given.values())
    axes = {name: tuple(values.tolist()) for name, values in given.items()} if single else None
    return Grid(landscape, settings, axes)


def as_grid(landscape: Landscape | Grid) -> Grid:
    """Return a grid as it is, a landscape as one of a single setting, or of those that its fields hold.

    Raises:
        ValueError: naming the landscape, if it is neither.
    """
    if isinstance(landscape, Grid):
        return landscape
    check_is_landscape(landscape)
    first, settings = landscape.split()
    return Grid(first, settings, None if settings else {})


def num_settings(held: Grid) -> int:
    """Return how many settings a grid has."""
    return len(next(iter(held.settings.values()))) if held.settings else 1


def at_setting(held: Grid, number: int) -> Landscape:
    """Return the landscape at one setting."""
    return at_lane(held.landscape, {name: jnp.asarray(v[number]) for name, v in held.settings.items()})
