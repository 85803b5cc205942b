"""Real processes killed, interrupted, doubled: what is finished is kept, and the rows come out the same.

UFM_KILLS=20 kills as many times as one would before a release; every day it is three.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import HEEDING, difference

from ufm_jax.interrupt import GRACE
from ufm_jax.runs.store import load

KILLS = int(os.environ.get("UFM_KILLS", "3"))
SHAPE = "--num-classes 3 --per-class 2 --dim 2 --decay-w 5e-3 --decay-h 1e-3 --decay-b 1e-2"
PATIENCE = 120


def command(out, *flags):
    sizes = f"{SHAPE} --starts 3000 --shard-size 100 --keep-points"
    return [sys.executable, "-m", "ufm_jax", "sweep", *sizes.split(), "--out", str(out), *flags]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One compilation for all processes, since each begins anew."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
    jax = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return os.environ | jax


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, environment):
    """The rows of a run that nothing happened to, in 30 shards."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(command(out), env=environment, check=True, capture_output=True, timeout=PATIENCE)
    return load(out)


@pytest.fixture
def begin(environment):
    """Start a sweep; whatever still runs in the end is killed."""
    started = []

    def begin(out, *flags):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*HEEDING, *command(out, *flags)], env=environment, **streams))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def shards_of(out):
    return sorted(f.name for f in out.glob("points/*.parquet"))


def wait_for_shards(out, process, count):
    """Wait until a running sweep has finished `count` shards."""
    until = time.monotonic() + PATIENCE
    while len(shards_of(out)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_out_the_same(tmp_path, begin, undisturbed):
    moment = random.Random(0)
    out, kills = tmp_path / "run", 0
    while kills < KILLS:
        process = begin(out)
        if kills % 3:  # in the middle of the work, and not only in start-up
            held = len(shards_of(out))
            wait_for_shards(out, process, min(held + moment.randint(1, 2), 29))
            time.sleep(moment.uniform(0.0, 0.1))
        else:
            time.sleep(moment.uniform(0.0, 3.0))
        if process.poll() is not None:  # it was done before the blow
            assert process.returncode == 0, process.communicate()[1]
            out = tmp_path / f"run{kills}"
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    process = begin(out)
    assert process.wait(PATIENCE) == 0, process.communicate()[1]
    assert difference(load(out), undisturbed) is None
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
def test_of_two_processes_one_is_refused(tmp_path, begin, undisturbed, seed):
    out = tmp_path / "run"
    both = [begin(out), begin(out, "--seed", seed)]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    (refused,) = (err for process, err in zip(both, said, strict=True) if process.returncode)
    assert "ufm: error: out: " in refused
    assert "in use by process" in refused or "holds a different run" in refused
    table = load(out)  # checked on loading: every shard is of the run that the manifest names
    assert (difference(table, undisturbed) is None) == (both[0].returncode == 0 or seed == "0")


def test_ctrl_c_says_how_to_go_on(tmp_path, begin, undisturbed):
    out = tmp_path / "run"
    process = begin(out)
    wait_for_shards(out, process, 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    last = said.splitlines()[-1]
    assert last.startswith(
        "ufm: stopped; what is finished is kept, the same command goes on: ufm sweep --num"
    )
    assert last.endswith(f"--out {out}")
    assert "Traceback" not in said
    assert 2 <= len(shards_of(out)) < 30
    assert not list(out.rglob("*.tmp"))
    again = begin(out)
    assert again.wait(PATIENCE) == 0
    assert difference(load(out), undisturbed) is None


@pytest.mark.parametrize("moment", [0.2, 1.5, 3.0])
def test_ctrl_c_ends_soon_in_imports_and_compilations_too(tmp_path, moment):
    out = tmp_path / "run"
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}  # nothing is compiled yet
    process = subprocess.Popen([*HEEDING, *command(out)], env=env, stderr=subprocess.PIPE, text=True)
    time.sleep(moment)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, said
    assert time.monotonic() - sent < GRACE + 5
    assert said.splitlines()[-1].startswith(
        "ufm: stopped; what is finished is kept, the same command goes on"
    )
    assert "Traceback" not in said


DEAF = """
import hashlib, sys, time
from ufm_jax.interrupt import orderly, run_command
def lost():  # an interruption that falls into a callback
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
def busy():  # minutes in C, as a compilation
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
def undone():  # what must be undone is
    with orderly():
        try:
            time.sleep(60)
        finally:
            time.sleep(0.5)
            print("undone", flush=True)
def command():
    print("ready", flush=True)
    {"lost": lost, "busy": busy, "undone": undone}[sys.argv[1]]()
run_command(command)
"""


@pytest.mark.parametrize("how", ["lost", "busy", "undone"])
@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_ends_whatever_the_command_is_doing(how, times):
    deaf = [*HEEDING, sys.executable, "-c", DEAF, how]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(deaf, **streams)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    sent = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert time.monotonic() - sent < 3
    assert said.count("ufm: stopped") == 1
    assert len(said.splitlines()) == 1
    assert ("undone" in out) == (how == "undone" and times == 1)


def test_a_file_that_is_being_written_is_whole(tmp_path):
    code = """
import sys, time
from pathlib import Path
from ufm_jax.interrupt import run_command
from ufm_jax.files import write_file
def slow(file):
    print("ready", flush=True)
    time.sleep(1)
    file.write(b"whole")
run_command(lambda: write_file(Path(sys.argv[1]), slow))
"""
    run = [*HEEDING, sys.executable, "-c", code, str(tmp_path / "file")]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.slow
def test_ctrl_c_at_the_very_end_is_130_or_nothing():
    for delay in (0.0, 0.02, 0.1):
        command = [*HEEDING, sys.executable, "-m", "ufm_jax", "predict", *SHAPE.split()]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
        assert process.returncode in (0, 130), said
        assert "Traceback" not in said
