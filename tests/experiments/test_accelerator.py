"""What differs between two devices is found and said; whatever happens, results come within the budget."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.accelerator import __main__ as accelerator
from experiments.accelerator import agreement, networks, stages
from experiments.accelerator import plan as accelerator_plan
from experiments.accelerator.__main__ import Amount, Config
from experiments.accelerator.agreement import Rows
from experiments.accelerator.plan import Plan, Stage
from experiments.accelerator.results import Results, name_of
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.runs import pipeline
from ufm_jax.runs.work import work_of

SIZES = ((4, 5, 6), (10, 20, 16))
V = Verdict
ROWS = Rows(
    np.array([0.5, 0.7, 1.3, 0.9, np.nan]),
    np.array([V.GLOBAL_MINIMUM, V.STRICT_SADDLE, V.STRICT_SADDLE, V.NOT_CRITICAL, V.NOT_CRITICAL]),
    np.array([0, 2, NOT_COUNTED, 5, NOT_COUNTED]),
)


def altered(name, row, value):
    """Return `ROWS` with one entry changed."""
    column = getattr(ROWS, name).copy()
    column[row] = value
    return ROWS._replace(**{name: column})


def differing(ours, *, points_are_the_same):
    differ = agreement.compare(ours, ROWS, points_are_the_same=points_are_the_same)
    return agreement.report(ours, ROWS, differ)


@pytest.mark.parametrize("same", [True, False])
def test_equal_rows_agree_to_the_tolerance(same):
    assert differing(ROWS, points_are_the_same=same)["differ"] == 0
    found = differing(altered("loss", 1, 0.7 + 5e-11), points_are_the_same=same)
    assert found["differ"] == 0
    assert found["largest_loss_difference_of_the_others"] == pytest.approx(5e-11, rel=1e-4)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("loss", 1, 0.7 + 1e-9),
        ("loss", 2, np.nan),
        ("verdict", 0, V.UNDECIDED),
        ("index", 1, 3),
        ("index", 2, 2),
        ("index", 0, NOT_COUNTED),
    ],
)
def test_a_row_that_differs_is_counted_and_listed_with_both_sides(name, row, value, same):
    found = differing(altered(name, row, value), points_are_the_same=same)
    assert found["differ"] == 1
    assert found["in"] == {"loss": 0, "verdict": 0, "index": 0} | {name: 1}
    assert found["at_another_critical_point"] == 1
    (listed,) = found["listed"]
    assert listed["start"] == row
    assert listed[name][0] != listed[name][1]
    json.dumps(found, allow_nan=False)


def test_where_a_search_met_no_critical_point_its_loss_counts_for_judging_alone():
    ours = altered("loss", 3, 0.8)
    assert differing(ours, points_are_the_same=False)["differ"] == 0
    assert differing(ours, points_are_the_same=True)["differ"] == 1


def test_a_search_that_met_no_critical_point_differs_from_one_that_did():
    found = differing(altered("verdict", 1, V.NOT_CRITICAL), points_are_the_same=False)
    assert (found["differ"], found["at_another_critical_point"]) == (1, 0)


def test_no_minimum_may_differ_and_saddles_as_nudged_ones_do():
    assert agreement.allowed("minima", 100) == 0
    assert agreement.allowed("saddles", 0) == 4
    assert agreement.allowed("saddles", 50) == 80


def test_checks_fail_where_rows_are_corrupt(tmp_path, monkeypatch):
    config = agreement.plan(SIZES[0], "saddles", 5)
    points = {"W": np.zeros((5, 4, 3)), "H": np.zeros((5, 3, 4)), "b": np.zeros((5, 4))}
    np.savez(tmp_path / "rows.npz", last_bit=0, **points, **ROWS._asdict())
    monkeypatch.setattr(agreement, "judged", lambda config, points: altered("index", 1, 1))
    assert not agreement.check_judged(config, tmp_path / "rows.npz")["holds"]
    one, all_ = altered("index", 1, 1), ROWS._replace(verdict=np.full(5, V.UNDECIDED))
    assert agreement.check_searched(config, tmp_path / "rows.npz", one)["holds"]
    assert not agreement.check_searched(config, tmp_path / "rows.npz", all_)["holds"]
    minima = replace(config, target="minima")
    assert not agreement.check_searched(minima, tmp_path / "rows.npz", one)["holds"]


def test_every_stage_has_its_name_and_checks_come_first(tmp_path):
    every = list(accelerator_plan.stages(SIZES))
    names = [s.name for s in every]
    assert len(set(names)) == len(names)
    for kind in ("searched", "judged", "rate", "spectra", "batches"):
        assert {(s.sizes, s.target) for s in every if s.kind == kind} == {
            (sizes, target) for sizes in SIZES for target in agreement.TARGETS
        }
    assert [s.kind for s in every[:3]] == ["device", "searched", "judged"]
    plan = Plan(tuple(every), 1.0, "folder", 2, (3, 4), 5, 6, 7)
    (tmp_path / "plan.json").write_text(plan.text())
    assert Plan.read(tmp_path / "plan.json") == plan


def test_a_batch_of_another_size_is_one_call_of_the_pipeline():
    prob = work_of(agreement.plan(SIZES[0], "minima", 1)).landscape
    before = pipeline.lanes_of_call(prob, "minima"), pipeline.BATCH
    with stages.call_of(96):
        assert pipeline.lanes_of_call(prob, "minima") == 96 * jax.local_device_count()
        assert pipeline.BATCH == 96
    assert (pipeline.lanes_of_call(prob, "minima"), pipeline.BATCH) == before


def words(capsys):
    """Return (word, stage) of each line that was said."""
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(s["word"], s.get("stage")) for s in said]


@pytest.fixture
def plan(tmp_path):
    each = (Stage("judged", SIZES[0]), Stage("rate", SIZES[0]), Stage("rate", SIZES[1]))
    return Plan(each, time.time() + 1000, str(tmp_path), 2, (3,), 4, 5, 6)


def test_without_the_cpus_rows_a_check_fails_and_the_rest_goes_on(plan, tmp_path, capsys, monkeypatch):
    (tmp_path / "ended").touch()
    monkeypatch.setitem(stages.DOING, "rate", lambda stage, plan: iter([{}]))
    stages.do(plan)
    a, b, c = (s.name for s in plan.stages)
    said = [("begun", a), ("failed", a)]
    assert words(capsys) == [*said, *((w, s) for s in (b, c) for w in ("begun", "found", "done"))]


def test_a_stage_that_raises_is_said_to_have_failed_and_ends_the_process(plan, capsys, monkeypatch):
    monkeypatch.setitem(stages.DOING, "judged", lambda stage, plan: iter(range(1 // 0)))
    with pytest.raises(ZeroDivisionError):
        stages.do(plan)
    name = plan.stages[0].name
    assert words(capsys) == [("begun", name), ("failed", name)]


def test_a_stage_is_left_out_where_the_last_like_it_took_more_than_the_time_left(plan, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stages.time, "time", lambda: now[0])

    def slow(stage, plan):
        now[0] += 600.0
        yield {}

    monkeypatch.setitem(stages.DOING, "rate", slow)
    stages.do(replace(plan, stages=plan.stages[1:], deadline=1000.0))
    assert words(capsys)[-1] == ("skipped", plan.stages[2].name)


def batches(monkeypatch, plan, rates):
    """Do a stage of growing batches whose rates are given; an exception among them is raised."""
    told = iter(rates)

    def measured(stage, lanes, starts, spectra, *, own):
        rate = next(told)
        if isinstance(rate, Exception):
            raise rate
        return {"first_s": 3.0, "warm_s": 1.0, "lanes": lanes, "starts_per_s": rate}

    monkeypatch.setattr(stages, "measured", measured)
    stages.do(replace(plan, stages=(Stage("batches", SIZES[0]),), batches=(1, 2, 4, 8)))


def test_batches_grow_until_the_rate_does_not(plan, tmp_path, capsys, monkeypatch):
    (tmp_path / "done").touch()
    batches(monkeypatch, plan, [10.0, 20.0, 21.0])
    assert [word for word, _ in words(capsys)] == ["begun", *["found"] * 3, "done"]


def test_a_batch_that_does_not_fit_is_a_result_and_another_error_a_failure(
    plan, tmp_path, capsys, monkeypatch
):
    (tmp_path / "done").touch()
    batches(monkeypatch, plan, [10.0, jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
    said = words(capsys)
    assert [word for word, _ in said] == ["begun", "found", "too_large", "done"]
    assert said[2][1] == "batches K=4 minima, 2 lanes"
    with pytest.raises(jax.errors.JaxRuntimeError):
        batches(monkeypatch, plan, [10.0, jax.errors.JaxRuntimeError("INTERNAL: invalid value")])
    assert [word for word, _ in words(capsys)] == ["begun", "found", "failed"]


def test_a_batch_that_may_take_longer_than_is_left_is_not_begun(plan, tmp_path, capsys, monkeypatch):
    (tmp_path / "done").touch()
    batches(monkeypatch, replace(plan, deadline=time.time() + 4.0), [10.0])
    assert [word for word, _ in words(capsys)] == ["begun", "found", "skipped", "done"]


def script(text):
    return [sys.executable, "-c", f"import json, os, sys, time\n{text}"]


SPEAKS = "print('noise'); print(json.dumps({'word': 'begun'}), flush=True)"


def test_a_silent_process_is_killed_and_one_that_crashes_is_said_to_have():
    began = time.time()
    hangs = list(accelerator.heard(script(f"{SPEAKS}\ntime.sleep(600)"), {}, began + 1000, 3.0))
    assert [s["word"] for s in hangs] == ["begun", "ended"]
    assert "nothing for 3 s" in hangs[1]["how"]
    crashes = list(accelerator.heard(script(f"{SPEAKS}\nos.abort()"), {}, began + 1000, 500.0))
    assert [s["word"] for s in crashes] == ["begun", "ended"]
    assert crashes[1]["how"].endswith("status -6")
    assert time.time() - began < 300


def test_what_a_crash_left_undone_is_given_to_another_process(monkeypatch):
    plans = []

    def heard(command, env, deadline, patience):
        with open(command[-1]) as file:
            plans.append(
                [Stage(s["kind"], tuple(s["sizes"]), s["target"]).name for s in json.load(file)["stages"]]
            )
        yield {"word": "started", "made_by": {"device": "Some Device 9"}, "devices": 1}
        for name in plans[-1]:
            yield {"word": "begun", "stage": name, "at": 1.0}
            if name == "judged K=4 minima" and len(plans) == 1:
                yield {"word": "ended", "how": "its process ended with status -11"}
                return
            yield {"word": "done", "stage": name, "at": 3.0}

    monkeypatch.setattr(accelerator, "heard", heard)
    monkeypatch.setattr(accelerator, "_reference", lambda *args: lambda: None)
    results = accelerator.run(Config("smoke", 1000.0), Amount(SIZES[:1]))
    crashed = plans[0].index("judged K=4 minima")
    assert plans[1] == plans[0][crashed + 1 :]
    assert results.stages["judged K=4 minima"] == {"error": "its process ended with status -11"}
    assert results.ended == "all stages done"
    assert not results.good
    assert name_of(results) == "accelerator_some_device_9"


def test_a_device_that_no_process_gets_is_not_asked_for_for_ever(monkeypatch):
    monkeypatch.setattr(
        accelerator,
        "heard",
        lambda *args: iter([{"word": "ended", "how": "its process ended with status 1"}]),
    )
    monkeypatch.setattr(accelerator, "_reference", lambda *args: lambda: None)
    results = accelerator.run(Config("smoke", 1000.0), Amount(SIZES[:1]))
    assert all("status 1" in s["error"] for s in results.stages.values())
    assert not results.good


@pytest.mark.parametrize("budget", [0.0, -5.0, np.nan, np.inf])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(ValueError, match=r"^budget: need a number of seconds > 0, got"):
        Config("smoke", budget)


def test_with_no_time_it_ends_at_once_and_says_what_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    began = time.time()
    with pytest.raises(SystemExit) as ended:
        accelerator.main(Config("smoke", 1.0))
    assert ended.value.code == 0
    assert time.time() - began < 120
    (file,) = (tmp_path / "runs/smoke").glob("*.json")
    held = json.loads(file.read_text())
    assert held["ended"].startswith("stopped at the budget without device, searched K=4 minima")
    assert set(held["stages"]) == {s.name for s in accelerator_plan.stages(SIZES[:1])}
    assert (file.with_suffix(".png")).stat().st_size > 0


def test_networks_share_what_is_left_and_whatever_becomes_of_one_the_next_begins(monkeypatch, capsys):
    asked = []

    def run(command, timeout, check):
        asked.append((command[1:], timeout))
        if len(asked) == 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(networks.subprocess, "run", run)
    ended = networks.train(1000.0, update=True, data_dir=Path("images"))
    assert ended["fixed_etf"].startswith("stopped after 700 s")
    assert ended["nc_training"] == "ended with status 1"
    (first, mine), (second, rest) = asked
    paper = ["--scale", "paper", "--budget"]
    assert first == ["-m", "experiments.fixed_etf", *paper, "9.33", "--update", "--data-dir", "images"]
    assert second[:5] == ["-m", "experiments.nc_training", *paper]
    assert second[6:] == ["--only", "sgd", "--update", "--data-dir", "images"]
    assert mine == pytest.approx(700, abs=5)
    assert rest == pytest.approx(1000, abs=5)  # the first took none of it
    assert networks.train(networks.LEAST - 1, update=False) == {"fixed_etf": None, "nc_training": None}
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("device", "scale", "begun"), [("cpu", "default", 0), ("GPU 9", "default", 1), ("GPU 9", "smoke", 0)]
)
def test_networks_are_trained_on_accelerators_alone(monkeypatch, tmp_path, device, scale, begun):
    monkeypatch.chdir(tmp_path)
    told = []
    results = Results({"device": device, "versions": {}}, 1)
    monkeypatch.setattr(accelerator, "run", lambda *args: results)
    monkeypatch.setattr(accelerator, "plot", lambda *args: plt.figure())
    monkeypatch.setattr(networks, "train", lambda *args, **more: told.append(args) or {"fixed_etf": "done"})
    with pytest.raises(SystemExit):
        accelerator.main(Config(scale, 100.0))
    assert len(told) == begun
    (file,) = tmp_path.glob("runs/*/*.json")
    assert ("networks" in json.loads(file.read_text())) == bool(begun)
