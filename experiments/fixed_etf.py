"""Four designs of the last layer: classifier learned or frozen as a simplex ETF, features of full d or d = K.

    python -m experiments.fixed_etf --scale smoke|default|paper [--data-dir DIR]

Zhu et al. 2021, sec. 4.3: neural collapse, accuracy and number of parameters, and here the time of a training
step. All four see the same images in the same order for each seed. `paper` needs a GPU: ResNet18 at full
width, all images, 200 epochs.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import Scale, cli, folder, save, set_up
from experiments.networks_common import (
    COLLAPSE,
    EXTRA,
    Budget,
    Source,
    available,
    built,
    cell,
    curves,
    images,
    rates,
    seeds_said,
    summary,
    table,
    trained,
    write_histories,
)
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import num_parameters
from ufm_jax.networks.run import Experiment, Row
from ufm_jax.networks.training import Recipe

KEYS = ("train_accuracy", "test_accuracy", *COLLAPSE, "cdnv", "ncc_mismatch")


@dataclass(frozen=True)
class Config:
    """Images, the body of the network, training, seeds, and how many images are measured at a time."""

    source: Source = field(default_factory=lambda: Source(per_class=150))
    body: Design = field(default_factory=lambda: Design("resnet18", 10, width=8))
    recipe: Recipe = field(default_factory=lambda: Recipe(rate=0.1, epochs=32, batch=50, drop_every=12))
    seeds: int = 3
    chunk: int = 500


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=10, test_per_class=5, pool=4, or_digits=True),
        body=Design("mlp", 10, width=16, depth=2),
        recipe=Recipe(epochs=3, batch=20, drop_every=1),
        seeds=2,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(
        source=Source("fashion-mnist", None, None, pool=1, rgb32=True),
        body=Design("resnet18", 10),
        recipe=Recipe(),
    ),
}


def designs(body: Design) -> dict[str, Design]:
    """Return the four, by name."""
    K, d = body.num_classes, body.feature_dim
    return {
        f"learned, d = {d}": body,
        f"learned, d = K = {K}": replace(body, dim=K),
        f"fixed ETF, d = {d}": replace(body, etf=True),
        f"fixed ETF, d = K = {K}": replace(body, etf=True, dim=K),
    }


def step_times(experiments: dict[str, Experiment], rounds: int = 5) -> dict[str, float]:
    """Return the seconds of a training step, the best epoch of `rounds`; designs take turns, all compiled."""
    best = dict.fromkeys(experiments, np.inf)
    states = {name: exp.trainer.init(0) for name, exp in experiments.items()}
    for _ in range(rounds):
        for name, exp in experiments.items():
            steps = len(exp.train.labels) // min(exp.recipe.batch, len(exp.train.labels))
            began = time.perf_counter()
            states[name], value = exp.trainer.epoch(states[name], exp.train, jax.random.key(0))
            value.block_until_ready()
            best[name] = min(best[name], (time.perf_counter() - began) / steps)
    return best


def results(config: Config, data_dir: Path | None, budget: Budget) -> tuple[Row, dict[str, Any], str]:
    """Train every design from every seed; return rows of the table, histories, and what the images are."""
    pair = images(config.source, data_dir)
    histories, rows, experiments = {}, {}, {}
    for name, design in designs(config.body).items():
        exp = experiments[name] = built(design, config.recipe, pair, config.source.name, config.chunk)
        given: Any = {"checkpoints": budget.checkpoints, "deadline": budget.deadline}
        runs = [trained(exp, seed, name, **given) for seed in budget.seeds(config.seeds)]
        histories[name] = runs
        rows[name] = summary(runs, KEYS)
        rows[name]["parameters"] = num_parameters(design, tuple(pair[0].pixels.shape[1:]))
        rows[name]["epochs"] = [run[-1]["epoch"] for run in runs]
    for name, seconds in step_times(experiments).items():
        rows[name] |= rates(experiments[name], seconds)
    return rows, histories, config.source.said(pair[0].pixels.shape)


def shown(rows: Row) -> str:
    """Format the table: mean ± standard deviation over seeds."""
    heads = ["design", "parameters", "step (ms)", "train acc. (%)", "test acc. (%)", "NC1 first", "NC1 last"]
    lines = [
        [
            name,
            f"{row['parameters']:,}",
            f"{1e3 * row['step_seconds']:.1f}",
            cell(row["train_accuracy"], scale=100),
            cell(row["test_accuracy"], scale=100),
            cell(row["nc1_first"], -1),
            cell(row["nc1"], -1),
            *(cell(row[key], -1) for key in ("nc2", "nc3", "nc4")),
        ]
        for name, row in rows.items()
    ]
    return table([*heads, "NC2", "NC3", "NC4"], lines)


def main(
    scale: Scale = "default",
    data_dir: Path | None = None,
    checkpoints: Path | None = None,
    budget: float | None = None,
) -> None:
    """Train the designs, print the table and draw the curves; `--checkpoints` makes runs resumable.

    `--budget` is in minutes: the same command goes on from its checkpoints.
    """
    set_up()
    config = SCALES[scale]
    config = replace(config, source=available(config.source, data_dir))
    rows, histories, what = results(config, data_dir, Budget(budget, checkpoints))
    print(f"\n{what}; mean ± standard deviation, {seeds_said(config.seeds)}, last epoch\n{shown(rows)}\n")
    write_histories(folder(scale) / "fixed_etf.csv", histories)
    body = f"{config.body.architecture}, width {config.body.width}"
    title = f"Four designs of the last layer: {body}, {what}, {seeds_said(config.seeds)}"
    draw = partial(curves, COLLAPSE | EXTRA, histories, 4, title)
    save(draw, "fixed_etf", scale, config=asdict(config), images=what, table=rows)


if __name__ == "__main__":
    cli(main)
