"""Classes whose fields are leaves or sizes, frozen dataclasses and pytrees: the subclasses of `Structure`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.landscape.checks import is_numbers

Made = TypeVar("Made", bound="Structure")


def static(**given: Any) -> Any:
    """Mark a field of a landscape as a size or choice: it hashes and is compiled in; `default` as usual."""
    return dataclasses.field(metadata={"static": True}, **given)


def _as_arrays(zeros: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a method whose leaves are arrays, where the user's may be Python's floats."""
    return functools.wraps(zeros)(lambda self: jax.tree.map(jnp.asarray, zeros(self)))


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

    return jax.tree.map(array, value, is_leaf=is_numbers)


def _unflatten(cls: type[Made], leaves: tuple[str, ...], sizes: tuple[str, ...], aux: Any, held: Any) -> Made:
    """Put a landscape together again, of whatever JAX puts in the place of leaves: nothing is checked."""
    self = object.__new__(cls)
    for name, value in zip((*leaves, *sizes), (*held, *aux), strict=True):
        object.__setattr__(self, name, value)
    return self


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(static, dataclasses.field))
class Structure:
    """What is a landscape made of: arrays, or pytrees of arrays, and what is marked `static()`."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if Structure in cls.__bases__:
            return
        root = cls.__mro__[cls.__mro__.index(Structure) - 1]
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
        names = {
            kind: [f.name for f in dataclasses.fields(cls) if bool(f.metadata.get("static")) is kind]  # type: ignore[arg-type]
            for kind in (True, False)
        }
        for name in names[True] + names[False]:
            if hasattr(root, name):
                raise TypeError(
                    f"{name}: a field of {cls.__name__} cannot be called as what every landscape has"
                )
        made = cls.__init__
        if "zeros" in vars(cls):
            cls.zeros = _as_arrays(cls.zeros)  # type: ignore[attr-defined]

        @functools.wraps(made)
        def init(self: Any, *args: Any, **fields: Any) -> None:
            made(self, *args, **fields)
            if type(self) is cls:
                _settle(self, names[False], names[True])

        cls.__init__ = init  # type: ignore[method-assign]
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

    @classmethod
    def leaf_names(cls) -> tuple[str, ...]:
        """Return the names of the fields that are traced."""
        return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata.get("static"))  # type: ignore[arg-type]


def at_lane(held: Made, fields: dict[str, Any]) -> Made:
    """Return it with other leaves in some of its fields, which nobody checks."""
    other = object.__new__(type(held))
    for field in dataclasses.fields(held):  # type: ignore[arg-type]
        value = fields.get(field.name, getattr(held, field.name))
        object.__setattr__(other, field.name, value)
    return other
