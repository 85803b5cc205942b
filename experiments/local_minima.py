"""Where theory is open: distinct local minima in fewer feature dimensions than a simplex needs, d < K − 1.

    python -m experiments.local_minima --scale smoke|default|paper

Descends from Gaussian starts, sorts the minima found into orbits (rotations and class permutations), and
prints how many each (K, d) has and how far above the lowest they lie. Shown of each: the gradient is below
1e-9, and every eigenvalue of the Hessian is positive but for those of the rotations' orbit (`LOCAL_MINIMUM`).
Not shown: that the lowest is global (no certificate closes its gap for d < K − 1), nor that the list is
complete (the chance that a next start finds another is estimated).
"""

import csv
from dataclasses import dataclass
from typing import Any

import tyro

from experiments.common import Scale, folder, record, set_up
from ufm_jax.landscape.census import find_orbits
from ufm_jax.landscape.orbits import rows, unseen_mass
from ufm_jax.models.unconstrained.model import problem


@dataclass(frozen=True)
class Config:
    """Class numbers, strengths Kθ (λ_W = λ_H, n = 1: n enters through θ alone), starts of each."""

    classes: tuple[int, ...] = (4, 5, 6, 7)
    k_theta: tuple[float, ...] = (0.1, 0.01)
    decay_b: float = 1e-2
    starts: int = 2000
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(classes=(4, 5), k_theta=(0.01,), starts=300),
    "default": Config(),
    "paper": Config(classes=(4, 5, 6, 7, 8, 9, 10), k_theta=(0.3, 0.1, 0.03, 0.01), starts=20_000),
}
COLUMNS = (
    "K",
    "d",
    "K_theta",
    "minima",
    "lowest",
    "others_above",
    "local_minimum",
    "hits",
    "failed",
    "unseen",
)


def run(config: Config) -> list[dict[str, Any]]:
    """Return one row for each (K, d < K − 1, Kθ)."""
    table = []
    for K in config.classes:
        for d in range(1, K - 1):
            for k_theta in config.k_theta:
                table.append(minima(config, K, d, k_theta))
                print(_line(table[-1]), flush=True)
    return table


def minima(config: Config, K: int, d: int, k_theta: float) -> dict[str, Any]:
    """Search one problem and describe its distinct minima."""
    decay = k_theta / K
    prob = problem(num_classes=K, per_class=1, dim=d, decay_w=decay, decay_h=decay, decay_b=config.decay_b)
    state = find_orbits(prob, seed=config.seed, starts=config.starts, target="minima")
    found = rows(state)
    return {
        "K": K,
        "d": d,
        "K_theta": k_theta,
        "minima": len(found),
        "lowest": found[0].loss,
        "others_above": [row.loss - found[0].loss for row in found[1:]],
        "local_minimum": sum(row.verdict == "LOCAL_MINIMUM" for row in found),
        "verdicts": [row.verdict for row in found],
        "ranks": [row.rank for row in found],
        "copies": [row.copies for row in found],
        "hits": [row.hits for row in found],
        "failed": state.num_failed,
        "unseen": unseen_mass(state.hits),
    }


def _line(row: dict[str, Any]) -> str:
    above = ", ".join(f"{x:.3g}" for x in row["others_above"][:4]) or "-"
    more = " ..." if len(row["others_above"]) > 4 else ""
    return (
        f"{row['K']:>2} {row['d']:>2} {row['K_theta']:>6g}  {row['minima']:>3} ({row['local_minimum']} shown)"
        f"  lowest {row['lowest']:.8f}  others above by {above}{more}  unseen {row['unseen']:.1e}"
    )


def main(scale: Scale = "default") -> None:
    """Search for local minima below the simplex dimension and print their table."""
    set_up()
    config = SCALES[scale]
    print(" K  d     Kθ  distinct minima found (and shown to be minima), losses in nats")
    table = run(config)
    several = sorted({(row["K"], row["d"]) for row in table if row["minima"] > 1})
    print(f"(K, d) with more than one distinct local minimum at some Kθ: {several or 'none found'}")
    with (folder(scale) / "local_minima.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in table:
            lists = {name: " ".join(f"{x:.10g}" for x in row[name]) for name in ("others_above", "hits")}
            writer.writerow(row | lists)
    print(f"wrote {record('local_minima', scale, config=config.__dict__, table=table)}")


if __name__ == "__main__":
    tyro.cli(main)
