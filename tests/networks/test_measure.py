"""Streaming metrics equal a plain NumPy computation, whatever the chunk, also where Σ_B is singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from ufm_jax.models.unconstrained import passes
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.networks import measure, peeled
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.measure import Rows, streaming
from ufm_jax.networks.models import network
from ufm_jax.networks.training import on_device


def by_hand(W, b, H, labels):
    """Compute everything with dense matrices and loops. H is d x N."""
    K, N = len(W), H.shape[1]
    means = np.stack([H[:, labels == k].mean(1) for k in range(K)], 1)
    centre = H.mean(1, keepdims=True)
    within, between = H - means[:, labels], means - centre
    sigma_w, sigma_b = within @ within.T / N, between @ between.T / K
    etf = (np.eye(K) - 1 / K) / np.sqrt(K - 1)
    gram, dual = W @ W.T, W @ between
    Z = W @ H + b[:, None]
    nearest = np.array([np.argmin(((h[:, None] - means) ** 2).sum(0)) for h in H.T])
    v = np.array([(within[:, labels == k] ** 2).sum(0).mean() for k in range(K)])
    pairs = [(j, k) for j in range(K) for k in range(K) if j != k]
    return {
        "nc1": np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-10, hermitian=True)) / K,
        "nc2": np.linalg.norm(gram / np.linalg.norm(gram) - etf),
        "nc3": np.linalg.norm(dual / np.linalg.norm(dual) - etf),
        "nc4": np.linalg.norm(W @ centre[:, 0] + b),
        "cdnv": np.mean([(v[j] + v[k]) / (2 * ((means[:, j] - means[:, k]) ** 2).sum()) for j, k in pairs]),
        "ncc_mismatch": np.mean(nearest != Z.argmax(0)),
        "accuracy": np.mean(Z.argmax(0) == labels),
        "cross_entropy": np.mean(np.log(np.exp(Z).sum(0)) - Z[labels, np.arange(N)]),
        "feature_square": (H**2).sum() / N,
    }


def measured(W, b, H, labels, chunk):
    """Stream over arrays that are there."""

    def rows_of(source, which):
        W, b, H, labels = source
        features = H.T[which]
        return Rows(features, features @ W.T + b, labels[which], jnp.ones(len(which)))

    source = tuple(jnp.asarray(a) for a in (W, b, H, labels))
    return streaming(rows_of, lambda s: s[:2], chunk)(source, len(labels))


def features_of(kind, K, d, N, rng):
    """Random features around random means; the means of `kind` lie in a line or two of them are one."""
    labels = np.append(np.arange(K), rng.integers(0, K, N - K)).astype(np.int32)
    means = rng.standard_normal((d, K))
    noise = rng.standard_normal((d, N))
    if kind != "generic":  # of class means to be exact, no noise in them
        for k in range(K):
            noise[:, labels == k] -= noise[:, labels == k].mean(1, keepdims=True)
    if kind == "a line":
        means = np.outer(means[:, 0], np.arange(K))
    if kind == "two alike":
        means[:, 1] = means[:, 0] + 0.5 * means[:, 2]
        means[:, 3] = means[:, 0]
    return means[:, labels] * 3 + noise, labels


@pytest.mark.parametrize("held", [0, 2**28], ids=["made again", "kept"])
@pytest.mark.parametrize("chunk", [7, 60, 1000])
@pytest.mark.parametrize("d", [3, 4, 9])
@pytest.mark.parametrize("kind", ["generic", "a line", "two alike"])
def test_metrics_equal_a_dense_computation(kind, d, chunk, held, monkeypatch):
    monkeypatch.setattr(measure, "HELD", held)
    rng = np.random.default_rng(d)
    K, N = 5, 60
    H, labels = features_of(kind, K, d, N, rng)
    W, b = rng.standard_normal((K, d)), rng.standard_normal(K)
    expected = by_hand(W, b, H, labels)
    if kind == "two alike":  # of two classes of one mean the distance is rounding
        expected.pop("cdnv"), expected.pop("ncc_mismatch")
    found = measured(W, b, H, labels, chunk)._asdict()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


def test_all_metrics_vanish_at_collapse():
    K, d = 4, 6
    W = 2.0 * simplex_etf(K, d)
    labels = np.arange(40, dtype=np.int32) % K
    found = measured(W, np.zeros(K), 3.0 * W.T[:, labels], labels, 16)
    for name in ("nc1", "nc2", "nc3", "nc4", "cdnv", "ncc_mismatch"):
        assert abs(float(getattr(found, name))) < 1e-12, name
    assert float(found.accuracy) == 1.0


def narrow_products(f, *arguments):
    """Return the precisions of all products of float32 numbers that a function traces."""
    found, todo = [], [jax.make_jaxpr(f)(*arguments).jaxpr]
    while todo:
        for equation in todo.pop().eqns:
            todo += jaxprs_in_params(equation.params)
            is_product = equation.primitive.name in ("dot_general", "conv_general_dilated")
            if is_product and equation.outvars[0].aval.dtype == jnp.float32:
                found.append(equation.params["precision"])
    return found


@pytest.mark.parametrize("design", [Design("mlp", 10, width=6, depth=1), Design("resnet18", 10, width=2)])
def test_features_are_measured_in_float32_on_devices_that_round_by_default(design):
    """GPUs take float32 products in TensorFloat-32 unless told: metrics would be of other features."""
    images = on_device(stratified(load("digits").train, 2))
    net = network(design, images.pixels.shape[1:])
    weights = net.init(jax.random.key(0))
    measured = narrow_products(lambda *given: measure.measurer(net, 20)(*given), weights, images)
    extracted = narrow_products(peeled._evaluator(net), weights, images, images.pixels)
    assert measured
    assert extracted
    assert {*measured, *extracted} == {(jax.lax.Precision.HIGHEST,) * 2}


def test_passes_in_float32_are_of_float32_on_devices_that_round_by_default(monkeypatch):
    monkeypatch.setattr(passes, "HEAVY", 0.0)
    H, labels = np.ones((12, 5)), np.arange(12) % 3
    samples = passes.Samples(H, labels, 3, rows=True)
    layer = passes.Layer(jnp.ones((3, 5)), jnp.zeros(3))
    seen = narrow_products(
        lambda layer: passes.survey(samples, layer, jnp.ones((3, 5)), 1.0, CrossEntropy()), layer
    )
    assert len(seen) >= 5  # logits, distances, three of gradients
    assert set(seen) == {(jax.lax.Precision.HIGHEST,) * 2}
