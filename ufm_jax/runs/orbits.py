"""A census's folder (`folder`): what was found is kept after every round; the same command goes on from it.

DIR/orbits.npz     the hash of the run; representatives W (m,K,r), H (m,r,K), b (m,K), r = `rank_bound`, where
                   column k of H is √n_k times the feature of class k (`Atlas` gives points ready for f);
                   counts, evidence; in the order of orbits.csv
DIR/orbits.csv     one row an orbit, lowest loss first; what was not counted is empty
DIR/proofs.json    where asked for (`proofs`)
DIR/summary.json   starts, failures, unseen mass, completeness tests
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ufm_jax.files import write_file, write_json
from ufm_jax.landscape.checks import check_finite
from ufm_jax.models.unconstrained import census
from ufm_jax.models.unconstrained.census import Census, OrbitRow
from ufm_jax.models.unconstrained.completeness import unseen_mass
from ufm_jax.models.unconstrained.locate import locate
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import check_class_means, lift, reduced, trimmed
from ufm_jax.precision import require_x64
from ufm_jax.runs import proofs
from ufm_jax.runs.folder import ORBITS, claimed, move_to_bad, open_folder
from ufm_jax.runs.plan import CensusConfig, built_loss
from ufm_jax.runs.proofs import Proved

Progress = Callable[[Census], None]
Results = tuple[list[OrbitRow], dict[str, Any]]

MOVE = "the same command with --repair moves it to DIR/bad and begins again"

log = logging.getLogger(__name__)

COUNTERS = ("num_starts", "num_failed", "last_new")


class Orbit(NamedTuple):
    """One orbit of a census: its row of orbits.csv, and a point of it, ready for f."""

    row: OrbitRow
    params: Params  # of the full problem: W (K,d), H (d,N), b (K,)

    @property
    def x(self) -> Params:
        """The same as `params`."""
        return self.params

    def __repr__(self) -> str:
        values = {**self.row._asdict(), "loss": f"{self.row.loss:.8g}"}
        return f"Orbit({', '.join(f'{name} {value}' for name, value in values.items())})"


@dataclass(frozen=True, eq=False, repr=False)
class Atlas:
    """The orbits of a census, lowest loss first: `atlas[3].params`, `len(atlas)`, `atlas.table`.

    `print(atlas)` shows the table and the tests of completeness.
    """

    prob: Problem
    rows: list[OrbitRow]
    state: Census
    proved: Proved | None = None  # where `census` was asked to prove

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, line: int) -> Orbit:
        row, x = self.rows[line], self.state.points[line]
        return Orbit(row, lift(self.prob, census.representative(self.prob, x)))

    def __iter__(self) -> Iterator[Orbit]:
        return (self[line] for line in range(len(self)))

    @property
    def table(self) -> pa.Table:
        """The rows, as orbits.csv has them."""
        columns = {name: [getattr(row, name) for row in self.rows] for name in OrbitRow._fields}
        return pa.table({**columns, "proved": pa.array(columns["proved"], pa.bool_())})

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Starts, failures, the estimate of what is missing and the tests of completeness: summary.json's."""
        return summarise(self.prob, self.state)

    @property
    def complete(self) -> bool | None:
        """Whether the list passes the Morse–Bott tests at every d; None where degenerate orbits forbid them.

        False proves that an orbit is missing or miscounted, True proves nothing.
        """
        passed = [test["passed"] for test in self.summary["tests"]]
        return False if False in passed else None if None in passed else True

    def locate(self, x: Any) -> int | None:
        """Return the line of the orbit that a point of the problem is on, or None.

        Up to rotations, permutations of classes and 1e-5 of the logits. Of a continuum of degenerate orbits
        only the one that the census keeps is known.

        Raises:
            ValueError: naming W, H or b, if its shape or dtype is not the problem's.
        """
        x = self.prob.check(x)
        check_finite(x)
        return locate(self.prob, self.state, x)

    def plot(self) -> Any:
        """Draw index against loss of the orbits; return a matplotlib figure."""
        from ufm_jax.report import figures

        return figures.draw_index(figures.points(figures.critical(self.table)))

    def __str__(self) -> str:
        from ufm_jax.report.table import census_report

        told = [repr(self), census_report(self.rows, self.summary)]
        return "\n".join(told if self.proved is None else [*told, str(self.proved)])

    def __repr__(self) -> str:
        tests = {True: "complete as tested", False: "INCOMPLETE: an orbit is missing or miscounted"}
        how = tests.get(self.complete, "completeness not testable")  # type: ignore[arg-type]
        settled = "" if self.state.settled else ", not settled"
        return (
            f"Atlas({len(self)} orbits of counts {self.prob.counts} in d = {self.prob.dim}; {how}{settled})"
        )


def problem_of(config: CensusConfig) -> Problem:
    """Return the problem of a census."""
    return problem(
        counts=config.counts,
        dim=config.dim,
        decay_w=config.decay_w,
        decay_h=config.decay_h,
        decay_b=config.decay_b,
        bias=config.bias,
        loss=built_loss(config),
    )


def run(
    config: CensusConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    force: bool = False,
    repair: bool = False,
    prove: bool = False,
) -> Results:
    """Take a census into the folder `out`, going on from what it holds; return its orbits and its summary.

    Raises:
        ValueError: naming `out`, if it holds another run or other files, or if another process is at work
            there; naming the loss, if it is not convex; naming the counts, if it would take hours and `force`
            is not given; nothing is then written.
    """
    require_x64()
    prob = problem_of(config)
    check_class_means(prob)
    if not force:
        census.check_size(prob, config.starts)
    with claimed(config, out, repair=repair):
        state = _mended(config, out) if repair else load(config, out)
        open_folder(out, config, repair=repair)
        if progress is not None:
            progress(state)
        try:
            for later in census.rounds(prob, state, seed=config.seed, starts=config.starts):
                state = later
                _save(config, out, prob, state)
                write_rows(out / "orbits.csv", census.rows(prob, state))
                if progress is not None:
                    progress(state)
        finally:  # interrupted, too
            found, summary = census.rows(prob, state), summarise(prob, state)
            found = proofs.marked(out, config.digest(), found)
            write_rows(out / "orbits.csv", found)
            write_json(out / "summary.json", {"digest": config.digest(), **summary})
        if prove:
            proofs.write(out, config.digest(), prob, found, proved_rows(prob, state, found))
            found = proofs.marked(out, config.digest(), found)
            write_rows(out / "orbits.csv", found)
    return found, summary


def atlas(config: CensusConfig, out: Path) -> Atlas:
    """Return the orbits that a census has found so far.

    Raises:
        ValueError: naming `out`, if it holds no orbits yet, those of another run, or cannot be read.
    """
    require_x64()
    if not (out / ORBITS).exists():
        raise ValueError(f"out: {out} holds no {ORBITS} yet; the census's command goes on")
    prob, state = problem_of(config), load(config, out)
    return Atlas(prob, proofs.marked(out, config.digest(), census.rows(prob, state)), state)


def proved_rows(prob: Problem, state: Census, found: list[OrbitRow]) -> Proved:
    """Prove the orbits found (`landscape.proof`), in the coordinates of their rank.

    Raises:
        ValueError: naming the loss, if it cannot be evaluated over balls.
    """
    trim = trimmed(prob)
    return proofs.prove_rows(trim, [census.representative(trim, x) for x in state.points], found)


def results(config: CensusConfig, out: Path) -> Results:
    """Return the orbits found so far and their summary, from orbits.npz alone: the other files are copies.

    Raises:
        ValueError: as `atlas`.
    """
    held = atlas(config, out)
    return held.rows, summarise(held.prob, held.state)


def load(config: CensusConfig, out: Path) -> Census:
    """Return the census that `out` holds, or one that has found nothing yet.

    Raises:
        ValueError: naming `out`, if orbits.npz cannot be read or belongs to another run.
    """
    file = out / ORBITS
    if not file.exists():
        return census.begin(problem_of(config))
    try:
        with np.load(file, allow_pickle=False) as held:
            digest = str(held["digest"]) if "digest" in held else None
            parts = [held[name].reshape(len(held["hits"]), -1) for name in ("W", "H", "b")]
            evidence = {name: held[f"evidence_{name}"] for name in census.EVIDENCE}
            counters = {name: int(held[name]) for name in COUNTERS}
            points = np.concatenate(parts, axis=1)
            state = Census(points, held["hits"], held["copies"], evidence, **counters)
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        said = "it is no npz archive" if "pickle" in str(error) else error
        raise ValueError(f"out: cannot read {file}: {said}; {MOVE}") from error
    if digest != config.digest():
        whose = "is of another run" if digest else "does not say of which run it is (an older version's)"
        raise ValueError(f"out: {file} {whose}; {MOVE}, or choose another folder")
    return state


def _mended(config: CensusConfig, out: Path) -> Census:
    """Return the census that `out` holds; a bad orbits.npz is moved to DIR/bad, and it begins again."""
    try:
        return load(config, out)
    except ValueError as error:
        log.warning("ufm: %s; moved to %s", error, move_to_bad(out, out / ORBITS))
        return census.begin(problem_of(config))


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
    """Write orbits.csv: the fields of `OrbitRow`, lowest loss first; `proved` is true, false or empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(OrbitRow._fields)
    writer.writerows([*row[:-1], {True: "true", False: "false", None: ""}[row.proved]] for row in found)
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def _save(config: CensusConfig, out: Path, prob: Problem, state: Census) -> None:
    small, m = reduced(prob), len(state.hits)
    K, r = small.num_classes, small.dim
    W, H, b = np.split(state.points, (K * r, 2 * K * r), axis=1)
    arrays: dict[str, Any] = {"W": W.reshape(m, K, r), "H": H.reshape(m, r, K), "b": b}
    arrays |= {"hits": state.hits, "copies": state.copies, "digest": np.array(config.digest())}
    arrays |= {name: np.array(getattr(state, name)) for name in COUNTERS}
    arrays |= {f"evidence_{name}": values for name, values in state.evidence.items()}
    write_file(out / ORBITS, lambda file: np.savez(file, **arrays))
