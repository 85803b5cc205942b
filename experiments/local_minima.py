"""Where theory is open: distinct local minima in fewer feature dimensions than a simplex needs, d < K − 1.

    python -m experiments.local_minima --scale smoke|default|paper

Descends from Gaussian starts, sorts the minima found into orbits (rotations and class permutations), names
them (`models.unconstrained.names`), and compares them with the symmetric candidates of theory
(`models.unconstrained.candidates`): orthogonal simplices for d ≥ K/2, polygons, icosahedron and 24-cell. At
the last two a search is begun, too. Shown of each: the gradient is below 1e-9, and every eigenvalue of the
Hessian is positive but for those of the rotations' orbit (`LOCAL_MINIMUM`). Not shown: that the lowest is
global (no certificate closes its gap for d < K − 1), nor that the list is complete (the chance that a next
start finds another is estimated).
"""

import csv
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, Scale, cli, folder, save, set_up
from ufm_jax.landscape.census import find_orbits
from ufm_jax.landscape.orbits import rows, unseen_mass
from ufm_jax.models.unconstrained.candidates import candidates, icosahedron, roots
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum
from ufm_jax.models.unconstrained.model import UnconstrainedFeatureModel, problem
from ufm_jax.models.unconstrained.problem import Params


@dataclass(frozen=True)
class Config:
    """Class numbers, strengths Kθ (λ_W = λ_H, n = 1: n enters through θ alone), starts of each."""

    classes: tuple[int, ...] = (4, 5, 6, 7)  # with every d < K − 1
    more_classes: tuple[int, ...] = (8, 9)  # with d ≥ K/2 alone
    codes: tuple[tuple[int, int], ...] = ((12, 3), (24, 4))  # (K, d)
    k_theta: tuple[float, ...] = (0.1, 0.01)
    decay_b: float = 1e-2
    starts: int = 2000
    code_starts: int = 200
    seed: int = 0

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """All (K, d) that are searched from Gaussian starts alone."""
        few = [(K, d) for K in self.classes for d in range(1, K - 1)]
        return few + [(K, d) for K in self.more_classes for d in range((K + 1) // 2, K - 1)]


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        classes=(4, 5), more_classes=(), codes=((12, 3),), k_theta=(0.01,), starts=300, code_starts=20
    ),
    "default": Config(),
    "paper": Config(
        classes=(4, 5, 6, 7, 8, 9, 10),
        more_classes=(11, 12),
        k_theta=(0.3, 0.1, 0.03, 0.01),
        starts=20_000,
        code_starts=2000,
    ),
}
SAME = 1e-9  # losses of minima are good to about 1e-12
COLUMNS = (
    *("K", "d", "K_theta", "minima", "lowest", "others_above", "local_minimum", "hits", "failed", "unseen"),
    *("names", "stabilisers", "candidate", "candidate_loss", "lower_bound"),
)


def run(config: Config) -> list[dict[str, Any]]:
    """Return one row for each (K, d < K − 1, Kθ)."""
    table = []
    for K, d in config.sizes + list(config.codes):
        for k_theta in config.k_theta:
            row = code_minima if (K, d) in config.codes else minima
            table.append(row(config, K, d, k_theta))
            print(_line(table[-1]), flush=True)
    return table


def balanced_problem(config: Config, K: int, d: int, k_theta: float) -> UnconstrainedFeatureModel:
    """Return the problem of one sample a class with λ_W = λ_H = θ."""
    decay = k_theta / K
    return problem(num_classes=K, per_class=1, dim=d, decay_w=decay, decay_h=decay, decay_b=config.decay_b)


def minima(config: Config, K: int, d: int, k_theta: float) -> dict[str, Any]:
    """Search one problem and describe its distinct minima."""
    prob = balanced_problem(config, K, d, k_theta)
    state = find_orbits(prob, seed=config.seed, starts=config.starts, target="minima")
    found = [row._asdict() for row in rows(prob, state)]
    return _described(prob, k_theta, found, state.num_failed)


def code_minima(config: Config, K: int, d: int, k_theta: float) -> dict[str, Any]:
    """The same of a problem with a known code, from Gaussian starts, and judge the code itself."""
    prob = balanced_problem(config, K, d, k_theta)
    swept = ufm.sweep(prob, starts=config.code_starts, seed=config.seed)
    found = [{**row, "stabiliser": None, "rank": None, "copies": None} for row in swept.orbits.to_pylist()]
    row = _described(prob, k_theta, found, config.code_starts - sum(each["hits"] for each in found))
    end = ufm.search(prob, at_code(prob))
    judged = ufm.classify(prob, end.x)
    at_code_found = {"name": prob.name_of(end.x), "loss": judged.loss, "verdict": judged.verdict.name}
    return row | {"from_the_code": at_code_found | {"index": judged.index, "nullity": judged.nullity}}


def at_code(prob: UnconstrainedFeatureModel) -> Params:
    """Return the candidate of a code as a point: W = √q V, H = Wᵀ (λ_W = λ_H, n = 1)."""
    V = icosahedron() if prob.dim == 3 else roots(prob.dim)
    W = jnp.asarray(candidates(prob)[0].scales[0] ** 0.5 * V)
    return Params(W, W.T, jnp.zeros(len(V)))


def _described(
    prob: UnconstrainedFeatureModel, k_theta: float, found: list[dict[str, Any]], failed: int
) -> dict[str, Any]:
    """Return one row of the table: minima found, the lowest first, and the candidates."""
    hits, known = [row["hits"] for row in found], candidates(prob)
    return {
        "K": prob.num_classes,
        "d": prob.dim,
        "K_theta": k_theta,
        "minima": len(found),
        "lowest": found[0]["loss"],
        "others_above": [row["loss"] - found[0]["loss"] for row in found[1:]],
        "local_minimum": sum(row["verdict"] == "LOCAL_MINIMUM" for row in found),
        "names": [row["name"] for row in found],
        **{name + "s": [row[name] for row in found] for name in ("verdict", "rank", "stabiliser")},
        "copies": [row["copies"] for row in found],
        "hits": hits,
        "failed": failed,
        "unseen": unseen_mass(np.array(hits)),
        "candidates": {c.name: c.loss for c in known},
        "candidate": known[0].name if known else None,
        "candidate_loss": known[0].loss if known else None,
        "lower_bound": float(balanced_minimum(replace(prob, dim=prob.num_classes - 1)).loss),
    }


def _line(row: dict[str, Any]) -> str:
    above = ", ".join(f"{x:.3g}" for x in row["others_above"][:4]) or "-"
    more = " ..." if len(row["others_above"]) > 4 else ""
    names = ", ".join(row["names"][:4])
    against = ""
    if row["candidate"] is not None:
        apart = row["lowest"] - row["candidate_loss"]
        at = "the same" if abs(apart) < SAME else f"{abs(apart):.3g} {'below' if apart < 0 else 'ABOVE'} it"
        against = f"; best candidate {row['candidate']}: {at}"
    return (
        f"{row['K']:>2} {row['d']:>2} {row['K_theta']:>6g}  {row['minima']:>3} ({row['local_minimum']} shown)"
        f"  lowest {row['lowest']:.10f}  others above by {above}{more}  unseen {row['unseen']:.1e}"
        f"\n{'':15}{names}{more}{against}"
    )


def kind(name: str) -> str:
    """Sort a name into one of the figure's families."""
    if "partition" in name or not name:
        return "no name"
    if name.startswith(("simplices", "orthoplex", "simplex(")) and "+" not in name:
        return "orthogonal simplices"
    if name.startswith("polygon") and "+" not in name:
        return "regular polygon"
    if name.startswith("ordered") and not any(word in name for word in ("simplex", "orthoplex", "polygon")):
        return "points on a line"
    return "icosahedron, 24-cell" if name in ("icosahedron", "24-cell") else "other names (nested, sums)"


FAMILIES = (
    *("orthogonal simplices", "regular polygon", "points on a line", "icosahedron, 24-cell"),
    *("other names (nested, sums)", "no name"),
)


def plot(table: list[dict[str, Any]]) -> plt.Figure:
    """Draw how far minima found and candidates are above the lowest minimum found."""
    strengths = sorted({row["K_theta"] for row in table}, reverse=True)
    figure, axes = plt.subplots(len(strengths), 1, figsize=(7.4, 1.4 + 2.6 * len(strengths)), squeeze=False)
    for ax, k_theta in zip(axes[:, 0], strengths, strict=True):
        chosen = [row for row in table if row["K_theta"] == k_theta]
        for place, row in enumerate(chosen):
            known = 100 * (np.array([*row["candidates"].values()]) / row["lowest"] - 1)
            ax.hlines(known, place - 0.4, place + 0.4, color="0.6", lw=1.2, label="candidate", zorder=1)
            above = 100 * np.array([0.0, *row["others_above"]]) / row["lowest"]
            for name, height in zip(row["names"], above, strict=True):
                which = FAMILIES.index(kind(name))
                look = {"color": COLOURS[which], "mfc": "none", "ms": 5, "label": FAMILIES[which]}
                ax.plot(place, height, MARKERS[which], **look)
        ax.set_xticks(range(len(chosen)), [f"{row['K']},{row['d']}" for row in chosen], rotation=90)
        ax.set_yscale("symlog", linthresh=0.1)
        ax.set(
            title=rf"$K\theta$ = {k_theta:g}", ylabel="above the lowest (%)", xlabel="K, d", ylim=(-0.05, 60)
        )
        ax.set_yticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    handles: dict[str, Any] = {}
    for ax in axes.flat:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.suptitle("Local minima found for d < K − 1, and symmetric candidates", fontsize=10)
    return figure


def main(scale: Scale = "default") -> None:
    """Search for local minima below the simplex dimension; print their table and draw it."""
    set_up()
    config = SCALES[scale]
    print(" K  d     Kθ  distinct minima found (and shown to be minima), losses in nats; names")
    table = run(config)
    several = sorted({(row["K"], row["d"]) for row in table if row["minima"] > 1})
    print(f"(K, d) with more than one distinct local minimum at some Kθ: {several or 'none found'}")
    for row in (row for row in table if "from_the_code" in row):
        print(f"begun at the code, K = {row['K']}, Kθ = {row['K_theta']:g}: {row['from_the_code']}")
    with (folder(scale) / "local_minima.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in table:
            lists = {name: " ".join(f"{x:.10g}" for x in row[name]) for name in ("others_above", "hits")}
            told = {name: " ".join(map(str, row[name])) for name in ("names", "stabilisers")}
            writer.writerow(row | lists | told)
    save(partial(plot, table), "local_minima", scale, config=config.__dict__, table=table)


if __name__ == "__main__":
    cli(main)
