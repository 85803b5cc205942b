"""Derivatives against dense references, prescribed quadratics and Taylor's theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from ufm_jax.numerics.derivatives import dense_hessian, hvp, on_vectors, second_order


def bumpy(p):
    """A smooth function of a pytree without symmetries."""
    return (
        jnp.sum(jnp.sin(p["a"]) ** 2 * jnp.exp(p["b"])) + jnp.sum(p["a"]) ** 4 / 24.0 + jnp.sum(p["b"] ** 3)
    )


def point(seed):
    rng = np.random.default_rng(seed)
    return {"a": jnp.asarray(rng.normal(size=(2, 3))), "b": jnp.asarray(rng.normal(size=3))}


EXPAND = jax.jit(lambda x: second_order(lambda y: bumpy(unflatten(y)))(x)[:2])
PRODUCT = jax.jit(hvp(bumpy))
DENSE = jax.jit(dense_hessian(bumpy))
VALUE = jax.jit(bumpy)


def unflatten(x):
    return {"a": x[:6].reshape(2, 3), "b": x[6:]}


@given(st.integers(0, 10**6), st.floats(-3.0, 3.0))
def test_hvp_is_the_dense_hessian_times_v_and_linear_in_v(seed, c):
    p, v, w = point(seed), point(seed + 1), point(seed + 2)
    H = DENSE(p)
    flat = lambda tree: ravel_pytree(tree)[0]
    combined = jax.tree.map(lambda a, b: a + c * b, v, w)
    expected = H @ (flat(v) + c * flat(w))
    np.testing.assert_allclose(flat(PRODUCT(p, combined)), expected, atol=1e-12 * np.linalg.norm(H) * 10)
    assert np.array_equal(H, H.T)


@given(st.integers(0, 10**6))
def test_second_order_agrees_with_autodiff(seed):
    p = point(seed)
    value, grad = EXPAND(ravel_pytree(p)[0])
    np.testing.assert_allclose(value, bumpy(p), rtol=1e-13)
    np.testing.assert_allclose(grad, ravel_pytree(jax.grad(bumpy)(p))[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_dense_hessian_recovers_a_prescribed_matrix(seed):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    spectrum = np.array([-2.0, 0.0, 1e-6, 1.0, 3.0])
    A = jnp.asarray(Q @ np.diag(spectrum) @ Q.T)
    quadratic = lambda p: jnp.concatenate(p) @ A @ jnp.concatenate(p) / 2
    H = dense_hessian(quadratic)((jnp.ones(2), jnp.ones(3)))
    np.testing.assert_allclose(np.linalg.eigvalsh(H), spectrum, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_remainder_of_the_quadratic_model_is_of_third_order(seed):
    p, v = point(seed), point(seed + 100)
    x, u = ravel_pytree(p)[0], ravel_pytree(v)[0]
    e = second_order(lambda y: bumpy(unflatten(y)))(x)
    u = u / jnp.linalg.norm(u)
    hu, steps = e.hv(u), np.geomspace(1e-3, 1e-2, 6)
    model = [e.value + t * jnp.dot(e.grad, u) + t**2 * jnp.dot(u, hu) / 2 for t in steps]
    remainder = [abs(float(VALUE(unflatten(x + t * u)) - m)) for t, m in zip(steps, model, strict=True)]
    slope = np.polyfit(np.log(steps), np.log(remainder), 1)[0]
    assert 2.9 < slope < 3.1


def test_on_vectors_is_a_round_trip():
    p = point(0)
    flat, x, back = on_vectors(bumpy, p)
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(back(x)), jax.tree.leaves(p), strict=True)
    )
    assert flat(x) == bumpy(p)
