"""Permutations of classes of one kind (`Problem.kinds`): matching, stabilisers, fixed points.

A critical point is known, up to rotation, by its logits without bias M = W H̃ and its bias b; a permutation P
of classes acts by P M Pᵀ and P b. All here is NumPy on the host: K is small, and the searches branch.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Two points are on one orbit when entries of M and b agree to this, relative to 1 + max|M|. Solved points are
# good to about 1e-9; different orbits come so near each other only beside a bifurcation.
MATCH_TOL = 1e-5


class Shape(NamedTuple):
    """A point modulo rotations: M = W H̃, b (centred where its shift is a symmetry), and the kinds."""

    M: Float[np.ndarray, "K K"]
    b: Float[np.ndarray, " K"]
    kinds: Int[np.ndarray, " K"]

    @property
    def tolerance(self) -> float:
        """How far entries may differ on one orbit."""
        return MATCH_TOL * (1.0 + float(np.abs(self.M).max()))


def matching(one: Shape, other: Shape, prefix: tuple[int, ...] = ()) -> tuple[int, ...] | None:
    """Return a permutation π with other.M[π_i, π_j] = one.M[i, j], the same of b and kinds, or None.

    `prefix` fixes π_0, π_1, ... By backtracking over classes that agree in kind, bias and sorted row.
    """
    tol, K = one.tolerance, len(one.b)
    if len(prefix) == K:
        return prefix if _fits(one, other, prefix, tol) else None
    if prefix and not _fits(one, other, prefix, tol):
        return None
    for j in range(K):
        if j not in prefix:
            found = matching(one, other, (*prefix, j))
            if found is not None:
                return found
    return None


def _fits(one: Shape, other: Shape, prefix: tuple[int, ...], tol: float) -> bool:
    """Check the last class of the prefix against itself and the classes before it."""
    i, j, before = len(prefix) - 1, prefix[-1], list(prefix)
    return bool(
        one.kinds[i] == other.kinds[j]
        and abs(one.b[i] - other.b[j]) <= tol
        and np.abs(one.M[i, : i + 1] - other.M[j, before]).max() <= tol
        and np.abs(one.M[: i + 1, i] - other.M[before, j]).max() <= tol
    )


def stabiliser_order(shape: Shape) -> int:
    """Return the number of permutations that leave the point's orbit under rotations in place.

    Orbit–stabiliser along the chain of pointwise stabilisers: the product over i of the number of classes
    to which i can be moved while 0..i−1 stay.
    """
    K = len(shape.b)
    order = 1
    for i in range(K):
        fixed = tuple(range(i))
        order *= sum(matching(shape, shape, (*fixed, j)) is not None for j in range(i, K))
    return order


def group_order(kinds: Int[np.ndarray, " K"]) -> int:
    """Return the number of permutations of classes that preserve their kinds."""
    order = 1
    for size in np.unique(kinds, return_counts=True)[1]:
        order *= int(np.prod(np.arange(1, size + 1, dtype=object)))
    return order


def orbitals(generators: list[Int[np.ndarray, " K"]], K: int) -> Int[np.ndarray, "K K"]:
    """Label pairs (i, j) so that two have one label exactly if the generated group moves one to the other.

    M is fixed by the group exactly if it is constant on labels; the labels (i, i) are the orbits of classes.
    """
    labels = np.arange(K * K).reshape(K, K)
    while True:
        before = labels.copy()
        for g in generators:
            moved = labels[np.ix_(g, g)]
            labels = np.minimum(labels, moved)
            np.minimum.at(labels, np.ix_(g, g), labels.copy())
        if np.array_equal(labels, before):
            return labels


def random_subgroup(rng: np.random.Generator, kinds: Int[np.ndarray, " K"]) -> list[Int[np.ndarray, " K"]]:
    """Return generators of a random subgroup of the permutations that preserve kinds.

    Classes of one kind are partitioned at random. Each block carries its symmetric group, a cyclic group,
    or nothing; two blocks of equal size are swapped or moved together at times.
    """
    K, generators, blocks = len(kinds), [], []
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        cuts = np.flatnonzero(rng.random(len(members) - 1) < rng.random()) + 1
        blocks += np.split(members, cuts)
    for block in blocks:
        choice = rng.integers(4)
        if len(block) > 1 and choice < 3:
            generators.append(_cycle(K, block))
            if choice < 2:
                generators.append(_cycle(K, block[:2]))
    for one, other in pairwise(blocks):
        if len(one) == len(other) and kinds[one[0]] == kinds[other[0]] and rng.random() < 0.5:
            swap = np.arange(K)
            swap[one], swap[other] = other, one
            generators.append(swap)
    return generators


def _cycle(K: int, block: Int[np.ndarray, " m"]) -> Int[np.ndarray, " K"]:
    permutation = np.arange(K)
    permutation[block] = np.roll(block, -1)
    return permutation
