"""Many independent problems in one compiled call."""

from collections.abc import Callable
from typing import Any

import jax


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
