"""Verdicts need float64; the library says so and leaves turning it on to the caller."""

from typing import Any

import jax


def require_x64(prob: Any = None) -> None:
    """Refuse to give verdicts in float32.

    Raises:
        ValueError: if 64-bit floating point is off, with the line that turns it on; naming `prob`, if it was
            made while it was off.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'jax_enable_x64: verdicts need float64; call jax.config.update("jax_enable_x64", True) first'
        )
    if prob is not None and prob.decay_w.dtype != "float64":
        raise ValueError(
            f"prob: its decays are {prob.decay_w.dtype}, since jax_enable_x64 was off when it was made; "
            "make it again"
        )
