"""The paper's networks at its size, with what is left of a budget; `make paper` goes on from there.

The designs of `fixed_etf` come first, then `nc_training` by SGD, each in a process of its own that shares its
time among its runs, keeps checkpoints and draws how far all of them came.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEAST = 60.0  # seconds with which it is worth beginning
BUDGETED = 0.8  # share of a process's time that it is told; the rest is for what runs over, and its figures
FIRST = 0.7  # share of the time that the first may take


def commands(seconds: float, update: bool, data_dir: Path | None) -> Iterator[tuple[str, list[str], float]]:
    """Yield each experiment's name, its command and the seconds that it may take of those left."""
    until = time.monotonic() + seconds
    for name, flags, share in (("fixed_etf", [], FIRST), ("nc_training", ["--only", "sgd"], 1.0)):
        mine = share * (until - time.monotonic())
        budget = ["--scale", "paper", "--budget", f"{BUDGETED * mine / 60:.2f}"]
        where = [*(["--update"] if update else []), *(["--data-dir", str(data_dir)] if data_dir else [])]
        yield name, [sys.executable, "-m", f"experiments.{name}", *budget, *flags, *where], mine


def train(seconds: float, update: bool, data_dir: Path | None = None) -> dict[str, Any]:
    """Run what fits, and return of each experiment how it ended: None for one that there was no time for."""
    ended: dict[str, Any] = {}
    for name, command, mine in commands(seconds, update, data_dir):
        if mine < LEAST:
            ended[name] = None
            continue
        print(f"{' '.join(command[1:])}, {mine:.0f} s at most", flush=True)
        try:
            status = subprocess.run(command, timeout=mine, check=False).returncode
            ended[name] = "done" if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            ended[name] = f"stopped after {mine:.0f} s; its checkpoints are kept"
    return ended
