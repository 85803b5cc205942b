"""Index, nullity and λ_min modulo the orbit against the dense full Hessian; the public test case."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BALANCED,
    CE,
    PROBLEMS,
    SMOOTH,
    curvature_floor,
    keys,
    make,
    minimum_from_etf,
    ranks_of,
    saddles,
    take,
    values_of,
    zoo,
)

from ufm_jax.landscape import spectrum as module
from ufm_jax.landscape.evidence import examine, spectrum
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.losses import Focal
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, lift, restrict
from ufm_jax.models.unconstrained.symmetry import orbit_projection
from ufm_jax.models.unconstrained.symmetry import rank as rank_of
from ufm_jax.numerics.status import Status

spectra = jax.jit(jax.vmap(lambda prob, p: spectrum(prob, prob.evaluate(p)), in_axes=(None, 0)))


@jax.jit
def tangents(prob, p):
    """The projection onto the orbit's tangent space as a matrix."""
    project = orbit_projection(prob, p, feature_frame(prob, p), rank_of(prob, p))
    return jax.vmap(lambda v: ravel(project(unravel(prob, v))))(jnp.eye(prob.num_variables))


@functools.cache
def spectra_of(name):
    return jax.tree.map(np.asarray, spectra(zoo(name).prob, zoo(name).points))


def modulo_orbit(H, Q):
    """Eigenvalues of H on the orthogonal complement of the range of the projection Q."""
    U, s, _ = np.linalg.svd(Q, full_matrices=True)
    complement = U[:, int(np.sum(s > 0.5)) :]
    return np.linalg.eigvalsh(complement.T @ H @ complement)


@pytest.mark.parametrize("name", PROBLEMS)
def test_spectrum_agrees_with_the_dense_full_hessian(name):
    z, spec = zoo(name), spectra_of(name)

    assert np.mean(spec.resolved) > 0.9
    for i in np.flatnonzero(spec.resolved):
        tolerance = spec.tolerance[i]
        eigenvalues = np.linalg.eigvalsh(z.hessians[i])
        assert int(spec.index[i]) == np.sum(eigenvalues < -tolerance)
        assert int(spec.nullity[i]) == np.sum(np.abs(eigenvalues) <= tolerance)
        expected = modulo_orbit(z.hessians[i], tangents(z.prob, take(z.points, i)))
        np.testing.assert_allclose(spec.lambda_min[i], expected[0], atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_lowest_eigenpair_stands_up_in_the_full_problem(name):
    z, spec = zoo(name), spectra_of(name)
    for i in range(len(z.values)):
        v = np.asarray(ravel(take(spec.direction, i)))
        np.testing.assert_allclose(np.linalg.norm(v), 1.0, rtol=1e-10)
        residual = np.linalg.norm(z.hessians[i] @ v - spec.lambda_min[i] * v)
        np.testing.assert_allclose(spec.residual[i], residual, atol=1e-12)
        assert residual <= 10 * spec.tolerance[i]
        assert spec.orbit_residual[i] <= spec.tolerance[i]


@functools.cache
def by_lanczos(name):
    """As `spectra_of`, with no dense eigen-solve of the reduced problem."""

    def one(prob, p):
        return spectrum(prob, prob.evaluate(p), curvature_floor(prob, p))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE_LIMIT", 0)
        return jax.tree.map(
            np.asarray, jax.jit(jax.vmap(one, in_axes=(None, 0)))(zoo(name).prob, zoo(name).points)
        )


@pytest.mark.parametrize("name", ["at-ce-undecayed", "above-smooth-decayed", "above-squared-undecayed"])
def test_lanczos_finds_the_same_lowest_eigenvalue_and_counts_only_what_is_proved(name):
    exact, spec = spectra_of(name), by_lanczos(name)
    np.testing.assert_allclose(spec.lambda_min, exact.lambda_min, atol=1e-9)
    assert np.all(spec.residual <= 10 * spec.tolerance)
    assert np.all(spec.orbit_residual <= spec.tolerance)
    counted = spec.index != module.NOT_COUNTED
    assert counted[0]  # the global minimum
    assert np.all(exact.index[counted] == 0)
    assert np.all(spec.index[counted] == 0)
    assert np.array_equal(spec.nullity[counted], exact.nullity[counted])


def test_a_search_that_ends_too_soon_claims_no_nullity(monkeypatch):
    prob = collapse(make((6, 5, 4, 3, 2, 1), 5))  # more variables than the smallest basis, no symmetry
    p = jax.jit(minimum_from_etf)(prob).params
    for name in ("DENSE_LIMIT", "BASIS_BYTES", "LANCZOS_FLOP"):
        monkeypatch.setattr(module, name, 0)
    spec = jax.jit(lambda prob, p: spectrum(prob, prob.evaluate(p), curvature_floor(prob, p)))(prob, p)
    assert (spec.index, spec.nullity) == (0, module.NOT_COUNTED)
    assert not spec.resolved


@pytest.mark.slow
@pytest.mark.parametrize(("K", "d"), [(3, 2), (3, 3), (4, 6)])
def test_lanczos_counts_no_null_directions_from_one_of_them(K, d, monkeypatch):
    """At the origin with Kθ = 1, (K − 1)d eigenvalues are zero: Lanczos sees each eigenspace once."""
    prob = make((1,) * K, d, decay_w=1.0 / K, decay_h=1.0 / K)
    exact = jax.jit(examine)(prob, prob.zeros()).evidence
    assert (exact.verdict, exact.index, exact.nullity) == (Verdict.GLOBAL_MINIMUM, 0, (K - 1) * d)
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    seen = jax.jit(lambda prob, p: examine(prob, p))(prob, prob.zeros()).evidence
    assert (seen.verdict, seen.index, seen.nullity) == (Verdict.GLOBAL_MINIMUM, 0, module.NOT_COUNTED)


def test_features_of_a_class_that_differ_are_not_judged_by_class_means():
    """The blocks are those of class means, which a point of a loss that is not convex need not be near."""
    prob = make(BALANCED, 2, loss=Focal(2.0))
    p = starts.gaussian(prob, jax.random.key(0))
    together = lift(prob, restrict(collapse(prob), p))
    apart, alike = (jax.jit(lambda q: spectrum(prob, prob.evaluate(q)))(q) for q in (p, together))
    assert not apart.clear
    assert not apart.resolved
    assert alike.index != module.NOT_COUNTED


def test_full_and_collapsed_problems_have_one_index_and_nullity():
    z, full = zoo("at-ce-undecayed"), spectra_of("at-ce-undecayed")
    small = spectra(collapse(z.prob), jax.vmap(lambda p: restrict(collapse(z.prob), p))(z.points))
    assert np.array_equal(small.index, full.index)
    assert np.array_equal(small.nullity, full.nullity)


@pytest.mark.parametrize(
    ("K", "n", "d", "loss", "bias"),
    [(2, 1, 1, CE, True), (3, 2, 2, CE, True), (3, 4, 5, SMOOTH, False), (4, 3, 2, CE, True)],
)
def test_the_origin_has_index_dimension_times_classes_less_one(K, n, d, loss, bias):
    prob = make((n,) * K, d, loss=loss, bias=bias)
    spec = jax.jit(lambda p: spectrum(prob, prob.evaluate(p)))(prob.zeros())
    mean, half = (prob.decay_w + prob.decay_h) / 2, (prob.decay_w - prob.decay_h) / 2
    sigma = (1.0 - loss.smoothing) / (K * np.sqrt(n))
    np.testing.assert_allclose(spec.lambda_min, mean - np.sqrt(half**2 + sigma**2), atol=1e-13)
    assert spec.index == (K - 1) * d
    assert spec.nullity == spec.orbit_dim == 0
    assert spec.resolved
    assert spec.residual <= 1e-13


def test_the_public_case_has_exactly_four_orbits():
    prob = make((5, 5, 5), 2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    found = saddles(prob, keys(0, 400))
    done = np.asarray(found.status) == Status.CONVERGED
    assert done.mean() > 0.95
    points = take(found.params, np.flatnonzero(done))
    values, ranks, spec = values_of(prob, points), ranks_of(prob, points), spectra(prob, points)
    assert np.all(spec.resolved)
    rows = zip(np.round(values, 8), ranks, spec.index, spec.nullity, strict=True)
    orbits = {tuple(float(x) for x in row) for row in rows}
    assert sorted(orbits) == [
        (0.06293301, 2, 0, 1),
        (0.14356253, 1, 1, 1),
        (0.50262885, 1, 2, 1),
        (1.09861229, 0, 4, 0),
    ]
