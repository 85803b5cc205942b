"""Many independent problems in one compiled call."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import numpy as np


def each_lane(f: Callable[..., Any]) -> Callable[..., Any]:
    """Build the map of f over the leading axis of all its arguments, for iterative f.

    One after another on a CPU: every lane then ends when it is done, and XLA's plain matrix products beat its
    batched ones (3x at K = 4, over 10x in the full space at K = 10). Accelerators want the batch.
    """

    def apply(*args: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda lane: f(*lane), args)
        return jax.vmap(f)(*args)

    return apply


def in_batches(f: Callable[..., Any], size: int, *args: np.ndarray) -> Any:
    """Apply f, which maps `size` lanes in one compiled call, to the leading axis of any length >= 1.

    The last batch repeats lanes, so that f compiles once. The results are on the host.
    """
    total, parts = len(args[0]), []
    for first in range(0, total, size):
        lanes = np.arange(first, min(first + size, total))
        out = jax.device_get(f(*(a[np.resize(lanes, size)] for a in args)))
        parts.append(jax.tree.map(itemgetter(slice(len(lanes))), out))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
