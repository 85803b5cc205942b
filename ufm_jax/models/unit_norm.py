"""Unit-norm classifier rows and features, with a temperature: a landscape on a product of spheres.

    g(τ Ŵ Ĥ) = (1/N) Σ_i ℓ(τ ⟨ŵ_j, ĥ_i⟩_j, y_i),    ŵ_j = w_j/‖w_j‖, ĥ_i = h_i/‖h_i‖,    τ > 0 given or
    learned.

So that any search works as it is, lengths are free and held at 1 by a term that moves no critical point:

    f(W, H, τ) = g(τ Ŵ Ĥ) + (p/4) Σ (‖w_j‖² − 1)² + (p/4) Σ (‖h_i‖² − 1)² [+ (λ_τ/2) τ²],    p = 1/N.

g does not change along a length, so critical points of f other than at a vector 0 (where f has no gradient)
are those of g on the spheres, of the same value; the Hessian there is that on the spheres, and 2p once for
each vector: index and nullity are the spheres' own. Symmetry: O(d).

Cross-entropy (Yaras et al. 2022), with a = K/(K − 1):

* balanced classes and d ≥ K − 1: f* = log(1 + (K − 1) e^{−aτ}), at the simplex ETF alone;
* any d and counts of shares π_k: f ≥ log(1 + (K − 1) e^{−rτ}), (K − 1)² r² = min(K² + (Σ|1 − Kπ_k|)²,
  4 (K − 1)²). For log(1 + (K−1) e^{−τ√x}) is convex and falls, ℓ_k is at least that at
  x = ‖mean_{j≠k} ŵ_j − ŵ_k‖², and Σ_k π_k x_k is at most r² (derived for this project; tight where the first
  line holds);
* d < K − 1: the minimiser depends on τ and is not known; as τ → ∞ it is the code whose least distance from
  one ŵ_k to the hull of the others is the largest (softmax code, Jiang et al. 2023). Critical for every τ, by
  symmetry: regular polygons in d = 2, and K − d orthogonal simplices for d < K − 1 < 2d;
* τ learned, balanced, d ≥ K − 1: f* = min_τ log(1 + (K − 1) e^{−aτ}) + λ_τ τ²/2, one root of a monotone
  equation; with λ_τ = 0 f has no minimum (it falls to 0 as τ grows).
"""

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.models.arguments import chosen_loss, is_cross_entropy, labels_of, settle_counts, settle_dim
from ufm_jax.models.rotations import turned
from ufm_jax.models.unconstrained.candidates import some_structures
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.names import listed, name_of_logits
from ufm_jax.numerics.bisection import last_true
from ufm_jax.numerics.checks import check_flag, check_positive


class UnitVectors(NamedTuple):
    """The variables; only the directions of rows of W and columns of H count. `tau` is None where given."""

    W: Float[Array, "K d"]
    H: Float[Array, "d N"]
    tau: Float[Array, ""] | None


class UnitNorm(Landscape):
    """Mean loss of τ times the cosines between K classifier rows and N features, columns sorted by class.

    `temperature` is τ; with `learned` it is where searches begin, and τ is a variable of decay `decay_t`.
    Sizes are `num_classes` with `per_class` (1), or `counts`; `dim` is K − 1 by default; `loss` a `Loss` or
    its name.
    """

    temperature: Float[Array, "..."]
    decay_t: Float[Array, "..."] = 0.0  # type: ignore[assignment]  # without `learned` of no effect
    num_classes: int | None = static(default=None)
    per_class: int | None = static(default=None)
    counts: tuple[int, ...] = static(default=None)
    dim: int = static(default=None)
    learned: bool = static(default=False)
    loss: str | Loss = static(default="cross-entropy")

    def __post_init__(self) -> None:
        settle_counts(self)
        settle_dim(self, len(self.counts) - 1)
        check_flag(learned=self.learned)
        chosen_loss(self.loss, self.counts)
        if not np.ndim(self.temperature):
            check_positive(temperature=self.temperature)
        if not np.ndim(self.decay_t):
            check_positive(zero=True, decay_t=self.decay_t)

    @property
    def scored(self) -> Loss:
        """The loss itself."""
        return chosen_loss(self.loss, self.counts)

    def zeros(self) -> UnitVectors:
        K, d, dtype = len(self.counts), self.dim, self.temperature.dtype
        W, H = jnp.zeros((K, d), dtype), jnp.zeros((d, sum(self.counts)), dtype)
        return UnitVectors(W, H, jnp.zeros((), dtype) if self.learned else None)

    def start(self, key: Key) -> UnitVectors:
        """Return uniform points of the spheres, at the temperature given."""
        zeros, (w, h) = self.zeros(), jax.random.split(key)
        W, H = (jax.random.normal(k, a.shape, a.dtype) for k, a in ((w, zeros.W), (h, zeros.H)))
        tau = self.temperature.astype(W.dtype) if self.learned else None
        return UnitVectors(_unit(W, 1), _unit(H, 0), tau)

    def value(self, x: UnitVectors) -> Float[Array, ""]:
        labels = labels_of(self.counts)
        T = jnp.asarray(self.scored.targets(labels, len(self.counts)), x.W.dtype)
        tau = self.temperature if x.tau is None else x.tau
        lengths = jnp.concatenate([jnp.sum(x.W**2, axis=1), jnp.sum(x.H**2, axis=0)])
        held = jnp.sum((lengths - 1.0) ** 2) / (4 * len(labels))
        decay = 0.0 if x.tau is None else self.decay_t * x.tau**2 / 2
        return jnp.mean(self.scored.value(tau * _unit(x.W, 1) @ _unit(x.H, 0), T)) + held + decay

    def tangents(self, x: UnitVectors) -> UnitVectors:
        W, H = turned(x.W, x.H)
        return UnitVectors(W, H, None if x.tau is None else jnp.zeros(len(W), W.dtype))

    def invariants(self, x: UnitVectors) -> Float[Array, " m"]:
        """Return value, τ² and all inner products, sorted: classes and samples may be permuted."""
        W, H = _unit(x.W, 1), _unit(x.H, 0)
        tau = () if x.tau is None else (x.tau[None] ** 2,)
        # With (W, τ) goes (−W, −τ), so that products of W and H change their sign.
        products = W @ H if x.tau is None else W @ H * jnp.sign(x.tau)
        return jnp.concatenate(
            [jnp.arcsinh(self.value(x))[None], *tau, *(jnp.sort(jnp.ravel(a)) for a in (products, W @ W.T))]
        )

    def _bound(self) -> Float[Array, ""]:
        """Return the bound of the module's docstring, which is f* where that is known."""
        K, N = len(self.counts), sum(self.counts)
        apart = np.sum(np.abs(1.0 - K * np.array(self.counts) / N))
        rate = min((K**2 + apart**2) ** 0.5 / (K - 1), 2.0)
        fit = lambda tau: jnp.log1p((K - 1) * jnp.exp(-rate * tau))
        if not self.learned:
            return fit(self.temperature)
        price = self.decay_t
        # fit′ = −rate p, p = (K−1)/(K−1+e^{rate τ}), so that τ ≤ rate/λ at the root, and λ τ²/2 ≤ log K.
        falling = lambda tau: price * tau <= rate * (K - 1) / (K - 1 + jnp.exp(rate * tau))
        most = jnp.minimum(rate / price, 700.0 / rate)
        root = last_true(falling, jnp.zeros_like(price), jnp.where(price > 0, most, 0.0))
        return jnp.where(price > 0, fit(root) + price * root**2 / 2, 0.0)

    def lower_bound(self, x: UnitVectors) -> Float[Array, ""]:
        return self._bound() if is_cross_entropy(self.scored) else super().lower_bound(x)

    @property
    def _known(self) -> bool:
        simplex = len(set(self.counts)) == 1 and self.dim >= len(self.counts) - 1
        return is_cross_entropy(self.scored) and simplex

    def known_minimum(self) -> Float[Array, ""]:
        if not self._known:
            return super().known_minimum()
        return jnp.where(self.decay_t > 0, self._bound(), jnp.nan) if self.learned else self._bound()

    def measures(self, x: UnitVectors) -> dict[str, Array]:
        """Return the least margin ⟨ŵ_y − ŵ_j, ĥ⟩ over samples and wrong classes, and τ."""
        cosines, labels = _unit(x.W, 1) @ _unit(x.H, 0), labels_of(self.counts)
        own = cosines[labels, np.arange(len(labels))]
        wrong = np.arange(len(self.counts))[:, None] != labels
        least = jnp.min(jnp.where(wrong, own - cosines, jnp.inf))
        return {"margin": least} | ({} if x.tau is None else {"temperature": x.tau})

    def name_of(self, x: UnitVectors) -> str:
        """Return how the classes lie, for balanced ones, by their cosines at class means."""
        if len(set(self.counts)) > 1:
            return ""
        cosines = np.asarray(_unit(x.W, 1) @ _unit(x.H, 0)) * (1.0 if x.tau is None else float(x.tau))
        return name_of_logits(cosines.reshape(len(self.counts), len(self.counts), -1).mean(axis=2))

    def predictions(self) -> dict[str, Any]:
        """Return `lower_bound`, and `loss` = f* where known, else `critical_values`."""
        if not is_cross_entropy(self.scored):
            return {"regime": "no closed form for this loss"}
        out: dict[str, Any] = {"lower_bound": float(self._bound())}
        if self._known:
            known = float(self.known_minimum())
            if np.isnan(known):
                return out | {"regime": "no minimum: f falls to 0 as the temperature grows", "loss": None}
            return out | {"regime": "simplex ETF", "loss": known}
        if len(set(self.counts)) > 1 or self.learned:
            return out | {"regime": "no closed form for these counts, or this temperature", "loss": None}
        values = symmetric_values(len(self.counts), self.dim, float(self.temperature))
        about = "critical by symmetry: none proven to be the global minimum" if values else "no closed form"
        return out | {"regime": about, "loss": None, "critical_values": values}


def symmetric_values(num_classes: int, dim: int, temperature: float) -> dict[str, float]:
    """Return f of balanced cross-entropy at codes critical by symmetry, by name, for d < K − 1.

    Of many orthogonal simplices `some_structures`; the lowest value first.
    """
    K, values = num_classes, {}
    if dim == 2 and K > 4:  # four are an orthoplex
        cosines = np.cos(2 * np.pi * np.arange(1, K) / K)
        values[f"polygon({K})"] = float(np.log1p(np.sum(np.exp(temperature * (cosines - 1)))))
    if dim < K - 1 < 2 * dim:
        for sizes in some_structures(K, K - dim):
            name = f"orthoplex({K})" if set(sizes) == {2} else f"simplices{listed(sizes)}"
            own = [
                n
                * m
                * np.log1p((m - 1) * np.exp(-temperature * m / (m - 1)) + (K - m) * np.exp(-temperature))
                for m, n in Counter(sizes).items()
            ]
            values[name] = float(np.sum(own) / K)
    return dict(sorted(values.items(), key=lambda one: one[1]))


def _unit(a: Float[Array, "m n"], axis: int) -> Float[Array, "m n"]:
    """Return vectors along an axis divided by their lengths; 0 for 0."""
    square = jnp.sum(a**2, axis=axis, keepdims=True)
    return a / jnp.sqrt(jnp.maximum(square, jnp.finfo(a.dtype).tiny))
