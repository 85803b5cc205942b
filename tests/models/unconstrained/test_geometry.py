"""Neural-collapse metrics against independent NumPy, and the simplex equiangular tight frame."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.models.unconstrained.geometry import collapse_metrics, simplex_etf, simplex_gram
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import collapse, lift, restrict


def reference(W, H, b, labels, K):
    """NC1-NC4 of Zhu et al. 2021, term by term, with NumPy's pseudo-inverse."""
    means = np.stack([H[:, labels == k].mean(axis=1) for k in range(K)], axis=1)
    centre = H.mean(axis=1)
    within = (
        sum(np.outer(h - means[:, y], h - means[:, y]) for h, y in zip(H.T, labels, strict=True)) / H.shape[1]
    )
    between = sum(np.outer(m - centre, m - centre) for m in means.T) / K
    simplex = (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)
    gram, aligned = W @ W.T, W @ (means - centre[:, None])
    return (
        np.trace(within @ np.linalg.pinv(between, rcond=1e-8)) / K,
        np.linalg.norm(gram / np.linalg.norm(gram) - simplex),
        np.linalg.norm(aligned / np.linalg.norm(aligned) - simplex),
        np.linalg.norm(W @ centre + (0.0 if b is None else b)),
    )


def features(seed, K, d, counts, singular):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), counts)
    means = rng.normal(size=(d, K))
    if singular:
        means[:, 1] = means[:, 0]  # two classes with one mean
    H = means[:, labels]
    noise = 0.3 * rng.normal(size=H.shape)
    for k in range(K):
        noise[:, labels == k] -= noise[:, labels == k].mean(axis=1, keepdims=True)
    return rng.normal(size=(K, d)), H + noise + rng.normal(size=(d, 1)), rng.normal(size=K), labels


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize(
    ("K", "d", "counts"),
    [(3, 1, (2, 2, 2)), (3, 2, (3, 1, 2)), (3, 5, (4, 4, 4)), (5, 3, (2,) * 5), (5, 9, (3, 1, 2, 5, 2))],
)
@pytest.mark.parametrize("seed", range(2))
def test_metrics_agree_with_numpy(K, d, counts, singular, seed):
    W, H, b, labels = features(seed, K, d, counts, singular)
    for bias in (b, None):
        p = Params(jnp.asarray(W), jnp.asarray(H), None if bias is None else jnp.asarray(bias))
        prob = make(counts, d, bias=bias is not None)
        found, expected = collapse_metrics(prob, p), reference(W, H, bias, labels, K)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("K", "d", "n"), [(2, 1, 1), (3, 2, 4), (3, 5, 2), (6, 5, 3)])
def test_metrics_vanish_at_collapse(K, d, n):
    prob = make((n,) * K, d)
    frame = jnp.asarray(simplex_etf(K, d))
    p = Params(2.0 * frame, 0.7 * frame.T[:, prob.labels], jnp.zeros(K))
    np.testing.assert_allclose(collapse_metrics(prob, p), 0.0, atol=1e-12)


@pytest.mark.parametrize("counts", [(3, 1, 2), (2, 2, 2)])
def test_a_point_on_class_means_has_the_metrics_of_its_lift(counts):
    W, H, b, _ = features(0, 3, 4, counts, False)
    prob = make(counts, 4)
    small = restrict(collapse(prob), Params(*map(jnp.asarray, (W, H, b))))
    found, expected = collapse_metrics(collapse(prob), small), collapse_metrics(prob, lift(prob, small))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 10**6), st.floats(0.01, 100.0))
def test_metrics_have_the_invariances_they_are_made_for(seed, scale):
    W, H, b, _ = features(seed % 50, 3, 4, (2, 3, 2), False)
    prob = make((2, 3, 2), 4)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    base = collapse_metrics(prob, Params(*map(jnp.asarray, (W, H, b))))
    turned = collapse_metrics(prob, Params(*map(jnp.asarray, (W @ Q, Q.T @ H, b))))
    np.testing.assert_allclose(turned, base, rtol=1e-8)
    scaled = collapse_metrics(prob, Params(*map(jnp.asarray, (scale * W, scale * H, b))))
    np.testing.assert_allclose(scaled[:3], base[:3], rtol=1e-8)


def test_metrics_of_nothing_over_nothing_are_nan():
    prob = make((2, 2), 2, bias=False)
    found = collapse_metrics(prob, Params(jnp.zeros((2, 2)), jnp.ones((2, 4)), None))
    assert np.isnan(found.nc2)
    assert np.isnan(found.nc3)
    assert found.nc4 == 0.0


@pytest.mark.parametrize(("K", "d"), [(2, 1), (2, 3), (3, 2), (4, 3), (5, 4), (10, 12)])
def test_simplex_etf_has_unit_rows_at_the_widest_angle(K, d):
    frame = simplex_etf(K, d)
    assert frame.shape == (K, d)
    gram = np.where(np.eye(K, dtype=bool), 1.0, -1.0 / (K - 1))
    np.testing.assert_allclose(frame @ frame.T, gram, atol=1e-14)
    np.testing.assert_allclose(simplex_gram(K), gram / np.linalg.norm(gram), atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(simplex_gram(K)), 1.0, rtol=1e-14)


@pytest.mark.parametrize(("K", "d"), [(3, 1), (4, 2), (10, 8)])
def test_no_simplex_etf_below_its_dimension(K, d):
    with pytest.raises(ValueError, match=rf"^dim: .*{K - 1}, got {d}"):
        simplex_etf(K, d)
