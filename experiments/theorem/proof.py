"""A theorem for one setting: the searches over all ranks, the orbits that they leave, and the census beside
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.theorem import store
from experiments.theorem.convex import Chart
from experiments.theorem.search import State, begin, chamber, direction, search
from experiments.theorem.setting import Orbit, Setting, closed_forms

CENSUS_ATOL = 1e-9  # of a loss of the census, a number computed at an approximate critical point


class Proof(NamedTuple):
    """What was shown of a setting."""

    setting: Setting
    searches: dict[int, State]  # by rank
    orbits: list[Orbit]  # lowest loss first

    @property
    def complete(self) -> bool:
        """Whether these are all critical orbits, each counted once: searches ended and losses are apart."""
        return all(state.complete for state in self.searches.values()) and self.distinct

    @property
    def distinct(self) -> bool:
        """Whether no two of the same rank may be one orbit: their losses are shown to differ."""
        for rank in {o.rank for o in self.orbits}:
            ends = sorted(o.loss for o in self.orbits if o.rank == rank)
            if any(a[1] >= b[0] for a, b in pairwise(ends)):
                return False
        return True

    def minimum(self, dim: int) -> Orbit | None:
        """Return the orbit of the global minimum in d = `dim`: there is one, critical, of rank at most d.

        None if the list is not proved, or if enclosures of losses do not tell which is lowest.
        """
        lowest, *others = [o for o in self.orbits if o.rank <= dim]
        apart = all(lowest.loss[1] < o.loss[0] for o in others)
        return lowest if self.complete and apart else None


def prove(
    setting: Setting,
    folder: Path | None = None,
    *,
    claimed: dict[int, list[tuple[float, ...]]] | None = None,
    draw: bool = False,
    most: int = 10**9,
    tell: Callable[[int, State], Any] = lambda rank, state: None,
) -> Proof:
    """Search all ranks between 0 and K − 1 of a setting, K = 3 or 4; with a folder, going on from what it
    holds.

    With `claimed`, s of the zeros of each rank, no others are looked for: it is that list which is proved or
    not.
    """
    K, strengths, searches = setting.num_classes, setting.strengths(), {}
    orbits = closed_forms(setting)
    for rank in range(1, K - 1):
        chart = chamber(K, rank)
        identity = {**asdict(setting), "rank": rank, "draw": draw, "code": store.fingerprint()}
        given = [list(s) for s in claimed[rank]] if claimed is not None else []
        identity |= {"claimed": given if claimed is not None else None}
        path = folder / f"{name_of(setting)}_rank{rank}.npz" if folder else None
        state = (store.load(path, identity) if path else None) or begin(chart, strengths, given)

        def save(state: State, path: Path | None = path, identity: dict[str, Any] = identity) -> None:
            if path:
                store.save(path, identity, state)

        def report(state: State, rank: int = rank) -> None:
            tell(rank, state)

        options: dict[str, Any] = {"most": most, "discover": claimed is None, "draw": draw}
        state = search(chart, strengths, state, save=save, tell=report, **options)
        searches[rank] = state
        orbits += _orbits(chart, state)
    return Proof(setting, searches, sorted(orbits, key=lambda o: o.loss))


def _orbits(chart: Chart, state: State) -> list[Orbit]:
    v = [tuple(map(float, direction(chart, np.array(z.s)))) for z in state.zeros]
    return [Orbit(chart.rank, z.loss, of) for z, of in zip(state.zeros, v, strict=True)]


def name_of(setting: Setting) -> str:
    """Return a file's name for a setting."""
    bias = "no_bias" if setting.decay_b is None else f"{setting.decay_b:g}"
    return f"K{setting.num_classes}_n{setting.per_class}_{setting.decay_w:g}_{setting.decay_h:g}_{bias}"


def census_losses(setting: Setting) -> list[tuple[int, float]]:
    """Return (rank, loss) of the orbits that `ufm_jax.census` finds at d = K − 1, where all ranks fit."""
    import ufm_jax as ufm

    K = setting.num_classes
    prob = ufm.problem(
        num_classes=K,
        per_class=setting.per_class,
        dim=K - 1,
        bias=setting.decay_b is not None,
        decay_w=setting.decay_w,
        decay_h=setting.decay_h,
        decay_b=setting.decay_b or 0.0,
    )
    table = ufm.census(prob).table
    return sorted(zip(table["rank"].to_pylist(), table["loss"].to_pylist(), strict=True))


def agrees(proof: Proof, census: list[tuple[int, float]]) -> bool:
    """Say whether a census lists the proved orbits and no other."""
    ours = sorted((o.rank, o.loss) for o in proof.orbits)
    return len(ours) == len(census) and all(
        rank == r and low - CENSUS_ATOL <= f <= high + CENSUS_ATOL
        for (rank, (low, high)), (r, f) in zip(ours, census, strict=True)
    )
