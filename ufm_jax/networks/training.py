"""Training a network: the objective, the optimisers, one compiled epoch, and runs that can be resumed.

Two objectives, both of the mean cross-entropy of a batch, which class weights and offsets may change:

* `parameters`: + λ/2 ‖all that is trained‖², the ordinary weight decay (biases and batch norm included);
* `peeled`: + λ_W/2 ‖W‖² + λ_b/2 ‖b‖² + N λ_H/2 · mean ‖h‖², the unconstrained feature model's f on the raw
  features: λ_H/2 ‖H‖² over all N columns, estimated on a batch. What is frozen has no decay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from ufm_jax.models.unconstrained.losses import finite_numbers
from ufm_jax.networks.arguments import finite, labelled, whole
from ufm_jax.networks.augment import crop_and_flip
from ufm_jax.networks.data import Split
from ufm_jax.networks.models import Network, Weights, last_layer


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's for SGD.

    Raises:
        ValueError: naming the argument and its value: numbers that are not finite or too small or large for
            float32, negative ones, counts that are not whole.
    """

    optimiser: str = "sgd"  # or adam, lbfgs
    rate: float = 0.05  # of L-BFGS: the first step that its line search tries
    momentum: float = 0.9
    memory: int = 10  # of L-BFGS
    epochs: int = 200
    batch: int = 64  # images that do not fill a batch wait for another epoch
    drop_every: int = 40  # epochs after which the rate falls; L-BFGS keeps its own
    drop: float = 0.1
    form: str = "parameters"  # or peeled
    decay: float = 5e-4  # λ of `parameters`
    decay_w: float = 5e-4  # λ_W, λ_H, λ_b of `peeled`
    decay_h: float = 1e-5
    decay_b: float = 1e-2
    augment: bool = False  # random crops and flips
    class_weights: tuple[float, ...] | None = None  # of each sample's loss, by its class; 1 by default
    offsets: tuple[float, ...] | None = None  # added to the logits in training: log-priors adjust them
    precision: str | None = None  # of the body's products in training: see `objective`; None: JAX's own

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adam", "lbfgs"):
            raise ValueError(f"optimiser: need sgd, adam or lbfgs, got {self.optimiser!r}")
        if self.form not in ("parameters", "peeled"):
            raise ValueError(f"form: need parameters or peeled, got {self.form!r}")
        if self.precision not in (None, "bfloat16", "tensorfloat32", "float32"):
            need = "bfloat16, tensorfloat32, float32 or None"
            raise ValueError(f"precision: need {need}, got {self.precision!r}")
        # As Python's own numbers: the same recipe then has the same text in a checkpoint.
        settle = partial(object.__setattr__, self)
        for name in ("epochs", "batch", "drop_every", "memory"):
            settle(name, whole(name, getattr(self, name), 1))
        for name in ("rate", "drop"):
            settle(name, finite(name, getattr(self, name), positive=True))
        for name in ("momentum", "decay", "decay_w", "decay_h", "decay_b"):
            settle(name, finite(name, getattr(self, name)))
        settle("augment", bool(self.augment))
        for name, above in (("class_weights", 0.0), ("offsets", -np.inf)):
            if (given := getattr(self, name)) is not None:
                settle(name, finite_numbers(name, given, above))


class Images(NamedTuple):
    """A split on the device, and how its pixels are scaled: (x − mean)/std, channel by channel."""

    pixels: UInt8[Array, "N h w c"]
    labels: Int[Array, " N"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]


class State(NamedTuple):
    """All that the next epoch needs."""

    weights: Weights
    optimiser: Any
    epoch: Int[Array, ""]  # epochs done


class Trainer(NamedTuple):
    """One design and recipe for N images: compiled once, whatever the seed."""

    init: Callable[[int], State]
    # (state, images, key, most=None) -> state, mean of the objective; `most` ends after so many steps
    epoch: Callable[..., tuple[State, Float[Array, ""]]]


def on_device(split: Split, like: Split | None = None) -> Images:
    """Put a split on the device; pixels are scaled as those of `like`, by default its own, have to be.

    Raises:
        ValueError: naming images or labels of either that are no split: empty, of another dtype or shape.
    """
    labelled(*split)
    if like is not None:
        labelled(*like, name="like.")
    values = (split if like is None else like).images.astype(np.float32)
    mean, std = values.mean((0, 1, 2), dtype=np.float64), values.std((0, 1, 2), dtype=np.float64)
    scale = (jnp.asarray(a, jnp.float32) for a in (mean, np.maximum(std, 1.0)))
    return Images(jnp.asarray(split.images), jnp.asarray(split.labels, jnp.int32), *scale)


def standardise(pixels: UInt8[Array, "n h w c"], images: Images) -> Float[Array, "n h w c"]:
    """Return float32 pixels of mean 0 and deviation 1 over the split that set the scale."""
    return (pixels.astype(jnp.float32) - images.mean) / images.std


def objective(net: Network, recipe: Recipe, num_samples: int) -> Callable[..., tuple[Array, Any]]:
    """Build (params, weights, pixels, labels) -> objective of the batch in training mode, new statistics.

    The recipe's precision: `bfloat16` rounds inputs and results of the body's convolutions and affine maps to
    it, on every device (Micikevicius et al. 2018: weights, batch norm and loss stay float32); `tensorfloat32`
    rounds inputs alone, on a GPU that can (on a CPU products stay float32); `float32` does not round.
    """
    half = recipe.precision == "bfloat16"
    products = jnp.bfloat16 if half else None

    def f(params: Any, weights: Weights, pixels: Array, labels: Array) -> tuple[Array, Any]:
        weights = weights._replace(params=params)
        with jax.default_matmul_precision(None if half else recipe.precision):
            features, logits, stats = net.apply(weights, pixels, True, products)
        features = features.astype(jnp.float32)
        if recipe.offsets is not None:
            logits = logits + jnp.asarray(recipe.offsets, jnp.float32)
        wrong = jax.nn.logsumexp(logits, axis=1) - _at(logits, labels)
        if recipe.class_weights is not None:
            wrong = wrong * jnp.asarray(recipe.class_weights, jnp.float32)[labels]
        return jnp.mean(wrong) + penalty(weights, features), stats

    def penalty(weights: Weights, features: Array) -> Array:
        if recipe.form == "parameters":
            return jnp.float32(recipe.decay / 2) * _squares(weights.params)
        W, b = last_layer(weights)
        learned = 1.0 if net.design.frozen is None else 0.0
        total = jnp.float32(learned * recipe.decay_w / 2) * jnp.sum(W**2)
        if b is not None:
            total += jnp.float32(recipe.decay_b / 2) * jnp.sum(b**2)
        return total + jnp.float32(num_samples * recipe.decay_h / 2) * jnp.mean(jnp.sum(features**2, axis=1))

    return f


def _at(logits: Float[Array, "n K"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def _squares(tree: Any) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(a**2) for a in jax.tree.leaves(tree)]))


def optimiser(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Return SGD with momentum, Adam (both with a rate that falls in steps) or L-BFGS with line search."""
    if recipe.optimiser == "lbfgs":
        return optax.lbfgs(recipe.rate, memory_size=recipe.memory)

    def rate(count: Any) -> Any:
        drops = (count // (steps_per_epoch * recipe.drop_every)).astype(jnp.float32)
        return jnp.float32(recipe.rate) * jnp.float32(recipe.drop) ** drops

    if recipe.optimiser == "adam":
        return optax.with_extra_args_support(optax.adam(rate))
    return optax.with_extra_args_support(optax.sgd(rate, momentum=recipe.momentum))


def step(
    net: Network, recipe: Recipe, num_samples: int
) -> Callable[[Weights, Any, Array, Array], tuple[Weights, Any, Array]]:
    """Build (weights, optimiser state, standardised pixels, labels) -> the same after one step, objective."""
    f = objective(net, recipe, num_samples)
    method = optimiser(recipe, num_samples // min(recipe.batch, num_samples))

    def one(weights: Weights, memory: Any, pixels: Array, labels: Array) -> tuple[Weights, Any, Array]:
        (value, stats), grad = jax.value_and_grad(f, has_aux=True)(weights.params, weights, pixels, labels)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes of Python numbers and arrays
            extra: dict[str, Any] = {}
            if recipe.optimiser == "lbfgs":  # the line search tries points of the same batch
                # Its steps are float64 where that is turned on.
                on_batch = lambda params: f(_float32(params), weights, pixels, labels)[0]
                extra = {"value": value, "grad": grad, "value_fn": on_batch}
            updates, memory = method.update(grad, memory, weights.params, **extra)
            params = optax.apply_updates(weights.params, _float32(updates))
        if (
            recipe.optimiser == "lbfgs"
        ):  # its steps are long: batch norm's statistics are those of where it is
            stats = f(params, weights, pixels, labels)[1]
        return Weights(params, stats, weights.frozen), memory, value

    return one


def trainer(net: Network, recipe: Recipe, num_samples: int) -> Trainer:
    """Build `init` and `epoch` for N images; each compiles once, for all seeds.

    An epoch is a loop in Python over one compiled step: XLA runs convolutions inside its own loops on one
    core of a CPU, several times slower.
    """
    batch = min(recipe.batch, num_samples)
    steps = num_samples // batch
    method, one = optimiser(recipe, steps), step(net, recipe, num_samples)

    def begin(key: Any) -> State:
        weights = net.init(key)
        with jax.numpy_dtype_promotion("standard"):
            return State(weights, method.init(weights.params), jnp.zeros((), jnp.int32))

    @jax.jit
    def init(key: Any) -> State:
        return _settled(begin(key))

    @jax.jit
    def order(key: Any) -> Int[Array, "steps batch"]:
        shuffled = jax.random.permutation(key, jnp.arange(num_samples, dtype=jnp.int32))
        return shuffled[: steps * batch].reshape(steps, batch)

    @partial(jax.jit, donate_argnums=0)
    def advance(state: State, images: Images, rows: Array, key: Any) -> tuple[State, Array]:
        pixels = images.pixels[rows]
        pixels = crop_and_flip(key, pixels) if recipe.augment else pixels
        labels = images.labels[rows]
        weights, memory, value = one(state.weights, state.optimiser, standardise(pixels, images), labels)
        return _settled(State(weights, memory, state.epoch)), value

    def epoch(state: State, images: Images, key: Any, most: int | None = None) -> tuple[State, Array]:
        # An epoch's randomness follows from the seed and its number: a resumed run draws the same.
        order_key, *keys = jax.random.split(jax.random.fold_in(key, state.epoch), 1 + steps)
        values = []
        for rows, step_key in zip(np.asarray(order(order_key))[:most], keys[:most], strict=True):
            state, value = advance(state, images, rows, step_key)
            values.append(value)
        return state._replace(epoch=state.epoch + jnp.int32(1)), jnp.mean(jnp.stack(values))

    return Trainer(lambda seed: init(jax.random.key(seed)), epoch)


def _settled(state: State) -> State:
    """Give every array the dtype that steps return, so that the first step does not compile twice."""
    narrow = lambda a: jax.lax.convert_element_type(a, jnp.float32 if a.dtype == jnp.float64 else a.dtype)
    return jax.tree.map(narrow, state)
