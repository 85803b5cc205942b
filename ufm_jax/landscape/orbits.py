"""Which points lie on one orbit of the symmetry, by their invariants and never by their values alone.

And the list of orbits that a census keeps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.landscape import Landscape, sizes_of
from ufm_jax.landscape.sound import of_package
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.units import LEVEL_TOL
from ufm_jax.landscape.verdict import Verdict

# Two points are on one orbit when no invariant differs by more than this, relative to 1 and the largest.
# Points solved to ‖∇f‖ ≤ 1e-10 are good to about 1e-9; different orbits come so near each other only beside
# a bifurcation.
MATCH_TOL = 1e-5
LEAST = 4000  # starts before a census may end by itself
# Three times the starts that the last new orbit took. With twice, censuses of K = 6 missed up to two of 75
# orbits, of which one start in 4,000 finds one: a pair that was born at a fold violates no test of a list.
AGAIN = 3


def with_value(landscape: Landscape, x: Any, own: Shaped[Array, " m"]) -> Float[Array, "..."]:
    """Return `own` invariants of x, and of a user's landscape f (as arsinh, in units) before them.

    No symmetry changes f: points of other values are on other orbits, whatever a user's invariants leave out.
    """
    if of_package(landscape):
        return own
    value = landscape.value(x)
    level = jnp.arcsinh(value / sizes_of(landscape, value).value)
    return jnp.concatenate([level[None], own.astype(level.dtype)])


def near(invariants: Float[np.ndarray, "m F"], own: Float[np.ndarray, " F"]) -> Bool[np.ndarray, " m"]:
    """Say of each point whether its invariants are those of one point, to `MATCH_TOL`."""
    tolerance = MATCH_TOL * (1.0 + np.abs(own).max(initial=0.0))
    return np.all(np.abs(invariants - own) <= tolerance, axis=1)


def sorted_into(
    invariants: Float[np.ndarray, "m F"], kinds: Int[np.ndarray, " m"] | None = None
) -> Int[np.ndarray, " m"]:
    """Return the number of each point's orbit, numbered in the order in which they first appear.

    A point joins the first orbit whose first point it matches (`MATCH_TOL`). Points with an invariant that
    is not a number are each an orbit of their own. Points of two `kinds` are never on one orbit; -1 is of
    any kind.
    """
    kinds = np.full(len(invariants), -1) if kinds is None else np.array(kinds)
    numbers = np.full(len(invariants), -1)
    orbits = 0
    for i in np.argsort(kinds < 0, kind="stable"):  # those of a known kind first
        if numbers[i] >= 0:
            continue
        alike = near(invariants, invariants[i]) & ((kinds == kinds[i]) | (kinds < 0))
        numbers[alike & (numbers < 0)] = orbits
        numbers[i] = orbits
        orbits += 1
    first = np.unique(numbers, return_index=True)[1]
    return np.argsort(np.argsort(first))[numbers] if len(numbers) else numbers


def projected(vectors: Float[np.ndarray, "m F"]) -> Float[np.ndarray, " m"]:
    """Return one number of each vector, which changes by no more than its largest entry does."""
    weights = np.cos(np.arange(vectors.shape[1], dtype=float))  # any that are not alike
    return vectors @ (weights / max(1.0, np.abs(weights).sum()))


def grouped(
    vectors: Float[np.ndarray, "m F"],
    best_first: Int[np.ndarray, " k"],
    kinds: Int[np.ndarray, " m"],
    same: Callable[[int, int], bool] | None = None,
) -> Int[np.ndarray, " m"]:
    """Return for each point the first in the order `best_first` whose vector it has; -1 of others.

    To `MATCH_TOL`, as `sorted_into`, among points of one of the `kinds`; and only where `same` says so, too,
    of the first and of the point. Looks among the points whose projections on one direction agree.
    """
    joined, along = np.full(len(vectors), -1), projected(vectors)
    for kind in np.unique(kinds[best_first]):
        members = best_first[kinds[best_first] == kind]
        ordered = members[np.argsort(along[members], kind="stable")]
        places = along[ordered]
        for i in members:
            if joined[i] >= 0:
                continue
            joined[i] = i
            tolerance = MATCH_TOL * (1.0 + np.abs(vectors[i]).max(initial=0.0))
            low, high = np.searchsorted(places, along[i] + tolerance * np.array([-1.01, 1.01]))
            window = ordered[low:high]
            window = window[joined[window] < 0]
            alike = window[near(vectors[window], vectors[i])]
            if same is not None:
                alike = alike[[same(int(i), int(j)) for j in alike]] if len(alike) else alike
            joined[alike] = i
    return joined


class Census(NamedTuple):
    """Orbits found so far, one row each, the lowest value first, and how they were found."""

    points: Float[np.ndarray, "m D"]  # representatives, raveled, in the space that holds all (`space_of`)
    hits: Int[np.ndarray, " m"]
    copies: Int[np.ndarray, " m"]  # `OrbitRow.copies`; NOT_COUNTED where nobody knows
    evidence: dict[str, np.ndarray]  # of each representative, in the landscape asked about, and measures
    num_starts: int = 0
    num_failed: int = 0  # searches that met no critical point
    last_new: int = 0  # starts done when the last new orbit was found

    @property
    def settled(self) -> bool:
        """True when twice as many starts again as were needed have brought nothing new."""
        return self.num_starts >= self.enough

    @property
    def enough(self) -> int:
        """After how many starts it is settled, if none brings anything new."""
        return max(LEAST, AGAIN * self.last_new)


class OrbitRow(NamedTuple):
    """One row of orbits.csv; index and nullity are those in the landscape asked about. None: not known."""

    loss: float
    rank: int | None  # the landscape's measure of this name, if it is an integer
    index: int | None  # type: ignore[assignment]
    nullity: int | None
    orbit_dim: int
    copies: int | None  # orbits that the discrete symmetry makes of it; 0: a continuum of orbits
    verdict: str
    hits: int
    proved: bool | None = None  # by interval arithmetic (`landscape.proof`); None: nobody asked
    name: str = ""  # `Landscape.name_of`
    stabiliser: int | None = None  # order of the discrete symmetry that leaves the orbit in place


def rows(landscape: Landscape, state: Census) -> list[OrbitRow]:
    """Return the orbits found, in their order."""
    e, space = state.evidence, landscape.space("saddles")
    ranked = "rank" in e and e["rank"].dtype.kind == "i"
    return [
        OrbitRow(
            loss=float(e["loss"][i]),
            rank=int(e["rank"][i]) if ranked else None,
            index=_counted(e["index"][i]),
            nullity=_counted(e["nullity"][i]),
            orbit_dim=int(e["orbit_dim"][i]),
            copies=_counted(state.copies[i]),
            verdict=Verdict(int(e["verdict"][i])).name,
            hits=int(state.hits[i]),
            name=space.name_of(unravel(space, jnp.asarray(state.points[i]))),
            stabiliser=space.discrete_order // int(state.copies[i]) if state.copies[i] > 0 else None,
        )
        for i in range(len(state.hits))
    ]


def _counted(number: Any) -> int | None:
    return None if number == NOT_COUNTED else int(number)


def unseen_mass(hits: Int[np.ndarray, " m"]) -> float:
    """Estimate the chance that the next start finds a new orbit: orbits hit once over all hits (Good 1953).

    It speaks of the sampler: an orbit that the starts hardly ever reach adds nothing to it. NaN without hits.
    """
    return float(np.sum(hits == 1) / np.sum(hits)) if np.sum(hits) else float("nan")


def degenerate(evidence: dict[str, np.ndarray]) -> np.ndarray:
    """True for points whose nullity is above their orbit's dimension."""
    return np.asarray(evidence["nullity"] > evidence["orbit_dim"])


def one_of_each_family(
    landscape: Landscape, evidence: dict[str, np.ndarray], hits: Int[np.ndarray, " m"]
) -> tuple[list[int], Int[np.ndarray, " m"]]:
    """Return which points to keep, and hits with those of the others added to their family's first.

    Degenerate points lie on continua of orbits, of which no list can hold each: one stands for all that share
    loss (to `LEVEL_TOL`), index, nullity and what else was counted of them.
    """
    if not evidence:
        return [], hits
    family_like, hits = degenerate(evidence), hits.copy()
    level = LEVEL_TOL * np.asarray(sizes_of(landscape, jnp.asarray(evidence["loss"])).value)
    counts = [v for n, v in evidence.items() if v.dtype.kind == "i" and n not in ("verdict", "reason")]
    kept: list[int] = []
    for i in range(len(hits)):
        family = (
            j
            for j in kept
            if family_like[i]
            and family_like[j]
            and abs(evidence["loss"][i] - evidence["loss"][j]) <= level[j]
            and all(values[i] == values[j] for values in counts)
        )
        first = next(family, None)
        if first is None:
            kept.append(i)
        else:
            hits[first] += hits[i]
    return kept, hits
