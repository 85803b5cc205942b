"""Distinct eigenvalues by symmetry against dense spectra, at minima and at symmetric saddles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMOOTH, SQUARED, dense, find_critical, keys, make, take

from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.invariant import invariant_spectrum
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, lift, restrict
from ufm_jax.models.unconstrained.starts import near
from ufm_jax.models.unconstrained.symmetry import orbit_dimension, orbit_projection
from ufm_jax.models.unconstrained.symmetry import rank as rank_of

# One, two and three values of the counts, not always in order; d below, at and above K − 1; every bias mode.
CASES = {
    "one-above": make((2,) * 6, 8, loss=SMOOTH, decay_b=0.0),
    "two-at": make((4, 2, 4, 2, 4), 4, decay_b=0.0),
    "two-below": make((4, 4, 4, 2, 2, 2), 3),
    "three-square": make((5, 1, 5, 2, 2, 5, 5), 7, bias=False),
    "squared-square": make((4, 1, 2, 2), 4, loss=SQUARED, decay_b=0.1),
    "squared-above": make((3, 3, 3, 1, 1), 7, loss=SQUARED, bias=False),
}


def start_at(prob, M):
    """The balanced class-constant point of the full problem with W H̃ = M, up to rank d, and b = 0."""
    U, S, Vt = np.linalg.svd(M)
    rank = min(int(np.sum(S > 1e-9)), prob.dim)
    zeros, tilt = prob.zeros(), float(prob.decay_h / prob.decay_w) ** 0.25
    W = zeros.W.at[:, :rank].set(U[:, :rank] * np.sqrt(S[:rank]) * tilt)
    H = np.zeros((prob.dim, prob.num_classes))
    H[:rank] = np.sqrt(S[:rank])[:, None] * Vt[:rank] / tilt
    return lift(prob, Params(W, jnp.asarray(H), zeros.b))


@functools.cache
def points(name):
    """Where searches end from M = c (I − J/K), from its parts within and between counts, and from M = 0."""
    prob = CASES[name]
    counts = np.array(prob.counts)
    alike = counts[:, None] == counts
    mean = alike / np.sum(alike, axis=1)  # the projection onto class vectors constant on equal counts
    most = np.diag(counts == counts.max())
    M = 6.0 * (np.eye(len(counts)) - 1 / len(counts)) if prob.loss.shift_invariant else np.eye(len(counts))
    parts = [M, most @ (M - M @ mean) @ most, mean @ M, 0 * M]
    # A part cut down to rank d would lose the symmetry.
    starts = [start_at(prob, A) for A in parts if np.linalg.matrix_rank(A) <= prob.dim]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    found = jax.jit(jax.vmap(find_critical, in_axes=(None, 0)))(prob, batch)
    assert np.all(np.asarray(found.grad_norm) <= 1e-10)
    return [take(found.params, i) for i in range(len(starts))]


@jax.jit
def dense_and_tangent(prob, p):
    """The Hessian by automatic differentiation, and the projection onto the orbit's tangent space."""
    project = orbit_projection(prob, p, feature_frame(prob, p), rank_of(prob, p))
    Q = jax.vmap(lambda v: ravel(project(unravel(prob, v))))(jnp.eye(prob.num_variables))
    return dense(prob, p), Q


def modulo_orbit(prob, p):
    """All eigenvalues of the collapsed problem's Hessian on the complement of the orbit's tangent space."""
    H, Q = (np.asarray(a) for a in dense_and_tangent(collapse(prob), restrict(collapse(prob), p)))
    U, s, _ = np.linalg.svd(Q)
    assert np.sum(s > 0.5) == int(orbit_dimension(prob, rank_of(prob, p)))
    complement = U[:, int(np.sum(s > 0.5)) :]
    return np.linalg.eigvalsh(complement.T @ H @ complement)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_distinct_eigenvalue_is_found_and_no_other(name):
    prob, ranks = CASES[name], set()
    for p in points(name):
        found, expected = invariant_spectrum(prob, p), modulo_orbit(prob, p)
        distance = np.abs(found.values[:, None] - expected)
        assert distance.min(axis=0).max() <= 1e-10  # each of the dense ones is one found
        assert distance.min(axis=1).max() <= 1e-10
        assert found.null_residual <= 1e-10
        assert found.rank == int(rank_of(prob, p))
        ranks.add(found.rank)
        for pair, value in ((found.lowest, found.values[0]), (found.highest, found.values[-1])):
            assert pair.value == value
            np.testing.assert_allclose(np.linalg.norm(ravel(pair.direction)), 1.0, rtol=1e-12)
            assert pair.residual <= 1e-10
    assert len(ranks) >= (2 if prob.balanced else 3)  # the origin, the minimum, and saddles between them


def test_a_full_point_has_the_spectrum_of_its_class_means():
    prob, p = CASES["two-at"], points("two-at")[0]
    full, small = invariant_spectrum(prob, p), invariant_spectrum(collapse(prob), restrict(collapse(prob), p))
    np.testing.assert_allclose(full.values, small.values, atol=1e-15)


def test_points_without_the_symmetry_are_refused():
    prob, p = CASES["two-at"], points("two-at")[0]
    swapped = p._replace(W=p.W[jnp.array([1, 0, 2, 3, 4])])
    with pytest.raises(ValueError, match="permuting classes"):
        invariant_spectrum(prob, swapped)
    with pytest.raises(ValueError, match="permuting classes"):
        invariant_spectrum(prob, near(prob, keys(0, 1)[0], p, 1e-3))
    with pytest.raises(ValueError, match="not a critical point"):
        invariant_spectrum(prob, start_at(prob, np.eye(5) - 0.2))
