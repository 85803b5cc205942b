"""Where classes collapse: minimisers found over grids of weight decays, against the thresholds of theory.

    python -m experiments.phase_diagram --scale smoke|default|paper

Two grids for each of cross-entropy and squared loss, without a bias: (λ_W, λ_H) for balanced classes, and
(n_c, s), s = √(λ_W λ_H), for K/2 majority classes of n samples and K/2 minority classes of n_c. Measured at
the lowest point found, which its duality gap judges: the logit gap of the minority classes (of all, if
balanced), the mean of z_k − z_j over pairs of them at a sample of class k. It is zero if they have merged
(cross-entropy) or died (squared loss). Theory: balanced, zero iff Kθ ≥ 1, θ = √n s (Zhu et al. 2021, Tirer &
Bruna 2022); minority classes merge iff s ≥ √n_c/N (Hong & Ling 2023); class k dies iff n_k ≤ N² s² (Dang et
al. 2023). For n_c = n the three agree.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from matplotlib import patheffects

from experiments.common import Scale, cli, save, set_up
from ufm_jax.report.progress import Reporter
from ufm_jax.runs import engine, pipeline
from ufm_jax.runs.plan import SweepConfig

LOSSES = ("cross-entropy", "squared")
ZERO = 1e-4  # a logit gap at or below this counts as zero: at ‖∇f‖ ≤ 1e-9 a gap has an error of up to 1e-6
THEORY = r"theory: $K\theta = 1$ (left), $s = \sqrt{n_c}/N$ (right)"


@dataclass(frozen=True)
class Config:
    """Sizes, and grids: `decays` values of λ_W and of λ_H; s for each n_c, at λ_W = `imbalanced_decay_w`."""

    num_classes: int = 4
    dim: int = 4
    per_class: int = 5
    decays: int = 25
    decay_range: tuple[float, float] = (1e-3, 10.0)
    majority: int = 100
    minority: tuple[int, ...] = (1, 2, 3, 5, 8, 13, 22, 36, 60, 100)
    strengths: int = 41
    strength_range: tuple[float, float] = (1e-3, 1e-1)
    imbalanced_decay_w: float = 1e-2
    starts: int = 3
    seed: int = 0


SCALES: dict[Scale, Config] = {
    # As many points on both grids, and n_c = n = 5: two shapes a loss, for 30 s.
    "smoke": Config(
        decays=6, majority=5, minority=(1, 5), strengths=36, strength_range=(1e-2, 1.0), starts=1
    ),
    "default": Config(),
    "paper": Config(
        decays=61,
        minority=(1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 28, 36, 46, 60, 77, 100),
        strengths=101,
        starts=10,
    ),
}


class Grid(NamedTuple):
    """One panel: axes (x, y), and of the minimiser at each (y, x) the logit gap and its evidence."""

    x: np.ndarray
    y: np.ndarray
    gap: np.ndarray  # logit gap of the minority classes among themselves
    strength: np.ndarray  # s = √(λ_W λ_H)
    threshold: np.ndarray  # of s, by theory
    verdict: np.ndarray
    dual_gap: np.ndarray


def logit_gap(W: np.ndarray, H: np.ndarray, counts: tuple[int, ...], chosen: range) -> np.ndarray:
    """Return the mean of z_k − z_j at class k over pairs of `chosen`; H holds √n_k times class means."""
    Z = (W @ (H / np.sqrt(counts)))[:, chosen][:, :, chosen]
    m = len(chosen)
    diagonal = np.trace(Z, axis1=1, axis2=2)
    return (diagonal - (Z.sum(axis=(1, 2)) - diagonal) / (m - 1)) / m


def lowest(table: pa.Table) -> np.ndarray:
    """Return the row of the lowest loss of each (λ_W, λ_H), decays ascending."""
    columns = [table[name].to_numpy() for name in ("loss", "decay_h", "decay_w")]
    order = np.lexsort(columns)
    pairs = np.stack(columns[1:], axis=1)[order]
    return order[np.r_[True, np.any(pairs[1:] != pairs[:-1], axis=1)]]


def measure(
    config: Config, loss: str, counts: tuple[int, ...], w: np.ndarray, h: np.ndarray
) -> dict[str, Any]:
    """Search over the grid w × h; return gap, verdict and duality gap of the lowest points, each (w, h)."""
    plan = SweepConfig(
        counts=counts,
        dim=config.dim,
        decay_w=tuple(map(float, w)),
        decay_h=tuple(map(float, h)),
        decay_b=(0.0,),
        bias=False,
        loss=loss,
        starts=config.starts,
        seed=config.seed,
        keep_points=True,
    )
    with Reporter(plan.num_rows, f"{loss} {','.join(map(str, counts))}") as reporter:
        table = engine.sweep(plan, reporter)
    table = table.take(lowest(table))
    W, H = (table[name].combine_chunks().to_numpy_ndarray() for name in "WH")
    minority = range(len(counts) // 2, len(counts)) if len(set(counts)) > 1 else range(len(counts))
    found = {
        "gap": logit_gap(W, H, counts, minority),
        "verdict": np.array(table["verdict"].to_pylist()),
        "dual_gap": table["dual_gap"].to_numpy(),
    }
    return {name: values.reshape(len(w), len(h)) for name, values in found.items()}


def balanced(config: Config, loss: str) -> Grid:
    """Measure balanced classes over (λ_W, λ_H)."""
    decays = np.geomspace(*config.decay_range, config.decays)
    K, n = config.num_classes, config.per_class
    found = {k: v.T for k, v in measure(config, loss, (n,) * K, decays, decays).items()}
    strength = np.sqrt(np.outer(decays, decays))
    threshold = np.full_like(strength, 1 / (K * n**0.5))
    return Grid(decays, decays, strength=strength, threshold=threshold, **found)


def imbalanced(config: Config, loss: str) -> Grid:
    """Measure minority classes over (n_c, s)."""
    s = np.geomspace(*config.strength_range, config.strengths)
    w = np.array([config.imbalanced_decay_w])
    half = config.num_classes // 2
    columns = []
    for n_c in config.minority:
        counts = (config.majority,) * (config.num_classes - half) + (n_c,) * half
        columns.append(measure(config, loss, counts, w, s**2 / w))
    found = {name: np.concatenate([c[name] for c in columns]).T for name in columns[0]}
    n = np.array(config.minority, float)
    samples = (config.num_classes - half) * config.majority + half * n
    strength = np.repeat(s[:, None], len(n), axis=1)
    return Grid(n, s, strength=strength, threshold=np.tile(np.sqrt(n) / samples, (len(s), 1)), **found)


def wrong_side(grid: Grid) -> np.ndarray:
    """Say where the measured gap is zero and theory says that it is not, or the other way round."""
    return (grid.gap <= ZERO) != (grid.strength >= grid.threshold)


def describe(grid: Grid) -> dict[str, Any]:
    """Return a grid and what was counted, for JSON."""
    wrong = wrong_side(grid)
    return {
        "x": grid.x.tolist(),
        "y": grid.y.tolist(),
        "logit_gap": grid.gap.tolist(),
        "threshold_of_s": grid.threshold[0].tolist(),
        "points": int(grid.gap.size),
        "wrong_side": int(wrong.sum()),
        "wrong_side_points": [
            {"x": float(grid.x[j]), "y": float(grid.y[i]), "gap": float(grid.gap[i, j])}
            | {"s_over_threshold": float(grid.strength[i, j] / grid.threshold[i, j])}
            for i, j in np.argwhere(wrong)
        ],
        "verdicts": dict(Counter(grid.verdict.ravel().tolist())),
        "max_dual_gap": float(grid.dual_gap.max()),
    }


@contextmanager
def compilations() -> Iterator[Counter]:
    """Count the programs of the sweep engine that are compiled, by name (from XLA or from its cache)."""
    seen: Counter = Counter()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        name = str(kwargs.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        if event == "/jax/core/compile/backend_compile_duration" and name in (vars(engine) | vars(pipeline)):
            seen[name] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def run(config: Config) -> tuple[dict[tuple[str, str], Grid], dict[str, Any]]:
    """Measure both grids for both losses; return them and the facts for JSON."""
    grids, facts = {}, {}
    for loss in LOSSES:
        for kind, make in (("decays", balanced), ("imbalance", imbalanced)):
            with compilations() as compiled:
                grid = grids[loss, kind] = make(config, loss)
            shapes = 1 if kind == "decays" else len(config.minority)
            facts[f"{loss}, {kind}"] = {**describe(grid), "shapes": shapes, "compilations": dict(compiled)}
            print(_line(loss, kind, facts[f"{loss}, {kind}"]), flush=True)
    return grids, facts


def _line(loss: str, kind: str, facts: dict[str, Any]) -> str:
    return (
        f"{loss}, {kind}: {facts['points']} points, {facts['wrong_side']} on the wrong side of the line; "
        f"{facts['verdicts']}, largest duality gap {facts['max_dual_gap']:.1e}; "
        f"{sum(facts['compilations'].values())} compilations for {facts['shapes']} shapes"
    )


def plot(config: Config, grids: dict[tuple[str, str], Grid]) -> plt.Figure:
    """Draw the logit gap on each grid, theory's threshold, and between which points it was measured to be."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.4))
    K, n = config.num_classes, config.per_class
    for row, loss in zip(axes, LOSSES, strict=True):
        left, right = row
        _panel(left, grids[loss, "decays"], "logit gap" + (" (nats)" if loss == LOSSES[0] else ""))
        grid = grids[loss, "decays"]
        line = grid.threshold[0, 0] ** 2 / np.array(config.decay_range)
        _theory(left, np.array(config.decay_range), line, THEORY)
        left.set(xlabel=r"decay of the classifier $\lambda_W$", ylabel=r"decay of the features $\lambda_H$")
        left.set_title(f"{loss}: K = {K}, n = {n}")
        grid = grids[loss, "imbalance"]
        _panel(right, grid, "logit gap of minority classes" + (" (nats)" if loss == LOSSES[0] else ""))
        dense = np.geomspace(grid.x[0], grid.x[-1], 200)
        half = K // 2
        samples = (K - half) * config.majority + half * dense
        _theory(right, dense, np.sqrt(dense) / samples, THEORY)
        right.set(xlabel="samples of a minority class $n_c$", ylabel=r"$s = \sqrt{\lambda_W\lambda_H}$")
        right.set_title(f"{loss}: {K - half} classes of {config.majority}, {half} of $n_c$")
    handles: dict[str, Any] = {}
    for ax in axes.flat:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    legend = figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=True
    )
    legend.get_frame().set(facecolor="lightgrey", edgecolor="none")
    figure.suptitle("Logit gap of the lowest point found, and where theory puts its zero", fontsize=10)
    return figure


def _panel(ax: Any, grid: Grid, label: str) -> None:
    x, y = _edges(grid.x), _edges(grid.y)
    image = ax.pcolormesh(x, y, grid.gap, cmap="cividis", vmin=0)
    image.set_rasterized(True)
    ax.set(xscale="log", yscale="log")
    ax.figure.colorbar(image, ax=ax, label=label)
    low, high = boundary(grid)
    ax.vlines(grid.x, low, high, color="#D55E00", lw=1.8, zorder=4, label="measured: zero above, not below")
    judged = grid.verdict == "GLOBAL_MINIMUM"
    for marker, chosen, name in (("x", ~judged, "not certified"), ("s", wrong_side(grid), "wrong side")):
        rows, columns = np.nonzero(chosen)
        if rows.size:
            ax.plot(
                grid.x[columns], grid.y[rows], marker, color="white", mfc="none", ms=5, zorder=5, label=name
            )
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]])


def boundary(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each x, the last y whose gap is not zero and the next one; NaN where all are alike."""
    alive = grid.gap > ZERO
    last = alive.shape[0] - 1 - np.argmax(alive[::-1], axis=0)
    inside = alive.any(axis=0) & (last < alive.shape[0] - 1)
    low = np.where(inside, grid.y[last], np.nan)
    return low, np.where(inside, grid.y[np.minimum(last + 1, len(grid.y) - 1)], np.nan)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return the borders of cells around two or more values, halfway on a logarithmic axis."""
    middle = np.sqrt(values[1:] * values[:-1])
    return np.r_[values[0] ** 2 / middle[0], middle, values[-1] ** 2 / middle[-1]]


def _theory(ax: Any, x: np.ndarray, y: np.ndarray, label: str) -> None:
    outline = [patheffects.Stroke(linewidth=2.2, foreground="white"), patheffects.Normal()]
    ax.plot(x, y, color="black", lw=1.0, ls="--", label=label, path_effects=outline)


def main(scale: Scale = "default") -> None:
    """Measure where classes collapse and draw the phase diagram."""
    set_up()
    config = SCALES[scale]
    grids, facts = run(config)
    save(
        partial(plot, config, grids),
        "phase_diagram",
        scale,
        config=config.__dict__,
        zero_below=ZERO,
        grids=facts,
    )


if __name__ == "__main__":
    cli(main)
