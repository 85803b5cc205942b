"""Non-negative features by squares: minima, multipliers and a bound, against descents and SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from ufm_jax.models.relu_features import ReLUFeatures, Roots
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.descent import minimise
from ufm_jax.numerics.rootfind import critical_point
from ufm_jax.numerics.status import Status


@jax.jit
def descents(landscape, keys):
    return jax.lax.map(lambda key: minimise(landscape.value, landscape.start(key)), keys)


@jax.jit
def searches(landscape, keys):
    return jax.lax.map(lambda key: critical_point(landscape.value, landscape.start(key)), keys)


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def at(found, i):
    return jax.tree.map(lambda a: a[i], found.x)


BALANCED = ReLUFeatures(decay_w=5e-3, decay_h=2e-3, num_classes=3)
UNEQUAL = ReLUFeatures(decay_w=0.02, decay_h=0.03, counts=(4, 2, 1))


@pytest.mark.parametrize("landscape", [BALANCED, UNEQUAL], ids=["balanced", "unequal"])
def test_the_lowest_descent_is_the_closed_form_and_its_bound_closes(landscape):
    found = descents(landscape, keys(0, 24))
    known = float(landscape.known_minimum())
    assert np.all(np.asarray(found.value) >= known - 1e-13)
    i = int(np.argmin(np.asarray(found.value)))
    np.testing.assert_allclose(found.value[i], known, rtol=0, atol=1e-12)
    x, said = at(found, i), landscape.predictions()
    np.testing.assert_allclose(landscape.lower_bound(x), known, atol=1e-9)
    H = np.asarray(x.A**2)
    gram = H.T @ H
    labels = np.repeat(np.arange(3), landscape.counts)
    np.testing.assert_allclose(
        gram, np.where(labels[:, None] == labels, np.diag(gram)[:, None], 0), atol=1e-6
    )
    np.testing.assert_allclose(np.sqrt(np.diag(gram)), np.array(said["h_norms"])[labels], atol=1e-6)
    np.testing.assert_allclose(np.sort(np.linalg.norm(x.W, axis=0)), np.sort(said["w_norms"]), atol=1e-6)
    gaps = np.array(said["logit_gaps"])[labels]
    np.testing.assert_allclose(x.W @ H, gaps * (np.eye(3)[:, labels] - 1 / 3), atol=1e-6)


@pytest.mark.parametrize("landscape", [BALANCED, UNEQUAL], ids=["balanced", "unequal"])
def test_every_descent_ends_where_some_classes_live_and_the_others_are_dead(landscape):
    found = descents(landscape, keys(1, 40))
    values = np.asarray(found.value)[np.asarray(found.status) == Status.CONVERGED]
    listed = np.array(list(landscape.predictions()["critical_values"].values()))
    apart = np.abs(values[:, None] - listed)
    assert np.all(apart.min(axis=1) < 1e-9)
    assert len(set(apart.argmin(axis=1))) >= 2  # not the global minimum alone
    # Each is the minimum without the dead classes' part, whose loss is log K.
    n, K, terms = np.array(landscape.counts), 3, np.asarray(landscape._terms(landscape.gaps()))
    for living in itertools.product([True, False], repeat=3):
        by_hand = np.where(living, terms, n / n.sum() * np.log(K)).sum()
        assert np.min(np.abs(listed - by_hand)) < 1e-14


@pytest.mark.parametrize(("factor", "dies"), [(0.999, False), (1.001, True)])
@pytest.mark.parametrize("k", [1, 2])
def test_a_class_dies_at_its_threshold(k, factor, dies):
    strength = UNEQUAL.predictions()["dying_strengths"][k] * factor
    landscape = ReLUFeatures(decay_w=2 * strength, decay_h=strength / 2, counts=(4, 2, 1))
    assert (float(landscape.gaps()[k]) == 0.0) == dies
    found = descents(landscape, keys(2, 12))
    np.testing.assert_allclose(np.min(found.value), landscape.known_minimum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_bound_is_below_every_value(d):
    landscape = ReLUFeatures(decay_w=0.02, decay_h=0.03, counts=(4, 2, 1), dim=d)
    lowest = float(np.min(descents(landscape, keys(3, 20)).value))
    starts = jax.vmap(landscape.start)(keys(4, 300))
    bounds = np.asarray(jax.jit(jax.vmap(landscape.lower_bound))(starts))
    assert np.all(np.isfinite(bounds))
    assert np.max(bounds) <= lowest + 1e-12
    assert np.isnan(landscape.known_minimum()) == (d == 2)


@pytest.mark.slow
def test_a_multiplier_of_the_wrong_sign_is_a_strict_saddle():
    found = searches(UNEQUAL, keys(5, 80))
    hessian, seen = jax.jit(dense_hessian(UNEQUAL.value)), 0
    for i in np.flatnonzero(np.asarray(found.status) == Status.CONVERGED):
        x = at(found, i)
        measures = UNEQUAL.measures(x)
        multiplier = jax.grad(UNEQUAL.of_features, argnums=1)(x.W, x.A**2)
        inactive = np.asarray(jnp.max(x.A**2) * 1e-12 >= x.A**2)
        diagonal = np.diag(hessian(x))[x.W.size :].reshape(3, 7)
        np.testing.assert_allclose(diagonal[inactive], 2 * np.asarray(multiplier)[inactive], atol=1e-7)
        if inactive.any() and measures["multiplier"] < -1e-6:
            seen += 1
            assert measures["kkt"] > 1e-6
            assert np.linalg.eigvalsh(hessian(x))[0] <= 2 * measures["multiplier"] + 1e-7
    assert seen >= 3


def test_minima_are_those_of_the_projected_problem():
    """SciPy's L-BFGS-B over H ≥ 0 shares no code: same values, and KKT residuals of zero."""
    sizes, f = (
        (9, 9),
        jax.jit(jax.value_and_grad(lambda x: BALANCED.of_features(x[:9].reshape(3, 3), x[9:].reshape(3, 3)))),
    )
    values = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        start = np.concatenate([rng.normal(size=9), np.abs(rng.normal(size=9))])
        end = minimize(
            lambda x: tuple(np.asarray(a, float) for a in f(x)),
            start,
            jac=True,
            bounds=[(None, None)] * sizes[0] + [(0, None)] * sizes[1],
            options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10},
        )
        values.append(end.fun)
    listed = np.array(list(BALANCED.predictions()["critical_values"].values()))
    assert np.all(np.min(np.abs(np.array(values)[:, None] - listed), axis=1) < 1e-8)
    assert np.min(values) < listed[0] + 1e-9
    found = descents(BALANCED, keys(6, 12))
    for i in np.flatnonzero(np.asarray(found.status) == Status.CONVERGED):
        assert BALANCED.measures(at(found, i))["kkt"] < 1e-6


def test_invariants_forget_coordinates_and_samples():
    landscape = ReLUFeatures(decay_w=0.1, decay_h=0.1, counts=(2, 1))
    x = landscape.start(jax.random.key(7))
    y = Roots(x.W[:, ::-1], -x.A[::-1][:, jnp.array([1, 0, 2])])
    np.testing.assert_allclose(landscape.value(y), landscape.value(x), rtol=1e-14)
    np.testing.assert_allclose(landscape.invariants(y), landscape.invariants(x), atol=1e-13)


def test_squared_loss_has_a_bound_and_no_closed_form():
    landscape = ReLUFeatures(decay_w=0.02, decay_h=0.02, num_classes=3, loss="squared")
    found = descents(landscape, keys(8, 12))
    i = int(np.argmin(np.asarray(found.value)))
    bound = float(landscape.lower_bound(at(found, i)))
    assert bound <= found.value[i] + 1e-12
    assert landscape.predictions() == {"regime": "no closed form for this loss"}


def test_a_decay_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^decay_h:"):
        ReLUFeatures(decay_w=0.1, decay_h=0.0, num_classes=3)


@pytest.mark.parametrize("counts", [(1,) * 30, (3,) * 12 + (1,) * 12], ids=["balanced", "two kinds"])
def test_of_classes_of_one_count_only_the_number_that_live_makes_a_value(counts):
    landscape = ReLUFeatures(decay_w=1e-3, decay_h=1e-3, counts=counts)
    assert np.all(landscape.gaps() > 0)  # all can live
    values = landscape.predictions()["critical_values"]
    assert len(values) == np.prod([1 + counts.count(n) for n in set(counts)])
    np.testing.assert_allclose(values["origin"], np.log(len(counts)), rtol=1e-12)
    assert min(values.values()) == pytest.approx(float(landscape.known_minimum()), rel=1e-12)
