"""A theorem for one setting: the searches over all ranks, the orbits that they leave, and the census beside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.theorem import store
from experiments.theorem.convex import Chart
from experiments.theorem.search import State, Zero, begin, chamber, direction, search
from experiments.theorem.setting import Orbit, Setting, closed_forms

CENSUS_ATOL = 1e-9  # of a loss of the census, a number computed at an approximate critical point


class Proof(NamedTuple):
    """What was shown of a setting."""

    setting: Setting
    searches: dict[int, State]  # by rank
    orbits: list[Orbit]  # lowest loss first

    def listed(self, dim: int) -> list[Orbit]:
        """Return the orbits that exist in d = `dim`: those of rank at most d."""
        return [o for o in self.orbits if o.rank <= dim]

    def complete(self, dim: int) -> bool:
        """Say whether `listed` are all, each once: searches of their ranks ended, and no two are one."""
        ranks = range(1, min(dim, self.setting.num_classes - 2) + 1)
        return all(r in self.searches and self.searches[r].complete for r in ranks) and self.distinct

    @property
    def distinct(self) -> bool:
        """Whether no two may be one orbit."""
        return all(a.differs(b) for a, b in combinations(self.orbits, 2))

    def minimum(self, dim: int) -> Orbit | None:
        """Return the orbit of the global minimum in d = `dim`: there is one, critical, of rank at most d.

        None if the list is not proved, or if enclosures of losses do not tell which is lowest.
        """
        lowest, *others = self.listed(dim)
        apart = all(lowest.loss[1] < o.loss[0] for o in others)
        return lowest if self.complete(dim) and apart else None


def prove(
    setting: Setting,
    folder: Path | None = None,
    *,
    ranks: Sequence[int] | None = None,
    claimed: dict[int, list[tuple[float, ...]]] | None = None,
    draw: bool = False,
    most: int = 10**9,
    tell: Callable[[int, State], Any] = lambda rank, state: None,
) -> Proof:
    """Search ranks of a setting, by default all between 0 and K − 1; with a folder, going on from what it
    holds.

    With `claimed`, s of the zeros of each rank, no others are looked for: it is that list which is proved or
    not.

    Raises:
        ValueError: naming `rank`, where there is no chart: for K ≥ 5 of ranks other than 1 and K − 2; naming
            the decays, unless Kθ < 1.
    """
    K, strengths, searches = setting.num_classes, setting.strengths(), {}
    orbits = closed_forms(setting)
    charts = {rank: chamber(K, rank) for rank in (range(1, K - 1) if ranks is None else ranks)}
    for rank, chart in charts.items():
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
    """Return an orbit for each zero but those that are mirror images of one before."""
    kept: list[Zero] = []
    for zero in state.zeros:
        if not any(_is_mirrored(zero, other) for other in kept):
            kept.append(zero)
    basis = chamber(chart.num_classes, 1).V[1:, :, 0]  # by how much v changes with s
    reach = float(np.abs(basis).sum(0).max()) * (1 + 1e-12)
    v = [tuple(map(float, direction(chart, np.array(z.s)))) for z in kept]
    return [Orbit(chart.rank, z.loss, of, reach * z.within) for z, of in zip(kept, v, strict=True)]


def _is_mirrored(zero: Zero, other: Zero) -> bool:
    """Say whether v ↦ −v reversed takes a zero into the box in which another is the only one: it is that one.

    On coefficients of ω_1, …, ω_{K−1} it is their reversal.
    """
    s, m = np.array(zero.s), len(zero.s)
    mirrored = np.r_[1 - s.sum(), s][::-1][1:]
    return bool(np.all(np.abs(mirrored - np.array(other.s)) + (m + 1) * zero.within < other.radius))


def name_of(setting: Setting) -> str:
    """Return a file's name for a setting."""
    bias = "no_bias" if setting.decay_b is None else f"{setting.decay_b:g}"
    return f"K{setting.num_classes}_n{setting.per_class}_{setting.decay_w:g}_{setting.decay_h:g}_{bias}"


def census_losses(setting: Setting, dim: int) -> list[tuple[int, float]]:
    """Return (rank, loss) of the orbits that `ufm_jax.census` finds in d = `dim`."""
    import ufm_jax as ufm

    K = setting.num_classes
    prob = ufm.problem(
        num_classes=K,
        per_class=setting.per_class,
        dim=dim,
        bias=setting.decay_b is not None,
        decay_w=setting.decay_w,
        decay_h=setting.decay_h,
        decay_b=setting.decay_b or 0.0,
    )
    table = ufm.census(prob).table
    return sorted(zip(table["rank"].to_pylist(), table["loss"].to_pylist(), strict=True))


def agrees(proof: Proof, census: list[tuple[int, float]], dim: int) -> bool:
    """Say whether a census in d = `dim` lists the proved orbits and no other."""
    ours = sorted((o.rank, o.loss) for o in proof.listed(dim))
    return len(ours) == len(census) and all(
        rank == r and low - CENSUS_ATOL <= f <= high + CENSUS_ATOL
        for (rank, (low, high)), (r, f) in zip(ours, census, strict=True)
    )
