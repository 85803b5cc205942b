"""Linear systems with a symmetric matrix and an imaginary shift, one or a stack of them with the batch last.

(A + iσI)⁻¹ g holds a Levenberg–Marquardt step: its real part is (A² + σ²I)⁻¹ A g. A² is never formed, which
would square the condition, and what structure A has is left to be used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LEAST_PART = 4  # variables eliminated before what is left is taken to be a matrix of its own


class Complex(NamedTuple):
    """Real and imaginary part, apart: so each is a contiguous array."""

    re: Float[Array, "..."]
    im: Float[Array, "..."]


def solve(A: Complex, X: Complex) -> Complex:
    """Return A⁻¹ X for (n, n, *B) and (n, m, *B), where the imaginary part of A is positive definite.

    Of one matrix by a library. Of a stack by Gauss's elimination, which needs no pivots here: they are
    entries of Schur complements, whose imaginary part is positive definite, too. Its loops are elementwise
    over the batch, where a library would be called once a matrix, and run in no other order for whatever is
    beside a matrix in the stack.
    """
    if A.re.ndim == 2:
        Y = jnp.linalg.solve(jax.lax.complex(*A), jax.lax.complex(*X))
        return Complex(jnp.real(Y), jnp.imag(Y))
    return _solve(Complex(*(jnp.concatenate([a, x], axis=1) for a, x in zip(A, X, strict=True))))


def _solve(M: Complex) -> Complex:
    """Solve (A X): eliminate the first variables, solve for the rest, and go back to the first."""
    n, m = len(M.re), M.re.shape[1] - len(M.re)
    first = min(n, max(LEAST_PART, -(-n // 3)))
    M = jax.lax.fori_loop(0, first, _eliminate, M)
    if first == n:
        rest = Complex(*(jnp.zeros((0, m, *part.shape[2:]), part.dtype) for part in M))
    else:
        rest = _solve(Complex(*(part[first:, first:] for part in M)))
    place = jnp.arange(n, dtype=jnp.int32).reshape(n, *(1,) * (M.re.ndim - 2))

    def substitute(i: Array, Y: Complex) -> Complex:
        j = first - 1 - i
        row = Complex(*(_at(part, j) for part in M))
        re, im = (jnp.where(place > j, part[:n], 0.0)[:, None] for part in row)
        known_re = jnp.sum(re * Y.re - im * Y.im, axis=0)
        known_im = jnp.sum(re * Y.im + im * Y.re, axis=0)
        put = lambda y, new: jax.lax.dynamic_update_index_in_dim(y, new, j, 0)
        return Complex(put(Y.re, row.re[n:] - known_re), put(Y.im, row.im[n:] - known_im))

    none = jnp.zeros((first, m, *M.re.shape[2:]), M.re.dtype)
    Y = Complex(*(jnp.concatenate([none, part]) for part in rest))
    return jax.lax.fori_loop(0, first, substitute, Y)


def _eliminate(j: Array, M: Complex) -> Complex:
    """Scale row j to a unit pivot, and take its multiples from the rows below."""
    place = jnp.arange(len(M.re), dtype=jnp.int32).reshape(-1, *(1,) * (M.re.ndim - 2))
    row = Complex(*(_at(part, j) for part in M))
    pivot = Complex(*(_at(part, j) for part in row))
    size = pivot.re**2 + pivot.im**2
    row = Complex(
        (row.re * pivot.re + row.im * pivot.im) / size, (row.im * pivot.re - row.re * pivot.im) / size
    )
    below, here = place > j, place == j
    re = jnp.where(below, _at(M.re, j, 1), jnp.where(here, pivot.re - 1, 0.0))[:, None]
    im = jnp.where(below, _at(M.im, j, 1), jnp.where(here, pivot.im, 0.0))[:, None]
    return Complex(M.re - (re * row.re - im * row.im), M.im - (re * row.im + im * row.re))


def _at(a: Float[Array, "..."], j: Array, axis: int = 0) -> Float[Array, "..."]:
    return jax.lax.dynamic_index_in_dim(a, j, axis, keepdims=False)


def product(A: Float[Array, "m k *#B"], X: Float[Array, "k n *#B"]) -> Float[Array, "m n *#B"]:
    """Return the matrix products of two stacks, or of two matrices."""
    if A.ndim == 2:
        return A @ X
    total = A[:, 0, None] * X[None, 0]
    for i in range(1, A.shape[1]):
        total = total + A[:, i, None] * X[None, i]
    return total
