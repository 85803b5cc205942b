"""Collapse that one can see: a small network trained to the global minimum of its last layer's landscape.

    python -m experiments.collapse --scale smoke|default|paper [--data-dir DIR]

The peeled objective (decay of W, b and the features alone: Zhu et al. 2021, sec. 4.2) in full batches, with
decays at which f* is far from 0. A network that is wide enough for its images can then close the gap to f*,
for true labels and for random ones; NC1, the logit gap and the wrong classes' probability are drawn beside
what theory predicts, m* and θ. Features after a ReLU cannot: the simplex has entries of both signs. They come
to the lowest f of non-negative features, where classes are orthogonal (`ReLUFeatures`; Dang et al. 2024).

Decays are given by Kθ, θ = √n √(λ_W λ_H), which alone decides f*, and by λ_W/(n λ_H), which decides how long
features are there: near the length that they start with, the path does not pass the origin, where random
labels wait long.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.common import COLOURS, Scale, cli, folder, save
from experiments.networks_common import LINES, Source, begun, built, images, table, wrapped, write_histories
from experiments.networks_runs import Training, seeds_said
from ufm_jax.models.relu_features import ReLUFeatures
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, theta
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.networks.design import Design
from ufm_jax.networks.measure import Collapse
from ufm_jax.networks.peeled import stand
from ufm_jax.networks.run import Experiment, Row
from ufm_jax.networks.training import Images, Recipe

FALL, CLOSED = 1000.0, 0.01  # what is asked for: of NC1, and of the gap relative to f*


@dataclass(frozen=True)
class Config:
    """Images, network and training; the decays by Kθ and λ_W/(n λ_H), with λ_b = λ_W."""

    source: Source = field(default_factory=lambda: Source(per_class=50))
    design: Design = field(default_factory=lambda: Design("mlp", 10, width=256, depth=3, batch_norm=False))
    rate: float = 1e-3  # of Adam
    steps: int = 1500
    drop_every: int = 1000
    kt: float = 0.1
    ratio: float = 625.0
    seeds: int = 1
    measured: int = 28  # times, at steps evenly spaced on a logarithmic axis
    chunk: int = 500

    @property
    def recipe(self) -> Recipe:
        """Training in full batches, by the peeled objective."""
        n, K = self.source.per_class, self.design.num_classes
        assert n is not None
        theta, tilt = self.kt / K, self.ratio**0.5
        return Recipe(
            optimiser="adam",
            rate=self.rate,
            epochs=self.steps,
            batch=n * K,
            drop_every=self.drop_every,
            form="peeled",
            decay_w=theta * tilt,
            decay_h=theta / tilt / n,
            decay_b=theta * tilt,
        )


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=8, test_per_class=5, pool=4, or_digits=True),
        design=Design("mlp", 10, width=32, depth=2, batch_norm=False),
        steps=60,
        drop_every=40,
        seeds=1,
        measured=6,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(source=Source(per_class=200), steps=8000, drop_every=5000, seeds=5),
}
CASES = {  # random labels, features after a ReLU
    "true labels": (False, False),
    "random labels": (True, False),
    "true labels, features after a ReLU": (False, True),
}


def predicted(config: Config) -> dict[str, float]:
    """Return what theory says: f*, m* and θ, and the lowest f of non-negative features (without a bias)."""
    recipe, n, K = config.recipe, config.source.per_class, config.design.num_classes
    W, H = recipe.decay_w, recipe.decay_h
    sizes: dict[str, Any] = {"num_classes": K, "per_class": n}
    prob = problem(**sizes, dim=config.design.feature_dim, decay_w=W, decay_h=H, decay_b=recipe.decay_b)
    best = balanced_minimum(prob)
    bounded = ReLUFeatures(decay_w=jnp.asarray(W), decay_h=jnp.asarray(H), **sizes)
    return {
        "loss": float(best.loss),
        "logit_gap": float(best.alpha),
        "wrong_probability": float(theta(prob)),
        "relu_loss": float(bounded.known_minimum()),
        "relu_logit_gap": float(bounded.gaps()[0]),
    }


def path(exp: Experiment, config: Config, seed: int, least: dict[str, float], label: str) -> list[Row]:
    """Train from one seed; return a row for each measurement, the first before any step."""
    state, key = exp.trainer.init(seed), jax.random.fold_in(jax.random.key(seed), 1)
    when = set(np.round(np.geomspace(1, config.steps, config.measured)).astype(int).tolist()) | {0}
    rows, began = [], time.perf_counter()
    for step in range(config.steps + 1):
        if step in when:
            row = measured(exp, state.weights, least) | {"step": step}
            rows.append(row | {"seconds": time.perf_counter() - began})
        if step < config.steps:
            state, _ = exp.trainer.epoch(state, exp.train, key)
    print(f"{label}, seed {seed}: {line(rows)}, {time.perf_counter() - began:.0f} s", flush=True)
    return rows


def measured(exp: Experiment, weights: Any, least: dict[str, float]) -> Row:
    """Return collapse, what the landscape says, and the gap to f* over f*."""
    seen, test = (exp.measure(weights, split) for split in (exp.train, exp.test))
    row = {name: float(a) for name, a in seen._asdict().items()} | {"test_accuracy": float(test.accuracy)}
    row |= stand(exp.net, exp.recipe, weights, exp.train)
    row["rel_gap"] = row["loss"] / least["loss"] - 1
    row["rel_relu_gap"] = row["loss"] / least["relu_loss"] - 1
    return row


def line(rows: list[Row]) -> str:
    """Say how far one run came."""
    fall = rows[0]["nc1"] / rows[-1]["nc1"]
    return f"NC1 fell by {fall:.3g} to {rows[-1]['nc1']:.1e}, gap {100 * rows[-1]['rel_gap']:.3g}% of f*"


def results(config: Config, data_dir: Path | None) -> tuple[dict[str, list[list[Row]]], str]:
    """Train every case from every seed; return the histories, and what the images are."""
    least = predicted(config)
    histories = {}
    pairs: dict[bool, tuple[Images, Images]] = {
        random: images(replace(config.source, random=random), data_dir) for random in (False, True)
    }
    for name, (random, rectified) in CASES.items():
        design = replace(config.design, rectified=rectified)
        exp = built(design, config.recipe, pairs[random], config.source.name, config.chunk)
        histories[name] = [path(exp, config, seed, least, name) for seed in range(config.seeds)]
    return histories, config.source.said(pairs[False][0].pixels.shape)


def ends(histories: dict[str, list[list[Row]]]) -> dict[str, list[Row]]:
    """Return how each run ended, and when it first had what is asked for: None where it never did."""

    def first(rows: list[Row], met: Any) -> int | None:
        return next((row["step"] for row in rows if met(row)), None)

    names = (*Collapse._fields, "test_accuracy", "loss", "rel_gap", "rel_relu_gap", "logit_gap", "seconds")
    return {
        name: [
            {key: rows[-1][key] for key in names}
            | {
                "nc1_fall": rows[0]["nc1"] / rows[-1]["nc1"],
                "step_of_fall": first(rows, lambda row, rows=rows: rows[0]["nc1"] >= FALL * row["nc1"]),
                "step_of_gap": first(rows, lambda row: row["rel_gap"] <= CLOSED),
            }
            for rows in runs
        ]
        for name, runs in histories.items()
    }


def shown(rows: dict[str, list[Row]], least: dict[str, float]) -> str:
    """Format a line for each run."""
    heads = ["labels and features", "train", "test", "NC1", "fell by", "1000 at", "gap/f*", "1% at"]
    lines = [
        [
            name,
            f"{row['accuracy']:.3f}",
            f"{row['test_accuracy']:.3f}",
            f"{row['nc1']:.1e}",
            f"{row['nc1_fall']:.2g}",
            str(row["step_of_fall"] or "-"),
            f"{row['rel_gap']:.1e}",
            str(row["step_of_gap"] or "-"),
            f"{row['rel_relu_gap']:+.1e}",
            f"{row['logit_gap']:.4f}",
        ]
        for name, runs in rows.items()
        for row in runs
    ]
    said = f"f* = {least['loss']:.6f}, m* = {least['logit_gap']:.4f}, θ = {least['wrong_probability']:.4g}; "
    relu = f"with H >= 0: f* = {least['relu_loss']:.6f}, m* = {least['relu_logit_gap']:.4f}"
    return f"{said}{relu}\n{table([*heads, 'of H >= 0', 'logit gap'], lines)}"


PANELS = {
    "nc1": "NC1: tr$(\\Sigma_W \\Sigma_B^\\dagger)/K$",
    "rel_gap": "$(f - f^*)/f^*$",
    "logit_gap": "logit gap",
    "wrong_probability": "wrong softmax",
    "nc2": "NC2: $WW^T$ to ETF",
    "cdnv": "CDNV",
}


def plot(histories: dict[str, list[list[Row]]], least: dict[str, float], title: str) -> plt.Figure:
    """Draw each quantity against steps, theory's value as a black line."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4))
    for ax, (key, what) in zip(axes.flat, PANELS.items(), strict=True):
        for i, (name, runs) in enumerate(histories.items()):
            for number, rows in enumerate(runs):
                label = name if number == 0 and ax is axes.flat[0] else None
                steps, values = (np.array([row[k] for row in rows]) for k in ("step", key))
                ax.plot(steps, values, LINES[i], color=COLOURS[i], lw=1.2, alpha=0.85, label=label)
        ax.set(xscale="symlog", yscale="linear" if key == "logit_gap" else "log", xlabel="step", ylabel=what)
        ax.set_xlim(0, None)
    gap, logit, wrong = axes.flat[1:4]
    marks = {"lw": 0.9, "color": "0.2"}
    gap.axhline(CLOSED, ls=":", **marks)
    gap.axhline(least["relu_loss"] / least["loss"] - 1, ls="--", **marks)
    gap.annotate("1%", (1, CLOSED), (2, 2), textcoords="offset points", fontsize=7, va="bottom")
    above = least["relu_loss"] / least["loss"] - 1
    gap.annotate("lowest with $H \\geq 0$", (1, above), (2, 2), textcoords="offset points", fontsize=7)
    logit.axhline(least["logit_gap"], ls=":", **marks)
    logit.annotate("$m^*$", (1, least["logit_gap"]), (2, 2), textcoords="offset points", fontsize=8)
    wrong.axhline(least["wrong_probability"], ls=":", **marks)
    wrong.annotate(
        "$\\theta$", (1, least["wrong_probability"]), (2, 2), textcoords="offset points", fontsize=8
    )
    figure.legend(loc="outside lower center", ncols=3, handlelength=3)
    figure.suptitle(wrapped(title, figure), fontsize=9)
    return figure


def main(scale: Scale = "default", data_dir: Path | None = None) -> None:
    """Train, print how far each run came, and draw the paths."""
    config = begun(SCALES[scale], Training(data_dir))
    least = predicted(config)
    histories, what = results(config, data_dir)
    found = ends(histories)
    print(f"\n{what}; {config.steps} full-batch steps, {seeds_said(config.seeds)}\n{shown(found, least)}\n")
    write_histories(folder(scale) / "collapse.csv", histories)
    body = f"{config.design.architecture}, {config.design.depth} layers of {config.design.width}"
    title = f"Training to the global minimum of the peeled objective: {body}, {what}, Kθ = {config.kt:g}"
    facts = {"config": asdict(config), "recipe": asdict(config.recipe), "images": what}
    save(partial(plot, histories, least, title), "collapse", scale, **facts, predicted=least, table=found)


if __name__ == "__main__":
    cli(main)
