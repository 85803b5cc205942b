"""Programs kept between commands: where, by whom, and that a second command compiles nothing."""

import json
import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from ufm_jax import programs
from ufm_jax.numerics import lanes

COUNTED = """
import json, sys, jax
hits, asked = [], []
def heard(name, **given):
    if name.endswith("cache_hits"):
        hits.append(name)
    elif name.endswith("requests_use_cache"):
        asked.append(name)
jax.monitoring.register_event_listener(heard)
from ufm_jax.cli import main
try:
    main(sys.argv[1:])
finally:
    where = jax.config.values["jax_compilation_cache_dir"]
    print(json.dumps({"asked": len(asked), "hits": len(hits), "dir": where}), file=sys.stderr)
"""
SWEEP = [
    "sweep",
    "--num-classes",
    "2",
    "--per-class",
    "1",
    "--dim",
    "1",
    "--decay-w",
    "5e-3",
    "--decay-h",
    "1e-3",
]
SWEEP += ["--starts", "4", "--no-bias", "--target", "both"]
# Of a first sweep, toward both targets: nine for the rows (starts, searches and looks of each, invariants,
# spectra, comparisons) and what JAX compiles to make keys, leaves and known minima.
MOST = 16


def command(home, *words, **environment):
    """Run `ufm` with a home of its own; return its lines on standard error, the last one decoded."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    made = subprocess.run(
        [sys.executable, "-c", COUNTED, *words],
        env={**kept, "XDG_CACHE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert made.returncode == 0, made.stderr
    *lines, last = made.stderr.splitlines()
    return lines, json.loads(last)


def entries(folder):
    return {file.relative_to(folder): file.stat().st_size for file in folder.rglob("*-cache")}


def test_a_second_command_compiles_nothing_whatever_decays_seed_and_starts(tmp_path):
    home = tmp_path / "home"
    _, first = command(home, *SWEEP, "--out", str(tmp_path / "a"))
    assert first["hits"] < first["asked"]
    kept = entries(home / "ufm_jax")
    assert kept
    assert {str(file.parent) for file in kept} == {programs.folder().name}
    assert first["dir"] == str(home / "ufm_jax" / programs.folder().name)
    assert first["asked"] <= MOST
    other = [*SWEEP, "--decay-w", "4e-3", "--seed", "7", "--starts", "9"]
    _, second = command(home, *other, "--out", str(tmp_path / "b"))
    assert second["hits"] == second["asked"] > 0
    assert entries(home / "ufm_jax") == kept

    broken = max(kept, key=kept.get)  # the largest program, cut off as a killed command leaves it
    with (home / "ufm_jax" / broken).open("r+b") as file:
        file.truncate(100)
    said, third = command(home, *SWEEP, "--out", str(tmp_path / "c"))
    assert third["hits"] == third["asked"]  # as JAX has it, too
    assert third["asked"] == second["asked"] + 1
    assert not any("persistent" in line for line in said)
    assert entries(home / "ufm_jax").keys() == kept.keys()


def test_no_cache_and_ones_own_cache(tmp_path):
    home, own = tmp_path / "home", tmp_path / "own"
    predict = ["certify", str(tmp_path / "point.npz"), "--weight-decay", "1e-2"]
    np.savez(tmp_path / "point.npz", W=np.eye(2), H=np.eye(2), labels=[0, 1])
    _, none = command(home, *predict, "--no-cache")
    assert none["asked"] == 0
    assert not home.exists()
    _, theirs = command(
        home, *predict, JAX_COMPILATION_CACHE_DIR=str(own), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
    )
    assert theirs["dir"] == str(own)
    assert not home.exists()
    assert entries(own)


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "home").write_text("a file")
    np.savez(tmp_path / "point.npz", W=np.eye(2), H=np.eye(2), labels=[0, 1])
    lines, counted = command(
        tmp_path / "home", "certify", str(tmp_path / "point.npz"), "--weight-decay", "1e-2"
    )
    (line,) = [line for line in lines if "programs" in line]
    assert line.startswith("ufm: compiled programs are not kept: ")
    assert counted["dir"] is None


@pytest.mark.parametrize("chosen", ["", "rel/path", None])
@pytest.mark.parametrize("home", ["", "rel/home", None])
def test_without_a_home_nothing_is_kept_and_one_line_says_what_to_do(
    home, chosen, tmp_path, monkeypatch, capsys
):
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", chosen)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as of a user whom no file lists
    monkeypatch.chdir(tmp_path)
    names = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
    before = lanes._kept, [jax.config.values[name] for name in names]
    try:
        for name, value in zip(names, (None, True), strict=True):
            jax.config.update(name, value)
        programs.keep_programs()
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        lanes.keep(before[0])
        for name, value in zip(names, before[1], strict=True):
            jax.config.update(name, value)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ufm: compiled programs are not kept: ")
    assert "XDG_CACHE_HOME" in line
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.folder().parents[1] == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", "rel")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert programs.folder().parents[2] == tmp_path


@pytest.mark.parametrize("name", ["XLA_FLAGS", "PJRT_NPROC", "JAX_PLATFORMS"])
def test_the_folder_is_another_one_for_other_flags(name, monkeypatch):
    before = programs.digest()
    monkeypatch.setenv(name, "--xla_dump_to=/nowhere" if name == "XLA_FLAGS" else "3")
    assert programs.digest() != before


def test_the_folder_is_another_one_on_another_processor_or_version(monkeypatch):
    digests = {programs.digest()}
    for change in (
        lambda: monkeypatch.setattr(programs, "_processor", lambda: ("arm64", "other")),
        lambda: monkeypatch.setattr("ufm_jax.__version__", "99"),
        lambda: monkeypatch.setattr("jaxlib.__version__", "99"),
        lambda: monkeypatch.setattr(programs, "source", lambda: "of another commit"),
    ):
        change()
        digests.add(programs.digest())
    assert len(digests) == 5


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "LARGEST", 1000)
    for number, folder in enumerate(["old", "old", "new", "new"]):
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / f"jit_f-{number}-cache"
        file.write_bytes(bytes(300))
        os.utime(file, (1000.0 + number, 1000.0 + number))
    programs._make_room(tmp_path)
    assert [file.name for file in tmp_path.rglob("*-cache")] == ["jit_f-3-cache"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]
    programs._make_room(tmp_path)
    assert len(entries(tmp_path)) == 1


def test_other_warnings_are_shown_and_a_full_disk_is_said_once(tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **how: shown.append(str(message)))
    with warnings.catch_warnings():
        programs._mend(tmp_path)
        for text in ("no space", "no space"):
            warnings.warn(
                f"Error writing persistent compilation cache entry for 'jit_f': {text}", stacklevel=1
            )
        warnings.filterwarnings("always", message="something")
        warnings.warn("something else", stacklevel=1)
    assert capsys.readouterr().err.count("\n") == 1
    assert shown == ["something else"]


def test_importing_the_package_imports_none_of_what_it_stands_on():
    heavy = ("jax", "numpy", "pyarrow", "matplotlib", "diffrax", "optax", "tyro", "rich", "scipy")
    code = f"import sys, ufm_jax; print([name for name in {heavy!r} if name in sys.modules])"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert made.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_library_never_keeps_programs():
    code = (
        "import jax; jax.config.update('jax_enable_x64', True); import ufm_jax as ufm\n"
        "ufm.certify([[1.0], [-1.0]], [[1.0, -1.0]], labels=[0, 1], weight_decay=1e-2)\n"
        "print(jax.config.values['jax_compilation_cache_dir'])"
    )
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True, env=kept
    )
    assert made.stdout.strip() == "None"
