"""The unconstrained feature model with its classifier frozen, as in networks with a fixed simplex ETF.

    f(H, b) = (1/N) Σ_i ℓ(W h_i + b, y_i) + (λ_H/2) ‖H‖² + (λ_b/2) ‖b‖²,    W of K x d given, λ_H > 0.

For a loss that is convex in the logits f is convex, so every critical point is a global minimum; there is one
(modulo the shift b -> b + c 1 where λ_b = 0 and the loss does not see it). Yang et al. (2022) and Zhu et al.
(2021) freeze W as a simplex ETF, of unit rows with w_j·w_k = −1/(K − 1). Classes that are balanced, or of any
counts if there is no bias, are then at h_i = η w_y, ‖h_i‖ = η, with η the root of

    cross-entropy:  K / (N (K − 1 + e^{ηK/(K−1)})) = λ_H η,    b = 0;
    squared loss:   η = 1 / (K/(K − 1) + N λ_H),               b = 1 / (K (1 + λ_b)).

`frozen_simplex` makes it of plain numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.arguments import chosen_loss, is_cross_entropy
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.loss_checks import is_shift_invariant
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss, Squared
from ufm_jax.models.unconstrained.problem import checked_counts
from ufm_jax.numerics.bisection import last_true
from ufm_jax.numerics.checks import check_flag, check_positive

SIMPLEX_TOL = 1e-9  # of the Gram matrix of W: rounding, where it was made as a simplex


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
        check_flag(bias=self.bias)
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

    def _feature_length(self) -> Float[Array, ""]:
        """Return η of the module's docstring where it is known, else NaN."""
        K, N, dtype = len(self.counts), sum(self.counts), self.W.dtype
        balanced, nothing = len(set(self.counts)) == 1, jnp.full((), jnp.nan, dtype)
        gram = (K * jnp.eye(K, dtype=dtype) - 1.0) / (K - 1.0)
        simplex = jnp.max(jnp.abs(self.W @ self.W.T - gram)) <= SIMPLEX_TOL
        if type(self.loss) is Squared and balanced and self.bias:
            eta = 1.0 / (K / (K - 1.0) + N * self.decay_h)
        elif is_cross_entropy(self.loss) and (balanced or not self.bias):
            price, rate = self.decay_h * N, K / (K - 1.0)
            below = lambda eta: price * eta * (K - 1 + jnp.exp(eta * rate)) <= K
            # The root has λ_H η ≤ 1/N and e^{η rate} ≤ K/(N λ_H η): not beyond the larger of 1 and the
            # latter's log.
            most = jnp.minimum(1.0 / price, jnp.maximum(1.0, jnp.log(jnp.maximum(K / price, 1.0)) / rate))
            eta = last_true(below, jnp.zeros_like(most), most)
        else:
            return nothing
        return jnp.where(simplex, eta, jnp.nan)

    def known_minimum(self) -> Float[Array, ""]:
        """Return f* at h_i = η w_y for a frozen simplex, else NaN."""
        K, N, eta = len(self.counts), sum(self.counts), self._feature_length()
        decay = N * self.decay_h * eta**2 / 2
        if is_cross_entropy(self.loss):
            return jnp.log1p((K - 1) * jnp.exp(-eta * K / (K - 1))) + decay
        if type(self.loss) is not Squared:
            return super().known_minimum()
        gap, b = eta * K / (K - 1), 1.0 / (K * (1.0 + self.decay_b))
        # Logits gap (e_k − 1/K) + b: the part of sum 0, and that along 1.
        misfit = (1.0 - gap) ** 2 * (K - 1) / (2 * K) + (1.0 - K * b) ** 2 / (2 * K)
        return misfit + decay + self.decay_b * K * b**2 / 2

    def predictions(self) -> dict[str, Any]:
        """Return `loss` = f* and `feature_length` = η for a frozen simplex, None for any other classifier."""
        eta, loss = float(self._feature_length()), float(self.known_minimum())
        known = bool(np.isfinite(loss))
        convex = "convex: one minimum, which every descent meets"
        told = (
            "features along a frozen simplex" if known else convex if self.loss.convex else "no closed form"
        )
        return {"regime": told, "loss": loss if known else None, "feature_length": eta if known else None}


def frozen_simplex(
    *,
    decay_h: int | float,
    decay_b: int | float = 0.0,
    num_classes: int | None = None,
    per_class: int | None = None,
    counts: tuple[int, ...] | None = None,
    dim: int | None = None,
    bias: bool = True,
    loss: str | Loss = "cross-entropy",
) -> FrozenClassifier:
    """Return the landscape of a classifier frozen as a simplex ETF of unit rows; d = K by default.

    Raises:
        ValueError: naming the argument and its value.
    """
    check_positive(decay_h=decay_h)
    check_positive(zero=True, decay_b=decay_b)
    check_flag(bias=bias)
    sizes = checked_counts(num_classes, 1 if per_class is None and counts is None else per_class, counts)
    return FrozenClassifier(
        W=jnp.asarray(simplex_etf(len(sizes), len(sizes) if dim is None else dim)),
        decay_h=jnp.asarray(decay_h, float),
        decay_b=jnp.asarray(decay_b if bias else 0.0, float),
        counts=sizes,
        bias=bias,
        loss=chosen_loss(loss, sizes),
    )
