"""Matrix factorisation with decay: a landscape all of whose critical points are known in closed form.

    f(U, V) = ½ ‖U Vᵀ − M‖² + (λ/2) (‖U‖² + ‖V‖²),    U of m x r, V of n x r, λ > 0.

Without decay this is the linear autoencoder of Baldi & Hornik (1989); with it, the smooth form of
nuclear-norm regularisation (Srebro, Rennie & Jaakkola 2005). It is invariant under (U, V) -> (U Q, V Q) for Q
in O(r).

Let M = Σ σ_i u_i v_iᵀ, the σ_i distinct and different from λ. At a critical point UᵀU = VᵀV, and there is one
orbit for each choice S of at most r of the σ_i > λ, with U Vᵀ = Σ_S (σ_i − λ) u_i v_iᵀ and

    f = Σ_{i in S} (λ σ_i − λ²/2) + ½ Σ_{i not in S} σ_i².

The Hessian there splits. Each of the r − |S| columns of (U, V) that are zero has the eigenvalues λ ± λ (one
pair for each i in S), λ ± σ_k (k not in S) and λ. Column i in S, moved towards (u_k, ±v_k) with k not in S,
has σ_i ± σ_k. Moves within S know nothing of the other σ, and S is the best choice among itself: no negative
ones. So no direction is null but the orbit's, and

    index = (r − |S|) #{k not in S: σ_k > λ} + #{(i, k): i in S, k not in S, σ_k > σ_i},
    orbit dimension = |S| (r − |S|) + |S| (|S| − 1)/2.

Only the choice of the largest is no strict saddle.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.balls import Balls
from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.factorisation_balls import FactorisationBalls
from ufm_jax.models.rotations import skew_matrices
from ufm_jax.numerics.checks import check_count, check_positive

# Two singular values nearer than this, as a part of the largest, are not told apart: rounding of the SVD.
EQUAL = 1e-12
MOST = 100  # critical values that are listed in predictions


class Factors(NamedTuple):
    """The variables."""

    U: Float[Array, "m r"]
    V: Float[Array, "n r"]


class Factorisation(Landscape):
    """½ ‖U Vᵀ − M‖² + λ/2 (‖U‖² + ‖V‖²) in factors of `rank` columns; λ is `decay`."""

    M: Float[Array, "..."]
    decay: Float[Array, "..."]
    rank: int = static()

    def __post_init__(self) -> None:
        check_count(rank=self.rank)
        if not np.ndim(self.decay):
            check_positive(decay=self.decay)

    def zeros(self) -> Factors:
        m, n = self.M.shape
        return Factors(jnp.zeros((m, self.rank), self.M.dtype), jnp.zeros((n, self.rank), self.M.dtype))

    def value(self, x: Factors) -> Float[Array, ""]:
        size = jnp.sum(x.U**2) + jnp.sum(x.V**2)
        return (jnp.sum((x.U @ x.V.T - self.M) ** 2) + self.decay * size) / 2

    def tangents(self, x: Factors) -> Factors:
        """Return (U A, V A) for a basis of the skew matrices A."""
        A = skew_matrices(self.rank, x.U.dtype)
        return Factors(*(jnp.einsum("ar,crs->cas", a, A) for a in x))

    def invariants(self, x: Factors) -> Float[Array, " mn"]:
        """Return the entries of U Vᵀ, by which a critical point is known up to O(r)."""
        return jnp.ravel(x.U @ x.V.T)

    def lower_bound(self, x: Any) -> Float[Array, ""]:
        """Return the global minimum: it is known, for every rank, by soft thresholding (Cai et al. 2010).

        f ≥ ½ ‖X − M‖² + λ ‖X‖_* with X = U Vᵀ of rank r at most, and by von Neumann's inequality the best X
        has the singular vectors of M: σ_i − λ of the r largest, where that is positive.
        """
        sigma = jnp.linalg.svd(self.M, compute_uv=False)
        chosen = (jnp.arange(sigma.size) < self.rank) & (sigma > self.decay)
        return jnp.sum(jnp.where(chosen, self.decay * sigma - self.decay**2 / 2, sigma**2 / 2))

    def balls(self, x: Factors, **fields: Any) -> Balls:
        """Return it over balls near x; `decay` may be a ball.

        Raises:
            ValueError: naming a field that is not `decay`.
        """
        if unknown := set(fields) - {"decay"}:
            raise ValueError(f"{min(unknown)}: of this landscape, only decay can be a ball")
        decay = fields.get("decay", float(self.decay))
        return FactorisationBalls(np.asarray(self.M, float), decay, np.asarray(x.U), np.asarray(x.V))

    def measures(self, x: Factors) -> dict[str, Array]:
        """Return ‖UᵀU − VᵀV‖, which is zero at every critical point."""
        return {"imbalance": jnp.linalg.norm(x.U.T @ x.U - x.V.T @ x.V)}

    def known_minimum(self) -> Float[Array, ""]:
        return self.lower_bound(None)

    def predictions(self) -> dict[str, Any]:
        """Return `loss` = f* and `critical_values`, by places of the singular values chosen.

        Raises:
            ValueError: as `critical_values`.
        """
        listed = critical_values(self.M, float(self.decay), self.rank)
        values = {f"chosen{list(one.chosen)}, index {one.index}": one.value for one in listed[:MOST]}
        return {"loss": listed[0].value, "critical_orbits": len(listed), "critical_values": values}


def factorisation(
    *, singular_values: tuple[int | float, ...], decay: int | float, rank: int
) -> Factorisation:
    """Return the landscape of a diagonal matrix M with these singular values: what others are, by rotations.

    Raises:
        ValueError: naming `singular_values`, if one is negative; as `Factorisation`.
    """
    sigma = np.atleast_1d(np.array(singular_values, float))
    if not (np.all(np.isfinite(sigma)) and np.all(sigma >= 0)):
        raise ValueError(f"singular_values: need finite numbers >= 0, got {singular_values}")
    return Factorisation(M=jnp.diag(jnp.asarray(sigma)), decay=jnp.asarray(decay, float), rank=rank)


@dataclass(frozen=True)
class CriticalValue:
    """One critical orbit."""

    chosen: tuple[int, ...]  # places in the list of singular values, the largest first
    value: float
    index: int
    orbit_dim: int  # and no other null directions


def critical_values(M: Any, decay: float, rank: int) -> list[CriticalValue]:
    """Return every critical orbit, the lowest first: one for each choice of at most r of the σ_i > λ.

    Raises:
        ValueError: naming `M` where a singular value above λ is a double one, or one is equal to λ (then
            there are families of critical points); `decay` or `rank`, if it is none.
    """
    check_positive(decay=decay)
    check_count(rank=rank)
    sigma = np.linalg.svd(np.asarray(M, float), compute_uv=False)
    large = np.flatnonzero(sigma > decay)
    gaps = np.concatenate([sigma[large][:-1] - sigma[large][1:], np.abs(sigma - decay)])
    if np.min(gaps, initial=np.inf) <= EQUAL * sigma[0]:
        raise ValueError(f"M: need singular values apart from each other and from {decay}, got {sigma}")
    choices = itertools.chain.from_iterable(
        itertools.combinations(large.tolist(), size) for size in range(min(rank, len(large)) + 1)
    )
    return sorted((_critical_value(sigma, decay, rank, S) for S in choices), key=lambda one: one.value)


def critical_point_of(M: Any, decay: float, rank: int, chosen: tuple[int, ...]) -> Factors:
    """Return a point of the orbit of `chosen`, places of singular values above λ, the largest being 0.

    Raises:
        ValueError: naming `chosen`, if these are more than `rank`, or not above λ.
    """
    left, sigma, right = np.linalg.svd(np.asarray(M, float), full_matrices=False)
    S = list(chosen)
    if len(set(S)) != len(S) or len(S) > rank or not all(0 <= i < sigma.size and sigma[i] > decay for i in S):
        raise ValueError(f"chosen: need at most {rank} places of singular values above {decay}, got {chosen}")
    scale = np.sqrt(sigma[S] - decay)
    none = ((0, 0), (0, rank - len(S)))
    return Factors(
        jnp.asarray(np.pad(left[:, S] * scale, none)), jnp.asarray(np.pad(right[S].T * scale, none))
    )


def _critical_value(sigma: np.ndarray, decay: float, rank: int, S: tuple[int, ...]) -> CriticalValue:
    """Evaluate the formulas of the module's docstring."""
    chosen = np.isin(np.arange(sigma.size), S)
    value = np.sum(np.where(chosen, decay * sigma - decay**2 / 2, sigma**2 / 2))
    free = rank - len(S)
    exchanges = np.sum(sigma[~chosen][None, :] > sigma[chosen][:, None])
    index = free * np.sum(sigma[~chosen] > decay) + exchanges
    return CriticalValue(S, float(value), int(index), len(S) * free + len(S) * (len(S) - 1) // 2)
