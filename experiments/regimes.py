"""The regimes after the paper on one page: what theory predicts as lines, what blind descents find as points.

    python -m experiments.regimes --scale smoke|default|paper

Each panel is a grid of settings of one landscape (docs/regimes.md), with descents at each: unit norms against
the temperature, non-negative features and linear layers against the decay, merging classes against
√(λ_W λ_H), the classifier's cosines as decays vanish, and what weighted squared loss fits of each class.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up
from ufm_jax.landscape.grid import at_setting

LOG = "log"
HIGH = 1.5  # f over that of the simplex, beyond which a descent has fallen to the origin


@dataclass(frozen=True)
class Config:
    """Descents at each setting, and how many settings a panel has."""

    starts: int
    settings: int


SCALES: dict[Scale, Config] = {"smoke": Config(4, 3), "default": Config(24, 9), "paper": Config(200, 25)}


@dataclass(frozen=True)
class Panel:
    """One regime: predicted lines by name over `x`, and found points."""

    title: str
    x_name: str
    y_name: str
    x: np.ndarray
    lines: dict[str, np.ndarray]
    points: dict[str, np.ndarray]  # x and y, by the line that they belong to, or as "found"
    marks: dict[str, float]  # thresholds on the x axis
    scale: tuple[str, str] = (LOG, LOG)

    @property
    def furthest(self) -> float:
        """Return how far a point is from the nearest line at its x, at most."""
        x, y = np.concatenate(list(self.points.values()), axis=1)
        values = np.stack(list(self.lines.values()))[:, np.searchsorted(self.x, x)]
        return float(np.nanmax(np.nanmin(np.abs(values - y), axis=0)))


def unit_norms(config: Config) -> Panel:
    """K = 4 in three dimensions and in the plane, against the temperature."""
    x, lines, found = np.linspace(0.5, 8.0, config.settings), {}, {}
    for dim, name in ((3, "simplex, d = 3"), (2, "orthoplex, d = 2")):
        landscape = ufm.UnitNorm(temperature=jnp.asarray(1.0), num_classes=4, dim=dim)
        grid = ufm.grid(landscape, temperature=x)
        said = [ufm.predict(at_setting(grid, i)) for i in range(len(x))]
        lines[name] = np.array([one["loss"] or min(one["critical_values"].values()) for one in said])
        found[name] = _losses(grid, "temperature", config)
    return Panel("unit norms, K = 4", "temperature τ", "f", x, lines, found, {}, ("linear", LOG))


def relu_features(config: Config) -> Panel:
    """Three classes that live or are dead, against the decay."""
    landscape = ufm.ReLUFeatures(decay_w=jnp.asarray(0.01), decay_h=jnp.asarray(0.02), counts=(4, 2, 1))
    return _levels(
        "H ≥ 0, counts 4, 2, 1",
        landscape,
        "decay_w",
        np.geomspace(1e-3, 0.8, config.settings),
        config,
        8,
        _dying(landscape),
    )


def _dying(landscape: ufm.ReLUFeatures) -> dict[str, float]:
    """Return the λ_W at which each class dies."""
    strengths = ufm.predict(landscape)["dying_strengths"]
    pairs = zip(landscape.counts, strengths, strict=True)
    return {f"n = {n} dies": s**2 / float(landscape.decay_h) for n, s in pairs}


def deep_linear(config: Config) -> Panel:
    """Three linear layers: simplex against pairs, against the decay."""
    landscape = ufm.DeepLinear(decay=jnp.asarray(1e-3), num_classes=4, num_layers=3)
    x = np.geomspace(1e-4, 3e-2, config.settings)
    panel = _levels("three linear layers, K = 4", landscape, "decay", x, config, 2, {})
    simplex, (at, y) = panel.lines["simplex(4)"], panel.points["found"]
    lines = {name: line / simplex for name, line in panel.lines.items()}
    relative = y / simplex[np.searchsorted(x, at)]
    kept = relative < HIGH  # descents that fell to the origin are far above
    points = {"found": np.stack([at, relative])[:, kept]}
    return replace(panel, y_name="f / f of the simplex", lines=lines, points=points, scale=(LOG, "linear"))


def _levels(
    title: str,
    landscape: ufm.Landscape,
    field: str,
    x: np.ndarray,
    config: Config,
    most: int,
    marks: dict[str, float],
) -> Panel:
    """Return a panel of critical values by name, against a field."""
    grid = ufm.grid(landscape, **{field: x})
    said = [ufm.predict(at_setting(grid, i))["critical_values"] for i in range(len(x))]
    names = list(dict.fromkeys(name for one in said for name in list(one)[:most]))
    lines = {name: np.array([one.get(name, np.nan) for one in said]) for name in names}
    symbol = {"decay_w": "λ_W", "decay": "λ"}[field]
    return Panel(title, symbol, "f", x, lines, {"found": _losses(grid, field, config)}, marks)


def merging(config: Config) -> Panel:
    """Distances between two classes of equal counts, against √(λ_W λ_H): predicted 0 beyond the threshold."""
    counts, pairs = (4, 4, 2, 2, 1, 1), {4: 0, 2: 2, 1: 4}
    x = np.linspace(0.04, 0.2, 2 * config.settings)
    prob = ufm.problem(counts=counts, dim=5, decay_w=0.1, decay_h=0.1, decay_b=1e-2)
    found: dict[int, list[float]] = {n: [] for n in pairs}
    for s in x:
        here = ufm.problem(counts=counts, dim=5, decay_w=s, decay_h=s, decay_b=1e-2)
        W = _lowest(here, 1)
        for n, k in pairs.items():
            found[n].append(float(np.linalg.norm(W[k] - W[k + 1])))
    marks = {f"n = {n}": n**0.5 / prob.num_samples for n in pairs}
    lines = {f"n = {n}": np.where(x >= n**0.5 / prob.num_samples, 0.0, np.nan) for n in pairs}
    points = {f"n = {n}": np.stack([x, found[n]]) for n in pairs}
    scale = ("linear", "linear")
    return Panel("counts 4, 4, 2, 2, 1, 1", "s", "‖w_j − w_k‖, equal counts", x, lines, points, marks, scale)


def no_decay(config: Config) -> Panel:
    """Cosines of the classifier as decays vanish, against those of the convex program."""
    counts, pairs = (10, 10, 1, 1), {"majority": (0, 1), "mixed": (0, 2), "minority": (2, 3)}
    x, limit = np.geomspace(1e-10, 1e-3, config.settings), ufm.seli((10, 10, 1, 1)).cosines_w
    found = []
    for decay in x:
        W = _lowest(ufm.problem(counts=counts, dim=3, decay_w=decay, decay_h=decay, bias=False), 1)
        W = W / np.linalg.norm(W, axis=1, keepdims=True)
        found.append([W[i] @ W[j] for i, j in pairs.values()])
    lines = {name: np.full(len(x), limit[pair]) for name, pair in pairs.items()}
    points = {name: np.stack([x, y]) for name, y in zip(pairs, np.array(found).T, strict=True)}
    return Panel("counts 10, 10, 1, 1", "λ_W = λ_H", "cosine", x, lines, points, {}, (LOG, "linear"))


def weighted(config: Config) -> Panel:
    """What weighted squared loss fits of each class, against the decay."""
    counts, loss = (6, 3, 1), ufm.WeightedSquared(class_weights=(1.0, 3.0, 0.5))
    x = np.linspace(1e-3, 0.35, config.settings)
    lines: dict[str, list[float]] = {f"n = {n}": [] for n in counts}
    found = []
    for decay in x:
        prob = ufm.problem(counts=counts, dim=3, decay_w=decay, decay_h=decay, bias=False, loss=loss)
        for name, share in zip(lines, ufm.predict(prob)["fitted"], strict=True):
            lines[name].append(share)
        run = ufm.sweep(prob, starts=1)
        p = run.point(0).x
        found.append(np.diag(np.asarray(p.W @ p.H)[:, np.cumsum((0, *counts[:-1]))]))
    points = {name: np.stack([x, y]) for name, y in zip(lines, np.array(found).T, strict=True)}
    held = {name: np.array(values) for name, values in lines.items()}
    linear = ("linear", "linear")
    return Panel(
        "weighted squared, ω = 1, 3, ½", "λ_W = λ_H", "fitted share a_k", x, held, points, {}, linear
    )


PANELS: tuple[Callable[[Config], Panel], ...] = (
    unit_norms,
    relu_features,
    deep_linear,
    weighted,
    merging,
    no_decay,
)


def run(config: Config) -> list[Panel]:
    """Search at every setting of every panel."""
    return [make(config) for make in PANELS]


def plot(panels: list[Panel]) -> plt.Figure:
    """Draw each panel: lines predicted, points found."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.5))
        for axis, panel in zip(axes.flat, panels, strict=True):
            _draw(axis, panel)
        return figure


def _draw(axis: Any, panel: Panel) -> None:
    for i, (name, values) in enumerate(panel.lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        axis.plot(panel.x, values, color=colour, label=name, linestyle=("-", "--", ":", "-.")[i % 4])
    for name, (x, y) in panel.points.items():
        i = list(panel.lines).index(name) if name in panel.lines else len(panel.lines)
        colour = COLOURS[i % len(COLOURS)] if name in panel.lines else "black"
        label = "found" if name == next(iter(panel.points)) else None
        shape = MARKERS[i % len(MARKERS)] if name in panel.lines else MARKERS[0]
        axis.plot(x, y, shape, color=colour, markersize=4, markerfacecolor="none", label=label)
    for i, (name, place) in enumerate(panel.marks.items()):
        axis.axvline(place, color=COLOURS[i % len(COLOURS)], linewidth=0.8, alpha=0.6)
        axis.annotate(
            name, (place, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top"
        )
    axis.set(title=panel.title, xlabel=panel.x_name, ylabel=panel.y_name)
    axis.set_xscale(panel.scale[0])
    axis.set_yscale(panel.scale[1])
    axis.legend(fontsize=7)


def _held(panel: Panel) -> dict[str, Any]:
    """Return a panel for JSON."""
    lines = {name: [None if np.isnan(v) else float(v) for v in line] for name, line in panel.lines.items()}
    points = {name: values.tolist() for name, values in panel.points.items()}
    return {
        "title": panel.title,
        "x": panel.x.tolist(),
        "marks": panel.marks,
        "lines": lines,
        "points": points,
    }


def _losses(grid: Any, field: str, config: Config) -> np.ndarray:
    """Return settings and losses of descents at every setting of a grid."""
    table = ufm.sweep(grid, starts=config.starts).table
    done = np.array(table["status"].to_pylist()) == "CONVERGED"
    return np.stack([table[field].to_numpy(), table["loss"].to_numpy()])[:, done]


def _lowest(prob: Any, starts: int) -> np.ndarray:
    """Return W at the lowest end of descents."""
    found = ufm.sweep(prob, starts=starts)
    return np.asarray(found.point(int(np.argmin(found.table["loss"].to_numpy()))).x.W)


def main(scale: Scale = "default") -> None:
    """Search, draw figures/regimes.png and .pdf, and write regimes.json."""
    set_up()
    panels = run(SCALES[scale])
    exact = {p.title: p.furthest for p in panels[:4]}
    for title, apart in exact.items():
        print(f"{title}: every point within {apart:.1e} of a line")
    save(partial(plot, panels), "regimes", scale, panels=[_held(panel) for panel in panels], furthest=exact)


if __name__ == "__main__":
    cli(main)
