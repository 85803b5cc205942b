"""Unequal counts for four losses: the experiment's landscape against the package's, and its figure."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import ufm_jax as ufm
from experiments import imbalance

matplotlib.use("Agg")
CONFIG = replace(imbalance.SCALES["smoke"], num_classes=4, minority=2.0)
COUNTS = (8, 8, 2, 2)
OTHERS = {
    "cross-entropy": ufm.CrossEntropy(),
    "class-balanced": ufm.class_balanced(COUNTS),
    "logit-adjusted": ufm.logit_adjusted(COUNTS),
    "vector-scaling": ufm.vector_scaling(COUNTS),
}


def at_ratio(name, ratio):
    return replace(imbalance.landscape_of(CONFIG, name), ratio=jnp.asarray(ratio))


@pytest.mark.parametrize("name", imbalance.LOSSES)
def test_the_landscape_is_the_problem_at_class_means(name):
    decays = {"decay_w": CONFIG.decay, "decay_h": CONFIG.decay, "decay_b": CONFIG.decay_b}
    prob = ufm.problem(counts=COUNTS, dim=3, **decays, loss=OTHERS[name])
    landscape = at_ratio(name, 4.0)
    x = landscape.start(jax.random.key(3))
    full = ufm.Params(x.W, jnp.repeat(x.H, np.array(COUNTS), axis=1), x.b)
    np.testing.assert_allclose(landscape.value(x), prob.value(full), rtol=1e-13)
    # Both bound f* from below, wherever they are taken.
    assert landscape.lower_bound(x) <= landscape.value(x)


@pytest.mark.parametrize("ratio", [2.0, 4.0, 9.0])
def test_the_threshold_of_cross_entropy_is_that_of_minority_collapse(ratio):
    limits = np.asarray(at_ratio("cross-entropy", ratio).thresholds)[[0, -1]]
    counts = [int(CONFIG.minority * ratio)] * 2 + [int(CONFIG.minority)] * 2
    for s in np.concatenate([0.999 * limits, 1.001 * limits]):
        merged = ufm.merged_groups(counts, float(s))
        assert merged == sorted({n for n, at in zip(counts[::2], limits, strict=True) if s >= at})


@pytest.mark.slow
def test_classes_merge_at_the_threshold_of_a_weighted_loss_and_ends_are_certified():
    landscape = at_ratio("class-balanced", 4.0)
    at = float(landscape.thresholds[-1])
    told = imbalance.minima(ufm.grid(landscape, decay=[0.99 * at, 1.01 * at]), CONFIG)
    apart, together = told["merged"]
    assert apart > 1e-2
    assert together < 1e-7
    assert told["certified"] == told["descents"] == 4


def test_a_page_shows_every_loss():
    rng = np.random.default_rng(0)
    groups = [f"{kind}_{m}_{g}" for kind in ("cos", "len") for m in "wh" for g in ("large", "small", "mixed")]
    keys = ["ratio", "decay", *groups, "far_w", "far_h", "far_wh"]
    part = {key: rng.uniform(0.1, 1.0, 3).tolist() for key in keys} | {"cos_w_small": [0.1, None, 0.2]}
    one = {"by_ratio": part, "by_decay": part, "merge_at": {"large": None, "small": 3.0}}
    figure = imbalance.plot(dict.fromkeys(imbalance.LOSSES, one), CONFIG)
    assert [len(axis.lines) for axis in figure.axes] == [8, 5, 9, 8, 4, 4]
    plt.close(figure)
