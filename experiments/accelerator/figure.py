"""The figure of `experiments.accelerator`: rates of starts, of the device, and rows that differ."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from experiments.common import COLOURS, MARKERS, STYLE

TARGETS = ("minima", "saddles")
DONE = {"searched": "searched again", "judged": "judged again"}


def plot(facts: dict[str, Any], made_by: dict[str, Any]) -> plt.Figure:
    """Draw judged starts a second against the batch for each size, the device's rates, and what differs."""
    sizes = sorted({(r["K"], r["n"], r["d"]) for r in facts["rates"]})
    device = made_by.get("device", "No device found")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.2), squeeze=False)
        for ax, at in zip(axes[0], [*sizes, None, None], strict=False):
            _rates(ax, [r for r in facts["rates"] if (r["K"], r["n"], r["d"]) == at], at)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
        _device(axes[1, 0], facts["device_rates"])
        _checks(axes[1, 1], facts["checks"])
        figure.suptitle(f"{device}: judged starts per second in float64, and the CPU's rows again")
    return figure


def _rates(ax: plt.Axes, rows: list[dict[str, Any]], sizes: tuple[int, int, int] | None) -> None:
    if sizes is None:
        ax.set_visible(False)
        return
    for i, target in enumerate(TARGETS):
        own = [r for r in rows if r["target"] == target]
        needed = sorted((r for r in own if r["spectra"] == "needed"), key=lambda r: r["lanes"])
        kinds: dict[str, tuple[list[dict[str, Any]], str, dict[str, Any]]] = {
            f"toward {target}": (needed, "starts_per_s", {"ls": "-"}),
            "with compilation": (needed, "starts_per_s_first", {"ls": ":", "mfc": "white"}),
            "every spectrum": (
                [r for r in own if r["spectra"] == "all"],
                "starts_per_s",
                {"ls": "", "marker": "*", "ms": 10, "mec": "black", "mew": 0.5},
            ),
        }
        for label, (some, key, how) in kinds.items():
            style: Any = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 5, "label": label} | how
            if some:
                ax.plot([r["lanes"] for r in some], [r[key] for r in some], **style)
    usual = [(r["lanes"], r["starts_per_s"]) for r in rows if r["own"]]
    if usual:
        ring: Any = {"color": "black", "mfc": "none", "ms": 11, "label": "the package's own batch"}
        ax.plot(*zip(*usual, strict=True), "o", **ring)
    K, n, d = sizes
    ax.set(xscale="log", yscale="log", title=f"K = {K}, n = {n}, d = {d}")
    lanes = sorted({r["lanes"] for r in rows})
    ax.set_xticks(lanes, [f"{n:,}" for n in lanes], rotation=30, ha="right", fontsize=7)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.1, y=0.1)
    ax.set(xlabel="starts of one call, a device", ylabel="judged starts per second")


def _device(ax: plt.Axes, rates: dict[str, dict[str, float]]) -> None:
    units = {"operations_per_s": "Gflop/s", "bytes_per_s": "GB/s"}
    bars = [(what, value / 1e9, unit) for unit in units for what, value in rates.get(unit, {}).items()]
    for y, (_, value, unit) in enumerate(bars):
        i = list(units).index(unit)
        ax.plot(value, y, MARKERS[i], color=COLOURS[2 + i])
        shown = f"{value:,.0f}" if value >= 1e3 else f"{value:.3g}"
        ax.annotate(f"  {shown} {units[unit]}", (value, y), va="center", fontsize=7)
    ax.grid(axis="y", lw=0.4, color="0.85")
    ax.set_yticks(range(len(bars)), [what for what, *_ in bars], fontsize=7)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.3, y=0.08)
    ax.set(xlabel="matrix products (Gflop/s) and copies (GB/s)", title="The device's own rates in float64")
    ax.set_visible(bool(bars))


def _checks(ax: plt.Axes, checks: list[dict[str, Any]]) -> None:
    for y, c in enumerate(checks):
        ax.barh(y, 100 * c["differ"] / c["rows"], color=COLOURS[0] if c["holds"] else COLOURS[1])
        ax.plot([100 * c["allowed"] / c["rows"]] * 2, [y - 0.4, y + 0.4], color="black", lw=1)
        share = f" {c['differ']:,} of {c['rows']:,}, {c['allowed']:,} allowed"
        ax.annotate(share, (100 * max(c["differ"], c["allowed"]) / c["rows"], y), va="center", fontsize=7)
    names = [f"{c['target']}, K = {c['K']}, {DONE[c['check']]}" for c in checks]
    ax.set_yticks(range(len(checks)), names, fontsize=7)
    ax.invert_yaxis()
    most = max((100 * max(c["differ"], c["allowed"]) / c["rows"] for c in checks), default=0.0)
    ax.set_xlim(0, 2.2 * max(most, 0.1))
    ax.set(xlabel="% of rows (line: allowed)", title="Rows that differ from the CPU's")
    ax.set_visible(bool(checks))
