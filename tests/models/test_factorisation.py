"""Matrix factorisation: closed forms against dense Hessians, and a search that finds each orbit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.factorisation import Factorisation, critical_point_of, critical_values
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.following import follow_to_index
from ufm_jax.numerics.rootfind import critical_point
from ufm_jax.numerics.status import Status

FOUR = np.diag([4.0, 3.0, 2.0, 1.0])


def matrix(m, n, sigma, seed=0):
    """Return a matrix of given singular values in random bases."""
    left, right = (np.linalg.qr(np.random.default_rng(seed + k).normal(size=(k, k)))[0] for k in (m, n))
    return left[:, : len(sigma)] * sigma @ right[:, : len(sigma)].T


CASES = {
    "square": (FOUR, 0.1, 2),
    "tall": (matrix(5, 3, [3.0, 2.0, 1.0]), 0.3, 2),
    "wide, one below": (matrix(2, 4, [2.0, 0.4]), 0.5, 2),
    "rank above": (matrix(3, 3, [2.0, 1.0, 0.2]), 0.5, 4),
    "rank one": (matrix(4, 3, [3.0, 2.0, 1.0]), 0.2, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms_are_critical_points_of_the_index_and_orbit_they_say(case):
    M, decay, rank = CASES[case]
    landscape = Factorisation(M=M, decay=decay, rank=rank)
    hessian = jax.jit(dense_hessian(landscape.value))
    for one in critical_values(M, decay, rank):
        x = critical_point_of(M, decay, rank, one.chosen)
        value, grad = jax.value_and_grad(landscape.value)(x)
        np.testing.assert_allclose(value, one.value, atol=1e-12)
        np.testing.assert_allclose(np.concatenate([np.ravel(g) for g in grad]), 0.0, atol=1e-12)
        np.testing.assert_allclose(landscape.measures(x)["imbalance"], 0.0, atol=1e-12)
        eigenvalues = np.linalg.eigvalsh(hessian(x))
        assert np.sum(eigenvalues < -1e-9) == one.index
        assert np.sum(np.abs(eigenvalues) < 1e-9) == one.orbit_dim
        rows = [np.reshape(a, (len(a), np.prod(a.shape[1:]))) for a in landscape.tangents(x)]
        tangents = np.concatenate(rows, axis=1)
        assert (np.linalg.matrix_rank(tangents) if len(tangents) else 0) == one.orbit_dim
        np.testing.assert_allclose(tangents @ hessian(x), 0.0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_the_lower_bound_is_the_lowest_critical_value_and_below_every_value(case):
    M, decay, rank = CASES[case]
    landscape = Factorisation(M=M, decay=decay, rank=rank)
    listed = critical_values(M, decay, rank)
    bound = landscape.lower_bound(landscape.zeros())
    np.testing.assert_allclose(bound, listed[0].value, rtol=1e-13)
    assert [one.index == 0 for one in listed] == [True] + [False] * (len(listed) - 1)
    starts = jax.vmap(landscape.start)(jax.random.split(jax.random.key(1), 50))
    assert np.all(jax.vmap(landscape.value)(starts) >= bound)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_value_and_invariants_do_not_change_under_rotations_and_tangents_are_their_directions(rank):
    landscape = Factorisation(M=matrix(4, 3, [3.0, 2.0, 1.0]), decay=0.2, rank=rank)
    x = landscape.start(jax.random.key(2))
    Q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (rank, rank)))
    y = jax.tree.map(lambda a: a @ Q, x)
    np.testing.assert_allclose(landscape.value(y), landscape.value(x), rtol=1e-13)
    np.testing.assert_allclose(landscape.invariants(y), landscape.invariants(x), atol=1e-12)
    tangents, grad = landscape.tangents(x), jax.grad(landscape.value)(x)
    slopes = sum(jnp.tensordot(t, g, axes=2) for t, g in zip(tangents, grad, strict=True))
    assert slopes.shape == (rank * (rank - 1) // 2,)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-12)


@jax.jit
def searches(landscape, starts):
    return jax.lax.map(lambda x: critical_point(landscape.value, x), starts)


def test_searches_from_random_starts_find_the_eleven_orbits_and_no_others():
    listed = critical_values(FOUR, 0.1, 2)
    assert len(listed) == 11
    landscape = Factorisation(M=FOUR, decay=0.1, rank=2)
    starts = jax.vmap(landscape.start)(jax.random.split(jax.random.key(4), 600))
    found = searches(landscape, starts)
    values = np.asarray(found.value)[np.asarray(found.status) == Status.CONVERGED]
    apart = np.abs(values[:, None] - np.array([one.value for one in listed]))
    assert np.all(apart.min(axis=1) < 1e-8)
    assert set(apart.argmin(axis=1)) == set(range(11))


@pytest.mark.parametrize("index", [1, 2, 3])
def test_followers_end_at_values_of_the_index_asked_for(index):
    landscape = Factorisation(M=FOUR, decay=0.1, rank=2)
    starts = jax.vmap(landscape.start)(jax.random.split(jax.random.key(5), 60))
    found = jax.jit(
        lambda starts: jax.lax.map(
            lambda x: follow_to_index(landscape.value, x, index, tangents=landscape.tangents), starts
        )
    )(starts)
    values = np.asarray(found.value)[np.asarray(found.status) == Status.CONVERGED]
    listed = np.array([one.value for one in critical_values(FOUR, 0.1, 2) if one.index == index])
    assert len(values) >= 50
    assert np.all(np.min(np.abs(values[:, None] - listed), axis=1) < 1e-8)


@pytest.mark.parametrize(
    ("M", "decay", "rank", "named"),
    [
        (np.eye(2), 0.1, 1, "M"),
        (np.diag([2.0, 1.0]), 1.0, 1, "M"),
        (FOUR, 0.0, 1, "decay"),
        (FOUR, 0.1, 0, "rank"),
    ],
)
def test_what_has_no_such_list_is_refused(M, decay, rank, named):
    with pytest.raises(ValueError, match=f"{named}:"):
        critical_values(M, decay, rank)


@pytest.mark.parametrize("chosen", [(0, 1, 2), (0, 0), (4,)])
def test_a_choice_that_is_none_is_refused(chosen):
    with pytest.raises(ValueError, match="chosen"):
        critical_point_of(FOUR, 0.1, 2, chosen)
