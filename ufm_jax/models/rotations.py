"""Tangents of O(d), which turns the space between two factors and leaves their product alone."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def skew_matrices(size: int, dtype: Any) -> Float[Array, "m d d"]:
    """Return e_i e_jᵀ − e_j e_iᵀ for i < j: a basis of the skew matrices."""
    i, j = np.triu_indices(size, 1)
    skew = np.zeros((len(i), size, size))
    skew[np.arange(len(i)), i, j], skew[np.arange(len(i)), j, i] = 1.0, -1.0
    return jnp.asarray(skew, dtype)


def turned(
    W: Float[Array, "K d"], H: Float[Array, "d N"]
) -> tuple[Float[Array, "m K d"], Float[Array, "m d N"]]:
    """Return (W A, −A H) for each A of `skew_matrices`: along it W H does not change."""
    A = skew_matrices(len(H), W.dtype)
    return jnp.einsum("kr,crs->cks", W, A), -jnp.einsum("crs,sn->crn", A, H)
