"""Unequal classes: merging against searches, and the geometry without decay against its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make
from scipy.optimize import minimize

from ufm_jax.landscape.search import search
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.unequal_classes import merged_groups, seli

GROUPS = (4, 4, 2, 2, 1, 1)


@jax.jit
def classifier(prob):
    small = collapse(prob)
    return search(small, starts.gaussian(small, jax.random.key(0))).x.W


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_each_group_merges_at_its_own_threshold(count, factor):
    s = factor * count**0.5 / sum(GROUPS)
    W = np.asarray(classifier(make(GROUPS, 5, decay_w=s, decay_h=s)))
    apart = {n: np.linalg.norm(W[k] - W[k + 1]) for k, n in ((0, 4), (2, 2), (4, 1))}
    assert sorted(n for n, length in apart.items() if length < 1e-6) == merged_groups(GROUPS, s)
    assert (count in merged_groups(GROUPS, s)) == (factor > 1)


@pytest.mark.parametrize(
    ("counts", "small", "large"),
    [
        ((500,) * 5 + (100,) * 5, 0.003333, 0.007454),
        ((500,) * 3 + (100,) * 7, 0.004545, 0.010164),
    ],
)
def test_public_thresholds_of_minority_and_majority(counts, small, large):
    for threshold, count in ((small, 100), (large, 500)):
        assert count not in merged_groups(counts, threshold - 2e-6)
        assert count in merged_groups(counts, threshold + 2e-6)


def test_three_public_groups_merge_within_themselves():
    assert merged_groups((5000,) * 3 + (4000,) * 3 + (3000,) * 4, 0.005) == [3000, 4000, 5000]
    assert merged_groups((5, 3, 1), 1.0) == []  # no two are alike


def test_public_geometry_of_two_majority_and_two_minority_classes():
    found = seli((10, 10, 1, 1))
    pairs = [(0, 1), (0, 2), (2, 3)]
    for cosines, gram, known, ratio in (
        (found.cosines_w, found.gram_w, (-0.4590, -0.3821, 0.0794), 1.4125),
        (found.cosines_h, found.gram_h, (-0.1946, -0.2660, -0.6485), 0.6606),
    ):
        np.testing.assert_allclose([cosines[pair] for pair in pairs], known, atol=6e-5)
        np.testing.assert_allclose((gram[0, 0] / gram[2, 2]) ** 0.5, ratio, atol=6e-5)


def test_equal_counts_are_a_simplex():
    found = seli((7, 7, 7, 7))
    for cosines in (found.cosines_w, found.cosines_h):
        np.testing.assert_allclose(cosines, (4 * np.eye(4) - 1) / 3, atol=1e-12)


@pytest.mark.parametrize("counts", [(10, 10, 1, 1), (100, 10, 1), (8, 4, 2, 1), (50, 1, 1, 1, 1)])
def test_multipliers_prove_that_all_margins_are_one(counts):
    """Signs of a subgradient: U Vᵀ ≤ 0 off the labels and columns of sum 0 are the program's optimality."""
    found, n = seli(counts), np.array(counts, float)
    assert np.all(found.multipliers >= -1e-14)
    G = (
        found.multipliers.sum(axis=0) * np.eye(len(n)) - found.multipliers
    )  # the subgradient, a sample a class
    Z = np.eye(len(n)) - 1 / len(n)
    np.testing.assert_allclose(np.linalg.norm(G * np.sqrt(n), 2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.sum(n * G * Z), found.singular_values.sum(), rtol=1e-12)


def test_the_convex_program_solved_blindly_has_no_better_value():
    """SciPy's SLSQP over W and H̃ with margins as constraints shares no formula."""
    n, K, d = np.array((5.0, 2.0, 1.0)), 3, 2

    def split(x):
        return x[: K * d].reshape(K, d), x[K * d :].reshape(d, K)

    def margins(x):
        W, H = split(x)
        Z = W @ H / np.sqrt(n)
        return np.array([Z[k, k] - Z[j, k] - 1 for k in range(K) for j in range(K) if j != k])

    best = np.inf
    for seed in range(6):
        start = np.random.default_rng(seed).normal(size=2 * K * d)
        end = minimize(
            lambda x: x @ x / 2,
            start,
            jac=lambda x: x,
            constraints={"type": "ineq", "fun": margins},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        if end.success and end.fun < best:
            best, (W, _) = end.fun, split(end.x)
    found = seli((5, 2, 1))
    np.testing.assert_allclose(best, found.singular_values.sum(), rtol=1e-8)
    np.testing.assert_allclose(W @ W.T, found.gram_w, atol=1e-4)


def test_minima_come_nearer_to_it_as_decays_fall():
    """By one over the logarithm of the decay, about: halved from 1e-4 to 1e-8."""
    apart, gram = [], seli((10, 10, 1, 1)).gram_w
    for decay in (1e-4, 1e-8):
        W = classifier(make((10, 10, 1, 1), 3, decay_w=decay, decay_h=decay, bias=False))
        found = W @ W.T
        apart.append(float(jnp.linalg.norm(found / jnp.linalg.norm(found) - gram / np.linalg.norm(gram))))
    assert apart[1] < 0.65 * apart[0]
    assert apart[1] < 0.05
