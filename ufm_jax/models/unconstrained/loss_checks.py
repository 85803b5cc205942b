"""Is a loss what it says? Its parts are compared at random columns, and those left open are found there."""

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.objects import said

if TYPE_CHECKING:  # losses import this module
    from ufm_jax.models.unconstrained.losses import Loss

Columns = Float[Array, "K *#N"]

OWN = "ufm_jax."  # of losses of these modules the tests say it
# Columns compared beside one of each class; what rounding makes of the largest difference.
CHECKED, CHECK_RTOL = 12, {"float64": 1e-7, "float32": 1e-2}


def check_loss(loss: "Loss", num_classes: int) -> None:
    """Compare value, slope, curvature, dual and infimum of a loss at random columns of K logits.

    Fenchel: −ℓ*(c g) ≤ ℓ(z′) − c⟨g, z′⟩ for every z′, g = ∇ℓ(z), with equality at z′ = z for c = 1.

    Raises:
        ValueError: naming the loss and what contradicts what, has the wrong shape or raises; as
            `Loss.check`.
    """
    try:
        hash(loss)
    except TypeError as error:
        raise ValueError(
            f"loss: {loss.name} must hash, as a frozen dataclass of numbers and tuples does: {error}"
        ) from error
    loss.check(num_classes)
    if not type(loss).__module__.startswith(OWN):
        _compare(loss, num_classes)


@functools.lru_cache(maxsize=64)
def _compare(loss: "Loss", num_classes: int) -> None:
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        rng = np.random.default_rng(0)
        labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=CHECKED)])
        Z = _random_logits(rng, num_classes, labels.size)
        try:
            T = jnp.asarray(loss.targets(labels, num_classes), Z.dtype)
            loss.value(Z, T)
        except Exception as error:  # the user's code may raise anything
            raise ValueError(f"loss: {loss.name} at {num_classes} classes raised {said(error)}") from error
        for what, difference in _contradictions(loss, Z, T, rng):
            if not difference <= CHECK_RTOL[Z.dtype.name]:
                raise ValueError(
                    f"loss: {loss.name}: {what} (by {difference:.1e}, relative, at random logits)"
                )


def _random_logits(rng: np.random.Generator, num_classes: int, columns: int) -> Float[Array, "K N"]:
    """Return columns of random logits, of sizes from small to large."""
    return jnp.asarray(rng.normal(size=(num_classes, columns)) * np.exp(rng.uniform(-2, 2, columns)))


# Rounding of a sum over classes in another order, and no more: classes that differ by little are not alike.
ALIKE_RTOL = {"float64": 1e-12, "float32": 1e-5}


@functools.lru_cache(maxsize=64)
def is_shift_invariant(loss: "Loss", num_classes: int) -> bool:
    """Say whether ℓ(z + c1, t) = ℓ(z, t): as the loss says, or else at random columns."""
    if loss.shift_invariant is not None:
        return loss.shift_invariant
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        rng = np.random.default_rng(1)
        labels = np.arange(max(num_classes, CHECKED)) % num_classes
        Z, T = _random_logits(rng, num_classes, labels.size), jnp.asarray(loss.targets(labels, num_classes))
        moved = [loss.value(Z + c, T.astype(Z.dtype)) for c in (0.0, 1.0, -3.0)]
        return all(bool(jnp.all(_alike(moved[0], other))) for other in moved[1:])


@functools.lru_cache(maxsize=64)
def found_kinds(loss: "Loss", num_classes: int) -> tuple[int, ...]:
    """Give two classes one number exactly if exchanging them leaves ℓ alone at random columns."""
    rng, kinds = np.random.default_rng(1), np.full(num_classes, -1)
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        Z = _random_logits(rng, num_classes, CHECKED)
        while (left := np.flatnonzero(kinds < 0)).size:
            one, each = left[0], np.arange(left.size)
            swap = np.tile(np.arange(num_classes)[:, None], left.size)  # of `one` with each that is left
            swap[one], swap[left, each] = left, one
            labels = rng.integers(num_classes, size=(CHECKED, left.size))
            labels[0], labels[1] = one, left
            values = [
                loss.value(logits, jnp.asarray(targets.reshape(num_classes, *y.shape), Z.dtype))
                for logits, y in (
                    (jnp.repeat(Z[:, :, None], left.size, axis=2), labels),
                    (jnp.moveaxis(Z[swap], 1, 2), swap[labels, each]),
                )
                for targets in [np.asarray(loss.targets(y.ravel(), num_classes))]
            ]
            alike = np.array(jnp.all(_alike(*values), axis=0))
            alike[0] = True
            kinds[left[alike]] = one
    return tuple(int(kind) for kind in kinds)


def _alike(a: Array, b: Array) -> Array:
    return jnp.abs(a - b) <= ALIKE_RTOL[a.dtype.name] * (1.0 + jnp.abs(a))


def _contradictions(
    loss: "Loss", Z: Columns, T: Columns, rng: np.random.Generator
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
    if loss.convex:
        every = jax.lax.map(lambda e: push(jnp.broadcast_to(e[:, None], Z.shape)), jnp.eye(len(Z)))
        lowest = -float(np.linalg.eigvalsh(np.moveaxis(np.asarray(every), -1, 0)).min())
        yield "it says that it is convex and is not", lowest
        at_own = value - jnp.sum(slope * Z, axis=0)
        yield "dual is not that of value", _difference(loss.dual(Z, T, slope, jnp.ones((), Z.dtype)), at_own)
        # Points downhill, too, where a convex loss is near its infimum.
        others = (Z + V, Z - slope, -20.0 * slope)
        below = max(float(jnp.max(loss.infimum - loss.value(z, T))) for z in (Z, *others))
        yield f"value goes below its infimum = {loss.infimum}, to be declared in the class", below
        for c, other in itertools.product((0.0, 0.3, 1.0), others):
            bounded = loss.value(other, T) - c * jnp.sum(slope * other, axis=0)
            above = (loss.dual(Z, T, slope, jnp.asarray(c, Z.dtype)) - bounded) / (1.0 + jnp.abs(bounded))
            yield f"dual at c = {c} is above what it is to bound", float(jnp.max(above))


def _difference(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(jnp.max(jnp.abs(a - b) / (1.0 + jnp.abs(b))))
