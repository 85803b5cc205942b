"""A sweep's folder: what is finished is kept, what is bad is found and renewed, other tools read it."""

import errno
import json
import os
import re
import resource
import shutil
import threading
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SWEEP, difference

import ufm_jax as ufm
from ufm_jax import files as durable
from ufm_jax.numerics import lanes
from ufm_jax.numerics.kept import Kept
from ufm_jax.report import page
from ufm_jax.runs import engine, folder, merge, plan, store
from ufm_jax.runs.engine import run_shards, sweep

ROOT = Path(__file__).parents[2]
CONFIG = replace(SWEEP, starts=11, shard_size=4)
NAMES = ["00000.parquet", "00001.parquet", "00002.parquet"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run of three shards."""
    out = tmp_path_factory.mktemp("sweeps") / "run"
    store.run(CONFIG, out)
    return out


@pytest.fixture
def out(undisturbed, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(undisturbed, tmp_path / "run")


@pytest.fixture
def no_engine(monkeypatch):
    def refuse(config, todo, progress=None):
        assert not list(todo), "nothing must be computed"
        return iter(())

    monkeypatch.setattr(store, "run_shards", refuse)


def files(out):
    return {f.name: f.read_bytes() for f in (out / "points").iterdir()}


def test_the_folder_holds_the_rows_that_were_computed(undisturbed):
    table = ufm.load(undisturbed).table
    made = merge.rows_of(CONFIG, run_shards(CONFIG, plan.shards(CONFIG))).table
    assert difference(table, made) is None
    assert json.loads(table.schema.metadata[b"ufm"]) == {"rows": 11, "rows_planned": 11, "complete": True}
    assert sorted(f.name for f in (undisturbed / "points").iterdir()) == NAMES


@pytest.mark.slow
def test_points_keep_their_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "HASTE", 0)  # by the same programs: small folders are compiled in haste
    store.run(CONFIG, tmp_path / "run")
    table, memory = ufm.load(str(tmp_path / "run")).table, sweep(CONFIG)
    for name, shape in (("W", (3, 2)), ("H", (2, 3)), ("b", (3,))):
        held, made = (t[name].combine_chunks().to_numpy_ndarray() for t in (table, memory))
        assert held.shape == (11, *shape)
        np.testing.assert_array_equal(held, made)


@pytest.mark.parametrize("lost", [[0], [1, 2], [0, 2], [0, 1, 2]])
def test_a_run_goes_on_to_the_same_files(undisturbed, out, lost):
    for number in lost:
        (out / "points" / NAMES[number]).unlink()
    store.run(CONFIG, out)
    assert difference(ufm.load(out).table, ufm.load(undisturbed).table) is None
    assert files(out) == files(undisturbed)


def test_a_command_which_keeps_programs_writes_the_same_files(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "_kept", Kept(None))  # and threads compile what is needed later
    store.run(CONFIG, tmp_path / "run")
    assert files(tmp_path / "run") == files(undisturbed)


def test_an_unfinished_run_gives_its_finished_rows_and_warns(out):
    (out / "points" / NAMES[1]).unlink()
    with pytest.warns(UserWarning, match="holds 7 of 11 rows"):
        table = ufm.load(out).table
    assert table["start"].to_pylist() == [0, 1, 2, 3, 8, 9, 10]
    assert not json.loads(table.schema.metadata[b"ufm"])["complete"]


@pytest.mark.parametrize("made", ["nothing", "empty", "no points", "census", "text"])
def test_a_folder_without_a_sweep_is_refused(tmp_path, made):
    out = tmp_path / "run"
    if made != "nothing":
        out.mkdir()
    if made == "no points":
        folder.open_folder(out, CONFIG)
    if made == "census":
        folder.write_json(out / "manifest.json", {"config": {"counts": [2, 2], "max": 1}, "digest": "0"})
    if made == "text":
        (out / "manifest.json").write_text("what?")
    with pytest.raises(ValueError, match=r"^out: "):
        ufm.load(out)


# Ways in which a file goes bad, and whether its footer shows it.
def cut(file, out):
    os.truncate(file, file.stat().st_size // 2)


def empty(file, out):
    os.truncate(file, 0)


def garbage(file, out):
    file.write_bytes(np.random.default_rng(0).bytes(5000))


def another_shard(file, out):
    shutil.copy(out / "points" / NAMES[0], file)


def another_run(file, out):
    store.write_shard(
        replace(CONFIG, seed=1), out, plan.shard(CONFIG, 0)._replace(number=1), pq.read_table(file)
    )


def too_few_rows(file, out):
    pq.write_table(pq.read_table(file).slice(1), file)


def no_metadata(file, out):
    pq.write_table(pq.read_table(file).replace_schema_metadata(), file)


def another_column(file, out):
    pq.write_table(pq.read_table(file).drop_columns(["nc1"]), file)


BAD = [cut, empty, garbage, another_shard, another_run, too_few_rows, no_metadata, another_column]


@pytest.mark.parametrize("spoil", BAD[:-1])  # of two files neither has the usual columns
def test_a_bad_shard_is_named_before_anything_is_computed(out, spoil, no_engine):
    (out / "points" / NAMES[2]).unlink()  # there is work to do
    spoil(out / "points" / NAMES[1], out)
    before = files(out)
    with pytest.raises(ValueError, match=rf"^out: .*{NAMES[1]}.*--repair"):
        store.run(CONFIG, out)
    assert files(out) == before


@pytest.mark.parametrize("spoil", BAD)
def test_repair_renews_just_the_bad_shard(undisturbed, out, spoil, caplog):
    spoil(out / "points" / NAMES[1], out)
    kept = {name: (out / "points" / name).stat().st_mtime_ns for name in NAMES if name != NAMES[1]}
    with pytest.raises(ValueError, match=rf"^out: .*{NAMES[1]}.*--repair"):
        ufm.load(out)
    store.run(CONFIG, out, repair=True)
    assert files(out) == files(undisturbed)
    assert kept == {name: (out / "points" / name).stat().st_mtime_ns for name in kept}
    assert [f.name for f in (out / "bad").iterdir()] == [NAMES[1]]
    assert NAMES[1] in caplog.text


def test_a_bad_page_is_found_by_its_checksum(undisturbed, out):
    file = out / "points" / NAMES[1]
    content = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(0).column(1)  # the losses
    place = column.data_page_offset + column.total_compressed_size - 8
    content[place] ^= 1  # one bit
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^out: cannot read .*{NAMES[1]}.*--repair"):
        ufm.load(out)
    store.run(CONFIG, out, repair=True)
    assert files(out) == files(undisturbed)


def test_a_file_that_is_no_shard_is_refused(out, no_engine):
    shutil.copy(out / "points" / NAMES[0], out / "points" / "copy.parquet")
    with pytest.raises(ValueError, match=r"^out: .*copy\.parquet"):
        store.run(CONFIG, out)


def test_another_configuration_is_refused_and_nothing_changes(out, no_engine):
    before = files(out)
    for other in (replace(CONFIG, seed=1), replace(CONFIG, decay_w=(1e-3,)), replace(CONFIG, shard_size=5)):
        with pytest.raises(ValueError, match=r"^out: .*different run"):
            store.run(other, out)
    assert files(out) == before


FOREIGN = ["thesis.tmp", "notes/a.tmp", ".lock", ".hidden.tmp", "x.tmp/a", "points/mine.txt", "points"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_files_of_somebody_else_is_refused_and_they_stay(tmp_path, name, no_engine):
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=r"^out: .* is not empty and holds no run"):
        store.run(CONFIG, out)
    assert [f for f in out.rglob("*") if f.is_file()] == [out / name]
    assert (out / name).read_text() == "mine"


def test_files_of_somebody_else_in_a_run_s_folder_stay(out, no_engine):
    mine = [out / name for name in FOREIGN[:-1]] + [out / "points" / ".00000.parquet.tmp"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    (out / ".link.0123456789ab.tmp").symlink_to(mine[0])
    store.run(CONFIG, out)
    store.run(CONFIG, out, repair=True)
    assert all(file.read_text() == "mine" for file in mine)


def edited(manifest):
    content = json.loads(manifest.read_text())
    content["config"]["seed"] = 1
    manifest.write_text(json.dumps(content))


def of_another_run(manifest):
    content = json.loads(manifest.read_text())
    other = replace(CONFIG, seed=1)
    manifest.write_text(json.dumps(content | {"config": other.content, "digest": other.digest()}))


SPOIL = [
    Path.unlink,
    edited,
    of_another_run,
    lambda file: file.write_text("{"),
    lambda file: file.write_text("[1]"),
]


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_manifest_is_never_believed_against_its_shards_and_repair_writes_it_again(out, spoil, no_engine):
    before = json.loads((out / "manifest.json").read_text())
    table = ufm.load(out).table
    spoil(out / "manifest.json")
    for ask in (lambda: ufm.load(out), lambda: store.run(CONFIG, out), lambda: page.write(out)):
        with pytest.raises(ValueError, match=r"^out: "):
            ask()
    store.run(CONFIG, out, repair=True)
    assert json.loads((out / "manifest.json").read_text()) == before
    assert difference(ufm.load(out).table, table) is None


def test_repair_does_not_take_another_run_s_shards(out, no_engine):
    (out / "manifest.json").unlink()
    before = files(out)
    with pytest.raises(ValueError, match=r"^out: "):
        store.run(replace(CONFIG, seed=1), out, repair=True)
    assert files(out) == before
    assert not (out / "manifest.json").exists()


def test_repair_keeps_every_bad_file(out):
    for content in (b"one", b"two", b"three"):
        (out / "points" / NAMES[1]).write_bytes(content)
        store.run(CONFIG, out, repair=True)
    assert {f.read_bytes() for f in (out / "bad").iterdir()} == {b"one", b"two", b"three"}


def flip(file, place):
    """Flip one bit of a file; `place` counts bits."""
    content = bytearray(file.read_bytes())
    content[place // 8] ^= 1 << (place % 8)
    file.write_bytes(content)


def test_a_row_count_that_lies_is_found_and_mended(undisturbed, out):
    """In the footer, which no checksum covers: 3 of 4 rows of a row group would be read, or none."""
    file = out / "points" / NAMES[1]
    whole, lies = file.read_bytes(), 0
    footer = 8 * (len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"))
    fours = [i for i in range(footer, 8 * (len(whole) - 8)) if whole[i // 8] == 2 * 4]  # as Thrift writes it
    for place in fours:
        flip(file, place)
        try:
            with pq.ParquetFile(file) as held:
                counts = held.metadata.num_rows, held.metadata.row_group(0).num_rows
        except (OSError, ValueError, pa.ArrowException):
            counts = (4, 4)
        if counts != (4, 4):
            lies += 1
            for look in (lambda: ufm.load(out), lambda: store.run(CONFIG, out)):
                with pytest.raises(ValueError, match=rf"^out: .*{NAMES[1]}"):
                    look()
        file.write_bytes(whole)
    assert lies > 4


def test_no_bit_of_a_footer_changes_what_is_read_unseen(undisturbed, out):
    file, rng = out / "points" / NAMES[1], np.random.default_rng(0)
    whole, table, found = file.read_bytes(), ufm.load(out).table, 0
    footer = 8 * (len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"))
    for place in rng.choice(np.arange(footer, 8 * len(whole)), 400, replace=False):
        flip(file, int(place))
        try:
            read = ufm.load(out).table
        except ValueError:
            found += 1
        else:
            assert difference(read, table) is None, f"bit {place} of {8 * len(whole)}"
        file.write_bytes(whole)
    assert found > 50


def test_rows_that_are_not_those_of_the_plan_are_found(undisturbed, out):
    file = out / "points" / NAMES[1]
    table = pq.read_table(file)
    for name, column in (("start", pa.array([4, 5, 7, 6])), ("decay_w", pa.array([1e-3] * 4))):
        place = table.schema.get_field_index(name)
        pq.write_table(table.set_column(place, name, column), file)
        with pytest.raises(ValueError, match=rf"^out: .*{NAMES[1]}.*{name} is not that of the plan"):
            ufm.load(out)
    store.run(CONFIG, out, repair=True)
    assert files(out) == files(undisturbed)


def test_a_trillion_starts_are_planned_at_once(tmp_path):
    config = replace(CONFIG, starts=10**12)
    todo = store.unfinished(config, tmp_path)
    assert [next(todo).first for _ in range(3)] == [0, 4, 8]
    last = plan.shard(config, plan.num_shards(config) - 1)
    assert last.stop == config.num_rows == 10**12
    with pytest.raises(ValueError, match=r"^starts: need at most"):
        replace(config, starts=2**62, target="both", decay_w=(1e-3, 1e-2))


def test_shards_are_those_of_their_numbers():
    for config in (CONFIG, replace(CONFIG, target="both", decay_w=(1e-3, 1e-2)), replace(CONFIG, starts=8)):
        listed = list(plan.shards(config))
        assert [one.number for one in listed] == list(range(plan.num_shards(config)))
        lanes = [(one.target, lane) for one in listed for lane in range(one.first, one.stop)]
        assert len(set(lanes)) == len(lanes) == config.num_rows
        assert all(0 < one.stop - one.first <= config.shard_size for one in listed)


def test_what_a_process_killed_at_its_start_leaves_is_no_obstacle(undisturbed, tmp_path):
    out = tmp_path / "run"
    (out / "points").mkdir(parents=True)
    for name in (".ufm.lock", ".manifest.json.0123456789ab.tmp", "points/.00000.parquet.0123456789ab.tmp"):
        (out / name).write_text("half")
    store.run(CONFIG, out)
    assert files(out) == files(undisturbed)
    assert not list(out.rglob("*.tmp"))


def test_rows_of_another_version_are_kept_and_it_is_said(out, no_engine, monkeypatch, caplog):
    monkeypatch.setattr(ufm, "__version__", "9.9.9")
    before = files(out)
    store.run(CONFIG, out)
    assert "this is 9.9.9" in caplog.text
    assert files(out) == before


def test_a_locked_folder_is_refused(out, no_engine):
    with durable.locked(out), pytest.raises(ValueError, match=rf"^out: .*in use .*process {os.getpid()} on"):
        store.run(CONFIG, out)
    store.run(CONFIG, out)


def test_a_file_system_without_locks_is_no_obstacle(out, no_engine, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    (out / "points" / ".x.0123456789ab.tmp").touch()
    monkeypatch.setattr(durable.fcntl, "flock", no_locks)
    store.run(CONFIG, out)
    assert (out / "points" / ".x.0123456789ab.tmp").exists()  # may be another process's


def test_a_temporary_that_is_being_written_stays(tmp_path):
    def write(file):
        file.write(b"half")
        durable.remove_stale(tmp_path)
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        file.write(b"whole")

    durable.write_file(tmp_path / "file", write)
    assert (tmp_path / "file").read_bytes() == b"halfwhole"
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@contextmanager
def largest_file(size):
    """Let no file grow beyond `size` bytes: what a full disk looks like to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def flush_fails():
    """Have the disk fill up at the last moment: when the file is flushed to it."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        yield


@pytest.mark.parametrize("full", [lambda: largest_file(2000), flush_fails], ids=["write", "flush"])
def test_a_full_disk_leaves_no_half_file_and_the_rest_intact(undisturbed, out, full):
    (out / "points" / NAMES[1]).unlink()
    before = files(out)
    with full(), pytest.raises(OSError, match=rf"^out: cannot write .*{NAMES[1]}: .*; make room"):
        store.run(CONFIG, out)
    assert files(out) == before
    store.run(CONFIG, out)
    assert files(out) == files(undisturbed)


def test_shards_of_a_version_with_other_columns_are_not_joined(out):
    for name in NAMES[:2]:
        file = out / "points" / name
        pq.write_table(pq.read_table(file).drop_columns(["nc1"]), file)
    (out / "points" / NAMES[2]).unlink()
    before = files(out)
    with pytest.raises(ValueError, match=r"^out: .*other columns"):
        store.run(CONFIG, out)
    assert files(out) == before


def test_the_queries_of_the_documentation_run_as_printed(undisturbed):
    page = (ROOT / "docs/reference/files.md").read_text()
    (query,) = re.findall(r"```python\n([^`]*read_parquet.*?)```", page, re.DOTALL)
    assert "runs/first" in query
    found: dict = {}
    for line in query.replace("runs/first", str(undisturbed)).splitlines():
        exec(line, found)
        if "frame" in line:
            assert len(found["frame"]) == 11
    assert found["counts"].fetchall() == [("minima", "GLOBAL_MINIMUM", 11)]
    assert found["run"].table.num_rows == 11


def test_other_tools_read_points_as_flat_lists(undisturbed):
    import duckdb
    import pandas
    import polars

    points = undisturbed / "points"
    W = ufm.load(undisturbed).table["W"].combine_chunks().to_numpy_ndarray().reshape(11, -1)
    np.testing.assert_array_equal(np.stack(pandas.read_parquet(points)["W"]), W)
    np.testing.assert_array_equal(duckdb.sql(f"SELECT W FROM '{points}/*.parquet'").df()["W"].tolist(), W)
    frame = polars.read_parquet(points / "*.parquet")
    np.testing.assert_array_equal(frame["W"].ext.storage().to_list(), W)


def test_the_refused_names_the_owner_though_it_writes_its_name_late(tmp_path):
    descriptor = os.open(tmp_path / durable.LOCK, os.O_RDWR | os.O_CREAT)
    assert durable._try_lock(descriptor)
    late = threading.Timer(0.2, os.pwrite, (descriptor, b"process 7 on here\n", 0))
    late.start()
    with pytest.raises(ValueError, match="in use by process 7 on here"), durable.locked(tmp_path):
        pass
    late.join()
    os.close(descriptor)


def test_the_version_is_known_in_a_checkout_that_is_not_installed(monkeypatch):
    def installed(name):
        if name.startswith("ufm"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(durable, "version", installed)
    said = folder.provenance()["versions"]
    assert said["ufm-jax"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert said["jax"] == version("jax")


def marked(out, table, **says):
    """Write a table as the orbits of a run."""
    held = folder.marks(out / "orbits.parquet") | says
    made = table.replace_schema_metadata({b"ufm": json.dumps(held)})
    pq.write_table(made, out / "orbits.parquet", write_page_checksum=True)


def another_loss(out):
    table = pq.read_table(out / "orbits.parquet")
    place = table.schema.get_field_index("loss")
    marked(out, table.set_column(place, "loss", pa.array(table["loss"].to_numpy() + 1e-12)))


# Ways in which the list of orbits goes bad: which the command sees before it begins, and which `load` alone,
# as the shards must be read for it.
SEEN = {
    "cut": lambda out: cut(out / "orbits.parquet", out),
    "garbage": lambda out: garbage(out / "orbits.parquet", out),
    "no metadata": lambda out: no_metadata(out / "orbits.parquet", out),
    "another run": lambda out: marked(out, pq.read_table(out / "orbits.parquet"), digest="0"),
}
COMPARED = {
    "another loss": another_loss,
    "a line less": lambda out: marked(out, pq.read_table(out / "orbits.parquet").slice(1)),
}


@pytest.mark.parametrize("spoil", [*SEEN, *COMPARED])
def test_orbits_that_are_not_the_shards_are_refused_and_written_again(undisturbed, out, spoil, no_engine):
    (SEEN | COMPARED)[spoil](out)
    bad = (out / "orbits.parquet").read_bytes()
    asked = (lambda: ufm.load(out), lambda: page.write(out), lambda: store.run(CONFIG, out))
    for ask in asked if spoil in SEEN else asked[:-1]:
        with pytest.raises(ValueError, match=r"^out: .*orbits\.parquet.*--repair"):
            ask()
        assert (out / "orbits.parquet").read_bytes() == bad
    store.run(CONFIG, out, repair=True)
    assert (out / "orbits.parquet").read_bytes() == (undisturbed / "orbits.parquet").read_bytes()
    assert [f.name for f in (out / "bad").glob("*")] == (["orbits.parquet"] if spoil in SEEN else [])


def test_orbits_of_another_run_are_no_run_of_this_kind(undisturbed, tmp_path, no_engine):
    shutil.copy(undisturbed / "orbits.parquet", tmp_path)
    with pytest.raises(ValueError, match=r"^out: .* is not empty and holds no run"):
        store.run(replace(CONFIG, seed=1), tmp_path)


@pytest.mark.parametrize("lost", [[0], [1, 2], [0, 1, 2]])
def test_orbits_are_the_same_bytes_however_often_the_run_was_interrupted(undisturbed, out, lost):
    for number in lost:
        (out / "points" / NAMES[number]).unlink()
    (out / "orbits.parquet").unlink()
    store.run(CONFIG, out)
    assert (out / "orbits.parquet").read_bytes() == (undisturbed / "orbits.parquet").read_bytes()


def test_orbits_say_in_which_shard_each_is_which(undisturbed):
    run, orbits = ufm.load(undisturbed), pq.read_table(undisturbed / "orbits.parquet")
    assert orbits["orbit"].to_pylist() == list(range(orbits.num_rows))
    assert orbits.select(orbits.column_names[1:-2]).equals(run.orbits.select(orbits.column_names[1:-2]))
    of = {
        (shard, own): line["orbit"]
        for line in orbits.to_pylist()
        for shard, own in zip(line["shard"], line["shard_orbit"], strict=True)
    }
    held = [pq.read_table(undisturbed / "points" / name)["orbit"].to_pylist() for name in NAMES]
    mapped = [of.get((shard, own)) for shard, column in enumerate(held) for own in column]
    assert mapped == run.table["orbit"].to_pylist()
    assert sum(orbits["hits"].to_pylist()) == run.table["orbit"].is_valid().to_numpy().sum()


def test_with_spectra_where_needed_nothing_is_sorted(tmp_path):
    config = replace(CONFIG, spectra="needed", starts=4)
    store.run(config, tmp_path / "run")
    run = ufm.load(tmp_path / "run")
    assert run.table["orbit"].null_count == 4
    assert not (tmp_path / "run" / "orbits.parquet").exists()
    assert run.orbits.num_rows >= 1  # by the points that were kept


def without_orbits(out):
    """Make a folder as older versions left it."""
    (out / "orbits.parquet").unlink()
    for file in (out / "points").iterdir():
        older = pq.read_table(file).drop_columns(["orbit", "invariants"])
        pq.write_table(older, file, write_page_checksum=True)


def test_a_folder_of_an_older_version_is_read_and_not_gone_on_with(undisturbed, out, no_engine):
    without_orbits(out)
    table, now = ufm.load(out).table, ufm.load(undisturbed)
    assert difference(table, now.table.drop_columns("orbit")) is None
    assert ufm.load(out).orbits["hits"].to_pylist() == now.orbits["hits"].to_pylist()
    store.run(CONFIG, out)  # nothing is to be done
    assert not (out / "orbits.parquet").exists()
    (out / "points" / NAMES[1]).unlink()
    before = files(out)
    with pytest.raises(
        ValueError, match=r"^out: .* begun by a version that sorted no orbits.*another folder"
    ):
        store.run(CONFIG, out)
    assert files(out) == before
