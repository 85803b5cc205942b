"""A budget is shared by all runs, what it cut off is compared as far as all came, flags reach every run."""

import csv
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import (
    feature_decay,
    fixed_etf,
    nc_training,
    networks_cost,
    networks_runs,
    precision,
    random_labels,
)
from experiments.networks_common import built
from experiments.networks_runs import Budget, Training, comparable, runs_of, trained_said
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.training import Recipe, on_device

BODY = Design("mlp", 10, width=12, depth=1, batch_norm=False)


@pytest.fixture(scope="module")
def experiments():
    """Two designs on a few digits, for three epochs."""
    images = on_device(stratified(load("digits").train, 10))
    recipe = Recipe(epochs=3, batch=50)
    return {f"d = {d}": built(replace(BODY, dim=d), recipe, (images, images), "digits", 100) for d in (12, 5)}


def test_a_budget_is_minutes_and_is_shared_evenly(tmp_path):
    assert Budget().share(3) is None
    assert Budget().left == np.inf
    assert Budget().checkpoints is None
    ample = Budget(1.0, tmp_path)
    assert ample.checkpoints == tmp_path
    assert ample.deadline == pytest.approx(time.monotonic() + 60, abs=5)
    assert ample.share(4) - time.monotonic() == pytest.approx(15, abs=2)
    spent = Budget(1e-9)
    time.sleep(1e-3)
    assert spent.left < 0
    assert spent.share(4) == pytest.approx(time.monotonic(), abs=1)
    assert spent.checkpoints is not None  # else nothing could go on
    for minutes in (0.0, np.inf, np.nan, -1.0):
        with pytest.raises(ValueError, match=r"^budget: need a number of minutes > 0, got"):
            Budget(minutes)


def test_a_spent_budget_does_an_epoch_of_each_run_of_the_first_seed_and_goes_on_next_time(
    experiments, tmp_path
):
    spent = Budget(1e-9, tmp_path)
    time.sleep(1e-3)
    short = runs_of(experiments, 2, spent)
    assert {name: [len(rows) for rows in runs] for name, runs in short.items()} == {key: [1] for key in short}
    assert trained_said(short, experiments) == "one seed, 1 of 3 epochs"
    on = runs_of(experiments, 2, Budget(None, tmp_path))
    whole = runs_of(experiments, 2, Budget())
    assert trained_said(on, experiments) == "2 seeds"
    said = lambda runs: [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in runs]
    for name, runs in whole.items():
        np.testing.assert_equal(said(on[name]), said(runs))  # the same bits; NaN where NaN was


@pytest.mark.parametrize(
    ("until", "need", "files"),
    [
        (-1.0, 0.0, 2),  # a seed was cut off: time that is left is not for another
        (100.0, 1e6, 2),  # an epoch of each run of another would end too late
        (100.0, 0.0, 4),
    ],
)
def test_a_seed_begins_where_all_of_the_one_before_ended_and_there_is_time(
    experiments, tmp_path, monkeypatch, until, need, files
):
    """Each run of a seed does an epoch at least, so one begun too late is that much over the budget."""
    budget = Budget(60.0, tmp_path)
    budget.need = need
    monkeypatch.setattr(budget, "share", lambda number: time.monotonic() + until)
    found = runs_of(experiments, 2, budget)
    assert len(list(tmp_path.iterdir())) == files
    assert {len(runs) for runs in found.values()} == {files // 2}


def test_a_budget_that_no_epoch_fits_into_is_refused_before_anything_is_trained(experiments, tmp_path):
    Budget().afford(experiments)
    ample = Budget(60.0, tmp_path)
    ample.afford(experiments)
    assert 0 < ample.need < 60.0
    with pytest.raises(
        ValueError, match=r"^budget: an epoch of the first 1 of 2 runs takes about \S+ minutes"
    ):
        Budget(1e-6, tmp_path).afford(experiments)


@pytest.mark.parametrize(
    ("minutes", "tried", "said"),
    [
        (5.0, 1, "the first 1 of 3 runs"),
        (15.0, 2, "the first 2 of 3"),
        (25.0, 3, "each of 3"),
        (35.0, 3, None),
    ],
)
def test_no_more_runs_are_compiled_than_it_takes_to_refuse(minutes, tried, said, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(networks_runs, "epoch_seconds", lambda exp: seen.append(exp) or 600.0)
    afford = partial(Budget(minutes, tmp_path).afford, {name: name for name in "abc"})
    if said is None:
        afford()
    else:
        with pytest.raises(ValueError, match=f"^budget: an epoch of {said}"):
            afford()
    assert len(seen) == tried


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_trained(experiments, tmp_path):
    (tmp_path / "file").touch()
    for minutes in (None, 60.0):
        with pytest.raises(ValueError, match=r"^checkpoints: cannot make the folder \S+file"):
            Budget(minutes, tmp_path / "file" / "under").afford(experiments)


def test_groups_of_runs_share_a_budget_too(tmp_path):
    assert Budget().part(2).left == np.inf
    whole = Budget(1.0, tmp_path)
    assert whole.part(2).left == pytest.approx(30, abs=2)
    assert whole.part(1).left == pytest.approx(60, abs=2)
    assert whole.part(2).checkpoints == tmp_path


def test_every_body_has_its_share_and_titles_say_the_epochs_that_were_done(tmp_path, monkeypatch):
    """Two bodies with a budget that is spent: neither starves the other, none claims the recipe's epochs."""
    monkeypatch.chdir(tmp_path)
    drawn, smoke = {}, random_labels.SCALES["smoke"]
    body = smoke.bodies[0]
    both = replace(smoke, bodies=(body, replace(body, depth=1)), widths=(8,))
    monkeypatch.setitem(random_labels.SCALES, "smoke", both)
    monkeypatch.setattr(Budget, "afford", lambda self, experiments: time.sleep(np.clip(self.left, 0.0, 1.0)))
    keep = lambda draw, name, scale, **facts: drawn.update({name: draw.args[3]})
    monkeypatch.setattr(random_labels, "save", keep)
    random_labels.main("smoke", Training(budget=2e-3))
    assert drawn.keys() == {"random_labels", "random_labels_mlp"}
    for name, title in drawn.items():
        assert "after 1 epoch:" in title
        assert "one seed, 1 of 3 epochs" in title
        with Path(f"runs/smoke/{name}.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "1"]
    random_labels.main("smoke", Training(checkpoints=Path("runs/checkpoints")))
    assert all("after 3 epochs:" in title and title.endswith("one seed") for title in drawn.values())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (partial(nc_training.main, "smoke", only=("sgd", "adma")), "only: need some of .*, got adma"),
        (partial(nc_training.main, "smoke", only=("adma",)), "only: need some of .*, got adma"),
        *(
            (
                partial(precision.main, "smoke", Training(precision=name)),
                f"precision: need bfloat16 .*'{name}'",
            )
            for name in ("float32", "tensorfloat32", "half")
        ),
    ],
)
def test_what_would_be_left_out_in_silence_is_refused(command, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        command()


def test_steps_are_timed_within_the_time_that_is_given(experiments, monkeypatch):
    """Three rounds of turns, each of as many steps as fit, and one at least."""
    taken = []

    class Slow:
        def __init__(self, exp):
            self.exp = exp

        def step_seconds(self, steps):
            taken.append(steps)
            return 1.0

    monkeypatch.setattr(networks_cost, "Clock", Slow)
    monkeypatch.setattr(networks_cost, "steps_of", lambda exp: 100)
    assert networks_cost.step_times(experiments, 0.0) == dict.fromkeys(experiments, 1.0)
    assert taken == [2, 2] + 6 * [1]
    taken.clear()
    clock = iter(range(1000))
    monkeypatch.setattr(networks_cost.time, "perf_counter", lambda: float(next(clock)) * 60.0)
    networks_cost.step_times(experiments, 60.0)
    assert taken == [2, 2] + 6 * [10]
    assert networks_cost.epoch_seconds(experiments["d = 5"]) == pytest.approx(100 * 4 / 3)


def test_an_epoch_may_end_after_some_steps(experiments):
    exp = experiments["d = 5"]
    assert networks_cost.steps_of(exp) == 2
    key = jax.random.key(0)
    short, _ = exp.trainer.epoch(exp.trainer.init(0), exp.train, key, 1)
    whole, _ = exp.trainer.epoch(exp.trainer.init(0), exp.train, key)
    counts = [int(state.optimiser[1].count) for state in (short, whole)]
    assert counts == [1, 2]


def test_another_recipe_begins_anew_beside_what_is_there(experiments, tmp_path):
    one = {"d": experiments["d = 5"]}
    short = one["d"]._replace(recipe=replace(one["d"].recipe, epochs=2))
    for exp, epochs, files in ((one["d"], 3, 1), (short, 2, 2), (one["d"], 3, 2)):
        found = runs_of({"d": exp}, 1, Budget(None, tmp_path))
        assert len(found["d"][0]) == epochs
        assert len(list(tmp_path.iterdir())) == files


@pytest.mark.parametrize(
    ("lengths", "left"),
    [
        ({"a": [3, 3], "b": [5, 5]}, {"a": [3, 3], "b": [5, 5]}),  # every run ended
        ({"a": [3, 3], "b": [5, 4]}, {"a": [3], "b": [5]}),  # a seed that not all ended counts for none
        ({"a": [3, 2, 3], "b": [5, 5, 5]}, {"a": [3], "b": [5]}),  # nor does one after it
        ({"a": [3], "b": [2]}, {"a": [2], "b": [2]}),  # as far as all came
        ({"a": [1, 3], "b": [4, 5]}, {"a": [1], "b": [1]}),
    ],
)
def test_what_was_cut_off_is_compared_as_far_as_all_came(lengths, left):
    histories = {name: [list(range(n)) for n in each] for name, each in lengths.items()}
    found = comparable(histories, {"a": 3, "b": 5})
    assert {name: [len(rows) for rows in runs] for name, runs in found.items()} == left


@pytest.mark.parametrize(
    "config",
    [
        fixed_etf.SCALES["default"],
        nc_training.SCALES["paper"],
        random_labels.SCALES["paper"],
        feature_decay.SCALES["default"],
        precision.config_of("paper"),
    ],
    ids=["fixed_etf", "nc_training", "random_labels", "feature_decay", "precision"],
)
def test_flags_reach_every_recipe_and_none_leaves_what_the_scale_says(config):
    assert Training().applied_to(config) == config
    flags = Training(epochs=10, seeds=2, precision="bfloat16")
    changed = flags.applied_to(config)
    assert changed.seeds == 2
    recipes = lambda c: c.recipes if hasattr(c, "recipes") else (c.recipe,)
    for before, after in zip(recipes(config), recipes(changed), strict=True):
        drop_every = round(before.drop_every * 10 / before.epochs)  # the rate falls at the same shares
        expected = replace(before, epochs=10, drop_every=drop_every, precision="bfloat16")
        assert after == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Training(epochs=0), "epochs: need"),
        (Training(seeds=0), "seeds: need"),
        (Training(precision="half"), "precision: need bfloat16, tensorfloat32, float32 or None, got 'half'"),
    ],
)
def test_flags_that_no_training_can_have_are_refused(flags, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        flags.applied_to(fixed_etf.SCALES["smoke"])


def test_precisions_are_compared_seed_by_seed():
    row = {"train_accuracy": 1.0, "test_accuracy": 0.5} | dict.fromkeys(precision.RATIOS, 1.0)
    runs = {
        "float32": [[row], [row | {"nc1": 4.0}]],
        "bfloat16": [[row | {"nc1": 2.0}], [row | {"nc1": 2.0, "test_accuracy": 0.75}]],
    }
    rows = precision.compared(runs)
    assert rows["float32"]["nc1_ratio"] == {"mean": 1.0, "sd": 0.0}
    assert rows["float32"]["nc1_log_sd_of_seeds"] == pytest.approx(np.log(4) / 2**0.5)
    assert rows["bfloat16"]["nc1_ratio"] == pytest.approx({"mean": 1.0, "sd": np.log(4) / 2**0.5})
    assert rows["bfloat16"]["test_accuracy_change"]["mean"] == 0.125
