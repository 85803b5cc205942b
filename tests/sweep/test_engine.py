"""Sweeps over all features and over class means tell the same story."""

import numpy as np
import pytest

from ufm_jax.sweep.engine import sweep
from ufm_jax.sweep.plan import SweepConfig


def config(space, **options):
    """A small sweep on both sides of the threshold."""
    return SweepConfig(
        counts=(2, 2, 2),
        dim=4,
        decay_w=(5e-3, 0.5),
        decay_h=(1e-3, 0.5),
        decay_b=(1e-2,),
        starts=6,
        space=space,
        **options,
    )


def test_full_space_and_class_means_agree():
    full, means = (sweep(config(space)) for space in ("full", "auto"))
    for name in ("verdict", "rank", "index", "nullity", "decay_w"):
        assert full[name].to_pylist() == means[name].to_pylist(), name
    for name in ("loss", "dual_bound", "lambda_min", "nc4"):
        np.testing.assert_allclose(full[name].to_numpy(), means[name].to_numpy(), atol=1e-9)
    assert set(full["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}


@pytest.mark.parametrize(
    ("space", "target"), [("auto", "minima"), ("full", "saddles"), ("collapsed", "both")]
)
def test_a_loss_that_is_not_convex_is_searched_over_all_features_only(space, target):
    with pytest.raises(ValueError, match=r"^loss: .*focal"):
        sweep(config(space, target=target, loss="focal"))
