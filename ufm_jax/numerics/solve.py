"""Positive definite systems, one or a stack of them with the batch last."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_positive(A: Float[Array, "n n *B"], X: Float[Array, "n m *B"]) -> Float[Array, "n m *B"]:
    """Return A⁻¹ X for symmetric positive definite A, which nothing checks: NaN or nonsense if it is not.

    Of one matrix by Cholesky's factors. Of a stack by Gauss's elimination, which needs no pivots here; its
    loops are elementwise over the batch, where a library would be called once a matrix: ten times faster for
    n = 12, and in no other order for whatever is beside a matrix in the stack.
    """
    n = len(A)
    if A.ndim == 2:
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(A), X)
    place = jnp.arange(n, dtype=jnp.int32).reshape(n, *(1,) * (A.ndim - 2))
    at = lambda a, j, axis: jax.lax.dynamic_index_in_dim(a, j, axis, keepdims=False)

    def eliminate(j: Array, M: Float[Array, "n k *B"]) -> Float[Array, "n k *B"]:
        """Scale row j to a unit pivot, and take its multiples from the rows below."""
        row = at(M, j, 0)
        pivot = at(row, j, 0)
        column = jnp.where(place > j, at(M, j, 1), jnp.where(place == j, pivot - 1, 0.0))
        return M - column[:, None] * (row / pivot)

    M = jax.lax.fori_loop(0, n, eliminate, jnp.concatenate([A, X], axis=1))

    def substitute(i: Array, Y: Float[Array, "n m *B"]) -> Float[Array, "n m *B"]:
        row = at(M, n - 1 - i, 0)
        known = jnp.sum(jnp.where(place > n - 1 - i, row[:n], 0.0)[:, None] * Y, axis=0)
        return jax.lax.dynamic_update_index_in_dim(Y, row[n:] - known, n - 1 - i, 0)

    return jax.lax.fori_loop(0, n, substitute, jnp.zeros_like(X))


def product(A: Float[Array, "m k *#B"], X: Float[Array, "k n *#B"]) -> Float[Array, "m n *#B"]:
    """Return the matrix products of two stacks, or of two matrices."""
    if A.ndim == 2:
        return A @ X
    total = A[:, 0, None] * X[None, 0]
    for i in range(1, A.shape[1]):
        total = total + A[:, i, None] * X[None, i]
    return total
