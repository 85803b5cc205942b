"""Starts a second, side by side: SciPy in processes, plain JAX, and this package, on the same starts.

Every contender runs in a process of its own (`contenders`), one after another in this run, and one NumPy
referee looks at the points of all. `experiments.limits` says how far the hot path is from the best.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from experiments.benchmark import saddles
from experiments.benchmark.contend import contend, json_of, limit_lines
from experiments.benchmark.settings import LARGE, SMALL
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up

LABELS = {
    "scipy": "(i) SciPy, a process a core",
    "optax-vmap": "(ii) optax L-BFGS, vmapped, + eigh",
    "jit-loop": "(iii) the same, jitted, start by start",
    "scipy-means": "(iv) SciPy on class means",
    "ours-full": "(v) ufm_jax, all features",
    "ours": "(vi) ufm_jax",
    "ours-spectra": "(vi) with every spectrum",
}
# Starts and repeats. Plain JAX diagonalises a Hessian of size 3,370 at K = 10: half a minute a start.
MAIN = {
    SMALL: {"scipy": (600, 2), "optax-vmap": (256, 2), "jit-loop": (100, 2), "scipy-means": (600, 2),
            "ours-full": (8192, 2), "ours": (65536, 3), "ours-spectra": (4096, 1)},
    LARGE: {"scipy": (200, 1), "optax-vmap": (2, 0), "jit-loop": (1, 1), "scipy-means": (400, 1),
            "ours-full": (1024, 1), "ours": (8192, 3), "ours-spectra": (512, 1)},
}  # fmt: skip
COMPARED = ("scipy", "scipy-means", "ours-full", "ours")
# What grows, its values, the sizes at a value, and starts for each of COMPARED.
GROWTH: dict[str, tuple[tuple[int, ...], Any, dict[str, int]]] = {
    "classes K (n = 5, d = K + 2)": (
        (3, 5, 8, 12, 20), lambda K: (K, 5, K + 2),
        {"scipy": 40, "scipy-means": 40, "ours-full": 512, "ours": 2048},
    ),
    "samples a class n (K = 4, d = 6)": (
        (5, 20, 80, 320), lambda n: (4, n, 6),
        {"scipy": 40, "scipy-means": 40, "ours-full": 256, "ours": 4096},
    ),
    "features d (K = 4, n = 5)": (
        (6, 24, 96), lambda d: (4, 5, d),
        {"scipy": 60, "scipy-means": 60, "ours-full": 512, "ours": 4096},
    ),
}  # fmt: skip
STARTS = {"scipy": (50, 200, 800), "scipy-means": (50, 200, 800), "ours-full": (256, 1024, 8192),
          "ours": (256, 1024, 8192, 65536)}  # fmt: skip

Part = Literal["minima", "saddles"]


@dataclass(frozen=True)
class Config:
    """Scale: smoke has the fast contenders, few starts, and no growth; paper is default. `parts` alone."""

    scale: Scale = "default"
    parts: Literal[Part, "all"] = "all"


def run(scale: Scale) -> dict[str, Any]:
    """Measure everything toward minima; the longest row is (ii) at K = 10."""
    if scale == "smoke":
        few = {"scipy": (20, 1), "scipy-means": (20, 1), "ours": (512, 1)}
        return {"main": [contend(name, SMALL, *how) for name, how in few.items()], "growth": {}, "limits": []}
    main = [contend(name, sizes, *how) for sizes, all_ in MAIN.items() for name, how in all_.items()]
    growth = {
        axis: [contend(name, at(v), count, 1) | {"at": v} for v in values for name, count in counts.items()]
        for axis, (values, at, counts) in GROWTH.items()
    }
    growth["starts (K = 4, n = 5, d = 6)"] = [
        contend(name, SMALL, count, 1) | {"at": count} for name, counts in STARTS.items() for count in counts
    ]
    return {"main": main, "growth": growth, "limits": json_of("experiments.limits", "descents")["limits"]}


def table(result: dict[str, Any]) -> str:
    """Return starts a second, warm and with compilation, ratios to (i) and (iv), memory, and who passed."""
    rows: list[tuple[str, ...]] = [("", "K", "starts/s", "first call", "x (i)", "x (iv)", "MiB", "accepted")]
    for row in result["main"]:
        peers = {r["contender"]: r["us_a_start"] for r in result["main"] if r["K"] == row["K"]}
        ratios = (f"{peers[p] / row['us_a_start']:.1f}" for p in ("scipy", "scipy-means"))
        warm = f"{1e6 / row['us_a_start']:,.4g}" if row["warm_s"] else "-"
        rows.append(
            (
                LABELS[row["contender"]],
                str(row["K"]),
                warm,
                f"{1e6 / row['us_a_start_first']:,.4g}",
                *ratios,
                f"{row['peak_mib']:.0f}",
                f"{row['accepted']}/{row['refereed']}",
            )
        )
    lines = ["  ".join(c.ljust(40) if i == 0 else c.rjust(10) for i, c in enumerate(r)) for r in rows]
    return "\n".join([*lines, "", *limit_lines(result["limits"])])


def plot(result: dict[str, Any]) -> plt.Figure:
    """Draw starts a second for both sizes, and time a start against K, n, d and the number of starts."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11.5, 7.5))
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.0, 1.1))
        left, right = parts
        rates, shares = left.subplots(2, 1, height_ratios=(1.3, 1.0))
        _bars(rates, shares, result)
        axes = right.subplots(2, 2)
        for ax, (axis, rows) in zip(axes.ravel(), result["growth"].items(), strict=False):
            _lines(ax, axis, rows)
        for ax in axes.ravel()[len(result["growth"]) :]:
            ax.set_visible(False)
        if result["growth"]:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            right.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
        figure.suptitle("Minima found and judged: SciPy and plain JAX beside ufm_jax, on the same starts")
    return figure


def _bars(ax: plt.Axes, below: plt.Axes, result: dict[str, Any]) -> None:
    """Draw judged starts a second, and below the share of the machine's rates that the hot path reaches."""
    rows, limits = result["main"], [r for r in result["limits"] if r["what"] != "machine"]
    names = [name for name in LABELS if any(r["contender"] == name for r in rows)]
    sizes = sorted({r["K"] for r in rows})
    for i, K in enumerate(sizes):
        rates = {r["contender"]: 1e6 / r["us_a_start"] for r in rows if r["K"] == K}
        places = np.arange(len(names)) + 0.4 * i - 0.2 * (len(sizes) - 1)
        values = [rates.get(name, np.nan) for name in names]
        n, d = next((r["n"], r["d"]) for r in rows if r["K"] == K)
        ax.barh(places, values, 0.38, color=COLOURS[i], label=f"K = {K}, n = {n}, d = {d}")
        for y, v in zip(places, values, strict=True):
            ax.annotate(f" {v:,.3g}" if v < 1e3 else f" {v:,.0f}", (v, y), va="center", fontsize=7)
    ax.set_yticks(range(len(names)), [LABELS[name] for name in names], fontsize=7)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.3)
    ax.set_xlabel("judged starts per second")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    below.barh(range(len(limits)), [100 * r["share_of_limit"] for r in limits], color=COLOURS[2])
    names = [f"{r['what']}, K = {r['K']}, {r['columns']} columns" for r in limits]
    below.set_yticks(range(len(limits)), names, fontsize=7)
    below.invert_yaxis()
    below.set_xlabel("% of the rate that the machine allows")
    below.set_visible(bool(limits))


def _lines(ax: plt.Axes, axis: str, rows: list[dict[str, Any]]) -> None:
    for i, name in enumerate(COMPARED):
        own = [r for r in rows if r["contender"] == name]
        x, y = [r["at"] for r in own], [r["us_a_start"] for r in own]
        ax.loglog(x, y, MARKERS[i] + "-", color=COLOURS[i], ms=4, label=LABELS[name])
    values = sorted({r["at"] for r in rows})
    if len(values) <= 5:
        ax.set_xticks(values, [str(v) for v in values])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(axis)
    ax.set_ylabel("µs per start")


def main(config: Config) -> None:
    """Measure, print the tables, draw: each part has a figure of its own."""
    set_up()
    if config.parts != "saddles":
        result = run(config.scale)
        _keep("benchmark", "minima", config.scale, partial(plot, result), table(result), result)
    if config.parts != "minima":
        result = saddles.run(config.scale)
        draw, lines = partial(saddles.plot, result), saddles.table(result)
        _keep("benchmark_saddles", "saddles", config.scale, draw, lines, result)


def _keep(
    name: str, part: Part, scale: Scale, draw: partial[plt.Figure], lines: str, result: dict[str, Any]
) -> None:
    print(lines)
    command = f"python -m experiments.benchmark --scale {scale} --parts {part}"
    save(draw, name, scale, command=command, table=lines.splitlines(), **result)


if __name__ == "__main__":
    main(cli(Config))
