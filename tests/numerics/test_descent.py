"""Minimisers on functions whose minima are known; how each lane ends, alone and in a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, gradient_norm, make
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.derivatives import dense_hessian, second_order
from ufm_jax.numerics.descent import lbfgs, minimise, trust_region_newton
from ufm_jax.numerics.status import Status


def rosenbrock(p):
    """Minimum 0 at x = (1, 1), y = 1, its only critical point with f < 1."""
    z = jnp.concatenate([p["x"], p["y"][None]])
    return jnp.sum(100.0 * (z[1:] - z[:-1] ** 2) ** 2 + (1.0 - z[:-1]) ** 2)


def flat_rosenbrock(z):
    return rosenbrock({"x": z[:2], "y": z[2]})


SOLVE = jax.jit(lambda z: trust_region_newton(second_order(flat_rosenbrock), z))
BATCH = jax.jit(jax.vmap(lambda z: trust_region_newton(second_order(flat_rosenbrock), z)))


def start(x, y=0.5):
    return {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def batch_of_starts(seed, count=5):
    return np.random.default_rng(seed).normal(size=(count, 3))


@pytest.mark.parametrize("method", [minimise, lbfgs], ids=["newton", "lbfgs"])
def test_rosenbrock_pytree_is_solved_in_its_own_shape(method):
    found = jax.jit(lambda p: method(rosenbrock, p, gtol=1e-9))(start([-1.2, 1.0]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x["x"], 1.0, atol=1e-8)
    np.testing.assert_allclose(found.x["y"], 1.0, atol=1e-8)
    measured = jnp.linalg.norm(
        jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(jax.grad(rosenbrock)(found.x))])
    )
    np.testing.assert_allclose(found.grad_norm, measured, atol=1e-11)
    assert measured <= 1e-9


@given(st.lists(st.floats(-5.0, 5.0), min_size=3, max_size=3))
def test_newton_from_anywhere_ends_at_a_measured_minimum(z):
    found = SOLVE(jnp.asarray(z))
    assert found.status == Status.CONVERGED
    assert found.grad_norm <= 1e-10
    assert np.linalg.norm(jax.grad(flat_rosenbrock)(found.x)) <= 2e-10
    eigenvalues = np.linalg.eigvalsh(dense_hessian(flat_rosenbrock)(found.x))
    assert eigenvalues[0] > 0
    assert found.value <= flat_rosenbrock(jnp.asarray(z)) + 1e-12


@pytest.mark.parametrize("method", [minimise, lbfgs], ids=["newton", "lbfgs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nonfinite_start_is_reported(method, bad):
    found = method(rosenbrock, start([bad, 1.0]))
    assert found.status == Status.NONFINITE
    assert found.num_steps == 0


@pytest.mark.parametrize("method", [minimise, lbfgs], ids=["newton", "lbfgs"])
def test_an_exhausted_budget_is_reported(method):
    found = method(rosenbrock, start([-1.2, 1.0]), max_steps=2)
    assert found.status == Status.MAX_STEPS
    assert found.num_steps == 2
    assert found.grad_norm > 1e-3


def test_a_pole_beside_the_path_is_only_a_step_too_long():
    barrier = lambda z: jnp.sum(z - jnp.log(z))  # NaN for z < 0; minimum at 1
    found = minimise(barrier, jnp.asarray([20.0, 0.01]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 1.0, atol=1e-9)


def test_a_saddle_is_left_along_negative_curvature():
    double_well = lambda z: (z[0] ** 2 - 1.0) ** 2 / 4 + z[1] ** 2
    found = minimise(double_well, jnp.asarray([1e-8, 1.0]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(jnp.abs(found.x[0]), 1.0, atol=1e-9)


def test_null_directions_are_left_alone():
    rim = lambda z: (jnp.dot(z, z) - 1.0) ** 2 / 4  # a circle of minima
    found = minimise(rim, jnp.asarray([0.3, 0.4]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, [0.6, 0.8], atol=1e-9)


def test_a_batch_equals_a_loop():
    z = batch_of_starts(0)
    together, alone = BATCH(z), [SOLVE(row) for row in z]
    for i, one in enumerate(alone):
        assert together.status[i] == one.status == Status.CONVERGED
        np.testing.assert_allclose(together.x[i], one.x, atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_lost_lane_leaves_the_others_unchanged_to_the_bit(bad):
    z = batch_of_starts(1)
    z[2] = [1.0, 1.0, 1.0]
    healthy = BATCH(z)
    z[2, 1] = bad
    mixed = BATCH(z)
    others = np.array([0, 1, 3, 4])
    assert mixed.status[2] == Status.NONFINITE
    for a, b in zip(mixed, healthy, strict=True):
        assert np.array_equal(np.asarray(a)[others], np.asarray(b)[others])


@pytest.mark.parametrize("dim", [2, 3])
def test_lbfgs_reaches_1e8_on_the_collapsed_model(dim):
    prob = collapse(make(BALANCED, dim, decay_b=1e-2))
    found = jax.jit(lambda p: lbfgs(objective(prob), p, gtol=1e-8))(starts.gaussian(prob, jax.random.key(3)))
    assert found.status == Status.CONVERGED
    assert gradient_norm(prob, found.x) <= 1e-8
    np.testing.assert_allclose(found.value, global_minimum(prob), atol=1e-11)
