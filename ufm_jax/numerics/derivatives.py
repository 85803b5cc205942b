"""Exact derivatives of a scalar function of any pytree: nothing here is a finite difference."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Tree = TypeVar("Tree")
Objective = Callable[[Any], Float[Array, ""]]
Vector = Float[Array, " D"]


class Expansion(NamedTuple):
    """Second-order information at one point of R^D."""

    value: Float[Array, ""]
    grad: Float[Array, " D"]
    hv: Callable[[Vector], Vector]  # v -> H v; what depends on the point alone is computed once


Oracle = Callable[[Vector], Expansion]


def hvp(f: Callable[[Tree], Float[Array, ""]]) -> Callable[[Tree, Tree], Tree]:
    """Build (p, v) -> H(p) v, exactly: forward over reverse mode (Pearlmutter 1994)."""

    def apply(p: Tree, v: Tree) -> Tree:
        return jax.jvp(jax.grad(f), (p,), (v,))[1]

    return apply


def on_vectors(f: Objective, example: Any) -> tuple[Objective, Vector, Callable[[Vector], Any]]:
    """Return f as a function of a flat vector, `example` as such a vector, and the way back.

    All leaves of `example` must be floating-point arrays of one dtype.

    Raises:
        ValueError: if `example` has no floating-point leaves.
    """
    x, unravel = ravel_pytree(example)
    if x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"example: need a pytree of floating-point arrays, got {x.size} entries of {x.dtype}"
        )
    return (lambda y: f(unravel(y))), x, unravel


def second_order(f: Objective) -> Oracle:
    """Build x -> Expansion for f on flat vectors; the linearisation is shared by all products at x."""

    def expand(x: Vector) -> Expansion:
        (value, grad), push = jax.linearize(jax.value_and_grad(f), x)
        return Expansion(value, grad, lambda v: push(v)[1])

    return expand


def dense_hessian(f: Objective) -> Callable[[Any], Float[Array, "D D"]]:
    """Build p -> Hessian of f as a D x D matrix, rows and columns in `ravel_pytree` order."""

    def apply(p: Any) -> Float[Array, "D D"]:
        flat, x, _ = on_vectors(f, p)
        return dense_matrix(second_order(flat)(x).hv, x)

    return apply


def dense_matrix(hv: Callable[[Vector], Vector], like: Vector) -> Float[Array, "D D"]:
    """Return the symmetric matrix of the operator `hv` on vectors shaped as `like`, by D products."""
    rows = jax.vmap(hv)(jnp.eye(like.size, dtype=like.dtype))
    return (rows + rows.T) / 2
