"""Nothing else exists: at given decays the list of critical orbits is complete, by computer-assisted proof.

    python -m experiments.theorem --scale smoke|default|paper

For every feature dimension d. docs/theorem.md has the mathematics: critical orbits of rank r are the critical
points of a function ψ on the Grassmannian of r-dimensional subspaces of the plane 1ᵀx = 0 (a circle for K =
3, two projective planes for K = 4); the value of ψ is the minimum of a convex problem. Boxes of subspaces are
excluded or shown to hold one critical point, in interval arithmetic (`intervals`, `convex`, `convexity`,
`enclose`), until nothing is left (`search`). Beside each theorem stands the census, which found its orbits
from random starts. Exit status 1 if a list is not proved complete, or differs from the census. A search that
was killed goes on: its state is kept in runs/theorem.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import Scale, cli, save, set_up
from experiments.theorem.figure import draw
from experiments.theorem.proof import Proof, agrees, census_losses, prove
from experiments.theorem.ranges import prove_range
from experiments.theorem.search import State
from experiments.theorem.setting import Setting
from ufm_jax.files import locked

STATES = Path("runs/theorem")


@dataclass(frozen=True)
class Config:
    """Settings, whether to take the census beside them; at K = 3 ranges of (Kθ, γ), γ² = 1/(1 + 3λ_b)."""

    settings: tuple[Setting, ...]
    lines: tuple[Setting, ...] = ()  # of which rank 1 alone is searched, for d = 1
    census: bool = True
    ranges: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = ()


# Kθ = 0.99 is as near to 1 as the smallest decays of this form go: λ_W = λ_H, n = 1.
NEAR_ONE = Setting(3, 1, 0.33, 0.33, 1e-2)
THREE = (
    Setting(3, 5, 5e-3, 1e-3, 1e-2),  # the public case
    NEAR_ONE,
    Setting(3, 5, 5e-3, 1e-3, None),
    Setting(3, 5, 5e-3, 1e-3, 0.0),
    Setting(3, 1, 5e-4, 5e-4, 1e-2),  # Kθ = 0.0015, where branches have split
)
FOUR = (Setting(4, 5, 5e-3, 1e-3, 1e-2),)
NO_BIAS = ((0.0625, 0.9375), (0.0, 0.0))
ANY_BIAS = ((0.125, 0.75), (0.0, 1.0))
SCALES: dict[Scale, Config] = {
    "smoke": Config((NEAR_ONE,), census=False),
    "default": Config(THREE + FOUR, ranges=(NO_BIAS,)),
    "paper": Config(
        (*THREE, *FOUR, Setting(4, 5, 5e-3, 1e-3, None), Setting(4, 1, 0.075, 0.075, 1e-2)),
        lines=(Setting(5, 1, 0.06, 0.06, 1e-2),),
        ranges=(NO_BIAS, ANY_BIAS),
    ),
}


def run(config: Config, folder: Path | None) -> tuple[list[Proof], list[dict[str, Any]]]:
    """Prove each setting, and take its census; return proofs, for figures, and facts, for JSON."""
    proofs, facts = [], []
    planned = [(s, s.num_classes - 1) for s in config.settings] + [(s, 1) for s in config.lines]
    for setting, dim in planned:
        began = time.perf_counter()
        ranks = range(1, min(dim, setting.num_classes - 2) + 1)
        proof = prove(setting, folder, ranks=ranks, draw=True, tell=_progress)
        proofs.append(proof)
        fact = describe(proof, dim) | {"wall_seconds": time.perf_counter() - began}
        if config.census:
            found = census_losses(setting, dim)
            fact |= {"census": found, "census_agrees": agrees(proof, found, dim)}
        facts.append(fact)
        print(theorem(proof, fact, dim), flush=True)
    return proofs, facts


def run_ranges(config: Config) -> list[dict[str, Any]]:
    """Prove each range of decays."""
    facts = []
    for epsilon, gamma in config.ranges:
        found = prove_range(
            epsilon, gamma, tell=lambda found: print(f"  {found}", file=sys.stderr, flush=True)
        )
        facts.append(asdict(found) | {"complete": found.complete})
        bias = "no bias" if gamma[1] == 0 else f"any λ_b with {gamma[0]:g} ≤ (1 + 3λ_b)^(−1/2) ≤ {gamma[1]:g}"
        verdict = "exactly 4 critical orbits in every d ≥ 2" if found.complete else "NOT PROVED"
        print(
            f"K = 3, any n, λ_W, λ_H with {epsilon[0]:g} ≤ Kθ ≤ {epsilon[1]:g}, {bias}: {verdict}; "
            f"{found.evaluated:,} boxes, {found.seconds:.1f} s",
            flush=True,
        )
    return facts


def _progress(rank: int, state: State) -> None:
    print(
        f"  rank {rank}: {state.evaluated:,} boxes in {state.seconds:.1f} s, "
        f"{len(state.boxes.centre):,} left, {len(state.zeros)} zeros",
        file=sys.stderr,
        flush=True,
    )


def describe(proof: Proof, dim: int) -> dict[str, Any]:
    """Return a proof's numbers, in d = `dim` and below."""
    searches = {
        str(rank): {
            "boxes": state.evaluated,
            "excluded": state.excluded,
            "in_boxes_of_a_zero": state.absorbed,
            "outside": state.outside,
            "left": len(state.boxes.centre),
            "undecided": state.undecided,
            "seconds": state.seconds,
            "zeros": [asdict(zero) for zero in state.zeros],
        }
        for rank, state in proof.searches.items()
    }
    strengths = proof.setting.strengths()
    return {
        "setting": asdict(proof.setting),
        "K_theta": [float(strengths.lo[0]), float(strengths.hi[0])],
        "dim": dim,  # K − 1 stands for every d ≥ K − 1
        "complete": proof.complete(dim),
        "orbits": [asdict(orbit) for orbit in proof.listed(dim)],
        "global_minimum_by_dim": {
            str(d): asdict(orbit) if (orbit := proof.minimum(d)) else None for d in range(1, dim + 1)
        },
        "searches": searches,
    }


def theorem(proof: Proof, fact: dict[str, Any], dim: int) -> str:
    """State what was shown in d = `dim`, in words."""
    s = proof.setting
    bias = "no bias" if s.decay_b is None else f"λ_b = {s.decay_b:g}"
    boxes = sum(state.evaluated for state in proof.searches.values())
    head = f"K = {s.num_classes}, n = {s.per_class}, λ_W = {s.decay_w:g}, λ_H = {s.decay_h:g}, {bias}"
    orbits = proof.listed(dim)
    found = ", ".join(f"{sum(o.loss) / 2:.8f} (rank {o.rank})" for o in orbits)
    seconds = sum(state.seconds for state in proof.searches.values())
    if not proof.complete(dim):
        return f"{head}: NOT PROVED; found {found}; {boxes:,} boxes, {seconds:.1f} s"
    agree = ""
    if "census_agrees" in fact:
        agree = "; the census lists the same" if fact["census_agrees"] else "; THE CENSUS DIFFERS"
    where = f"every d ≥ {dim}" if dim == s.num_classes - 1 else f"d = {dim}"
    lowest = [(d, proof.minimum(d)) for d in range(1, min(dim, s.num_classes - 2) + 1)]
    minima = ", ".join(f"{sum(o.loss) / 2:.8f} in d = {d}" for d, o in lowest if o)
    return (
        f"{head}: exactly {len(orbits)} critical orbits in {where}: {found}; "
        f"global minimum {minima}; {boxes:,} boxes, {seconds:.1f} s{agree}"
    )


def main(scale: Scale = "default") -> None:
    """Prove the lists of critical orbits complete and draw how."""
    set_up()
    config = SCALES[scale]
    STATES.mkdir(parents=True, exist_ok=True)
    with locked(STATES):
        proofs, facts = run(config, STATES if scale != "smoke" else None)
        ranges = run_ranges(config)
    save(partial(draw, proofs), "theorem", scale, theorems=facts, ranges=ranges)
    if not all(r["complete"] for r in ranges) or not all(
        fact["complete"] and fact.get("census_agrees", True) for fact in facts
    ):
        sys.exit(1)


if __name__ == "__main__":
    cli(main)
