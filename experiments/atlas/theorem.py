"""Whether a list of orbits is complete by a theorem: `experiments.theorem` proves that of single settings.

What it proved is in figures/theorem.json: decays as exact binary numbers, and each orbit's rank with bounds
on its loss. Those of K − 1 dimensions are all there are in any d; in fewer they are those whose rank fits.
"""

import json
from pathlib import Path
from typing import Any

from experiments.theorem.proof import CENSUS_ATOL
from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.problem import Problem

RECORD = Path(__file__).parents[2] / "figures" / "theorem.json"
DECAYS = ("decay_w", "decay_h")


def proved_complete(prob: Problem, found: list[OrbitRow], record: Path = RECORD) -> bool | None:
    """Say whether a list has each orbit of this very setting once, and no other; None where no theorem does.

    False is a list that a theorem contradicts: one of its orbits is missing, or counted twice.
    """
    if not prob.balanced or prob.loss != CrossEntropy() or not record.exists():
        return None
    K, d = prob.num_classes, prob.dim
    own = {
        "num_classes": K,
        "per_class": prob.counts[0],
        "decay_b": float(prob.decay_b) if prob.bias else None,
    }
    own |= {name: float(getattr(prob, name)) for name in DECAYS}
    for one in json.loads(record.read_text())["theorems"]:
        if one["setting"] == own and one["complete"] and one["dim"] >= min(d, K - 1):
            return _agree([o for o in one["orbits"] if o["rank"] <= d], found)
    return None


def _agree(proved: list[dict[str, Any]], found: list[OrbitRow]) -> bool:
    """Say whether two lists are the same by rank and loss."""
    bounds = sorted((o["rank"], *o["loss"]) for o in proved)
    losses = sorted((row.rank, row.loss) for row in found)
    return len(bounds) == len(losses) and all(
        rank == own and low - CENSUS_ATOL <= loss <= high + CENSUS_ATOL
        for (rank, low, high), (own, loss) in zip(bounds, losses, strict=True)
    )
