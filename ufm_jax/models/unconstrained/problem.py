"""What is minimised: sizes and decays (`Problem`) and the optimisation variables (`Params`).

Dictionary used everywhere: `K` classes, `d` feature dimension, `n_k` samples of class k, `N = Σ n_k`,
`C` columns of H: N in the full problem, K in the collapsed one.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss, check_loss, is_shift_invariant


class Params(NamedTuple):
    """Optimisation variables. `b` is None where the problem has no bias (then it has no dimensions)."""

    W: Float[Array, "K d"]  # classifier
    H: Float[Array, "d C"]  # features, columns sorted by class
    b: Float[Array, " K"] | None  # bias


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """One unconstrained feature model; build it with `problem(...)`, which checks its arguments.

    Decays are traced leaves, so a sweep over them compiles once; everything else is static.
    """

    decay_w: Float[Array, "..."]
    decay_h: Float[Array, "..."]
    decay_b: Float[Array, "..."]
    counts: tuple[int, ...] = field(metadata={"static": True})  # n_1..n_K
    dim: int = field(metadata={"static": True})  # d
    bias: bool = field(metadata={"static": True}, default=True)
    loss: Loss = field(metadata={"static": True}, default=CrossEntropy())
    collapsed: bool = field(metadata={"static": True}, default=False)  # see model.reduction
    # Feature coordinates beyond `dim`, in which W and H are zero: no array has them, but f's index, nullity
    # and orbits do (`reduction.trimmed`).
    unused: int = field(metadata={"static": True}, default=0)

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


def problem(
    *,
    num_classes: int | None = None,
    per_class: int | None = None,
    counts: Sequence[Any] | None = None,
    dim: int,
    decay_w: Any,
    decay_h: Any,
    decay_b: Any = 0.0,
    bias: bool = True,
    loss: Loss | None = None,
) -> Problem:
    """Check the arguments and return the full (not collapsed) problem.

    Sizes are either `num_classes` and `per_class`, or `counts`. Decays are numbers, or arrays of one shape
    for `jax.vmap` over problems; λ_b = 0 with `bias=True` is the trained, undecayed bias.

    Raises:
        ValueError: naming the argument and its value: K < 2, a count or d below 1 or beyond `MOST`, a decay
            that is not 0 < λ_W, λ_H or 0 ≤ λ_b or is not within `DECAYS`, a loss that contradicts itself
            (`losses.check_loss`).
    """
    decays = {"decay_w": decay_w, "decay_h": decay_h, "decay_b": decay_b}
    traced = {name: _checked_decay(name, value) for name, value in decays.items()}
    if not isinstance(bias, bool):
        raise ValueError(f"bias: need True or False, got {bias!r}")
    if len({np.shape(a) for a in traced.values()} - {()}) > 1:
        shapes = ", ".join(str(np.shape(a)) for a in traced.values())
        raise ValueError(f"decay_w, decay_h, decay_b: need numbers or arrays of one shape, got {shapes}")
    if bias is False and np.any(np.asarray(decay_b) != 0):
        raise ValueError(f"decay_b: need 0 where there is no bias, got {decay_b}")
    sizes = checked_counts(num_classes, per_class, counts)
    loss = CrossEntropy() if loss is None else loss
    if not isinstance(loss, Loss):
        raise ValueError(f"loss: need an instance of Loss, got {loss!r}")
    check_loss(loss, len(sizes))
    dim = _checked_size("dim", dim, least=1)
    if dim * 2 * len(sizes) > MOST:
        raise ValueError(f"dim: need at most {MOST // (2 * len(sizes))} for {len(sizes)} classes, got {dim}")
    return Problem(
        decay_w=traced["decay_w"],
        decay_h=traced["decay_h"],
        decay_b=traced["decay_b"],
        counts=sizes,
        dim=dim,
        bias=bias,
        loss=loss,
    )


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


def checked_point(prob: Problem, params: Any, *, many: bool = False) -> Params:
    """Return a point of one problem as JAX arrays: `Params` whose shapes and dtypes are the problem's.

    With `many` they are any number of points, along the first axis of W, H and b. Traced arrays will do, as
    their shapes and dtypes are known.

    Raises:
        ValueError: naming W, H or b and what is wrong with it, or a decay that is not a single number.
    """
    check_single(prob)
    if not (isinstance(params, tuple) and len(params) == 3):
        raise ValueError(f"params: need Params(W, H, b), got {type(params).__name__}")
    point = Params(*params)
    if (point.b is None) == prob.bias:
        said = "no b, and needs one; b = zeros is a start" if point.b is None else "a b, and takes none"
        raise ValueError(f"b: the problem has bias={prob.bias}, the point has {said}")
    like = jax.eval_shape(prob.zeros)
    first = np.shape(point.W)[:1] if many else ()
    return Params(*(_checked_array(n, a, e, first) for n, a, e in zip("WHb", point, like, strict=True)))


def _checked_array(name: str, array: Any, like: Any, first: tuple[int, ...]) -> Any:
    """Return one array of a point, or of as many as `first` says, each of which is to look as `like`."""
    if like is None:
        return None
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    if array.shape != (*first, *like.shape):
        if first and array.shape == like.shape:
            hint = "; one start needs a leading axis of length 1"
        elif not first and array.shape[1:] == like.shape and array.shape != (1, *like.shape):
            hint = "; for several points at once use ufm.descend, or vmap"
        else:
            hint = "; is it transposed?" if array.shape[::-1] == like.shape else ""
        raise ValueError(f"{name}: need shape {(*first, *like.shape)}, got {array.shape}{hint}")
    if array.dtype != like.dtype:
        raise ValueError(
            f"{name}: need dtype {like.dtype} as the decays have, got {array.dtype}; convert it by "
            f"{name}.astype({str(like.dtype)!r})"
        )
    return jnp.asarray(array)


def check_finite(params: Params) -> None:
    """Check the values of a concrete point.

    Raises:
        ValueError: naming W, H or b, if it has entries that are not finite.
    """
    for name, array in zip("WHb", params, strict=True):
        if array is not None and not bool(jnp.all(jnp.isfinite(array))):
            raise ValueError(f"{name}: has {int(jnp.sum(~jnp.isfinite(array)))} non-finite entries")


# Within these bounds products and ratios of two decays, and their roots, neither overflow nor underflow.
DECAYS = (1e-100, 1e100)
MOST = 2**31 - 1  # samples in all; d times 2K: eigenvalues are counted in 32 bits


def _checked_decay(name: str, value: Any) -> Float[Array, "..."]:
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


def _checked_size(name: str, value: Any, least: int) -> int:
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
        counts = [_checked_size("per_class", per_class, least=1)] * _checked_size(
            "num_classes", num_classes, least=2
        )
    elif per_class is not None:
        raise ValueError(f"per_class: give it or counts, not both; got {per_class} and {tuple(counts)}")
    elif num_classes is not None and isinstance(counts, Sequence) and num_classes != len(counts):
        raise ValueError(f"num_classes: got {num_classes}, but counts has {len(counts)} entries")
    if not isinstance(counts, Sequence | np.ndarray):
        raise ValueError(f"counts: need a sequence of integers, got {counts!r}")
    if len(counts) < 2:
        raise ValueError(f"counts: need at least 2 classes, got {tuple(counts)}")
    sizes = tuple(_checked_size("counts", count, least=1) for count in counts)
    if sum(sizes) > MOST:
        raise ValueError(f"counts: need at most {MOST} samples in all, got {sum(sizes)}")
    return sizes
