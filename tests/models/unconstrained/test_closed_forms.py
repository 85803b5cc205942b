"""Closed forms beyond the balanced minimum against numerical critical points and minimisers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BALANCED,
    CE,
    IMBALANCED,
    SMOOTH,
    SQUARED,
    dual_bound,
    find_minimum,
    keys,
    make,
    ranks_of,
    saddles,
    take,
    values_of,
)
from test_theory import at_strengths, lowest

from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.closed_forms import (
    balanced_minimum,
    critical_ladder,
    dying_count,
    has_balanced_form,
    merge_thresholds,
    soft_threshold,
    squared_minimum,
    symmetric_minimum,
)
from ufm_jax.models.unconstrained.losses import Focal
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.status import Status

LONG_TAIL = (9, 4, 1)


def squared(counts, dim, strength, *, bias, tilt=5.0):
    """Return squared-loss problems with √(λ_W λ_H) = strength, λ_W = tilt λ_H; a bias is not decayed."""
    s = np.asarray(strength)
    return problem(
        counts=counts,
        dim=dim,
        decay_w=s * np.sqrt(tilt),
        decay_h=s / np.sqrt(tilt),
        decay_b=np.zeros_like(s),
        bias=bias,
        loss=SQUARED,
    )


@pytest.mark.parametrize(("K", "d"), [(4, 2), (3, 4)])
def test_every_critical_value_of_every_rank_is_a_rung_of_the_ladder(K, d):
    prob = collapse(squared((2,) * K, d, 0.3 / (K * np.sqrt(2.0)), bias=False))
    found = saddles(prob, keys(41, 60))
    done = np.asarray(found.status) == Status.CONVERGED
    ranks, values = np.asarray(ranks_of(prob, found.params))[done], values_of(prob, found.params)[done]
    ladder = critical_ladder(prob)
    assert set(ranks) == set(range(min(K, d) + 1))
    np.testing.assert_allclose(values, ladder[ranks], atol=1e-12)
    assert ladder[0] == 0.5
    np.testing.assert_allclose(ladder[-1], global_minimum(prob), rtol=1e-14)


@pytest.mark.parametrize(("bias", "dim"), [(False, 2), (False, 3), (True, 1), (True, 3)])
def test_imbalanced_minimisers_are_soft_thresholded(bias, dim):
    # Without a bias class k dies at s = √n_k/N; with one, so does the singular value μ at μ/N.
    edges = np.linalg.svd(
        np.diag(np.sqrt(LONG_TAIL)) @ centring(LONG_TAIL) if bias else np.diag([3.0, 2, 1])
    )[1]
    s = np.concatenate([[1e-3], *([0.99 * mu, 1.01 * mu] for mu in edges[: 3 - bias])]) / 14.0
    prob = squared(LONG_TAIL, dim, s, bias=bias)
    found, values = lowest(prob, keys(42, 3))
    assert np.all(found.status == Status.CONVERGED)
    best = squared_minimum(prob)
    np.testing.assert_allclose(best.loss, values, atol=1e-11)
    assert np.array_equal(jax.vmap(global_minimum)(prob), best.loss)
    for i in range(len(s)):
        p = take(found.params, i)
        np.testing.assert_allclose(p.W @ p.H, best.logits[i], atol=1e-9)
        np.testing.assert_allclose(p.W @ p.W.T, best.gram[i], atol=1e-9)
        if bias:
            np.testing.assert_allclose(p.b, best.bias, atol=1e-9)
            np.testing.assert_allclose(best.bias, np.array(LONG_TAIL) / 14, rtol=1e-15)


def centring(counts):
    """Return I − vvᵀ/N, v = √counts."""
    v = np.sqrt(np.array(counts, float))
    return np.eye(len(v)) - np.outer(v, v) / sum(counts)


def test_classes_die_from_the_stated_count_down():
    s = np.sqrt(np.repeat(LONG_TAIL, 2)) / 14 * np.tile([0.999, 1.001], 3)
    prob = squared(LONG_TAIL, 3, s, bias=False)
    best = squared_minimum(prob)
    alive = np.array(LONG_TAIL) > np.asarray(dying_count(prob))[:, None]
    assert np.array_equal(np.diagonal(best.gram, axis1=1, axis2=2) > 0, alive)
    a = np.maximum(1 - 14 * s[:, None] / np.sqrt(LONG_TAIL), 0.0)
    for i in range(len(s)):
        expected = np.sqrt(1 / 5.0) * np.diag(np.sqrt(LONG_TAIL) * a[i])
        np.testing.assert_allclose(best.gram[i], expected, atol=1e-14)
        np.testing.assert_allclose(best.logits[i], np.diag(np.sqrt(LONG_TAIL) * a[i]), atol=1e-14)


@pytest.mark.parametrize("bias", [False, True])
def test_on_samples_the_targets_themselves_are_soft_thresholded(bias):
    prob = squared(IMBALANCED, 2, 0.1, bias=bias)
    Y, N = prob.targets, prob.num_samples
    U, mu, Vt = np.linalg.svd(Y - bias * np.mean(Y, axis=1, keepdims=True), full_matrices=False)
    WH = (U[:, :2] * np.maximum(mu[:2] - N * 0.1, 0.0)) @ Vt[:2]
    best = squared_minimum(prob)
    lifted = np.asarray(best.logits / np.sqrt(np.array(IMBALANCED, float)))[:, prob.labels]
    np.testing.assert_allclose(lifted, WH, atol=1e-14)
    np.testing.assert_allclose(best.singular_values[:2], np.maximum(mu[:2] - N * 0.1, 0.0), atol=1e-14)


@pytest.mark.parametrize("bias", [False, True])
def test_both_forms_of_squared_loss_agree_where_both_hold(bias):
    prob = squared((3,) * 4, 5, np.array([0.01, 0.1, 0.2]), bias=bias)
    assert has_balanced_form(prob)
    np.testing.assert_allclose(squared_minimum(prob).loss, balanced_minimum(prob).loss, atol=1e-15)


@pytest.mark.parametrize(("gamma", "K"), [(0.5, 3), (2.0, 2), (5.0, 4)])
def test_focal_minimisers_are_the_lowest_simplex_frame(gamma, K):
    loss = Focal(gamma)
    edge = float(loss.margin_slope(jnp.log(K - 1.0))) * K / (K - 1)  # Kθ at which m* = 0 stops to be lowest
    kt = np.array([0.02, 0.3, 0.8, 0.98, 1.05, 2.0]) * edge
    prob = at_strengths(kt, np.full(6, 1e-2), (2,) * K, K - 1, loss=loss)
    found, values = lowest(prob, keys(43, 4))
    best = symmetric_minimum(prob)
    assert np.all(found.status == Status.CONVERGED)
    np.testing.assert_allclose(best.loss, values, atol=1e-10)
    for i in range(6):
        p = take(found.params, i)
        expected = best.gap[i] * (np.eye(K) - 1 / K)
        np.testing.assert_allclose(p.W @ p.H / np.sqrt(2), expected, atol=1e-9)
    assert np.all((np.asarray(best.gap) > 0) == (kt < edge))


@pytest.mark.parametrize("K", [2, 4, 20, 100])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_no_scale_of_the_simplex_is_lower_also_where_two_minima_compete(gamma, K):
    prob = at_strengths(np.geomspace(1e-3, 3.0, 60), np.zeros(60), (2,) * K, K, loss=Focal(gamma))
    best = symmetric_minimum(prob)
    m = np.linspace(0.0, 25.0, 20001)
    price = (K - 1) * np.sqrt(2.0) * np.asarray(prob.strength)[:, None]
    grid = np.asarray(prob.loss.of_margin(jnp.asarray(np.log(K - 1.0) - m))) + price * m
    assert np.all(best.loss <= grid.min(axis=1) + 1e-14)
    np.testing.assert_allclose(best.loss, grid.min(axis=1), atol=1e-6)
    inside = np.asarray(best.gap) > 0
    stationary = prob.loss.margin_slope(np.log(K - 1.0) - best.gap)
    np.testing.assert_allclose(stationary[inside], price[inside, 0], rtol=1e-12)
    if gamma == 0.0:
        reference = balanced_minimum(at_strengths(np.geomspace(1e-3, 3.0, 60), np.zeros(60), (2,) * K, K))
        np.testing.assert_allclose(best.loss, reference.loss, atol=1e-14)
        np.testing.assert_allclose(best.gap, reference.alpha, atol=1e-10)


def test_the_gap_of_focal_loss_jumps_where_the_origin_becomes_the_lower_minimum():
    # For K = 2 it falls to 0 continuously.
    def largest_drop(K):
        kt = np.linspace(0.5, 2.0, 4001)
        return np.max(-np.diff(symmetric_minimum(at_strengths(kt, 0 * kt, (1,) * K, K, loss=Focal(2.0))).gap))

    assert largest_drop(2) < 0.1
    assert largest_drop(100) > 1.0


@functools.cache
def examined_focal():
    """Examine ends of descents in the full problem, at a small, a middling and a large decay."""
    prob = at_strengths(np.array([0.1, 0.6, 3.0]), np.full(3, 1e-2), BALANCED, 2, loss=Focal(2.0))

    @jax.jit
    def run(prob, keys):
        def one(prob, key):
            found = find_minimum(prob, starts.gaussian(prob, key))
            return found.status, examine(prob, found.params).evidence, dual_bound(prob, found.params)

        return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(prob, keys)

    return run(prob, keys(44, 4))


@pytest.mark.slow
def test_focal_minimisers_are_never_called_more_than_local():
    status, evidence, bound = examined_focal()
    assert np.all(status == Status.CONVERGED)
    assert np.all(np.isnan(bound))
    assert np.all(np.isnan(evidence.dual_gap))
    assert np.all(evidence.verdict == Verdict.LOCAL_MINIMUM)
    assert np.all(evidence.index == 0)


@pytest.mark.parametrize(
    ("form", "prob", "reason"),
    [
        (squared_minimum, make(IMBALANCED, 2), "loss: need squared, got cross-entropy"),
        (squared_minimum, make(IMBALANCED, 2, loss=SQUARED), "decay_b: need 0 .or no bias., got 0.01"),
        (critical_ladder, make(BALANCED, 2), "loss: need squared"),
        (
            critical_ladder,
            make(IMBALANCED, 2, loss=SQUARED, bias=False),
            r"counts: need equal ones, got \(3, 1",
        ),
        (critical_ladder, make(BALANCED, 2, loss=SQUARED, decay_b=0.0), "bias: need none"),
        (dying_count, make(BALANCED, 2, bias=False), "loss: need squared"),
        (dying_count, make(BALANCED, 2, loss=SQUARED), "bias: need none"),
        (merge_thresholds, make(BALANCED, 2, loss=SQUARED), "loss: need cross-entropy"),
        (merge_thresholds, make(BALANCED, 2, loss=SMOOTH), "loss: need cross-entropy without smoothing"),
        (symmetric_minimum, make(BALANCED, 2), "loss: need focal, got cross-entropy"),
        (symmetric_minimum, make(IMBALANCED, 2, loss=Focal(2.0)), "counts: need equal ones"),
        (symmetric_minimum, make(BALANCED, 1, loss=Focal(2.0)), "dim: need >= K - 1 = 2, got 1"),
    ],
)
def test_outside_its_regime_a_closed_form_names_what_is_missing(form, prob, reason):
    with pytest.raises(ValueError, match=reason):
        form(prob)


def test_merge_thresholds_are_one_for_each_shared_count():
    assert merge_thresholds(make((5, 2, 2, 1), 2)) == {2: pytest.approx(np.sqrt(2.0) / 10, rel=1e-15)}
    assert merge_thresholds(make((5, 3, 2), 2, loss=CE)) == {}


def test_a_decayed_bias_leaves_no_number_under_a_trace():
    prob = make(IMBALANCED, 2, loss=SQUARED)
    assert np.isnan(soft_threshold(prob).loss)
    assert np.isnan(jax.jit(lambda prob: squared_minimum(prob).loss)(prob))
