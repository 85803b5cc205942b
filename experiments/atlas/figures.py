"""The figures of the atlas: orbits by index, branches over Kθ, and the graph of downhill flows."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from experiments.atlas.branches import Continuation, Event, at_kt
from experiments.atlas.flows import Edge
from experiments.common import MARKERS
from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.theory import global_minimum

LOSS_TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def plot_orbits(tables: dict[int, list[OrbitRow]], best: dict[int, float]) -> plt.Figure:
    """Draw loss against Morse index, one panel a K: colour and marker by rank, area by number of copies."""
    columns = min(len(tables), 2)
    lines = -(-len(tables) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.9 * columns, 3.4 * lines), squeeze=False)
    colours: Any = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(tables)))
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    for ax, (K, rows) in zip(axes.flat, tables.items(), strict=False):
        ax.axhline(best[K], color="black", lw=0.8, ls="--", zorder=0)
        # Large markers first, so that none hides another.
        for row in sorted(rows, key=lambda r: -(r.copies or 0)):
            ax.scatter(
                row.index,
                row.loss,
                s=_area(row.copies or 0),
                marker=MARKERS[row.rank or 0],
                color=colours[row.rank],
                edgecolors="white",
                linewidths=0.5,
                alpha=0.85,
            )
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(plt.FixedLocator(LOSS_TICKS))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(
            xlabel="Morse index at $d = K - 1$",
            ylabel="loss $f$ (nats, log scale)",
            title=f"K = {K}: {len(rows)} orbits",
        )
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    mark = lambda r: plt.Line2D([], [], ls="", marker=MARKERS[r], color=colours[r], label=str(r))
    size = lambda c: plt.Line2D([], [], ls="", marker="o", color="grey", ms=_area(c) ** 0.5, label=f"{c:,}")
    figure.legend(
        handles=[mark(r) for r in range(max(tables))],
        title="rank",
        loc="outside right upper",
        handletextpad=0.2,
    )
    most = max(r.copies or 0 for rows in tables.values() for r in rows)
    copies = [c for c in (1, 10, 100, 1000, 10000) if c <= most]
    line = plt.Line2D([], [], color="black", lw=0.8, ls="--", label="$f^*$, closed\nform")
    figure.legend(
        handles=[*map(size, copies), line], title="copies", loc="outside right lower", labelspacing=0.9
    )
    figure.suptitle("Critical orbits: loss against Morse index, by rank and number of copies", fontsize=10)
    return figure


def _area(copies: int) -> float:
    """Return a marker area in points², affine in log(copies)."""
    return 22.0 + 12.0 * np.log10(max(copies, 1))


def plot_branches(problems: dict[int, Problem], followed: dict[int, Continuation]) -> plt.Figure:
    """Draw height above f* relative to the origin's against Kθ, coloured by index; one event magnified."""
    figure, axes = plt.subplots(1, len(followed), figsize=(4.2 * len(followed), 4.2), squeeze=False)
    seen = sorted({int(i) for paths in followed.values() for i in np.unique(paths.index) if i >= 0})
    colours = dict(zip(seen, plt.get_cmap("viridis")(np.linspace(0, 0.97, len(seen))), strict=True))
    for ax, (K, paths) in zip(axes[0], followed.items(), strict=True):
        heights = relative_heights(problems[K], paths)
        draw_branches(ax, paths, heights, colours)
        ax.axvline(K * float(theta(problems[K])), color="grey", lw=0.8, ls=":")
        ax.set_xscale("logit", one_half="0.5")
        ax.xaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(xlim=(paths.kt[0] / 1.3, 0.988), ylim=(-0.04, 1.05), title=f"K = {K}, d = {K - 1}")
        ax.set(xlabel="$K\\theta$ (logit scale)", ylabel="$(f - f^*)\\,/\\,(\\log K - f^*)$")
        for r in range(K):
            last = heights[paths.rank[:, -2] == r, -2]
            if last.size:
                spot = (paths.kt[-2], last.mean())
                ax.annotate(f"rank {r}", spot, (0, 5), textcoords="offset points", fontsize=7, ha="right")
        meet = [e for e in paths.events if e.kind not in ("rank", "index") and e.high < 1]
        if meet:
            close = _window(paths, heights, meet[0])
            inset = ax.inset_axes((0.19, 0.71, 0.42, 0.21))
            draw_branches(inset, paths, heights, colours)
            inset.set(xlim=close[0], ylim=close[1])
            inset.tick_params(labelsize=6)
            inset.xaxis.set_major_locator(plt.MaxNLocator(4))
            inset.yaxis.set_major_locator(plt.MaxNLocator(4))
            ax.indicate_inset_zoom(inset, edgecolor="grey", alpha=0.8)
    lines = [plt.Line2D([], [], color=colour, lw=2, label=str(i)) for i, colour in colours.items()]
    circle = plt.Line2D([], [], ls="", marker="o", mfc="none", mec="black", ms=7, label="orbits\nmeet")
    here = plt.Line2D([], [], color="grey", lw=0.8, ls=":", label="orbit\ntable")
    figure.legend(handles=[*lines, circle, here], title="Morse\nindex", loc="outside right center")
    figure.suptitle(
        "Critical orbits over $K\\theta$: height above the minimum relative to the origin's", fontsize=10
    )
    return figure


def draw_branches(
    ax: Any, paths: Continuation, heights: Float[np.ndarray, "B G"], colours: dict[int, Any]
) -> None:
    """Draw every branch below Kθ = 1, coloured by index, and a circle where branches meet."""
    for b, index in enumerate(paths.index):
        for g in np.flatnonzero((index[:-2] >= 0) & (index[1:-1] >= 0)).tolist():
            ax.plot(paths.kt[g : g + 2], heights[b, g : g + 2], color=colours[int(index[g])], lw=1.4)
    for e in paths.events:
        if e.kind not in ("rank", "index") and e.high < 1:
            g = int(np.flatnonzero(paths.kt == (e.low if e.kind in ("merge", "death") else e.high))[0])
            ax.plot(paths.kt[g], heights[e.branches[0], g], "o", mfc="none", mec="black", ms=7)


def _window(
    paths: Continuation, heights: np.ndarray, event: Event
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return limits of Kθ and height around an event that show the branches it is about."""
    low, high = event.low / 2.5, event.high * 2
    inside = (paths.kt > low) & (paths.kt < high)
    seen = heights[list(event.branches)][:, inside]
    margin = 0.15 * (np.nanmax(seen) - np.nanmin(seen))
    return (low, high), (float(np.nanmin(seen) - margin), float(np.nanmax(seen) + margin))


def relative_heights(prob: Problem, paths: Continuation) -> Float[np.ndarray, "B G"]:
    """Return (f − f*)/(log K − f*): 0 at the global minimum, 1 at the origin; NaN at Kθ ≥ 1."""
    best = np.array([float(global_minimum(at_kt(prob, float(kt)))) for kt in paths.kt])
    depth = np.where(paths.kt < 1, np.log(prob.num_classes) - best, np.nan)
    return (paths.loss - best) / depth


def plot_graph(tables: dict[int, list[OrbitRow]], graphs: dict[int, list[Edge]]) -> plt.Figure:
    """Draw orbits at (index, loss) and an arrow for every pair joined by a flow."""
    widths = [float(K) for K in graphs]
    figure, axes = plt.subplots(
        1, len(graphs), figsize=(1.35 * sum(widths), 5.4), squeeze=False, width_ratios=widths
    )
    colours: Any = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(graphs)))
    for ax, (K, graph) in zip(axes[0], graphs.items(), strict=True):
        rows = tables[K]
        places = [((row.index or 0) + _aside(rows, line), row.loss) for line, row in enumerate(rows)]
        for e in sorted(graph, key=lambda e: e.generic > 0):
            arrow = {
                "arrowstyle": "-|>",
                "lw": 0.6 + 1.4 * (e.generic or e.other),
                "ls": "-" if e.generic else "--",
                "color": "0.2" if e.generic else colours[rows[e.reached].rank],
                "connectionstyle": f"arc3,rad={0.18 if e.generic else 0.06}",
                "shrinkA": 8,
                "shrinkB": 8,
                "mutation_scale": 9,
            }
            ax.annotate("", places[e.reached], places[e.saddle], arrowprops=arrow)
        for line, (row, place) in enumerate(zip(rows, places, strict=True)):
            ax.scatter(*place, s=170, color="white", edgecolors=colours[row.rank], linewidths=2, zorder=3)
            ax.annotate(str(line), place, fontsize=8, ha="center", va="center", zorder=4)
        ax.margins(0.08)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(plt.FixedLocator(LOSS_TICKS))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(xlabel="Morse index", ylabel="loss $f$ (nats, log scale)", title=f"K = {K}, d = {K - 1}")
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    handles = [
        plt.Line2D([], [], ls="", marker="o", ms=8, mfc="white", mew=2, color=colours[r], label=f"rank {r}")
        for r in range(max(graphs))
    ]
    handles += [
        plt.Line2D([], [], color="0.2", lw=1.8, label="from random negative directions"),
        plt.Line2D(
            [], [], color="grey", lw=1.2, ls="--", label="along eigenvectors or in symmetric subspaces only"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.suptitle(
        "Where gradient flow from each saddle ended (number: line of the orbit table, from 0;\n"
        "width: share of flows; dashed: colour by rank of the orbit reached)",
        fontsize=9,
    )
    return figure


def _aside(rows: list[OrbitRow], line: int) -> float:
    """Return how far to move a node along the index axis so that those of nearly equal loss stay apart."""
    row = rows[line]
    near = [i for i, o in enumerate(rows) if o.index == row.index and abs(np.log(o.loss / row.loss)) < 0.12]
    return 0.44 * (near.index(line) - (len(near) - 1) / 2)
