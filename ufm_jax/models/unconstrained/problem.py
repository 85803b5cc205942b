"""What is minimised: sizes and decays (`Problem`) and the optimisation variables (`Params`).

Dictionary used everywhere: `K` classes, `d` feature dimension, `n_k` samples of class k, `N = Σ n_k`,
`C` columns of H: N in the full problem, K in the collapsed one.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.models.unconstrained.loss_checks import is_shift_invariant
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss


class Params(NamedTuple):
    """Optimisation variables. `b` is None where the problem has no bias (then it has no dimensions)."""

    W: Float[Array, "K d"]  # classifier
    H: Float[Array, "d C"]  # features, columns sorted by class
    b: Float[Array, " K"] | None  # bias


class Problem(Landscape):
    """Sizes and decays of one unconstrained feature model; `model.problem` makes it a landscape.

    Decays are traced leaves, so a sweep over them compiles once; everything else is static.
    """

    decay_w: Float[Array, "..."]
    decay_h: Float[Array, "..."]
    decay_b: Float[Array, "..."]
    counts: tuple[int, ...] = static()  # n_1..n_K
    dim: int = static()  # d
    bias: bool = static(default=True)
    loss: Loss = static(default=CrossEntropy())
    collapsed: bool = static(default=False)  # see model.reduction
    # Feature coordinates beyond `dim`, in which W and H are zero: no array has them, but f's index, nullity
    # and orbits do (`reduction.trimmed`).
    unused: int = static(default=0)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def num_samples(self) -> int:
        """N, also in the collapsed problem."""
        return sum(self.counts)

    @property
    def num_columns(self) -> int:
        """C, the number of columns of H."""
        return self.num_classes if self.collapsed else self.num_samples

    @property
    def num_variables(self) -> int:
        """D = Kd + dC, and K more with a bias."""
        K = self.num_classes
        return self.dim * (K + self.num_columns) + (K if self.bias else 0)

    @property
    def balanced(self) -> bool:
        """True if every class has the same count, and the loss treats all alike."""
        return len(set(self.kinds)) == 1

    @property
    def kinds(self) -> np.ndarray:
        """Number of each class, (K,): shared by those of equal count that are alike to the loss."""
        return _kinds(self.counts, self.loss)

    @property
    def shift_invariant(self) -> bool:
        """True if adding one number to all logits of a sample changes no loss."""
        return is_shift_invariant(self.loss, self.num_classes)

    @property
    def strength(self) -> Float[Array, "..."]:
        """s = √(λ_W λ_H)."""
        return jnp.sqrt(self.decay_w) * jnp.sqrt(self.decay_h)

    @property
    def labels(self) -> np.ndarray:
        """Class of each column of H, (C,)."""
        return np.repeat(np.arange(self.num_classes), 1 if self.collapsed else np.array(self.counts))

    @property
    def targets(self) -> np.ndarray:
        """Targets of each column, (K, C)."""
        return self.loss.targets(self.labels, self.num_classes)

    @property
    def weights(self) -> np.ndarray:
        """Share of the samples that each column stands for, (C,); sums to 1."""
        counts = np.array(self.counts, float)
        return (counts if self.collapsed else np.ones(self.num_samples)) / counts.sum()

    @property
    def scales(self) -> np.ndarray:
        """Factor from a column of H to a feature, (C,): 1/√n_k in the collapsed problem, else 1."""
        return np.array(self.counts, float) ** -0.5 if self.collapsed else np.ones(self.num_samples)

    @property
    def numbers_held(self) -> int:
        """How many numbers an evaluation holds at once, about."""
        return max(self.num_variables, self.num_classes * self.num_columns)

    def check(self, x: Any, *, many: bool = False) -> Params:
        """Return a point of one problem as JAX arrays: `Params` whose shapes and dtypes are the problem's.

        Raises:
            ValueError: naming W, H or b and what is wrong with it, or a decay that is not a single number.
        """
        check_single(self)
        if not (isinstance(x, tuple) and len(x) == 3):
            raise ValueError(f"params: need Params(W, H, b), got {type(x).__name__}")
        point = Params(*x)
        if (point.b is None) == self.bias:
            said = "no b, and needs one; b = zeros is a start" if point.b is None else "a b, and takes none"
            raise ValueError(f"b: the problem has bias={self.bias}, the point has {said}")
        return super().check(point, many=many)

    def zeros(self) -> Params:
        """Return the origin, in the dtype of the decays."""
        K, d, dtype = self.num_classes, self.dim, self.decay_w.dtype
        b = jnp.zeros(K, dtype) if self.bias else None
        return Params(jnp.zeros((K, d), dtype), jnp.zeros((d, self.num_columns), dtype), b)


@functools.lru_cache(maxsize=64)
def _kinds(counts: tuple[int, ...], loss: Loss) -> np.ndarray:
    pairs = np.stack([counts, loss.class_kinds(len(counts))])
    kinds = np.unique(pairs, axis=1, return_inverse=True)[1].ravel()
    kinds.flags.writeable = False
    return kinds


def check_single(prob: Problem) -> None:
    """Check that a problem is one and no grid of them.

    Raises:
        ValueError: naming a decay that is not a single number.
    """
    for name in ("decay_w", "decay_h", "decay_b"):
        if (shape := jnp.shape(getattr(prob, name))) != ():
            raise ValueError(
                f"{name}: need one number, got an array of shape {shape}; take one setting, or vmap"
            )


# Within these bounds products and ratios of two decays, and their roots, neither overflow nor underflow.
DECAYS = (1e-100, 1e100)
MOST = 2**31 - 1  # samples in all; d times 2K: eigenvalues are counted in 32 bits


def checked_decay(name: str, value: Any) -> Float[Array, "..."]:
    """Return a decay, or an array of them, in range: above 0, of the bias at least 0.

    Raises:
        ValueError: naming the decay.
    """
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: need numbers, got {value!r}") from None
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name}: need finite numbers, got {value}")
    if name == "decay_b" and np.any(numbers < 0):
        raise ValueError(f"{name}: need >= 0, got {value}")
    if name != "decay_b" and np.any(numbers <= 0):
        raise ValueError(f"{name}: need > 0 (without it no minimiser exists), got {value}")
    low, high = DECAYS
    if np.any((numbers != 0) & ((numbers < low) | (numbers > high))):
        raise ValueError(f"{name}: need between {low:g} and {high:g}, got {value}")
    return jnp.asarray(numbers, dtype=jnp.zeros(()).dtype)


def checked_size(name: str, value: Any, least: int) -> int:
    """Return a size as an integer.

    Raises:
        ValueError: naming it, if it is none, or not between `least` and `MOST`.
    """
    if not isinstance(value, int | float | np.number) or not np.isfinite(float(value)) or int(value) != value:
        raise ValueError(f"{name}: need an integer, got {value!r}")
    if not least <= value <= MOST:
        raise ValueError(f"{name}: need between {least} and {MOST}, got {value}")
    return int(value)


def checked_counts(
    num_classes: int | None, per_class: int | None, counts: Sequence[Any] | None
) -> tuple[int, ...]:
    """Return the class counts that the arguments describe.

    Raises:
        ValueError: naming the argument: neither or both ways of giving sizes, K < 2, a count below 1.
    """
    if counts is None:
        if num_classes is None or per_class is None:
            raise ValueError(
                f"counts: give counts, or num_classes and per_class; got num_classes={num_classes}, "
                f"per_class={per_class}"
            )
        counts = [checked_size("per_class", per_class, least=1)] * checked_size(
            "num_classes", num_classes, least=2
        )
    elif per_class is not None:
        raise ValueError(f"per_class: give it or counts, not both; got {per_class} and {tuple(counts)}")
    elif isinstance(counts, str):
        raise ValueError(f"counts: need integers, got {counts!r}")
    elif num_classes is not None and isinstance(counts, Sequence) and num_classes != len(counts):
        raise ValueError(f"num_classes: got {num_classes}, but counts has {len(counts)} entries")
    if not isinstance(counts, Sequence | np.ndarray):
        raise ValueError(f"counts: need a sequence of integers, got {counts!r}")
    if len(counts) < 2:
        raise ValueError(f"counts: need at least 2 classes, got {tuple(counts)}")
    sizes = tuple(checked_size("counts", count, least=1) for count in counts)
    if sum(sizes) > MOST:
        raise ValueError(f"counts: need at most {MOST} samples in all, got {sum(sizes)}")
    return sizes
