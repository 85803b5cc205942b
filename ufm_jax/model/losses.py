"""Losses as values: how one column of logits is scored against its target.

A loss acts on columns: logits `Z` and targets `T` are `K x N` and the result has one entry per column.
A new loss is one subclass with `value`; the other methods have defaults by automatic differentiation.
`slope` and `curvature` are worth writing by hand where the exponentials can be shared, and a convex loss
that gives `dual` gets global certificates (`landscape.certificate`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Columns = Float[Array, "K N"]


@dataclass(frozen=True)
class Loss:
    """One sample's loss ℓ(z, t), applied to every column; subclasses are hashable values."""

    name: ClassVar[str]
    certified: ClassVar[bool] = False  # convex in z with `dual` given: global optimality can be shown
    shift_invariant: ClassVar[bool] = False  # ℓ(z + c1, t) = ℓ(z, t)

    def targets(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Return the `K x N` targets of `labels`, one-hot unless a subclass says otherwise."""
        return (np.arange(num_classes)[:, None] == labels[None, :]).astype(np.float64)

    def value(self, Z: Columns, T: Columns) -> Float[Array, " N"]:
        """Return ℓ of each column."""
        raise NotImplementedError

    def slope(self, Z: Columns, T: Columns) -> Columns:
        """Return ∇_z ℓ of each column."""
        return jax.grad(lambda z: jnp.sum(self.value(z, T)))(Z)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        """Return V -> ∇²_z ℓ · V, column by column; what depends on Z alone is computed here, once."""
        return jax.linearize(lambda z: self.slope(z, T), Z)[1]

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, " N"]:
        """Return −ℓ*(c · slope) of each column, ℓ* the convex conjugate in z, for 0 ≤ c ≤ 1.

        `slope` is `self.slope(Z, T)` at some Z, so c · slope lies in the domain of ℓ*.
        """
        raise NotImplementedError(f"{self.name} has no convex conjugate: its points cannot be certified")

    def reach(self, cap: float) -> float:
        """Bound |z_j − z_k| (|z_j| if not shift invariant) where one sample of each class has ℓ ≤ cap."""
        raise NotImplementedError(f"{self.name} has no bound on its logits")


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
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing: need 0 <= smoothing < 1, got {self.smoothing}")

    def targets(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        one_hot = super().targets(labels, num_classes)
        return (1.0 - self.smoothing) * one_hot + self.smoothing / num_classes

    def value(self, Z: Columns, T: Columns) -> Float[Array, " N"]:
        return -jnp.sum(T * jax.nn.log_softmax(Z, axis=0), axis=0)

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return jax.nn.softmax(Z, axis=0) - T

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        P = jax.nn.softmax(Z, axis=0)
        return lambda V: P * (V - jnp.sum(P * V, axis=0))

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, " N"]:
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

    def value(self, Z: Columns, T: Columns) -> Float[Array, " N"]:
        return jnp.sum((Z - T) ** 2, axis=0) / 2

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return Z - T

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        return lambda V: V

    def dual(self, slope: Columns, T: Columns, c: Float[Array, ""]) -> Float[Array, " N"]:
        return -jnp.sum(c * slope * T + (c * slope) ** 2 / 2, axis=0)

    def reach(self, cap: float) -> float:
        return (2.0 * cap) ** 0.5 + 1.0


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (CrossEntropy, Squared)}


def loss_of(name: str, smoothing: float = 0.0) -> Loss:
    """Return the loss called `name`.

    Raises:
        ValueError: for an unknown name, or smoothing with a loss that has none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: need one of {sorted(LOSSES)}, got {name!r}")
    if LOSSES[name] is CrossEntropy:
        return CrossEntropy(smoothing)
    if smoothing:
        raise ValueError(f"smoothing: {name} has no label smoothing, got {smoothing}")
    return LOSSES[name]()
