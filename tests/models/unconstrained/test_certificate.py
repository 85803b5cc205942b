"""The duality bound never exceeds the global minimum, and closes there; null directions bend as measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BALANCED,
    CE,
    PROBLEMS,
    SMOOTH,
    SQUARED,
    curvature_floor,
    dense_batch,
    dual_bound,
    gaussians,
    keys,
    make,
    null_direction,
    take,
    zoo,
)

from ufm_jax.landscape.point import curvature_along, ravel
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import logit_gradient, objective
from ufm_jax.models.unconstrained.reduction import collapse, lift, restrict

SHIFTED = CrossEntropy(class_weights=(1.0, 2.0, 0.5, 3.0), offsets=(0.0, 0.3, -1.0, 0.2), smoothing=0.1)
gap_at = jax.jit(lambda prob, p: objective(prob)(p) - dual_bound(prob, p))
bounds = jax.jit(jax.vmap(dual_bound, in_axes=(None, 0)))
null_directions = jax.jit(jax.vmap(null_direction, in_axes=(None, 0)))


def closed_form(K, n, decay_w, decay_h):
    """f* of balanced classes, written out independently of the library."""
    theta = np.sqrt(n * decay_w * decay_h)
    if K * theta >= 1:
        return np.log(K)
    return -np.log1p(-(K - 1) * theta) + (K - 1) * theta * np.log(1 / theta - K + 1)


# Kθ from 0.01 to above 1 at K = 3, n = 2, with unequal decays.
DECAYS = [(5e-3, 1e-3), (1e-4, 1e-3), (0.1, 0.2), (0.3, 0.4)]


@pytest.mark.parametrize(("bias", "decay_b"), [(True, 1e-2), (True, 1e-6), (True, 0.0), (False, 0.0)])
@pytest.mark.parametrize(("decay_w", "decay_h"), DECAYS)
def test_the_bound_never_exceeds_the_closed_form(bias, decay_b, decay_w, decay_h):
    prob = make(BALANCED, 2, bias=bias, decay_b=decay_b, decay_w=decay_w, decay_h=decay_h)
    best = closed_form(3, 2, decay_w, decay_h)
    bound = np.asarray(bounds(prob, gaussians(prob, 11, 2000)))
    assert np.all(np.isfinite(bound))
    assert np.max(bound) <= best + 1e-14
    assert np.min(bound) >= 0.0  # Θ = 0 bounds every softmax loss by the targets' entropy


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_bound_never_exceeds_f_at_numerical_minimisers_and_closes_there(name):
    z = zoo(name)
    best = z.values.min()
    anywhere = gaussians(z.prob, 12, 2000)
    bound = np.asarray(bounds(z.prob, jax.tree.map(lambda *a: jnp.concatenate(a), z.points, anywhere)))
    assert np.max(bound) <= best + 1e-13
    at_critical = bound[: len(z.values)]
    needed = z.prob.num_classes - (1 if z.prob.loss.shift_invariant else 0)
    if z.prob.dim >= needed:
        assert best - at_critical[0] < 1e-10
    higher = z.values > best + 1e-6  # every other orbit lies above the minimum and shows a gap
    assert np.all((z.values - at_critical)[higher] > 1e-6)


@pytest.mark.parametrize(("decay_w", "decay_h"), DECAYS)
@pytest.mark.parametrize("decay_b", [1e-2, 0.0])
def test_the_gap_closes_at_the_closed_form_minimiser_full_and_collapsed(decay_w, decay_h, decay_b):
    prob = make(BALANCED, 2, decay_b=decay_b, decay_w=decay_w, decay_h=decay_h)
    p = etf_minimiser(prob)
    for sized, q in ((prob, p), (collapse(prob), restrict(collapse(prob), p))):
        assert -1e-14 <= gap_at(sized, q) < 1e-10


@pytest.mark.parametrize(
    "loss", [CE, SMOOTH, SHIFTED, SQUARED], ids=["plain", "smooth", "weighted", "squared"]
)
def test_a_push_without_row_sums_stays_in_the_conjugates_domain(loss):
    """Whatever is left of them: Σ weight push = 0, and of softmax losses t + push/ω is a distribution."""
    rng, counts = np.random.default_rng(3), np.array([5, 2, 1, 1])
    T = np.asarray(loss.targets(np.arange(4), 4))
    omega = np.array(getattr(loss, "class_weights", None) or (1.0,) * 4)
    for size in (1e-14, 1e-9, 1e-3, 1.0):
        q = rng.exponential(size=(4, 4)) ** 6 * size
        q *= 0.5 / max(1.0, q.sum(axis=0).max())
        push = omega * (np.where(np.eye(4), 1 - (q - np.diag(np.diag(q))).sum(axis=0), q) - T)
        moved = np.asarray(
            loss.centred(jnp.asarray(push), jnp.asarray(T), jnp.asarray(counts / counts.sum()))
        )
        left = np.abs(moved @ counts / counts.sum()).max()
        assert left <= 4e-16 * np.abs(moved).max()
        assert np.abs(moved - push).max() <= 40 * np.abs(push @ counts / counts.sum()).max()
        if loss is not SQUARED:
            np.testing.assert_allclose(moved.sum(axis=0), 0.0, atol=1e-15)
            assert np.min(moved / omega + T) >= -1e-16 * size


@pytest.mark.parametrize("s", [1e-3, 1e-7, 1e-9, 1e-11, 1e-13])
@pytest.mark.parametrize("ratio", [1e-4, 1.0])
def test_an_undecayed_bias_costs_the_bound_nothing(s, ratio):
    """Relative to f*, however small: the bound closes at the minimiser, and is above f* nowhere."""
    prob = make((2, 2, 2), 3, decay_b=0.0, decay_w=s * ratio, decay_h=s / ratio)
    best = closed_form(3, 2, s * ratio, s / ratio)
    p = etf_minimiser(prob)
    assert abs(float(objective(prob)(p)) / best - 1) < 1e-13
    moved = p._replace(b=p.b + jnp.array([3.0, -1.0, 0.5]))
    for q in (p, moved):
        assert abs(float(dual_bound(prob, q)) / best - 1) < 1e-12
    points = jax.tree.map(lambda a, b: a + 1e-3 * b, p, gaussians(prob, 5, 300))
    assert np.max(bounds(prob, points)) <= best * (1 + 1e-13)


def test_full_and_collapsed_bounds_agree_at_class_constant_points():
    prob = make(BALANCED, 2)
    small = collapse(prob)
    for key in keys(13, 5):
        p = starts.gaussian(small, key)
        np.testing.assert_allclose(gap_at(prob, lift(prob, p)), gap_at(small, p), rtol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_eigenvalue_lies_below_the_curvature_floor(name):
    prob = PROBLEMS[name]
    points = gaussians(prob, 14, 40)
    lowest = np.linalg.eigvalsh(dense_batch(prob, points))[:, 0]
    floor = jax.jit(jax.vmap(curvature_floor, in_axes=(None, 0)))(prob, points)
    assert np.all(lowest >= floor - 1e-12 * (1 - floor))
    z = zoo(name)
    if prob.dim >= prob.num_classes:
        assert (
            curvature_floor(prob, take(z.points, 0)) > -1e-9
        )  # every eigenvalue of a global minimum is >= 0


def test_no_dual_no_certificate():
    class Quartic(Loss):
        name = "quartic"

        def value(self, Z, T):
            return jnp.sum((Z - T) ** 4, axis=0)

    prob = problem(counts=(1, 1), dim=1, decay_w=1.0, decay_h=1.0, loss=Quartic())
    assert np.isnan(dual_bound(prob, prob.zeros()))


@pytest.mark.parametrize(
    "name", ["at-ce-undecayed", "at-squared-decayed", "above-ce-unbiased", "above-smooth-decayed"]
)
def test_null_direction_has_the_tail_curvature_at_rank_deficient_critical_points(name):
    z = zoo(name)
    prob = z.prob
    found = null_directions(prob, z.points)
    mean, half = (prob.decay_w + prob.decay_h) / 2, (prob.decay_w - prob.decay_h) / 2
    deficient = np.flatnonzero(z.ranks < prob.dim)
    assert deficient.size >= 3
    for i in range(len(z.values)):
        v = np.asarray(ravel(take(found.direction, i)))
        np.testing.assert_allclose(np.linalg.norm(v), 1.0, rtol=1e-13)
        np.testing.assert_allclose(found.value[i], v @ z.hessians[i] @ v, atol=1e-14)
        if i in deficient:
            sigma = np.linalg.svd(logit_gradient(prob, take(z.points, i)), compute_uv=False)[0]
            np.testing.assert_allclose(found.value[i], mean - np.sqrt(half**2 + sigma**2), atol=1e-9)
            saddle = sigma > prob.strength + 1e-9
            assert saddle == (found.value[i] < -1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_curvature_is_that_of_the_unit_direction(scale):
    prob = make(BALANCED, 2, loss=CE)
    p, v = (take(gaussians(prob, i, 1), 0) for i in (1, 2))
    base, scaled = (
        curvature_along(prob.evaluate(p), jax.tree.map(lambda a, s=s: s * a, v)) for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled.value, base.value, rtol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(ravel(scaled.direction)), 1.0, rtol=1e-13)
