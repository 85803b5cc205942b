"""Losses made for classes of unequal counts, as values; each is convex and is certified as cross-entropy is.

With π_k = n_k/N and K classes:

* class-balanced: cross-entropy with ω_k = N/(K n_k), so that each class has the same share
  (`class_balanced`);
* logit-adjusted: offsets ι_k = τ log π_k within the softmax (Menon et al. 2021), `logit_adjusted`;
* vector-scaling: log Σ_j exp(Δ_j z_j + ι_j) − Δ_y z_y − ι_y (Kini et al. 2021), Δ_k = (n_k/max n)^γ > 0: a
  temperature for each class, too (`VectorScaling`, and `vector_scaling` from counts);
* squared with class weights, ω_y ½‖z − y‖² (`WeightedSquared`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.losses import Columns, CrossEntropy, Loss, Squared, finite_numbers
from ufm_jax.numerics.checks import check_positive

Counts = Sequence[int | float]


def class_balanced(counts: Counts) -> CrossEntropy:
    """Return cross-entropy weighted by ω_k = N/(K n_k): every class has the same share of the loss.

    Raises:
        ValueError: naming `counts`, if one is not positive.
    """
    n = _checked(counts)
    return CrossEntropy(class_weights=tuple((n.sum() / (len(n) * n)).tolist()))


def logit_adjusted(counts: Counts, tau: int | float = 1.0) -> CrossEntropy:
    """Return cross-entropy of z + τ log π, π_k = n_k/N.

    Raises:
        ValueError: naming `counts`, if one is not positive, or `tau`, if it is negative.
    """
    return CrossEntropy(offsets=_adjustment(_checked(counts), tau))


def vector_scaling(counts: Counts, tau: int | float = 1.0, power: int | float = 0.25) -> "VectorScaling":
    """Return the loss of temperatures Δ_k = (n_k/max n)^power and offsets τ log π_k.

    Raises:
        ValueError: naming `counts`, if one is not positive, or `tau` or `power`, if it is negative.
    """
    n = _checked(counts)
    check_positive(zero=True, power=power)
    temperatures = tuple(((n / n.max()) ** power).tolist())
    return VectorScaling(temperatures=temperatures, offsets=_adjustment(n, tau))


def _checked(counts: Counts) -> Float[np.ndarray, " K"]:
    return np.array(finite_numbers("counts", counts, above=0.0))


def _adjustment(n: Float[np.ndarray, " K"], tau: int | float) -> tuple[float, ...]:
    check_positive(zero=True, tau=tau)
    return tuple((tau * np.log(n / n.sum())).tolist())


@dataclass(frozen=True)
class VectorScaling(Loss):
    """Cross-entropy of Δ z + ι: `temperatures` Δ > 0 and `offsets` ι (0 by default), one for each class.

    All is cross-entropy's at Δ z; the slope gains a factor Δ, and −ℓ*(c g) is cross-entropy's at Δ⁻¹ g. The
    shift that it does not see is by Δ⁻¹ 1, so at critical points 1ᵀΔ⁻¹W = 0, not 1ᵀW. With a bias that is
    not decayed that is a null direction which no symmetry here knows, and no bound is given: decay the bias.

    Raises:
        ValueError: if a temperature is not positive or an offset not finite.
    """

    temperatures: Sequence[int | float]
    offsets: Sequence[int | float] | None = None
    name: ClassVar[str] = "vector-scaling"
    convex: ClassVar[bool] = True
    shift_invariant: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", finite_numbers("temperatures", self.temperatures, above=0.0))
        object.__setattr__(self, "offsets", self._inner.offsets)  # checked

    @property
    def _inner(self) -> CrossEntropy:
        return CrossEntropy(offsets=self.offsets)

    def check(self, num_classes: int) -> None:
        if len(self.temperatures) != num_classes:
            raise ValueError(
                f"temperatures: need one for each of {num_classes} classes, got {self.temperatures}"
            )
        self._inner.check(num_classes)

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        pairs = list(zip(self.temperatures, self.offsets or (0.0,) * num_classes, strict=True))
        return tuple(map(sorted(set(pairs)).index, pairs))

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return self._inner.value(self._scaled(Z), T)

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return self._scaled(self._inner.slope(self._scaled(Z), T))

    def value_and_slope(self, Z: Columns, T: Columns) -> tuple[Float[Array, "*#N"], Columns]:
        value, slope = self._inner.value_and_slope(self._scaled(Z), T)
        return value, self._scaled(slope)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        apply = self._inner.curvature(self._scaled(Z), T)
        return lambda V: self._scaled(apply(self._scaled(V)))

    def dual(self, Z: Columns, T: Columns, slope: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        return self._inner.dual(self._scaled(Z), T, self._scaled(slope, -1.0), c)

    def _scaled(self, Z: Columns, power: float = 1.0) -> Columns:
        """Return Δ^power z."""
        factors = np.array(self.temperatures) ** power
        return Z * jnp.asarray(factors, Z.dtype).reshape(-1, *[1] * (Z.ndim - 1))


@dataclass(frozen=True)
class WeightedSquared(Squared):
    """Squared loss with class weights, ω_y ½‖z − y‖², `class_weights` ω > 0.

    Without a bias and for d ≥ K, f decouples: class k is fitted to a_k = (1 − N s/(ω_k √n_k))₊ (derived for
    this project; ω = 1 is Dang et al. 2023).

    Raises:
        ValueError: if a weight is not positive.
    """

    class_weights: Sequence[int | float] = ()
    name: ClassVar[str] = "weighted squared"
    convex: ClassVar[bool] = True
    shift_invariant: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        given = finite_numbers("class_weights", self.class_weights, above=0.0)
        object.__setattr__(self, "class_weights", given)

    def check(self, num_classes: int) -> None:
        if len(self.class_weights) != num_classes:
            raise ValueError(
                f"class_weights: need one for each of {num_classes} classes, got {self.class_weights}"
            )

    def class_kinds(self, num_classes: int) -> tuple[int, ...]:
        return tuple(map(sorted(set(self.class_weights)).index, self.class_weights))

    def value(self, Z: Columns, T: Columns) -> Float[Array, "*#N"]:
        return self._weight(T) * super().value(Z, T)

    def slope(self, Z: Columns, T: Columns) -> Columns:
        return self._weight(T) * super().slope(Z, T)

    def curvature(self, Z: Columns, T: Columns) -> Callable[[Columns], Columns]:
        return lambda V: self._weight(T) * V

    def dual(self, Z: Columns, T: Columns, slope: Columns, c: Float[Array, ""]) -> Float[Array, "*#N"]:
        weight = self._weight(T)
        return weight * super().dual(Z, T, slope / weight, c)

    def reach(self, cap: float) -> float | None:
        return super().reach(cap / min(self.class_weights))

    def _weight(self, T: Columns) -> Float[Array, "*#N"]:
        """Return ω of each column's class."""
        return jnp.asarray(self.class_weights, T.dtype)[jnp.argmax(T, axis=0)]
