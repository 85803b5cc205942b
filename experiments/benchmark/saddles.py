"""Critical points of any index: how many starts a second, how many end judged, what is found."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.benchmark.contend import contend, json_of, limit_lines
from experiments.benchmark.settings import LARGE, SMALL
from experiments.common import COLOURS, STYLE, Scale

LABELS = {
    "scipy-lm-plain": "(a) SciPy lm, its defaults, d coordinates",
    "scipy-lm": "(b) SciPy lm, tuned, K − 1 coordinates",
    "scipy-lm-rank": "(c) SciPy lm, tuned, the start's own rank",
    "scipy-hybr": "(d) SciPy hybr, tuned, K − 1 coordinates",
    "optimistix-lm": "(e) optimistix LM, vmapped",
    "ours-saddles": "(f) ufm_jax",
    "ours-saddles-spectra": "(f) with every spectrum",
}
# Starts and repeats. optimistix takes 2 s of a core a start at K = 10.
MAIN = {
    SMALL: {"scipy-lm-plain": (800, 2), "scipy-lm": (800, 2), "scipy-lm-rank": (800, 2),
            "scipy-hybr": (800, 2), "optimistix-lm": (512, 2),
            "ours-saddles": (16384, 3), "ours-saddles-spectra": (4096, 1)},
    LARGE: {"scipy-lm-plain": (100, 1), "scipy-lm": (200, 1), "scipy-lm-rank": (200, 1),
            "scipy-hybr": (200, 1), "optimistix-lm": (16, 1),
            "ours-saddles": (2048, 2), "ours-saddles-spectra": (256, 1)},
}  # fmt: skip
SMOKE = {"scipy-lm": (20, 1), "scipy-lm-rank": (20, 1), "ours-saddles": (512, 1)}
PEERS = ("scipy-lm-plain", "scipy-lm", "scipy-lm-rank")  # that ratios are against


def run(scale: Scale) -> dict[str, Any]:
    """Measure everything; smoke has the fast contenders, few starts and no limits."""
    if scale == "smoke":
        return {"main": [contend(name, SMALL, *how) for name, how in SMOKE.items()], "limits": []}
    main = [contend(name, sizes, *how) for sizes, all_ in MAIN.items() for name, how in all_.items()]
    return {"main": main, "limits": json_of("experiments.limits", "saddles")["limits"]}


def table(result: dict[str, Any]) -> str:
    """Return starts a second, ratios to SciPy's lm, and what the referee says."""
    ratios = [f"x {LABELS[p][:3]}" for p in PEERS]
    heads = ("", "K", "starts/s", "first call", *ratios, "MiB", "accepted", "refused", "values")
    rows: list[tuple[str, ...]] = [heads]
    for row in result["main"]:
        peers = {r["contender"]: r["us_a_start"] for r in result["main"] if r["K"] == row["K"]}
        rows.append(
            (
                LABELS[row["contender"]],
                str(row["K"]),
                f"{1e6 / row['us_a_start']:,.4g}" if row["warm_s"] else "-",
                f"{1e6 / row['us_a_start_first']:,.4g}",
                *(f"{peers[p] / row['us_a_start']:.1f}" if p in peers else "-" for p in PEERS),
                f"{row['peak_mib']:.0f}",
                f"{row['accepted']}/{row['refereed']}",
                str(row["refused"]),
                f"{row['distinct']} of {row['distinct_of']}",
            )
        )
    lines = ["  ".join(c.ljust(40) if i == 0 else c.rjust(10) for i, c in enumerate(r)) for r in rows]
    about = (
        "accepted: critical, and the saddle or minimum it is said to be; refused: said to be, and is not;",
        "values: critical values, different by 1e-8, that the first starts reach",
    )
    return "\n".join([*lines, *about, "", *limit_lines(result["limits"])])


def plot(result: dict[str, Any]) -> plt.Figure:
    """Draw starts a second, the share of starts that is lost, and the share of the machine's rates."""
    rows, limits = result["main"], [r for r in result["limits"] if r["what"] != "machine"]
    names = [name for name in LABELS if any(r["contender"] == name for r in rows)]
    with plt.rc_context(STYLE):
        count = 3 if limits else 2
        ratios = (1.6, 1.0, 1.0)[:count]
        figure, axes = plt.subplots(1, count, figsize=(4.0 * count, 3.6), width_ratios=ratios)
        sizes = sorted({r["K"] for r in rows})
        for i, K in enumerate(sizes):
            own = {r["contender"]: r for r in rows if r["K"] == K}
            places = np.arange(len(names)) + 0.4 * i - 0.2 * (len(sizes) - 1)
            rates = [1e6 / own[name]["us_a_start"] if name in own else np.nan for name in names]
            lost = [100 * _lost(own[name]) if name in own else np.nan for name in names]
            n, d = next((r["n"], r["d"]) for r in own.values())
            axes[0].barh(places, rates, 0.38, color=COLOURS[i], label=f"K = {K}, n = {n}, d = {d}")
            axes[1].barh(places, lost, 0.38, color=COLOURS[i])
            for ax, values in ((axes[0], rates), (axes[1], lost)):
                for y, v in zip(places, values, strict=True):
                    ax.annotate(f" {v:,.3g}" if v < 1e3 else f" {v:,.0f}", (v, y), va="center", fontsize=7)
        axes[0].set_yticks(range(len(names)), [LABELS[name] for name in names], fontsize=7)
        axes[1].set_yticks([])
        axes[0].set_xscale("log")
        axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2, fontsize=7)
        axes[0].set_xlabel("judged starts per second")
        axes[1].set_xlabel("% of starts not accepted")
        if limits:
            axes[2].barh(range(len(limits)), [100 * r["share_of_limit"] for r in limits], color=COLOURS[2])
            axes[2].set_yticks(range(len(limits)), [f"{r['what']}, K = {r['K']}" for r in limits], fontsize=7)
            axes[2].set_xlabel("% of the machine's rate")
        for ax in axes:
            ax.invert_yaxis()
            ax.margins(x=0.3)
        figure.suptitle("Critical points of any index, found and judged, from the same starts")
    return figure


def _lost(row: dict[str, Any]) -> float:
    return 1 - row["accepted"] / row["refereed"]
