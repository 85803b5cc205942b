"""One evaluated point of a landscape, and curvature along a direction there."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr
from jaxtyping import Array, Float, Int


class Point(NamedTuple):
    """A landscape at one point: computed once, and handed on to whoever asks for any of it."""

    x: Any
    value: Float[Array, ""]
    grad: Any  # as x
    hv: Callable[[Any], Any]  # v -> H v, exact; v as x
    shared: Any = None  # what else a landscape's own methods have use for

    @property
    def grad_norm(self) -> Float[Array, ""]:
        """‖∇f‖₂ over all variables."""
        return jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(self.grad)))


class Curvature(NamedTuple):
    """A unit direction v and its measured curvature vᵀ H v."""

    value: Float[Array, ""]
    direction: Any
    squares: Any = None  # ‖·‖² of each leaf of the direction, where that is known without it


def ravel(x: Any) -> Float[Array, " D"]:
    """Return a point or direction as one vector, rows first, leaf after leaf."""
    return ravel_pytree(x)[0]


def leaf_name(path: Any) -> str:
    """Return what a leaf of a point is called in columns and messages; "x" where the point is one array."""
    return keystr(path, simple=True, separator=".") or "x"


def as_rows(directions: Any) -> Float[Array, "m D"]:
    """Return directions, as a point with a leading axis at each leaf, as the rows of a matrix."""
    leaves = jax.tree.leaves(directions)
    return jnp.concatenate([a.reshape(a.shape[0], math.prod(a.shape[1:])) for a in leaves], axis=1)


def curvature_along(point: Point, direction: Any) -> Curvature:
    """Scale the direction to unit length and measure its curvature vᵀ H v exactly."""
    length = jnp.sqrt(inner(direction, direction))
    unit = jax.tree.map(lambda a: a / jnp.maximum(length, jnp.finfo(a.dtype).tiny), direction)
    return Curvature(inner(unit, point.hv(unit)), unit)


def inner(u: Any, v: Any) -> Float[Array, ""]:
    """Return ⟨u, v⟩ of two points or directions: of leaves, as to join them would be a copy of each."""
    leaves = zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True)
    return jnp.asarray(sum(jnp.sum(a * b) for a, b in leaves))


def picked(which: Int[Array, ""], trees: list[Any]) -> Any:
    """Return one of some directions: an entry at a time, since a stack of them would be a copy of each."""
    first, *others = trees
    for number, other in enumerate(others, 1):
        first = jax.tree.map(partial(jnp.where, which == number), other, first)
    return first
