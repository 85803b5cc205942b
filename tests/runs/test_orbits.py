"""A census's folder: its files agree with each other, and belong to their run."""

import json
import os
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import SWEEP

import ufm_jax as ufm
from ufm_jax import files as durable
from ufm_jax.landscape import census
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.orbits import rows
from ufm_jax.models.unconstrained.completeness import morse_bott
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.report import page
from ufm_jax.runs import orbits, store
from ufm_jax.runs.plan import CensusConfig

# Unequal counts, so that √n_k matters, and d above K − 1.
CONFIG = CensusConfig(counts=(3, 1, 2), dim=3, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2, starts=2000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("censuses") / "run"
    orbits.run(CONFIG, out)
    return out


@pytest.fixture
def out(undisturbed, tmp_path):
    (tmp_path / "run").mkdir()
    for file in undisturbed.iterdir():
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "run"


def files(out):
    return {f.name: f.read_bytes() for f in out.iterdir() if f.is_file() and f.name != durable.LOCK}


@pytest.mark.slow
def test_a_census_loads_as_points_ready_for_f_in_the_order_of_its_table(undisturbed):
    atlas = ufm.load(undisturbed)
    lines = (undisturbed / "orbits.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[0]) for line in lines]
    assert losses == sorted(losses)
    assert len(atlas) == len(lines) == atlas.table.num_rows > 4
    f = jax.jit(objective(atlas.landscape))
    for orbit, loss in zip(atlas, losses, strict=True):
        assert orbit.params.H.shape == (3, 6)
        assert abs(float(f(orbit.params)) - loss) < 1e-12
    seen = examine(atlas.landscape, atlas[0].params).evidence
    assert ufm.Verdict(int(seen.verdict)).name == atlas[0].row.verdict == "GLOBAL_MINIMUM"
    with np.load(undisturbed / "orbits.npz") as held:
        assert held["evidence_loss"].tolist() == losses


def test_a_census_goes_on_to_the_same_files(undisturbed, tmp_path):
    out = tmp_path / "cut"
    orbits.run(replace(CONFIG, starts=1000), out)
    orbits.run(CONFIG, out)
    cut, whole = files(out), files(undisturbed)
    for name in ("orbits.csv", "orbits.npz", "summary.json"):
        assert cut[name] == whole[name]


def test_orbits_of_another_census_are_refused(undisturbed, out, tmp_path):
    other = tmp_path / "other"
    orbits.run(replace(CONFIG, decay_h=2e-3, starts=100), other)
    (out / "orbits.npz").write_bytes((other / "orbits.npz").read_bytes())
    before = files(out)
    for ask in (lambda: orbits.run(CONFIG, out), lambda: ufm.load(out)):
        with pytest.raises(ValueError, match=r"^out: .*orbits\.npz is of another run"):
            ask()
    assert files(out) == before


def test_orbits_that_do_not_say_whose_they_are_are_refused(out):
    with np.load(out / "orbits.npz") as held:
        arrays = {name: held[name] for name in held if name != "digest"}
    np.savez(out / "orbits.npz", **arrays)
    with pytest.raises(ValueError, match=r"^out: .*does not say of which run"):
        orbits.run(CONFIG, out)


def test_a_report_is_of_the_orbits_and_of_no_copy(out):
    """orbits.csv and summary.json are for people: what they were edited to is in no page."""
    before = page.write(out).read_bytes()
    for name, edited in (("orbits.csv", "loss\n7\n"), ("summary.json", "{}")):
        (out / name).write_text(edited)
        os.utime(out / name, (2e9, 2e9))  # long after the run
    assert page.write(out).read_bytes() == before
    (out / "orbits.npz").unlink()
    with pytest.raises(ValueError, match=r"^out: .*no orbits\.npz yet"):
        page.write(out)


@pytest.mark.parametrize("spoil", [b"garbage", b"", None])
def test_repair_moves_bad_orbits_away_and_begins_again(undisturbed, out, spoil):
    held = bytearray((out / "orbits.npz").read_bytes())
    held[300] ^= 1
    bad = bytes(held) if spoil is None else spoil
    (out / "orbits.npz").write_bytes(bad)
    for ask in (lambda: orbits.run(CONFIG, out), lambda: ufm.load(out)):
        with pytest.raises(ValueError, match=r"^out: cannot read .*orbits\.npz: .*--repair") as refused:
            ask()
        assert "allow_pickle" not in str(refused.value)
    orbits.run(CONFIG, out, repair=True)
    assert files(out)["orbits.csv"] == files(undisturbed)["orbits.csv"]
    assert (out / "bad" / "orbits.npz").read_bytes() == bad


def test_a_second_process_is_refused(out):
    before = files(out)
    with durable.locked(out), pytest.raises(ValueError, match=r"^out: .*in use by"):
        orbits.run(CONFIG, out)
    assert files(out) == before


@pytest.mark.parametrize("edit", [None, {"seed": 1}])
def test_a_manifest_is_not_believed_against_the_orbits(undisturbed, out, edit):
    manifest = out / "manifest.json"
    content = json.loads(manifest.read_text())
    if edit is None:
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(content | {"config": content["config"] | edit}))
    for ask in (lambda: orbits.run(CONFIG, out), lambda: ufm.load(out)):
        with pytest.raises(ValueError, match=r"^out: .*--repair"):
            ask()
    orbits.run(CONFIG, out, repair=True)
    assert json.loads(manifest.read_text())["config"] == content["config"]
    assert files(out)["orbits.csv"] == files(undisturbed)["orbits.csv"]


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "thesis.tmp").write_text("mine")
    with pytest.raises(ValueError, match=r"^out: .* is not empty"):
        orbits.run(CONFIG, tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tmp"]


def test_a_folder_of_the_other_kind_is_refused(undisturbed, tmp_path):
    with pytest.raises(ValueError, match=r"^out: .*different run"):
        store.run(SWEEP, undisturbed)
    with pytest.raises(ValueError, match=r"^out: .*holds a census"):
        store.load(undisturbed)


def test_nothing_costs_more_for_surplus_dimensions():
    sizes = {"counts": CONFIG.counts, "decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
    small, large = problem(dim=3, **sizes), problem(dim=10**8, **sizes)
    few, more = (census.find_orbits(prob, starts=100) for prob in (small, large))
    for a, b in zip(rows(small, few), rows(large, more), strict=True):
        assert (a.loss, a.rank, a.copies, a.verdict) == (b.loss, b.rank, b.copies, b.verdict)
        assert b.nullity == b.orbit_dim == 10**8 * a.rank - a.rank * (a.rank + 1) // 2
    assert len(census.completeness(large, more)) == 6
    assert morse_bott([], 10**8, 1).passed is False


def test_the_orbits_of_an_unfinished_census_are_not_there_yet(tmp_path):
    orbits.open_folder(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match=r"^out: .*no orbits\.npz yet"):
        ufm.load(tmp_path / "run")
