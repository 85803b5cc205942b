"""Shards on Dask workers: the rows of a local run, whatever happens to the workers."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace

import dask
import distributed
import jax
import psutil
import pytest
from conftest import HEEDING, SWEEP, difference

from ufm_jax.cli import main
from ufm_jax.runs import cluster, store
from ufm_jax.runs.plan import shards

CONFIG = replace(SWEEP, starts=400, shard_size=40)
FLAGS = (
    "--counts 2,2,2 --dim 2 --decay-w 5e-3 --decay-h 1e-3 --decay-b 1e-2 "
    "--starts 400 --keep-points --shard-size 40"
)

# Dask's own: it closes its event loops when their threads have gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning:distributed", "ignore::ResourceWarning:asyncio"
)


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """Workers begin anew: give them what the tests set and bits depend on, and one compilation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.local_device_count()))
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The folder and rows of a run without a cluster."""
    out = tmp_path_factory.mktemp("local") / "run"
    store.run(CONFIG, out)
    return out


def workers():
    """Processes of Dask workers below this one."""
    below = psutil.Process().children(recursive=True)
    return [p for p in below if "spawn_main" in " ".join(p.cmdline()) and p.children() == []]


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(tmp_path, local):
    killed, counted = [], []

    def kill():
        killed.append(max(workers(), key=lambda p: p.cpu_times().user))
        killed[-1].send_signal(signal.SIGKILL)

    def progress(done, seen):
        counted.append(done)
        if len(counted) == 3:
            threading.Timer(0.1, kill).start()  # in the middle of the next shards

    table, failed = cluster.run(CONFIG, tmp_path / "run", "local:2", progress)
    assert failed == {}
    assert len(killed) == 1
    assert counted == sorted(counted)
    assert counted[-1] == table.num_rows == CONFIG.num_rows
    assert difference(store.load(tmp_path / "run"), store.load(local)) is None
    made = {
        name: json.loads((out / "manifest.json").read_text())
        for name, out in (("l", local), ("c", tmp_path / "run"))
    }
    assert made["l"] == made["c"]


@pytest.mark.slow
def test_shards_that_keep_failing_are_given_up_and_tried_again(tmp_path, local, monkeypatch, capsys):
    def fails(config, digest, out, shard):  # goes to workers by value: they do not see this module
        import os
        import signal

        from ufm_jax.runs.cluster import work

        if shard.number == 3:
            raise RuntimeError("out of luck\nat length")
        if shard.number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(config, digest, out, shard)

    run = ["sweep", *FLAGS.split(), "--out", str(tmp_path / "run"), "--cluster", "local:1"]
    monkeypatch.setattr(cluster, "work", fails)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), pytest.raises(SystemExit) as stopped:
        main(run)
    monkeypatch.undo()
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "ufm: shard 3 was given up: RuntimeError: out of luck\n" in said.err
    assert "ufm: shard 5 was given up: KilledWorker: " in said.err
    assert "320 rows in all" in said.out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["rows"], summary["rows_planned"], list(summary["failed"])) == (320, 400, ["3", "5"])
    main(run)
    assert json.loads((tmp_path / "run/summary.json").read_text())["failed"] == {}
    assert difference(store.load(tmp_path / "run"), store.load(local)) is None


def test_a_scheduler_that_runs_already_goes_on(tmp_path, local):
    (local / "points" / "00004.parquet").rename(tmp_path / "kept")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=None) as found:
        table, failed = cluster.run(CONFIG, local, found.scheduler_address)
        assert (table.num_rows, failed) == (400, {})
        with distributed.Client(found) as client:
            assert client.submit(len, "on").result() == 2
    assert (local / "points" / "00004.parquet").read_bytes() == (tmp_path / "kept").read_bytes()


def test_a_worker_compiles_once(tmp_path):
    out = tmp_path / "run"
    (out / "points").mkdir(parents=True)
    first, second, third, *_ = list(shards(CONFIG))[1:]
    cluster.work(CONFIG, CONFIG.digest(), out, first)
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert cluster.work(CONFIG, CONFIG.digest(), out, second) == {"GLOBAL_MINIMUM": 40}
        cluster.work(CONFIG, CONFIG.digest(), out, third)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.slow
def test_ctrl_c_keeps_finished_shards(tmp_path):
    out, many = tmp_path / "run", replace(CONFIG, starts=1200)  # not done before the signal comes
    flags = FLAGS.replace("--starts 400", "--starts 1200").split()
    command = [sys.executable, "-m", "ufm_jax", "sweep", *flags, "--out", str(out), "--cluster", "local:1"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*HEEDING, *command], start_new_session=True, **streams)
    until = time.monotonic() + 240
    while len(list(out.glob("points/*.parquet"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("ufm: stopped; what is finished is kept")
    assert "Traceback" not in said
    assert len(list(out.glob("points/*.parquet"))) < 30
    store.run(many, out)
    store.run(many, tmp_path / "undisturbed")
    assert difference(store.load(out), store.load(tmp_path / "undisturbed")) is None


@pytest.mark.parametrize("where", ["local:0", "local:many", "local:", "somewhere", "no.yaml"])
def test_bad_clusters_are_refused_by_name(tmp_path, where, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *FLAGS.split(), "--out", str(tmp_path / "run"), "--cluster", where])
    assert stopped.value.code == 2
    assert "ufm: error: cluster: " in capsys.readouterr().err


def test_without_dask_the_command_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *FLAGS.split(), "--out", str(tmp_path / "run"), "--cluster", "local:2"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("pip install 'ufm-jax[cluster]'")


def test_a_scheduler_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OSError, match=rf"^cluster: no scheduler answers at {address}"):
            cluster.run(CONFIG, tmp_path / "run", address)
    with pytest.raises(OSError, match=r"^cluster: no scheduler answers at tcp://127.0.0.1:1 "):
        cluster.run(CONFIG, tmp_path / "run", "tcp://127.0.0.1:1")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """`sbatch` is played by a script that starts the job here, `scancel` by one that ends it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    start = 'cp "$1" "$0.job" && setsid sh "$0.job" >"$0.log" 2>&1 & echo "Submitted batch job $!"'
    scripts = {"sbatch": f'[ "$1" = --test-only ] || {{ {start}; }}', "scancel": 'kill -- "-$1"'}
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "slurm.yaml").write_text("jobs: 1\ncores: 1\nmemory: 4GB\nqueue: short\n")
    return tmp_path / "slurm.yaml"


def test_slurm_jobs_do_the_shards(tmp_path, local, slurm):
    (local / "points" / "00007.parquet").rename(tmp_path / "kept")
    table, failed = cluster.run(CONFIG, local, str(slurm))
    assert (table.num_rows, failed) == (400, {})
    assert (local / "points" / "00007.parquet").read_bytes() == (tmp_path / "kept").read_bytes()


def test_jobs_that_slurm_refuses_are_an_error(tmp_path, slurm, monkeypatch):
    (tmp_path / "tools" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"(?s)^cluster: cannot submit .*no such partition"):
        cluster.run(CONFIG, tmp_path / "run", str(slurm))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^cluster: cannot submit .*sbatch"):
        cluster.run(CONFIG, tmp_path / "run", str(slurm))


@pytest.mark.parametrize("text", ["cores: 1\n", "jobs: many\n", "{", "- 1\n"])
def test_a_bad_slurm_file_is_an_error(tmp_path, text):
    (tmp_path / "slurm.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^cluster: cannot make Slurm jobs of .*slurm.yaml"):
        cluster.run(CONFIG, tmp_path / "run", str(tmp_path / "slurm.yaml"))
