"""Many points at once are the same f and ∇f as one at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROBLEMS, gaussians, keys, make

from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.stacked import batched, product

WEIGHTED = CrossEntropy(0.1, class_weights=(0.5, 1.0, 3.0), offsets=(0.0, -1.0, 0.7))
CASES = PROBLEMS | {
    "focal": make((2, 1, 3), 4, loss=Focal(2.0)),
    "weighted": make((2, 1, 3), 4, loss=WEIGHTED),
    "long": make((200, 100, 50), 4),
}


@pytest.mark.parametrize("reduce", [lambda prob: prob, collapse], ids=["full", "class means"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_with_automatic_differentiation(name, reduce):
    prob = reduce(CASES[name])
    x = jax.vmap(ravel)(gaussians(prob, keys(5, 20)))
    decays = jnp.stack([prob.decay_w, prob.decay_h, prob.decay_b])[:, None] * jnp.linspace(0.5, 2.0, 20)
    at = replace(prob, decay_w=decays[0], decay_h=decays[1], decay_b=decays[2])
    many = batched(at)
    even = many.into(x.T)
    np.testing.assert_allclose(many.back(even), x.T, rtol=1e-14)
    value, grad = jax.jit(many.at)(even, many.data)

    def one(prob, x):
        return jax.value_and_grad(lambda x: objective(prob)(unravel(prob, x)))(x)

    true_value, true_grad = jax.jit(jax.vmap(one))(at, x)
    np.testing.assert_allclose(value, true_value, rtol=1e-12)
    # The chain rule: ∂f/∂x̂ = ∂f/∂x · x/x̂.
    np.testing.assert_allclose(many.into(grad).T, true_grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_products_are_matrix_products(length):
    A, X = jax.random.normal(keys(0, 1)[0], (3, length, 5)), jax.random.normal(keys(1, 1)[0], (length, 2, 5))
    for b in range(5):
        np.testing.assert_allclose(product(A, X)[:, :, b], A[:, :, b] @ X[:, :, b], atol=1e-12)
