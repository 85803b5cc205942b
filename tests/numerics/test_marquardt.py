"""Many roots at once: quadratics in one step and a half, saddles, folds from which lanes are pushed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.numerics.marquardt import Shift, Slope, marquardt
from ufm_jax.numerics.solve import Complex, solve
from ufm_jax.numerics.status import Status


def first_and_second(f, x):
    """Return f, ∇f and ∇²f of a batch."""
    return jax.vmap(lambda x: (f(x), jax.grad(f)(x), jax.hessian(f)(x)), in_axes=1, out_axes=-1)(x)


def slope(f, x, data):
    value, grad, _ = first_and_second(f, x)
    return Slope(value, grad, jnp.ones_like(value), jnp.zeros_like(value))


def shift(f, x, data, grad, damping):
    H = first_and_second(f, x)[2]
    sigma = damping * jnp.max(jnp.abs(H), axis=(0, 1))
    A = Complex(H, sigma * jnp.eye(len(x))[..., None])
    z = solve(A, Complex(grad[:, None], jnp.zeros_like(grad[:, None])))
    return Shift(z.re[:, 0], z.im[:, 0], sigma)


@partial(jax.jit, static_argnames=("f", "width"))
def search(f, starts, count, width):
    return marquardt(
        partial(slope, f), partial(shift, f), starts, jnp.zeros(()), count, width=width, gtol=1e-12
    )


def saddles(x):
    """Critical points at (kπ, lπ) and at (π/2 + kπ, π/2 + lπ): of all indices."""
    return jnp.sin(x[0]) ** 2 - jnp.cos(x[1]) ** 2 * jnp.cos(2 * x[0])


def fold(x):
    """Return f with f′ = (x + 20)((x − 5)² + 1)/100: one root, and a local minimum of |f′| near 5."""
    slope = jnp.asarray([1.0, 10.0, -174.0, 520.0]) / 100
    return jnp.polyval(jnp.polyint(slope), x[0]) + x[1] ** 2 / 2


@pytest.mark.parametrize(("count", "width"), [(1, 8), (29, 8), (29, 32)])
def test_ends_are_critical_and_lanes_do_not_know_of_one_another(count, width):
    starts = jnp.asarray(np.random.default_rng(0).uniform(-3, 3, (2, 32)))
    found = search(saddles, starts, count, width)
    assert np.all(found.status[:count] == Status.CONVERGED)
    _, grad, hess = first_and_second(saddles, found.x[:, :count])
    assert float(jnp.max(jnp.linalg.norm(grad, axis=0))) <= 1e-12
    signs = np.sign(np.linalg.eigvalsh(np.moveaxis(hess, -1, 0)).round(6))
    assert count == 1 or len(np.unique(signs.sum(axis=1))) == 3  # minima, saddles and maxima
    alone = search(saddles, starts[:, count - 1 :], 1, width)
    np.testing.assert_array_equal(alone.x[:, 0], found.x[:, count - 1])


def test_a_lane_in_a_fold_is_pushed_out_of_it():
    starts = jnp.stack([jnp.linspace(-25.0, 20.0, 32), jnp.ones(32)])
    found = search(fold, starts, 32, 8)
    assert np.all(found.status == Status.CONVERGED)
    np.testing.assert_allclose(found.x[0], -20.0, atol=1e-11)
    assert int(jnp.max(found.num_steps)) > 20  # some were in the fold


def test_a_start_that_is_not_finite_ends_so():
    found = search(saddles, jnp.asarray([[jnp.nan, 1.0], [0.0, 1.0]]), 2, 8)
    assert found.status.tolist() == [Status.NONFINITE, Status.CONVERGED]


def test_where_rounding_leaves_more_than_is_asked_a_search_ends_there():
    """Of f = cos(x) + cos(y) + 1e-3 rounding: a root is as good as `Slope.rounding` says."""
    noisy = lambda x: jnp.sum(jnp.cos(x))

    def rough(x, data):
        here = slope(noisy, x, data)
        grain = 1e-7 * jnp.sign(jnp.sin(1e9 * x))
        return here._replace(grad=here.grad + grain, rounding=jnp.full_like(here.value, 2e-7))

    starts = jnp.asarray(np.random.default_rng(1).uniform(-3, 3, (2, 16)))
    run = jax.jit(
        lambda s: marquardt(rough, partial(shift, noisy), s, jnp.zeros(()), 16, width=8, gtol=1e-12)
    )
    found = run(starts)
    assert np.all(found.status == Status.CONVERGED)
    assert np.max(np.abs(np.sin(found.x))) <= 3e-7


@pytest.mark.parametrize("n", [1, 3, 12, 30])
def test_a_stack_is_solved_as_its_matrices_are(n):
    rng = np.random.default_rng(n)
    H, roots = rng.normal(size=(2, n, n, 5))
    H = H + H.swapaxes(0, 1)
    im = np.einsum("ijb,kjb->ikb", roots, roots) + 0.1 * np.eye(n)[:, :, None]
    A = Complex(jnp.asarray(H), jnp.asarray(im))
    X = Complex(*(jnp.asarray(part) for part in rng.normal(size=(2, n, 2, 5))))
    found = solve(A, X)
    for i in range(5):
        each = lambda a, i=i: np.asarray(a.re[..., i]) + 1j * np.asarray(a.im[..., i])
        np.testing.assert_allclose(each(found), np.linalg.solve(each(A), each(X)), atol=1e-9)
        one = solve(*(Complex(a.re[..., i], a.im[..., i]) for a in (A, X)))
        np.testing.assert_allclose(np.asarray(one.re) + 1j * np.asarray(one.im), each(found), atol=1e-9)
