"""One process of this package on a Lennard-Jones cluster: sweeps of more and more starts, timed.

    python -m experiments.clusters.ours ATOMS SEED STARTS...

Prints JSON. The first sweep of each target is one of most starts, in which everything is compiled; sweeps of
fewer starts see the first of the same starts, so that what they find can only grow.
"""

import json
import sys
import time
from typing import Any

import ufm_jax as ufm
from experiments.common import set_up
from ufm_jax.files import provenance

# isort: split
import numpy as np

TARGETS: dict[int, Any] = {0: "minima", 1: 1}
VERDICTS = ("LOCAL_MINIMUM", "STRICT_SADDLE")


def timed(landscape: ufm.Landscape, index: int, starts: int, seed: int) -> dict[str, Any]:
    """Return what a sweep toward an index found, a point for each orbit of it, and the time that it took."""
    begun = time.process_time(), time.perf_counter()
    run = ufm.sweep(landscape, starts=starts, target=TARGETS[index], seed=seed)
    rows = run.orbits.to_pylist()
    cpu, wall = time.process_time() - begun[0], time.perf_counter() - begun[1]
    told = [row for row in rows if (row["verdict"], row["index"]) == (VERDICTS[index], index)]
    return {
        "index": index,
        "starts": starts,
        "cpu_s": cpu,
        "wall_s": wall,
        "hits": [row["hits"] for row in told],
        "points": [np.asarray(run.point(row["row"]).x).ravel().tolist() for row in told],
        "verdicts": {
            k: run.table["verdict"].to_pylist().count(k) for k in set(run.table["verdict"].to_pylist())
        },
    }


def main(atoms: int, seed: int, counts: list[int]) -> None:
    """Sweep, and print what was found."""
    set_up()
    landscape = ufm.LennardJones(num_atoms=atoms)
    sweeps: dict[str, list[Any]] = {"first": [], "warm": []}
    for index in TARGETS:
        sweeps["first"].append(timed(landscape, index, max(counts), seed))
        for starts in sorted(counts):
            timed(landscape, index, starts, seed + 1)  # shapes that only so few starts have
            sweeps["warm"].append(timed(landscape, index, starts, seed))
    print(json.dumps({**sweeps, "made_by": provenance()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [int(a) for a in sys.argv[3:]])
