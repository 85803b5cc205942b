"""Shards on a Dask cluster: workers write them into the shared folder, the scheduler carries no arrays.

One process here holds the folder's lock, gives out shards, one a worker at a time, and counts. The value of
a shard's future is its counts of verdicts. Dask does a shard again whose worker was killed, or which raised;
one that keeps failing is given up, the others go on.
"""

import asyncio
import itertools
import logging
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import pyarrow as pa

from ufm_jax.files import provenance
from ufm_jax.interrupt import check_interrupted, orderly
from ufm_jax.runs import store
from ufm_jax.runs.engine import Progress, run_shards
from ufm_jax.runs.folder import claimed
from ufm_jax.runs.plan import Shard, Sweep, SweepConfig, loss_of
from ufm_jax.runs.work import check

if TYPE_CHECKING:
    from distributed import Client, Future

RETRIES = 2  # after an exception; a shard that kills is tried on four workers, which is Dask's own setting
PATIENCE = 15.0  # seconds that a scheduler has to answer
LOOK_EVERY = 2.0  # seconds between looks for new workers
NFS_DELAY = 60.0  # seconds in which another machine's new file shows up: how long NFS clients keep folders

log = logging.getLogger(__name__)
one_at_a_time = threading.Lock()


def run(
    config: Sweep, out: Path, where: str, progress: Progress | None = None, *, repair: bool = False
) -> tuple[pa.Table | None, dict[Shard, str]]:
    """Run a sweep on the cluster `where`; return its table and the shards given up, each with its error.

    `where` is local:N, a scheduler's address, or a YAML file of arguments for `dask_jobqueue.SLURMCluster`.
    The rows are those of `store.run`, which also says what is raised for `out`.

    Raises:
        ValueError: naming `cluster`, if it is none of these or Dask is not installed.
        OSError: naming `cluster`, if its scheduler does not answer or was lost; finished shards are kept.
    """
    check(config)
    out = out.resolve()
    with claimed(config, out, repair=repair):
        todo = store.unfinished(config, out, repair=repair)
        failed: dict[Shard, str] = {}
        first = next(todo, None)
        if first is None:
            store.opened(config, out, repair=repair)
        else:
            with orderly(), connected(where) as client, client.as_current():
                store.opened(config, out, _made_by(client), repair=repair)
                failed = _give_out(client, config, out, itertools.chain([first], todo), progress)
        failed |= _not_here(config, out, failed)
        table = store.concluded(config, out, failed)
    return table, failed


def work(config: Sweep, digest: str, out: Path, shard: Shard) -> dict[str, int]:
    """Compute and write one shard, in a worker; return its counts of verdicts.

    Unpickling this function imports `ufm_jax`, which gives XLA enough threads, before any computation.

    Raises:
        RuntimeError: if `digest`, which the manifest has, is not this worker's of the same configuration.
    """
    if config.digest() != digest:
        raise RuntimeError("the worker has another version of ufm-jax than the command")
    jax.config.update("jax_enable_x64", True)
    with one_at_a_time:  # a worker may have several threads; XLA has one pool of them a process
        ((_, table),) = run_shards(config, [shard], None)
        store.write_shard(config, out, shard, table)
    return dict(Counter(table["verdict"].to_pylist()))


def check_where(where: str) -> None:
    """Check what `where` says, before anything is started.

    Raises:
        ValueError: naming `cluster`.
    """
    if where.startswith("local:"):
        count = where.removeprefix("local:")
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"cluster: need local:N with N >= 1, got {where!r}")
    elif where.endswith((".yaml", ".yml")):
        if not Path(where).is_file():
            raise ValueError(f"cluster: there is no file {where}")
    elif "://" not in where:
        raise ValueError(f"cluster: need local:N, tcp://HOST:PORT or a .yaml file, got {where!r}")


@contextmanager
def connected(where: str) -> Iterator["Client"]:
    """Start or find the cluster; what was started is stopped in the end, what was found goes on.

    Raises:
        ValueError: naming `cluster`, for a bad argument or where Dask is not installed.
        OSError: naming `cluster`, if no scheduler answers.
    """
    check_where(where)
    try:
        import distributed
    except ImportError as error:
        raise ValueError("cluster: needs Dask; pip install 'ufm-jax[cluster]'") from error
    with ExitStack() as stack:
        if where.startswith("local:"):
            start = distributed.LocalCluster(**_local(where))
            address: Any = stack.enter_context(start)
        elif where.endswith((".yaml", ".yml")):
            address = stack.enter_context(_slurm(where))
        else:
            _check_answers(where)
            address = where
        yield stack.enter_context(distributed.Client(address, set_as_default=False))


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the command (a terminal sends it to local workers too); called when a worker starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_answers(address: str) -> None:
    """Ask a scheduler who it is: `Client` itself waits for ever where something listens that is none."""
    from distributed import rpc

    async def identity() -> None:
        async with rpc(address) as scheduler:
            await asyncio.wait_for(scheduler.identity(), PATIENCE)

    try:
        with ThreadPoolExecutor(1) as own_loop:  # a notebook has one running here
            own_loop.submit(lambda: asyncio.run(identity())).result()
    except Exception as error:  # who knows what answered
        why = f"{type(error).__name__} {error}".strip()
        raise OSError(
            f"cluster: no scheduler answers at {address} ({why}); is it running, and reachable?"
        ) from error


def _local(where: str) -> dict[str, Any]:
    # A worker's memory is XLA's, of which Dask knows nothing: it must not stop a worker for it.
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL, "preload": __name__}
    # As many devices as the command has: XLA then rounds alike, and the rows are those of a local run.
    alike = {"env": {"JAX_NUM_CPU_DEVICES": str(jax.local_device_count())}}
    return {
        "n_workers": int(where.removeprefix("local:")),
        "threads_per_worker": 1,
        "memory_limit": None,
        **quiet,
        **alike,
    }


def _slurm(where: str) -> Any:
    """Submit Slurm jobs: the file's key `jobs` says how many, the other keys are SLURMCluster's arguments."""
    try:
        import yaml
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ValueError("cluster: needs dask-jobqueue; pip install 'ufm-jax[cluster]'") from error
    try:
        options = dict(yaml.safe_load(Path(where).read_text()))
        jobs = int(options.pop("jobs"))
        cluster = SLURMCluster(**options)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        said = "needs the key jobs" if isinstance(error, KeyError) else error
        raise ValueError(f"cluster: cannot make Slurm jobs of {where}: {said}") from error

    try:
        _check_accepts(cluster.job_script())
    except (OSError, subprocess.CalledProcessError) as error:
        cluster.close()
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValueError(f"cluster: cannot submit the Slurm jobs of {where}: {said}") from error
    cluster.scale(jobs=jobs)
    return cluster


def _check_accepts(script: str) -> None:
    """Ask Slurm whether it would take the job: once submitted, Dask would log a refusal, and wait."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        subprocess.run(["sbatch", "--test-only", file.name], check=True, capture_output=True, text=True)


def _give_out(
    client: "Client", config: Sweep, out: Path, todo: Iterator[Shard], progress: Progress | None
) -> dict[Shard, str]:
    """Have every shard done; return those given up.

    No shard waits in a worker's queue behind another: Dask would hold both guilty when one kills the worker.
    """
    from distributed import wait

    workers, next_shard = 0, next(todo, None)
    running: dict[Future, Shard] = {}
    digest = config.digest()
    portable = replace(config, loss=loss_of(config)) if isinstance(config, SweepConfig) else config
    failed: dict[Shard, str] = {}
    seen: Counter = Counter()
    done = 0
    try:
        while next_shard or running:
            check_interrupted()
            workers = _workers(client, workers)
            while next_shard and len(running) < max(1, workers):
                future = client.submit(work, portable, digest, out, next_shard, pure=False, retries=RETRIES)
                running[future], next_shard = next_shard, next(todo, None)
            try:
                ended = wait(list(running), timeout=LOOK_EVERY, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in ended:
                shard = running.pop(future)
                if future.status == "finished":
                    seen.update(future.result())
                    done += shard.stop - shard.first
                    if progress is not None:
                        progress(done, seen)
                elif future.status == "error":
                    failed[shard] = _first_line(future.exception())
                else:
                    raise CancelledError
    except (CancelledError, OSError) as error:  # workers' own errors are in their futures
        raise OSError(
            "cluster: lost the scheduler; the same command goes on from what is finished"
        ) from error
    finally:  # interrupted, too
        if client.status == "running":
            client.cancel(list(running))
    return failed


def _workers(client: "Client", before: int) -> int:
    """Return how many workers there are; say it when there are none any more."""
    count = len(client.nthreads())
    if before and not count:
        log.warning("ufm: no worker is there; waiting for one, Ctrl-C keeps what is finished")
    return count


def _not_here(config: Sweep, out: Path, failed: dict[Shard, str]) -> dict[Shard, str]:
    """Return shards that were done but whose files this machine does not see, for as long as NFS may take."""
    patient_until = time.monotonic() + NFS_DELAY
    while missing := set(store.unfinished(config, out)) - set(failed):
        if time.monotonic() > patient_until:
            return {s: f"no file in {out}: workers must see this very folder" for s in sorted(missing)}
        time.sleep(1.0)
    return {}


def _made_by(client: "Client") -> dict[str, Any]:
    """Return versions and device for the manifest: a worker's, since this process computes nothing."""
    _workers(client, 1)
    try:
        return client.submit(_provenance, pure=False).result()
    except Exception as error:  # whatever the worker raised: no such module, no such device
        said = f"{_first_line(error)}; it needs this version of ufm-jax"
        raise OSError(f"cluster: a worker cannot begin: {said}") from error


def _provenance() -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    return provenance()


def _first_line(error: BaseException | None) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
