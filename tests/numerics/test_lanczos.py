"""Lanczos against dense eigenvalues of matrices whose spectra are prescribed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.numerics.lanczos import extreme_eigenpairs, tridiagonalise
from ufm_jax.numerics.status import Status

# Of the norm: the error of a Ritz value is of the order of its residual squared over a gap, and of the
# rounding of products. The residual itself is at most RTOL = 1e-10, the default.
TOL, RTOL = 1e-13, 1e-10
D, K, BASIS = 60, 4, 24  # a basis well below D, so that restarts happen

SPECTRA = {
    "spaced": np.linspace(-1.0, 2.0, D),
    "clustered": np.concatenate(
        [1e-3 * np.sqrt(np.arange(10)), np.geomspace(1.0, 2.0, D - 20), 2.1 - 1e-3 * np.sqrt(np.arange(10))]
    ),
    "near singular": np.concatenate([[1e-9, 2e-9, 1e-6], np.linspace(0.1, 3.0, D - 3)]),
    "nearly negative": np.concatenate([[-1e-6, 0.0, 0.0, 0.0], np.linspace(0.05, 3.0, D - 4)]),
    "of multiplicity 7": np.concatenate([np.full(7, -1.0), np.linspace(0.0, 2.0, D - 14), np.full(7, 3.0)]),
    "of spread 1e12": np.concatenate([np.geomspace(1e-12, 1e-2, 5), np.geomspace(0.1, 1.0, D - 5)]),
    "zero": np.zeros(D),
    "identity": np.ones(D),
    "rank one": np.concatenate([np.zeros(D - 1), [1.0]]),
    "negative rank one": np.concatenate([[-1e-3], np.zeros(D - 1)]),
    "huge": 1e100 * np.linspace(-1.0, 1.0, D),
    "tiny": 1e-100 * np.linspace(-1.0, 1.0, D),
}


def matrix(spectrum, seed=0):
    """Return Q diag(spectrum) Q^T and Q, with Q random orthogonal."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    A = (Q * np.asarray(spectrum)) @ Q.T
    return (A + A.T) / 2, Q


def eigenpairs(A, seed, deflate=None, num_pairs=K, which="smallest", basis_size=BASIS, max_restarts=100):
    return extreme_eigenpairs(
        lambda v: A @ v,
        A.shape[0],
        num_pairs,
        which=which,
        key=jax.random.key(seed),
        basis_size=basis_size,
        max_restarts=max_restarts,
        deflate=deflate,
        dtype=A.dtype,
    )


# Compiling is nearly all of this file's time, and takes a third of it without optimisation.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
compiled = jit(eigenpairs, static_argnums=range(3, 7))


def solve(A, seed, deflate=None, *, num_pairs=K, which="smallest", basis_size=BASIS, max_restarts=100):
    return compiled(A, seed, deflate, num_pairs, which, basis_size, max_restarts)


def check(pairs, A, expected, rtol=RTOL, tol=TOL):
    """Values as expected, ascending; unit orthogonal vectors; residuals as stated."""
    norm = np.linalg.norm(A, 2)
    V, values = np.asarray(pairs.vectors), np.asarray(pairs.values)
    assert pairs.status == Status.CONVERGED
    np.testing.assert_allclose(values, expected, rtol=0, atol=tol * norm)
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(V.T @ V, np.eye(values.size), atol=tol)
    stated = np.asarray(pairs.residuals)
    assert np.all(stated <= rtol * norm)
    scale = norm if norm > 0 else 1.0  # a small square underflows
    measured = scale * np.linalg.norm((A @ V - V * values) / scale, axis=0)
    np.testing.assert_allclose(stated, measured, rtol=1e-2, atol=tol * norm)
    assert pairs.norm <= norm * (1 + tol)


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("name", SPECTRA)
def test_pairs_are_those_of_the_prescribed_spectrum(name, which):
    spectrum = np.sort(SPECTRA[name])
    expected = spectrum[:K] if which == "smallest" else spectrum[-K:]
    for seed in range(3):
        A, _ = matrix(spectrum, seed)
        check(solve(A, seed, which=which), A, expected)


def test_multiplicity_above_the_block_size_is_counted():
    spectrum = np.sort(SPECTRA["of multiplicity 7"])
    for seed in range(10):
        A, _ = matrix(spectrum, seed)
        check(solve(A, seed, num_pairs=9), A, spectrum[:9])


@pytest.mark.parametrize(("dim", "num_pairs"), [(1, 1), (2, 2), (3, 2)])
def test_a_basis_that_holds_the_whole_space_is_enough(dim, num_pairs):
    spectrum = np.linspace(-1.0, 1.0, dim) ** 3 if dim > 1 else np.array([-2.0])
    for values in (spectrum, np.zeros(dim)):
        A, _ = matrix(values)
        check(solve(A, 0, num_pairs=num_pairs, basis_size=24), A, values[:num_pairs])


def test_agrees_with_arpack():
    A, _ = matrix(np.random.default_rng(0).normal(size=D))
    expected = scipy.sparse.linalg.eigsh(A, k=K, which="SA", tol=0, v0=np.ones(D))[0]
    check(solve(A, 0), A, np.sort(expected), tol=1e-12)


def test_float32_reaches_its_own_rounding():
    spectrum = SPECTRA["nearly negative"]
    A = matrix(spectrum)[0].astype(np.float32)
    pairs = solve(A, 0)
    assert pairs.values.dtype == pairs.vectors.dtype == jnp.float32
    check(pairs, A, spectrum[:K], rtol=1e-5, tol=3e-6)  # a few tens of eps


def test_a_restarted_search_in_a_large_space():
    """Diagonal operator of dimension above the default basis."""
    values = np.concatenate([[-0.5, -0.5, -0.5], np.linspace(0.0, 1.0, 397) ** 0.5])
    pairs = jit(lambda key: extreme_eigenpairs(lambda v: values * v, 400, 3, key=key))(jax.random.key(0))
    check(pairs, np.diag(values), values[:3])
    assert np.all(np.abs(np.asarray(pairs.vectors)[3:]) < 1e-9)


def test_deflation_leaves_the_spectrum_of_the_complement():
    spectrum = np.sort(SPECTRA["of multiplicity 7"])
    A, Q = matrix(spectrum)
    known = np.concatenate([Q[:, :5], np.zeros((D, 2)), Q[:, 20:21]], axis=1)
    pairs = solve(A, 0, known)
    check(pairs, A, np.delete(spectrum, [*range(5), 20])[:K])
    np.testing.assert_allclose(known.T @ pairs.vectors, 0, atol=1e-9)


def test_zero_columns_deflate_nothing():
    A, _ = matrix(SPECTRA["spaced"])
    with_zeros, without = solve(A, 0, np.zeros((D, 8))), solve(A, 0)
    np.testing.assert_allclose(with_zeros.values, without.values, atol=TOL)
    assert with_zeros.num_matvecs == without.num_matvecs


def test_a_complement_too_small_is_not_called_converged():
    A, Q = matrix(np.arange(1.0, 13.0))
    pairs = solve(A, 0, Q[:, :10], num_pairs=3, basis_size=None)
    assert pairs.status == Status.STALLED
    np.testing.assert_allclose(pairs.values, [11.0, 12.0, np.nan], rtol=1e-12)
    assert np.isnan(pairs.residuals[2])
    assert np.all(pairs.vectors[:, 2] == 0)


def test_deflating_what_is_not_invariant_is_not_called_converged():
    A, Q = matrix(SPECTRA["spaced"])
    pairs = solve(A, 0, (Q[:, :8] + Q[:, 8:16]) / np.sqrt(2))
    assert pairs.status == Status.STALLED
    assert np.max(pairs.residuals) > RTOL


def test_lanes_of_a_batch_are_those_of_a_loop_and_a_nan_stays_in_its_lane():
    names = list(SPECTRA)[:-2]
    batch = np.stack([matrix(SPECTRA[name])[0] for name in names])
    bad = batch.copy()
    bad[2, 3, 5] = np.nan
    seeds = jnp.arange(len(names))
    run = jit(jax.vmap(eigenpairs))
    good, mixed = run(batch, seeds), run(bad, seeds)
    assert mixed.status[2] == Status.NONFINITE
    others = np.arange(len(names)) != 2
    for a, b in zip(good, mixed, strict=True):
        assert np.array_equal(a[others], b[others])
    for i in range(len(names)):
        alone = solve(batch[i], i)
        lane = jax.tree.map(lambda x, i=i: x[i], good)
        assert lane.status == alone.status == Status.CONVERGED
        np.testing.assert_allclose(lane.values, alone.values, rtol=0, atol=TOL * np.linalg.norm(batch[i], 2))
    assert len(set(np.asarray(good.num_matvecs).tolist())) > 3  # lanes end at different cycles


def test_a_budget_too_small_for_a_hard_spectrum_says_so():
    spectrum = np.geomspace(1e-7, 1.0, D)
    A, _ = matrix(spectrum)
    pairs = solve(A, 0, max_restarts=1)
    assert pairs.status == Status.MAX_STEPS
    assert np.max(pairs.residuals) > RTOL
    np.testing.assert_allclose(np.linalg.norm(pairs.vectors, axis=0), 1, atol=TOL)
    distance = np.min(np.abs(np.asarray(pairs.values)[:, None] - spectrum), axis=1)
    assert np.all(distance <= np.asarray(pairs.residuals) + TOL)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    levels=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=5),
    noise=st.sampled_from([0.0, 1e-14, 1e-8, 1e-2]),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e30]),
    max_restarts=st.sampled_from([1, 100]),
)
def test_ritz_values_bound_eigenvalues_and_residuals_bound_distances(
    seed, levels, noise, scale, max_restarts
):
    rng = np.random.default_rng(seed)
    A, _ = matrix(scale * (rng.choice(levels, size=D) + noise * rng.normal(size=D)), seed)
    exact, norm = np.linalg.eigvalsh(A), np.linalg.norm(A, 2)
    pairs = solve(A, seed, max_restarts=max_restarts)
    values, residuals = np.asarray(pairs.values), np.asarray(pairs.residuals)
    assert np.all(values >= exact[:K] - TOL * norm)  # Cauchy interlacing
    distance = np.min(np.abs(values[:, None] - exact), axis=1)
    assert np.all(distance <= residuals + TOL * norm)
    if pairs.status == Status.CONVERGED:
        assert np.all(residuals <= RTOL * norm)
        np.testing.assert_allclose(values, exact[:K], rtol=0, atol=RTOL * norm)
    else:
        assert pairs.status == Status.MAX_STEPS


def test_two_calls_compile_once():
    A, _ = matrix(np.arange(8.0))
    traces = []

    @jit
    def every_pair(A, key):
        traces.append(1)
        return extreme_eigenpairs(lambda v: A @ v, 8, 8, key=key)

    for scale in (1.0, 2.0):
        check(every_pair(scale * A, jax.random.key(0)), scale * A, scale * np.arange(8.0))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 0),
        ("num_pairs", 0),
        ("num_pairs", 5),
        ("which", "LM"),
        ("block_size", 0),
        ("basis_size", 2),
        ("max_restarts", 0),
    ],
)
def test_impossible_arguments_are_named(name, value):
    arguments = {"dim": 4, "num_pairs": 1, name: value}

    def never(v):
        raise AssertionError("traced before the check")

    with pytest.raises((ValueError, TypeError), match=name) as caught:
        extreme_eigenpairs(never, **arguments, key=jax.random.key(0))
    assert str(value) in str(caught.value)


TRIDIAGONAL = jit(lambda A, start: tridiagonalise(lambda v: A @ v, start, 12))


@pytest.mark.parametrize("seed", range(3))
def test_tridiagonal_of_a_small_matrix_has_its_spectrum(seed):
    spectrum = np.linspace(-1.0, 3.0, 12)
    A, _ = matrix(spectrum, seed)
    alphas, betas = TRIDIAGONAL(A, np.random.default_rng(seed).normal(size=12))
    T = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(T), spectrum, atol=1e-12)


def test_tridiagonal_has_no_ghosts_after_a_breakdown():
    """A start in an invariant subspace of dimension 3 sees three eigenvalues, whatever follows."""
    A, Q = matrix(np.concatenate([[1.0, 2.0, 4.0], np.full(9, 3.0)]))
    alphas, betas = TRIDIAGONAL(A, Q[:, :3] @ np.array([1.0, 1.0, 2.0]))
    T = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(T[:3, :3]), [1.0, 2.0, 4.0], atol=1e-12)
    assert np.all(betas[2:] == 0)
    assert np.all((alphas[3:] > 1) & (alphas[3:] < 4))


def test_tridiagonal_of_zero_and_of_one_step():
    alphas, betas = TRIDIAGONAL(np.zeros((12, 12)), np.ones(12))
    assert np.all(alphas == 0)
    assert np.all(betas == 0)
    alphas, betas = tridiagonalise(lambda v: 3.0 * v, jnp.ones(5), 1)
    np.testing.assert_allclose(alphas, [3.0], rtol=1e-15)
    assert betas.shape == (0,)
    with pytest.raises(ValueError, match=r"num_steps.*0"):
        tridiagonalise(lambda v: v, jnp.ones(5), 0)
