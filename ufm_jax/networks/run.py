"""One run: epochs, a measurement after each, checkpoints, and a row of numbers for each epoch."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm_jax.networks.arguments import labelled, scale, whole, within
from ufm_jax.networks.checkpoint import restore, save
from ufm_jax.networks.measure import Collapse, measurer
from ufm_jax.networks.models import Network, Weights
from ufm_jax.networks.training import Images, Recipe, State, Trainer, trainer

Row = dict[str, Any]
KEPT = 60.0  # seconds of training that a kill may cost, or an epoch where that takes longer


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
    """Build a run's functions; `chunk` images at a time are measured.

    Raises:
        ValueError: naming what of `train` or `test` cannot be: no images, labels that are no classes of the
            network, a class without training images, another dtype, shape or number than need be.
    """
    for images, prefix in ((train, "train."), (test, "test.")):
        labels = labelled(images.pixels, images.labels, prefix, "pixels")
        within(labels, net.design.num_classes, prefix, all_there=images is train)
        scale(images.mean, images.std, images.pixels.shape[3], prefix)
    shape = train.pixels.shape[1:]
    if test.pixels.shape[1:] != shape:
        raise ValueError(f"test.pixels: need images of {shape} as train has, got {test.pixels.shape[1:]}")
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
    deadline: float | None = None,
    also: Callable[[Weights], Row] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[State, list[Row]]:
    """Train from `seed` and measure after each epoch; return the last state and a row for each epoch.

    With a checkpoint that exists, the run goes on from there: the bits are those of a run in one go. It is
    written every `checkpoint_every` epochs, after an epoch that ends `KEPT` seconds later, and at the end.
    `also` adds columns, `say` gets a line an epoch. `epochs` ends before the recipe's last epoch, and
    `deadline`, of `time.monotonic`, before an epoch that would end after it, if it takes as long as the last;
    one is done.

    Raises:
        ValueError: if the checkpoint belongs to another run, or does not say which images it was trained on.
        FloatingPointError: at the first epoch that ends with an objective, a metric, weights or an
            optimiser's memory that is not finite; the checkpoint is still that of an epoch before.
    """
    whole("checkpoint_every", checkpoint_every, 1)
    belongs = {} if checkpoint is None else identity(exp, seed)
    state: State = exp.trainer.init(seed)
    history: list[Row] = []
    if checkpoint is not None and checkpoint.exists():
        state, history = restore(checkpoint, state, belongs)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    last, saved = exp.recipe.epochs if epochs is None else epochs, time.monotonic()
    while (done := int(state.epoch)) < last:
        began = time.perf_counter()
        state, value = exp.trainer.epoch(state, exp.train, key)
        row: Row = {"epoch": done + 1, "objective": float(value), "seconds": time.perf_counter() - began}
        row |= measured(exp, state.weights)
        diverged = not_finite(state, row)
        if diverged:
            raise FloatingPointError(
                f"rate: {exp.recipe.rate} is too high, it seems: epoch {done + 1} ended with "
                f"{', '.join(diverged)} not finite (it diverged, or the features of all classes became the "
                "same); try a lower rate, then smaller decays"
            )
        row |= also(state.weights) if also else {}
        history.append(row)
        if say:
            say(line(row))
        ends = done + 1 == last or (deadline is not None and time.monotonic() + _taken(began) > deadline)
        due = ends or (done + 1) % checkpoint_every == 0 or time.monotonic() - saved > KEPT
        if checkpoint is not None and due:
            save(checkpoint, state, history, belongs)
            saved = time.monotonic()
        if ends:
            break
    return state, history


def _taken(began: float) -> float:
    return time.perf_counter() - began


def measured(exp: Experiment, weights: Weights) -> Row:
    """Return the metrics of the training set, and accuracy and cross-entropy of the test set."""
    row = {name: float(a) for name, a in exp.measure(weights, exp.train)._asdict().items()}
    test = exp.measure(weights, exp.test)
    return row | {
        "test_accuracy": float(test.accuracy),
        "test_cross_entropy": float(test.cross_entropy),
        "train_accuracy": row.pop("accuracy"),
    }


def not_finite(state: State, row: Row) -> list[str]:
    """Name what holds a NaN or an infinity: columns of the row, the weights, the optimiser's memory.

    Each can alone: an objective is of the weights before the last step, a ReLU hides a bias of −∞, Adam's
    infinite second moment stops the weights where they are. What a line search says of its last try may be.
    """
    parts = {name: [value] for name, value in row.items()}
    parts |= {"weights": jax.tree.leaves(state.weights)}
    memory = jax.tree_util.tree_leaves_with_path(state.optimiser)
    parts |= {"optimiser": [a for path, a in memory if ".info." not in jax.tree_util.keystr(path)]}
    return [name for name, arrays in parts.items() if not all(np.all(np.isfinite(a)) for a in arrays)]


def identity(exp: Experiment, seed: int) -> Row:
    """Say which run it is, for its checkpoint; reads all images, so once a run is enough."""
    both = (exp.train, exp.test)
    return {
        "design": asdict(exp.net.design),
        "recipe": asdict(exp.recipe),
        "seed": seed,
        "images": list(exp.train.pixels.shape),
        "data": exp.name,
        "training images or labels": digest(exp.train.pixels, exp.train.labels),
        "test images or labels": digest(exp.test.pixels, exp.test.labels),
        "pixel scaling": digest(*(a for images in both for a in (images.mean, images.std))),
    }


def digest(*arrays: Any) -> str:
    """Return a hash of arrays: of their dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for array in map(np.asarray, arrays):
        total.update(f"{array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()[:16]


def line(row: Row) -> str:
    """Format a row for a progress line."""
    return (
        f"epoch {row['epoch']:3d}: objective {row['objective']:.4f}, accuracy {row['train_accuracy']:.4f} "
        f"(test {row['test_accuracy']:.4f}), NC1 {row['nc1']:.2e}, {row['seconds']:.1f} s"
    )
