"""What networks are made of: ResNets (He et al. 2016), the multilayer perceptron, the classifier."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ufm_jax.networks.design import BLOCKS, EXPANSION, Design

HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Frozen(nnx.Variable):
    """An array that training leaves alone."""


class Net(nnx.Module):
    """Body and classifier."""

    def __init__(self, design: Design, pixels: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        self.body = (
            Perceptron(design, int(np.prod(pixels)), rngs=rngs)
            if design.architecture == "mlp"
            else ResNet(design, pixels[-1], rngs=rngs)
        )
        self.classifier = Classifier(design, rngs=rngs)

    def __call__(self, images: Array, train: bool) -> tuple[Array, Array]:
        features = self.body(images, train)
        return features, self.classifier(features)


class Classifier(nnx.Module):
    """logits = features Wᵀ + b; W starts uniform within ±1/√d or is the design's frozen W, b at 0."""

    def __init__(self, design: Design, *, rngs: nnx.Rngs) -> None:
        K, d = design.num_classes, design.feature_dim
        self.W: nnx.Variable
        frozen = design.frozen
        if frozen is not None:
            self.W = Frozen(jnp.asarray(frozen, jnp.float32))
        else:
            bound = np.float32(d**-0.5)
            self.W = nnx.Param(jax.random.uniform(rngs.params(), (K, d), jnp.float32, -bound, bound))
        self.b = nnx.Param(jnp.zeros(K, jnp.float32)) if design.bias else None

    def __call__(self, features: Array) -> Array:
        # Float32 whatever the body's products are: GPUs would round to TensorFloat-32, and it costs nothing.
        logits = jnp.matmul(features, self.W[...].T, precision=jax.lax.Precision.HIGHEST)
        return logits if self.b is None else logits + self.b[...]


class Perceptron(nnx.Module):
    """Hidden layers of affine map, batch norm and ReLU; the last may be the affine map alone."""

    def __init__(self, design: Design, num_inputs: int, *, rngs: nnx.Rngs) -> None:
        widths = [num_inputs, *[design.width] * (design.depth - 1), design.feature_dim]
        pairs = list(pairwise(widths))
        self.layers = nnx.List(
            nnx.Linear(a, b, kernel_init=nnx.initializers.he_normal(), param_dtype=jnp.float32, rngs=rngs)
            for a, b in pairs
        )
        self.affine = 0 if design.rectified else 1  # layers at the end without norm and ReLU
        normed = pairs[: len(pairs) - self.affine]
        self.norms = nnx.List(_norm(b, design, rngs) for _, b in normed) if design.batch_norm else None

    def __call__(self, images: Array, train: bool) -> Array:
        x = images.reshape(len(images), -1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) - self.affine:
                continue
            x = jax.nn.relu(x if self.norms is None else self.norms[i](x, use_running_average=not train))
        return x


class ResNet(nnx.Module):
    """He et al. 2016: stem, four stages of widths k, 2k, 4k, 8k, mean over pixels."""

    def __init__(self, design: Design, channels: int, *, rngs: nnx.Rngs) -> None:
        k, expansion = design.width, EXPANSION[design.architecture]
        self.pools = design.stem == "imagenet"
        self.stem = _conv(channels, k, 7, 2, rngs) if self.pools else _conv(channels, k, 3, 1, rngs)
        self.norm = _norm(k, design, rngs)
        plan = []  # input, inner and output channels and stride of each block
        inputs = k
        for stage, count in enumerate(BLOCKS[design.architecture]):
            for number in range(count):
                inner = k * 2**stage
                plan.append((inputs, inner, inner * expansion, 2 if stage > 0 and number == 0 else 1))
                inputs = inner * expansion
        plan[-1] = (*plan[-1][:2], design.feature_dim, plan[-1][3])
        self.blocks = nnx.List(Block(*sizes, design, rngs=rngs) for sizes in plan)

    def __call__(self, images: Array, train: bool) -> Array:
        x = jax.nn.relu(self.norm(self.stem(images), use_running_average=not train))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, train)
        return jnp.mean(x, axis=(1, 2))


class Block(nnx.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1; the shortcut projects where shapes differ."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, design: Design, *, rngs: nnx.Rngs
    ) -> None:
        if EXPANSION[design.architecture] > 1:
            sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        else:
            sizes = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
        self.convs = nnx.List(_conv(*s, rngs) for s in sizes)
        self.norms = nnx.List(_norm(s[1], design, rngs) for s in sizes)
        projects = stride > 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride, rngs) if projects else None
        self.shortcut_norm = _norm(outputs, design, rngs) if projects else None

    def __call__(self, x: Array, train: bool) -> Array:
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
            y = norm(conv(y), use_running_average=not train)
            y = jax.nn.relu(y) if number < len(self.convs) else y
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), use_running_average=not train)
        return jax.nn.relu(x + y)


def _conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # The same margin on every side, also with stride 2, unlike XLA's "SAME".
    margin = size // 2
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=[(margin, margin)] * 2,
        use_bias=False,
        kernel_init=HE,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def _norm(channels: int, design: Design, rngs: nnx.Rngs) -> nnx.BatchNorm:
    momentum = design.norm_momentum
    return nnx.BatchNorm(channels, momentum=momentum, epsilon=1e-5, param_dtype=jnp.float32, rngs=rngs)
