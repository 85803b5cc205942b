"""A landscape on flat vectors, as `numerics` wants it."""

from typing import Any

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.point import ravel
from ufm_jax.numerics.derivatives import Expansion, Oracle, dense_matrix


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
        ValueError: naming the leaf of x whose shape or dtype is not the landscape's.
    """
    return _hessian(landscape, landscape.check(x))


@jax.jit
def _hessian(landscape: Landscape, x: Any) -> Float[Array, "D D"]:
    vector = ravel(x)
    return dense_matrix(oracle(landscape)(vector).hv, vector)
