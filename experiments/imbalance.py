"""Angles and lengths where classes are of unequal counts, for four losses: which of them restore the simplex?

    python -m experiments.imbalance --scale smoke|default|paper

Half of the classes have R times as many samples as the others. `Imbalanced` is a landscape whose counts may
be any numbers, so that one program is compiled for all ratios R and losses; its rows are certified. Drawn at
its global minimum: angles and lengths of W and H, the ratios from which groups of classes merge, and how far
W, H and their product are from a simplex, against the ratio and against the decays.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up
from ufm_jax.models.unconstrained.geometry import distance_to_simplex

# Exponents: weights ω_k ∝ n_k^-weight of mean 1 over samples, offsets τ log(n_k/N), temperatures
# (n_k/max n)^power. As `ufm.class_balanced`, `ufm.logit_adjusted`, `ufm.vector_scaling` with their defaults.
LOSSES: dict[str, dict[str, float]] = {
    "cross-entropy": {},
    "class-balanced": {"weight": 1.0},
    "logit-adjusted": {"tau": 1.0},
    "vector-scaling": {"tau": 1.0, "power": 0.25},
}

GROUPS = {"large": "two large classes", "small": "two small classes", "mixed": "one of each"}
FAR = "distance from a simplex"
DEAD = 1e-6  # shorter than this, relative to the longest, is 0: descents end within about 1e-10
DECAYS, AT_RATIO = (1e-9, 3e-2), 10.0  # of the panel against the decays
FINE = 10_000  # ratios among which thresholds are looked for, 0.1% apart


@dataclass(frozen=True)
class Config:
    """Classes (half of them large), samples of a small one, decays λ_W = λ_H and λ_b, ratios, descents."""

    num_classes: int
    minority: float
    decay: float
    decay_b: float
    ratios: int
    starts: int
    largest: float = 3e3


SCALES: dict[Scale, Config] = {
    "smoke": Config(4, 10.0, 5e-3, 1e-2, 3, 2),
    "default": Config(6, 10.0, 1.5e-3, 1e-2, 31, 2),
    "paper": Config(10, 10.0, 1.5e-3, 1e-2, 61, 10),
}


class Means(NamedTuple):
    """Classifier, class means of the features, and bias."""

    W: Float[Array, "K d"]
    H: Float[Array, "d K"]
    b: Float[Array, " K"]


class Imbalanced(ufm.Landscape):
    """Weighted, shifted and scaled cross-entropy on class means, of counts n R (the first half) and n.

    (1/N) Σ_k n_k ω_k [log Σ_j e^{Δ_j z_jk + ι_j} − Δ_k z_kk − ι_k] + λ/2 (‖W‖² + Σ_k n_k ‖h_k‖²)
    + λ_b/2 ‖b‖².
    """

    ratio: Float[Array, "..."]
    weight: Float[Array, "..."]
    tau: Float[Array, "..."]
    power: Float[Array, "..."]
    minority: Float[Array, "..."]
    decay: Float[Array, "..."]
    decay_b: Float[Array, "..."]
    num_classes: int = ufm.static()

    def zeros(self) -> Means:
        K, dtype = self.num_classes, self.decay.dtype
        return Means(jnp.zeros((K, K - 1), dtype), jnp.zeros((K - 1, K), dtype), jnp.zeros(K, dtype))

    @property
    def counts(self) -> Float[Array, " K"]:
        large = jnp.arange(self.num_classes) < self.num_classes // 2
        return self.minority * jnp.where(large, self.ratio, 1.0)

    @property
    def weights(self) -> Float[Array, " K"]:
        """Return ω; Σ n_k ω_k = N."""
        raw = self.counts**-self.weight
        return raw * jnp.sum(self.counts) / jnp.sum(self.counts * raw)

    @property
    def temperatures(self) -> Float[Array, " K"]:
        return (self.counts / jnp.max(self.counts)) ** self.power

    @property
    def thresholds(self) -> Float[Array, " K"]:
        """Return the s from which classes of a group merge: ω_k Δ_k √n_k/N (derived for this project).

        √n_k/N for cross-entropy (Hong & Ling 2023). On differences within a group the gradient in Z is the
        same at all points that merge it, and this is its only singular value there.
        """
        return self.weights * self.temperatures * jnp.sqrt(self.counts) / jnp.sum(self.counts)

    def logits(self, x: Means) -> Float[Array, "K K"]:
        return x.W @ x.H + x.b[:, None]

    def data(self, Z: Float[Array, "K K"]) -> Float[Array, ""]:
        """Return the loss without the decays."""
        n, offsets = self.counts, self.tau * jnp.log(self.counts / jnp.sum(self.counts))
        scores = self.temperatures[:, None] * Z + offsets[:, None]
        apart = scores - jnp.diag(scores)
        others = jnp.where(jnp.eye(len(Z), dtype=bool), -jnp.inf, apart)
        top = jnp.maximum(jnp.max(others, axis=0), 0.0)
        own = top + jnp.log(jnp.exp(-top) + jnp.sum(jnp.exp(others - top), axis=0))
        small = jnp.log1p(jnp.sum(jnp.exp(jnp.minimum(others, 0.0)), axis=0))
        return jnp.sum(n * self.weights * jnp.where(top > 0, own, small)) / jnp.sum(n)

    def value(self, x: Means) -> Float[Array, ""]:
        lengths = jnp.sum(x.W**2) + jnp.sum(self.counts * x.H**2)
        return self.data(self.logits(x)) + self.decay / 2 * lengths + self.decay_b / 2 * jnp.sum(x.b**2)

    def tangents(self, x: Means) -> Means:
        """Return (W A, −A H, 0) for a basis of the skew matrices A."""
        d = self.num_classes - 1
        i, j = np.triu_indices(d, 1)
        skew = np.zeros((len(i), d, d))
        skew[np.arange(len(i)), i, j], skew[np.arange(len(i)), j, i] = 1.0, -1.0
        A = jnp.asarray(skew, x.W.dtype)
        moved = jnp.einsum("kr,crs->cks", x.W, A), -jnp.einsum("crs,sk->crk", A, x.H)
        return Means(*moved, jnp.zeros((len(i), len(x.b)), x.b.dtype))

    def lower_bound(self, x: Means) -> Float[Array, ""]:
        """Return c (g − ⟨G, Z⟩) − c² ‖G 1‖²/(2 λ_b), G = ∂g/∂Z, c = min(1, λ/‖G diag(n)^-½‖₂).

        g is convex and not below 0, and c ⟨G, W H⟩ + λ ‖W diag(n)^½ H‖_* ≥ 0.
        """
        Z = self.logits(x)
        g, G = jax.value_and_grad(self.data)(Z)
        c = jnp.minimum(1.0, self.decay / jnp.linalg.norm(G / jnp.sqrt(self.counts), 2))
        return c * (g - jnp.sum(G * Z)) - c**2 * jnp.sum(jnp.sum(G, axis=1) ** 2) / (2 * self.decay_b)

    def measures(self, x: Means) -> dict[str, Array]:
        """Return cosines within and between the groups, lengths, and distances to a simplex.

        H is taken from the mean of the class means. A cosine with a class of length 0 is NaN.
        """
        K = self.num_classes
        centred = x.H - jnp.mean(x.H, axis=1, keepdims=True)
        out = {"merged": jnp.linalg.norm(x.W[K - 2] - x.W[K - 1])}
        for name, rows, whole in (("w", x.W, x.W), ("h", centred.T, x.H.T)):
            lengths, length = jnp.linalg.norm(rows, axis=1), jnp.linalg.norm(whole, axis=1)
            alive = jnp.linalg.norm(whole, axis=1) > DEAD * jnp.max(length)
            pairs = {"large": (0, 1), "mixed": (0, K - 1), "small": (K - 2, K - 1)}
            for group, (i, j) in pairs.items():
                cosine = rows[i] @ rows[j] / jnp.maximum(lengths[i] * lengths[j], DEAD**2)
                out[f"cos_{name}_{group}"] = jnp.where(alive[i] & alive[j], cosine, jnp.nan)
            out |= {f"len_{name}_large": length[0], f"len_{name}_small": length[K - 1]}
            out[f"far_{name}"] = distance_to_simplex(rows @ rows.T)
        return out | {"far_wh": distance_to_simplex(x.W @ centred)}


def landscape_of(config: Config, name: str) -> Imbalanced:
    """Return the landscape of a loss by its name, at ratio 1."""
    exponents = {"weight": 0.0, "tau": 0.0, "power": 0.0} | LOSSES[name]
    fields = {"ratio": 1.0, "minority": config.minority, "decay": config.decay, "decay_b": config.decay_b}
    leaves = {key: jnp.asarray(value) for key, value in (fields | exponents).items()}
    return Imbalanced(**leaves, num_classes=config.num_classes)


def run(config: Config) -> dict[str, dict[str, Any]]:
    """Descend at each ratio, and at each decay, for each loss: what is measured at the global minimum."""
    ratios, out = np.geomspace(1.0, config.largest, config.ratios), {}
    decays = np.geomspace(*DECAYS, config.ratios)
    for name in LOSSES:
        landscape = landscape_of(config, name)
        by_ratio = ufm.grid(landscape, ratio=ratios)
        steeper = replace(landscape, ratio=jnp.asarray(AT_RATIO))
        out[name] = {
            "by_ratio": minima(by_ratio, config),
            "by_decay": minima(ufm.grid(steeper, decay=decays), config),
            "merge_at": merging_ratios(landscape, config),
        }
        print(f"{name}: {_said(out[name])}", flush=True)
    return out


def minima(grid: ufm.Grid, config: Config) -> dict[str, Any]:
    """Return measures at the lowest end of descents at each setting, and how many ends were certified."""
    table = ufm.sweep(grid, starts=config.starts).table
    rows = sorted(table.to_pylist(), key=lambda row: row["loss"])
    x = next(iter(grid.columns))
    lowest = {row[x]: row for row in reversed(rows)}
    keys = [x, "merged", *(key for key in rows[0] if key.startswith(("cos_", "len_", "far_")))]
    verdicts = [row["verdict"] for row in rows]
    told = {key: [lowest[at][key] for at in sorted(lowest)] for key in keys}
    return told | {"certified": verdicts.count("GLOBAL_MINIMUM"), "descents": len(verdicts)}


def merging_ratios(landscape: Imbalanced, config: Config) -> dict[str, float | None]:
    """Return the ratio from which classes of each group merge at this decay; None: at none looked at."""
    ratios = np.geomspace(1.0, config.largest, FINE)
    at = jax.vmap(lambda ratio: replace(landscape, ratio=ratio).thresholds)(jnp.asarray(ratios))
    merged = np.asarray(at)[:, [0, -1]] <= config.decay
    first = [float(ratios[column.argmax()]) if column.any() else None for column in merged.T]
    return dict(zip(("large", "small"), first, strict=True))


def _said(told: dict[str, Any]) -> str:
    parts = [told["by_ratio"], told["by_decay"]]
    certified, all_ = (sum(part[key] for part in parts) for key in ("certified", "descents"))
    merge = ", ".join(f"{group} from {at:.1f}" for group, at in told["merge_at"].items() if at is not None)
    return f"{certified} of {all_} descents certified; classes merge: {merge or 'none'}"


def plot(told: dict[str, dict[str, Any]], config: Config) -> plt.Figure:
    """Draw cross-entropy's angles and lengths, and what sets the losses apart."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.4))
        ce = told["cross-entropy"]["by_ratio"]
        for i, (group, label) in enumerate(GROUPS.items()):
            for matrix, style in (("w", "-"), ("h", "--")):
                line = f"{matrix.upper()}, {label}"
                axes[0, 0].plot(
                    ce["ratio"], _values(ce, f"cos_{matrix}_{group}"), style, color=COLOURS[i], label=line
                )
                if group != "mixed":
                    lengths = _values(ce, f"len_{matrix}_{group}")
                    axes[0, 1].plot(ce["ratio"], lengths / lengths[0], style, color=COLOURS[i], label=line)
        axes[0, 0].set(title="cross-entropy: angles", ylabel="cosine")
        axes[0, 1].set(title="cross-entropy: lengths", ylabel="length / length at R = 1")
        simplex = -1 / (config.num_classes - 1)
        for ax in (axes[0, 0], axes[0, 2]):
            ax.axhline(simplex, color="0.6", linewidth=0.8)
        for ax in axes[0, :2]:
            _mark(ax, told["cross-entropy"]["merge_at"], "0.4")
        panels = (
            (axes[0, 2], "by_ratio", "cos_w_small", "minority rows of W", "cosine"),
            (axes[1, 0], "by_ratio", "far_w", "W (solid) and H (dashed)", FAR),
            (axes[1, 1], "by_ratio", "far_wh", "logits W H", FAR),
            (axes[1, 2], "by_decay", "far_wh", f"logits W H, R = {AT_RATIO:g}", FAR),
        )
        for ax, part, key, title, label in panels:
            for i, (name, one) in enumerate(told.items()):
                x = one[part]["ratio" if part == "by_ratio" else "decay"]
                look = {"color": COLOURS[i], "markersize": 3, "markevery": max(1, len(x) // 8)}
                ax.plot(x, _values(one[part], key), "-" + MARKERS[i], label=name, **look)
                if key == "far_w":
                    ax.plot(x, _values(one[part], "far_h"), "--", color=COLOURS[i])
                if key == "cos_w_small":
                    _mark(ax, {"small": one["merge_at"]["small"]}, COLOURS[i])
            ax.set(title=title, ylabel=label)
        for ax in axes.flat:
            ax.set(xscale="log", xlabel="ratio of counts R")
        axes[1, 2].set_xlabel("λ_W = λ_H")
        axes[0, 0].legend(fontsize=7, loc="upper left")
        axes[0, 1].legend(fontsize=7)
        figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        sizes = f"{config.num_classes} classes, half of them of {config.minority:g} R samples"
        figure.suptitle(
            f"{sizes}, half of {config.minority:g}; λ_W = λ_H = {config.decay:g}, λ_b = {config.decay_b:g}. "
            "Vertical lines: classes merge from here",
            fontsize=9,
        )
        return figure


def _values(part: dict[str, Any], key: str) -> np.ndarray:
    return np.array(part[key], float)  # None becomes NaN


def _mark(ax: Any, merge_at: dict[str, float | None], colour: str) -> None:
    for ratio in merge_at.values():
        if ratio is not None:
            ax.axvline(ratio, color=colour, linewidth=0.8, linestyle=":")


def main(scale: Scale = "default") -> None:
    """Descend, print what was found, and draw figures/imbalance.png and .pdf beside imbalance.json."""
    set_up()
    config = SCALES[scale]
    told = run(config)
    for name, one in told.items():
        part = one["by_ratio"]
        places = [int(np.argmin(np.abs(np.log(np.array(part["ratio"]) / R)))) for R in (3, 10, 30, 100)]
        far = ", ".join(f"{part['far_wh'][i]:.3f} at R = {part['ratio'][i]:.3g}" for i in places)
        print(f"{name}: logits are {far} from a simplex")
    save(partial(plot, told, config), "imbalance", scale, config=asdict(config), losses=LOSSES, found=told)


if __name__ == "__main__":
    cli(main)
