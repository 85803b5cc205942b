"""Stochastic Lanczos quadrature against Gauss's theorem and dense traces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.numerics.density import SpectralDensity, gauss_quadrature, smoothed, spectral_density
from ufm_jax.numerics.lanczos import tridiagonalise

D, STEPS, PROBES = 40, 6, 10


def matrix(spectrum, seed=0):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    A = (Q * np.asarray(spectrum)) @ Q.T
    return (A + A.T) / 2


jit = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # compiles in a third of the time


@partial(jit, static_argnames=("num_probes", "num_steps"))
def density_of(A, seed, *, num_probes=PROBES, num_steps=STEPS):
    key = jax.random.key(seed)
    return spectral_density(lambda v: A @ v, A.shape[0], key=key, num_probes=num_probes, num_steps=num_steps)


@jit
def quadrature(A, start):
    return gauss_quadrature(*tridiagonalise(lambda v: A @ v, start, STEPS))


SPECTRA = {
    "spaced": np.linspace(-1.0, 1.0, D),
    "clustered": np.concatenate([np.full(D // 2, -0.5), np.geomspace(1e-6, 1.0, D - D // 2)]),
    "fewer levels than steps": np.concatenate([np.zeros(D - 6), np.ones(4), [-1.0, -1.0]]),
    "zero": np.zeros(D),
    "identity": np.ones(D),
    "rank one": np.concatenate([np.zeros(D - 1), [1.0]]),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", range(3))
def test_quadrature_is_exact_to_degree_2_steps_less_1(name, seed):
    """Golub & Meurant (2010), theorem 6.2; the spectra lie in [-1, 1], so that all moments do."""
    A, start = matrix(SPECTRA[name], seed), np.random.default_rng(seed).normal(size=D)
    nodes, weights = quadrature(A, start)
    v = start / np.linalg.norm(start)
    for j in range(2 * STEPS):
        expected = v @ np.linalg.matrix_power(A, j) @ v
        np.testing.assert_allclose(weights @ nodes**j, expected, rtol=0, atol=1e-13)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8))
def test_density_is_a_probability_measure_within_the_spectrum(seed, levels):
    rng = np.random.default_rng(seed)
    spectrum = rng.choice(levels, size=D)
    nodes, weights = density_of(matrix(spectrum, seed), seed)
    assert nodes.shape == weights.shape == (PROBES, STEPS)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1 / PROBES, rtol=1e-12)
    assert np.min(nodes) >= np.min(spectrum) - 1e-12
    assert np.max(nodes) <= np.max(spectrum) + 1e-12


@pytest.mark.parametrize("name", SPECTRA)
def test_moments_are_normalised_traces(name):
    """Within five standard errors of the Hutchinson estimate for random signs, known in closed form."""
    A = matrix(SPECTRA[name])
    num_probes = 400
    nodes, weights = density_of(A, 0, num_probes=num_probes)
    for j in range(1, 2 * STEPS):
        power = np.linalg.matrix_power(A, j)
        variance = 2 * np.sum((power - np.diag(np.diag(power))) ** 2) / D**2
        tolerance = 5 * np.sqrt(variance / num_probes) + 1e-12
        np.testing.assert_allclose(np.sum(weights * nodes**j), np.trace(power) / D, rtol=0, atol=tolerance)


def test_a_diagonal_operator_has_exact_moments_from_one_probe():
    """Random signs give v^T A^j v = trace(A^j) / D exactly for a diagonal A."""
    values = np.linspace(-1.0, 1.0, D) ** 3
    nodes, weights = density_of(np.diag(values), 3, num_probes=1)
    for j in range(2 * STEPS):
        np.testing.assert_allclose(np.sum(weights * nodes**j), np.mean(values**j), rtol=0, atol=1e-13)


def test_enough_steps_find_every_level_with_its_share():
    levels, shares = np.array([-1.0, 0.0, 2.0]), np.array([10, 25, 5]) / D
    values = np.repeat(levels, [10, 25, 5])
    nodes, weights = density_of(np.diag(values), 0)  # STEPS > 3: the process breaks down
    nearest = np.argmin(np.abs(np.asarray(nodes)[..., None] - levels), axis=-1)
    found = [np.sum(np.where(nearest == i, weights, 0.0)) for i in range(3)]
    np.testing.assert_allclose(found, shares, atol=1e-12)


@pytest.mark.parametrize("width", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("name", ["spaced", "zero"])
def test_smoothed_density_integrates_to_one(name, width):
    density = density_of(matrix(SPECTRA[name]), 0)
    grid = np.linspace(-1 - 9 * width, 1 + 9 * width, 4001)
    heights = smoothed(density, jnp.asarray(grid), width)
    assert np.all(heights >= 0)
    np.testing.assert_allclose(np.trapezoid(heights, grid), 1, rtol=1e-10)


def test_smoothing_one_node_gives_its_gaussian():
    density = SpectralDensity(jnp.full((1, 2), 0.5), jnp.full((1, 2), 0.5))
    grid = np.linspace(-1.0, 2.0, 7)
    expected = np.exp(-((grid - 0.5) ** 2) / (2 * 0.3**2)) / (0.3 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(smoothed(density, jnp.asarray(grid), 0.3), expected, rtol=1e-13)


def test_float32_stays_float32():
    A = matrix(SPECTRA["spaced"]).astype(np.float32)
    estimate = partial(spectral_density, lambda v: A @ v, D, num_probes=2, num_steps=5, dtype=jnp.float32)
    nodes, weights = jit(lambda key: estimate(key=key))(jax.random.key(0))
    assert nodes.dtype == weights.dtype == jnp.float32
    heights = smoothed(SpectralDensity(nodes, weights), jnp.linspace(-2, 2, 9, dtype=jnp.float32), 0.5)
    assert heights.dtype == jnp.float32


def test_impossible_arguments_are_named():
    key, density = jax.random.key(0), SpectralDensity(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    for name in ("dim", "num_probes", "num_steps"):
        arguments = {"dim": 3, name: 0}
        with pytest.raises(ValueError, match=f"{name}.*0"):
            spectral_density(lambda v: v, **arguments, key=key)
    with pytest.raises(ValueError, match=r"width.*-1"):
        smoothed(density, jnp.zeros(1), -1.0)
