"""Losses as values: how one column of logits is scored against its target.

A loss acts on columns: logits `Z` and targets `T` are `K x N` and the result has one entry per column. All is
elementwise or along the first axis, so columns may have more axes than one, as in `stacked`.
A new loss is one subclass with `value`; the other methods have defaults by automatic differentiation.
`slope` and `curvature` are worth writing by hand where the exponentials can be shared, and a convex loss
that gives `dual` gets global certificates (`certificate`). A subclass that overrides `value` keeps
nothing else of its parent that belongs to the old value, and `check_loss` compares all that it has.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Columns = Float[Array, "K *#N"]  # any number of column axes; targets may be of length 1 along some

DEFAULT_GAMMA = 2.0  # of the focal loss, as its authors recommend


# What is said of a loss by what it is computed from: who overrides the first inherits none of the others.
OF_SLOPE = ("value_and_slope", "curvature")
OF_VALUE = ("slope", *OF_SLOPE, "dual", "reach", "certified", "shift_invariant")


@dataclass(frozen=True)
class Loss:
    """One sample's loss ℓ(z, t), applied to every column; subclasses are hashable values."""

    name: ClassVar[str] = "custom"
    certified: ClassVar[bool] = False  # convex in z with `dual` given: global optimality can be shown
    shift_invariant: ClassVar[bool] = False  # ℓ(z + c1, t) = ℓ(z, t)

    def __init_subclass__(cls) -> None:
        """Give a subclass that overrides `value` (or `slope`) the defaults of what it did not override."""
        for base, names in (("slope", OF_SLOPE), ("value", OF_VALUE)):
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

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        """Return −ℓ*(c · slope) of each column, ℓ* the convex conjugate in z, for 0 ≤ c ≤ 1.

        `slope` is `self.slope(Z, T)` at some Z, so c · slope lies in the domain of ℓ*.
        """
        raise NotImplementedError(f"{self.name} has no convex conjugate: its points cannot be certified")

    def reach(self, cap: float) -> float:
        """Bound |z_j − z_k| (|z_j| if not shift invariant) where one sample of each class has ℓ ≤ cap.

        Asked for where a bias has no decay; without a bound, an inexact bias then closes no gap.
        """
        return float("inf")


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy against targets (1 − α) one-hot + α/K, with α = `smoothing` in [0, 1).

    Raises:
        ValueError: if `smoothing` is outside [0, 1).
    """

    smoothing: float = 0.0
    name: ClassVar[str] = "cross-entropy"
    certified: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.smoothing, int | float) or not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing: need 0 <= smoothing < 1, got {self.smoothing}")

    def targets_of(self, one_hot: Any) -> Any:
        return (1.0 - self.smoothing) * one_hot + self.smoothing / len(one_hot)

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return -jnp.sum(T * jax.nn.log_softmax(Z, axis=0), axis=0)

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return jax.nn.softmax(Z, axis=0) - T

    def value_and_slope(self, Z: Columns, T: Columns) -> tuple[Float[Array, "*#N"], Columns]:
        top = jnp.max(Z, axis=0)
        E = jnp.exp(Z - top)
        total = jnp.sum(E, axis=0)
        return jnp.log(total) + top - jnp.sum(T * Z, axis=0), E / total - T

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        P = jax.nn.softmax(Z, axis=0)
        return lambda V: P * (V - jnp.sum(P * V, axis=0))

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        """Entropy of (1 − c) t + c p: the conjugate of log-sum-exp is the negative entropy."""
        q = jnp.maximum(T + c * slope, 0.0)  # rounding only: q is a convex combination of t and p
        return -jnp.sum(jax.scipy.special.xlogy(q, q), axis=0)

    def reach(self, cap: float) -> float:
        """One-hot: ℓ ≥ z_j − z_y. Smoothed: ℓ ≥ (1 − α + α/K)(z_j − z_y) and 1 − α is a lower factor."""
        return cap / (1.0 - self.smoothing)


@dataclass(frozen=True)
class Squared(Loss):
    """Squared loss ½‖z − y‖² against one-hot targets."""

    name: ClassVar[str] = "squared"
    certified: ClassVar[bool] = True

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return jnp.sum((Z - T) ** 2, axis=0) / 2

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return Z - T

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        return lambda V: V

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        return -jnp.sum(c * slope * T + (c * slope) ** 2 / 2, axis=0)

    def reach(self, cap: float) -> float:
        return (2.0 * cap) ** 0.5 + 1.0


@dataclass(frozen=True)
class Focal(Loss):
    """Focal loss −(1 − p)^γ log p of the right class's softmax probability p (Lin et al. 2017), γ = `gamma`.

    A function φ(u) = σ(u)^γ log(1 + eᵘ) of u = log Σ_{j≠y} exp(z_j − z_y) alone, since 1 − p = σ(u), the
    logistic function; γ = 0 is cross-entropy. For γ > 0 it is not convex in z: nothing is certified.

    Raises:
        ValueError: if `gamma` is not a finite number >= 0.
    """

    gamma: float = DEFAULT_GAMMA
    name: ClassVar[str] = "focal"
    shift_invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, int | float) or not 0.0 <= self.gamma < np.inf:
            raise ValueError(f"gamma: need a finite gamma >= 0, got {self.gamma}")

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
    return jnp.where(T > 0, -jnp.inf, Z)


def _margin(Z: Columns, T: Columns) -> Float[Array, "*#N"]:
    """Return log Σ_{j≠y} exp(z_j − z_y) of each column, y the one class with a target."""
    return jax.nn.logsumexp(_wrong_logits(Z, T), axis=0) - jnp.sum(T * Z, axis=0)


def _others(Z: Columns, T: Columns) -> Columns:
    """Return the softmax over the wrong classes, 0 at the right one."""
    return jax.nn.softmax(_wrong_logits(Z, T), axis=0)


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (CrossEntropy, Squared, Focal)}


def loss_of(name: str, smoothing: float = 0.0, gamma: float = DEFAULT_GAMMA) -> Loss:
    """Return the loss called `name`.

    Raises:
        ValueError: for an unknown name, or for smoothing or a gamma with a loss that has none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: need one of {sorted(LOSSES)}, got {name!r}")
    if smoothing and LOSSES[name] is not CrossEntropy:
        raise ValueError(f"smoothing: {name} has no label smoothing, got {smoothing}")
    if gamma != DEFAULT_GAMMA and LOSSES[name] is not Focal:
        raise ValueError(f"gamma: {name} has no gamma, got {gamma}")
    if LOSSES[name] is CrossEntropy:
        return CrossEntropy(smoothing)
    return Focal(gamma) if LOSSES[name] is Focal else LOSSES[name]()


# Columns compared beside one of each class; what rounding makes of the largest difference.
CHECKED, CHECK_RTOL = 12, {"float64": 1e-7, "float32": 1e-2}


def check_loss(loss: Loss, num_classes: int) -> None:
    """Compare value, slope, curvature and dual of a loss at random columns of K logits.

    Fenchel: −ℓ*(c g) ≤ ℓ(z′) − c⟨g, z′⟩ for every z′, g = ∇ℓ(z), with equality at z′ = z for c = 1.

    Raises:
        ValueError: naming the loss and what contradicts what, or what has the wrong shape.
    """
    try:
        hash(loss)
    except TypeError as error:
        raise ValueError(
            f"loss: {loss.name} must hash, as a frozen dataclass of numbers and tuples does: {error}"
        ) from error
    if type(loss) not in LOSSES.values():  # the tests say it of these
        _compare(loss, num_classes)


@functools.lru_cache(maxsize=64)
def _compare(loss: Loss, num_classes: int) -> None:
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        rng = np.random.default_rng(0)
        labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=CHECKED)])
        Z = jnp.asarray(rng.normal(size=(num_classes, labels.size)) * np.exp(rng.uniform(-2, 2, labels.size)))
        T = jnp.asarray(loss.targets(labels, num_classes), Z.dtype)
        for what, difference in _contradictions(loss, Z, T, rng):
            if not difference <= CHECK_RTOL[Z.dtype.name]:
                raise ValueError(
                    f"loss: {loss.name}: {what} (by {difference:.1e}, relative, at random logits)"
                )


def _contradictions(
    loss: Loss, Z: Columns, T: Columns, rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Yield what would be contradicted, and the largest relative difference."""
    value, slope = loss.value(Z, T), loss.slope(Z, T)
    if value.shape != Z.shape[1:]:
        raise ValueError(
            f"loss: {loss.name}.value: need one entry a column, {Z.shape[1:]}, got {value.shape}"
        )
    stacked = loss.value(Z[..., None], T[..., None])
    if stacked.shape != (*Z.shape[1:], 1):
        raise ValueError(f"loss: {loss.name}.value: need classes on the first axis and any axes behind it")
    yield "value of columns with a further axis is not theirs", _difference(stacked[..., 0], value)
    plain = jax.grad(lambda Z: jnp.sum(loss.value(Z, T)))(Z)
    yield "slope is not the gradient of value", _difference(slope, plain)
    both = loss.value_and_slope(Z, T)
    yield "value_and_slope is not value", _difference(both[0], value)
    yield "value_and_slope is not the gradient of value", _difference(both[1], plain)
    V = jnp.asarray(rng.normal(size=Z.shape), Z.dtype)
    push = jax.linearize(jax.grad(lambda Z: jnp.sum(loss.value(Z, T))), Z)[1]
    second = push(V)
    yield "curvature is not the second derivative of value", _difference(loss.curvature(Z, T)(V), second)
    if loss.shift_invariant:
        yield "it says that it is shift invariant and is not", _difference(loss.value(Z + 1.5, T), value)
    if loss.certified:
        every = jax.lax.map(lambda e: push(jnp.broadcast_to(e[:, None], Z.shape)), jnp.eye(len(Z)))
        lowest = -float(np.linalg.eigvalsh(np.moveaxis(np.asarray(every), -1, 0)).min())
        yield "it says that it is convex and is not", lowest
        at_own = value - jnp.sum(slope * Z, axis=0)
        yield "dual is not that of value", _difference(loss.dual(slope, T, jnp.ones((), Z.dtype)), at_own)
        # Points downhill, too, where a convex loss is near its infimum.
        for c, other in itertools.product((0.0, 0.3, 1.0), (Z + V, Z - slope, -20.0 * slope)):
            bounded = loss.value(other, T) - c * jnp.sum(slope * other, axis=0)
            above = (loss.dual(slope, T, jnp.asarray(c, Z.dtype)) - bounded) / (1.0 + jnp.abs(bounded))
            yield f"dual at c = {c} is above what it is to bound", float(jnp.max(above))


def _difference(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(jnp.max(jnp.abs(a - b) / (1.0 + jnp.abs(b))))
