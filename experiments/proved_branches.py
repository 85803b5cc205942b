"""Critical orbits proved over whole intervals of Kθ: the lines of a bifurcation diagram as theorems.

    python -m experiments.proved_branches --scale smoke|default|paper

Each orbit of a census is followed both ways by `ufm.prove_branch`, as far as it goes. It varies λ_W alone: f
depends on λ_W and λ_H through their product, up to a scaling of W and H, so critical values, ranks and
indices at Kθ are those at any other pair of the same Kθ (and the same λ_b).

What is proved: on the interval shown, for every Kθ in it, the orbit exists, with its rank, index and nullity.
Where a line ends inside the range, no further piece could be proved: orbits meet there, or split.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import ufm_jax as ufm
from experiments.common import COLOURS, Scale, cli, save, set_up
from ufm_jax.landscape.proved_branch import ProvedBranch
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.model import UnconstrainedFeatureModel


@dataclass(frozen=True)
class Config:
    """Numbers of classes, the range of Kθ, decays, and starts of the census at the given Kθ."""

    classes: tuple[int, ...] = (3, 4)
    k_theta: tuple[float, float] = (0.003, 0.98)
    per_class: int = 5
    decay_w: float = 5e-3
    decay_h: float = 1e-3
    decay_b: float = 1e-2
    starts: int = 4000


SCALES: dict[Scale, Config] = {
    "smoke": Config(classes=(3,), k_theta=(0.0148, 0.0152), starts=300),
    "default": Config(),
    "paper": Config(classes=(3, 4, 5), k_theta=(1e-3, 0.98)),
}


def run(config: Config) -> dict[int, list[dict[str, Any]]]:
    """Prove every orbit of each problem over as much of the range as can be; one record a branch."""
    return {K: [proved(config, prob, orbit) for orbit in atlas(prob, config)] for K, prob in problems(config)}


def problems(config: Config) -> list[tuple[int, UnconstrainedFeatureModel]]:
    """Return the problem of each number of classes, in d = K − 1, which has every orbit."""
    decays: dict[str, Any] = {name: getattr(config, name) for name in ("decay_w", "decay_h", "decay_b")}
    return [
        (K, ufm.problem(num_classes=K, per_class=config.per_class, dim=K - 1, **decays))
        for K in config.classes
    ]


def atlas(prob: UnconstrainedFeatureModel, config: Config) -> Any:
    """Return the orbits of a census."""
    return ufm.census(prob, starts=config.starts)


def proved(config: Config, prob: UnconstrainedFeatureModel, orbit: Any) -> dict[str, Any]:
    """Prove one orbit over the range, as far as it goes, and say so."""
    K, own = prob.num_classes, float(prob.decay_w)
    here = K * float(theta(prob))
    ends = tuple(own * (k / here) ** 2 for k in config.k_theta)
    began = time.perf_counter()
    branch = ufm.prove_branch(prob, orbit.x, decay_w=ends)
    seconds = time.perf_counter() - began
    of = lambda decay: float(here * np.sqrt(decay / own))
    print(
        f"K={K} {orbit.row.name}: index {branch.index} proved for {of(branch.low):.6g} ≤ Kθ ≤ "
        f"{of(branch.high):.6g}, {len(branch.pieces)} pieces, {seconds:.1f} s",
        flush=True,
    )
    return {
        "name": orbit.row.name,
        **{name: getattr(branch, name) for name in ("rank", "index", "nullity", "low", "high")},
        "k_theta": [of(branch.low), of(branch.high)],
        "below": branch.below,
        "above": branch.above,
        "seconds": round(seconds, 1),
        "pieces": len(branch.pieces),
        "line": _line(branch, of),
    }


def _line(branch: ProvedBranch, of: Any) -> list[list[float]]:
    """Return Kθ and the critical value's enclosure at some of the pieces: enough to draw."""
    chosen = np.unique(np.linspace(0, len(branch.pieces) - 1, 120).astype(int)).tolist()
    pieces = [branch.pieces[i] for i in chosen]
    inside = [[of(0.5 * (piece.low + piece.high)), *piece.loss] for piece in pieces]
    return [[of(branch.low), *pieces[0].loss], *inside, [of(branch.high), *pieces[-1].loss]]


def plot(found: dict[int, list[dict[str, Any]]]) -> plt.Figure:
    """Draw critical values against Kθ, in colours of the index; a dot where a branch could not go on."""
    figure, axes = plt.subplots(1, len(found), figsize=(5.2 * len(found), 4.2), squeeze=False)
    for ax, (K, branches) in zip(axes[0], found.items(), strict=True):
        labelled: set[int] = set()
        indices = sorted({branch["index"] for branch in branches})
        for branch in branches:
            line, index = np.array(branch["line"]), branch["index"]
            values = line[:, 1:].mean(axis=1)
            values[[0, -1]] = line[0, 1], line[-1, 2]  # f grows with a decay: of an end piece, its own end
            colour = COLOURS[indices.index(index) % len(COLOURS)]
            label = None if index in labelled else f"index {index}"
            labelled.add(index)
            ax.plot(line[:, 0], values, color=colour, label=label)
            for why, end in ((branch["below"], 0), (branch["above"], -1)):
                if why is not None:
                    ax.plot(line[end, 0], values[end], "o", color=colour, markersize=4)
        ax.set(xscale="log", yscale="log", xlabel=r"$K\theta$", ylabel="critical value of $f$")
        ax.set_title(f"K = {K}: {len(branches)} orbits")
        ax.legend(fontsize=8)
    figure.suptitle("Proved at every Kθ of their lines\n(dots: no further piece was proved)", fontsize=10)
    return figure


def main(scale: Scale = "default") -> None:
    """Prove, draw, and write proved_branches.json."""
    set_up()
    config = SCALES[scale]
    found = run(config)
    save(partial(plot, found), "proved_branches", scale, config=asdict(config), branches=found)


if __name__ == "__main__":
    cli(main)
