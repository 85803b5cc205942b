"""A run's figures, as data URIs that a page can hold: drawn without a display, read without fonts."""

import base64
import functools
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.report.style import STYLE
from ufm_jax.report.table import Setting, floats

# A verdict differs in marker and line as well as in colour.
HUES = ("#0072B2", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#000000")
LOOKS = dict(zip((v.name for v in Verdict), zip(HUES, "osD^Pv", strict=True), strict=True))
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
FLOOR = 1e-17  # gaps and gradient norms below this, and those rounded to or below zero, are drawn here
SIZE = (6.6, 4.0)  # inches, of one panel
MANY = 2000  # marks, beyond which they are drawn as pixels
SYMBOLS = {"decay_w": "$λ_W$", "decay_h": "$λ_H$", "decay_b": "$λ_b$"}


class Points(NamedTuple):
    """Critical points, one entry a row or orbit."""

    morse: np.ndarray  # index
    loss: np.ndarray
    rank: np.ndarray  # or what colours show in its place
    verdict: np.ndarray
    colour: str = "rank"


def axes(ax: Any = None) -> Any:
    """Return matplotlib axes to draw on: those given, or those of a new figure that notebooks show."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # chooses a way to show figures: not for pages

    with matplotlib.rc_context(STYLE):
        return plt.subplots(figsize=SIZE)[1]


def in_style(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that draws in this module's style."""

    @functools.wraps(draw)
    def drawn(*args: Any) -> Any:
        with matplotlib.rc_context(STYLE):
            return draw(*args)

    return drawn


def data_uri(draw: Callable[..., Any], *args: Any) -> str:
    """Draw in this module's style and return the figure as an inline SVG image.

    `draw` returns a figure, or the axes of one panel that it drew.
    """
    with matplotlib.rc_context(STYLE):
        made, file = draw(*args), io.BytesIO()
        figure = made if isinstance(made, Figure) else made.figure
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def panel() -> Any:
    """Return the axes of a new figure that nothing shows: for pages."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=SIZE).subplots()


@in_style
def draw_index(points: Points, ax: Any) -> Any:
    """Draw loss against Morse index, colour by rank (or nullity), marker by verdict; equal points once."""
    index, loss, rank, verdict, colour = points
    top = int(np.max(rank, initial=0))
    norm = BoundaryNorm(np.arange(-0.5, top + 1), max(top + 1, 2)) if top < 20 else None
    colours = matplotlib.colormaps["viridis"].resampled(top + 1) if top < 20 else "viridis"
    marks = None
    for name in (v for v in LOOKS if v in set(verdict)):
        rows = np.stack([index, np.round(loss, 9), rank], axis=1)[verdict == name]
        x, y, r = np.unique(rows, axis=0).T
        marks = ax.scatter(
            x,
            y,
            c=r,
            marker=LOOKS[name][1],
            cmap=colours,
            norm=norm,
            vmin=None if norm else 0,
            vmax=None if norm else top,
            s=26,
            alpha=0.85,
            linewidths=0.4,
            edgecolors="black",
            label=plain(name),
            rasterized=len(x) > MANY,
        )
    ax.set(xlabel="Morse index (negative eigenvalues)", ylabel="loss $f$")
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.set_xlim(np.min(index, initial=0) - 0.7, np.max(index, initial=1) + 0.7)
    if marks is not None:
        handles: Any = ax.legend(loc="lower right").legend_handles
        for handle in handles:
            handle.set_array(None)  # colour has a bar of its own
            handle.set_facecolor("lightgrey")
        if len(np.unique(rank)) > 1:  # else the bar would say nothing
            ticks = np.arange(top + 1) if norm else None
            ax.figure.colorbar(marks, ax=ax, label=colour, ticks=ticks)
    return ax


def draw_losses(table: pa.Table) -> Figure:
    """Draw how many rows ended at each loss, by verdict."""
    figure = Figure(figsize=(6.6, 3.0))
    ax = figure.subplots()
    loss, verdict = floats(table["loss"]), np.array(table["verdict"].to_pylist(), dtype=str)
    known = loss[np.isfinite(loss)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    margin = 0.02 * (high - low) or 0.02 * abs(low) or 0.02
    bins = np.linspace(low - margin, high + margin, 61)
    below = np.zeros(len(bins) - 1)
    for name, (colour, _) in LOOKS.items():
        if np.any(verdict == name):
            above = below + np.histogram(loss[(verdict == name) & np.isfinite(loss)], bins)[0]
            ax.stairs(above, bins, baseline=below, fill=True, color=colour, label=plain(name))
            below = above
    ax.set(xlabel="loss $f$", ylabel="rows", yscale="symlog", ylim=(0, None))
    ax.legend()
    return figure


def draw_tolerances(table: pa.Table) -> Figure:
    """Draw histograms of duality gap and gradient norm, in units, by verdict, with the tolerances."""
    figure = Figure(figsize=(7.6, 3.6))
    left, right = figure.subplots(1, 2, sharey=True)
    _histogram(left, table, "rel_dual_gap", GAP_TOL, "duality gap, in units")
    _histogram(right, table, "rel_grad_norm", GRAD_TOL, r"gradient norm $\|\nabla f\|_2$, in units")
    left.set_ylabel("rows")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _histogram(ax: Any, table: pa.Table, column: str, tolerance: float, label: str) -> None:
    if column not in table.column_names:  # rows of before 0.3
        column = column.removeprefix("rel_")
    values, verdict = floats(table[column]), np.array(table["verdict"].to_pylist())
    drawn = np.maximum(values, FLOOR)
    top = max(np.max(drawn, initial=1e-8, where=np.isfinite(drawn)), 1e-8)
    bins = np.logspace(np.log10(FLOOR), np.ceil(np.log10(top) + 1e-9), 52)
    most = 1
    for (name, (colour, _)), line in zip(LOOKS.items(), LINES, strict=True):
        chosen = drawn[(verdict == name) & np.isfinite(drawn)]
        if np.any(verdict == name):
            counts = np.histogram(chosen, bins)[0]
            most = max(most, int(counts.max()))
            ax.stairs(np.maximum(counts, 0.1), bins, color=colour, ls=line, lw=1.4, label=plain(name))
    if not np.any(np.isfinite(values)):
        ax.text(0.5, 0.5, "none known", transform=ax.transAxes, ha="center")
    ax.axvline(tolerance, color="grey", lw=0.9, zorder=0, label=f"tolerance {tolerance:g}")
    ax.set(xscale="log", yscale="log", xlabel=f"{label}, at least {FLOOR:g}")
    ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(numticks=7))
    ax.set_ylim(0.7, max(ax.get_ylim()[1], 2.0 * most))


def symbol(name: str) -> str:
    """Return how a setting is written at an axis."""
    return SYMBOLS.get(name, name.replace("_", " "))


def varied(settings: list[Setting]) -> list[str]:
    """Return the names of which a run has more than one value: decays, say."""
    names = settings[0].values if settings else ()
    return [name for name in names if len({s.values[name] for s in settings}) > 1]


def draw_map(settings: list[Setting]) -> Figure:
    """Draw, over the grid of settings, the lowest loss found and the share of rows judged GLOBAL_MINIMUM.

    One column of panels a quantity, one row of them for each value of a third varied name.
    """
    names = varied(settings)
    x_name, y_name = names[0], names[1] if len(names) > 1 else None
    facets = sorted({s.values[names[2]] for s in settings}) if len(names) > 2 else [None]
    figure = Figure(figsize=(7.6, (3.3 if y_name else 1.9) * len(facets)))
    axes = figure.subplots(len(facets), 2, squeeze=False)
    for row, facet in zip(axes, facets, strict=True):
        here = [s for s in settings if facet is None or s.values[names[2]] == facet]
        where = "" if facet is None else f", {symbol(names[2])} = {facet:g}"
        share = lambda s: s.verdicts.get("GLOBAL_MINIMUM", 0) / sum(s.verdicts.values())
        _panel(row[0], here, x_name, y_name, lambda s: s.lowest, f"lowest loss found{where}")
        _panel(row[1], here, x_name, y_name, share, f"share of rows GLOBAL_MINIMUM{where}", limits=(0.0, 1.0))
    return figure


def _panel(
    ax: Any,
    settings: list[Setting],
    x_name: str,
    y_name: str | None,
    value: Callable[[Setting], float],
    title: str,
    limits: tuple[float | None, float | None] = (None, None),
) -> None:
    xs = sorted({s.values[x_name] for s in settings})
    ys: list[Any] = sorted({s.values[y_name] for s in settings}) if y_name else [None]
    grid = np.full((len(ys), len(xs)), np.nan)
    for s in settings:
        grid[ys.index(s.values[y_name] if y_name else None), xs.index(s.values[x_name])] = value(s)
    image = ax.imshow(
        grid, origin="lower", aspect="auto", cmap="cividis", vmin=limits[0], vmax=limits[1], rasterized=True
    )
    ax.patch.set(hatch="///", edgecolor="grey")  # seen where an unfinished run lacks a setting
    ax.set(title=title, xlabel=symbol(x_name), ylabel=symbol(y_name) if y_name else "")
    _ticks(ax.xaxis, xs)
    _ticks(ax.yaxis, ys if y_name else [])
    ax.figure.colorbar(image, ax=ax)


def _ticks(axis: Any, values: list[float]) -> None:
    """Label at most six of the grid's lines with their values."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), 6)).round().astype(int))
    axis.set_ticks(chosen, [f"{values[i]:.3g}" for i in chosen])


def critical(table: pa.Table) -> pa.Table:
    """Return the rows that are critical points whose index was counted."""
    return table.filter((pc.field("verdict") != "NOT_CRITICAL") & pc.field("index").is_valid())


def points(rows: pa.Table) -> Points:
    """Return what `draw_index` draws of a sweep's rows, or of a census's."""
    ranked = "rank" in rows.column_names and rows["rank"].null_count < rows.num_rows
    colour = "rank" if ranked else "nullity"
    index, loss, shown = (floats(rows[name]) for name in ("index", "loss", colour))
    return Points(index, loss, np.nan_to_num(shown), np.array(rows["verdict"].to_pylist(), dtype=str), colour)


def plain(verdict: str) -> str:
    """Return a verdict in words."""
    return verdict.replace("_", " ").lower()
