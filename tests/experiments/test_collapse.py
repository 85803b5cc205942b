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
@pytest.mark.parametrize("classifier", ["learned", "class-balanced", "logit-adjusted"])
def test_rare_classes_merge_where_the_threshold_says_so(classifier, ratio):
    """Hong & Ling's, over the weight of a rare sample, whatever the offsets."""
    config = rare_classes.SCALES["default"]
    counts = config.counts(ratio)
    said = rare_classes.predicted(config, counts, classifier)
    assert said["certified"]
    assert said["merged"] == (ratio == 100 and classifier != "class-balanced")
    assert (said["apart"] < 1e-5) == said["merged"]  # of a descent that closes the gap to 1e-8


def test_rows_that_logit_adjustment_leaves_at_zero_have_no_angle():
    config = rare_classes.SCALES["default"]
    said = rare_classes.predicted(config, config.counts(100), "logit-adjusted")
    assert said["length"] < rare_classes.VANISHED
    assert said["cosine"] is None
    assert rare_classes.predicted(config, config.counts(100), "learned")["length"] > 0.1


def test_so_many_images_of_each_class_are_drawn():
    labels = np.repeat(np.arange(3), 5).astype(np.int32)
    split = Split(np.arange(15, dtype=np.uint8).reshape(15, 1, 1, 1), labels)
    drawn = rare_classes.drawn(split, [4, 1, 2])
    assert np.bincount(drawn.labels).tolist() == [4, 1, 2]
    assert np.array_equal(drawn.images[:, 0, 0, 0] // 5, drawn.labels)
    assert len(set(drawn.images.ravel().tolist())) == 7


def test_rare_rows_are_measured_by_the_frequent_ones():
    W = np.array([[1.0, 0], [0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    here = rare_classes.rare_rows(W, [5, 5, 1, 1])
    assert here["cosine"] == pytest.approx(1.0)
    assert here["length"] == pytest.approx(1.5 * 2**0.5)
    assert here["apart"] == pytest.approx(2**0.5)
    assert rare_classes.rare_rows(3 * W, [5, 5, 1, 1]) == pytest.approx(here)  # no unit
    assert rare_classes.rare_rows(W, [1, 1, 5, 5])["cosine"] == pytest.approx(0.0)
    gone = rare_classes.rare_rows(W * [[1], [1], [0], [0]], [5, 5, 1, 1])
    assert gone == {"cosine": None, "length": 0.0, "apart": 0.0}
    etf = rare_classes.predicted(rare_classes.SCALES["default"], [5] * 5 + [1] * 5, "fixed ETF")
    assert etf["cosine"] == pytest.approx(-1 / 9)
    assert etf["length"] == pytest.approx(1.0)
    assert etf["apart"] == pytest.approx((20 / 9) ** 0.5)
