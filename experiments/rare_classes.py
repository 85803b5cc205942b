"""Rare classes: four classifiers on imbalanced images, minority collapse seen beside predicted.

    python -m experiments.rare_classes --scale smoke|default|paper [--data-dir DIR]

Half of the classes have `ratio` times the images of the others. The classifier is learned with cross-entropy,
with class-balanced weights or with logits adjusted by log-priors, or it is frozen as a simplex ETF; all by
the peeled objective, in full batches, with features of either sign. At √(λ_W λ_H) ≥ ω √n_c/N, ω the weight of
a rare sample, the rare classes share one row of W at every global minimum (Hong & Ling 2023 for ω = 1,
`merged_groups`: offsets that the rare classes share do not matter to what tells them apart). The prediction
is the point where a descent on class means ends, certified by its duality gap.

The rare rows are compared by their distance over the length of a frequent row. Their cosine says nothing
where they vanish: with logits adjusted, at ratio 100, they are 0 at the minimum, since the offsets alone say
how rare a class is; training leaves them at less than a hundredth of a frequent row's length and still
shrinking with more steps, at any angle.
"""

import csv
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.common import COLOURS, Scale, cli, folder, save
from experiments.networks_common import Source, begun, built, cell, spread, table, wrapped
from experiments.networks_runs import Training, seeds_said
from ufm_jax.landscape.search import Newton, search
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.reduction import reduced
from ufm_jax.models.unconstrained.starts import gaussian
from ufm_jax.models.unconstrained.unequal_classes import merged_groups
from ufm_jax.models.unconstrained.unequal_losses import class_balanced, logit_adjusted
from ufm_jax.networks.data import Split, load, pooled, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import last_layer
from ufm_jax.networks.run import Experiment, Row
from ufm_jax.networks.training import Images, Recipe, on_device, standardise

VANISHED = 1e-6  # share of a frequent row's length: searches stop nearer to 0 than that, training does not
CLASSIFIERS = ("learned", "class-balanced", "logit-adjusted", "fixed ETF")


@dataclass(frozen=True)
class Config:
    """Images a frequent class, how many times fewer a rare one has, the network, and s = √(λ_W λ_H)."""

    source: Source = field(default_factory=lambda: Source(per_class=100))
    ratios: tuple[int, ...] = (10, 100)
    design: Design = field(
        default_factory=lambda: Design("mlp", 10, width=128, depth=3, batch_norm=False, rectified=False)
    )
    rate: float = 1e-3  # of Adam
    steps: int = 3200
    drop_every: int = 2000
    strength: float = 3e-3  # above √n_c/N of the rare classes at ratio 100 and below at 10
    seeds: int = 5
    chunk: int = 500

    def counts(self, ratio: int) -> list[int]:
        """Return the images of each class: the first half is frequent."""
        most, K = self.source.per_class or 0, self.design.num_classes
        return [most] * (K - K // 2) + [max(1, most // ratio)] * (K // 2)

    def recipe(self, counts: list[int], classifier: str) -> Recipe:
        """Return full-batch training with the decays of this strength, features of about unit entries."""
        tilt = 25.0 * (sum(counts) / len(counts)) ** 0.5
        loss = loss_of(classifier, counts)
        return Recipe(
            optimiser="adam",
            rate=self.rate,
            epochs=self.steps,
            batch=sum(counts),
            drop_every=self.drop_every,
            form="peeled",
            decay_w=self.strength * tilt,
            decay_h=self.strength / tilt,
            decay_b=self.strength * tilt,
            class_weights=None if loss.class_weights is None else tuple(loss.class_weights),
            offsets=None if loss.offsets is None else tuple(loss.offsets),
        )


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=10, test_per_class=5, pool=4, or_digits=True),
        ratios=(10,),
        design=Design("mlp", 10, width=16, depth=2, batch_norm=False, rectified=False),
        steps=10,
        drop_every=8,
        seeds=2,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(
        source=Source(per_class=5000, test_per_class=None), steps=4000, drop_every=2500, strength=4e-4
    ),
}


def loss_of(classifier: str, counts: list[int]) -> CrossEntropy:
    """Return the loss that a classifier is trained by."""
    made = {"class-balanced": class_balanced, "logit-adjusted": logit_adjusted}
    return made[classifier](counts) if classifier in made else CrossEntropy()


def drawn(split: Split, counts: list[int], seed: int = 0) -> Split:
    """Return so many random images of each class, in random order."""
    rng = np.random.default_rng(seed)
    each = [rng.permutation(np.flatnonzero(split.labels == k))[:n] for k, n in enumerate(counts)]
    order = rng.permutation(np.concatenate(each))
    return Split(split.images[order], split.labels[order])


def pair(config: Config, counts: list[int], data_dir: Path | None) -> tuple[Images, Images]:
    """Load, cut down and put on the device: training images of these counts, and balanced test images."""
    data = load(config.source.name, data_dir)
    train, test = drawn(data.train, counts), data.test
    if config.source.test_per_class:
        test = stratified(test, config.source.test_per_class)
    small = lambda split: pooled(split, config.source.pool) if config.source.pool > 1 else split
    return on_device(small(train)), on_device(small(test), small(train))


def predicted(config: Config, counts: list[int], classifier: str) -> dict[str, Any]:
    """Return what theory says of the rare classes' rows of W at the global minimum: see `rare_rows`."""
    if classifier == "fixed ETF":
        return rare_rows(simplex_etf(len(counts), len(counts)), counts) | {"certified": True, "merged": False}
    recipe, loss = config.recipe(counts, "learned"), loss_of(classifier, counts)
    prob = problem(
        counts=counts,
        dim=config.design.feature_dim,
        decay_w=recipe.decay_w,
        decay_h=recipe.decay_h,
        decay_b=recipe.decay_b,
        loss=loss,
    )
    small = reduced(prob)
    x = search(small, gaussian(small, jax.random.key(0)), Newton()).x
    point = small.evaluate(x)
    gap = float(point.value - small.lower_bound(x))
    found = rare_rows(np.asarray(x.W), counts)
    found |= {"certified": gap <= 1e-8 * float(point.value), "loss": float(point.value)}
    weight = 1.0 if loss.class_weights is None else loss.class_weights[-1]
    return found | {"merged": min(counts) in merged_groups(counts, float(prob.strength) / weight)}


def rare_rows(W: np.ndarray, counts: list[int]) -> Row:
    """Return how long and how far apart the rare classes' rows of W are, over the frequent ones' mean length.

    `length` is their mean length; `apart` the greatest distance between two, 0 where they are one, at 0 or
    elsewhere; `cosine` the least between two, None where a row is 0 and has no direction.
    """
    lengths, few = np.linalg.norm(W, axis=1), np.array(counts) == min(counts)
    unit = float(np.mean(lengths[~few]))
    rare = W[few] / unit
    apart = float(np.max(np.linalg.norm(rare[:, None] - rare[None], axis=2)))
    found: Row = {"cosine": None, "length": float(np.mean(lengths[few])) / unit, "apart": apart}
    if np.min(lengths[few]) > VANISHED * unit:
        found["cosine"] = float(np.min(rare @ rare.T / np.outer(lengths[few], lengths[few]) * unit**2))
    return found


def trained(exp: Experiment, config: Config, counts: list[int], seed: int) -> Row:
    """Train from one seed; return accuracies of the test images and where the rare rows are."""
    state, key = exp.trainer.init(seed), jax.random.fold_in(jax.random.key(seed), 1)
    for _ in range(config.steps):
        state, value = exp.trainer.epoch(state, exp.train, key)
    right = _right(exp, state.weights, exp.test)
    rare = np.isin(np.asarray(exp.test.labels), np.flatnonzero(np.array(counts) == min(counts)))
    W = np.asarray(last_layer(state.weights)[0], np.float64)
    return {
        "objective": float(value),
        "train_accuracy": float(np.mean(_right(exp, state.weights, exp.train))),
        "test_accuracy": float(np.mean(right)),
        "rare_accuracy": float(np.mean(right[rare])),
        "frequent_accuracy": float(np.mean(right[~rare])),
        **rare_rows(W, counts),
    }


def _right(exp: Experiment, weights: Any, images: Images) -> np.ndarray:
    """Say of each image whether its own logit is the largest; without what was added in training."""
    logits = exp.net.apply(weights, standardise(images.pixels, images), False)[1]
    return np.asarray(jnp.argmax(logits, axis=1)) == np.asarray(images.labels)


def results(config: Config, data_dir: Path | None) -> list[Row]:
    """Return a row for each ratio, classifier and seed."""
    rows = []
    for ratio in config.ratios:
        counts = config.counts(ratio)
        images = pair(config, counts, data_dir)
        for classifier in CLASSIFIERS:
            design = replace(config.design, etf=classifier == "fixed ETF")
            recipe = config.recipe(counts, classifier)
            exp = built(design, recipe, images, config.source.name, config.chunk)
            said = predicted(config, counts, classifier)
            for seed in range(config.seeds):
                row = trained(exp, config, counts, seed)
                named = {"ratio": ratio, "classifier": classifier, "seed": seed}
                rows.append(named | row | {f"predicted_{name}": value for name, value in said.items()})
            print(f"ratio {ratio}, {classifier}: rare accuracy {rows[-1]['rare_accuracy']:.3f}", flush=True)
    return rows


def groups(rows: list[Row]) -> dict[tuple[int, str], list[Row]]:
    """Return the rows of each ratio and classifier."""
    found: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["ratio"], row["classifier"]), []).append(row)
    return found


KEYS = ("train_accuracy", "test_accuracy", "frequent_accuracy", "rare_accuracy")
SHAPE = ("length", "apart", "cosine")  # of the rare rows, seen beside predicted


def beside(runs: list[Row], key: str) -> tuple[str, str]:
    """Format what was seen of the rare rows, and what is at the minimum; "-": of rows that are 0."""
    said = runs[0][f"predicted_{key}"]
    seen = [row[key] for row in runs if row[key] is not None]
    theory = "-" if said is None else f"{said:.3f}"
    return cell(spread(seen), 3) if seen else "-", theory + (
        "" if runs[0]["predicted_certified"] else " (open)"
    )


def shown(rows: list[Row]) -> str:
    """Format mean ± deviation over seeds."""
    heads = [
        "ratio",
        "classifier",
        "train (%)",
        "test (%)",
        "frequent (%)",
        "rare (%)",
        *(f"{name}{ending}" for name in SHAPE for ending in ("", " at f*")),
    ]
    lines = [
        [
            str(ratio),
            classifier,
            *(cell(spread(row[key] for row in runs), 1, scale=100) for key in KEYS),
            *(text for key in SHAPE for text in beside(runs, key)),
        ]
        for (ratio, classifier), runs in groups(rows).items()
    ]
    return table(heads, lines)


def plot(config: Config, rows: list[Row], title: str) -> plt.Figure:
    """Draw accuracy on rare and frequent classes, and how far apart rare rows are, seen and predicted."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.3))
    found, width = groups(rows), 0.8 / len(config.ratios)
    panels = {
        "rare_accuracy": "test accuracy, rare classes",
        "frequent_accuracy": "test accuracy, frequent classes",
        "apart": "rare rows of W: distance / frequent length",
    }
    for ax, (key, what) in zip(axes, panels.items(), strict=True):
        for i, ratio in enumerate(config.ratios):
            at = np.arange(len(CLASSIFIERS)) + (i - (len(config.ratios) - 1) / 2) * width
            ends = [spread(row[key] for row in found[ratio, name]) for name in CLASSIFIERS]
            mean, sd = (np.array([end[k] or 0.0 for end in ends]) for k in ("mean", "sd"))
            label = f"{ratio} times fewer" if ax is axes[0] else None
            ax.bar(at, mean, 0.9 * width, yerr=sd, color=COLOURS[i], alpha=0.8, capsize=2, label=label)
            if key == "apart":
                theory = [found[ratio, name][0]["predicted_apart"] for name in CLASSIFIERS]
                said = "predicted" if i == 0 else None
                look = {"color": "0.1", "clip_on": False, "zorder": 5}  # 0 is on the axis
                ax.plot(at, theory, "_", ms=13, mew=2.2, label=said, **look)
        ax.set_xticks(
            range(len(CLASSIFIERS)), [name.replace("-", "-\n").replace(" ", "\n") for name in CLASSIFIERS]
        )
        ax.tick_params(axis="x", labelsize=7.5)
        ax.set_ylabel(what, fontsize=8)
    figure.legend(loc="outside lower center", ncols=3)
    figure.suptitle(wrapped(title, figure), fontsize=9)
    return figure


def main(scale: Scale = "default", data_dir: Path | None = None) -> None:
    """Train every classifier at every ratio, print the table and draw it."""
    config = begun(SCALES[scale], Training(data_dir))
    rows = results(config, data_dir)
    print(f"\nmean ± standard deviation, {seeds_said(config.seeds)}\n{shown(rows)}\n")
    with (folder(scale) / "rare_classes.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    name, counts = config.source.name, config.counts(config.ratios[0])
    title = f"Rare classes of {name}, {counts[0]} images a frequent one, {seeds_said(config.seeds)}"
    save(partial(plot, config, rows, title), "rare_classes", scale, config=asdict(config), rows=rows)


if __name__ == "__main__":
    cli(main)
