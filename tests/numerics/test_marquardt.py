"""Many roots at once: quadratics in one step and a half, saddles, folds from which lanes are pushed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.numerics.marquardt import Expanded, marquardt
from ufm_jax.numerics.solve import product, solve_positive
from ufm_jax.numerics.status import Status


def expanded(f, x, data):
    """Evaluate f of one point, nothing eliminated, at a batch."""
    one = lambda x: (f(x, data), jax.grad(f)(x, data), jax.hessian(f)(x, data))
    value, grad, hess = jax.vmap(one, in_axes=1, out_axes=-1)(x)
    return Expanded(x, value, grad, hess, jnp.linalg.norm(grad, axis=0), jnp.ones_like(value) > 0)


@partial(jax.jit, static_argnames=("f", "width"))
def solve(f, starts, count, width):
    expand = partial(expanded, f)
    return marquardt(expand, starts, jnp.zeros(()), count, free=len(starts), width=width, gtol=1e-12)


def saddles(x, _):
    """Critical points at (kπ, lπ) and at (π/2 + kπ, π/2 + lπ): of all indices."""
    return jnp.sin(x[0]) ** 2 - jnp.cos(x[1]) ** 2 * jnp.cos(2 * x[0])


def fold(x, _):
    """Return f with f′ = (x + 20)((x − 5)² + 1)/100: one root, and a local minimum of |f′| near 5."""
    slope = jnp.asarray([1.0, 10.0, -174.0, 520.0]) / 100
    return jnp.polyval(jnp.polyint(slope), x[0]) + x[1] ** 2 / 2


@pytest.mark.parametrize(("count", "width"), [(1, 8), (29, 8), (29, 32)])
def test_ends_are_critical_and_lanes_do_not_know_of_one_another(count, width):
    starts = jnp.asarray(np.random.default_rng(0).uniform(-3, 3, (2, 32)))
    found = solve(saddles, starts, count, width)
    assert np.all(found.status[:count] == Status.CONVERGED)
    there = expanded(saddles, found.x[:, :count], None)
    assert float(jnp.max(there.norm)) <= 1e-12
    signs = np.sign(np.linalg.eigvalsh(np.moveaxis(there.hess, -1, 0)).round(6))
    assert count == 1 or len(np.unique(signs.sum(axis=1))) == 3  # minima, saddles and maxima
    alone = solve(saddles, starts[:, count - 1 :], 1, width)
    np.testing.assert_array_equal(alone.x[:, 0], found.x[:, count - 1])


def test_a_lane_in_a_fold_is_pushed_out_of_it():
    starts = jnp.stack([jnp.linspace(-25.0, 20.0, 32), jnp.ones(32)])
    found = solve(fold, starts, 32, 8)
    assert np.all(found.status == Status.CONVERGED)
    np.testing.assert_allclose(found.x[0], -20.0, atol=1e-11)
    assert int(jnp.max(found.num_steps)) > 20  # some were in the fold


def test_a_start_that_is_not_finite_ends_so():
    found = solve(saddles, jnp.asarray([[jnp.nan, 1.0], [0.0, 1.0]]), 2, 8)
    assert found.status.tolist() == [Status.NONFINITE, Status.CONVERGED]


@pytest.mark.parametrize("n", [1, 3, 12])
def test_a_stack_is_solved_as_its_matrices_are(n):
    rng = np.random.default_rng(n)
    roots, X = rng.normal(size=(n, n, 5)), rng.normal(size=(n, 2, 5))
    A = np.asarray(product(jnp.asarray(roots), jnp.asarray(roots.swapaxes(0, 1)))) + np.eye(n)[:, :, None]
    found = solve_positive(jnp.asarray(A), jnp.asarray(X))
    for i in range(5):
        np.testing.assert_allclose(found[..., i], np.linalg.solve(A[..., i], X[..., i]), atol=1e-11)
        one = solve_positive(jnp.asarray(A[..., i]), jnp.asarray(X[..., i]))
        np.testing.assert_allclose(found[..., i], one, atol=1e-11)
