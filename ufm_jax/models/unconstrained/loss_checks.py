"""Is a loss what it says? Its parts are compared at random columns, and those left open are found there."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.numerics.lanes import QUICK, jit_small
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
            T = np.asarray(loss.targets(labels, num_classes), Z.dtype)
            plain, stacked = (
                jax.eval_shape(loss.value, *args).shape for args in ((Z, T), (Z[..., None], T[..., None]))
            )
        except Exception as error:  # the user's code may raise anything
            raise ValueError(f"loss: {loss.name} at {num_classes} classes raised {said(error)}") from error
        if plain != Z.shape[1:]:
            raise ValueError(f"loss: {loss.name}.value: need one entry a column, {Z.shape[1:]}, got {plain}")
        if stacked != (*Z.shape[1:], 1):
            raise ValueError(
                f"loss: {loss.name}.value: need classes on the first axis and any axes behind it"
            )
        named: list[str] = []

        def differences(Z: Columns, T: Columns, V: Columns) -> list[Array]:  # one program
            names, found = zip(*_contradictions(loss, Z, T, V), strict=True)
            named[:] = names
            return list(found)

        found = jit_small(differences, options=QUICK)(Z, T, rng.normal(size=Z.shape).astype(Z.dtype))
        for what, difference in zip(named, map(float, found), strict=True):
            if not difference <= CHECK_RTOL[Z.dtype.name]:
                raise ValueError(
                    f"loss: {loss.name}: {what} (by {difference:.1e}, relative, at random logits)"
                )


def _random_logits(rng: np.random.Generator, num_classes: int, columns: int) -> Float[np.ndarray, "K N"]:
    """Return columns of random logits, of sizes from small to large, in JAX's floating point."""
    logits = rng.normal(size=(num_classes, columns)) * np.exp(rng.uniform(-2, 2, columns))
    return logits.astype(jnp.result_type(float))


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
        Z = _random_logits(rng, num_classes, labels.size)
        T, value = np.asarray(loss.targets(labels, num_classes), Z.dtype), _value_of(loss)
        moved = [np.asarray(value(Z + Z.dtype.type(c), T)) for c in (0.0, 1.0, -3.0)]
        return all(bool(np.all(_alike(moved[0], other))) for other in moved[1:])


@functools.lru_cache(maxsize=64)
def found_kinds(loss: "Loss", num_classes: int) -> tuple[int, ...]:
    """Give two classes one number exactly if exchanging them leaves ℓ alone at random columns."""
    rng, kinds = np.random.default_rng(1), np.full(num_classes, -1)
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        Z, value, each = _random_logits(rng, num_classes, CHECKED), _value_of(loss), np.arange(num_classes)
        while (left := np.flatnonzero(kinds < 0)).size:
            one = left[0]
            swap = np.tile(each[:, None], num_classes)  # of `one` with each: one shape, and so one program
            swap[one], swap[each, each] = each, one
            labels = rng.integers(num_classes, size=(CHECKED, num_classes))
            labels[0], labels[1] = one, each
            values = [
                np.asarray(value(logits, targets.reshape(num_classes, *y.shape).astype(Z.dtype)))
                for logits, y in (
                    (np.repeat(Z[:, :, None], num_classes, axis=2), labels),
                    (np.moveaxis(Z[swap], 1, 2), swap[labels, each]),
                )
                for targets in [np.asarray(loss.targets(y.ravel(), num_classes))]
            ]
            alike = np.all(_alike(*values), axis=0)
            alike[one] = True
            kinds[left[alike[left]]] = one
    return tuple(int(kind) for kind in kinds)


def _value_of(loss: "Loss") -> Callable[..., Array]:
    """Return `loss.value` as one program, compiled once a shape."""
    return jit_small(lambda Z, T: loss.value(Z, T), options=QUICK)


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b) <= ALIKE_RTOL[a.dtype.name] * (1.0 + np.abs(a))


def _contradictions(loss: "Loss", Z: Columns, T: Columns, V: Columns) -> Iterator[tuple[str, Array]]:
    """Yield what would be contradicted, and the largest relative difference; V is random."""
    value, slope = loss.value(Z, T), loss.slope(Z, T)
    stacked = loss.value(Z[..., None], T[..., None])
    yield "value of columns with a further axis is not theirs", _difference(stacked[..., 0], value)
    plain = jax.grad(lambda Z: jnp.sum(loss.value(Z, T)))(Z)
    yield "slope is not the gradient of value", _difference(slope, plain)
    both = loss.value_and_slope(Z, T)
    yield "value_and_slope is not value", _difference(both[0], value)
    yield "value_and_slope is not the gradient of value", _difference(both[1], plain)
    push = jax.linearize(jax.grad(lambda Z: jnp.sum(loss.value(Z, T))), Z)[1]
    second = push(V)
    yield "curvature is not the second derivative of value", _difference(loss.curvature(Z, T)(V), second)
    if loss.shift_invariant:
        yield "it says that it is shift invariant and is not", _difference(loss.value(Z + 1.5, T), value)
    if loss.convex:
        every = jax.lax.map(lambda e: push(jnp.broadcast_to(e[:, None], Z.shape)), jnp.eye(len(Z)))
        lowest = jnp.min(jnp.linalg.eigvalsh(jnp.moveaxis(every, -1, 0)))
        yield "it says that it is convex and is not", -lowest
        at_own = value - jnp.sum(slope * Z, axis=0)
        yield "dual is not that of value", _difference(loss.dual(Z, T, slope, jnp.ones((), Z.dtype)), at_own)
        # Points downhill, too, where a convex loss is near its infimum.
        others = (Z + V, Z - slope, -20.0 * slope)
        below = jnp.max(jnp.stack([jnp.max(loss.infimum - loss.value(z, T)) for z in (Z, *others)]))
        yield f"value goes below its infimum = {loss.infimum}, to be declared in the class", below
        for c, other in itertools.product((0.0, 0.3, 1.0), others):
            bounded = loss.value(other, T) - c * jnp.sum(slope * other, axis=0)
            above = (loss.dual(Z, T, slope, jnp.asarray(c, Z.dtype)) - bounded) / (1.0 + jnp.abs(bounded))
            yield f"dual at c = {c} is above what it is to bound", jnp.max(above)


def _difference(a: Array, b: Array) -> Array:
    if a.shape != b.shape:
        return jnp.full((), jnp.inf)
    return jnp.max(jnp.abs(a - b) / (1.0 + jnp.abs(b)))
