"""The orbit's tangent space: its dimension, and the projection onto it; tangents may be dependent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lennard_jones import LennardJones

from ufm_jax.landscape.orbit import orbit_of
from ufm_jax.landscape.point import as_rows, ravel
from ufm_jax.models.factorisation import Factorisation, Factors, critical_point_of

M = np.diag([4.0, 3.0, 2.0, 1.0])


def dense(orbit, x):
    """Return the projection as a matrix."""
    vectors, back = jax.flatten_util.ravel_pytree(x)
    return jax.vmap(lambda v: ravel(orbit.project(back(v))))(jnp.eye(vectors.size))


@pytest.mark.parametrize(
    ("chosen", "rank"),
    [(S, rank) for S in [(), (0,), (1, 2), (0, 1, 2)] for rank in (1, 2, 3) if len(S) <= rank],
)
def test_factors_turn_in_as_many_ways_as_their_rank_lets_them(chosen, rank):
    """dim O(r) − dim O(r − s) = s (r − s) + s (s − 1)/2 for rank s."""
    s = len(chosen)
    x = critical_point_of(M, 0.1, rank, chosen)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(rank, rank)))[0]
    for at in (x, Factors(x.U @ turn, x.V @ turn)):
        orbit = orbit_of(at, Factorisation(M=M, decay=0.1, rank=rank).tangents(at))
        assert orbit.dim == s * (rank - s) + s * (s - 1) // 2
        assert bool(jnp.isinf(orbit.radius)) == (orbit.dim == 0)


def line(n):
    return np.array([0.3, -0.5, 0.8]) * np.linspace(-1.0, 1.0, n)[:, None]


def plane(n):
    angles = 2 * np.pi * np.arange(n) / n
    frame = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1) @ frame


CLUSTERS = {
    "a pair": (line(2), 5),
    "a line": (line(4), 5),
    "a triangle": (plane(3), 6),
    "a plane": (plane(5), 6),
    "in space": (np.random.default_rng(2).normal(size=(5, 3)), 6),
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_in_a_line_lacks_one_rotation(name):
    x, dim = CLUSTERS[name]
    x = jnp.asarray(x)
    cluster = LennardJones(num_atoms=len(x))
    orbit = cluster.orbit(cluster.evaluate(x))
    assert orbit.dim == dim
    P = dense(orbit, x)
    np.testing.assert_allclose(np.trace(P), dim, atol=1e-10)
    rows = as_rows(cluster.tangents(x))
    np.testing.assert_allclose(rows @ P, rows, atol=1e-12)
    bent = x.at[0, 0].add(1e-10)  # nearer to the line than a search gets: the same count
    assert cluster.orbit(cluster.evaluate(bent)).dim == dim


@pytest.mark.slow
@given(
    independent=st.integers(0, 3),
    mixed=st.integers(0, 4),
    zeros=st.integers(0, 2),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_a_projection_is_symmetric_idempotent_and_of_the_orbit_s_rank(independent, mixed, zeros, scale, seed):
    rng = np.random.default_rng(seed)
    x = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(()), "c": jnp.zeros(3)}
    rows = scale * rng.normal(size=(independent, 8))
    rows = np.concatenate([rows, rng.normal(size=(mixed, independent)) @ rows, np.zeros((zeros, 8))])
    rng.shuffle(rows)
    back = jax.flatten_util.ravel_pytree(x)[1]
    tangents = jax.vmap(back)(jnp.asarray(rows))
    orbit = orbit_of(x, tangents)
    assert orbit.dim == independent
    P = dense(orbit, x)
    np.testing.assert_allclose(P, P.T, atol=1e-13)
    np.testing.assert_allclose(P @ P, P, atol=1e-13)
    np.testing.assert_allclose(P @ rows.T, rows.T, atol=1e-12 * scale)
    np.testing.assert_allclose(np.trace(P), independent, atol=1e-12)
    lengths = np.linalg.svd(rows, compute_uv=False)[:independent] if len(rows) else np.zeros(0)
    np.testing.assert_allclose(orbit.radius, lengths.min(initial=np.inf), rtol=1e-10)
