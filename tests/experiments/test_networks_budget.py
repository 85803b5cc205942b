"""A budget ends runs, not the first of them; rates are of the step that was timed."""

import time

import numpy as np
import pytest

from experiments.networks_common import Budget, built, product_rate, rates
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.training import Recipe, on_device


def test_a_budget_lets_the_first_seed_begin_and_others_as_long_as_there_is_time(tmp_path):
    assert list(Budget(None, None).seeds(3)) == [0, 1, 2]
    assert Budget(None, None).checkpoints is None
    ample = Budget(1.0, tmp_path)
    assert list(ample.seeds(3)) == [0, 1, 2]
    assert ample.checkpoints == tmp_path
    assert ample.deadline == pytest.approx(time.monotonic() + 60, abs=5)
    spent = Budget(1e-9, None)
    time.sleep(1e-3)
    assert spent.spent
    assert list(spent.seeds(3)) == [0]
    assert spent.checkpoints is not None  # else nothing could go on
    with pytest.raises(ValueError, match=r"^budget: need a number of minutes > 0, got 0"):
        Budget(0.0, None)


def test_rates_are_of_the_operations_that_a_step_takes():
    data = load("digits")
    images = on_device(stratified(data.train, 10))
    design = Design("mlp", 10, width=32, depth=2, batch_norm=False)
    exp = built(design, Recipe(batch=50), (images, images), "digits", 50)
    found = rates(exp, 0.01)
    assert found["images_per_second"] == 5000
    # Products alone: forward, and backward with respect to weights and to all but the first layer's inputs.
    least = 2 * 50 * (2 * 64 * 32 + 3 * 32 * 32 + 3 * 32 * 10)
    assert 0.9 * least < found["operations_per_second"] * 0.01 < 2 * least
    assert found["share_of_rate"] == found["operations_per_second"] / product_rate()
    assert np.isfinite(found["share_of_rate"])
