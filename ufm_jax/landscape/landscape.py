"""A landscape: a smooth function on a pytree of arrays, and what is known of it.

All that the explorer does (searches, verdicts modulo symmetry, distinct orbits, sweeps, pictures) needs a
`Landscape` and no more. A new one is a subclass with `value` and `zeros`:

    class Factorisation(Landscape):
        M: Array                # a leaf: traced, so that a grid over it compiles once
        rank: int = static()    # sizes and choices: part of what is compiled

        def zeros(self): ...
        def value(self, x): ...

Everything else has a default which says that nothing more is known.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ufm_jax.numerics.derivatives import dense_hessian, floating

Key = PRNGKeyArray
Real = TypeVar("Real", bound="Landscape")

START_SCALES = (0.01, 3.0)  # range of the standard deviation of random starts


def static(**given: Any) -> Any:
    """Mark a field of a landscape as a size or choice, which hashes and is compiled in; may have a `default`."""
    return dataclasses.field(metadata={"static": True}, **given)


class Point(NamedTuple):
    """A landscape at one point: computed once, and handed on to whoever asks for any of it."""

    x: Any
    value: Float[Array, ""]
    grad: Any  # as x
    hv: Callable[[Any], Any]  # v -> H v, exact, v as x
    shared: Any = None  # what else a landscape's own methods have use for


def _settle(self: Any, leaves: list[str], sizes: list[str]) -> None:
    """Make leaves arrays of floating-point numbers, and check that static fields hash."""
    for name in leaves:
        object.__setattr__(self, name, _as_leaf(type(self).__name__, name, getattr(self, name)))
    for name in sizes:
        try:
            hash(getattr(self, name))
        except TypeError as error:
            raise ValueError(
                f"{name}: a static field of {type(self).__name__} must hash (tuples do, lists and arrays do "
                f"not): {error}; an array is a leaf, which needs no static()"
            ) from None


def _as_leaf(owner: str, name: str, value: Any) -> Any:
    def array(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return leaf
        numbers = np.asarray(leaf)
        if numbers.dtype.kind not in "fiu":
            raise ValueError(
                f"{name}: a leaf of {owner} must be numbers, got {leaf!r}; mark a size or choice as static()"
            )
        return jnp.asarray(numbers, None if isinstance(leaf, np.ndarray) else jnp.result_type(float))

    return jax.tree.map(array, value)


def _unflatten(cls: type[Real], leaves: tuple[str, ...], sizes: tuple[str, ...], aux: Any, held: Any) -> Real:
    """Put a landscape together again, of whatever JAX puts in the place of leaves: nothing is checked."""
    self = object.__new__(cls)
    for name, value in zip((*leaves, *sizes), (*held, *aux), strict=True):
        object.__setattr__(self, name, value)
    return self


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(static, dataclasses.field))
class Landscape:
    """A smooth function on a pytree of arrays, and what is known of it; see the module's docstring.

    A subclass is made a frozen dataclass with keyword arguments, and a pytree: its fields are leaves (arrays,
    or pytrees of arrays, of floating-point numbers), except those marked `static()`. Methods take one point x
    and are traced; nothing in them may depend on the numbers in x by Python's `if`.
    """

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
        names = {
            kind: [f.name for f in dataclasses.fields(cls) if bool(f.metadata.get("static")) is kind]  # type: ignore[arg-type]
            for kind in (True, False)
        }
        made = cls.__init__

        @functools.wraps(made)
        def init(self: Any, *args: Any, **fields: Any) -> None:
            made(self, *args, **fields)
            if type(self) is cls:
                _settle(self, names[False], names[True])

        cls.__init__ = init  # type: ignore[method-assign, assignment]
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda self: (
                [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names[False]],
                tuple(getattr(self, name) for name in names[True]),
            ),
            functools.partial(_unflatten, cls, tuple(names[False]), tuple(names[True])),
            lambda self: (
                [getattr(self, name) for name in names[False]],
                tuple(getattr(self, name) for name in names[True]),
            ),
        )

    # What users must give.

    def value(self, x: Any) -> Float[Array, ""]:
        """Return f at x."""
        raise NotImplementedError(f"{type(self).__name__} needs a method value(self, x)")

    def zeros(self) -> Any:
        """Return a point of zeros: the shapes and dtype of x."""
        raise NotImplementedError(f"{type(self).__name__} needs a method zeros(self)")

    # What they may give.

    def start(self, key: Key) -> Any:
        """Return a random start: independent normal numbers, of a scale log-uniform over `START_SCALES`."""
        scale_key, point_key = jax.random.split(key)
        low, high = np.log(START_SCALES)
        leaves, form = jax.tree.flatten(self.zeros())
        dtype = leaves[0].dtype
        scale = jnp.exp(jax.random.uniform(scale_key, (), dtype, low, high))
        keys = jax.random.split(point_key, len(leaves))
        drawn = [scale * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(form, drawn)

    def tangents(self, x: Any) -> Any:
        """Return directions at x along which the symmetry of f moves it: as x, each leaf with a leading axis.

        They need not be independent, nor of one length; f must not change along any of them.
        """
        return jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), self.zeros())

    def invariants(self, x: Any) -> Float[Array, " m"]:
        """Return a vector that the symmetry, discrete symmetry too, leaves alone: equal, if on one orbit.

        By default f and its Hessian's spectrum, which different orbits hardly ever share.
        """
        return jnp.concatenate([self.value(x)[None], jnp.linalg.eigvalsh(dense_hessian(self.value)(x))])

    def lower_bound(self, x: Any) -> Float[Array, ""]:
        """Return a lower bound on the global minimum; it may depend on x, and must hold whatever x is."""
        return jnp.full((), -jnp.inf, jax.tree.leaves(self.zeros())[0].dtype)

    def measures(self, x: Any) -> dict[str, Array]:
        """Return more numbers to record of a point, each a scalar, by name."""
        return {}

    # What a landscape of this package overrides, for speed or knowledge.

    @property
    def name(self) -> str:
        """What it is called in tables and pages."""
        return type(self).__name__

    def evaluate(self, x: Any) -> Point:
        """Return f, its gradient and its Hessian product at x."""
        (value, grad), push = jax.linearize(jax.value_and_grad(self.value), x)
        return Point(x, value, grad, lambda v: push(v)[1])

    @staticmethod
    def of(f: Callable[[Any], Float[Array, ""]], like: Any) -> "Landscape":
        """Return the landscape of a function without a class; its points look as `like`, which is a start.

        Raises:
            ValueError: naming `f`, if it cannot be called; naming the leaf of `like` that is no
                floating-point array, or not of the others' dtype.
        """
        if not callable(f):
            raise ValueError(f"f: need a function of one point, got {type(f).__name__}")
        leaves, form = jax.tree.flatten(floating(like, "like"))
        return _Function(f=f, form=form, shapes=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves))


class _Function(Landscape):
    """A function's landscape: nothing is known but its values."""

    f: Callable[[Any], Float[Array, ""]] = static()
    form: Any = static()
    shapes: tuple[jax.ShapeDtypeStruct, ...] = static()

    @property
    def name(self) -> str:
        return getattr(self.f, "__name__", "function")

    def zeros(self) -> Any:
        return jax.tree.unflatten(self.form, [jnp.zeros(a.shape, a.dtype) for a in self.shapes])

    def value(self, x: Any) -> Float[Array, ""]:
        return self.f(x)
