"""Neural collapse against width where labels are random: a permutation of the true ones, classes balanced.

    python -m experiments.random_labels --scale smoke|default|paper [--data-dir DIR]

Zhu et al. 2021, sec. 4.2: a network wide enough fits random labels, and then collapses as it does on true
ones, so the collapse is not a matter of the data. True labels of the same images are drawn beside. `paper`
needs a GPU: six hidden layers, or ResNet18, on all images.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from experiments.common import COLOURS, Scale, cli, save
from experiments.networks_common import (
    COLLAPSE,
    LINES,
    Budget,
    Source,
    begun,
    built,
    cell,
    images,
    seeds_of,
    seeds_said,
    summary,
    table,
    wrapped,
)
from ufm_jax.networks.design import Design
from ufm_jax.networks.run import Row
from ufm_jax.networks.training import Recipe

KEYS = ("train_accuracy", "test_accuracy", *COLLAPSE)
PANELS = COLLAPSE | {"train_error": "training error (share)"}


@dataclass(frozen=True)
class Config:
    """Images, bodies whose width is varied, widths, training, seeds."""

    source: Source = field(default_factory=lambda: Source(per_class=100))
    bodies: tuple[Design, ...] = (Design("mlp", 10, depth=4),)
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    recipe: Recipe = field(
        default_factory=lambda: Recipe(rate=0.05, decay=5e-4, epochs=120, batch=50, drop_every=40)
    )
    seeds: int = 3
    chunk: int = 500


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=10, test_per_class=5, pool=4, or_digits=True),
        bodies=(Design("mlp", 10, depth=2),),
        widths=(8, 16),
        recipe=Recipe(epochs=3, batch=20),
        seeds=1,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(
        source=Source("fashion-mnist", None, None, pool=1, rgb32=True),
        bodies=(Design("mlp", 10, depth=6), Design("resnet18", 10)),
        widths=(8, 16, 32, 64, 128, 256, 512),
        recipe=Recipe(rate=0.01, decay=1e-4),
        seeds=1,
    ),
}


def results(config: Config, body: Design, data_dir: Path | None, budget: Budget) -> dict[str, Row]:
    """Train at every width on random and on true labels; return summaries by "LABELS, width WIDTH"."""
    pairs = {
        name: images(replace(config.source, random=name == "random labels"), data_dir)
        for name in ("random labels", "true labels")
    }
    rows = {}
    for width in config.widths:
        exp = built(
            replace(body, width=width),
            config.recipe,
            pairs["random labels"],
            config.source.name,
            config.chunk,
        )
        for name, (train, test) in pairs.items():  # the same compiled functions serve both
            here = exp._replace(train=train, test=test, name=f"{config.source.name}, {name}")
            label = f"{name}, {body.architecture}, width {width}"
            runs = seeds_of(here, config.seeds, label, budget)
            rows[f"{name}, width {width}"] = summary(runs, (*KEYS, "train_error"))
    return rows


def plot(config: Config, rows: dict[str, Row], title: str) -> plt.Figure:
    """Draw mean and deviation of each quantity against width."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(2.5 * len(PANELS), 2.9))
    for ax, (key, label) in zip(axes, PANELS.items(), strict=True):
        for i, name in enumerate(("random labels", "true labels")):
            ends = [rows[f"{name}, width {width}"][key] for width in config.widths]
            mean, sd = (np.array([end[k] or 0.0 for end in ends]) for k in ("mean", "sd"))
            seen = mean >= 0 if key == "train_error" else mean > 0
            ax.errorbar(
                np.array(config.widths)[seen],
                mean[seen],
                np.minimum(sd, 0.99 * mean)[seen],  # a bar's foot at zero has no place on a logarithmic axis
                color=COLOURS[i],
                ls=LINES[i],
                marker="os"[i],
                ms=3.5,
                capsize=2,
                label=name if ax is axes[0] else None,
            )
        scale = "linear" if key == "train_error" else "log"  # errors of wide networks are zero
        ax.set(xscale="log", yscale=scale, xlabel="width (units)", ylabel=label)
        ax.set_xticks(config.widths, [str(w) for w in config.widths], fontsize=7)
        ax.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=2, handlelength=3)
    figure.suptitle(wrapped(title, figure), fontsize=9)
    return figure


def shown(config: Config, rows: dict[str, Row]) -> str:
    """Format mean ± deviation over seeds at the last epoch."""
    lines = [
        [
            name,
            cell(row["train_accuracy"], scale=100),
            cell(row["nc1_first"], -1),
            *(cell(row[key], -1) for key in COLLAPSE),
        ]
        for name, row in rows.items()
    ]
    return table(["labels", "train acc. (%)", "NC1 first", "NC1", "NC2", "NC3", "NC4"], lines)


def main(
    scale: Scale = "default",
    data_dir: Path | None = None,
    checkpoints: Path | None = None,
    budget: float | None = None,
) -> None:
    """Train at every width, print a table and draw a figure for each body.

    `--budget` is in minutes: the same command goes on from its checkpoints.
    """
    config, limit = begun(SCALES[scale], data_dir), Budget(budget, checkpoints)
    for number, body in enumerate(config.bodies):
        rows = results(config, body, data_dir, limit)
        said = images(config.source, data_dir)[0].pixels.shape
        what = config.source.said(said)
        print(f"\n{what}; mean ± standard deviation, {seeds_said(config.seeds)}\n{shown(config, rows)}\n")
        kind = (
            f"{body.architecture}, {body.depth} hidden layers"
            if body.architecture == "mlp"
            else body.architecture
        )
        epochs = config.recipe.epochs
        title = f"Collapse against width after {epochs} epochs: {kind}, {what}, {seeds_said(config.seeds)}"
        name = "random_labels" if number == 0 else f"random_labels_{body.architecture}"
        draw = partial(plot, config, rows, title)
        save(draw, name, scale, config=asdict(config), images=what, table=rows)


if __name__ == "__main__":
    cli(main)
