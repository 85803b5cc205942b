"""Verdicts need float64; the library says so and leaves turning it on to the caller."""

from typing import Any

import jax

from ufm_jax.devices import has_float64


def unrounded() -> Any:
    """Return a context in which float32 products are of float32: GPUs take them in TensorFloat-32 by default.

    That rounds to eleven bits. Traced functions keep it where they are traced inside.
    """
    return jax.default_matmul_precision("float32")


def require_x64(*landscapes: Any) -> None:
    """Refuse to give verdicts in float32, on these landscapes if any are named.

    Raises:
        ValueError: if 64-bit floating point is off, or the default device has none, with the line that mends
            it; naming the landscape, if it is none, or its points are not float64.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'jax_enable_x64: verdicts need float64; call jax.config.update("jax_enable_x64", True) first'
        )
    device = jax.config.values["jax_default_device"]
    if not isinstance(device, jax.Device):
        device = jax.local_devices(backend=device)[0]
    if not has_float64(device):
        raise ValueError(
            f"jax_default_device: {device.device_kind} has no float64, and verdicts need it; call "
            'jax.config.update("jax_default_device", jax.devices("cpu")[0]) first: sweeps still begin their '
            "searches on the accelerator"
        )
    for landscape in landscapes:
        if not callable(getattr(landscape, "zeros", None)):  # whose class is of a floor above
            raise ValueError(f"landscape: need a Landscape, got {type(landscape).__name__}")
        for leaf in jax.tree.leaves(jax.eval_shape(landscape.zeros)):
            if leaf.dtype != "float64":
                raise ValueError(
                    f"landscape: {landscape.name} has points of {leaf.dtype}, and verdicts need float64; was "
                    "jax_enable_x64 off when it was made, or are its numbers integers (astype(float))?"
                )
