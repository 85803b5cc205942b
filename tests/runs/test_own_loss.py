"""A loss in the user's own file goes where one of the package goes: command line, folder, report, Python."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import BALANCED, CE, SMOOTH, SWEEP

import ufm_jax as ufm
from ufm_jax.cli import main
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.objects import make, spec
from ufm_jax.runs import folder, store
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.plan import CensusConfig, SweepConfig, built_loss, chosen_loss, loss_of
from ufm_jax.runs.work import work_of

SOURCE = """
from dataclasses import dataclass
import jax
import jax.numpy as jnp
import ufm_jax as ufm

@dataclass(frozen=True)
class Tempered(ufm.Loss):
    temperature: float = 1.0
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    convex = True
    def value(self, Z, T):
        fit = jnp.sum(T * jax.nn.log_softmax(Z / self.temperature, axis=0), axis=0)
        return -jnp.tensordot(jnp.asarray(self.weights, Z.dtype), T, 1) * fit

@dataclass(frozen=True)
class Bounded(ufm.Loss):  # not convex
    def value(self, Z, T):
        return 1.0 - jnp.sum(T * jax.nn.softmax(Z, axis=0), axis=0)
"""
PROBLEM = ["--counts", "2,2,2", "--dim", "2", "--decay-w", "5e-3", "--decay-h", "1e-3", "--decay-b", "1e-2"]
FEW = ["--starts", "6"]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "own.py").write_text(SOURCE)
    return tmp_path / "own.py"


def ufm_sweep(out, *flags):
    main(["sweep", *PROBLEM, *FEW, *flags, "--out", str(out)])


def refused(capsys, call):
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_loss_of_a_file_is_swept_certified_resumed_and_reported(file, tmp_path, monkeypatch, capsys):
    out, flags = tmp_path / "run", ["--loss", f"{file}:Tempered", "--loss-set", "weights=1,1,2"]
    ufm_sweep(out, *flags)
    table = ufm.load(out).table
    assert set(table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    built_in = sweep(replace(SWEEP, starts=6, loss=ufm.CrossEntropy(class_weights=(1, 1, 2))))
    np.testing.assert_allclose(table["loss"].to_numpy(), built_in["loss"].to_numpy(), atol=1e-12)
    np.testing.assert_allclose(table["dual_bound"].to_numpy(), built_in["loss"].to_numpy(), atol=1e-9)
    held = json.loads((out / "manifest.json").read_text())["config"]
    assert held["loss"] == f"{file}:Tempered"
    assert held["loss_set"] == {"weights": [1, 1, 2]}
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    assert "own.py:Tempered weights=1,1,2" in page
    assert f"--loss {file}:Tempered --loss-set weights=1,1,2" in page

    monkeypatch.setattr(store, "run_shards", lambda config, todo, progress: iter(list(todo)[:0]))
    ufm_sweep(out, *flags)  # nothing is left to do
    assert "other loss_set" in refused(capsys, lambda: ufm_sweep(out, *flags[:2]))
    file.write_text(SOURCE + "\n# changed\n")
    assert "other loss_source" in refused(capsys, lambda: ufm_sweep(out, *flags))
    assert ufm.load(out).table.num_rows == 6  # rows need no source
    main(["report", str(out)])


@pytest.mark.slow
def test_a_module_in_the_working_directory_predicts_and_certifies(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = ["--loss", "own:Tempered", "--loss-set", "temperature=2"]
    main(["predict", *PROBLEM, *own, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["loss_name"] == "Tempered"
    assert said["loss"] is None
    assert said["origin_index"] == 4
    labels = np.array([0, 0, 1, 1, 2, 2])
    np.savez("origin.npz", W=np.zeros((3, 2)), H=np.zeros((2, 6)), b=np.zeros(3), labels=labels)
    decays = ["--decay-w", "5e-3", "--decay-h", "1e-3", "--decay-b", "1e-2"]
    main(["certify", "origin.npz", *decays, *own, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["index"]) == ("STRICT_SADDLE", 4)
    assert said["dual_bound"] < said["loss"]
    del sys.modules["own"]


@pytest.mark.slow
def test_a_census_of_an_own_loss_ends_and_a_changed_source_is_noticed(file, tmp_path, capsys):
    out = tmp_path / "census"
    census = ["census", *PROBLEM, "--starts", "300", "--loss", f"{file}:Tempered", "--out", str(out)]
    main(census)
    atlas = ufm.load(out)
    assert atlas.rows[0].verdict == "GLOBAL_MINIMUM"
    prob = work_of(replace(SWEEP, loss=CE)).landscape
    np.testing.assert_allclose(atlas.rows[0].loss, float(global_minimum(prob)), atol=1e-12)
    file.write_text(SOURCE.replace("1.0 - jnp", "2.0 - jnp"))
    with pytest.raises(ValueError, match=r"^loss: .*own.py is not what it was"):
        ufm.load(out)


def test_a_loss_that_is_not_convex_finds_minima_over_all_features_without_certificates(
    file, tmp_path, capsys
):
    loss = ["--loss", f"{file}:Bounded"]
    assert "convex" in refused(capsys, lambda: ufm_sweep(tmp_path / "means", *loss))
    assert not (tmp_path / "means").exists()
    ufm_sweep(tmp_path / "full", *loss, "--space", "full")
    table = ufm.load(tmp_path / "full").table
    assert table["dual_bound"].null_count == 6
    assert not {"GLOBAL_MINIMUM", "STRICT_SADDLE"} & set(table["verdict"].to_pylist())
    assert "LOCAL_MINIMUM" in table["verdict"].to_pylist()


@dataclass(frozen=True)
class Top(Loss):
    """A class that another process finds."""

    convex = True

    def value(self, Z, T):
        return CE.value(Z, T)


@pytest.mark.slow
def test_an_instance_is_swept_as_its_name_is(file, tmp_path):
    named = replace(SWEEP, starts=6, loss=chosen_loss(f"{file}:Tempered", {"temperature": 2.0}))
    instance = replace(named, loss=make("loss", named.loss))
    assert instance.digest() == named.digest()
    assert named.digest() == replace(named, loss=chosen_loss(named.loss.name, {"temperature": 2})).digest()
    assert named.digest() != replace(named, loss=chosen_loss(named.loss.name)).digest()
    assert sweep(instance).equals(sweep(named))


@pytest.mark.slow
def test_what_a_folder_cannot_hold_is_swept_in_memory_only(tmp_path):
    class Local(Top):
        pass

    config = replace(SWEEP, starts=6, loss=Local())
    assert set(sweep(config)["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    with pytest.raises(ValueError, match=r"^loss: .*Local.* inside a function"):
        store.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_worker_builds_the_loss_of_a_file(file):
    config = replace(SWEEP, loss=make("loss", spec("loss", f"{file}:Tempered", {"temperature": 3.0})))
    sent = pickle.dumps(replace(config, loss=loss_of(config)))
    code = (
        "import pickle, sys\nfrom ufm_jax.runs.plan import built_loss\n"
        "config = pickle.loads(sys.stdin.buffer.read())\n"
        "print(config.digest(), built_loss(config).temperature)"
    )
    said = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True).stdout
    assert said.decode().split() == [config.digest(), "3.0"]


@pytest.mark.parametrize(
    ("loss", "held"),
    [
        ("cross-entropy", {"loss": "cross-entropy", "smoothing": 0.0, "gamma": 2.0}),
        (SMOOTH, {"loss": "cross-entropy", "smoothing": 0.1, "gamma": 2.0}),
        ("squared", {"loss": "squared", "smoothing": 0.0, "gamma": 2.0}),
        (chosen_loss("focal", {"gamma": 3}), {"loss": "focal", "smoothing": 0.0, "gamma": 3.0}),
    ],
)
@pytest.mark.parametrize("kind", [SweepConfig, CensusConfig])
def test_manifests_of_older_versions_are_of_the_same_runs(loss, held, kind, tmp_path):
    decay = (1e-3,) if kind is SweepConfig else 1e-3
    config = kind(counts=BALANCED, dim=2, decay_w=decay, decay_h=decay, decay_b=decay, loss=loss)
    names = ("counts", "dim", "decay_w", "decay_h", "decay_b", "bias", "loss", "smoothing", "gamma")
    assert set(names) <= set(config.content)
    assert {name: config.content[name] for name in held} == held
    assert "loss_set" not in config.content
    folder.open_folder(tmp_path / "run", config)
    again = folder.configuration(tmp_path / "run")
    assert again.digest() == config.digest()
    assert built_loss(again) == built_loss(replace(config, loss=loss_of(config)))


@pytest.mark.slow
def test_flags_and_settings_of_a_built_in_loss_are_one_run(tmp_path, capsys):
    out = tmp_path / "run"
    ufm_sweep(out, "--smoothing", "0.1")
    for same in (
        ["--loss-set", "smoothing=0.1"],
        ["--loss", "ufm_jax.models.unconstrained.losses:CrossEntropy", "--smoothing", "0.1", "--gamma", "2"],
    ):
        ufm_sweep(out, *same)
    assert "gamma" in refused(capsys, lambda: ufm_sweep(out, "--smoothing", "0.1", "--gamma", "3"))
    assert "smoothing: give" in refused(
        capsys, lambda: ufm_sweep(out, "--smoothing", "0.1", "--loss-set", "smoothing=0.1")
    )


def test_a_class_that_is_no_loss_is_refused():
    with pytest.raises((ValueError, TypeError), match="loss"):  # the tests' type hook comes first
        work_of(replace(SWEEP, loss=chosen_loss("fractions:Fraction")))
