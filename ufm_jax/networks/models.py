"""ResNet18, ResNet50 and the multilayer perceptron as pure functions of their arrays.

`network` turns a `Design` into them. Features are what the classifier reads, logits = features Wᵀ + b. With
`dim` other than its natural one a ResNet's last block ends in `dim` channels (its final convolution and batch
norm, and its shortcut, which becomes a projection); an MLP's last hidden layer is `dim` wide (Zhu et al.
2021, sec. 4.3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ufm_jax.networks.design import Design
from ufm_jax.networks.layers import Net

Tree = Any  # an nnx.State: nested arrays


class Weights(NamedTuple):
    """A network's arrays, all float32: what is trained, batch norm's running statistics, a frozen W."""

    params: Tree
    stats: Tree
    frozen: Tree


class Network(NamedTuple):
    """A design as pure functions; `init` and `apply` trace, so they compile once for all seeds."""

    design: Design
    init: Callable[[Any], Weights]  # key -> weights
    # (weights, images, train, products=None) -> features, logits, stats; see `network`
    apply: Callable[..., tuple[Array, Array, Tree]]


def network(design: Design, channels: int | tuple[int, ...]) -> Network:
    """Build the functions of a design for images of so many channels (an MLP: of that shape).

    `apply(..., products=dtype)` takes inputs and weights of the body's convolutions and affine maps, and
    their results, in that dtype; batch norm, the mean over pixels and the classifier stay float32.
    """
    pixels = (channels,) if isinstance(channels, int) else tuple(channels)

    def build(key: Any) -> Net:
        return Net(design, pixels, rngs=nnx.Rngs(params=key))

    # Flax mixes dtypes of Python numbers and arrays in ways that strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        graph = nnx.graphdef(nnx.eval_shape(lambda: build(jax.random.key(0))))

    def init(key: Any) -> Weights:
        with jax.numpy_dtype_promotion("standard"):
            parts: Any = nnx.split(build(key), nnx.Param, nnx.BatchStat, ...)
            return Weights(*parts[1:])

    def apply(
        weights: Weights, images: Array, train: bool, products: Any = None
    ) -> tuple[Array, Array, Tree]:
        with jax.numpy_dtype_promotion("standard"):
            net = nnx.merge(graph, *weights, copy=True)
            if products is not None:
                net.set_attributes(nnx.Conv, nnx.Linear, dtype=products, raise_if_not_found=False)
            features, logits = net(images, train)
            return features, logits, nnx.state(net, nnx.BatchStat)

    return Network(design, init, apply)


def last_layer(weights: Weights) -> tuple[Float[Array, "K d"], Float[Array, " K"] | None]:
    """Return the classifier W, learned or frozen, and its bias, None if it has none."""
    arrays = {**_classifier(weights.frozen), **_classifier(weights.params)}
    return arrays["W"], arrays.get("b")


def _classifier(state: Tree) -> dict[str, Array]:
    return nnx.to_pure_dict(state).get("classifier", {})


def num_parameters(design: Design, channels: int | tuple[int, ...] = 3) -> int:
    """Count what is trained; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    weights = jax.eval_shape(network(design, channels).init, key)
    return sum(int(np.prod(a.shape)) for a in jax.tree.leaves(weights.params))
