"""What a network costs to train, each part apart: parameters, optimiser's state, activations, time of a step.

*Activations* are what a compiled step holds for its images. XLA says what it sets aside beside a program's
arguments (`temporary_bytes`): what the backward pass needs of the forward one, gradients and workspace, at
the moment when most is held. At each moment that is affine in the number of images, so from some number on
its growth (here from 4 batches to 8) is the images' part alone: what is kept of them between the passes and,
at that moment, gradients by it and workspace. Gradients of parameters are left out; so are pixels and labels,
arguments that are the same for every design. Nothing is run: buffers follow from shapes.

What automatic differentiation lists as kept between the passes (the residuals of `jax.vjp`) is more: XLA
computes much of it again within the operation that reads it. It bounds what has to be kept, and no run holds
it, so it is not what is reported.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import limits
from ufm_jax.networks.models import Network
from ufm_jax.networks.run import Experiment, Row
from ufm_jax.networks.training import Recipe, State, step, trainer


def state_shapes(net: Network, recipe: Recipe) -> State:
    """Return the shapes of a training run's state; nothing is computed."""
    return jax.eval_shape(trainer(net, recipe, recipe.batch).init, 0)


def held_bytes(tree: Any) -> int:
    """Return the bytes of all arrays of a pytree, or of their shapes."""
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def lowered_step(net: Network, recipe: Recipe, pixels: tuple[int, ...], batch: int) -> Any:
    """Return one training step of so many images, for arrays that are never made, before it is compiled."""
    state = state_shapes(net, recipe)
    images = jax.ShapeDtypeStruct((batch, *pixels), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    one = jax.jit(step(net, recipe, batch), donate_argnums=(0, 1))
    return one.lower(state.weights, state.optimiser, images, labels)


def temporary_bytes(net: Network, recipe: Recipe, pixels: tuple[int, ...], batch: int) -> int:
    """Return what XLA sets aside for a step, compiled for this device, beside arguments and results."""
    # Buffers are assigned before machine code is made, so that code need not be fast.
    fast: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    compiled = lowered_step(net, recipe, pixels, batch).compile(compiler_options=fast)
    return int(compiled.memory_analysis().temp_size_in_bytes)


def memory(net: Network, recipe: Recipe, pixels: tuple[int, ...]) -> Row:
    """Return the number of parameters, and bytes: optimiser's state, a step's memory, its activations."""
    state = state_shapes(net, recipe)
    one, four, eight = (temporary_bytes(net, recipe, pixels, times * recipe.batch) for times in (1, 4, 8))
    return {
        "parameters": sum(int(np.prod(a.shape)) for a in jax.tree.leaves(state.weights.params)),
        "optimiser_bytes": held_bytes(state.optimiser),
        "temporary_bytes": one,
        "activation_bytes": (eight - four) // 4,
    }


def steps_of(exp: Experiment) -> int:
    """Return the steps of an epoch."""
    return len(exp.train.labels) // min(exp.recipe.batch, len(exp.train.labels))


class Clock:
    """Times some steps of one run at a time, compiled before."""

    def __init__(self, exp: Experiment) -> None:
        self.exp, self.state = exp, exp.trainer.init(0)
        self.step_seconds(1)

    def step_seconds(self, steps: int) -> float:
        """Take so many steps and return how long one took."""
        began = time.perf_counter()
        self.state, value = self.exp.trainer.epoch(self.state, self.exp.train, jax.random.key(0), steps)
        value.block_until_ready()
        return (time.perf_counter() - began) / steps


def epoch_seconds(exp: Experiment) -> float:
    """Return about how long an epoch takes: training, and measuring, a third of that."""
    return 4 / 3 * steps_of(exp) * Clock(exp).step_seconds(2)


def step_times(experiments: dict[str, Experiment], seconds: float) -> dict[str, float]:
    """Return the seconds of a training step: each run's best turn, in turns.

    Rounds of turns go on for so many seconds, three at least: what else the machine does only adds time. A
    turn is an epoch, or as many steps as leave time for three rounds.
    """
    clocks = {name: Clock(exp) for name, exp in experiments.items()}
    turn = {}
    for name, clock in clocks.items():
        fit = seconds / (3 * len(clocks) * clock.step_seconds(2))
        turn[name] = int(np.clip(fit, 1, steps_of(clock.exp)))
    best = dict.fromkeys(clocks, np.inf)
    ends, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < ends:
        rounds += 1
        for name, clock in clocks.items():
            best[name] = min(best[name], clock.step_seconds(turn[name]))
    return best


def rates(exp: Experiment, seconds: float) -> Row:
    """Return what a step's time comes to: images a second, and its share of what products reach here.

    Operations are those that XLA counts in the compiled step, set against float32 products of large matrices.
    """
    batch = min(exp.recipe.batch, len(exp.train.labels))
    found: Row = {"step_seconds": seconds, "images_per_second": batch / seconds}
    counted = lowered_step(exp.net, exp.recipe, exp.train.pixels.shape[1:], batch).cost_analysis() or {}
    operations = float(counted.get("flops", np.nan))
    found |= {"operations_per_second": operations / seconds, "device_operations_per_second": product_rate()}
    return found | {"share_of_rate": found["operations_per_second"] / found["device_operations_per_second"]}


@functools.cache
def product_rate() -> float:
    """Return operations a second of products of large float32 matrices."""
    return limits.product_rate((limits.MATRIX,) * 3, dtype=jnp.float32)
