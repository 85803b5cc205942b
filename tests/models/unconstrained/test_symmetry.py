"""Orbits of O(d) and of the logit shift: tangent spaces, dimensions, and the Hessian's null space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BALANCED,
    CE,
    IMBALANCED,
    PROBLEMS,
    SMOOTH,
    SQUARED,
    dense,
    gradient_norm,
    make,
    take,
    zoo,
)

from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, restrict
from ufm_jax.models.unconstrained.symmetry import orbit_dimension, orbit_projection, rank, shift_dimension


@jax.jit
def projection_of(prob, p):
    """The projection onto the orbit's tangent space as a matrix."""
    project = orbit_projection(prob, p, feature_frame(prob, p), rank(prob, p))
    return jax.vmap(lambda v: ravel(project(unravel(prob, v))))(jnp.eye(prob.num_variables))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_orbits_projection_is_one_and_is_null(name):
    z = zoo(name)
    for i in np.unique(np.round(z.values, 8), return_index=True)[1]:
        Q = np.asarray(projection_of(z.prob, take(z.points, i)))
        np.testing.assert_allclose(Q, Q.T, atol=1e-12)
        np.testing.assert_allclose(Q @ Q, Q, atol=1e-8)
        np.testing.assert_allclose(np.trace(Q), int(orbit_dimension(z.prob, int(z.ranks[i]))), atol=1e-8)
        assert np.linalg.norm(z.hessians[i] @ Q) <= 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_rotations_lie_in_the_range_of_the_orbits_projection(name):
    z = zoo(name)
    p, d = take(z.points, 0), z.prob.dim
    A = np.random.default_rng(0).normal(size=(d, d))
    A = A - A.T
    turn = ravel(p._replace(W=p.W @ A, H=-A @ p.H, b=None if p.b is None else jnp.zeros_like(p.b)))
    np.testing.assert_allclose(projection_of(z.prob, p) @ turn, turn, atol=1e-7)


@pytest.mark.parametrize(
    ("K", "n", "d", "decay_b", "loss"),
    [
        (2, 3, 1, 1e-2, CE),
        (3, 2, 2, 1e-2, CE),
        (3, 2, 2, 0.0, CE),
        (3, 2, 4, 0.0, SMOOTH),
        (4, 1, 4, 1e-2, CE),
        (4, 2, 3, 0.0, CE),
    ],
)
def test_nullity_at_the_etf_is_the_orbit_dimension(K, n, d, decay_b, loss):
    prob = make((n,) * K, d, decay_b=decay_b, loss=loss)
    p = etf_minimiser(prob)
    assert gradient_norm(prob, p) <= 1e-14
    eigenvalues = np.linalg.eigvalsh(jax.jit(dense)(prob, p))
    dimension = (K - 1) * (2 * d - K) // 2 + (decay_b == 0)
    assert eigenvalues[0] > -1e-12
    assert np.sum(np.abs(eigenvalues) < 1e-10) == dimension == int(orbit_dimension(prob, K - 1))
    assert rank(prob, p) == rank(collapse(prob), restrict(collapse(prob), p)) == K - 1


def test_nullity_below_the_simplex_dimension_is_the_orbit_dimension():
    z = zoo("below-ce-decayed")  # K = 3, d = 1: the orbit is two points
    assert np.sum(np.abs(np.linalg.eigvalsh(z.hessians[0])) < 1e-10) == int(orbit_dimension(z.prob, 1)) == 0
    z = zoo("below-smooth-undecayed")
    assert np.sum(np.abs(np.linalg.eigvalsh(z.hessians[0])) < 1e-10) == int(orbit_dimension(z.prob, 1)) == 1


@pytest.mark.parametrize(("d", "r"), [(d, r) for d in range(1, 6) for r in range(d + 1)])
def test_orbit_dimension_is_that_of_the_stiefel_manifold(d, r):
    frame = np.eye(d)[:, :r]
    skew = [np.outer(a, b) - np.outer(b, a) for i, a in enumerate(np.eye(d)) for b in np.eye(d)[:i]]
    moves = np.array([(A @ frame).ravel() for A in skew]).reshape(len(skew), d * r)
    expected = np.linalg.matrix_rank(moves) if moves.size else 0
    assert int(orbit_dimension(make((1, 1), d), r)) == expected


@pytest.mark.parametrize(
    ("loss", "bias", "decay_b", "expected"),
    [
        (CE, True, 0.0, 1),
        (SMOOTH, True, 0.0, 1),
        (SQUARED, True, 0.0, 0),
        (CE, True, 1e-3, 0),
        (CE, False, 0.0, 0),
    ],
)
def test_the_shift_is_a_symmetry_only_where_it_is_counted(loss, bias, decay_b, expected):
    prob = make(IMBALANCED, 2, loss=loss, bias=bias, decay_b=decay_b)
    assert shift_dimension(prob) == expected
    if bias:
        p = starts.gaussian(prob, jax.random.key(0))
        change = objective(prob)(p._replace(b=p.b + 1.7)) - objective(prob)(p)
        assert (abs(change) < 1e-13) == bool(expected)


def test_the_frame_diagonalises_both_gram_matrices_at_critical_points():
    z = zoo("above-smooth-decayed")
    p = take(z.points, 0)
    U = feature_frame(z.prob, p)
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-14)
    for gram in (U.T @ p.W.T @ p.W @ U, U.T @ p.H @ p.H.T @ U):
        assert np.all(np.diff(np.diag(gram)) <= 1e-9)
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-8)


def test_rank_counts_independent_feature_directions():
    prob = make(BALANCED, 4)
    for r in range(3):
        assert rank(prob, starts.balanced(prob, jax.random.key(r), r)) == r
    assert rank(prob, prob.zeros()) == 0
    assert jnp.linalg.norm(ravel(prob.zeros())) == 0
