"""Ordered partitions at d = 1: f on merged classes, the splitting criterion against the Hessian, counts."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make

from experiments import ordered_partitions as ordered
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.numerics.derivatives import dense_hessian

DECAY_B = 1e-2


def expanded(x, sizes):
    """The point of all classes, at λ_W = λ_H."""
    w, t, b = (jnp.asarray(np.repeat(row, sizes)) for row in x)
    return Params(w[:, None], t[None], b)


def problem_of(sizes, k_theta):
    K = sum(sizes)
    return make((1,) * K, 1, decay_w=k_theta / K, decay_h=k_theta / K, decay_b=DECAY_B)


@pytest.mark.parametrize("sizes", [(3,), (2, 1), (1, 2, 1), (2, 1, 2), (1, 1, 1, 2)])
def test_f_on_merged_classes_is_f(sizes):
    x = np.random.default_rng(0).normal(size=(3, len(sizes)))
    value = problem_of(sizes, 0.07).value(expanded(x, sizes))
    merged = ordered.merged(jnp.asarray(x), jnp.asarray(sizes, float), 0.07, DECAY_B)
    np.testing.assert_allclose(merged, value, rtol=1e-13)


@pytest.mark.parametrize("k_theta", [0.6, 0.1, 0.003])
@pytest.mark.parametrize("sizes", [(4,), (2, 1), (1, 2, 1), (3, 2), (1, 3, 1), (2, 1, 2), (2, 2, 1)])
def test_the_index_is_that_within_the_face_and_one_for_each_direction_that_splits_a_block(sizes, k_theta):
    m = np.array(sizes, float)
    places = np.linspace(-3.0, 3.0, len(m)) * (len(m) > 1)
    begun = ordered.solve(np.stack([places, places, 0 * places]), m, 0.1, DECAY_B, down=True)
    state = ordered.solve(begun.x, m, k_theta, DECAY_B)
    assert state.residual <= ordered.RESIDUAL
    prob, p = problem_of(sizes, k_theta), expanded(state.x, sizes)
    assert float(prob.evaluate(p).grad_norm) < 1e-10
    found = np.sum(np.linalg.eigvalsh(dense_hessian(prob.value)(p)) < 0)
    # The Hessian within the face, in coordinates of unit length; its sign counts are those of `derivatives`.
    hessian = np.asarray(ordered.derivatives(jnp.asarray(state.x), jnp.asarray(m), k_theta, DECAY_B)[1])
    split = ordered.splitting(state.x, m, k_theta, DECAY_B)
    assert found == np.sum(np.linalg.eigvalsh(hessian) < 0) + np.sum((m - 1) * (split < 1))


def test_the_origin_splits_until_its_strength_is_one():
    for k_theta in (0.01, 0.5, 0.99, 1.01):
        product = ordered.splitting(np.zeros((3, 1)), np.array([5.0]), k_theta, DECAY_B)
        np.testing.assert_allclose(product, k_theta**2, rtol=1e-12)


@pytest.mark.parametrize("K", range(1, 8))
def test_ordered_set_partitions_are_counted_by_sizes(K):
    def labelled(c):
        return math.factorial(K) // math.prod(map(math.factorial, c)) * (1 if c == c[::-1] else 2)

    assert sum(map(labelled, ordered.compositions(K))) == ordered.fubini(K)
    assert len(list(ordered.compositions(K))) == (2 ** (K - 1) + 2 ** (K // 2)) // 2
    assert [ordered.fubini(k) for k in (3, 4, 5, 6)] == [13, 75, 541, 4683]


def test_the_window_of_three_classes_ends_where_the_middle_one_leaves_the_centre():
    config = ordered.Config(steps=4, ends=(1e-3, 0.9))
    found = ordered.window(config, (1, 1, 1))
    assert found["at_start"] is None
    assert found["lower_ends"] == "no minimum within its face"
    assert found["upper"] == 0.9
    for k_theta, outside in ((found["lower"] * 1.001, False), (found["lower"] / 1.001, True)):
        places = np.array([-3.0, 0.0, 3.0])
        state = ordered.solve(np.stack([places, places, 0 * places]), np.ones(3), k_theta, DECAY_B)
        assert abs(state.x[0][1]) < 1e-9
        assert (state.curvature < 0) == outside
