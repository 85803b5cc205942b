"""One run: epochs, a measurement after each, checkpoints, and a row of numbers for each epoch."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ufm_jax.networks.checkpoint import restore, save
from ufm_jax.networks.measure import Collapse, measurer
from ufm_jax.networks.models import Network, Weights
from ufm_jax.networks.training import Images, Recipe, State, Trainer, trainer

Row = dict[str, Any]


class Experiment(NamedTuple):
    """A network, its recipe and its images: what is compiled serves every seed."""

    net: Network
    recipe: Recipe
    train: Images
    test: Images
    trainer: Trainer
    measure: Callable[[Weights, Images], Collapse]
    name: str  # of the data, for checkpoints


def experiment(
    net: Network, recipe: Recipe, train: Images, test: Images, *, chunk: int = 500, name: str = ""
) -> Experiment:
    """Build a run's functions; `chunk` images at a time are measured."""
    return Experiment(
        net, recipe, train, test, trainer(net, recipe, len(train.labels)), measurer(net, chunk), name
    )


def run(
    exp: Experiment,
    seed: int,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
    epochs: int | None = None,
    also: Callable[[Weights], Row] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[State, list[Row]]:
    """Train from `seed` and measure after each epoch; return the last state and a row for each epoch.

    With a checkpoint that exists, the run goes on from there: the bits are those of a run in one go. `also`
    adds columns, `say` gets a line an epoch. `epochs` ends before the recipe's last epoch.

    Raises:
        ValueError: if the checkpoint belongs to another run; FloatingPointError if the objective diverges.
    """
    state: State = exp.trainer.init(seed)
    history: list[Row] = []
    if checkpoint is not None and checkpoint.exists():
        state, history = restore(checkpoint, state, identity(exp, seed))
    key = jax.random.fold_in(jax.random.key(seed), 1)
    last = exp.recipe.epochs if epochs is None else epochs
    while (done := int(state.epoch)) < last:
        began = time.perf_counter()
        state, value = exp.trainer.epoch(state, exp.train, key)
        row: Row = {"epoch": done + 1, "objective": float(value), "seconds": time.perf_counter() - began}
        if not jnp.isfinite(value):
            raise FloatingPointError(f"rate: {exp.recipe.rate} is too high, epoch {done + 1} diverged")
        row |= measured(exp, state.weights) | (also(state.weights) if also else {})
        history.append(row)
        if say:
            say(line(row))
        if checkpoint is not None and ((done + 1) % checkpoint_every == 0 or done + 1 == last):
            save(checkpoint, state, history, identity(exp, seed))
    return state, history


def measured(exp: Experiment, weights: Weights) -> Row:
    """Return the metrics of the training set, and accuracy and cross-entropy of the test set."""
    row = {name: float(a) for name, a in exp.measure(weights, exp.train)._asdict().items()}
    test = exp.measure(weights, exp.test)
    return row | {
        "test_accuracy": float(test.accuracy),
        "test_cross_entropy": float(test.cross_entropy),
        "train_accuracy": row.pop("accuracy"),
    }


def identity(exp: Experiment, seed: int) -> Row:
    """Say which run it is, for its checkpoint."""
    shape = list(exp.train.pixels.shape)
    return {
        "design": asdict(exp.net.design),
        "recipe": asdict(exp.recipe),
        "seed": seed,
        "images": shape,
        "data": exp.name,
    }


def line(row: Row) -> str:
    """Format a row for a progress line."""
    return (
        f"epoch {row['epoch']:3d}: objective {row['objective']:.4f}, accuracy {row['train_accuracy']:.4f} "
        f"(test {row['test_accuracy']:.4f}), NC1 {row['nc1']:.2e}, {row['seconds']:.1f} s"
    )
