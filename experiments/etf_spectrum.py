"""The Hessian's spectrum at the simplex ETF minimiser: measured at minima found, against its closed form.

    python -m experiments.etf_spectrum --scale smoke|default|paper

A minimum is found from a Gaussian start over all features, the dense Hessian there is diagonalised, and the
eigenvalues are drawn over those that `unconstrained.etf_spectrum` gives without a search.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.common import COLOURS, Scale, cli, save, set_up
from ufm_jax.landscape.flat import hessian
from ufm_jax.landscape.search import search_start
from ufm_jax.models.unconstrained.etf_spectrum import etf_spectrum
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Problem


@dataclass(frozen=True)
class Config:
    """Sizes (K, n, d) and the decays."""

    sizes: tuple[tuple[int, int, int], ...] = ((3, 3, 2), (4, 3, 5), (6, 3, 7), (8, 3, 10))
    decay_w: float = 5e-3
    decay_h: float = 1e-3
    decay_b: float = 1e-2
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(sizes=((3, 3, 2), (4, 2, 5))),
    "default": Config(),
    "paper": Config(sizes=((3, 3, 2), (4, 3, 5), (6, 3, 7), (8, 3, 10), (10, 5, 12), (12, 5, 14))),
}


def run(config: Config) -> list[dict[str, Any]]:
    """Return measured and closed-form eigenvalues for each size, ascending, with multiplicity."""
    return [measured(_problem(config, *size), config.seed) for size in config.sizes]


def measured(prob: Problem, seed: int) -> dict[str, Any]:
    """Find a minimum of one problem and compare its spectrum."""
    found = jax.jit(search_start)(prob, jax.random.key(seed))
    eigenvalues = np.linalg.eigvalsh(jax.jit(hessian)(prob, found.params))
    exact = etf_spectrum(prob)
    expected = np.sort(np.repeat([e.value for e in exact], [e.multiplicity for e in exact]))
    row = {
        "K": prob.num_classes,
        "n": prob.counts[0],
        "d": prob.dim,
        "grad_norm": float(found.grad_norm),
        "largest_difference": float(np.abs(eigenvalues - expected).max()),
        "measured": eigenvalues.tolist(),
        "closed_form": [(e.value, e.multiplicity, e.mode) for e in exact],
    }
    print(
        f"K = {row['K']}, n = {row['n']}, d = {row['d']}: {len(eigenvalues)} eigenvalues, "
        f"{len(exact)} distinct in closed form, largest difference {row['largest_difference']:.1e}",
        flush=True,
    )
    return row


def plot(rows: list[dict[str, Any]]) -> plt.Figure:
    """Draw eigenvalues by rank order, measured over closed form, and their differences below."""
    figure, axes = plt.subplots(
        2, len(rows), figsize=(2.4 * len(rows) + 0.8, 4.2), sharex="col", height_ratios=(3, 1), squeeze=False
    )
    for (top, below), row in zip(axes.T, rows, strict=True):
        values, number = np.array(row["measured"]), np.arange(1, len(row["measured"]) + 1)
        parts = sorted((value, count) for value, count, _ in row["closed_form"])
        expected = np.repeat([v for v, _ in parts], [c for _, c in parts])
        top.plot(number, expected, "-", color=COLOURS[1], lw=3, alpha=0.6, label="closed form")
        top.plot(number, values, ".", color=COLOURS[0], ms=2.5, label="measured")
        top.set_yscale("symlog", linthresh=1e-4)
        top.set_title(f"K = {row['K']}, n = {row['n']}, d = {row['d']}")
        difference = np.maximum(np.abs(values - expected), 1e-18)
        below.semilogy(number, difference, ".", color=COLOURS[0], ms=2.5)
        below.set(ylim=(1e-18, 1e-10), xlabel="eigenvalue number, ascending")
    axes[0][0].set_ylabel("eigenvalue of $\\nabla^2 f$")
    axes[1][0].set_ylabel("|difference|")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=3)
    figure.suptitle("Hessian spectrum at the minimum found, and in closed form", fontsize=10)
    return figure


def _problem(config: Config, K: int, n: int, d: int) -> Problem:
    return problem(
        num_classes=K,
        per_class=n,
        dim=d,
        decay_w=config.decay_w,
        decay_h=config.decay_h,
        decay_b=config.decay_b,
    )


def main(scale: Scale = "default") -> None:
    """Compare spectra at the minimum with their closed form and draw them."""
    set_up()
    config = SCALES[scale]
    rows = run(config)
    save(partial(plot, rows), "etf_spectrum", scale, config=config.__dict__, rows=rows)


if __name__ == "__main__":
    cli(main)
