"""Non-negative features, as after a ReLU, by squares: a smooth landscape whose minima are those with H ≥ 0.

    f(W, A) = (1/N) Σ_i ℓ(W h_i, y_i) + (λ_W/2) ‖W‖² + (λ_H/2) ‖H‖²,    H = A∘A, W of K x d, A of d x N.

∂f/∂A = 2 A∘μ with the multiplier μ = ∂f/∂H: a critical point has μ_ij = 0 where H_ij > 0, and is a KKT point
of the problem over H ≥ 0 iff μ_ij ≥ 0 wherever H_ij = 0. There the Hessian along A_ij is 2 μ_ij exactly: a
wrong sign makes a strict saddle, and second-order points are KKT points. Where H_ij = μ_ij = 0 it is null, as
in coordinates that no class uses: take d = K for minima that are not degenerate. Measures: `multiplier`, the
least μ_ij on the inactive set; `kkt`, ‖∂f/∂W‖ and ‖min(H, μ)‖ together, 0 at KKT points alone.

**Minimum** (cross-entropy, no bias, any counts; Dang et al. 2024): classes use orthogonal features, with
s = √(λ_W λ_H),

    m_k = log(√(K (K−1) n_k)/(N s) − (K − 1)),
    W h_k = m_k (e_k − 1/K),    ‖h_k‖² = m_k √(λ_W (K−1)/(K λ_H n_k)),
    f* = Σ_k [(n_k/N) log(1 + (K−1) e^{−m_k}) + m_k s √(n_k (K−1)/K)];

class k dies, m_k = 0 and h_k = 0, iff N s √(K/((K−1) n_k)) ≥ 1. It needs as many dimensions as classes live.

**Local minima** that are not global (derived for this project, and met by descents): any set of classes may
be dead, at h = 0, where every coordinate of W pushes them further down, while the others live as above. Then
f is the sum of their terms and of (n_k/N) log K of the dead (`critical_values`). Where coordinates are left
over, a living class may turn within the cone: such minima are continua, DEGENERATE.

**Bound** at any point, for any convex loss (derived for this project): f* ≥ −g*(Θ) if ‖Θh‖ ≤ s‖h‖ for all
h ≥ 0, since then λ_W/2‖W‖² + λ_H/2‖H‖² + ⟨Θ, WH⟩ ≥ 0. With Θ = c G, G = ∇_Z g, hᵀGᵀGh ≤ hᵀ(GᵀG)₊h entry by
entry, so c = min(1, s/√λ_max((GᵀG)₊)). It is tight at the minimum above, where gradients of different classes
have negative inner products: −K q_k q_l/N², q_k = e^{−m_k}/(1 + (K−1) e^{−m_k}).
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.arguments import chosen_loss, is_cross_entropy, labels_of, settle_counts, settle_dim
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.names import listed
from ufm_jax.numerics.checks import check_positive

# H_ij below this share of the largest is inactive: searches leave A_ij at 1e-7 of the largest at most.
INACTIVE = 1e-12
MOST = 4096  # sets of living classes that are looked at, of alike ones by their number


class Roots(NamedTuple):
    """The variables: features are the squares of A."""

    W: Float[Array, "K d"]
    A: Float[Array, "d N"]  # columns sorted by class


class ReLUFeatures(Landscape):
    """Mean loss and decay of a classifier W and features A∘A ≥ 0, without a bias.

    Sizes are `num_classes` with `per_class` (1), or `counts`; `dim` is K by default; `loss` a `Loss` or its
    name.
    """

    decay_w: Float[Array, "..."]
    decay_h: Float[Array, "..."]
    num_classes: int | None = static(default=None)
    per_class: int | None = static(default=None)
    counts: tuple[int, ...] = static(default=None)
    dim: int = static(default=None)
    loss: str | Loss = static(default="cross-entropy")

    def __post_init__(self) -> None:
        settle_counts(self)
        settle_dim(self, len(self.counts))
        chosen_loss(self.loss, self.counts)
        for name in ("decay_w", "decay_h"):
            if not np.ndim(getattr(self, name)):
                check_positive(**{name: getattr(self, name)})

    @property
    def scored(self) -> Loss:
        """The loss itself."""
        return chosen_loss(self.loss, self.counts)

    @property
    def _targets(self) -> Float[Array, "K N"]:
        targets = self.scored.targets(labels_of(self.counts), len(self.counts))
        return jnp.asarray(targets, self.decay_w.dtype)

    @property
    def _strength(self) -> Float[Array, ""]:
        return jnp.sqrt(self.decay_w) * jnp.sqrt(self.decay_h)

    def zeros(self) -> Roots:
        K, d, dtype = len(self.counts), self.dim, self.decay_w.dtype
        return Roots(jnp.zeros((K, d), dtype), jnp.zeros((d, sum(self.counts)), dtype))

    def value(self, x: Roots) -> Float[Array, ""]:
        return self.of_features(x.W, x.A**2)

    def of_features(self, W: Float[Array, "K d"], H: Float[Array, "d N"]) -> Float[Array, ""]:
        """Return f of a classifier and features."""
        decay = self.decay_w * jnp.sum(W**2) + self.decay_h * jnp.sum(H**2)
        return jnp.mean(self.scored.value(W @ H, self._targets)) + decay / 2

    def invariants(self, x: Roots) -> Float[Array, " m"]:
        """Return value and all inner products, sorted: what no rotation or permutation of samples changes."""
        H, value = x.A**2, jnp.arcsinh(self.value(x))
        parts = (x.W @ H, H.T @ H, x.W @ x.W.T)
        return jnp.concatenate([value[None], *(jnp.sort(jnp.ravel(a)) for a in parts)])

    def lower_bound(self, x: Roots) -> Float[Array, ""]:
        """Return the bound of the module's docstring, or that of Θ = 0 where it is higher; convex losses."""
        loss, T = self.scored, self._targets
        if not loss.convex:
            return super().lower_bound(x)
        Z = x.W @ x.A**2
        slope = loss.slope(Z, T)
        G = slope / T.shape[1]
        top = jnp.linalg.eigvalsh(jnp.maximum(G.T @ G, 0.0))[-1]
        c = jnp.minimum(1.0, self._strength / jnp.sqrt(jnp.maximum(top, jnp.finfo(top.dtype).tiny)))
        bound, trivial = (jnp.mean(loss.dual(Z, T, slope, scale)) for scale in (c, jnp.zeros_like(c)))
        return jnp.maximum(bound, trivial)

    def measures(self, x: Roots) -> dict[str, Array]:
        """Return the KKT measures, and how many features are positive."""
        H = x.A**2
        slope, multiplier = jax.grad(self.of_features, argnums=(0, 1))(x.W, H)
        inactive = jnp.max(H) * INACTIVE >= H
        least = jnp.min(jnp.where(inactive, multiplier, jnp.inf))
        residual = jnp.sum(slope**2) + jnp.sum(jnp.minimum(H, multiplier) ** 2)
        return {
            "multiplier": jnp.where(jnp.any(inactive), least, jnp.nan),
            "kkt": jnp.sqrt(residual),
            "support": jnp.sum(~inactive).astype(jnp.int32),
        }

    def gaps(self) -> Float[Array, " K"]:
        """Return m_k of the docstring, 0 for classes that die."""
        K, n = len(self.counts), jnp.asarray(self.counts, self.decay_w.dtype)
        odds = jnp.sqrt(K * (K - 1) * n) / (jnp.sum(n) * self._strength) - (K - 1)
        return jnp.log(jnp.maximum(odds, 1.0))

    def known_minimum(self) -> Float[Array, ""]:
        if not is_cross_entropy(self.scored):
            return super().known_minimum()
        m = self.gaps()
        return jnp.where(jnp.sum(m > 0) <= self.dim, jnp.sum(self._terms(m)), jnp.nan)

    def _terms(self, m: Float[Array, " K"]) -> Float[Array, " K"]:
        """Return what each class adds to f where its logit gap is m_k."""
        K, n = len(self.counts), jnp.asarray(self.counts, m.dtype)
        fit = n / jnp.sum(n) * jnp.log1p((K - 1) * jnp.exp(-m))
        return fit + m * self._strength * jnp.sqrt(n * (K - 1) / K)

    def predictions(self) -> dict[str, Any]:
        """Return `loss` = f* where known, `logit_gaps`, `h_norms` and `w_norms` (of columns), by class.

        `dying_strengths`: class k dies where √(λ_W λ_H) is at least that. `critical_values`: f where only
        some classes live, by their counts.
        """
        if not is_cross_entropy(self.scored):
            return {"regime": "no closed form for this loss"}
        K, n, m = len(self.counts), np.array(self.counts, float), np.asarray(self.gaps())
        value, tilt = float(self.known_minimum()), float(jnp.sqrt(self.decay_w / self.decay_h))
        alive = int(np.sum(m > 0))
        known = alive <= self.dim
        told = f"orthogonal features of {alive} classes" if alive else "origin"
        out: dict[str, Any] = {
            "regime": told if known else f"no closed form: {alive} classes live, in fewer dimensions"
        }
        out |= {"loss": value if known else None}
        lengths = np.sqrt(m * tilt * np.sqrt((K - 1) / (K * n)))
        columns = np.divide(m * np.sqrt((K - 1) / K), lengths, out=np.zeros(K), where=m > 0)
        by_class = {"logit_gaps": m, "h_norms": lengths, "w_norms": columns}
        if known:
            out |= {name: values.tolist() for name, values in by_class.items()}
        out |= {"dying_strengths": (np.sqrt((K - 1) * n / K) / n.sum()).tolist()}
        return out | {"critical_values": self._critical_values()}

    def _critical_values(self) -> dict[str, float]:
        """Return f where some classes live and the others are at 0, by the counts of the living."""
        m = self.gaps()
        alive, dead = np.asarray(self._terms(m)), np.asarray(self._terms(jnp.zeros_like(m)))
        kinds, sizes = np.unique(self.counts, return_counts=True)
        own = [self.counts.index(n) for n in kinds]  # a class of each count: those of one count are alike
        most = [size if m[k] > 0 else 0 for k, size in zip(own, sizes, strict=True)]
        values: dict[str, float] = {}
        numbers = itertools.product(*(range(limit, -1, -1) for limit in reversed(most)))
        fitting = (living[::-1] for living in numbers if sum(living) <= self.dim)
        for living in itertools.islice(fitting, MOST):
            counts = [int(n) for n, many in zip(kinds, living, strict=True) for _ in range(many)][::-1]
            name = f"alive{listed(counts)}" if len(kinds) > 1 else f"alive({len(counts)})"
            total = np.array(living) @ alive[own] + (sizes - np.array(living)) @ dead[own]
            values[name if counts else "origin"] = float(total)
        return dict(sorted(values.items(), key=lambda one: one[1]))
