"""What the collapse and rare-class experiments train by is the problem that their predictions speak of."""

import numpy as np
import pytest

from experiments import collapse, rare_classes
from ufm_jax.networks.data import Split


@pytest.mark.parametrize("scale", ["smoke", "default", "paper"])
def test_decays_have_the_strength_that_is_asked_for(scale):
    config = collapse.SCALES[scale]
    recipe, K, n = config.recipe, config.design.num_classes, config.source.per_class
    assert K * (n * recipe.decay_w * recipe.decay_h) ** 0.5 == pytest.approx(config.kt)
    assert recipe.decay_w / (n * recipe.decay_h) == pytest.approx(config.ratio)
    assert recipe.batch == n * K
    rare = rare_classes.SCALES[scale]
    counts = rare.counts(rare.ratios[0])
    recipe = rare.recipe(counts, "class-balanced")
    assert (recipe.decay_w * recipe.decay_h) ** 0.5 == pytest.approx(rare.strength)
    assert recipe.batch == sum(counts)
    assert np.dot(counts, recipe.class_weights) == pytest.approx(sum(counts))
    offsets = rare.recipe(counts, "logit-adjusted").offsets
    assert np.sum(np.exp(offsets)) == pytest.approx(1.0)


def test_features_of_one_sign_stay_above_the_simplex():
    least = collapse.predicted(collapse.SCALES["default"])
    assert least["wrong_probability"] == pytest.approx(0.01)
    assert least["logit_gap"] == pytest.approx(np.log(100 - 9))
    assert least["loss"] < least["relu_loss"] < np.log(10)
    assert least["relu_logit_gap"] < least["logit_gap"]


@pytest.mark.parametrize("ratio", [10, 100])
def test_rare_classes_merge_at_one_ratio_and_not_at_the_other(ratio):
    """The rare rows are one where Hong & Ling's threshold says so."""
    config = rare_classes.SCALES["default"]
    counts = config.counts(ratio)
    said = rare_classes.predicted(config, counts, "learned")
    assert said["certified"]
    assert said["merged"] == (ratio == 100)
    assert (said["cosine"] > 1 - 1e-6) == said["merged"]


def test_so_many_images_of_each_class_are_drawn():
    labels = np.repeat(np.arange(3), 5).astype(np.int32)
    split = Split(np.arange(15, dtype=np.uint8).reshape(15, 1, 1, 1), labels)
    drawn = rare_classes.drawn(split, [4, 1, 2])
    assert np.bincount(drawn.labels).tolist() == [4, 1, 2]
    assert np.array_equal(drawn.images[:, 0, 0, 0] // 5, drawn.labels)
    assert len(set(drawn.images.ravel().tolist())) == 7


def test_rows_that_are_one_have_cosine_one():
    W = np.array([[1.0, 0], [0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    assert rare_classes.least_cosine(W, [5, 5, 1, 1]) == pytest.approx(1.0)
    assert rare_classes.least_cosine(W, [1, 1, 5, 5]) == pytest.approx(0.0)
    assert rare_classes.least_cosine(W * [[1], [1], [0], [0]], [5, 5, 1, 1]) == 1.0
