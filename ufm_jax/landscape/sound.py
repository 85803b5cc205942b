"""Is a landscape what it says? Its value is a number, and does not change along its tangents."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.landscape.point import as_rows, ravel

ASKED = 8  # random points
SLOPE_RTOL = 1e-8  # of ⟨∇f, ξ⟩ in ‖∇f‖ ‖ξ‖: rounding of sums, where a wrong direction gives about 1/√D

_checked: set[Any] = set()


def check_landscape(landscape: Landscape) -> None:
    """Check a landscape at random starts, once for each class and sizes: shapes, and ⟨∇f, ξ⟩ = 0 of tangents.

    Raises:
        ValueError: naming `zeros`, `value` or `tangents`, and what is wrong with it.
    """
    if type(landscape).__module__.startswith("ufm_jax."):  # the tests say it of these
        return
    known = (type(landscape), jax.tree.structure(landscape), str(jax.tree.map(jnp.shape, landscape)))
    if known in _checked:
        return
    like = jax.eval_shape(landscape.zeros)
    leaves = jax.tree.leaves(like)
    name = landscape.name
    if not leaves or not all(jnp.issubdtype(a.dtype, jnp.floating) for a in leaves):
        raise ValueError(f"zeros: {name} needs a point of floating-point arrays, got {like}")
    value = jax.eval_shape(landscape.value, like)
    if getattr(value, "shape", None) != () or value.dtype != leaves[0].dtype:
        raise ValueError(f"value: {name} needs one number of {leaves[0].dtype}, as its points, got {value}")
    start = jax.eval_shape(landscape.start, jax.random.key(0))
    if jax.tree.map(lambda a: (a.shape, a.dtype), start) != jax.tree.map(lambda a: (a.shape, a.dtype), like):
        raise ValueError(f"start: {name} needs a point as zeros() is, {like}, got {start}")
    moved = jax.eval_shape(landscape.tangents, like)
    first = {a.shape[:1] for a in jax.tree.leaves(moved)}
    forms: Any = [jax.tree.structure(tree) for tree in (moved, like)]
    if (
        forms[0] != forms[1]
        or len(first) != 1
        or first == {()}
        or any(a.shape[1:] != b.shape for a, b in zip(jax.tree.leaves(moved), leaves, strict=True))
    ):
        raise ValueError(
            f"tangents: {name} needs directions as its points are, each leaf with one more axis in front, "
            f"got {moved}"
        )
    if first != {(0,)}:
        slopes = np.asarray(_slopes(landscape, jax.random.split(jax.random.key(0), ASKED)))
        worst = float(np.max(slopes, initial=0.0, where=np.isfinite(slopes)))
        if not worst <= SLOPE_RTOL:
            raise ValueError(
                f"tangents: {name} changes along them: ⟨∇f, ξ⟩ = {worst:.1e} ‖∇f‖ ‖ξ‖ at a random start, "
                "where it must be 0"
            )
    _checked.add(known)


@jax.jit
def _slopes(landscape: Landscape, keys: Shaped[Array, "n *key"]) -> Array:
    def one(key: Key) -> Array:
        x = landscape.start(key)
        grad = ravel(jax.grad(landscape.value)(x))
        rows = as_rows(landscape.tangents(x))
        size = jnp.linalg.norm(rows, axis=1) * jnp.linalg.norm(grad)
        return jnp.max(jnp.abs(rows @ grad) / jnp.where(size > 0, size, 1.0))

    return jax.lax.map(one, keys)
