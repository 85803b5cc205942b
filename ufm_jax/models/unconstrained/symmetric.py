"""Starts with symmetry: most saddles are fixed, up to rotation, by a subgroup of the class permutations.

Gradient and Hessian of f commute with the group, so a Newton-type search from a fixed point of a subgroup
stays among its fixed points: a space of few dimensions, in which saddles of high index attract.
"""

import numpy as np
from jaxtyping import Float

from ufm_jax.models.unconstrained.permutations import orbitals, random_subgroup
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import rank_bound

GENERIC = 0.25  # share of starts without any symmetry
SIZES = (
    3.0,
    60.0,
)  # range of the largest singular value of W H̃, log-uniform: below 1 most fall to the origin
DIAGONAL = 2.0  # critical points favour their own class: scale of what is added to the diagonal
SAME_SINGULAR_VALUE = 1e-6  # relative: of one irreducible subspace


def draw(prob: Problem, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return W (K, r), H̃ (r, K) and b (K,) of a balanced start fixed by a random subgroup, r = `rank_bound`.

    A random matrix constant on the group's orbitals has singular subspaces that the group preserves; a random
    choice of them gives the start its rank.
    """
    K, r = prob.num_classes, rank_bound(prob)
    generators = [] if rng.random() < GENERIC else random_subgroup(rng, prob.kinds)
    labels = orbitals(generators, K)
    M = rng.normal(size=K * K)[labels] + abs(rng.normal(scale=DIAGONAL)) * np.eye(K)
    if prob.shift_invariant:
        M = M - M.mean(axis=0)
    b = rng.normal(size=K * K)[np.diag(labels)] * 10.0 ** rng.uniform(-2, 0)
    U, singular, Vt = np.linalg.svd(M)
    size = np.exp(rng.uniform(*np.log(SIZES))) / max(singular[0], 1e-300)
    kept = np.flatnonzero(_chosen(singular, rng))[:r]
    roots = np.zeros(r)
    roots[: len(kept)] = np.sqrt(size * singular[kept])
    tilt = float(prob.decay_h / prob.decay_w) ** 0.25
    W, H = np.zeros((K, r)), np.zeros((r, K))
    W[:, : len(kept)], H[: len(kept)] = U[:, kept], Vt[kept]
    return W * roots * tilt, (roots / tilt)[:, None] * H, b if prob.bias else np.zeros(0)


def _chosen(singular: Float[np.ndarray, " K"], rng: np.random.Generator) -> np.ndarray:
    """Choose non-zero singular values at random, equal ones together."""
    apart = np.abs(np.diff(singular)) > SAME_SINGULAR_VALUE * singular[0]
    cluster = np.concatenate([[0], np.cumsum(apart)])
    present = singular > SAME_SINGULAR_VALUE * singular[0]
    wanted = rng.random(len(singular)) < rng.random()
    wanted[rng.choice(cluster[present])] = True
    return wanted[cluster] & present
