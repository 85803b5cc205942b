"""Losses as values: how one column of logits is scored against its target.

A loss acts on columns: logits `Z` and targets `T` are `K x N` and the result has one entry per column. All is
elementwise or along the first axis, so columns may have more axes than one, as in `stacked`.
A new loss is one subclass with `value`, and `convex = True` if it is: global optimality can then be shown
(`certificate`). Derivatives have defaults by automatic differentiation, `dual` by convexity; which classes
are alike, and whether a shift matters, is found at random columns. `slope` and `curvature` are worth writing
by hand where the exponentials can be shared. A subclass that overrides `value` keeps nothing else of its
parent that belongs to the old value, and `loss_checks.check_loss` compares all that it has. Losses made for
classes of unequal counts are in `unequal_losses`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained import loss_checks

Columns = Float[Array, "K *#N"]  # any number of column axes; targets may be of length 1 along some

# What is said of a loss by what it is computed from: who overrides the first inherits none of the others.
OF_SLOPE = ("value_and_slope", "curvature")
OF_TARGETS = ("reach", "class_kinds")
OF_DUAL = ("centred",)
OF_VALUE = (
    *("slope", *OF_SLOPE, "convex", "infimum", "dual", *OF_DUAL, "reach", "shift_invariant", "class_kinds"),
)


@dataclass(frozen=True)
class Loss:
    """One sample's loss ℓ(z, t), applied to every column; subclasses are hashable values."""

    name: ClassVar[str] = "custom"
    convex: ClassVar[bool] = False  # in z: class means hold every critical point, and there are certificates
    infimum: ClassVar[float] = 0.0  # a lower bound on ℓ; the default `dual` needs one
    shift_invariant: ClassVar[bool | None] = None  # ℓ(z + c1, t) = ℓ(z, t); None: found at random columns

    def __init_subclass__(cls) -> None:
        """Give a subclass that overrides one of them the defaults of what is said of it, if not given."""
        bases = ("slope", OF_SLOPE), ("targets_of", OF_TARGETS), ("dual", OF_DUAL), ("value", OF_VALUE)
        for base, names in bases:
            if base in vars(cls):
                for name in names:
                    if name not in vars(cls):
                        setattr(cls, name, vars(Loss)[name])
        if "value" in vars(cls) and "name" not in vars(cls):
            cls.name = cls.__name__

    def targets(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Return the `K x N` targets of `labels`."""
        return self.targets_of((np.arange(num_classes)[:, None] == labels[None, :]).astype(np.float64))

    def targets_of(self, one_hot: Any) -> Any:
        """Return the targets of labels as `one_hot` columns: these, unless a subclass says otherwise."""
        return one_hot

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        """Return ℓ of each column."""
        raise NotImplementedError

    def slope(self, Z: Columns, T: Columns) -> Columns:
        """Return ∇_z ℓ of each column."""
        return jax.grad(lambda z: jnp.sum(self.value(z, T)))(Z)

    def value_and_slope(self, Z: Columns, T: Columns) -> tuple[Float[Array, "*#N"], Columns]:
        """Return ℓ and ∇_z ℓ of each column; worth writing where they share exponentials."""
        return self.value(Z, T), self.slope(Z, T)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        """Return V -> ∇²_z ℓ · V, column by column; what depends on Z alone is computed here, once."""
        return jax.linearize(lambda z: self.slope(z, T), Z)[1]

    def dual(self, Z: Columns, T: Columns, slope: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        """Bound −ℓ*(c · slope) of each column from below, ℓ* the convex conjugate in z, for 0 ≤ c ≤ 1.

        `slope` is `self.slope(Z, T)`, so that c · slope lies in the domain of ℓ* and −ℓ*(slope) is
        ℓ(z) − ⟨slope, z⟩. The default is what concavity of −ℓ* makes of that and of −ℓ*(0) = inf ℓ.
        """
        return c * (self.value(Z, T) - jnp.sum(slope * Z, axis=0)) + (1.0 - c) * self.infimum

    def centred(self, push: Columns, T: Columns, weights: Float[Array, "*#N"]) -> Columns | None:
        """Move `push` = c · slope so that its columns' weighted sum is zero, within the domain of ℓ*.

        `dual` takes what is returned in place of a slope, and does not look at its Z. None: nobody knows how.
        Asked for where a bias has no decay.
        """
        return None

    def reach(self, cap: float) -> float | None:
        """Bound |z_j − z_k| (|z_j| if not shift invariant) where one sample of each class has ℓ ≤ cap.

        Asked for where a bias has no decay. By default a weaker bound is made from convexity (`certificate`).
        """
        return None

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        """Number the classes so that those which the loss treats alike share a number; found by default."""
        return loss_checks.found_kinds(self, num_classes)

    def check(self, num_classes: int) -> None:
        """Raise ValueError, naming a parameter, if the loss is not one for so many classes."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy ω_y (log Σ_j exp(z_j + ι_j) − ⟨t, z + ι⟩), t = (1 − α) one-hot + α/K.

    Without smoothing it is log(1 + eᵘ), u = log Σ_{j≠y} exp(z_j − z_y), and all of it, its derivatives and
    its dual are good to rounding relative to themselves, however small: −log p_y is a log1p, the slope at
    the label minus the sum of the others.

    α is `smoothing` in [0, 1). ω = `class_weights` is 1 by default; f divides by N, whatever the weights:
    class-balanced loss is ω_k = N/(K n_k). ι = `offsets` is 0 by default; ι_k = τ log(n_k/N) is logit
    adjustment (Menon et al. 2021).

    Raises:
        ValueError: if `smoothing` is outside [0, 1), a weight is not positive or an offset not finite.
    """

    smoothing: float = 0.0
    class_weights: Sequence[int | float] | None = None  # kept as a tuple of floats
    offsets: Sequence[int | float] | None = None
    name: ClassVar[str] = "cross-entropy"
    convex: ClassVar[bool] = True
    shift_invariant: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        if not isinstance(self.smoothing, int | float) or not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing: need 0 <= smoothing < 1, got {self.smoothing}")
        for name, lowest in (("class_weights", 0.0), ("offsets", -np.inf)):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, finite_numbers(name, given, above=lowest))

    @property
    def plain(self) -> bool:
        """True without weights and offsets, which the closed forms know nothing of."""
        return self.class_weights is None and self.offsets is None

    def check(self, num_classes: int) -> None:
        for name in ("class_weights", "offsets"):
            if (given := getattr(self, name)) is not None and len(given) != num_classes:
                raise ValueError(f"{name}: need one for each of {num_classes} classes, got {given}")

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        ones = (1.0,) * num_classes
        pairs = list(zip(self.class_weights or ones, self.offsets or ones, strict=True))
        return tuple(map(sorted(set(pairs)).index, pairs))

    def targets_of(self, one_hot: Any) -> Any:
        return (1.0 - self.smoothing) * one_hot + self.smoothing / len(one_hot)

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        Z, Y = self._moved(Z), self._one_hot(T)
        return self._weighted(T, jax.nn.softplus(_margin(Z, Y)) + self._smoothed(Z, Y, T))

    def slope(self, Z: Columns, T: Columns) -> Columns:
        Z, Y = self._moved(Z), self._one_hot(T)
        wrong = jax.nn.sigmoid(_margin(Z, Y))
        return self._weighted(T, wrong * (_others(Z, Y) - Y) + (0.0 if Y is T else Y - T))

    def value_and_slope(self, Z: Columns, T: Columns) -> tuple[Float[Array, "*#N"], Columns]:
        Z, Y = self._moved(Z), self._one_hot(T)
        # By `where`, not by products with Y: XLA would write out Y for the batch, and E twice.
        top, label = jnp.max(Z, axis=0), jnp.sum(jnp.where(Y > 0.5, Z, 0.0), axis=0)
        E = jnp.exp(_wrong_logits(Z - top, Y))
        right, wrong = jnp.exp(label - top), jnp.sum(E, axis=0)
        rest = jnp.where(right == 1.0, wrong, right + wrong - 1.0)  # beside the largest term, which is 1
        value = jnp.log1p(rest) + (top - label) + self._smoothed(Z, Y, T)
        slope = (E - Y * wrong) / (right + wrong) + (0.0 if Y is T else Y - T)
        return self._weighted(T, value), self._weighted(T, slope)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        Z, Y = self._moved(Z), self._one_hot(T)
        u, Q = _margin(Z, Y), _others(Z, Y)
        wrong, right = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)

        def apply(V: Columns) -> Columns:
            mean, label = jnp.sum(Q * V, axis=0), jnp.sum(Y * V, axis=0)
            return self._weighted(T, wrong * (Q * (V - mean) + right * (Q - Y) * (mean - label)))

        return apply

    def dual(self, Z: Columns, T: Columns, slope: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        """ω (entropy of q + ⟨q − t, ι⟩), q = (1 − c) t + c p: log-sum-exp's conjugate is negative entropy."""
        push = c * slope if self.class_weights is None else c * slope / self._weight(T)
        Y = self._one_hot(T)
        q = jnp.maximum((1.0 - Y) * (T + push), 0.0)  # rounding only: a convex combination of t and p
        wrong = jnp.minimum(jnp.sum(q, axis=0), 1.0)
        entropy = -jnp.sum(jax.scipy.special.xlogy(q, q), axis=0)
        entropy -= jax.scipy.special.xlog1py(1.0 - wrong, -wrong)
        if self.offsets is not None:
            entropy += jnp.sum(push * self._moved(jnp.zeros_like(push)), axis=0)
        return self._weighted(T, entropy)

    def centred(self, push: Columns, T: Columns, weights: Float[Array, "*#N"]) -> Columns:
        """Return ω (q′ − t), q′ = (1 − ε)(q − δ) + ε τ, of push = ω (q − t).

        With v_i = weight_i ω_i/Σ_k weight_k ω_k, δ = Σ v_i (q_i − t_i) is what is to go, and τ = Σ v_i t_i
        the one distribution for all columns with Σ v_i (τ − t_i) = 0: so Σ v_i (q′_i − t_i) = 0 for every ε.
        q − δ may leave the simplex, as its sum is 1 but q_j − δ_j may be negative; with
        ε = a/(1 + a), a = max_j δ_j/τ_j, it does not: q′_j ≥ (1 − ε)(a τ_j − δ_j) ≥ 0. Where δ is rounding, ε
        is as small (derived for this project).
        """
        omega = jnp.ones_like(weights) if self.class_weights is None else self._weight(T)
        shares = weights * omega / jnp.dot(weights, omega)
        excess, mean = (push / omega) @ shares, T @ shares
        a = jnp.max(jnp.where(excess > 0, excess / mean, 0.0))
        mixed = jnp.where(jnp.isfinite(a), a / (1 + a), 1.0)
        return (1 - mixed) * (push - omega * excess[:, None]) + mixed * omega * (mean[:, None] - T)

    def reach(self, cap: float) -> float | None:
        """One-hot: ℓ ≥ ω (z_j − z_y). Smoothed: ℓ ≥ (1 − α + α/K)(z_j − z_y) and 1 − α is a lower factor."""
        apart = max(self.offsets) - min(self.offsets) if self.offsets else 0.0
        return cap / (min(self.class_weights or (1.0,)) * (1.0 - self.smoothing)) + apart

    def _one_hot(self, T: Columns) -> Columns:
        """Return 1 at each column's class, which has the largest target, else 0."""
        if self.smoothing == 0.0 and type(self).targets_of is CrossEntropy.targets_of:
            return T
        classes = jnp.arange(len(T), dtype=jnp.int32).reshape(-1, *[1] * (T.ndim - 1))
        return (classes == jnp.argmax(T, axis=0).astype(jnp.int32)).astype(T.dtype)

    def _smoothed(self, Z: Columns, Y: Columns, T: Columns) -> Float[Array, "*#N"] | float:
        """Return ⟨y − t, z⟩: by so much is the loss of targets t above that of one-hot ones, y."""
        return 0.0 if Y is T else jnp.sum((Y - T) * Z, axis=0)

    def _moved(self, Z: Columns) -> Columns:
        """Return z + ι."""
        if self.offsets is None:
            return Z
        return Z + jnp.asarray(self.offsets, Z.dtype).reshape(-1, *[1] * (Z.ndim - 1))

    def _weight(self, T: Columns) -> Float[Array, "*#N"]:
        """Return ω of each column's class, which has the largest target."""
        return jnp.asarray(self.class_weights, T.dtype)[jnp.argmax(T, axis=0)]

    def _weighted(self, T: Columns, columns: Array) -> Array:
        return columns if self.class_weights is None else self._weight(T) * columns


def finite_numbers(name: str, given: Any, above: float) -> tuple[float, ...]:
    """Return numbers as a tuple of floats, each finite and above a bound."""
    try:
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: need a tuple of numbers, got {given!r}") from None
    if not all(above < number < np.inf for number in numbers):
        raise ValueError(f"{name}: need finite numbers{' > 0' if above == 0 else ''}, got {numbers}")
    return numbers


@dataclass(frozen=True)
class Squared(Loss):
    """Squared loss ½‖z − y‖² against one-hot targets."""

    name: ClassVar[str] = "squared"
    convex: ClassVar[bool] = True
    shift_invariant: ClassVar[bool | None] = False

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return jnp.sum((Z - T) ** 2, axis=0) / 2

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return Z - T

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        return lambda V: V

    def dual(self, Z: Columns, T: Columns, slope: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        return -jnp.sum(c * slope * T + (c * slope) ** 2 / 2, axis=0)

    def centred(self, push: Columns, T: Columns, weights: Float[Array, "*#N"]) -> Columns:
        return push - (push @ weights / jnp.sum(weights))[:, None]  # ℓ* is finite everywhere

    def reach(self, cap: float) -> float | None:
        return (2.0 * cap) ** 0.5 + 1.0

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        return (0,) * num_classes


@dataclass(frozen=True)
class Focal(Loss):
    """Focal loss −(1 − p)^γ log p of the right class's softmax probability p (Lin et al. 2017), γ = `gamma`.

    A function φ(u) = σ(u)^γ log(1 + eᵘ) of u = log Σ_{j≠y} exp(z_j − z_y) alone, since 1 − p = σ(u), the
    logistic function; γ = 0 is cross-entropy. For γ > 0 it is not convex in z: nothing is certified.

    Raises:
        ValueError: if `gamma` is not a finite number >= 0.
    """

    gamma: float = 2.0  # as its authors recommend
    name: ClassVar[str] = "focal"
    shift_invariant: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, int | float) or not 0.0 <= self.gamma < np.inf:
            raise ValueError(f"gamma: need a finite gamma >= 0, got {self.gamma}")

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        return (0,) * num_classes

    def of_margin(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return φ(u), exact for u of any finite size."""
        return self._power(u) * jax.nn.softplus(u)

    def margin_slope(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return φ′ = σ^γ (γ(1 − σ) softplus + σ): positive, rising to one peak and then falling to 1."""
        wrong, right = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
        return self._power(u) * (self.gamma * right * jax.nn.softplus(u) + wrong)

    def margin_curvature(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return φ″ = σ^γ (1 − σ) (γ softplus (γ(1 − σ) − σ) + (2γ + 1)σ)."""
        gamma, wrong, right = self.gamma, jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
        bracket = gamma * jax.nn.softplus(u) * (gamma * right - wrong) + (2.0 * gamma + 1.0) * wrong
        return self._power(u) * right * bracket

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return self.of_margin(_margin(Z, T))

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return self.margin_slope(_margin(Z, T)) * (_others(Z, T) - T)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        u, Q = _margin(Z, T), _others(Z, T)
        first, second = self.margin_slope(u), self.margin_curvature(u)

        def apply(V: Columns) -> Columns:
            spread = Q * (V - jnp.sum(Q * V, axis=0))  # ∇²u V, and Q − T is ∇u
            return second * (Q - T) * jnp.sum((Q - T) * V, axis=0) + first * spread

        return apply

    def _power(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return σ(u)^γ by its logarithm, whose derivatives are finite where σ(u) underflows."""
        return jnp.exp(-self.gamma * jax.nn.softplus(-u))


def _wrong_logits(Z: Columns, T: Columns) -> Columns:
    return jnp.where(T > 0.5, -jnp.inf, Z)


def _margin(Z: Columns, T: Columns) -> Float[Array, "*#N"]:
    """Return log Σ_{j≠y} exp(z_j − z_y) of each column, y the one class with a target."""
    return jax.nn.logsumexp(_wrong_logits(Z, T), axis=0) - jnp.sum(T * Z, axis=0)


def _others(Z: Columns, T: Columns) -> Columns:
    """Return the softmax over the wrong classes, 0 at the right one."""
    return jax.nn.softmax(_wrong_logits(Z, T), axis=0)
