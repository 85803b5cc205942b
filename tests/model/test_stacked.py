"""Many points at once are the same f and ∇f as one at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROBLEMS, gaussians, keys, make

from ufm_jax.model.losses import Focal
from ufm_jax.model.objective import objective, ravel, unravel
from ufm_jax.model.reduction import collapse
from ufm_jax.model.stacked import UNROLLED, product, stacked

CASES = PROBLEMS | {"focal": make((2, 1, 3), 4, loss=Focal(2.0))}


@pytest.mark.parametrize("reduce", [lambda prob: prob, collapse], ids=["full", "class means"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_with_automatic_differentiation(name, reduce):
    prob = reduce(CASES[name])
    x = jax.vmap(ravel)(gaussians(prob, keys(5, 20)))
    decays = jnp.stack([prob.decay_w, prob.decay_h, prob.decay_b])[:, None] * jnp.linspace(0.5, 2.0, 20)
    value, grad = jax.jit(stacked(prob))(x.T, decays)

    def one(x, decays):
        at = replace(prob, decay_w=decays[0], decay_h=decays[1], decay_b=decays[2])
        return objective(at)(unravel(prob, x))

    true_value, true_grad = jax.jit(jax.vmap(jax.value_and_grad(one), in_axes=(0, 1)))(x, decays)
    np.testing.assert_allclose(value, true_value, rtol=1e-12)
    np.testing.assert_allclose(grad.T, true_grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", [1, UNROLLED, UNROLLED + 1])
def test_products_are_matrix_products(length):
    A, X = jax.random.normal(keys(0, 1)[0], (3, length, 5)), jax.random.normal(keys(1, 1)[0], (length, 2, 5))
    for b in range(5):
        np.testing.assert_allclose(product(A, X)[:, :, b], A[:, :, b] @ X[:, :, b], atol=1e-12)
