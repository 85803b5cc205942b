"""Permutations of classes: matching and stabilisers by brute force, fixed points of subgroups."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.models.unconstrained.permutations import (
    Shape,
    group_order,
    matching,
    orbitals,
    random_subgroup,
    stabiliser_order,
)

COUNTS = [(2, 2, 2, 2), (3, 1, 3, 1), (5, 4, 3, 2), (2, 2, 2, 1)]


def permuted(shape, order):
    """The same point with class i called order[i]."""
    M, b, counts = np.empty_like(shape.M), np.empty_like(shape.b), np.empty_like(shape.kinds)
    M[np.ix_(order, order)], b[order], counts[order] = shape.M, shape.b, shape.kinds
    return Shape(M, b, counts)


def symmetric_shape(seed, counts):
    """A random point fixed by a random subgroup."""
    rng = np.random.default_rng(seed)
    K, generators = len(counts), random_subgroup(rng, np.array(counts))
    labels = orbitals(generators, K)
    M, b = rng.normal(size=K * K)[labels], rng.normal(size=K * K)[np.diag(labels)]
    return Shape(M, b, np.array(counts)), generators


def brute_force_stabiliser(shape):
    """Count all permutations that leave M, b and the counts alone."""
    K = len(shape.b)
    return sum(
        np.allclose(shape.M[np.ix_(p, p)], shape.M)
        and np.allclose(shape.b[list(p)], shape.b)
        and np.array_equal(shape.kinds[list(p)], shape.kinds)
        for p in itertools.permutations(range(K))
    )


@pytest.mark.parametrize("counts", COUNTS)
@given(seed=st.integers(0, 10**6))
def test_a_permuted_point_matches(counts, seed):
    shape, _ = symmetric_shape(seed, counts)
    other = permuted(shape, np.random.default_rng(seed).permutation(len(counts)))
    found = np.array(matching(shape, other))
    np.testing.assert_allclose(other.M[np.ix_(found, found)], shape.M)
    np.testing.assert_allclose(other.b[found], shape.b)
    assert np.array_equal(other.kinds[found], shape.kinds)


@pytest.mark.parametrize("counts", COUNTS)
@given(seed=st.integers(0, 10**6))
def test_a_changed_point_does_not_match(counts, seed):
    shape, _ = symmetric_shape(seed, counts)
    changed = shape.M.copy()
    changed[0, 1] += 1e-2
    assert matching(shape, shape._replace(M=changed)) is None
    assert matching(shape, shape._replace(b=shape.b + 1e-2)) is None
    assert matching(shape, shape._replace(kinds=shape.kinds + 1)) is None


@pytest.mark.parametrize("counts", COUNTS)
@given(seed=st.integers(0, 10**6))
def test_stabilisers_by_brute_force(counts, seed):
    shape, generators = symmetric_shape(seed, counts)
    assert stabiliser_order(shape) == brute_force_stabiliser(shape)
    for g in generators:  # the subgroup that made the point preserves counts and fixes it
        assert np.array_equal(shape.kinds[g], shape.kinds)
        np.testing.assert_allclose(shape.M[np.ix_(g, g)], shape.M)


def test_two_points_of_equal_entries_need_not_match():
    # The same multiset of entries in a 4-cycle and in two 2-cycles of a directed graph.
    cycle, pairs = np.zeros((4, 4)), np.zeros((4, 4))
    cycle[[0, 1, 2, 3], [1, 2, 3, 0]] = 1.0
    pairs[[0, 1, 2, 3], [1, 0, 3, 2]] = 1.0
    one, other = (Shape(M, np.zeros(4), np.full(4, 2)) for M in (cycle, pairs))
    for same in (np.sort, lambda M: np.linalg.svd(M, compute_uv=False)):  # what the invariants see
        np.testing.assert_allclose(same(one.M), same(other.M), atol=1e-12)
    assert matching(one, other) is None
    assert (stabiliser_order(one), stabiliser_order(other)) == (4, 8)


@pytest.mark.parametrize("K", range(2, 9))
def test_the_simplex_has_all_permutations(K):
    shape = Shape(np.eye(K) - 1.0 / K, np.zeros(K), np.full(K, 3))
    assert stabiliser_order(shape) == group_order(shape.kinds) == math.factorial(K)


@pytest.mark.parametrize(
    ("counts", "order"), [((2, 2, 2), 6), ((3, 1, 3, 1), 4), ((1, 2, 3), 1), ((7,) * 25, None)]
)
def test_the_group_preserves_counts(counts, order):
    expected = math.factorial(25) if order is None else order
    assert group_order(np.array(counts)) == expected
