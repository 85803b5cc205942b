"""Unit norms: closed forms and bounds against blind descents, and the spheres' own Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.unit_norm import UnitNorm, UnitVectors
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


def minima(landscape, starts=8, seed=0):
    found = descents(landscape, keys(seed, starts))
    assert np.all(np.asarray(found.status) == Status.CONVERGED)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("K", "n", "d", "tau"), [(3, 1, 2, 1.0), (4, 2, 3, 4.0), (4, 1, 6, 8.0)])
def test_all_descents_end_at_the_simplex_of_the_closed_form(K, n, d, tau):
    landscape = UnitNorm(temperature=tau, num_classes=K, per_class=n, dim=d)
    found = minima(landscape)
    known = np.log1p((K - 1) * np.exp(-K * tau / (K - 1)))
    np.testing.assert_allclose(found.value, known, rtol=0, atol=1e-12)
    np.testing.assert_allclose(landscape.known_minimum(), known, rtol=1e-14)
    np.testing.assert_allclose(landscape.predictions()["loss"], known, rtol=1e-14)
    x = jax.tree.map(lambda a: a[0], found.x)
    np.testing.assert_allclose(x.W @ x.W.T, np.eye(K) * K / (K - 1) - 1 / (K - 1), atol=1e-5)
    assert landscape.name_of(x) == f"simplex({K})"
    np.testing.assert_allclose(landscape.measures(x)["margin"], K / (K - 1), atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(dense_hessian(landscape.value)(x))
    orbit = d * (K - 1) - K * (K - 1) // 2
    assert np.sum(np.abs(eigenvalues) < 1e-8) == orbit
    assert np.all(eigenvalues > -1e-8)


@pytest.mark.parametrize(("K", "d", "tau"), [(4, 2, 2.0), (5, 2, 2.0), (6, 2, 6.0), (5, 3, 6.0), (6, 3, 2.0)])
def test_below_k_minus_1_descents_end_at_the_lowest_symmetric_code(K, d, tau):
    landscape = UnitNorm(temperature=tau, num_classes=K, dim=d)
    said = landscape.predictions()
    values = np.array(list(said["critical_values"].values()))
    lowest = float(np.min(minima(landscape, 12).value))
    np.testing.assert_allclose(lowest, values[0], rtol=0, atol=1e-10)
    assert said["lower_bound"] <= lowest
    assert said["loss"] is None
    assert np.isnan(landscape.known_minimum())


@pytest.mark.parametrize(("K", "d"), [(6, 4), (7, 5)])
def test_unequal_orthogonal_simplices_are_critical_points(K, d):
    """Each value is that of a point built by hand, where the gradient vanishes."""
    landscape = UnitNorm(temperature=3.0, num_classes=K, dim=d)
    for name, value in landscape.predictions()["critical_values"].items():
        sizes = [int(m) for m in name[len("simplices[") : -1].split(",")]
        W = np.zeros((K, d))
        row = column = 0
        for m in sizes:
            centred = np.eye(m) - 1 / m
            basis = np.linalg.svd(centred)[0][:, : m - 1]
            W[row : row + m, column : column + m - 1] = basis / np.linalg.norm(basis, axis=1, keepdims=True)
            row, column = row + m, column + m - 1
        x = UnitVectors(jnp.asarray(W), jnp.asarray(W.T), None)
        found, grad = jax.value_and_grad(landscape.value)(x)
        np.testing.assert_allclose(found, value, rtol=1e-13)
        np.testing.assert_allclose(np.concatenate([np.ravel(g) for g in (grad.W, grad.H)]), 0.0, atol=1e-14)


@pytest.mark.parametrize("counts", [(3, 1, 2), (9, 1, 1), (2, 2)])
@pytest.mark.parametrize("d", [1, 3])
def test_the_bound_is_below_every_value_for_any_counts(counts, d):
    landscape = UnitNorm(temperature=2.5, counts=counts, dim=d)
    bound = float(landscape.lower_bound(landscape.zeros()))
    starts = jax.vmap(landscape.start)(keys(1, 200))
    assert np.all(jax.vmap(landscape.value)(starts) >= bound)
    assert np.all(np.asarray(descents(landscape, keys(2, 8)).value) >= bound - 1e-13)
    assert bound > 0


@pytest.mark.parametrize(("decay", "K"), [(0.01, 3), (0.3, 4), (1e-6, 3)])
def test_a_learned_temperature_ends_at_its_closed_form(decay, K):
    landscape = UnitNorm(temperature=1.0, decay_t=decay, learned=True, num_classes=K)
    known, found = float(landscape.known_minimum()), minima(landscape)
    grid = np.linspace(0, 60, 60001)
    by_grid = np.min(np.log1p((K - 1) * np.exp(-K * grid / (K - 1))) + decay * grid**2 / 2)
    np.testing.assert_allclose(known, by_grid, rtol=1e-5)
    assert known <= by_grid
    np.testing.assert_allclose(found.value, known, rtol=0, atol=1e-12)


def test_without_a_decay_a_learned_temperature_has_no_minimum():
    landscape = UnitNorm(temperature=1.0, learned=True, num_classes=3)
    assert landscape.predictions()["loss"] is None
    assert landscape.predictions()["lower_bound"] == 0.0
    assert np.isnan(landscape.known_minimum())


def test_lengths_are_one_at_critical_points_and_their_curvature_stands_apart():
    """The Hessian is that on the spheres, and 2p once for each vector."""
    landscape = UnitNorm(temperature=3.0, num_classes=3, per_class=2)
    found = searches(landscape, keys(3, 40))
    done = np.flatnonzero(np.asarray(found.status) == Status.CONVERGED)
    assert done.size > 10
    hessian, p = jax.jit(dense_hessian(landscape.value)), 1 / 6
    for i in done[:10]:
        x = jax.tree.map(lambda a, i=i: a[i], found.x)
        np.testing.assert_allclose(jnp.sum(x.W**2, axis=1), 1.0, atol=1e-9)
        radial = np.zeros((9, 18))
        for k in range(3):
            radial[k, 2 * k : 2 * k + 2] = x.W[k]
        for i in range(6):
            radial[3 + i, 6 + i :: 6] = x.H[:, i]
        np.testing.assert_allclose(hessian(x) @ radial.T, 2 * p * radial.T, atol=1e-8)


@pytest.mark.parametrize("learned", [False, True])
def test_value_and_invariants_do_not_change_under_rotations_and_tangents_are_their_directions(learned):
    landscape = UnitNorm(temperature=2.0, decay_t=0.1, learned=learned, counts=(2, 1, 1), dim=4)
    x = landscape.start(jax.random.key(4))
    Q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(5), (4, 4)))
    y = UnitVectors(x.W @ Q, Q.T @ x.H, x.tau)
    np.testing.assert_allclose(landscape.value(y), landscape.value(x), rtol=1e-13)
    np.testing.assert_allclose(landscape.invariants(y), landscape.invariants(x), atol=1e-12)
    order = jnp.array([1, 0, 2, 3])
    swapped = UnitVectors(x.W, x.H[:, order], x.tau)
    np.testing.assert_allclose(landscape.invariants(swapped), landscape.invariants(x), atol=1e-12)
    grad, tangents = jax.grad(landscape.value)(x), landscape.tangents(x)
    slopes = sum(jnp.tensordot(t, g, axes=g.ndim) for t, g in zip(tangents[:2], grad[:2], strict=True))
    assert slopes.shape == (6,)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"decay_t": -1.0}, "decay_t"),
        ({"num_classes": 1}, "num_classes"),
        ({"dim": 0}, "dim"),
        ({"loss": "nothing"}, "loss"),
        ({"counts": (1, 2)}, "num_classes"),
        ({"counts": "4,x,1", "num_classes": None}, "counts: need integers, got '4,x,1'"),
        ({"learned": "no"}, "learned: need true or false, got 'no'"),
    ],
)
def test_what_does_not_fit_is_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        UnitNorm(**({"temperature": 1.0, "num_classes": 3} | change))
