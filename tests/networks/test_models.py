"""Counts are the paper's, frozen arrays stay, features have the dimension asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.networks.design import Design, fixed_etf, orthogonal_simplices
from ufm_jax.networks.models import last_layer, network, num_parameters


@pytest.mark.parametrize(
    ("design", "count"),
    [
        # Zhu et al. 2021, sec. 4.3: 20.70% fewer with d = K. The stem is the 7 x 7 one, the bias learned.
        (Design("resnet18", 10, stem="imagenet"), 11_181_642),
        (Design("resnet18", 10, dim=10, stem="imagenet"), 8_867_542),
        (Design("resnet18", 10), 11_173_962),  # stem 3 x 3 on three channels
        (Design("resnet18", 10, dim=10), 8_859_862),
        (Design("resnet18", 1000, stem="imagenet"), 11_689_512),  # He et al. 2016, as widely implemented
        # 25,557,032 with a learned classifier: −8.01%.
        (Design("resnet50", 1000, stem="imagenet", etf=True), 25_557_032 - 2048 * 1000),
        (Design("resnet50", 10, dim=10, stem="imagenet"), 22_481_110),
        (Design("resnet18", 10, dim=10, etf=True, bias=False), 8_859_862 - 110),
    ],
)
def test_parameter_counts_are_exact(design, count):
    assert num_parameters(design) == count


@pytest.mark.parametrize(("K", "d"), [(4, 3), (4, 4), (4, 9), (2, 1)])
@pytest.mark.parametrize("rotation", [None, 5])
def test_fixed_classifiers_are_simplex_etfs(K, d, rotation):
    W = fixed_etf(K, d, rotation)
    np.testing.assert_allclose(W @ W.T, K / (K - 1) * (np.eye(K) - 1 / K), atol=1e-13)


@pytest.mark.parametrize(("K", "d"), [(4, 2), (10, 5), (10, 8), (7, 4), (5, 3)])
def test_frozen_simplices_are_an_optimal_code_that_a_bias_lets_positive_features_reach(K, d):
    """Rankin 1955: no K ≥ d + 2 unit vectors have a greatest inner product below 0."""
    W = orthogonal_simplices(K, d)
    gram = W @ W.T
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=1e-13)
    assert np.max(gram - 2 * np.eye(K)) == pytest.approx(0.0, abs=1e-13)
    assert np.linalg.matrix_rank(W) == d
    np.testing.assert_allclose(W.sum(0), 0.0, atol=1e-13)
    centre = np.ones(d)
    features = centre + 0.9 * W  # each class along its own row
    assert np.all(features > 0)
    logits = features @ W.T - W @ centre
    np.testing.assert_array_equal(np.argmax(logits, axis=1), np.arange(K))
    if 2 * d == K:
        np.testing.assert_allclose(np.sort(W, axis=0)[[0, -1]], [[-1.0] * d, [1.0] * d], atol=1e-13)
        assert np.count_nonzero(np.abs(W) > 1e-12) == K


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vgg"}, "architecture: need one of"),
        ({"num_classes": 1}, "num_classes: need a whole number >= 2"),
        ({"dim": 8, "etf": True}, "dim: an ETF of 10 classes needs >= 9, got 8"),
        ({"dim": 4, "simplices": True}, "dim: orthogonal simplices of 10 classes need 5 <= dim < 9, got 4"),
        ({"dim": 9, "simplices": True}, "dim: orthogonal simplices of 10 classes need 5 <= dim < 9, got 9"),
        ({"simplices": True}, "dim: orthogonal simplices of 10 classes need 5 <= dim < 9, got 512"),
        ({"width": 0}, "width: need a whole number >= 1, got 0"),
        ({"dim": 0}, "dim: need a whole number >= 1, got 0"),
        ({"stem": "big"}, "stem: need"),
        ({"rectified": False}, "rectified: features of a resnet18 are always"),
    ],
)
def test_impossible_designs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Design(**({"architecture": "resnet18", "num_classes": 10} | changes))


DESIGNS = [
    Design("resnet18", 3, width=2),
    Design("mlp", 3, width=7, depth=2, dim=5, bias=False),
    Design("mlp", 3, width=7, depth=2, etf=True, rotation=1, batch_norm=False),
    Design("mlp", 3, width=6, depth=2, rectified=False),
    Design("mlp", 4, width=6, depth=2, dim=2, simplices=True, rotation=2),
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: f"{d.architecture}-{d.feature_dim}")
def test_logits_are_affine_in_features_of_the_asked_dimension(design):
    net = network(design, (8, 8, 1))
    weights = jax.jit(net.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float32)
    features, logits, stats = jax.jit(net.apply, static_argnums=2)(weights, images, True)
    W, b = last_layer(weights)
    assert features.shape == (4, design.feature_dim)
    np.testing.assert_allclose(logits, features @ W.T + (0 if b is None else b), rtol=1e-5, atol=1e-5)
    assert (b is not None) == design.bias
    assert bool(jnp.any(features < 0)) != design.rectified
    assert {a.dtype for a in jax.tree.leaves((weights, features, logits))} == {jnp.dtype("float32")}
    assert bool(jax.tree.leaves(weights.frozen)) == (design.etf or design.simplices)
    if design.frozen is not None:
        np.testing.assert_allclose(W, design.frozen, atol=1e-7)
    moved = [
        bool(jnp.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (stats, weights.stats)), strict=True)
    ]
    assert all(moved)
    assert bool(moved) == design.batch_norm or design.architecture != "mlp"


def test_evaluation_uses_running_statistics():
    net = network(Design("mlp", 3, width=4, depth=1), (2, 2, 1))
    weights = net.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, 2, 2, 1), jnp.float32)
    together, _, stats = net.apply(weights, images, False)
    alone = jnp.concatenate([net.apply(weights, image[None], False)[0] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert all(
        bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (stats, weights.stats)), strict=True)
    )


@pytest.mark.parametrize(
    ("architecture", "stem", "dim"),
    [("resnet18", "imagenet", None), ("resnet18", "cifar", 5), ("resnet50", "imagenet", 5)],
)
def test_resnets_have_the_asked_shapes(architecture, stem, dim):
    design = Design(architecture, 5, dim=dim, etf=True, width=4, stem=stem)
    net = network(design, 3)
    weights = jax.eval_shape(net.init, jax.eval_shape(lambda: jax.random.key(0)))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    features, logits, _ = jax.eval_shape(lambda w, x: net.apply(w, x, True), weights, images)
    natural = {"resnet18": 32, "resnet50": 128}[architecture]
    assert (features.shape, logits.shape) == ((2, dim or natural), (2, 5))
