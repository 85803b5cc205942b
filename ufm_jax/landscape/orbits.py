"""Which points lie on one orbit of the symmetry, by their invariants and never by their values alone."""

import numpy as np
from jaxtyping import Bool, Float, Int

# Two points are on one orbit when no invariant differs by more than this, relative to 1 and the largest.
# Points solved to ‖∇f‖ ≤ 1e-10 are good to about 1e-9; different orbits come so near each other only beside
# a bifurcation.
MATCH_TOL = 1e-5


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
