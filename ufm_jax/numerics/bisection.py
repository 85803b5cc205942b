"""Bisection, traced: for closed forms that are the root of one monotone function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HALVINGS = 80  # of any interval of float64: its ends are then neighbours


def last_true(
    holds: Callable[[Float[Array, "..."]], Bool[Array, "..."]],
    low: Float[Array, "..."],
    high: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Bisect for the last u in [low, high] where `holds`, true up to there and then false."""

    def halve(_: Int[Array, ""], ends: tuple) -> tuple:
        low, high = ends
        mid = (low + high) / 2
        return jnp.where(holds(mid), mid, low), jnp.where(holds(mid), high, mid)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return jnp.where(holds(high), high, low)
