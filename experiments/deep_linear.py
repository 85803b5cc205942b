"""Linear layers: which configuration is lowest over (K, L, λ), what descents find, the origin's basin.

    python -m experiments.deep_linear --scale smoke|default|paper

Cross-entropy, balanced classes, n = 1, no bias, one decay λ. Above, a map for each L: the lowest of the
origin and all critical values in closed form (`models.deep_linear_forms`). Below: where descents from random
starts end, as f over that of the simplex; and, for starts of balanced factors and a given size of the logits,
the share of gradient flows that falls to the origin, which for L ≥ 2 is a strict local minimum.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up
from ufm_jax.models.deep_linear import Layers
from ufm_jax.models.deep_linear_forms import symmetric_values
from ufm_jax.numerics.lanes import each_lane


@dataclass(frozen=True)
class Config:
    """Classes and layers of the map and how many decays it has; (K, L) of descents and decay; starts."""

    classes: tuple[int, ...]
    layers: tuple[int, ...]
    decays: int
    searched: tuple[tuple[int, int], ...]
    starts: int
    scales: int  # sizes of starts of the origin's basin
    basin: tuple[tuple[int, int], ...]
    decay: float = 2.0**-10


FEW = ((4, 2), (4, 3), (5, 2), (5, 3), (6, 2), (6, 3))
SCALES: dict[Scale, Config] = {
    "smoke": Config((3, 4), (1, 2), 4, ((3, 2),), 8, 3, ((3, 2),)),
    "default": Config(tuple(range(3, 9)), (1, 2, 3, 4), 25, FEW, 48, 13, ((4, 1), (4, 2), (4, 3))),
    "paper": Config(
        classes=tuple(range(3, 13)),
        layers=(1, 2, 3, 4, 5),
        decays=41,
        searched=(*FEW, (7, 2), (7, 3), (8, 2), (8, 3)),
        starts=400,
        scales=17,
        basin=((4, 1), (4, 2), (4, 3), (6, 2), (6, 3)),
    ),
}
DECAYS = (1e-6, 1.0)
SIZES = (1e-11, 1e-1)  # of the logits of starts, ‖Z‖_F/√K
HORIZON, STILL = 1e7, 1e-7  # of flows: their longest time, ‖∇f‖ where they end
NEAR = 1e-6  # of log K: there f is within ‖∇f‖²/(2 λ) of it
SAME = 1e-9  # values of f that are one: descents come down to ‖∇f‖ of 1e-11 in units
FAMILIES = ("simplex", "pairs", "pyramid", "one polygon", "other sums", "origin")


def family(name: str, num_classes: int) -> str:
    """Return the kind of a configuration, from its name."""
    if name == f"simplex({num_classes})":
        return "simplex"
    if name == f"orthoplex({num_classes})":
        return "pairs"
    if name == f"polygon({num_classes})":
        return "one polygon"
    return (
        "pyramid"
        if name.startswith(("pyramid", "ordered"))
        else "origin"
        if name == "origin"
        else "other sums"
    )


def lowest(num_classes: int, num_layers: int, decay: float) -> tuple[str, float]:
    """Return name and value of the lowest of the origin and all critical points in closed form."""
    values = symmetric_values(num_classes, num_layers, decay, 1, num_classes)
    return min({**values, "origin": float(np.log(num_classes))}.items(), key=lambda one: one[1])


def the_map(config: Config) -> list[dict[str, Any]]:
    """Return the lowest configuration at each (L, K, λ)."""
    rows = []
    for L in config.layers:
        for K in config.classes:
            for decay in np.geomspace(*DECAYS, config.decays):
                name, value = lowest(K, L, float(decay))
                rows.append({"K": K, "L": L, "decay": float(decay), "name": name, "loss": value})
    return rows


def descents(config: Config, K: int, L: int) -> dict[str, Any]:
    """Return the distinct ends of descents, and how many are minima above the lowest."""
    landscape = ufm.DeepLinear(decay=jnp.asarray(config.decay), num_classes=K, num_layers=L)
    found = ufm.sweep(landscape, starts=config.starts).orbits.to_pylist()
    known = symmetric_values(K, L, config.decay, 1, K)
    rows = []
    for row in found:
        name = min(known, key=lambda name: abs(known[name] - row["loss"]))
        listed = abs(known[name] - row["loss"]) <= SAME
        at_origin = abs(row["loss"] - np.log(K)) <= SAME
        called = "origin" if at_origin else name if listed else "not listed"
        rows.append({"loss": row["loss"], "hits": row["hits"], "verdict": row["verdict"], "name": called})
    minima = sum(row["verdict"] == "LOCAL_MINIMUM" for row in rows)
    first = next(iter(known.items()))
    lowest_found = rows[0]["loss"] - first[1]
    print(
        f"K = {K}, L = {L}: {minima} local minima among {len(rows)} orbits; the lowest, {rows[0]['name']}, "
        f"is {lowest_found:+.1e} from {first[0]}; ends: {Counter({r['name']: r['hits'] for r in rows})}",
        flush=True,
    )
    simplex = known[f"simplex({K})"]
    return {"K": K, "L": L, "minima": minima, "orbits": rows, "known": known, "simplex": simplex}


def basin(config: Config, K: int, L: int) -> dict[str, Any]:
    """Return the share of gradient flows that end at the origin, against the size of the logits at the start.

    Flows, not descents, whose long first steps jump out of it.
    """
    landscape = ufm.DeepLinear(decay=jnp.asarray(config.decay), num_classes=K, num_layers=L)
    sizes = np.geomspace(*SIZES, config.scales)
    keys = jax.random.split(jax.random.key(1), config.starts // 2)
    drawn = jax.vmap(landscape.start)(keys)
    norm = jnp.linalg.norm(jax.vmap(landscape.logits)(drawn), axis=(1, 2)) / K**0.5
    starts = [scaled(drawn, size / norm, L) for size in sizes]
    ends, slopes = _flows(landscape, jax.tree.map(lambda *parts: jnp.concatenate(parts), *starts))
    at_origin = np.where(np.asarray(slopes) <= STILL, np.abs(np.asarray(ends) - np.log(K)) <= NEAR, np.nan)
    shares = at_origin.reshape(len(sizes), -1).mean(axis=1)
    half = np.flatnonzero(shares < 0.5)
    told = f"{sizes[half[0]]:.3g} on" if half.size else "none looked at"
    print(f"K = {K}, L = {L}: half of the flows escape the origin from logits of size {told}", flush=True)
    return {"K": K, "L": L, "sizes": sizes.tolist(), "shares": shares.tolist()}


@jax.jit
def _flows(landscape: ufm.DeepLinear, starts: Layers) -> tuple[Any, Any]:
    def one(x: Layers) -> tuple[Any, Any]:
        path = ufm.gradient_flow(
            landscape.value, x, jnp.array([0.0, HORIZON]), gtol=STILL, rtol=1e-6, atol=1e-9
        )
        return path.values[-1], path.grad_norms[-1]

    return each_lane(one)(starts)


def barrier(num_classes: int, num_layers: int, decay: float) -> float:
    """Return the size of the logits beyond which f falls along the best direction of rank 1, for L ≥ 2.

    To first order f = log K − σ/K + (L + 1) λ/2 σ^{2/(L+1)}, which is highest where σ^{(L−1)/(L+1)} = λ K.
    """
    sigma = (decay * num_classes) ** ((num_layers + 1) / (num_layers - 1))
    return float(sigma / num_classes**0.5)


def scaled(drawn: Layers, factor: Any, num_layers: int) -> Layers:
    """Return starts whose logits are `factor` times as large, every factor by as much."""
    each = factor ** (1.0 / (num_layers + 1))
    return jax.tree.map(lambda a: a * each.reshape(-1, *[1] * (a.ndim - 1)), drawn)


def run(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Compute the map, make the descents, and measure the basins."""
    return {
        "map": the_map(config),
        "descents": [descents(config, K, L) for K, L in config.searched],
        "basins": [basin(config, K, L) for K, L in config.basin],
    }


def plot(told: dict[str, list[dict[str, Any]]], config: Config) -> plt.Figure:
    """Draw a map for each L, where descents end, and the origin's basin."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10.5, 6.6))
        above, below = cast(Any, figure).subfigures(2, 1, height_ratios=(1.15, 1))
        for ax, L in zip(
            above.subplots(1, len(config.layers), sharey=True, squeeze=False)[0], config.layers, strict=True
        ):
            _draw_map(ax, [row for row in told["map"] if row["L"] == L], L, config)
        above.axes[0].set_ylabel("classes K")
        handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i]) for i in range(len(FAMILIES))]
        above.legend(handles, FAMILIES, loc="outside lower center", ncols=len(FAMILIES))
        left, right = below.subplots(1, 2, width_ratios=(1.5, 1))
        _draw_ends(left, told["descents"], config)
        for i, one in enumerate(told["basins"]):
            label = f"K = {one['K']}, L = {one['L']}"
            if one["L"] > 1:
                right.axvline(barrier(one["K"], one["L"], config.decay), color=COLOURS[i], lw=0.8, ls=":")
            right.plot(one["sizes"], one["shares"], "-" + MARKERS[i], color=COLOURS[i], ms=4, label=label)
        right.set(xscale="log", xlabel="size of the logits at the start", ylim=(-0.03, 1.03))
        right.set(ylabel="share of flows", title="gradient flows that end at the origin; dotted: its barrier")
        right.legend()
        return figure


def _draw_map(ax: Any, rows: list[dict[str, Any]], L: int, config: Config) -> None:
    kinds = {(row["K"], row["decay"]): FAMILIES.index(family(row["name"], row["K"])) for row in rows}
    decays = sorted({row["decay"] for row in rows})
    cells = [[kinds[K, decay] for decay in decays] for K in config.classes]
    step = (decays[1] / decays[0]) ** 0.5
    edges = np.append(np.array(decays) / step, decays[-1] * step)
    rows_at = np.append(np.array(config.classes), config.classes[-1] + 1) - 0.5
    colours = ListedColormap(COLOURS[: len(FAMILIES)])
    ax.pcolormesh(edges, rows_at, cells, cmap=colours, vmin=-0.5, vmax=len(FAMILIES) - 0.5, alpha=0.85)
    for one in (one for one in config.searched if one[1] == L):
        ax.plot(config.decay, one[0], "o", color="black", mfc="none", ms=6)
    ax.set(xscale="log", xlabel="λ", title=f"L = {L}", yticks=config.classes)
    ax.tick_params(which="minor", bottom=False)


def _draw_ends(ax: Any, told: list[dict[str, Any]], config: Config) -> None:
    """Draw ends as f over that of the simplex; areas grow with the share of descents."""
    for place, one in enumerate(told):
        for row in (row for row in one["orbits"] if row["name"] != "origin"):
            listed = row["name"] != "not listed"
            colour = COLOURS[FAMILIES.index(family(row["name"], one["K"]))] if listed else "0.4"
            size = 15 + 250 * row["hits"] / config.starts
            minimum = row["verdict"] == "LOCAL_MINIMUM"
            look = {"facecolors": colour if minimum else "none", "edgecolors": colour, "alpha": 0.8}
            ax.scatter(place, row["loss"] / one["simplex"], size, marker="o" if listed else "s", **look)
    ax.axhline(1.0, color="0.6", lw=0.8, zorder=0)
    ax.set_xticks(range(len(told)), [f"{o['K']}, {o['L']}\n{o['minima']}" for o in told])
    ax.set(
        xlabel="K, L; below: distinct local minima found, the origin among them",
        ylabel="f / f of the simplex",
    )
    ax.set_title(f"ends of descents, λ = {config.decay:.3g} (squares: on no list)")
    ax.margins(x=0.08, y=0.12)


def main(scale: Scale = "default") -> None:
    """Compute, print what was found, and draw figures/deep_linear.png and .pdf."""
    set_up()
    config = SCALES[scale]
    told = run(config)
    save(partial(plot, told, config), "deep_linear", scale, config=asdict(config), **told)


if __name__ == "__main__":
    cli(main)
