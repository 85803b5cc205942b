"""Which points lie on one orbit of the symmetry, by their invariants and never by their values alone."""

import numpy as np
from jaxtyping import Float, Int

# Two points are on one orbit when no invariant differs by more than this, relative to 1 and the largest.
# Points solved to ‖∇f‖ ≤ 1e-10 are good to about 1e-9; different orbits come so near each other only beside
# a bifurcation.
MATCH_TOL = 1e-5


def sorted_into(invariants: Float[np.ndarray, "m F"]) -> Int[np.ndarray, " m"]:
    """Return the number of each point's orbit, numbered in the order in which they first appear.

    A point joins the first orbit whose first point it matches (`MATCH_TOL`). Points with an invariant that
    is not a number are each an orbit of their own.
    """
    numbers = np.full(len(invariants), -1)
    orbits = 0
    for i in range(len(invariants)):
        if numbers[i] >= 0:
            continue
        tolerance = MATCH_TOL * (1.0 + np.abs(invariants[i]).max(initial=0.0))
        near = np.all(np.abs(invariants[i:] - invariants[i]) <= tolerance, axis=1)
        numbers[i:][near & (numbers[i:] < 0)] = orbits
        numbers[i] = orbits
        orbits += 1
    return numbers
