"""A landscape on flat vectors, as `numerics` wants it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ufm_jax.landscape.landscape import Landscape, check_is_landscape, sizes_of
from ufm_jax.landscape.point import as_rows, ravel
from ufm_jax.numerics.derivatives import Expansion, Oracle, dense_matrix


class Even(NamedTuple):
    """A landscape in even coordinates, flat: where searches run."""

    expand: Oracle
    into: Callable[[Any], Float[Array, " D"]]  # a point of the landscape -> its vector
    back: Callable[[Float[Array, " D"]], Any]
    unit: Callable[[Float[Array, ""]], Float[Array, ""]]  # f -> that of ‖∇f‖
    tangents: Callable[[Float[Array, " D"]], Float[Array, "m D"]]
    stretch: Float[Array, ""] | None  # a gradient is at most so much longer in these; None: the same ones


def even(landscape: Landscape) -> Even:
    """Return a landscape in even coordinates (`Landscape.coordinate_scales`)."""
    back, scale, plain = ravel_pytree(landscape.zeros())[1], landscape.coordinate_scales(), oracle(landscape)
    factors = jnp.ones((), ravel(landscape.zeros()).dtype)
    if scale is not None:
        factors = ravel(jax.tree.map(jnp.full_like, landscape.zeros(), scale))

    def expand(x: Float[Array, " D"]) -> Expansion:
        here = plain(factors * x)
        return Expansion(here.value, factors * here.grad, lambda v: factors * here.hv(factors * v))

    return Even(
        expand,
        into=lambda x: ravel(x) / factors,
        back=lambda x: back(factors * x),
        unit=lambda value: sizes_of(landscape, value).gradient,
        tangents=lambda x: as_rows(landscape.tangents(back(factors * x))) / factors,
        stretch=None if scale is None else jnp.max(factors),
    )


def unravel(landscape: Landscape, x: Float[Array, " D"]) -> Any:
    """Undo `ravel`."""
    return ravel_pytree(landscape.zeros())[1](x)


def oracle(landscape: Landscape) -> Oracle:
    """Build the flat-vector oracle that `numerics` searches with."""
    back = ravel_pytree(landscape.zeros())[1]

    def on_vector(x: Float[Array, " D"]) -> Expansion:
        point = landscape.evaluate(back(x))
        return Expansion(point.value, ravel(point.grad), lambda v: ravel(point.hv(back(v))))

    return on_vector


def hessian(landscape: Landscape, x: Any) -> Float[Array, "D D"]:
    """Return the dense Hessian in the order of `ravel`; compiled once a shape.

    Raises:
        ValueError: naming the landscape, if it is none; the leaf of x whose shape or dtype is not its.
    """
    check_is_landscape(landscape)
    return _hessian(landscape, landscape.check(x))


@jax.jit
def _hessian(landscape: Landscape, x: Any) -> Float[Array, "D D"]:
    vector = ravel(x)
    return dense_matrix(oracle(landscape)(vector).hv, vector)
