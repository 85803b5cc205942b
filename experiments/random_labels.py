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
from tyro.conf import OmitArgPrefixes

from experiments.common import COLOURS, Scale, cli, folder, save
from experiments.networks_common import (
    COLLAPSE,
    LINES,
    Source,
    begun,
    built,
    cell,
    images,
    summary,
    table,
    wrapped,
    write_histories,
)
from experiments.networks_runs import AS_THE_SCALE, Budget, Histories, Training, runs_of, trained_said
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


def results(
    config: Config, body: Design, data_dir: Path | None, budget: Budget
) -> tuple[dict[str, Row], Histories, str]:
    """Train at every width on random and on true labels.

    Return summaries by "LABELS, ARCHITECTURE, width WIDTH", histories, and what was trained on what.
    """
    pairs = {
        name: images(replace(config.source, random=name == "random labels"), data_dir)
        for name in ("random labels", "true labels")
    }
    experiments = {}
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
            experiments[named(name, body, width)] = here
    budget.afford(experiments)
    histories = runs_of(experiments, config.seeds, budget)
    rows = {name: summary(runs, (*KEYS, "train_error")) for name, runs in histories.items()}
    shape = pairs["true labels"][0].pixels.shape
    return rows, histories, f"{config.source.said(shape)}, {trained_said(histories, experiments)}"


def epochs_said(histories: Histories) -> str:
    """Say how many epochs all runs did."""
    (first, *_) = histories.values()
    done = len(first[0])
    return f"{done} epoch{'' if done == 1 else 's'}"


def named(labels: str, body: Design, width: int) -> str:
    """Name a run, for its checkpoint, too."""
    return f"{labels}, {body.architecture}, width {width}"


def plot(config: Config, body: Design, rows: dict[str, Row], title: str) -> plt.Figure:
    """Draw mean and deviation of each quantity against width."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(2.5 * len(PANELS), 2.9))
    for ax, (key, label) in zip(axes, PANELS.items(), strict=True):
        for i, name in enumerate(("random labels", "true labels")):
            ends = [rows[named(name, body, width)][key] for width in config.widths]
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


def shown(rows: dict[str, Row]) -> str:
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


def main(scale: Scale = "default", training: OmitArgPrefixes[Training] = AS_THE_SCALE) -> None:
    """Train at every width, print a table and draw a figure for each body."""
    budget = Budget(training.budget, training.checkpoints)
    config = begun(SCALES[scale], training)
    for number, body in enumerate(config.bodies):
        part = budget.part(len(config.bodies) - number)
        rows, histories, what = results(config, body, training.data_dir, part)
        print(f"\n{what}; mean ± standard deviation\n{shown(rows)}\n")
        kind = (
            f"{body.architecture}, {body.depth} hidden layers"
            if body.architecture == "mlp"
            else body.architecture
        )
        title = f"Collapse against width after {epochs_said(histories)}: {kind}, {what}"
        name = "random_labels" if number == 0 else f"random_labels_{body.architecture}"
        write_histories(folder(scale) / f"{name}.csv", histories)
        draw = partial(plot, config, body, rows, title)
        save(draw, name, scale, config=asdict(config), images=what, table=rows)


if __name__ == "__main__":
    cli(main)
