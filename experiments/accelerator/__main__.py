"""Does an accelerator find what the CPU finds, and how fast?

    python -m experiments.accelerator --scale smoke|default|paper --budget 480

On whatever device JAX finds: `agreement` compares rows toward minima and saddles with the CPU's, and `stages`
measures judged starts a second over growing batches, beside the device's own rates. Both run in processes of
their own; this one touches no device. It hears each result as it comes, writes all there are into
accelerator_DEVICE.json after each, ends what has not ended by the budget, and draws what there is. A stage
that fails, crashes or hangs is one error in that file; a fresh process does the rest. On a GPU or TPU, but
not at smoke scale, `networks` then trains the paper's with the time that is left.

Exit status 1: rows differ beyond what `agreement` allows, or a stage failed. Stages left undone at the budget
are named, and are no failure; nor are networks that did not end.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.accelerator import networks
from experiments.accelerator.agreement import Sizes
from experiments.accelerator.figure import plot
from experiments.accelerator.plan import Plan, stages
from experiments.accelerator.results import Results, facts, name_of, table
from experiments.benchmark.settings import LARGE, SMALL
from experiments.common import FIGURES, Scale, cli, folder, record, save, set_up

RESERVE = 0.03  # share of the budget, and seconds, kept for the figure
RESERVE_S = 5.0
PATIENCE = 0.35  # share of the budget after which a stage that says nothing is given up
HEARD_AT_ONCE = {
    "started",
    "found",
    "failed",
    "skipped",
    "too_large",
}  # then all is written down
REFERENCE = 0.5  # share of the budget that the CPU's rows may take


@dataclass(frozen=True)
class Config:
    """Seconds the whole run may take, and what is done at a scale: paper is default.

    Raises:
        ValueError: naming the budget that is no time.
    """

    scale: Scale = "default"
    budget: float = 480.0
    data_dir: Path | None = None  # where the networks' images are

    def __post_init__(self) -> None:
        if not 0 < self.budget < math.inf:
            raise ValueError(f"budget: need a number of seconds > 0, got {self.budget}")


@dataclass(frozen=True)
class Amount:
    """How much: see `plan.Plan`."""

    sizes: tuple[Sizes, ...] = (SMALL, LARGE)
    rows: int = 2000
    batches: tuple[int, ...] = (1024, 8192, 65536, 524288)
    with_spectra: int = 2048
    matrix: int = 8192
    copied: int = 2**27


AMOUNTS: dict[Scale, Amount] = {
    "smoke": Amount((SMALL,), 100, (64, 128), 64, 512, 2**20),
    "default": Amount(),
    "paper": Amount(),
}


def run(config: Config, amount: Amount, keep: Callable[[Results], None] = lambda results: None) -> Results:
    """Do all stages within the budget; `keep` is called with the results whenever there are more."""
    began, results = time.time(), Results()
    deadline = began + config.budget * (1 - RESERVE) - RESERVE_S
    todo = list(stages(amount.sizes))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        # A cache of its own, unless the user has one: first calls compile, and a second process need not.
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        ends.callback(_reference(amount, folder, env, began + REFERENCE * config.budget))
        plan = Plan(
            (), deadline, name, amount.rows, amount.batches, amount.with_spectra, amount.matrix, amount.copied
        )
        while todo and time.time() < deadline:
            (folder / "plan.json").write_text(replace(plan, stages=tuple(todo)).text())
            command = [sys.executable, "-m", "experiments.accelerator.stages", str(folder / "plan.json")]
            how = "ended"
            for said in heard(command, env, deadline, PATIENCE * config.budget):
                how = said.get("how", how)
                results.hear(said)
                if said["word"] in HEARD_AT_ONCE:
                    keep(results)
            given_up = results.running
            if given_up:
                out_of_time = time.time() >= deadline
                what = {"left_undone": "stopped at the budget"} if out_of_time else {"error": how}
                results.stages[given_up] = what
            left = [s for s in todo if s.name not in results.stages]
            if (
                len(left) == len(todo) and time.time() < deadline
            ):  # it ended before it began: so would the next
                results.stages |= {s.name: {"error": f"no process that does it: {how}"} for s in left}
            todo = [s for s in left if s.name not in results.stages]
    for stage in todo:
        results.stages[stage.name] = {"left_undone": "stopped at the budget"}
    undone = [name for name, s in results.stages.items() if "left_undone" in s]
    results.ended = f"stopped at the budget without {', '.join(undone)}" if undone else "all stages done"
    return results


def heard(
    command: list[str], env: dict[str, str], deadline: float, patience: float
) -> Iterator[dict[str, Any]]:
    """Run a process and yield the JSON objects that it prints, one a line, and last `how` it ended.

    It is killed at the deadline, or when it has said nothing for `patience` seconds.
    """
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        with process.stdout or contextlib.nullcontext(()) as stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        while (line := lines.get(timeout=max(0.0, min(patience, deadline - time.time())))) is not None:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and "word" in said:
                    yield said
        yield {"word": "ended", "how": f"its process ended with status {process.wait(timeout=patience)}"}
    except (queue.Empty, subprocess.TimeoutExpired):
        yield {"word": "ended", "how": f"killed, having said nothing for {patience:.0f} s or at the budget"}
    finally:
        _end(process)


def _reference(amount: Amount, folder: Path, env: dict[str, str], until: float) -> Callable[[], None]:
    """Begin to make the CPU's rows; return what ends it. `folder` holds `done` or `ended` when it has."""
    each = [",".join(map(str, sizes)) for sizes in amount.sizes]
    command = [
        sys.executable,
        "-m",
        "experiments.accelerator.agreement",
        str(folder),
        str(amount.rows),
        *each,
    ]
    process = subprocess.Popen(command, env=env | {"JAX_PLATFORMS": "cpu"})
    stop = threading.Event()

    def watch() -> None:
        while process.poll() is None and time.time() < until and not stop.wait(0.1):
            pass
        _end(process)
        (folder / ("ended" if process.returncode else "done")).touch()

    watcher = threading.Thread(target=watch)
    watcher.start()

    def end() -> None:
        stop.set()
        watcher.join()

    return end


def _end(process: subprocess.Popen[Any]) -> None:
    """Kill a process; one that its device holds is left to the system."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=RESERVE_S / 2)


def main(config: Config) -> None:
    """Do what the budget allows, write and draw it; exit with status 1 if not all is as it should be."""
    set_up()
    began = time.time()
    command = f"python -m experiments.accelerator --scale {config.scale} --budget {config.budget:g}"
    told = lambda results: facts(results, command, time.time() - began)

    def keep(results: Results) -> None:
        if results.made_by:
            record(name_of(results), config.scale, results.made_by, **told(results))

    results = run(config, AMOUNTS[config.scale], keep)
    print("\n".join(table(results)), flush=True)
    content = told(results)
    draw = partial(plot, content, results.made_by)
    save(draw, name_of(results), config.scale, results.made_by, **content)
    if config.scale != "smoke" and results.made_by.get("device", "cpu") != "cpu":
        left = config.budget - (time.time() - began) - RESERVE_S
        trained = networks.train(left, update=folder(config.scale) == FIGURES, data_dir=config.data_dir)
        record(name_of(results), config.scale, results.made_by, **content, networks=trained)
    sys.exit(0 if results.good else 1)


if __name__ == "__main__":
    main(cli(Config))
