"""A critical point made as exact as rounding allows: Newton's method modulo the symmetry."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax.landscape.flat import Even, even
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.orbits import MATCH_TOL
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.spectrum import DENSE_LIMIT
from ufm_jax.numerics.derivatives import dense_matrix

STEPS = 2  # each squares ‖∇f‖ in units, which is 1e-8 or less


def polished(landscape: Landscape, x: Any) -> Any:
    """Return the critical point near x: x itself where ‖∇f‖ does not fall, or where that point is not near.

    In the fewest coordinates that hold it (`Landscape.space_at`).
    """
    space, start, back = landscape.space_at(x)
    if space.num_variables > DENSE_LIMIT:
        return x
    f = even(space)
    end = jax.lax.fori_loop(0, STEPS, lambda _, y: _newton(f, y), f.into(start))
    found = back(f.back(end))
    far = jnp.linalg.norm(ravel(found) - ravel(x)) > MATCH_TOL * (1.0 + jnp.linalg.norm(ravel(x)))
    before, after = (landscape.gradient_norms(landscape.evaluate(y))[1] for y in (x, found))
    return jax.tree.map(lambda a, b: jnp.where(~far & (after < before), a, b), found, x)


def _newton(f: Even, x: Float[Array, " D"]) -> Float[Array, " D"]:
    """Take one step across the orbit, along which the Hessian, which is null there, is raised."""
    here, rows = f.expand(x), f.tangents(x)
    H = dense_matrix(here.hv, x)
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / jnp.where(lengths > 0, lengths, 1.0)
    return x - jnp.linalg.solve(H + jnp.linalg.norm(H) * (rows.T @ rows), here.grad)
