"""Spectral density of a symmetric operator by stochastic Lanczos quadrature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ufm_jax.numerics.lanczos import floating_dtype, tridiagonalise

Vector = Float[Array, " D"]


class SpectralDensity(NamedTuple):
    """A discrete probability measure close to the distribution of the eigenvalues."""

    nodes: Float[Array, "probes steps"]  # ascending for each probe
    weights: Float[Array, "probes steps"]  # nonnegative; all of them sum to 1


def spectral_density(
    matvec: Callable[[Vector], Vector],
    dim: int,
    *,
    key: PRNGKeyArray,
    num_probes: int = 10,
    num_steps: int = 80,
    dtype: DTypeLike | None = None,
) -> SpectralDensity:
    """Estimate the eigenvalue distribution (1/dim) sum_i delta(lambda_i) of `matvec` on R^dim.

    Each probe v, of random signs and norm 1, gives the Gauss quadrature of its own spectral measure: its
    moments below 2 num_steps are v^T A^j v, of mean trace(A^j) / dim (Ubaru, Chen & Saad 2017; Ghorbani,
    Krishnan & Xiao 2019). Costs num_probes num_steps products. An operator with NaN gives NaN.

    Raises:
        ValueError: if `dim`, `num_probes` or `num_steps` is below 1, or `dtype` is not floating-point.
    """
    for name, size in {"dim": dim, "num_probes": num_probes, "num_steps": num_steps}.items():
        if size < 1:
            raise ValueError(f"{name}: need at least 1, got {size}")
    dtype = floating_dtype(dtype)

    def probe(key: PRNGKeyArray) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
        return gauss_quadrature(*tridiagonalise(matvec, jax.random.rademacher(key, (dim,), dtype), num_steps))

    nodes, weights = jax.vmap(probe)(jax.random.split(key, num_probes))
    return SpectralDensity(nodes, weights / num_probes)


def gauss_quadrature(
    diagonal: Float[Array, " steps"], off_diagonal: Float[Array, " steps_less_one"]
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    """Return ascending nodes and weights of sum 1: Gauss's rule of a Jacobi matrix (Golub & Welsch 1969)."""
    jacobi = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
    nodes, vectors = jnp.linalg.eigh(jacobi)
    return nodes, vectors[0] ** 2


def smoothed(
    density: SpectralDensity, grid: Float[Array, " points"], width: float
) -> Float[Array, " points"]:
    """Return the density convolved with a Gaussian of standard deviation `width`, at the points of `grid`.

    It integrates to 1 over the whole line; its unit is that of 1 / eigenvalue.

    Raises:
        ValueError: if `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width: need a positive number, got {width}")
    heights = jax.scipy.stats.norm.pdf(grid[:, None], density.nodes.ravel(), width)
    return heights @ density.weights.ravel()
