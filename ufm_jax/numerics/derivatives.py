"""Exact derivatives of a scalar function of any pytree: nothing here is a finite difference."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_flatten_with_path
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
    """Build (p, v) -> H(p) v, exactly: forward over reverse mode (Pearlmutter 1994).

    Nothing is joined to one vector, so leaves of different floating-point dtypes keep theirs. The product
    raises ValueError, naming the leaf, if one of p or v is not floating-point.
    """

    def apply(p: Tree, v: Tree) -> Tree:
        _leaves(p, "p")
        _leaves(v, "v")
        return jax.jvp(jax.grad(f), (p,), (v,))[1]

    return apply


def on_vectors(
    f: Objective, start: Any, name: str = "start"
) -> tuple[Objective, Vector, Callable[[Vector], Any]]:
    """Return f as a function of a flat vector, `start` as such a vector, and the way back.

    Raises:
        ValueError: as `floating`, which says what a start may be; the message begins with `name`.
    """
    x, unravel = ravel_pytree(floating(start, name))
    return (lambda y: f(unravel(y))), x, unravel


def floating(start: Tree, name: str = "start") -> Tree:
    """Return a pytree with its leaves as arrays of one floating-point dtype, or refuse it.

    A Python float takes the dtype of the arrays beside it, as everywhere in JAX. Integers are refused, also
    Python's, as `jax.grad` does: whether 3 means 3.0 or is no variable at all is the caller's to say. So are
    leaves of two dtypes: on the way through one vector the narrower would be rounded at every step, and what
    is measured would not be what is returned. Whether the numbers are finite is not asked here.

    Raises:
        ValueError: naming the leaf and its dtype, if one is not floating-point, if two dtypes differ, or if
            there is no number at all.
    """
    leaves = _leaves(start, name)
    if not any(a.size for a in leaves.values()):
        raise ValueError(f"{name}: need a pytree with at least one number, got {jax.tree.structure(start)}")
    strong = {where: a.dtype for where, a in leaves.items() if not a.weak_type}
    for where, dtype in strong.items():
        first = next(iter(strong))
        if dtype != strong[first]:
            raise ValueError(
                f"{name}: need leaves of one dtype, got {first} of {strong[first]} and {where} of {dtype}; "
                "convert them to one with astype"
            )
    common = next(iter(strong.values()), jnp.result_type(float))

    def array(leaf: Any) -> Array:
        settled = isinstance(leaf, jax.Array) and not jax.typeof(leaf).weak_type
        return leaf if settled else jnp.asarray(leaf, common)

    return jax.tree.map(array, start)


def _leaves(tree: Any, name: str) -> dict[str, Any]:
    """Return path -> shape and dtype of every leaf; all are floating-point, or ValueError names one."""
    found = {}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        where = name + keystr(path)
        try:
            found[where] = jax.typeof(leaf)
            known = jnp.issubdtype(found[where].dtype, jnp.floating)
        except TypeError:  # no number that JAX knows
            known = False
        if not known:
            raise ValueError(
                f"{where}: need a floating-point array or a Python float, got "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}; write 3.0 for 3, convert arrays with "
                "astype(float), and leave out what is no variable of f"
            )
    return found


def second_order(f: Objective) -> Oracle:
    """Build x -> Expansion for f on flat vectors; the linearisation is shared by all products at x."""

    def expand(x: Vector) -> Expansion:
        (value, grad), push = jax.linearize(jax.value_and_grad(f), x)
        return Expansion(value, grad, lambda v: push(v)[1])

    return expand


def dense_hessian(f: Objective) -> Callable[[Any], Float[Array, "D D"]]:
    """Build p -> Hessian of f as a D x D matrix, rows and columns in `ravel_pytree` order."""

    def apply(p: Any) -> Float[Array, "D D"]:
        flat, x, _ = on_vectors(f, p, "p")
        return dense_matrix(second_order(flat)(x).hv, x)

    return apply


def dense_matrix(hv: Callable[[Vector], Vector], like: Vector) -> Float[Array, "D D"]:
    """Return the symmetric matrix of the operator `hv` on vectors shaped as `like`, by D products."""
    rows = jax.vmap(hv)(jnp.eye(like.size, dtype=like.dtype))
    return (rows + rows.T) / 2
