"""The main job: every minimum found is global, and every other critical point found is a strict saddle.

    python -m experiments.landscape --scale smoke|default|paper

A sweep toward minima (over all features) and one toward saddles, for K = 4 and K = 10; the verdict table; and
four figures: loss against Morse index, smallest eigenvalue against duality gap, the Hessian's spectral
density, and class means moving to the simplex ETF along gradient flow.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.common import COLOURS, MARKERS, Scale, cli, save, set_up
from ufm_jax.landscape.flat import hessian, oracle
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.starts import gaussian
from ufm_jax.numerics.density import smoothed, spectral_density
from ufm_jax.numerics.flow import gradient_flow
from ufm_jax.report.progress import Reporter
from ufm_jax.report.table import verdict_table
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.plan import SweepConfig


@dataclass(frozen=True)
class Config:
    """Sizes (K, n, d) and the number of starts toward minima and saddles of each."""

    minima: tuple[int, int]
    saddles: tuple[int, int]
    sizes: tuple[tuple[int, int, int], ...] = ((4, 5, 6), (10, 20, 16))
    decay: float = 5e-4
    decay_b: float = 1e-2
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(minima=(50, 5), saddles=(100, 20)),
    "default": Config(minima=(1000, 200), saddles=(2000, 400)),
    "paper": Config(minima=(10_000, 2_000), saddles=(50_000, 10_000)),
}


def run(config: Config) -> dict[int, pa.Table]:
    """Return the rows of both sweeps for each K."""
    tables = {}
    for (K, n, d), minima, saddles in zip(config.sizes, config.minima, config.saddles, strict=True):
        parts = []
        for target, starts in (("minima", minima), ("saddles", saddles)):
            plan = SweepConfig(
                counts=(n,) * K,
                dim=d,
                decay_w=(config.decay,),
                decay_h=(config.decay / n,),
                decay_b=(config.decay_b,),
                starts=starts,
                seed=config.seed,
                target=target,
                space="full" if target == "minima" else "collapsed",
                keep_points=target == "saddles",
            )
            with Reporter(plan.num_rows, f"K={K} {target}") as reporter:
                parts.append(sweep(plan, reporter))
        tables[K] = pa.concat_tables(parts, promote_options="default")
        print(f"\nK = {K}, n = {n}, d = {d}\n{verdict_table(tables[K])}")
    return tables


def critical(table: pa.Table) -> pa.Table:
    """Return the rows that are critical points."""
    return table.filter(pc.field("verdict") != "NOT_CRITICAL")


def plot_index(tables: dict[int, pa.Table]) -> plt.Figure:
    """Draw loss against Morse index, one panel a K, marker and colour by rank."""
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables), 3.2), squeeze=False)
    for ax, (K, table) in zip(axes[0], tables.items(), strict=True):
        rows = critical(table)
        ranks = rows["rank"].to_numpy()
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, K))
        for r in np.unique(ranks):
            of_rank = rows.filter(pc.field("rank") == r)
            ax.plot(
                of_rank["index"].to_numpy(),
                of_rank["loss"].to_numpy(),
                MARKERS[r % len(MARKERS)],
                color=colours[r],
                ms=4,
                alpha=0.8,
                label=str(r),
            )
        best = rows["closed_form_loss"].to_numpy()[0]
        ax.axhline(best, color="black", lw=0.8, ls="--")
        ax.annotate(
            "closed-form minimum",
            (1, best),
            (0, -3),
            textcoords="offset points",
            fontsize=7,
            xycoords=("axes fraction", "data"),
            ha="right",
            va="top",
        )
        ax.margins(y=0.12)
        ax.set(xlabel="Morse index (negative eigenvalues)", ylabel="loss $f$ (nats)", title=f"K = {K}")
        ax.legend(title="rank", loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2)
    figure.suptitle("Loss against Morse index of the critical points found, by rank", fontsize=10)
    return figure


def plot_gap(tables: dict[int, pa.Table]) -> plt.Figure:
    """Draw the smallest eigenvalue modulo rotations against the duality gap, by verdict."""
    figure, axes = plt.subplots(1, len(tables), figsize=(3.4 * len(tables), 3.2), squeeze=False)
    for ax, (K, table) in zip(axes[0], tables.items(), strict=True):
        rows = critical(table)
        for i, verdict in enumerate(sorted(set(rows["verdict"].to_pylist()))):
            part = rows.filter(pc.field("verdict") == verdict)
            gap = np.maximum(part["dual_gap"].to_numpy(), 1e-17)
            label = verdict.replace("_", " ").lower()
            ax.plot(
                gap, part["lambda_min"].to_numpy(), MARKERS[i], ms=4, alpha=0.7, color=COLOURS[i], label=label
            )
        ax.axhline(0, color="black", lw=0.6)
        ax.set(xscale="log", xlabel="duality gap (nats), at least $10^{-17}$", title=f"K = {K}")
        ax.set_yscale("symlog", linthresh=1e-6)
        low, high = rows["lambda_min"].to_numpy().min(), rows["lambda_min"].to_numpy().max()
        ax.set_ylim(10 * low, 10 * high)
        ax.set_ylabel("smallest Hessian eigenvalue\nmodulo rotations")
    axes[0][0].legend(loc="lower left")
    figure.suptitle(
        "Smallest Hessian eigenvalue against duality gap of the critical points found", fontsize=10
    )
    return figure


def plot_spectra(config: Config, table: pa.Table) -> plt.Figure:
    """Draw the Hessian's spectral density by Lanczos quadrature at a minimum and at saddles of each rank."""
    K, n, d = config.sizes[0]
    prob = collapse(_problem(config, K, n, d))
    rows = critical(table.filter(pc.field("target") == "saddles"))
    ranks, losses = rows["rank"].to_numpy(), rows["loss"].to_numpy()
    figure, axes = plt.subplots(K, 1, figsize=(5.2, 1.35 * K), sharex=True)
    grid = np.linspace(-0.15, 0.3, 1401)
    for ax, r in zip(axes, range(K - 1, -1, -1), strict=True):
        which = np.flatnonzero(ranks == r)
        if not which.size:
            ax.text(0.5, 0.5, f"no point of rank {r} found", transform=ax.transAxes, ha="center")
            continue
        row = which[np.argmin(losses[which])]
        parts = [rows[name].combine_chunks().to_numpy_ndarray()[row] for name in "WHb"]
        p = prob.zeros()._replace(W=jnp.asarray(parts[0]), H=jnp.asarray(parts[1]), b=jnp.asarray(parts[2]))
        hv = oracle(prob)(ravel(p)).hv
        density = spectral_density(
            hv,
            prob.num_variables,
            key=jax.random.key(config.seed),
            num_probes=50,
            num_steps=prob.num_variables,
        )
        ax.semilogy(grid, np.asarray(smoothed(density, jnp.asarray(grid), 2e-3)), lw=1)
        exact = np.linalg.eigvalsh(np.asarray(hessian(prob, p)))
        ax.plot(exact, np.full_like(exact, 2e-2), "|", color=COLOURS[1], ms=6)
        index = int(rows["index"].to_numpy()[row])
        ax.set(ylim=(1e-2, 300), ylabel="density", title=f"rank {r}, index {index}, f = {losses[row]:.6f}")
        ax.axvline(0, color="black", lw=0.5)
    axes[-1].set_xlabel("Hessian eigenvalue (curve: Lanczos quadrature; ticks: dense)")
    figure.suptitle(f"Spectrum at the minimum and at the lowest saddle of each rank (K = {K})", fontsize=10)
    return figure


def plot_flow(config: Config) -> plt.Figure:
    """Draw class means and classifier rows along gradient flow, in 2-D for K = 3 and in 3-D for K = 4."""
    figure = plt.figure(figsize=(7.6, 3.8))
    for column, (K, d) in enumerate(((3, 2), (4, 3))):
        prob = _problem(config, K, 5, d)
        start = gaussian(prob, jax.random.key(config.seed), 0.3)
        times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-1, 3e5, 300)])
        path = gradient_flow(objective(prob), start, times).points
        W = np.asarray(path.W)
        means = np.asarray(path.H).reshape(len(W), d, K, 5).mean(axis=3).transpose(0, 2, 1)
        ax: Any = figure.add_subplot(1, 2, column + 1, projection="3d" if d == 3 else None)
        for k in range(K):
            for paths, style in ((W, "-"), (means, ":")):
                scaled = paths / np.linalg.norm(paths[-1], axis=1).max()
                ax.plot(*scaled[:, k].T, style, color=COLOURS[k], lw=1.2)
                ax.plot(
                    *scaled[-1:, k].T,
                    "o" if style == "-" else "D",
                    color=COLOURS[k],
                    ms=8 if style == "-" else 4,
                    mfc="none" if style == "-" else COLOURS[k],
                )
        ax.set_title(f"K = {K}, d = {d}")
        ax.set_xlabel("coordinate 1 (scaled)")
        ax.set_ylabel("coordinate 2 (scaled)")
        if d == 3:
            ax.set_zlabel("coordinate 3 (scaled)")
            ax.set_box_aspect(None, zoom=0.8)
            for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
                axis.set_major_locator(plt.MultipleLocator(0.5))
                axis.set_tick_params(labelsize=7)
                axis.label.set_size(7)
        else:
            ax.set_aspect("equal")
    handles = [
        plt.Line2D([], [], color="grey", ls="-", marker="o", mfc="none", label="classifier row"),
        plt.Line2D([], [], color="grey", ls=":", marker="D", ms=4, label="class mean of features"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle(
        "Class means and classifier rows along gradient flow (markers: where it ends)", fontsize=10
    )
    return figure


def _problem(config: Config, K: int, n: int, d: int) -> Problem:
    decay_h = config.decay / n
    return problem(
        num_classes=K, per_class=n, dim=d, decay_w=config.decay, decay_h=decay_h, decay_b=config.decay_b
    )


def main(scale: Scale = "default") -> None:
    """Run the landscape sweeps and draw their figures."""
    set_up()
    config = SCALES[scale]
    tables = run(config)
    facts = {"config": config.__dict__}
    save(partial(plot_index, tables), "landscape_index", scale, **facts)
    save(partial(plot_gap, tables), "landscape_gap", scale, **facts)
    save(partial(plot_spectra, config, tables[config.sizes[0][0]]), "landscape_spectra", scale, **facts)
    save(partial(plot_flow, config), "landscape_flow", scale, **facts)


if __name__ == "__main__":
    cli(main)
