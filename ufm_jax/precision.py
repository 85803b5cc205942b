"""Verdicts need float64; the library says so and leaves turning it on to the caller."""

from typing import Any

import jax


def require_x64(landscape: Any = None) -> None:
    """Refuse to give verdicts in float32.

    Raises:
        ValueError: if 64-bit floating point is off, with the line that turns it on; naming the landscape, if
            its points are not float64.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'jax_enable_x64: verdicts need float64; call jax.config.update("jax_enable_x64", True) first'
        )
    if landscape is None:
        return
    for leaf in jax.tree.leaves(jax.eval_shape(landscape.zeros)):
        if leaf.dtype != "float64":
            raise ValueError(
                f"landscape: {landscape.name} has points of {leaf.dtype}, and verdicts need float64; was "
                "jax_enable_x64 off when it was made, or are its numbers integers (astype(float))?"
            )
