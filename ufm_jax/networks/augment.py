"""Random crops and flips of a batch of images, inside compiled code."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8


def crop_and_flip(key: Any, pixels: UInt8[Array, "n h w c"], margin: int = 4) -> UInt8[Array, "n h w c"]:
    """Shift each image by up to `margin` pixels over a black border, and mirror half of them."""
    n, h, w, c = pixels.shape
    corner_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (n, 2), 0, 2 * margin + 1, jnp.int32)
    padded = jnp.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    zero = jnp.zeros((), jnp.int32)
    crop = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], zero), (h, w, c))
    cropped = jax.vmap(crop)(padded, corners)
    mirrored = jax.random.bernoulli(flip_key, shape=(n,))
    return jnp.where(mirrored[:, None, None, None], cropped[:, :, ::-1], cropped)
