"""Several labels a sample: the pick-all-labels loss on free features (Li, Li, Wang, Qu 2024), no bias.

    f(W, H) = (1/N) Σ_i Σ_{k ∈ S_i} (log Σ_j e^{z_ij} − z_ik) + (λ_W/2) ‖W‖² + (λ_H/2) ‖H‖²,    z_i = W h_i.

Each set of m of the K labels is that of n_m samples (`per_set` is n_1, n_2, ...). f is convex in the logits,
as with one label, so the landscape is as benign, and a gradient gives a bound (`lower_bound`): with
G = ∇_Z g and c = min(1, s/‖G‖₂), s = √(λ_W λ_H),

    f* ≥ (1/N) Σ_i m_i entropy((1 − c) t_i/m_i + c p_i),    t_i of ones at S_i, p_i = softmax(z_i).

**Minimum** for d ≥ K − 1 (derived for this project). The convex problem min g(Z) + s‖Z‖_* does not see a
permutation of the labels, so its minimum has Z_S = a_m (1_S − m/K) for every set: features of several labels
are proportional to the sum of those of one, as Li et al. found. All K − 1 singular values of Z are
ρ = √(Σ_m γ_m a_m²), γ_m = n_m C(K − 2, m − 1), and a_m = ρ u_m with

    s N u_m (m e^{ρ u_m} + K − m) = K,    Σ_m γ_m u_m² = 1;

Z = 0 iff N s ≥ √(Σ_m γ_m). Sets of one label alone are the paper's problem, and γ_1 = n.
"""

import itertools
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.arguments import settle_dim
from ufm_jax.models.rotations import turned
from ufm_jax.numerics.bisection import last_true
from ufm_jax.numerics.checks import check_count, check_positive

MOST = 10_000  # samples: more are a slip of an exponent in K, and their arrays are large


class Factors(NamedTuple):
    """The variables."""

    W: Float[Array, "K d"]
    H: Float[Array, "d N"]  # columns sorted by number of labels, then by set, in lexical order


class MultiLabel(Landscape):
    """Mean pick-all-labels loss and decay of a classifier and features; `dim` is K − 1 by default."""

    decay_w: Float[Array, "..."]
    decay_h: Float[Array, "..."]
    num_classes: int = static()
    per_set: tuple[int, ...] = static(default=(1, 1))
    dim: int = static(default=None)

    def __post_init__(self) -> None:
        check_count(num_classes=self.num_classes)
        given = (self.per_set,) if isinstance(self.per_set, int) else self.per_set
        if (
            not isinstance(given, tuple)
            or not all(type(n) is int and n >= 0 for n in given)
            or not any(given)
        ):
            raise ValueError(
                f"per_set: need how many samples each set of 1, 2, ... labels has, got {given!r}"
            )
        if len(given) > self.num_classes:
            raise ValueError(f"per_set: need at most {self.num_classes} numbers, got {given}")
        if (total := sum(n * comb(self.num_classes, m) for m, n in enumerate(given, 1))) > MOST:
            raise ValueError(f"per_set: need at most {MOST} samples in all, got {total}")
        object.__setattr__(self, "per_set", given)
        settle_dim(self, max(1, self.num_classes - 1))
        for name in ("decay_w", "decay_h"):
            if not np.ndim(getattr(self, name)):
                check_positive(**{name: getattr(self, name)})

    def labels(self) -> np.ndarray:
        """Return the `K x N` matrix of 1 at the labels of each sample, else 0."""
        sets = [
            kept
            for m, n in enumerate(self.per_set, 1)
            for kept in itertools.combinations(range(self.num_classes), m)
            for _ in range(n)
        ]
        held = np.zeros((self.num_classes, len(sets)))
        for column, kept in enumerate(sets):
            held[list(kept), column] = 1.0
        return held

    @property
    def _strength(self) -> Float[Array, ""]:
        return jnp.sqrt(self.decay_w) * jnp.sqrt(self.decay_h)

    @property
    def _spans(self) -> np.ndarray:
        """γ_m of the docstring; sets of all labels have logits 0."""
        K = self.num_classes
        spans = [n * comb(K - 2, m - 1) if m < K else 0 for m, n in enumerate(self.per_set, 1)]
        return np.array(spans, float)

    def zeros(self) -> Factors:
        K, d, dtype = self.num_classes, self.dim, self.decay_w.dtype
        return Factors(jnp.zeros((K, d), dtype), jnp.zeros((d, self.labels().shape[1]), dtype))

    def value(self, x: Factors) -> Float[Array, ""]:
        T = jnp.asarray(self.labels(), x.W.dtype)
        Z = x.W @ x.H
        losses = jnp.sum(T, axis=0) * jax.nn.logsumexp(Z, axis=0) - jnp.sum(T * Z, axis=0)
        return jnp.mean(losses) + (self.decay_w * jnp.sum(x.W**2) + self.decay_h * jnp.sum(x.H**2)) / 2

    def tangents(self, x: Factors) -> Factors:
        return Factors(*turned(x.W, x.H))

    def invariants(self, x: Factors) -> Float[Array, " m"]:
        """Return value and all inner products, sorted: labels and samples of one set may be permuted."""
        parts = (x.W @ x.H, x.W @ x.W.T, jnp.sum(x.H**2, axis=0))
        value = jnp.arcsinh(self.value(x))
        return jnp.concatenate([value[None], *(jnp.sort(jnp.ravel(a)) for a in parts)])

    def lower_bound(self, x: Factors) -> Float[Array, ""]:
        """Return the bound of the module's docstring."""
        T, P = jnp.asarray(self.labels(), x.W.dtype), jax.nn.softmax(x.W @ x.H, axis=0)
        m = jnp.sum(T, axis=0)
        norm = jnp.linalg.norm((m * P - T) / T.shape[1], ord=2)
        c = jnp.minimum(1.0, self._strength / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        q = (1.0 - c) * T / m + c * P
        return -jnp.mean(m * jnp.sum(jax.scipy.special.xlogy(q, q), axis=0))

    def gaps(self) -> Float[Array, " M"]:
        """Return a_m of the docstring for m = 1, ..., M: how far a sample's labels are above the others."""
        K, m = self.num_classes, np.arange(1.0, len(self.per_set) + 1)
        gamma = jnp.asarray(self._spans, self.decay_w.dtype)
        price = self._strength * self.labels().shape[1]

        def rates(rho: Float[Array, ""]) -> Float[Array, " M"]:
            below = lambda u: price * u * (m * jnp.exp(jnp.minimum(rho * u, 700.0)) + K - m) <= K
            return last_true(below, jnp.zeros_like(gamma), jnp.full_like(gamma, 1.0) / price)

        total = jnp.maximum(jnp.sum(gamma), jnp.finfo(gamma.dtype).tiny)
        # Σ γ u² ≥ 1 asks for some u ≥ 1/√Σγ, and e^{ρu} ≤ K/(N s u).
        most = jnp.sqrt(total) * jnp.log(jnp.maximum(K * jnp.sqrt(total) / price, 1.0))
        rho = last_true(lambda rho: jnp.sum(gamma * rates(rho) ** 2) >= 1.0, jnp.zeros_like(most), most)
        return jnp.where((rho > 0) & (gamma > 0), rho * rates(rho), 0.0)

    def known_minimum(self) -> Float[Array, ""]:
        """Return f* for d ≥ K − 1, else NaN."""
        K, a = self.num_classes, self.gaps()
        if self.dim < K - 1:
            return super().known_minimum()
        m, samples = np.arange(1.0, len(self.per_set) + 1), np.array(self.per_set, float)
        samples *= [comb(K, size) for size in range(1, len(samples) + 1)]
        losses = m * (np.log(m) + jnp.log1p((K - m) / m * jnp.exp(-a)))  # m (log(m e^a + K − m) − a)
        price = self._strength * (K - 1) * jnp.sqrt(jnp.sum(self._spans * a**2))
        return jnp.sum(samples / np.sum(samples) * losses) + price

    def predictions(self) -> dict[str, Any]:
        """Return `loss` = f* and `logit_gaps` = a_m, for d ≥ K − 1."""
        if self.dim < self.num_classes - 1:
            return {"regime": "no closed form below K − 1 dimensions", "loss": None, "logit_gaps": None}
        gaps = [float(a) for a in self.gaps()]
        told = "simplex, and sums of its features" if any(gaps) else "origin"
        return {"regime": told, "loss": float(self.known_minimum()), "logit_gaps": gaps}
