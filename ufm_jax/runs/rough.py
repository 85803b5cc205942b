"""Searches begun in float32, whose ends are the starts of searches in float64.

Float32 is all that some devices have, and what those made for pictures are fast in. On a CPU it is no great
gain: 13% of a descent at K = 4, a loss at K = 10. It comes down to ‖∇f‖ of `ROUGH` in units; what is left is
the quick end of a search. No verdict depends on it: rows are searched to the end, and judged, in float64.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ufm_jax import devices
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.search import CriticalPoint, LevenbergMarquardt, descend_together
from ufm_jax.landscape.together import Fields, critical_points
from ufm_jax.numerics.lanes import in_shares, jit_small, over_devices
from ufm_jax.runs.plan import SearchDtype, Target

# At K = 4 and 10 all but 1 in 4,000 descents come so far, in half of their steps; to 1e-4 a fifth does not.
ROUGH = 1e-3
MAX_STEPS = 300


def dtype_of(asked: SearchDtype, landscape: Landscape) -> SearchDtype:
    """Return what searches begin in: unless asked otherwise float32 where local devices have nothing better.

    Raises:
        ValueError: naming `search_dtype`, where float32 is asked for on a landscape that makes float64 of it.
    """
    if asked == "float64" or (asked == "auto" and devices.has_float64(jax.local_devices()[0])):
        return "float64"
    of = lambda landscape, x: landscape.value(x)
    made = jax.eval_shape(of, *_cast((landscape, jax.tree.map(jnp.zeros_like, landscape.zeros())), "float32"))
    if made.dtype == "float32":
        return "float32"
    if asked == "auto":  # then on the host, all of it
        return "float64"
    raise ValueError(
        f"search_dtype: {landscape.name} returns {made.dtype} of points in float32; give its constants the "
        "dtype of the point (jnp.asarray(constant, x.dtype)), or search in float64"
    )


def rough_ends(
    landscape: Landscape, fields: Fields, begin: Any, target: Target, lanes: int
) -> tuple[Any, Int[np.ndarray, " S"]]:
    """Return where searches in float32 from points of `landscape.space(target)` end, and their steps.

    The ends are float64. A search that ends nowhere gives its start back. At most `lanes` lanes a device are
    held at once.
    """
    own, begin = _cast(landscape, "float32"), jax.device_get(begin)
    own_fields, own_begin = _cast((fields, begin), "float32")
    method = LevenbergMarquardt(MAX_STEPS, ROUGH)
    with devices.on(tuple(jax.local_devices())):
        if target == "minima":
            found = in_shares(partial(_descents, own), lanes, own_fields, own_begin)
        else:
            found = critical_points(own, own_fields, own_begin, method, again=False)
    ends = _restricted(landscape, _cast(found.x, "float64"), target=target)
    rows = lambda a: np.all(np.isfinite(a), axis=tuple(range(1, np.ndim(a))))
    good = np.all([rows(a) for a in jax.tree.leaves(ends)], axis=0)
    chosen = lambda new, old: np.where(good.reshape(-1, *(1,) * (np.ndim(old) - 1)), new, old)
    return jax.tree.map(chosen, jax.device_get(ends), begin), found.num_steps


@partial(jax.jit, static_argnames=("target",))
def _restricted(landscape: Landscape, x: Any, *, target: Target) -> Any:
    return jax.vmap(landscape.space(target).restrict)(x)


@jit_small
def _descents(
    landscape: Landscape, fields: Fields, begin: Any, counts: Int[Array, " devices"]
) -> CriticalPoint:
    def share(landscape: Landscape, fields: Fields, begin: Any, count: Any) -> CriticalPoint:
        space = landscape.space("minima")
        return descend_together(landscape, space, fields, begin, count[0], ROUGH, MAX_STEPS)

    return over_devices(share)(landscape, fields, begin, counts)


def _cast(tree: Any, dtype: str) -> Any:
    """Return a tree whose floating-point leaves, of JAX or NumPy, are of another precision."""

    def cast(a: Any) -> Any:
        return a.astype(dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    with np.errstate(over="ignore"):  # what float32 does not hold is infinite there
        return jax.tree.map(cast, tree)
