"""Flows against closed forms, recursions written out, and what must hold of any flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import BALANCED, gradient_norm, make
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.flow import discrete_flow, gradient_flow
from ufm_jax.numerics.status import Status

GTOL = 1e-10
SPECTRA = {
    "mild": [1.0, 2.0, 3.0, 5.0],
    "stiff": [1.0, 1e2, 1e4, 1e6],
    "stiff and slow": [1e-3, 1e-1, 1e1, 1e3],
    "saddle": [-0.3, 0.0, 1.0, 1e3],
}


def matrix(spectrum, seed=0):
    """Build a symmetric matrix of the given eigenvalues in a random basis."""
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))[0]
    return (Q * np.asarray(spectrum)) @ Q.T


def double_well(z):
    """Minima at (±1, 0, 0), a saddle at the origin."""
    return (z[0] ** 2 - 1.0) ** 2 / 4 + z[1] ** 2 + z[0] ** 2 * z[2] ** 2 / 2 + z[2] ** 4


def of_tree(p):
    return double_well(joined(p))


def joined(p):
    return jnp.concatenate([p["x"], p["y"][..., None]], axis=-1)


def split(z):
    return {"x": z[:2], "y": z[2]}


# Nearly all of this file's time is compilation: each flow is compiled once, for one number of times.
WELL = jax.jit(lambda z, times: gradient_flow(of_tree, split(z), times, gtol=GTOL))
QUADRATIC = jax.jit(lambda A, x0, times: gradient_flow(lambda x: x @ A @ x / 2, x0, times, gtol=GTOL))
ROOT = jax.jit(lambda z, times: gradient_flow(lambda z: jnp.sum(z**1.5), z, times, max_steps=6))
points = st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3).map(jnp.asarray)
HILLSIDE = np.array([0.3, 1.0, 0.5])


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("first", [0.0, 3.0])
def test_flow_of_a_quadratic_is_the_matrix_exponential(spectrum, first):
    A, x0 = matrix(spectrum), np.random.default_rng(1).normal(size=4)
    after = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 8)])
    path = QUADRATIC(jnp.asarray(A), jnp.asarray(x0), jnp.asarray(first + after))
    exact = np.stack([expm(-A * t) @ x0 for t in after])
    # Each step is right to 1e-8 |x| + 1e-10, and the errors of ten may add up where nothing contracts them;
    # where the flow has ended early, what was left to go is at most ‖∇f‖ over the least eigenvalue.
    scale = np.maximum.accumulate(np.linalg.norm(exact, axis=1))
    left = GTOL / min(abs(e) for e in spectrum if e)
    assert np.all(np.linalg.norm(path.points - exact, axis=1) <= 1e-7 * scale + left)
    np.testing.assert_array_equal(path.times, first + after)


@given(points)
def test_f_decreases_along_the_flow(z):
    values = np.asarray(WELL(z, jnp.asarray([0.0, 0.1, 1.0, 3.0, 100.0])).values)
    assert np.all(np.diff(values) <= 1e-9 * (1 + values[0]))


@given(points)
def test_f_falls_by_the_integral_of_the_squared_gradient_norm(z):
    path = WELL(z, jnp.linspace(0.0, 0.01, 5))
    # Simpson's rule: curvatures up to 60 change ‖∇f‖² by at most a factor e^0.3 between neighbouring times.
    lost = 0.01 / 12 * np.array([1, 4, 2, 4, 1]) @ np.asarray(path.grad_norms) ** 2
    np.testing.assert_allclose(path.values[0] - path.values[-1], lost, rtol=1e-3, atol=1e-8)


@given(points, st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.floats(-10.0, 10.0))
def test_flowing_on_from_a_point_of_the_path_follows_the_path(z, a, b, shift):
    first = WELL(z, a + b * jnp.asarray([-a / b, 0.0, 0.3, 0.6, 1.0]))
    onward = WELL(joined(first.points)[1], shift + a + b * jnp.asarray([0.0, 0.15, 0.3, 0.45, 1.0]))
    # A path may pass the saddle, where its neighbours part at rate 1: e^5 is 150.
    np.testing.assert_allclose(joined(onward.points)[2::2], joined(first.points)[2::2], atol=1e-5)


def test_a_pytree_flows_in_its_own_shape():
    path = WELL(jnp.asarray(HILLSIDE), jnp.asarray([0.0, 0.7, 1.0, 1.5, 2.0]))
    assert jax.tree.map(jnp.shape, path.points) == {"x": (5, 2), "y": (5,)}
    np.testing.assert_array_equal(joined(path.points)[0], HILLSIDE)
    np.testing.assert_allclose(path.values, [double_well(z) for z in joined(path.points)], rtol=1e-14)


def test_the_flow_ends_at_the_steady_state_and_later_times_report_it():
    path = WELL(jnp.asarray(HILLSIDE), jnp.asarray([0.0, 1.0, 100.0, 1e4, 1e6]))
    z = joined(path.points)
    assert path.status == Status.CONVERGED
    assert path.grad_norms[1] > 1e-2
    np.testing.assert_array_equal(z[2:4], np.stack([z[-1]] * 2))
    assert path.grad_norms[-1] <= GTOL
    np.testing.assert_allclose(z[-1], [1.0, 0.0, 0.0], atol=1e-9)


def test_a_critical_start_is_an_end():
    path = WELL(jnp.zeros(3), jnp.arange(5.0))
    assert path.status == Status.CONVERGED
    np.testing.assert_array_equal(joined(path.points), np.zeros((5, 3)))


def test_times_that_run_out_are_reported():
    path = WELL(jnp.asarray(HILLSIDE), jnp.asarray([0.0, 0.5, 1.0, 1.5, 2.0]))
    assert path.status == Status.MAX_STEPS
    assert path.grad_norms[-1] > 1e-3


def test_solver_steps_that_run_out_are_reported_with_the_last_point_reached():
    path = ROOT(jnp.asarray([1.0, 4.0]), jnp.asarray([0.0, 1e-9, 1.0]))
    assert path.status == Status.MAX_STEPS
    assert np.all(np.isfinite(path.points))
    assert path.values[2] < path.values[1] < path.values[0]
    # x' = −1.5 √x takes x from 1 to 1/16 in time 1.
    assert np.all(path.points[2] > 0.1)


@pytest.mark.parametrize("z", [[-1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]], ids=["gradient", "nan", "inf"])
def test_a_nonfinite_start_or_gradient_is_reported_and_the_start_kept(z):
    path = ROOT(jnp.asarray(z), jnp.arange(3.0))
    assert path.status == Status.NONFINITE
    np.testing.assert_array_equal(path.points, np.broadcast_to(z, (3, 2)))


STEPPED = jax.jit(
    lambda A, x0, steps, momentum: discrete_flow(
        lambda x: x @ A @ x / 2, x0, optax.sgd(0.1, momentum=momentum), steps
    )
)


def heavy_ball(A, x, momentum, count):
    """v ← μ v + A x, x ← x − 0.1 v, written out: all iterates from the start on."""
    v, xs = np.zeros_like(x), [x]
    for _ in range(count):
        v = momentum * v + A @ xs[-1]
        xs.append(xs[-1] - 0.1 * v)
    return np.stack(xs)


@given(
    st.lists(st.integers(0, 60), min_size=5, max_size=5).map(sorted),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 100),
)
def test_sgd_is_its_recursion_at_the_reported_steps(steps, momentum, seed):
    A, x0 = matrix([0.1, 1.0, 3.0], seed), np.random.default_rng(seed).normal(size=3)
    path = STEPPED(jnp.asarray(A), jnp.asarray(x0), jnp.asarray(steps), momentum)
    expected = heavy_ball(A, x0, momentum, 60)[steps]
    np.testing.assert_allclose(path.points, expected, atol=1e-13)
    np.testing.assert_allclose(path.values, np.einsum("ti,ij,tj->t", expected, A, expected) / 2, atol=1e-13)
    np.testing.assert_allclose(path.grad_norms, np.linalg.norm(expected @ A, axis=1), atol=1e-13)
    np.testing.assert_array_equal(path.times, np.asarray(steps, float))


def test_step_zero_is_the_start_and_equal_steps_report_equal_points():
    A, x0 = jnp.asarray(matrix([0.1, 1.0, 3.0])), jnp.asarray([1.0, -2.0, 3.0])
    path = STEPPED(A, x0, jnp.asarray([0, 0, 7, 7, 7]), 0.9)
    np.testing.assert_array_equal(path.points[:2], np.stack([x0, x0]))
    np.testing.assert_array_equal(path.points[2:], np.stack([path.points[2]] * 3))


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.adam(optax.exponential_decay(0.1, 10, 0.5)),
        optax.adamw(0.05, weight_decay=0.1),
        optax.sgd(0.05, momentum=0.9, nesterov=True),
    ],
    ids=["decaying adam", "adamw", "nesterov"],
)
def test_an_optimiser_takes_the_steps_of_a_loop_written_by_hand(optimiser):
    steps, start = [0, 1, 2, 10, 40], split(jnp.asarray(HILLSIDE))
    p, state, expected = start, optimiser.init(start), [start]
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optimiser.update)
        for _ in range(steps[-1]):
            updates, state = update(jax.grad(of_tree)(p), state, p)
            p = optax.apply_updates(p, updates)
            expected.append(p)
    path = discrete_flow(of_tree, start, optimiser, jnp.asarray(steps))
    for name in ("x", "y"):
        np.testing.assert_allclose(path.points[name], [expected[i][name] for i in steps], atol=1e-12)


def test_lbfgs_reaches_the_closed_form_minimum_of_the_collapsed_model():
    prob = collapse(make(BALANCED, 2))
    f, start = objective(prob), starts.gaussian(prob, jax.random.key(3))
    flow = jax.jit(lambda p, steps: discrete_flow(f, p, optax.lbfgs(), steps, gtol=1e-8))
    path = flow(start, jnp.asarray([0, 10, 200]))
    assert path.status == Status.CONVERGED
    end = jax.tree.map(lambda a: a[-1], path.points)
    assert gradient_norm(prob, end) <= 1e-8
    np.testing.assert_allclose(path.grad_norms[-1], gradient_norm(prob, end), atol=1e-14)
    np.testing.assert_allclose(path.values[-1], global_minimum(prob), atol=1e-11)
    assert np.all(np.diff(path.values) < 0)
    assert flow(start, jnp.asarray([0, 1, 3])).status == Status.MAX_STEPS


def test_a_discrete_flow_that_blows_up_is_reported():
    A, x0 = jnp.asarray(matrix([0.1, 1.0, 1e3])), jnp.ones(3)
    assert STEPPED(A, x0, jnp.asarray([0, 1, 2, 3, 1000]), 0.0).status == Status.NONFINITE


def test_a_discrete_flow_is_judged_by_its_last_reported_gradient():
    A, x0 = jnp.asarray(matrix([0.5, 1.0, 3.0])), jnp.ones(3)
    assert STEPPED(A, x0, jnp.asarray([0, 1, 2, 3, 1000]), 0.5).status == Status.CONVERGED
    assert STEPPED(A, x0, jnp.asarray([0, 1, 2, 3, 10]), 0.5).status == Status.MAX_STEPS
