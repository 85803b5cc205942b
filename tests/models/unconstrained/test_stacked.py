"""Many points at once are the same f and ∇f as one at a time."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import PROBLEMS, gaussians, keys, make

from ufm_jax.landscape.flat import unravel
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.stacked import batched
from ufm_jax.numerics.solve import product

WEIGHTED = CrossEntropy(0.1, class_weights=(0.5, 1.0, 3.0), offsets=(0.0, -1.0, 0.7))
CASES = PROBLEMS | {
    "focal": make((2, 1, 3), 4, loss=Focal(2.0)),
    "weighted": make((2, 1, 3), 4, loss=WEIGHTED),
    "long": make((200, 100, 50), 4),
}


@jax.jit
def many_at_once(at, x):
    """What `batched` makes of points, one a column, as many as entries of the decays."""
    many = batched(at)
    even = many.into(x)
    value, grad = many.at(even, many.data)
    return {"x again": many.back(even), "value": value, "grad": many.into(grad)}  # ∂f/∂x̂ = ∂f/∂x · x/x̂


@jax.jit
@partial(jax.vmap, in_axes=(0, 1), out_axes=(0, 1))
def one_at_a_time(prob, x):
    return jax.value_and_grad(lambda x: objective(prob)(unravel(prob, x)))(x)


@pytest.mark.parametrize("reduce", [lambda prob: prob, collapse], ids=["full", "class means"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_with_automatic_differentiation(name, reduce):
    prob = reduce(CASES[name])
    decays = np.outer([prob.decay_w, prob.decay_h, prob.decay_b], np.linspace(0.5, 2.0, 20))
    at = replace(prob, **dict(zip(("decay_w", "decay_h", "decay_b"), decays, strict=True)))
    leaves = jax.tree.leaves(gaussians(prob, 5, 20))
    x = np.concatenate([np.asarray(a).reshape(20, -1).T for a in leaves])
    found = jax.device_get(many_at_once(at, x))
    np.testing.assert_allclose(found["x again"], x, rtol=1e-14)
    true_value, true_grad = one_at_a_time(at, x)
    np.testing.assert_allclose(found["value"], true_value, rtol=1e-12)
    np.testing.assert_allclose(found["grad"], true_grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_products_are_matrix_products(length):
    A, X = jax.random.normal(keys(0, 1)[0], (3, length, 5)), jax.random.normal(keys(1, 1)[0], (length, 2, 5))
    for b in range(5):
        np.testing.assert_allclose(product(A, X)[:, :, b], A[:, :, b] @ X[:, :, b], atol=1e-12)
