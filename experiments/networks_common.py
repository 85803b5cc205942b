"""What the experiments with networks share: images, tables, curves."""

import csv
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import COLOURS, set_up
from experiments.networks_runs import Config, Histories, Training
from ufm_jax.networks.data import Dataset, as_rgb32, load, pooled, prepared, random_labels, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import network
from ufm_jax.networks.run import Experiment, Row, experiment
from ufm_jax.networks.training import Images, Recipe, on_device

ROUNDING = 1e-12  # NC2 of a frozen ETF, say
LINES = ("-", "--", "-.", ":")
COLLAPSE = {
    "nc1": "NC1: tr$(\\Sigma_W \\Sigma_B^\\dagger)/K$",
    "nc2": "NC2: $WW^T$ to ETF",
    "nc3": "NC3: $W\\bar{H}$ to ETF",
    "nc4": "NC4: $\\|W h_G + b\\|_2$",
}
EXTRA = {
    "cdnv": "CDNV",
    "ncc_mismatch": "nearest-centre mismatch",
    "train_error": "training error (share)",
    "test_error": "test error (share)",
}
LANDSCAPE = {
    "dual_gap": "duality gap (nats)",
    "grad_norm": "$\\|\\nabla f\\|_2$",
    "curvature_left": "$-v^T \\nabla^2 f v$, $\\|v\\|=1$",
    "gap_distance": "|logit gap $- m^*$|",
    "probability_distance": "|wrong softmax $- \\theta$|",
}


@dataclass(frozen=True)
class Source:
    """Which images: a stratified subset, averaged over pool x pool pixels, or padded to 3 x 32 x 32."""

    name: str = "fashion-mnist"
    per_class: int | None = 200  # None: all
    test_per_class: int | None = 100
    pool: int = 2
    rgb32: bool = False
    random: bool = False  # labels of the training set permuted
    or_digits: bool = False  # scikit-learn's digits where the files cannot be had; for trials

    def said(self, shape: tuple[int, ...]) -> str:
        """Describe the images of the training set for a figure's title."""
        n, h, w, _ = shape
        words = "a stratified subset of " if self.per_class else ""
        return f"{n:,} images, {words}{self.name}, {h} × {w} pixels"


def available(source: Source, data_dir: Path | None = None) -> Source:
    """Return the source, or where it allows that the digits in its place, saying why.

    Raises:
        ValueError: saying which file to put where, if the data cannot be had.
    """
    try:
        load(source.name, data_dir)
    except ValueError as error:
        if not source.or_digits:
            raise
        print(f"{error}\nthe digits of scikit-learn serve instead", flush=True)
        return replace(source, name="digits", pool=1)
    return source


def begun(config: Config, training: Training) -> Config:
    """Set up, and return the record as the flags say, with a `source` that can be had: see `available`."""
    set_up()
    given: Any = training.applied_to(config)
    return replace(given, source=available(given.source, training.data_dir))


def images(source: Source, data_dir: Path | None = None) -> tuple[Images, Images]:
    """Load, cut down and put on the device: training and test images.

    Raises:
        ValueError: saying which file to put where, if the data cannot be had.
    """
    data = load(source.name, data_dir)
    if source.per_class:
        data = data._replace(train=stratified(data.train, source.per_class))
    if source.test_per_class:
        data = data._replace(test=stratified(data.test, source.test_per_class))
    if source.pool > 1:
        data = prepared(data, lambda split: pooled(split, source.pool))
    if source.rgb32:
        data = prepared(data, as_rgb32)
    return labelled(data, source.random)


def labelled(data: Dataset, random: bool) -> tuple[Images, Images]:
    """Put both splits on the device, the training labels permuted if `random`."""
    train = random_labels(data.train) if random else data.train
    return on_device(train), on_device(data.test, data.train)


def built(design: Design, recipe: Recipe, pair: tuple[Images, Images], name: str, chunk: int) -> Experiment:
    """Build a run on these images."""
    return experiment(network(design, pair[0].pixels.shape[1:]), recipe, *pair, chunk=chunk, name=name)


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Return mean and standard deviation over seeds (n − 1 in the denominator; None for one seed)."""
    array = np.array(list(values))
    deviation = float(array.std(ddof=1)) if array.size > 1 else None
    return {"mean": float(array.mean()), "sd": deviation}


def summary(runs: list[list[Row]], keys: Iterable[str]) -> Row:
    """Return, of several seeds, mean and deviation of each key at the last epoch, and NC1's fall."""
    ends = {key: spread(rows[-1][key] for rows in runs) for key in keys}
    falls = [rows[0]["nc1"] / rows[-1]["nc1"] for rows in runs]
    return ends | {"nc1_first": spread(rows[0]["nc1"] for rows in runs), "nc1_fall_least": min(falls)}


def cell(value: dict[str, float | None], digits: int = 2, scale: float = 1.0) -> str:
    """Format mean ± deviation."""
    mean, sd = value["mean"], value["sd"]
    assert mean is not None
    if digits < 0:  # in powers of ten
        return f"{mean * scale:.1e}" + ("" if sd is None else f" ± {sd * scale:.0e}")
    return f"{mean * scale:.{digits}f}" + ("" if sd is None else f" ± {sd * scale:.{digits}f}")


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Align a table in columns."""
    widths = [max(len(row[i]) for row in [heads, *lines]) for i in range(len(heads))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [heads, *lines]
    )


def curves(panels: dict[str, str], groups: Histories, columns: int, title: str) -> plt.Figure:
    """Draw each quantity against epochs: a colour and style for each group, see `draw`."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 1.9 * rows + 1.0))
    for ax, (key, label) in zip(axes.flat, panels.items(), strict=False):
        for i, (name, runs) in enumerate(groups.items()):
            draw(ax, runs, key, i, name if ax is axes.flat[0] else None)
        ax.set(yscale="log", xlabel="epoch")
        ax.set_ylabel(label, fontsize=8)
        ax.tick_params(labelsize=7, which="both")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    figure.legend(loc="outside lower center", ncols=3 if len(groups) > 4 else 2, handlelength=3)
    figure.suptitle(wrapped(title, figure), fontsize=9)
    return figure


def wrapped(title: str, figure: plt.Figure) -> str:
    """Break a title of size 9 into lines that fit the figure's width."""
    return textwrap.fill(title, int(13 * figure.get_figwidth()))


def write_histories(path: Path, groups: Histories) -> None:
    """Write every epoch of every run as CSV: group, seed, and the columns of a row."""
    rows = [
        {"group": name, "seed": seed} | row
        for name, runs in groups.items()
        for seed, history in enumerate(runs)
        for row in history
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def draw(ax: plt.Axes, runs: list[list[Row]], key: str, number: int, name: str | None) -> None:
    """Draw the median over seeds, and a band from the least to the greatest, as far as all of them came.

    Zero, rounding of zero and NaN have no place on a logarithmic axis.
    """
    length = min(map(len, runs))
    x = np.array([row["epoch"] for row in runs[0][:length]])
    y = np.array([[row.get(key, np.nan) for row in rows[:length]] for rows in runs])
    middle = np.median(y, axis=0)
    there = np.where(np.isfinite(y) & (y > ROUNDING), y, np.nan)
    seen = np.isfinite(middle) & (middle > ROUNDING)
    if seen.any():
        band = np.nanmin(there[:, seen], axis=0), np.nanmax(there[:, seen], axis=0)
        ax.fill_between(x[seen], *band, color=COLOURS[number], alpha=0.15, lw=0)
    ax.plot(x[seen], middle[seen], LINES[number % 4], color=COLOURS[number], lw=1.3, label=name)


def plain(groups: Histories, keys: Iterable[str]) -> dict[str, Any]:
    """Return the last rows of each run for a sidecar, NaN as None."""
    keep: Callable[[Any], Any] = lambda v: None if isinstance(v, float) and not np.isfinite(v) else v
    return {
        name: [{k: keep(rows[-1][k]) for k in keys if k in rows[-1]} for rows in runs]
        for name, runs in groups.items()
    }
