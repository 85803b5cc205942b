"""The command line: keys and files that people script against, and bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import difference

from ufm_jax.cli import main
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.runs.store import load

SHAPE = "--num-classes 3 --per-class 5 --dim 2 --decay-w 5e-3 --decay-h 1e-3 --decay-b 1e-2"


@pytest.fixture
def minimum(tmp_path):
    prob = problem(num_classes=3, per_class=5, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    p = etf_minimiser(prob)
    return {"W": np.array(p.W), "H": np.array(p.H), "b": np.array(p.b), "labels": prob.labels}


def certify(tmp_path, arrays, *flags):
    np.savez(tmp_path / "p.npz", **arrays)
    main(
        [
            "certify",
            str(tmp_path / "p.npz"),
            "--decay-w",
            "5e-3",
            "--decay-h",
            "1e-3",
            "--decay-b",
            "1e-2",
            *flags,
        ]
    )


def test_certify_prints_one_object_with_the_fixed_keys(tmp_path, minimum, capsys):
    certify(tmp_path, minimum, "--json")
    result = json.loads(capsys.readouterr().out)
    fixed = (
        "loss grad_norm verdict rank index nullity lambda_min dual_bound dual_gap negative_curvature nc1 nc4"
    )
    assert set(fixed.split()) <= set(result)
    assert (result["verdict"], result["rank"], result["index"], result["nullity"]) == (
        "GLOBAL_MINIMUM",
        2,
        0,
        1,
    )


def test_certify_takes_samples_in_any_order(tmp_path, minimum, capsys):
    order = np.random.default_rng(0).permutation(15)
    certify(tmp_path, minimum | {"H": minimum["H"][:, order], "labels": minimum["labels"][order]}, "--json")
    assert json.loads(capsys.readouterr().out)["verdict"] == "GLOBAL_MINIMUM"


def test_a_point_off_the_minimum_is_not_critical(tmp_path, minimum, capsys):
    certify(tmp_path, minimum | {"W": 1.001 * minimum["W"]}, "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "NOT_CRITICAL"
    assert result["index"] is None
    assert result["dual_bound"] <= 0.06293300616044681


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"W": np.full((3, 2), np.nan)}, "W"),
        ({"H": np.zeros((3, 15))}, "H"),
        ({"b": np.zeros(4)}, "b"),
        ({"labels": np.arange(15) % 4}, "labels"),
        ({"labels": np.zeros(15)}, "labels"),
        ({"W": np.zeros(6)}, "W"),
    ],
)
def test_bad_points_are_refused_by_name(tmp_path, minimum, change, named, capsys):
    with pytest.raises(SystemExit) as stop:
        certify(tmp_path, minimum | change)
    assert stop.value.code == 2
    assert f"error: {named}: " in capsys.readouterr().err


def test_an_incomplete_or_unreadable_file_is_refused(tmp_path, minimum, capsys):
    del minimum["labels"]
    (tmp_path / "no.npz").write_bytes(b"not an archive")
    for call in (
        lambda: certify(tmp_path, minimum),
        lambda: main(["certify", str(tmp_path / "no.npz"), "--decay-w", "1", "--decay-h", "1"]),
    ):
        with pytest.raises(SystemExit) as stop:
            call()
        assert stop.value.code == 2
        assert "error: file: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--num-classes 1 --per-class 5 --dim 2 --decay-w 1 --decay-h 1", "num_classes"),
        ("--counts 3,0 --dim 2 --decay-w 1 --decay-h 1", "counts"),
        ("--counts 3,2 --dim 0 --decay-w 1 --decay-h 1", "dim"),
        ("--counts 3,2 --dim 2 --decay-w 0 --decay-h 1", "decay_w"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 0", "decay_h"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --decay-b -1", "decay_b"),
        ("--counts 3,2 --dim 2 --decay-w nan --decay-h 1", "decay_w"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --starts 0", "starts"),
        (f"--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --starts {10**30}", "starts"),
        (f"--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --seed {2**63}", "seed"),
        (f"--num-classes 2 --per-class {10**22} --dim 2 --decay-w 1 --decay-h 1", "per_class"),
        (f"--counts {2**31 - 2},2 --dim 2 --decay-w 1 --decay-h 1", "counts"),
        (f"--counts 3,2 --dim {10**9} --decay-w 1 --decay-h 1", "dim"),
        ("--counts 3,2 --dim 2 --decay-w 1e300 --decay-h 1", "decay_w"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1e-320", "decay_h"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --decay-b 1e-320", "decay_b"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --loss unknown", "loss"),
        ("--counts 3,2 --dim 2 --decay-w 1 --decay-h 1 --loss focal", "loss"),
        ("--num-classes 3000 --dim 3000 --decay-w 1 --decay-h 1 --target saddles", "num_classes"),
        ("--num-classes 30000 --dim 30000 --decay-w 1 --decay-h 1", "num_classes"),
    ],
)
def test_bad_sweeps_are_refused_in_one_line_and_write_nothing(tmp_path, flags, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *flags.split(), "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ufm: error: {named}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", ["--decay-w 1e300 --decay-h 1", "--decay-w 1 --decay-h 1e-320"])
@pytest.mark.parametrize("command", ["predict", "census"])
def test_other_commands_refuse_decays_out_of_range_too(tmp_path, command, flags, capsys):
    out = ["--out", str(tmp_path / "run")] if command == "census" else []
    with pytest.raises(SystemExit) as stop:
        main([command, "--counts", "3,2", "--dim", "2", *flags.split(), *out])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ufm: error: decay_")
    assert not (tmp_path / "run").exists()


def test_a_platform_that_is_not_there_is_refused_in_one_line(tmp_path):
    for platform in ("cuda", "nonsense"):
        command = [sys.executable, "-m", "ufm_jax", "sweep", *SHAPE.split(), "--out", str(tmp_path / "run")]
        env = os.environ | {"JAX_PLATFORMS": platform}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("ufm: error: JAX_PLATFORMS: ")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--grad-tol", "--gap-tol"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0"])
def test_tolerances_that_are_none_are_refused(tmp_path, minimum, flag, value, capsys):
    with pytest.raises(SystemExit) as stop:
        certify(tmp_path, minimum, flag, value)
    assert stop.value.code == 2
    assert f"error: {flag[2:].replace('-', '_')}: need a finite number > 0" in capsys.readouterr().err


def test_predictions_cost_nothing_for_surplus_dimensions(capsys):
    main(["predict", *SHAPE.replace("--dim 2", f"--dim {10**8}").split(), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["loss"] == pytest.approx(0.06293301, abs=1e-8)
    assert result["origin_index"] == 2 * 10**8


def test_sweep_fills_its_folder_resumes_and_refuses_another_run(tmp_path, capsys):
    run = ["sweep", *SHAPE.split(), "--starts", "40", "--target", "both", "--out", str(tmp_path / "run")]
    main(run)
    first = load(tmp_path / "run")
    assert first.num_rows == 80
    assert json.loads((tmp_path / "run/summary.json").read_text())["rows"] == 80
    assert set(first.filter(first["target"].to_numpy() == "minima")["verdict"].to_pylist()) == {
        "GLOBAL_MINIMUM"
    }
    (tmp_path / "run/points/00001.parquet").unlink()
    main(run)
    assert difference(load(tmp_path / "run"), first) is None
    with pytest.raises(SystemExit) as stop:
        main([*run, "--seed", "1"])
    assert stop.value.code == 2
    assert "different run" in capsys.readouterr().err
    assert difference(load(tmp_path / "run"), first) is None


def test_predict_gives_the_public_case(capsys):
    main(["predict", *SHAPE.split(), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["loss"] == pytest.approx(0.06293301, abs=1e-8)
    assert (result["nullity"], result["origin_index"]) == (1, 4)


@pytest.mark.slow
def test_census_writes_its_files_resumes_and_refuses_another_run(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["census", *SHAPE.split(), "--out", str(out)]
    main([*command, "--starts", "300"])
    main([*command, "--starts", "1000"])
    assert "4 orbits from 1000 starts" in capsys.readouterr().out
    lines = (out / "orbits.csv").read_text().splitlines()
    assert lines[0] == "loss,rank,index,nullity,orbit_dim,copies,verdict,hits,proved,name,stabiliser"
    assert [line.split(",")[1:7] for line in lines[1:]] == [
        ["2", "0", "1", "1", "1", "GLOBAL_MINIMUM"],
        ["1", "1", "1", "1", "3", "STRICT_SADDLE"],
        ["1", "2", "1", "1", "3", "STRICT_SADDLE"],
        ["0", "4", "0", "0", "1", "STRICT_SADDLE"],
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete_as_tested"]
    assert summary["num_starts"] == 1000
    with np.load(out / "orbits.npz") as held:
        assert held["W"].shape == (4, 3, 2)
    before = {f.name: f.read_bytes() for f in out.iterdir()}
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--seed", "7"])
    assert stopped.value.code == 2
    assert "holds a different run" in capsys.readouterr().err
    assert before == {f.name: f.read_bytes() for f in out.iterdir()}


def test_a_census_of_hours_is_refused_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "census",
                *SHAPE.replace("--num-classes 3", "--num-classes 12").split(),
                "--dim",
                "11",
                "--out",
                str(out),
            ]
        )
    assert stopped.value.code == 2
    assert "hours" in capsys.readouterr().err
    assert not out.exists()
