"""Designs of the last layer and their price: classifier learned or frozen; features of full d, K and K/2.

    python -m experiments.fixed_etf --scale smoke|default|paper [--data-dir DIR]

Zhu et al. 2021, sec. 4.3, for d ≥ K: neural collapse and accuracy, and apart from each other parameters, the
optimiser's state, activations (`networks_cost` says of what) and time of a training step, each with its
change from the first design. All see the same images in the same order for each seed, so accuracies are
compared seed by seed. A last column counts parameters of the same design at ResNet18's full width, which the
paper's 20% is about (`parameter_table`).

For d < K − 1 there is no ETF. At d = K/2 the frozen classifier is the orthoplex, ± each coordinate: its
greatest cosine of two rows, 0, is the least that K unit vectors can have there (Rankin 1955). For d < K/2 the
best code is known for a few (K, d) only (`codes`), and none is frozen. NC2 and NC3 cannot fall to 0 then:
`least_nc2` is how far they can, and the orthoplex's NC2 is that.

Default scale is cut to 20 minutes on two cores: images, pixels and width are few, and 32 epochs end before
the terminal phase. `paper` needs a GPU: ResNet18 at full width, all images, 200 epochs.
"""

import csv
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from tyro.conf import OmitArgPrefixes

from experiments.common import COLOURS, MARKERS, Scale, cli, folder, save
from experiments.networks_common import (
    COLLAPSE,
    EXTRA,
    Source,
    begun,
    built,
    cell,
    curves,
    images,
    spread,
    summary,
    table,
    wrapped,
    write_histories,
)
from experiments.networks_cost import memory, rates, step_times
from experiments.networks_runs import AS_THE_SCALE, Budget, Histories, Training, runs_of, trained_said
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import num_parameters
from ufm_jax.networks.run import Experiment, Row
from ufm_jax.networks.training import Recipe

KEYS = ("train_accuracy", "test_accuracy", *COLLAPSE, "cdnv", "ncc_mismatch")
PRICES = {
    "parameters": "parameters",
    "optimiser_bytes": "optimiser's state",
    "activation_bytes": "activations",
    "temporary_bytes": "memory of a step",
    "step_seconds": "time of a step",
}
TIMED = 0.1  # the most that timing steps may take of a budget


@dataclass(frozen=True)
class Config:
    """Images, the body of the network, training, seeds, and how many images are measured at a time."""

    source: Source = field(default_factory=lambda: Source(per_class=150))
    body: Design = field(default_factory=lambda: Design("resnet18", 10, width=8))
    recipe: Recipe = field(default_factory=lambda: Recipe(rate=0.1, epochs=32, batch=50, drop_every=12))
    seeds: int = 5
    chunk: int = 500
    timed: float = 90.0  # seconds for which steps are timed, all designs together


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=10, test_per_class=5, pool=4, or_digits=True),
        body=Design("mlp", 10, width=16, depth=2),
        recipe=Recipe(epochs=3, batch=20, drop_every=1),
        seeds=2,
        chunk=50,
        timed=1.0,
    ),
    "default": Config(),
    "paper": Config(
        source=Source("fashion-mnist", None, None, pool=1, rgb32=True),
        body=Design("resnet18", 10),
        recipe=Recipe(),
    ),
}


def designs(body: Design) -> dict[str, Design]:
    """Return the six, by name; K is even."""
    K, d = body.num_classes, body.feature_dim
    return {
        f"learned, d = {d}": body,
        f"learned, d = K = {K}": replace(body, dim=K),
        f"learned, d = {K // 2}": replace(body, dim=K // 2),
        f"fixed ETF, d = {d}": replace(body, etf=True),
        f"fixed ETF, d = K = {K}": replace(body, etf=True, dim=K),
        f"fixed orthoplex, d = {K // 2}": replace(body, simplices=True, dim=K // 2),
    }


def least_nc2(num_classes: int, dim: int) -> float:
    """Return the least that NC2 and NC3 can be: √(2 − 2√(d/(K−1))) for d < K − 1, else 0.

    E = (I − J/K)/√(K−1) has K − 1 equal singular values. For ‖A‖_F = 1 of rank d, ‖A − E‖² = 2 − 2⟨A, E⟩ and
    ⟨A, E⟩ ≤ ‖A‖_*/√(K−1) ≤ √(d/(K−1)), with equality where √d A is a projection orthogonal to 1.
    """
    return float(np.sqrt(2.0 - 2.0 * np.sqrt(min(1.0, dim / (num_classes - 1)))))


def prices(exp: Experiment) -> Row:
    """Return what is measured without training, and the parameters at ResNet18's full width."""
    design, recipe = exp.net.design, exp.recipe
    batch = min(recipe.batch, len(exp.train.labels))
    shape = tuple(exp.train.pixels.shape[1:])
    dim = None if design.feature_dim == design.natural_dim else design.dim
    full = Design(
        "resnet18", design.num_classes, dim=dim, etf=design.etf, simplices=design.simplices, stem="imagenet"
    )
    held = memory(exp.net, replace(recipe, batch=batch), shape)
    least = least_nc2(design.num_classes, design.feature_dim)
    return held | {"full_width_parameters": num_parameters(full), "nc2_least": least}


def change(runs: list[list[Row]], first: list[list[Row]]) -> Row:
    """Return what test accuracy gains from the first design: mean and deviation over seeds."""
    ends = zip(runs, first, strict=True)
    return spread(here[-1]["test_accuracy"] - there[-1]["test_accuracy"] for here, there in ends)


def changes(rows: dict[str, Row]) -> None:
    """Add to each row what it saves or costs more than the first, in per cent, as `..._change_percent`."""
    first = next(iter(rows.values()))
    for row in rows.values():
        for key in (*PRICES, "full_width_parameters"):
            row[f"{key}_change_percent"] = 100.0 * (row[key] / first[key] - 1.0)


def results(config: Config, data_dir: Path | None, budget: Budget) -> tuple[dict[str, Row], Histories, str]:
    """Price and train every design; return rows of the table, histories, and what was trained on what."""
    pair = images(config.source, data_dir)
    experiments = {
        name: built(design, config.recipe, pair, config.source.name, config.chunk)
        for name, design in designs(config.body).items()
    }
    budget.afford(experiments)
    seconds = step_times(experiments, min(config.timed, TIMED * budget.left))
    rows = {name: prices(exp) | rates(exp, seconds[name]) for name, exp in experiments.items()}
    changes(rows)
    histories = runs_of(experiments, config.seeds, budget)
    for name, runs in histories.items():
        moved = change(runs, next(iter(histories.values())))
        rows[name] |= summary(runs, KEYS) | {"test_accuracy_change": moved}
        rows[name] |= {"seeds": len(runs), "epochs": [run[-1]["epoch"] for run in runs]}
    said = f"{config.source.said(pair[0].pixels.shape)}, {trained_said(histories, experiments)}"
    return rows, histories, said


def shown(rows: dict[str, Row]) -> str:
    """Format accuracy and collapse: mean ± standard deviation over seeds."""
    heads = ["design", "train acc. (%)", "test acc. (%)", "change (points)", "NC1 first", "NC1 last"]
    lines = [
        [
            name,
            cell(row["train_accuracy"], scale=100),
            cell(row["test_accuracy"], scale=100),
            cell(row["test_accuracy_change"], scale=100),
            cell(row["nc1_first"], -1),
            cell(row["nc1"], -1),
            cell(row["nc2"], -1),
            f"{row['nc2_least']:.3f}",
            cell(row["nc3"], -1),
            cell(row["nc4"], -1),
        ]
        for name, row in rows.items()
    ]
    return table([*heads, "NC2", "least", "NC3", "NC4"], lines)


def priced(rows: dict[str, Row]) -> str:
    """Format prices, each with its change from the first design in per cent."""
    heads = ["design", "parameters", "optimiser (KiB)", "activations (MiB)", "step's memory (MiB)"]
    lines = [
        [name]
        + [
            f"{row[key] * scale:{form}} ({row[f'{key}_change_percent']:+.2f})"
            for key, scale, form in (
                ("parameters", 1, ",d"),
                ("optimiser_bytes", 2.0**-10, ",.1f"),
                ("activation_bytes", 2.0**-20, ".2f"),
                ("temporary_bytes", 2.0**-20, ".2f"),
                ("step_seconds", 1e3, ".1f"),
                ("full_width_parameters", 1, ",d"),
            )
        ]
        for name, row in rows.items()
    ]
    return table([*heads, "step (ms)", "parameters at full width"], lines)


def write_designs(path: Path, rows: dict[str, Row]) -> None:
    """Write a row for each design as CSV; a mean and its deviation are two columns."""
    flat = []
    for name, row in rows.items():
        line: Row = {"design": name}
        for key, value in row.items():
            if isinstance(value, dict):
                line |= {key: value["mean"], f"{key}_sd": value["sd"]}
            elif not isinstance(value, list):
                line[key] = value
        flat.append({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def plot_prices(rows: dict[str, Row], title: str) -> plt.Figure:
    """Draw test accuracy with its spread, and each price's change from the first design; designs downward."""
    panels = ["test_accuracy", *(f"{key}_change_percent" for key in PRICES)]
    figure, axes = plt.subplots(1, len(panels), figsize=(10.4, 2.7), sharey=True)
    at = np.arange(len(rows))
    moves = [row[key] for row in rows.values() for key in panels[1:]]
    room = 0.12 * (max(moves) - min(moves)) or 1.0
    for ax, key, what in zip(axes, panels, ["test accuracy (%)", *PRICES.values()], strict=True):
        for i, row in enumerate(rows.values()):
            look = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 5, "ls": "none"}
            if key == "test_accuracy":
                bar = 100 * (row[key]["sd"] or 0.0)
                ax.errorbar(100 * row[key]["mean"], i, xerr=bar, capsize=3, **look)
            else:
                ax.plot([0, row[key]], [i, i], color=COLOURS[i], lw=1.2)
                ax.plot(row[key], i, **look)
        if key != "test_accuracy":
            ax.axvline(0, color="0.7", lw=0.8, zorder=0)
            ax.set_xlabel("change (%)", fontsize=8)
            ax.set_xlim(min(moves) - room, max(moves) + room)  # one scale: what is small looks small
        ax.set_title(what, fontsize=8.5)
        ax.tick_params(labelsize=7.5)
    axes[0].set_yticks(at, list(rows), fontsize=8)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(wrapped(title, figure), fontsize=9)
    return figure


def main(scale: Scale = "default", training: OmitArgPrefixes[Training] = AS_THE_SCALE) -> None:
    """Price and train the designs, print the tables and draw the curves and prices."""
    budget = Budget(training.budget, training.checkpoints)
    config = begun(SCALES[scale], training)
    rows, histories, what = results(config, training.data_dir, budget)
    print(f"\n{what}; mean ± standard deviation, last epoch\n{shown(rows)}\n")
    print(f"in brackets: change from the first design (%)\n{priced(rows)}\n")
    write_histories(folder(scale) / "fixed_etf.csv", histories)
    write_designs(folder(scale) / "fixed_etf_prices.csv", rows)
    body = f"{config.body.architecture}, width {config.body.width}"
    title = f"Designs of the last layer: {body}, {what}"
    facts: Any = {"config": asdict(config), "images": what, "table": rows}
    save(partial(curves, COLLAPSE | EXTRA, histories, 4, title), "fixed_etf", scale, **facts)
    title = f"What designs of the last layer cost: {body}, {what}, batch {config.recipe.batch}"
    save(partial(plot_prices, rows, title), "fixed_etf_prices", scale, **facts)


if __name__ == "__main__":
    cli(main)
