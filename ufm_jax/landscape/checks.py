"""Checks of points, in Python, before anything is traced: errors name the leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array

from ufm_jax.landscape.point import leaf_name


def is_numbers(value: Any) -> bool:
    """Whether these are numbers in lists or tuples, which stand for an array."""
    return type(value) in (list, tuple) and all(isinstance(v, int | float) or is_numbers(v) for v in value)


def checked(x: Any, like: Any, *, many: bool = False, name: str = "x") -> Any:
    """Return a pytree of arrays with the structure, shapes and dtypes of `like`; see `Landscape.check`."""
    needed, form = tree_flatten_with_path(like)
    x = jax.tree.map(lambda a: np.asarray(a, float) if is_numbers(a) else a, x, is_leaf=is_numbers)
    given = tree_flatten_with_path(x)[0]
    names = [leaf_name(path) for path, _ in needed]
    found = [leaf_name(path) for path, _ in given]
    same: Any = form
    if jax.tree.structure(x) != same:
        if names == found:  # a tuple for a named tuple, say
            return checked(jax.tree.unflatten(form, [a for _, a in given]), like, many=many, name=name)
        raise ValueError(f"{name}: need the leaves {', '.join(names)}, got {', '.join(found) or 'none'}")
    first = np.shape(given[0][1])[:1] if many else ()
    arrays = (
        _checked_array(where, array, want, first)
        for where, (_, array), (_, want) in zip(names, given, needed, strict=True)
    )
    return jax.tree.unflatten(form, list(arrays))


def _checked_array(name: str, array: Any, like: Any, first: tuple[int, ...]) -> Array:
    """Return one array of a point, or of as many as `first` says, each of which is to look as `like`."""
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    if array.shape != (*first, *like.shape):
        if first and array.shape == like.shape:
            hint = "; one start needs a leading axis of length 1"
        elif not first and array.shape[1:] == like.shape and array.shape != (1, *like.shape):
            hint = "; that is several points, where one is needed"
        else:
            hint = "; is it transposed?" if array.shape[::-1] == like.shape else ""
        raise ValueError(f"{name}: need shape {(*first, *like.shape)}, got {array.shape}{hint}")
    if array.dtype != like.dtype:
        raise ValueError(
            f"{name}: need dtype {like.dtype}, got {array.dtype}; convert it by "
            f"{name}.astype({str(like.dtype)!r})"
        )
    return jnp.asarray(array)


def check_finite(x: Any, name: str = "x") -> None:
    """Check the values of a concrete point.

    Raises:
        ValueError: naming the leaf that has entries which are not finite.
    """
    for path, array in tree_flatten_with_path(x)[0]:
        if not bool(jnp.all(jnp.isfinite(array))):
            where = leaf_name(path)
            raise ValueError(f"{where}: has {int(jnp.sum(~jnp.isfinite(array)))} non-finite entries")
