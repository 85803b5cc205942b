"""A frozen classifier: one minimum, against closed forms, dense Hessians and its own lower bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from ufm_jax.models.frozen_classifier import FrozenClassifier
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.descent import minimise
from ufm_jax.numerics.status import Status

CE, SMOOTH, SQUARED = CrossEntropy(), CrossEntropy(smoothing=0.1), Squared()
DECAY = 1e-2


def etf(counts, dim, loss=CE, *, bias=True, decay_b=1e-2):
    W = simplex_etf(len(counts), dim)
    return FrozenClassifier(W=W, decay_h=DECAY, decay_b=decay_b, counts=counts, bias=bias, loss=loss)


def anything(loss=CE, *, bias=True, decay_b=1e-2, counts=(3, 1, 2)):
    W = np.random.default_rng(0).normal(size=(len(counts), 4))
    return FrozenClassifier(W=W, decay_h=DECAY, decay_b=decay_b, counts=counts, bias=bias, loss=loss)


descend = jax.jit(lambda landscape, start: minimise(landscape.value, start))


def minimum(landscape, seed=0):
    found = descend(landscape, landscape.start(jax.random.key(seed)))
    assert found.status == Status.CONVERGED
    return found


@pytest.mark.parametrize(
    ("counts", "dim", "bias"), [((2, 2, 2), 2, True), ((3, 3, 3, 3), 5, True), ((4, 1, 2), 3, False)]
)
def test_features_of_cross_entropy_align_with_a_frozen_simplex(counts, dim, bias):
    landscape, K, N = etf(counts, dim, bias=bias), len(counts), sum(counts)
    balance = lambda eta: K / (N * (K - 1 + np.exp(eta * K / (K - 1)))) - DECAY * eta
    eta = brentq(balance, 0.0, 1 / (N * DECAY), xtol=1e-14)  # the left side is at most 1/N
    found = minimum(landscape)
    np.testing.assert_allclose(found.x.H, eta * landscape.W[landscape.labels].T, atol=1e-8)
    if bias:
        np.testing.assert_allclose(found.x.b, 0.0, atol=1e-9)


@pytest.mark.parametrize(("counts", "dim"), [((2, 2, 2), 2), ((3, 3, 3, 3), 5)])
def test_features_of_the_squared_loss_align_with_a_frozen_simplex(counts, dim):
    landscape, K, N = etf(counts, dim, SQUARED), len(counts), sum(counts)
    found = minimum(landscape)
    eta = 1 / (K / (K - 1) + N * DECAY)
    np.testing.assert_allclose(found.x.H, eta * landscape.W[landscape.labels].T, atol=1e-8)
    np.testing.assert_allclose(found.x.b, 1 / (K * (1 + landscape.decay_b)), atol=1e-9)


LANDSCAPES = {
    "ce": anything(),
    "ce, no bias": anything(bias=False),
    "ce, bias not decayed": anything(decay_b=0.0),
    "smooth, bias not decayed": anything(SMOOTH, decay_b=0.0),
    "squared": anything(SQUARED),
    "squared, bias not decayed": anything(SQUARED, decay_b=0.0),
}


@pytest.mark.parametrize("name", LANDSCAPES)
def test_there_is_one_minimum_and_its_null_directions_are_the_tangents(name):
    landscape = LANDSCAPES[name]
    found, other = minimum(landscape), minimum(landscape, 1)
    np.testing.assert_allclose(found.value, other.value, atol=1e-13)
    np.testing.assert_allclose(landscape.invariants(found.x), landscape.invariants(other.x), atol=1e-6)
    np.testing.assert_allclose(landscape.measures(found.x)["within"], 0.0, atol=1e-12)
    H = dense_hessian(landscape.value)(found.x)
    eigenvalues = np.linalg.eigvalsh(H)
    leaves = jax.tree.leaves(landscape.tangents(found.x))
    rows = np.concatenate([np.reshape(a, (len(a), np.prod(a.shape[1:]))) for a in leaves], axis=1)
    np.testing.assert_allclose(rows @ H, 0.0, atol=1e-12)
    orbit_dim = np.linalg.matrix_rank(rows) if len(rows) else 0
    assert orbit_dim == ("ce" in name or "smooth" in name) * ("not decayed" in name)
    assert np.sum(np.abs(eigenvalues) < 1e-9) == orbit_dim
    assert np.sum(eigenvalues < -1e-9) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_lower_bound_holds_everywhere_and_closes_at_the_minimum(name):
    landscape = LANDSCAPES[name]
    found = minimum(landscape)
    bound = jax.jit(lambda landscape, x: landscape.lower_bound(x))
    assert -1e-14 <= found.value - bound(landscape, found.x) <= 1e-9
    starts = jax.vmap(landscape.start)(jax.random.split(jax.random.key(2), 200))
    anywhere = jax.vmap(landscape.lower_bound)(starts)
    near = jax.tree.map(lambda a, b: a + 1e-4 * b, found.x, starts)
    for bounds in (anywhere, jax.vmap(landscape.lower_bound)(near)):
        assert np.all(np.isfinite(bounds))
        assert np.all(bounds <= found.value + 1e-14)


def test_a_loss_that_is_not_convex_has_no_bound():
    landscape = anything(Focal())
    assert landscape.lower_bound(landscape.zeros()) == -np.inf


def test_decays_are_traced_and_tangents_know_a_decay_of_zero():
    traces = []

    @jax.jit
    def length(landscape):
        traces.append(1)
        return jnp.linalg.norm(landscape.tangents(landscape.zeros()).b)

    assert [float(length(anything(decay_b=decay))) for decay in (0.0, 1e-2)] == [np.sqrt(3.0), 0.0]
    assert len(traces) == 1


def test_counts_that_are_not_those_of_the_rows_are_refused():
    with pytest.raises(ValueError, match="counts"):
        FrozenClassifier(W=np.eye(3), decay_h=1.0, decay_b=1.0, counts=(1, 1))


def test_a_bias_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(ValueError, match=r"^bias: need true or false, got 'no'"):
        FrozenClassifier(W=np.eye(3), decay_h=1.0, decay_b=1.0, counts=(1, 1, 1), bias="no")
