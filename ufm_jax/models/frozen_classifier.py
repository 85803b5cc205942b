"""The unconstrained feature model with its classifier frozen, as in networks with a fixed simplex ETF.

    f(H, b) = (1/N) Σ_i ℓ(W h_i + b, y_i) + (λ_H/2) ‖H‖² + (λ_b/2) ‖b‖²,    W of K x d given, λ_H > 0.

For a loss that is convex in the logits f is convex, so every critical point is a global minimum; there is one
(modulo the shift b -> b + c 1 where λ_b = 0 and the loss does not see it). Yang et al. (2022) and Zhu et al.
(2021) freeze W as a simplex ETF, of unit rows with w_j·w_k = −1/(K − 1). Classes that are balanced, or of any
counts if there is no bias, are then at h_i = η w_y, ‖h_i‖ = η, with η the root of

    cross-entropy:  K / (N (K − 1 + e^{ηK/(K−1)})) = λ_H η,    b = 0;
    squared loss:   η = 1 / (K/(K − 1) + N λ_H),               b = 1 / (K (1 + λ_b)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss, is_shift_invariant


class Features(NamedTuple):
    """The variables. `b` is None where there is no bias."""

    H: Float[Array, "*m d N"]  # columns sorted by class
    b: Float[Array, "*m K"] | None


class FrozenClassifier(Landscape):
    """Mean loss and decay of the features H and the bias b, for a classifier W that stays as it is."""

    W: Float[Array, "..."]
    decay_h: Float[Array, "..."]
    decay_b: Float[Array, "..."]  # without a bias of no effect
    counts: tuple[int, ...] = static()  # n_1..n_K
    bias: bool = static(default=True)
    loss: Loss = static(default=CrossEntropy())

    def __post_init__(self) -> None:
        if np.shape(self.W)[-2:-1] != (len(self.counts),):
            raise ValueError(f"counts: need one for each row of W, {np.shape(self.W)}, got {self.counts}")

    @property
    def labels(self) -> np.ndarray:
        """Class of each column of H."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def targets(self) -> Float[Array, "K N"]:
        """What the loss wants of each column."""
        return jnp.asarray(self.loss.targets(self.labels, len(self.counts)), self.W.dtype)

    def zeros(self) -> Features:
        K, d = self.W.shape
        H = jnp.zeros((d, sum(self.counts)), self.W.dtype)
        return Features(H, jnp.zeros(K, self.W.dtype) if self.bias else None)

    def value(self, x: Features) -> Float[Array, ""]:
        logits, decay = self.W @ x.H, self.decay_h * jnp.sum(x.H**2)
        if x.b is not None:
            logits, decay = logits + x.b[:, None], decay + self.decay_b * jnp.sum(x.b**2)
        return jnp.mean(self.loss.value(logits, self.targets)) + decay / 2

    @property
    def _shift_invariant(self) -> bool:
        return is_shift_invariant(self.loss, len(self.W))

    def tangents(self, x: Features) -> Features:
        """Return the shift of b, times 0 where its decay sees it; nothing where the loss does."""
        if x.b is None or not self._shift_invariant:
            return Landscape.tangents(self, x)
        undecayed = (self.decay_b == 0).astype(x.b.dtype)
        return Features(jnp.zeros_like(x.H)[None], jnp.full_like(x.b, undecayed)[None])

    def invariants(self, x: Features) -> Float[Array, " m"]:
        """Return mean and second moments of each class's logits: its samples may be permuted."""
        logits = self.W @ x.H if x.b is None else self.W @ x.H + x.b[:, None]
        if self._shift_invariant:
            logits = logits - jnp.mean(logits, axis=0)
        groups = jnp.split(logits, np.cumsum(self.counts)[:-1], axis=1)
        return jnp.concatenate(
            [jnp.mean(Z, axis=1) for Z in groups] + [jnp.ravel(Z @ Z.T / Z.shape[1]) for Z in groups]
        )

    def lower_bound(self, x: Features) -> Float[Array, ""]:
        """Return a bound by strong convexity, for losses known to be convex (`convex`).

        f − (λ_H/2)‖H‖² − (λ_b/2)‖b‖² is convex, so f* ≥ f − ‖∇_H f‖²/(2λ_H) − ‖∇_b f‖²/(2λ_b) at any point.
        Where λ_b = 0 the last term is to be ⟨∇_b f, b − b*⟩ at most: see `_bias_bound`.
        """
        if not self.loss.convex:
            return super().lower_bound(x)
        value, grad = jax.value_and_grad(self.value)(x)
        bound = value - jnp.sum(grad.H**2) / (2 * self.decay_h)
        if x.b is None or grad.b is None:
            return bound
        decayed = jnp.sum(grad.b**2) / (2 * jnp.where(self.decay_b > 0, self.decay_b, 1.0))
        size = jnp.sum(jnp.abs(grad.b))
        undecayed = jnp.dot(grad.b, x.b) + jnp.where(size > 0, size * self._bias_bound(), 0.0)
        return bound - jnp.where(self.decay_b > 0, decayed, undecayed)

    def _bias_bound(self) -> Float[Array, ""]:
        """Bound |b_j| at a minimum where λ_b = 0, shifted to mean 0 if the loss does not see that.

        The loss of column i is m_i = −ℓ*(0) at least, and f* ≤ f(0) = e + mean(m). So some column of class k
        has a loss of m + N e/n_k at most, which `reach` turns into a bound on its logits, and ‖h‖² ≤ 2e/λ_H,
        which bounds the part that W h has in them.
        """
        with jax.ensure_compile_time_eval():  # known before anything is traced: `reach` takes a number
            T = self.targets
            zero = jnp.zeros_like(T)
            least = self.loss.dual(zero, T, self.loss.slope(zero, T), jnp.zeros((), T.dtype))
            excess = jnp.mean(self.loss.value(zero, T) - least)
            share = len(self.labels) / jnp.asarray(self.counts, T.dtype)[self.labels]
            reach = self.loss.reach(float(jnp.max(least + share * excess)))
        if reach is None:
            return jnp.full((), jnp.inf, self.W.dtype)
        rows = self.W[:, None] - self.W[None] if self._shift_invariant else self.W
        length = jnp.max(jnp.linalg.norm(rows, axis=-1))
        return reach + length * jnp.sqrt(2 * excess / self.decay_h)

    def measures(self, x: Features) -> dict[str, Array]:
        """Return the part of ‖H‖² that is within classes: 0 if each class is at its mean."""
        groups = jnp.split(x.H, np.cumsum(self.counts)[:-1], axis=1)
        within = sum(jnp.sum((H - jnp.mean(H, axis=1, keepdims=True)) ** 2) for H in groups)
        return {"within": within / jnp.maximum(jnp.sum(x.H**2), jnp.finfo(x.H.dtype).tiny)}
