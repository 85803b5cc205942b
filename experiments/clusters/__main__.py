"""Clusters of 4 to 8 Lennard-Jones atoms: what is known, what sweeps find, and topsearch on the same task.

    python -m experiments.clusters --scale smoke|default|paper [--topsearch PYTHON]

topsearch (Dicks & Pyzer-Knapp 2024) needs NumPy 1, so an environment of its own, whose Python is given here
or as TOPSEARCH_PYTHON (`python -m venv DIR; DIR/bin/pip install topsearch==0.0.3 scipy==1.13.1`); without it
its lines are left out. What counts is decided by `referee`, which is NumPy alone. Seconds are of CPU time, of
all threads and processes together: what one free core would take, whatever else the machine does.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments.clusters.referee import Book, counted
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up
from ufm_jax.models.lennard_jones import KNOWN, LOWEST

NAMES = ("minima", "transition states")
PEER = Path(__file__).with_name("peer.py")
DEFAULT_PYTHON = os.environ.get("TOPSEARCH_PYTHON", sys.executable)


@dataclass(frozen=True)
class Config:
    """Atoms, starts of the sweeps of each, seconds of CPU for each of two processes of topsearch."""

    starts: dict[int, tuple[int, ...]]
    seconds: dict[int, float]


GROWING = (8, 32, 128, 512, 2048)
SCALES: dict[Scale, Config] = {
    "smoke": Config({4: (8, 32), 5: (8, 64)}, {}),
    "default": Config(dict.fromkeys(range(4, 9), GROWING), {5: 5.0, 6: 10.0, 7: 20.0, 8: 40.0}),
    "paper": Config(dict.fromkeys(range(4, 9), (*GROWING, 8192)), {5: 60.0, 6: 120.0, 7: 300.0, 8: 1200.0}),
}


def installed(python: str) -> bool:
    """Return whether topsearch can be imported there."""
    try:
        ended = subprocess.run([python, "-c", "import topsearch"], capture_output=True, check=False)
    except OSError:
        return False
    return ended.returncode == 0


def swept(atoms: int, starts: tuple[int, ...]) -> dict[str, Any]:
    """Return what sweeps find, in a process of their own that keeps no compiled programs."""
    command = [sys.executable, "-m", "experiments.clusters.ours", str(atoms), "0", *map(str, starts)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    told = json.loads(ended.stdout.splitlines()[-1])
    for sweep in (*told["first"], *told["warm"]):
        book = counted(sweep["index"], sweep.pop("points"))
        sweep |= {"found": len(book.points), "refused": book.refused, "energies": book.values}
    return told


def explored(python: str, atoms: int, seconds: float) -> dict[str, Any]:
    """Return what two processes of topsearch find, at the same time, by themselves and together."""
    command = [python, str(PEER), str(atoms)]
    running = [
        subprocess.Popen([*command, str(seed), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in (0, 1)
    ]
    told = []
    for process in running:
        out, error = process.communicate()
        if process.returncode:
            raise RuntimeError(f"topsearch: {error.decode().strip().splitlines()[-1]}")
        told.append(json.loads(out.splitlines()[-1]))
    found: dict[str, Any] = {name: [one[name] for one in told] for name in ("cpu_s", "wall_s", "rounds")}
    both = sorted((2 * f[1], f[0], f[3]) for one in told for f in one["found"])  # both clocks run
    alone = [(f[1], f[0], f[3]) for f in told[0]["found"]]
    for name, points in (("one", alone), ("two", both)):
        found[name] = [_curve(index, points) for index in (0, 1)]
    return found


def _curve(index: int, points: list[tuple[float, int, list[float]]]) -> dict[str, Any]:
    """Return when each new point was found, and how many reported ones the referee refused."""
    book = Book(index)
    times = [seconds for seconds, kind, x in points if kind == index and book.enter(np.asarray(x))]
    return {"times": times, "found": len(times), "refused": book.refused, "energies": book.values}


def run(config: Config, python: str) -> list[dict[str, Any]]:
    """Search each cluster, with topsearch where it is installed."""
    there = bool(config.seconds) and installed(python)
    if config.seconds and not there:
        print("topsearch not installed")
    table = []
    for atoms, starts in config.starts.items():
        row: dict[str, Any] = {"atoms": atoms, "known": KNOWN[atoms], "lowest": LOWEST[atoms]}
        row["load_before"] = os.getloadavg()
        row["ours"] = swept(atoms, starts)
        if there and atoms in config.seconds:
            row["topsearch"] = explored(python, atoms, config.seconds[atoms])
        table.append(row)
        print(_line(row), flush=True)
    return table


def _line(row: dict[str, Any]) -> str:
    lines = []
    for index, name in enumerate(NAMES):
        (first,) = (s for s in row["ours"]["first"] if s["index"] == index)
        warm = [s for s in row["ours"]["warm"] if s["index"] == index]
        parts = [f"n = {row['atoms']}, {name}: {warm[-1]['found']} of {row['known'][index]} known"]
        lowest = min(warm[-1]["energies"], default=np.nan)
        parts.append(f"lowest {lowest:.6f}, {first['starts']} starts")
        parts.append(f"{first['cpu_s']:.2f} s of CPU first, {warm[-1]['cpu_s']:.2f} s warm")
        if "topsearch" in row:
            two = row["topsearch"]["two"][index]
            last = f", the last after {two['times'][-1]:.1f} s" if two["times"] else ""
            parts.append(f"topsearch {two['found']}{last} of {sum(row['topsearch']['cpu_s']):.0f} s")
        lines.append("; ".join(parts))
    return "\n".join(lines)


def plot(table: list[dict[str, Any]]) -> plt.Figure:
    """Draw distinct points found against CPU time: a column for each cluster, minima above."""
    shown = [row for row in table if row["atoms"] > 4]
    with plt.rc_context(STYLE):
        size = (2.9 * len(shown) + 1.0, 5.2)
        figure, axes = plt.subplots(
            2, len(shown), figsize=size, sharex="col", squeeze=False, layout="constrained"
        )
        for column, row in zip(axes.T, shown, strict=True):
            for index, ax in enumerate(column):
                _panel(ax, row, index)
            column[0].set_title(f"{row['atoms']} atoms")
            column[1].set_xlabel("seconds of CPU time")
        for ax, name in zip(axes[:, 0], NAMES, strict=True):
            ax.set_ylabel(f"distinct {name} found")
        figure.legend(*axes[1, -1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return figure


def _panel(ax: Any, row: dict[str, Any], index: int) -> None:
    known = row["known"][index]
    ax.axhline(known, color="0.5", lw=0.8, ls="--", label="known")
    warm = [s for s in row["ours"]["warm"] if s["index"] == index]
    first = next(s for s in row["ours"]["first"] if s["index"] == index)
    ours = {"color": COLOURS[0], "marker": MARKERS[0], "ms": 4}
    ax.plot([s["cpu_s"] for s in warm], [s["found"] for s in warm], **ours, label="sweeps, compiled")
    ax.plot(first["cpu_s"], first["found"], **ours, mfc="none", ls="", label="first sweep, compiling")
    for number, (name, label) in enumerate(
        (("one", "topsearch"), ("two", "topsearch, 2 processes")), start=1
    ):
        if "topsearch" in row:
            times = row["topsearch"][name][index]["times"]
            end = sum(row["topsearch"]["cpu_s"][: 1 if name == "one" else 2])
            x, y = [*times, end], [*range(1, len(times) + 1), len(times)]
            ax.step(x, y, where="post", color=COLOURS[number], lw=1.2, label=label)
    ax.set(xscale="log", ylim=(0, 1.12 * known + 0.5))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def main(scale: Scale = "default", topsearch: str = DEFAULT_PYTHON) -> None:
    """Search, compare, print, and draw figures/clusters.png and .pdf.

    Args:
        scale: of the clusters and starts.
        topsearch: a Python in whose environment topsearch is.
    """
    set_up()
    table = run(SCALES[scale], topsearch)
    made_by, *_ = [row["ours"].pop("made_by") for row in table]
    machine = {"cores": os.cpu_count(), "load_after": os.getloadavg()}
    save(partial(plot, table), "clusters", scale, made_by, machine=machine, table=table)


if __name__ == "__main__":
    cli(main)
