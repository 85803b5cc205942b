"""A census's folder: what was found is kept after every round, and the same command goes on from there.

DIR/manifest.json  configuration and its hash, versions, device, dtype
DIR/orbits.npz     representatives W (m,K,r), H (m,r,K), √n_k times class means, b (m,K); counts, evidence
DIR/orbits.csv     one row an orbit, lowest loss first
DIR/summary.json   starts, failures, unseen mass, completeness tests
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.landscape import census
from ufm_jax.landscape.census import Census, OrbitRow
from ufm_jax.landscape.completeness import unseen_mass
from ufm_jax.landscape.evidence import Evidence
from ufm_jax.model.losses import loss_of
from ufm_jax.model.problem import Problem, problem
from ufm_jax.model.reduction import check_class_means, reduced
from ufm_jax.runs.plan import CensusConfig
from ufm_jax.runs.store import open_folder, write_file, write_json

Progress = Callable[[Census], None]
Results = tuple[list[OrbitRow], dict[str, Any]]

COUNTERS = ("num_starts", "num_failed", "last_new")


def problem_of(config: CensusConfig) -> Problem:
    """Return the problem of a census."""
    return problem(
        counts=config.counts,
        dim=config.dim,
        decay_w=config.decay_w,
        decay_h=config.decay_h,
        decay_b=config.decay_b,
        bias=config.bias,
        loss=loss_of(config.loss, config.smoothing, config.gamma),
    )


def run(config: CensusConfig, out: Path, progress: Progress | None = None, *, force: bool = False) -> Results:
    """Take a census into the folder `out`, going on from what it holds; return its orbits and its summary.

    Raises:
        ValueError: naming `out`, if it holds another run; naming the loss, if it is not convex; naming the
            counts, if it would take hours and `force` is not given; nothing is then written.
    """
    prob = problem_of(config)
    check_class_means(prob)
    if not force:
        census.check_size(prob, config.starts)
    open_folder(out, config)
    state = load(out, prob)
    try:
        for later in census.rounds(prob, state, seed=config.seed, starts=config.starts):
            state = later
            _save(out, prob, state)
            if progress is not None:
                progress(state)
    finally:  # interrupted, too
        found, summary = census.rows(prob, state), summarise(prob, state)
        write_rows(out / "orbits.csv", found)
        write_json(out / "summary.json", summary)
    return found, summary


def load(out: Path, prob: Problem) -> Census:
    """Return the census that `out` holds, or one that has found nothing yet.

    Raises:
        ValueError: naming `out`, if orbits.npz cannot be read.
    """
    file = out / "orbits.npz"
    if not file.exists():
        return census.begin(prob)
    try:
        with np.load(file, allow_pickle=False) as held:
            parts = [held[name].reshape(len(held["hits"]), -1) for name in ("W", "H", "b")]
            evidence = {name: held[f"evidence_{name}"] for name in Evidence._fields}
            counters = {name: int(held[name]) for name in COUNTERS}
            points = np.concatenate(parts, axis=1)
            return Census(points, held["hits"], held["copies"], evidence, **counters)
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        raise ValueError(f"out: cannot read {file}: {error}; delete it and run again") from error


def summarise(prob: Problem, state: Census) -> dict[str, Any]:
    """Return counters, the estimate of what is missing and the completeness tests, for JSON."""
    tests = census.completeness(prob, state)
    mass = unseen_mass(state.hits)
    return {
        "orbits": len(state.hits),
        **{name: getattr(state, name) for name in COUNTERS},
        "settled": state.settled,
        "unseen_mass": None if np.isnan(mass) else mass,
        "complete_as_tested": all(t.passed for t in tests if t.passed is not None),
        "tests": [t._asdict() for t in tests],
    }


def write_rows(path: Path, found: list[OrbitRow]) -> None:
    """Write orbits.csv: the fields of `OrbitRow`, lowest loss first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(OrbitRow._fields)
    writer.writerows(found)
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def _save(out: Path, prob: Problem, state: Census) -> None:
    small, m = reduced(prob), len(state.hits)
    K, r = small.num_classes, small.dim
    W, H, b = np.split(state.points, (K * r, 2 * K * r), axis=1)
    arrays: dict[str, Any] = {"W": W.reshape(m, K, r), "H": H.reshape(m, r, K), "b": b}
    arrays |= {"hits": state.hits, "copies": state.copies}
    arrays |= {name: np.array(getattr(state, name)) for name in COUNTERS}
    arrays |= {f"evidence_{name}": values for name, values in state.evidence.items()}
    write_file(out / "orbits.npz", lambda file: np.savez(file, **arrays))
