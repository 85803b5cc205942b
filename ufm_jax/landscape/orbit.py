"""The orbit of a point under the continuous symmetry: its tangent space there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.point import as_rows

# Tangents are dependent where a singular value is below this, relative to the largest or to one: points found
# are within about 1e-10 of where a symmetry may fix them (a straight line of atoms, a matrix of lower rank).
TANGENT_TOL = 1e-7


class Orbit(NamedTuple):
    """What the symmetry makes of a point, to first order."""

    dim: Int[Array, ""]
    project: Callable[[Any], Any]  # direction -> its orthogonal projection onto the orbit's tangent space
    radius: Float[Array, ""]  # the least length of what the symmetry moves the point along; inf if nothing


def orbit_of(x: Any, tangents: Any) -> Orbit:
    """Return the orbit of x whose tangent space the directions `tangents` span: as x, with a leading axis.

    They may be dependent, and zero. Costs a singular value decomposition of as many rows.
    """
    vector, back = ravel_pytree(x)
    rows = as_rows(tangents)
    if not len(rows):
        nothing = lambda v: jax.tree.map(jnp.zeros_like, v)
        return Orbit(jnp.zeros((), jnp.int32), nothing, jnp.full((), jnp.inf, vector.dtype))
    _, lengths, basis = jnp.linalg.svd(rows, full_matrices=False)
    used = lengths > TANGENT_TOL * jnp.maximum(lengths[0], 1.0)
    basis = jnp.where(used[:, None], basis, 0.0)
    radius = jnp.min(jnp.where(used, lengths, jnp.inf))
    return Orbit(
        jnp.sum(used).astype(jnp.int32),
        lambda v: back(basis.T @ (basis @ ravel_pytree(v)[0])),
        radius,
    )
