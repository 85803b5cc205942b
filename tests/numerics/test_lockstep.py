"""The pool of lanes: closed-form minimisers, and lanes that do not know of one another."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.numerics.derivatives import second_order
from ufm_jax.numerics.descent import trust_region_newton
from ufm_jax.numerics.lockstep import bfgs
from ufm_jax.numerics.status import Status

D = 12


def quadratics(x, data):
    """½ (x − c)ᵀ diag(λ) (x − c) + 1 of each lane."""
    spectrum, centre = data
    gap = x - centre
    return jnp.sum(spectrum * gap**2, axis=0) / 2 + 1.0, spectrum * gap


def rosenbrock(z):
    return jnp.sum(100.0 * (z[1:] - z[:-1] ** 2) ** 2 + (1.0 - z[:-1]) ** 2)


def stacked_rosenbrock(x, data):
    return jax.vmap(jax.value_and_grad(rosenbrock), in_axes=1, out_axes=(0, 1))(x)


def problems(seed, count, spread=100.0):
    """Spectra within 1..spread, centres and starts, a column each."""
    rng = np.random.default_rng(seed)
    spectrum = np.exp(rng.uniform(0.0, np.log(spread), (D, count)))
    centre, start = rng.normal(size=(2, D, count))
    return jnp.asarray(spectrum), jnp.asarray(centre), jnp.asarray(start)


@partial(jax.jit, static_argnames=("f", "width", "max_steps"))
def solve(f, start, data, count, width=4, max_steps=2000):
    return bfgs(f, start, data, count, width=width, gtol=1e-12, max_steps=max_steps)


@pytest.mark.parametrize(("count", "width"), [(1, 4), (3, 4), (4, 4), (29, 4), (29, 32)])
def test_quadratics_end_at_their_centres(count, width):
    spectrum, centre, start = problems(0, count)
    found = solve(quadratics, start, (spectrum, centre), count, width=width)
    assert np.all(found.status == Status.CONVERGED)
    np.testing.assert_allclose(found.x, centre, atol=1e-11)
    np.testing.assert_allclose(found.value, 1.0, atol=1e-14)
    _, grad = quadratics(found.x, (spectrum, centre))
    np.testing.assert_array_equal(found.grad_norm, jnp.sqrt(jnp.sum(grad * grad, axis=0)))


def test_an_even_quadratic_is_solved_at_once_and_the_unit_of_its_gradient_is_the_user_s():
    _, centre, start = problems(1, 8)
    sizes = lambda value, data: (jnp.full_like(value, 1e-8), jnp.full_like(value, 1e-4))
    even = (jnp.ones_like(start), centre)
    found = jax.jit(lambda start: bfgs(quadratics, start, even, 8, width=4, gtol=1e-2, sizes=sizes))(start)
    assert np.all(found.status == Status.CONVERGED)
    assert np.all(found.num_steps <= 5)  # the start; a step of length 1; Newton's step, up to rounding
    assert np.all(found.grad_norm <= 1e-2)
    norms = jnp.linalg.norm(found.x - centre, axis=0) / 1e-6  # √(1e-8 · 1e-4)
    np.testing.assert_allclose(found.grad_norm, norms, rtol=1e-6, atol=1e-9)


def test_a_lane_depends_on_nothing_but_its_own_start():
    spectrum, centre, start = problems(2, 40)
    whole = solve(quadratics, start, (spectrum, centre), 40)
    order = np.random.default_rng(0).permutation(40)
    shuffled = solve(quadratics, start[:, order], (spectrum[:, order], centre[:, order]), 40)
    some = solve(quadratics, start, (spectrum, centre), 11)
    for name in whole._fields:
        np.testing.assert_array_equal(getattr(whole, name)[..., order], getattr(shuffled, name), err_msg=name)
        np.testing.assert_array_equal(
            getattr(whole, name)[..., :11], getattr(some, name)[..., :11], err_msg=name
        )


def test_rosenbrock_agrees_with_trust_region_newton():
    start = jax.random.normal(jax.random.key(3), (4, 24))
    found = solve(stacked_rosenbrock, start, (), 24, width=8)
    newton = jax.jit(jax.vmap(partial(trust_region_newton, second_order(rosenbrock))))(start.T)
    assert np.all(found.status == Status.CONVERGED)
    for x in np.asarray(found.x.T):  # one of its local minima
        nearest = np.min(np.linalg.norm(np.asarray(newton.x) - x, axis=1))
        assert nearest < 1e-9


def test_a_bad_lane_ends_alone_and_every_ending_is_told():
    spectrum, centre, start = problems(4, 9)
    good = solve(quadratics, start, (spectrum, centre), 9)
    bad = solve(quadratics, start.at[0, 2].set(jnp.nan), (spectrum, centre), 9)
    assert bad.status[2] == Status.NONFINITE
    others = np.arange(9) != 2
    np.testing.assert_array_equal(good.x[:, others], bad.x[:, others])
    short = solve(quadratics, start, (spectrum, centre), 9, max_steps=3)
    assert np.all(short.status == Status.MAX_STEPS)
    assert np.all(short.num_steps == 3)


def test_a_gradient_that_points_uphill_stalls():
    def wrong(x, data):
        return jnp.sum(x**2, axis=0), -2.0 * x

    start = jnp.ones((D, 3))
    found = solve(wrong, start, (), 3)
    assert np.all(found.status == Status.STALLED)
    np.testing.assert_array_equal(found.x, start)


def test_a_walk_past_an_infinite_wall_comes_back():
    def barrier(x, data):  # −log(1 − x) + x²/2 − 2x, not defined from 1 on
        inside = jnp.all(x < 1.0, axis=0)
        safe = jnp.where(x < 1.0, x, 0.0)
        value = jnp.sum(-jnp.log1p(-safe) + safe**2 / 2 - 2 * safe, axis=0)
        return jnp.where(inside, value, jnp.nan), 1.0 / (1.0 - safe) + safe - 2.0

    start = jnp.linspace(-50.0, 0.9, 8)[None, :]
    found = solve(barrier, start, (), 8)
    assert np.all(found.status == Status.CONVERGED)
    root = (3.0 - np.sqrt(5.0)) / 2  # 1/(1−x) + x = 2: x² − 3x + 1 = 0
    np.testing.assert_allclose(found.x, root, atol=1e-11)
