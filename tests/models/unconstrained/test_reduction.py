"""Class collapse and rank reduction are exact: isometry, values, and whole spectra at critical points."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BALANCED,
    CE,
    IMBALANCED,
    PROBLEMS,
    SQUARED,
    gaussians,
    gradient_norm,
    keys,
    make,
    take,
    zoo,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.landscape.flat import hessian
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import logit_gradient, logits, objective
from ufm_jax.models.unconstrained.reduction import (
    collapse,
    feature_frame,
    full_spectrum,
    lift,
    rank_bound,
    reduced,
    restrict,
    tail_hessian,
    turned,
    within_class_deviation,
    within_class_hessians,
)


@jax.jit
def lifted(prob, keys):
    """A point of class means and what is to be the same of it and of what it is lifted to, in pairs."""
    small = collapse(prob)
    p, v = (starts.gaussian(small, k) for k in keys)
    large = lift(prob, p)
    inner = jnp.dot(ravel(large), ravel(lift(prob, v))), jnp.dot(ravel(p), ravel(v))
    values = objective(prob)(large), objective(small)(p)
    norms = gradient_norm(prob, large), gradient_norm(small, p)
    return p, restrict(small, large), inner, values, norms, within_class_deviation(prob, large)


@settings(max_examples=6)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 3), st.booleans(), st.integers(0, 99)
)
def test_lift_is_an_isometry_that_preserves_f_and_restrict_undoes_it(counts, dim, bias, seed):
    prob = make(tuple(counts), dim, bias=bias)
    p, again, inner, values, norms, deviation = jax.device_get(lifted(prob, keys(seed, 2)))
    for a, b in zip(again, p, strict=True):
        assert a is b is None or np.allclose(a, b, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(*inner, atol=1e-12)
    np.testing.assert_allclose(*values, rtol=1e-13)
    np.testing.assert_allclose(*norms, rtol=1e-11)
    assert deviation <= 1e-14 * (1 + np.linalg.norm(p.H))


def test_restrict_is_the_adjoint_of_lift():
    prob = make(IMBALANCED, 2)
    p, v = starts.gaussian(prob, jax.random.key(0)), starts.gaussian(collapse(prob), jax.random.key(1))
    left, right = (
        jnp.dot(ravel(restrict(collapse(prob), p)), ravel(v)),
        jnp.dot(ravel(p), ravel(lift(prob, v))),
    )
    np.testing.assert_allclose(left, right, rtol=1e-13)


on_means = jax.jit(lambda prob, p: restrict(collapse(prob), p))


@pytest.mark.parametrize("name", PROBLEMS)
def test_full_spectrum_is_that_of_the_dense_hessian_at_minima_and_saddles(name):
    z = zoo(name)
    assert len(z.values) >= 6
    indices = set()
    for i in np.unique(np.round(z.values, 8), return_index=True)[1]:
        expected = np.linalg.eigvalsh(z.hessians[i])
        found = full_spectrum(z.prob, on_means(z.prob, take(z.points, i)))
        np.testing.assert_allclose(found, expected, atol=1e-10)
        indices.add(int(np.sum(expected < -1e-9)))
    assert min(indices) == 0
    assert max(indices) > 0


@pytest.mark.parametrize("name", PROBLEMS)
def test_critical_points_obey_the_facts_true_at_every_one(name):
    z = zoo(name)
    deviations = jax.jit(jax.vmap(within_class_deviation, in_axes=(None, 0)))(z.prob, z.points)
    assert np.all(deviations <= 1e-10)
    for i in range(len(z.values)):
        p = jax.tree.map(np.asarray, take(z.points, i))
        balance = float(z.prob.decay_w) * p.W.T @ p.W - float(z.prob.decay_h) * p.H @ p.H.T
        np.testing.assert_allclose(balance, 0.0, atol=1e-10)
        assert z.ranks[i] <= rank_bound(z.prob)


@pytest.mark.parametrize("loss", [CE, SQUARED], ids=["ce", "squared"])
def test_within_class_hessians_by_the_formula_for_cross_entropy_and_by_autodiff(loss):
    prob = make(IMBALANCED, 2, loss=loss)
    p = starts.gaussian(collapse(prob), jax.random.key(2))
    blocks = within_class_hessians(prob, p)
    Z = logits(collapse(prob), p)
    for k in range(3):
        q = jax.nn.softmax(Z[:, k])
        A = jnp.diag(q) - jnp.outer(q, q) if loss is CE else jnp.eye(3)
        expected = prob.decay_h * jnp.eye(2) + p.W.T @ A @ p.W / 6.0
        np.testing.assert_allclose(blocks[k], expected, atol=1e-15)
    # Samples 0 and 1 of class 0 moving apart: the curvature of the full problem, exactly.
    H = hessian(prob, lift(prob, p))
    apart = np.zeros((2, prob.num_variables))
    for coordinate in range(2):
        first = 3 * 2 + coordinate * 6
        apart[coordinate, first : first + 2] = np.array([1.0, -1.0]) / np.sqrt(2.0)
    np.testing.assert_allclose(apart @ H @ apart.T, blocks[0], atol=1e-14)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decays", [(5e-3, 1e-3), (1e-3, 1e-3), (1e-4, 1e-1)])
def test_tail_hessian_eigenvalues(seed, decays):
    prob = make(BALANCED, 2, decay_w=decays[0], decay_h=decays[1])
    G = np.random.default_rng(seed).normal(size=(3, 3)) * 10.0 ** -(seed % 4)
    mean, half = sum(decays) / 2, (decays[0] - decays[1]) / 2
    root = np.sqrt(half**2 + np.linalg.svd(G, compute_uv=False) ** 2)
    found = np.linalg.eigvalsh(tail_hessian(prob, jnp.asarray(G)))
    np.testing.assert_allclose(found, np.sort([*(mean - root), *(mean + root)]), atol=1e-14)


@jax.jit
def split(prob, p):
    """A point of class means, there and back; its gradient in fewer features; Hessians: tail, means, both."""
    means, small = collapse(prob), reduced(prob)
    p = restrict(means, p)
    frame = feature_frame(prob, p)
    q = restrict(small, turned(p, frame))
    tail = tail_hessian(small, logit_gradient(small, q))
    again = turned(lift(means, q), frame.T)
    return ravel(p), ravel(again), gradient_norm(small, q), tail, hessian(means, p), hessian(small, q)


@pytest.mark.parametrize("name", ["above-ce-unbiased", "above-smooth-decayed", "above-squared-undecayed"])
def test_restrict_and_lift_keep_critical_points_and_split_the_hessian(name):
    z = zoo(name)
    for i in np.unique(np.round(z.values, 8), return_index=True)[1]:
        p, again, norm, *hessians = split(z.prob, take(z.points, i))
        np.testing.assert_allclose(again, p, atol=1e-9)
        assert norm <= 1e-9
        tail, whole, part = (np.linalg.eigvalsh(H) for H in hessians)
        parts = [part, *[tail] * (z.prob.dim - reduced(z.prob).dim)]
        np.testing.assert_allclose(np.sort(np.concatenate(parts)), whole, atol=1e-9)


def test_compressing_a_random_point_of_low_dimension_is_exact():
    prob = collapse(make(BALANCED, 2))
    p = take(gaussians(prob, 5, 1), 0)
    frame = feature_frame(prob, p)
    small = replace(prob, dim=rank_bound(prob))
    q = restrict(small, turned(p, frame))
    np.testing.assert_allclose(objective(small)(q), objective(prob)(p), rtol=1e-13)
