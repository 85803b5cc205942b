"""Linear systems with a symmetric matrix and an imaginary shift, one or a stack of them with the batch last.

(A + iσI)⁻¹ g holds a Levenberg–Marquardt step: its real part is (A² + σ²I)⁻¹ A g. A² is never formed, which would
square the condition, and what structure A has is left to be used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Complex(NamedTuple):
    """Real and imaginary part, apart: so each is a contiguous array."""

    re: Float[Array, "..."]
    im: Float[Array, "..."]


def solve(A: Complex, X: Complex) -> Complex:
    """Return A⁻¹ X for (n, n, *B) and (n, m, *B), where the imaginary part of A is positive definite.

    Of one matrix by a library. Of a stack by Gauss's elimination, which needs no pivots here: those of a
    leading block are its Schur complements', whose imaginary part is positive definite, too. Its loops are
    elementwise over the batch, where a library would be called once a matrix, and run in no other order for
    whatever is beside a matrix in the stack.
    """
    n = len(A.re)
    if A.re.ndim == 2:
        Y = jnp.linalg.solve(jax.lax.complex(*A), jax.lax.complex(*X))
        return Complex(jnp.real(Y), jnp.imag(Y))
    place = jnp.arange(n, dtype=jnp.int32).reshape(n, *(1,) * (A.re.ndim - 2))
    at = lambda a, j, axis: jax.lax.dynamic_index_in_dim(a, j, axis, keepdims=False)

    def eliminate(j: Array, M: Complex) -> Complex:
        """Scale row j to a unit pivot, and take its multiples from the rows below."""
        row = Complex(at(M.re, j, 0), at(M.im, j, 0))
        pivot = Complex(at(row.re, j, 0), at(row.im, j, 0))
        size = pivot.re**2 + pivot.im**2
        row = Complex((row.re * pivot.re + row.im * pivot.im) / size, (row.im * pivot.re - row.re * pivot.im) / size)
        below, here = place > j, place == j
        re = jnp.where(below, at(M.re, j, 1), jnp.where(here, pivot.re - 1, 0.0))[:, None]
        im = jnp.where(below, at(M.im, j, 1), jnp.where(here, pivot.im, 0.0))[:, None]
        return Complex(M.re - (re * row.re - im * row.im), M.im - (re * row.im + im * row.re))

    both = lambda a, x: jnp.concatenate([a, x], axis=1)
    M = jax.lax.fori_loop(0, n, eliminate, Complex(both(A.re, X.re), both(A.im, X.im)))

    def substitute(i: Array, Y: Complex) -> Complex:
        j = n - 1 - i
        row = Complex(at(M.re, j, 0), at(M.im, j, 0))
        re, im = (jnp.where(place > j, part[:n], 0.0)[:, None] for part in row)
        known_re = jnp.sum(re * Y.re - im * Y.im, axis=0)
        known_im = jnp.sum(re * Y.im + im * Y.re, axis=0)
        put = lambda y, new: jax.lax.dynamic_update_index_in_dim(y, new, j, 0)
        return Complex(put(Y.re, row.re[n:] - known_re), put(Y.im, row.im[n:] - known_im))

    none = jnp.zeros_like(X.re)
    return jax.lax.fori_loop(0, n, substitute, Complex(none, none))


def product(A: Float[Array, "m k *#B"], X: Float[Array, "k n *#B"]) -> Float[Array, "m n *#B"]:
    """Return the matrix products of two stacks, or of two matrices."""
    if A.ndim == 2:
        return A @ X
    total = A[:, 0, None] * X[None, 0]
    for i in range(1, A.shape[1]):
        total = total + A[:, i, None] * X[None, i]
    return total
