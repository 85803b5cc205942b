"""A budget ends runs, not the first of them."""

import time

import pytest

from experiments.networks_common import Budget


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
