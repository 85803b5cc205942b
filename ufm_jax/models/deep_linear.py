"""Deep linear classifiers on unconstrained features: L layers of weights, balanced classes, no bias.

    f = (1/N) Σ_i ℓ(W_L ⋯ W_1 h_i, y_i) + (λ/2)(Σ_l ‖W_l‖² + ‖H‖²)

on class means: H is d x K, its columns √n times those of classes, and the logits are Z = W_L ⋯ W_1 H/√n,
exact for convex losses, of which class means hold every critical point. Every layer but the last is d x d.
L = 1 is the unconstrained feature model of equal decays.

* Symmetry: O(d) at each of the L interfaces. At critical points the L + 1 factors are balanced, and the least
  decay of a product M of singular values σ is (L + 1) λ/2 Σ σ^{2/(L+1)}.
* For L ≥ 2 every product of two small factors is flat against λ: the origin is a strict local minimum, with
  all eigenvalues λ and f = ℓ(0).
* Which points are critical by symmetry, and their values in closed form, is in `deep_linear_forms`: the
  simplex is not the lowest for cross-entropy with K ≥ 6, L = 2 or K ≥ 4, L ≥ 3 (Súkeník et al. 2024; Garrod &
  Keating 2024), where orthogonal pairs, of lower rank, are lower.
* Squared loss: f* in closed form (Dang et al. 2023).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Key, Landscape, Target
from ufm_jax.models import deep_linear_forms as forms
from ufm_jax.models.arguments import chosen_loss, is_cross_entropy, settle_dim
from ufm_jax.models.rotations import skew_matrices, turned
from ufm_jax.models.unconstrained.losses import Loss, Squared
from ufm_jax.models.unconstrained.names import name_of_logits
from ufm_jax.numerics.checks import check_count, check_positive

LOGITS = (0.5, 20.0)  # range of the size of a start's logits: below, descents fall to the origin


class Layers(NamedTuple):
    """The variables."""

    W: Float[Array, "K d"]  # the last layer
    V: Float[Array, "L-1 d d"]  # those before it, the first first
    H: Float[Array, "d K"]  # √n times the features of each class


class DeepLinear(Landscape):
    """Mean loss of `num_layers` linear layers, decayed all alike, on `per_class` free features of each class.

    `dim` is K by default; `loss` a convex `Loss` or its name.
    """

    decay: Float[Array, "..."]
    num_classes: int = static()
    num_layers: int = static()
    per_class: int = static(default=1)
    dim: int = static(default=None)
    loss: str | Loss = static(default="cross-entropy")

    def __post_init__(self) -> None:
        check_count(2, num_classes=self.num_classes)
        check_count(num_layers=self.num_layers, per_class=self.per_class)
        settle_dim(self, self.num_classes)
        if not self.scored.convex:
            raise ValueError(f"loss: need a convex one, of which class means are enough, got {self.loss}")
        if not np.ndim(self.decay):
            check_positive(decay=self.decay)

    @property
    def scored(self) -> Loss:
        """The loss itself."""
        return chosen_loss(self.loss, (self.per_class,) * self.num_classes)

    def zeros(self) -> Layers:
        K, d, dtype = self.num_classes, self.dim, self.decay.dtype
        inner = jnp.zeros((self.num_layers - 1, d, d), dtype)
        return Layers(jnp.zeros((K, d), dtype), inner, jnp.zeros((d, K), dtype))

    def start(self, key: Key) -> Layers:
        return self.draw(key, jnp.zeros((), jnp.int32), "minima")

    def draw(self, key: Key, number: Int[Array, ""], target: Target) -> Layers:
        """Return balanced factors of a random product: toward saddles, of each rank in turn.

        A point of rank r stays so in every search; descents start at the largest.
        """
        size_key, product_key = jax.random.split(key)
        K, d, dtype = self.num_classes, self.dim, self.decay.dtype
        low, high = np.log(LOGITS)
        size = jnp.exp(jax.random.uniform(size_key, (), dtype, low, high)) * self.per_class**0.5
        left, sigma, right = jnp.linalg.svd(size * jax.random.normal(product_key, (K, K), dtype) / K**0.5)
        most = min(d, K)
        rank = most if target == "minima" else 1 + number % most
        root = jnp.where(jnp.arange(most) < rank, sigma[:most], 0.0) ** (1.0 / (self.num_layers + 1))
        pad = lambda a: jnp.pad(a, ((0, 0), (0, d - most)))
        inner = jnp.tile(jnp.diag(jnp.pad(root, (0, d - most))), (self.num_layers - 1, 1, 1))
        return Layers(pad(left[:, :most] * root), inner, pad(right[:most].T * root).T)

    def logits(self, x: Layers) -> Float[Array, "K K"]:
        """Return W_L ⋯ W_1 H/√n."""
        out = x.H
        for layer in range(self.num_layers - 1):
            out = x.V[layer] @ out
        return x.W @ out / self.per_class**0.5

    def value(self, x: Layers) -> Float[Array, ""]:
        K = self.num_classes
        T = jnp.asarray(self.scored.targets(np.arange(K), K), x.W.dtype)
        decay = self.decay * sum(jnp.sum(a**2) for a in x)
        return jnp.mean(self.scored.value(self.logits(x), T)) + decay / 2

    def tangents(self, x: Layers) -> Layers:
        """Return, for each interface and a basis of skew A, the factor above times A, −A times that below."""
        d, inner = self.dim, self.num_layers - 1
        A = skew_matrices(d, x.W.dtype)
        factors, moved = [x.H, *x.V, x.W], []
        for at in range(self.num_layers):
            change = [jnp.zeros((len(A), *a.shape), a.dtype) for a in factors]
            change[at + 1], change[at] = turned(factors[at + 1], factors[at])
            H, *V, W = change
            moved.append(Layers(W, jnp.stack(V, axis=1) if inner else jnp.zeros((len(A), 0, d, d)), H))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *moved)

    def invariants(self, x: Layers) -> Float[Array, " m"]:
        """Return value, sorted logits and their singular values: classes may be permuted."""
        Z = self.logits(x)
        singular = jnp.linalg.svd(Z, compute_uv=False)
        return jnp.concatenate([jnp.arcsinh(self.value(x))[None], jnp.sort(jnp.ravel(Z)), singular])

    def lower_bound(self, x: Layers) -> Float[Array, ""]:
        """Return `deep_linear_forms.norm_bound` for cross-entropy, f* for squared loss."""
        if type(self.scored) is Squared:
            return self.known_minimum()
        if not is_cross_entropy(self.scored):
            return super().lower_bound(x)
        return forms.norm_bound(self.num_classes, self.num_layers, self.decay, self.per_class)

    def known_minimum(self) -> Float[Array, ""]:
        """Return f* for squared loss, and for cross-entropy with L = 1 and d ≥ K − 1."""
        K, L, n = self.num_classes, self.num_layers, self.per_class
        if type(self.scored) is Squared:
            return forms.squared_minimum(K, L, self.decay, n, min(self.dim, K))
        if is_cross_entropy(self.scored) and L == 1 and self.dim >= K - 1:
            return forms.norm_bound(K, L, self.decay, n)
        return super().known_minimum()

    def measures(self, x: Layers) -> dict[str, Array]:
        """Return the rank of the logits, and ‖W_{l+1}ᵀW_{l+1} − W_l W_lᵀ‖, which is 0 at critical points."""
        singular = jnp.linalg.svd(self.logits(x), compute_uv=False)
        factors = [x.H, *x.V, x.W]
        pairs = zip(factors[1:], factors[:-1], strict=True)
        apart = sum(jnp.sum((above.T @ above - below @ below.T) ** 2) for above, below in pairs)
        return {"rank": jnp.sum(singular > 1e-8).astype(jnp.int32), "imbalance": jnp.sqrt(apart)}

    def name_of(self, x: Layers) -> str:
        return name_of_logits(np.asarray(self.logits(x)))

    def picture(self, x: Layers) -> np.ndarray:
        return np.asarray(self.logits(x))

    def predictions(self) -> dict[str, Any]:
        """Return `loss` = f* where known; else `critical_values`, `lower_bound`; and what the origin is.

        `lowest` is the name of the lowest of them; none was proven to be the global minimum.
        """
        K, L, n, decay = self.num_classes, self.num_layers, self.per_class, float(self.decay)
        zero, T = jnp.zeros((K, K)), jnp.asarray(self.scored.targets(np.arange(K), K))
        out: dict[str, Any] = {"origin_loss": float(jnp.mean(self.scored.value(zero, T)))}
        out |= {"origin_index": 0} if L > 1 else {}
        known = float(self.known_minimum())
        out |= {"loss": None if np.isnan(known) else known}
        if not is_cross_entropy(self.scored):
            return out
        out |= {"lower_bound": float(self.lower_bound(self.zeros()))}
        values = forms.symmetric_values(K, L, decay, n, self.dim)
        lowest = {"lowest": next(iter(values))} if values and K <= forms.MOST_CLASSES else {}
        return out | {"critical_values": values} | lowest
