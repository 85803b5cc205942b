"""Verdicts need float64; the library says so and leaves turning it on to the caller."""

import jax


def require_x64() -> None:
    """Refuse to give verdicts in float32.

    Raises:
        ValueError: if 64-bit floating point is off, with the line that turns it on.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'jax_enable_x64: verdicts need float64; call jax.config.update("jax_enable_x64", True) first'
        )
