"""Pictures of single results: slices, flows, branches, spectra. Each draws on axes that it returns."""

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm

from ufm_jax.report.figures import HUES, Points, draw_index, in_style, symbol

LEVELS = 25  # lines of a slice


@in_style
def draw_slice(
    first: np.ndarray, second: np.ndarray, values: np.ndarray, ax: Any, orbits: list[np.ndarray], marks: Any
) -> Any:
    """Draw level lines of f on a plane, as many points between any two; curves of orbits; marked points."""
    levels = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, LEVELS)))
    norm = BoundaryNorm(levels, 256) if len(levels) > 1 else None
    filled = ax.contourf(first, second, values.T, levels=levels, norm=norm, cmap="viridis")
    ax.contour(first, second, values.T, levels=levels, colors="white", linewidths=0.4)
    for number, curve in enumerate(orbits):
        ax.plot(*curve.T, color="#D55E00", lw=2.0, label=None if number else "orbit: f is constant")
    for x, y, marker in marks:
        ax.plot(x, y, marker, color="black", ms=4)
    ax.set(xlabel="along $u$", ylabel="along $v$", xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    if orbits:
        ax.legend(loc="lower right", frameon=True)
    ax.figure.colorbar(filled, ax=ax, label="$f$")
    return ax


@in_style
def draw_line(steps: np.ndarray, values: np.ndarray, ax: Any, marks: Any) -> Any:
    """Draw f along a line, with marked points."""
    ax.plot(steps, values, color=HUES[0])
    for x, marker in marks:
        ax.plot(x, np.interp(x, steps, values), marker, color="black", ms=5)
    ax.set(xlabel="along $u$", ylabel="$f$")
    return ax


@in_style
def draw_flow(times: np.ndarray, values: np.ndarray, ax: Any) -> Any:
    """Draw f over time along a flow."""
    ax.plot(times[times > 0], values[times > 0], color=HUES[0])
    ax.set(xlabel="flow time", ylabel="$f$", xscale="log")
    return ax


@in_style
def draw_steps(points: Points, steps: list[tuple[int, float]], ax: Any) -> Any:
    """Draw `draw_index` and, over it, arrows from one (index, loss) to the next."""
    draw_index(points, ax)
    for (i, f), (j, g) in pairwise(steps):
        arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.2, "shrinkA": 4, "shrinkB": 4}
        ax.annotate("", (j, g), (i, f), arrowprops=arrow)
    return ax


@in_style
def draw_spectrum(values: np.ndarray, zero: float, ax: Any) -> Any:
    """Draw eigenvalues, ascending, on a scale that is linear within `zero` and shows both signs."""
    kinds = {"negative": values < -zero, "zero": np.abs(values) <= zero, "positive": values > zero}
    looks = ((HUES[2], "v"), ("#666666", "o"), (HUES[0], "s"))
    for (name, chosen), (colour, marker) in zip(kinds.items(), looks, strict=True):
        label = f"{int(chosen.sum())} {name}"
        ax.plot(np.flatnonzero(chosen), values[chosen], marker, color=colour, ms=3.5, label=label)
    ax.axhline(0.0, color="grey", lw=0.8, zorder=0)
    ax.set(xlabel="number, ascending", ylabel="eigenvalue of the Hessian")
    ax.set_yscale("symlog", linthresh=max(zero, 1e-300))
    ax.legend()
    return ax


@in_style
def draw_path(name: str, values: np.ndarray, loss: np.ndarray, index: np.ndarray, ax: Any) -> Any:
    """Draw loss along a branch of critical points, colour by Morse index, a cross where none was counted."""
    ax.plot(values, loss, color="grey", lw=0.8, zorder=0)
    counted, top = index >= 0, int(np.max(index, initial=0))
    ax.plot(values[~counted], loss[~counted], "x", color="black", ms=4)
    norm = BoundaryNorm(np.arange(-0.5, top + 1), max(top + 1, 2)) if top < 20 else None
    marks = ax.scatter(values[counted], loss[counted], c=index[counted], cmap="viridis", norm=norm, s=16)
    wide = np.min(values) > 0 and np.max(values) > 10 * np.min(values)
    ax.set(xlabel=symbol(name), ylabel="loss $f$", xscale="log" if wide else "linear")
    ax.figure.colorbar(marks, ax=ax, label="Morse index", ticks=np.arange(top + 1) if norm else None)
    return ax
