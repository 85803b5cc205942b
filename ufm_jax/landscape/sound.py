"""Is a landscape what it says? Its value is a number, and does not change along its tangents."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array, Shaped

from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.landscape.point import as_rows, leaf_name, ravel
from ufm_jax.landscape.units import Units
from ufm_jax.numerics.lanes import QUICK, jit_small

COLUMNS = frozenset(
    (
        *("start", "target", "status", "verdict", "reason", "loss", "grad_norm", "index", "nullity"),
        *("orbit_dim", "lambda_min", "lambda_min_residual", "dual_bound", "dual_gap", "negative_curvature"),
        *("num_steps", "closed_form_loss", "hits", "row", "rel_grad_norm", "rel_dual_gap"),
        *("orbit", "invariants", "shard", "shard_orbit"),
    )
)
ASKED = 8  # random points
SMALL = 10_000  # numbers of a leaf up to which other ones are another landscape, to be checked again
SLOPE_RTOL = 1e-8  # of ⟨∇f, ξ⟩ in ‖∇f‖ ‖ξ‖: rounding of sums, where a wrong direction gives about 1/√D

_symmetric: dict[Any, bool] = {}  # whether there are tangents, of classes and sizes that were looked at
_checked: set[Any] = set()  # and of which leaves f is known not to change along them


def of_package(landscape: Landscape) -> bool:
    """Say whether a landscape is one of this package's, of which the tests say that it is what it says."""
    return type(landscape).__module__.startswith("ufm_jax.")


def _check_names(what: str, names: Any) -> None:
    """Check that names can stand beside those of a sweep's own columns.

    Raises:
        ValueError: naming `what` and the name.
    """
    for name in names:
        if not isinstance(name, str) or name in COLUMNS:
            raise ValueError(f"{what}: {name!r} is a column of every sweep; choose another name")


def check_settings(landscape: Landscape, names: Any) -> None:
    """Check that the names of settings can be columns beside a landscape's measures and points.

    Raises:
        ValueError: naming the grid and the name.
    """
    if not names:
        return
    _check_names("grid", names)
    like = jax.eval_shape(landscape.zeros)
    taken = {leaf_name(path) for path, _ in tree_flatten_with_path(like)[0]}
    taken |= set(jax.eval_shape(landscape.measures, like))
    for name in names:
        if name in taken:
            raise ValueError(f"grid: {name!r} is a leaf of a point or a measure, too; choose another name")


def check_landscape(landscape: Landscape) -> None:
    """Check what a landscape's methods return, and at random starts that ⟨∇f, ξ⟩ = 0 along its tangents.

    The first once for each class and sizes, the second once for other leaves, too; of the package's own
    landscapes the tests say it.

    Raises:
        ValueError: naming the method, and what is wrong with what it returns.
    """
    if of_package(landscape):
        return
    leaves = [np.asarray(a) for a in jax.tree.leaves(landscape)]
    sizes = (
        type(landscape),
        jax.tree.structure(landscape),
        tuple((a.shape, str(a.dtype)) for a in leaves),
    )
    if sizes not in _symmetric:
        _symmetric[sizes] = _shapes(landscape) > 0
    numbers = sizes, tuple(a.tobytes() for a in leaves if a.size <= SMALL)
    if not _symmetric[sizes] or numbers in _checked:
        return
    slopes = np.asarray(_slopes(landscape, jax.random.split(jax.random.key(0), ASKED)))
    worst = float(np.max(slopes, initial=0.0, where=np.isfinite(slopes)))
    if not worst <= SLOPE_RTOL:
        raise ValueError(
            f"tangents: {landscape.name} changes along them: ⟨∇f, ξ⟩ = {worst:.1e} ‖∇f‖ ‖ξ‖ at a random "
            "start, where it must be 0"
        )
    _checked.add(numbers)


def _shapes(landscape: Landscape) -> int:
    """Check what the methods return, and return how many tangents there are.

    Raises:
        ValueError: as `check_landscape`.
    """
    like, name = jax.eval_shape(landscape.zeros), landscape.name
    leaves = jax.tree.leaves(like)
    if not leaves or not all(jnp.issubdtype(a.dtype, jnp.floating) for a in leaves):
        raise ValueError(f"zeros: {name} needs a point of floating-point arrays, got {like}")
    _check_names("zeros", [leaf_name(path) for path, _ in tree_flatten_with_path(like)[0]])
    value = jax.eval_shape(landscape.value, like)
    if getattr(value, "shape", None) != () or value.dtype != leaves[0].dtype:
        raise ValueError(f"value: {name} needs one number of {leaves[0].dtype}, as its points, got {value}")
    _check_units(landscape, value)
    start = jax.eval_shape(landscape.start, jax.random.key(0))
    if jax.tree.map(lambda a: (a.shape, a.dtype), start) != jax.tree.map(lambda a: (a.shape, a.dtype), like):
        raise ValueError(f"start: {name} needs a point as zeros() is, {like}, got {start}")
    for what, dims in (("lower_bound", 0), ("invariants", 1)):
        number = jax.eval_shape(getattr(landscape, what), like)
        if len(getattr(number, "shape", "none")) != dims:
            raise ValueError(f"{what}: {name} needs {('one number', 'a vector')[dims]}, got {number}")
    measures = jax.eval_shape(landscape.measures, like)
    if not isinstance(measures, dict):
        raise ValueError(f"measures: {name} needs a dict of numbers by name, got {type(measures).__name__}")
    _check_names("measures", measures)
    for one, number in measures.items():
        if getattr(number, "shape", None) != () or number.dtype.kind not in "fi":
            raise ValueError(f"measures: {name} needs one real number for {one}, got {number}")
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
    return next(iter(first))[0]


def _check_units(landscape: Landscape, value: Any) -> None:
    """Check that units are `Units`, and positive where f is 1."""
    units = landscape.units(jnp.ones((), value.dtype))
    if not isinstance(units, Units):
        raise ValueError(f"units: {landscape.name} needs ufm.Units(value, curvature), got {units!r}")
    for what, size in zip(("value", "curvature"), units[:2], strict=True):
        if not (np.all(np.isfinite(size)) and np.all(np.asarray(size) > 0)):
            raise ValueError(f"units: {landscape.name} needs a finite {what} > 0, got {size}")


@partial(jit_small, options=QUICK)
def _slopes(landscape: Landscape, keys: Shaped[Array, "n *key"]) -> Array:
    def one(key: Key) -> Array:
        x = landscape.start(key)
        grad = ravel(jax.grad(landscape.value)(x))
        rows = as_rows(landscape.tangents(x))
        size = jnp.linalg.norm(rows, axis=1) * jnp.linalg.norm(grad)
        return jnp.max(jnp.abs(rows @ grad) / jnp.where(size > 0, size, 1.0))

    return jax.lax.map(one, keys)
