"""Runs of contenders, each in a process of its own."""

import json
import subprocess
import sys
from typing import Any


def contend(name: str, sizes: tuple[int, int, int], starts: int, repeats: int) -> dict[str, Any]:
    """Run one contender in its own process, with the environment of this one; return what it printed.

    Raises:
        RuntimeError: with its standard error, if it failed.
    """
    print(f"{name} K={sizes[0]} n={sizes[1]} d={sizes[2]}, {starts} starts", file=sys.stderr, flush=True)
    result = json_of("experiments.benchmark.contenders", name, *sizes, starts, repeats)
    seconds = result["warm_s"] or result["first_s"]
    return result | {
        "us_a_start": seconds / starts * 1e6,
        "us_a_start_first": result["first_s"] / starts * 1e6,
    }


def json_of(module: str, *args: Any) -> dict[str, Any]:
    """Return what a module prints last, as JSON.

    Raises:
        RuntimeError: with its standard error, if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {args} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def limit_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of `experiments.limits`."""
    lines = []
    for r in rows:
        if r["what"] == "machine":
            rates = r["operations_per_s"] / 1e9, r["bytes_per_s"] / 1e9
            lines.append(
                "all cores: {:.1f} Gflop/s in a matrix product, {:.1f} GB/s in a triad".format(*rates)
            )
        else:
            steps = f", {r['steps']:.0f} steps" if "steps" in r else ""
            lines.append(
                f"{r['what']:<16} K={r['K']:<4} d={r['d']:<4} columns={r['columns']:<4} "
                f"{r['operations']:.3g} flop {r['bytes']:.3g} B  {r['measured_us']:.3g} µs, "
                f"limit {r['limit_us']:.3g} µs: {100 * r['share_of_limit']:.0f}%{steps}"
            )
    return lines
