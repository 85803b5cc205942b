"""A census's folder (`folder`): what was found is kept after every round; the same command goes on from it.

DIR/orbits.npz     the hash of the run; representatives, an array for each leaf of a point, in the space of
                   all saddles (of f W (m,K,r), H (m,r,K), b (m,K), r = `rank_bound`, where column k of H is
                   √n_k times the feature of class k; `Atlas` gives points ready for f); counts, evidence; in
                   the order of orbits.csv
DIR/orbits.csv     one row an orbit, lowest loss first; what is not known is empty
DIR/proofs.json    where asked for (`proofs`)
DIR/summary.json   starts, failures, unseen mass, completeness tests
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.tree_util import tree_flatten_with_path

from ufm_jax.files import write_file, write_json
from ufm_jax.landscape import census
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.landscape import Landscape, sizes_of
from ufm_jax.landscape.orbits import Census, OrbitRow, rows, unseen_mass
from ufm_jax.landscape.point import leaf_name
from ufm_jax.landscape.proof import PRECISIONS
from ufm_jax.landscape.units import LEVEL_TOL
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.precision import require_x64
from ufm_jax.runs import proofs
from ufm_jax.runs.folder import ORBITS, claimed, move_to_bad, open_folder
from ufm_jax.runs.plan import CensusConfig, LandscapeCensusConfig
from ufm_jax.runs.proofs import Listen, Proved
from ufm_jax.runs.recipe import landscape_of

Config = CensusConfig | LandscapeCensusConfig
Progress = Callable[[Census], None]
Results = tuple[list[OrbitRow], dict[str, Any]]

MOVE = "the same command with --repair moves it to DIR/bad and begins again"

log = logging.getLogger(__name__)

COUNTERS = ("num_starts", "num_failed", "last_new")
EVIDENCE = "evidence_"  # begins the names of what was measured of each orbit


class Orbit(NamedTuple):
    """One orbit of a census: its row of orbits.csv, and a point of it, in the landscape."""

    row: OrbitRow
    params: Any  # of f: W (K,d), H (d,N), b (K,)

    @property
    def x(self) -> Any:
        """The same as `params`."""
        return self.params

    def __repr__(self) -> str:
        values = {**self.row._asdict(), "loss": f"{self.row.loss:.8g}"}
        return f"Orbit({', '.join(f'{name} {value}' for name, value in values.items())})"


@dataclass(frozen=True, eq=False, repr=False)
class Atlas:
    """The orbits of a census, lowest loss first: `atlas[3].x`, `len(atlas)`, `atlas.table`.

    `print(atlas)` shows the table and the tests of completeness.
    """

    landscape: Landscape
    state: Census
    proved: Proved | None = None  # where `census` was asked to prove
    marks: list[bool | None] | None = None  # what a folder says of each orbit's proof

    @cached_property
    def rows(self) -> list[OrbitRow]:
        """The lines of orbits.csv."""
        found, marks = rows(self.landscape, self.state), self.marks
        if self.proved is not None:
            marks = [proof.proved for proof in self.proved.proofs]
        return found if marks is None else [r._replace(proved=m) for r, m in zip(found, marks, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, line: int) -> Orbit:
        return Orbit(self.rows[line], census.point_of(self.landscape, self.state, line))

    def __iter__(self) -> Iterator[Orbit]:
        return (self[line] for line in range(len(self)))

    @property
    def table(self) -> pa.Table:
        """The rows, as orbits.csv has them."""
        return table_of(self.rows)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Starts, failures, the estimate of what is missing and the tests of completeness: summary.json's."""
        return summarise(self.landscape, self.state)

    @property
    def complete(self) -> bool | None:
        """Whether the list passes the landscape's tests: of f the Morse–Bott inequalities at every d.

        False proves that an orbit is missing or miscounted, True proves nothing. None: there are no tests, or
        degenerate orbits forbid them.
        """
        passed = [test["passed"] for test in self.summary["tests"]]
        return False if False in passed else None if None in passed or not passed else True

    def locate(self, x: Any) -> int | None:
        """Return the line of the orbit that a point of the landscape is on, or None.

        Up to its symmetries (of f rotations and permutations of classes) and 1e-5, relative. Of a continuum
        of degenerate orbits only the one that the census keeps is known.

        Raises:
            ValueError: naming the leaf whose shape or dtype is not the landscape's.
        """
        x = self.landscape.check(x)
        check_finite(x)
        return census.locate(self.landscape, self.state, x)

    def nearest(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return which orbit each of some points is nearest to, as a line of the table, and how far it is.

        `points`: each leaf with a leading axis, as a flow's `path.points`. Distances are those of invariants,
        relative (`landscape.census.nearest`): 0 on the orbit. They need not be critical.

        Raises:
            ValueError: naming the leaf whose shape or dtype is not the landscape's; `points`, if the census
                found no orbit to be near.
        """
        points = self.landscape.check(points, many=True)
        if not len(self):
            raise ValueError("points: the census holds no orbit yet that they could be near")
        return census.nearest(self.landscape, self.state, points)

    def plot(self, ax: Any = None) -> Any:
        """Draw index against loss of the orbits, on matplotlib axes or new ones; return the axes."""
        from ufm_jax.report import figures

        return figures.draw_index(figures.points(figures.critical(self.table)), figures.axes(ax))

    def __str__(self) -> str:
        from ufm_jax.report.table import census_report

        told = [repr(self), census_report(self.rows, self.summary)]
        return "\n".join(told if self.proved is None else [*told, str(self.proved)])

    def __repr__(self) -> str:
        tests = {True: "complete as tested", False: "INCOMPLETE: an orbit is missing or miscounted"}
        how = tests.get(self.complete, "completeness not testable")  # type: ignore[arg-type]
        settled = "" if self.state.settled else ", not settled"
        made, name = self.landscape, self.landscape.name
        if isinstance(made, Problem):
            name = f"counts {made.counts} in d = {made.dim}"
        return f"Atlas({len(self)} orbits of {name}; {how}{settled})"


def table_of(found: list[OrbitRow]) -> pa.Table:
    """Return rows as a table, null where something is not known."""
    kinds = {"loss": pa.float64(), "verdict": pa.string(), "proved": pa.bool_(), "name": pa.string()}
    columns = {name: [getattr(row, name) for row in found] for name in OrbitRow._fields}
    return pa.table({name: pa.array(v, kinds.get(name, pa.int64())) for name, v in columns.items()})


def run(
    config: Config,
    out: Path,
    progress: Progress | None = None,
    *,
    force: bool = False,
    repair: bool = False,
    prove: bool = False,
    proving: Listen | None = None,
) -> Results:
    """Take a census into the folder `out`, going on from what it holds; return its orbits and its summary.

    Raises:
        ValueError: naming `out`, if it holds another run or other files, or if another process is at work
            there; as `census.check`; nothing is then written.
    """
    require_x64()
    landscape = landscape_of(config)
    census.check(landscape, config.starts, seed=config.seed, force=force)
    if taken := sorted({"copies", "digest", *COUNTERS} & set(_leaves(landscape))):
        raise ValueError(f"zeros: {taken[0]!r} is an array of every {ORBITS}; choose another name")
    with claimed(config, out, repair=repair):
        state = _mended(config, out, landscape) if repair else load(config, out, landscape)
        open_folder(out, config, repair=repair)
        if progress is not None:
            progress(state)
        try:
            for later in census.rounds(landscape, state, seed=config.seed, starts=config.starts):
                state = later
                _save(config, out, landscape, state)
                write_rows(out / "orbits.csv", rows(landscape, state))
                if progress is not None:
                    progress(state)
        finally:  # interrupted, too
            found, summary = rows(landscape, state), summarise(landscape, state)
            found = proofs.marked(out, config.digest(), found)
            write_rows(out / "orbits.csv", found)
            write_json(out / "summary.json", {"digest": config.digest(), **summary})
        if prove:
            proofs.write(out, config.digest(), landscape, found, proved_rows(landscape, state, proving))
            found = proofs.marked(out, config.digest(), found)
            write_rows(out / "orbits.csv", found)
    return found, summary


def atlas(config: Config, out: Path, landscape: Landscape | None = None) -> Atlas:
    """Return the orbits that a census has found so far; of `landscape`, where the folder cannot say of what.

    Raises:
        ValueError: naming `out`, if it holds no orbits yet, those of another run, or cannot be read; naming
            the landscape, if it is not the folder's.
    """
    require_x64()
    if not (out / ORBITS).exists():
        raise ValueError(f"out: {out} holds no {ORBITS} yet; the census's command goes on")
    made = landscape_of(config) if landscape is None else landscape
    state = load(config, out, made)
    if landscape is not None and len(state.hits):
        held = float(state.evidence["loss"][0])
        now = float(made.value(census.point_of(made, state, 0)))
        unit = float(sizes_of(made, jnp.asarray(held)).value)
        if not abs(now - held) <= LEVEL_TOL * max(unit, abs(held)):
            raise ValueError(
                f"landscape: it is not the one of {out}: at its first orbit f was {held:.10g}, and is {now}"
            )
    marks = [row.proved for row in proofs.marked(out, config.digest(), rows(made, state))]
    return Atlas(made, state, marks=marks)


def proved_rows(
    landscape: Landscape,
    state: Census,
    listen: Listen | None = None,
    precisions: Sequence[int] = PRECISIONS,
) -> Proved:
    """Prove the orbits found (`landscape.proof`), in the coordinates of their rank; `listen` hears of each.

    Raises:
        ValueError: naming the landscape or its loss, if it cannot be evaluated over balls.
    """
    space, wide = census.space_of(landscape), landscape.space("rows")
    points = [wide.lift(unravel(space, jnp.asarray(x))) for x in state.points]
    return proofs.prove_rows(wide, points, rows(landscape, state), listen, precisions)


def results(config: Config, out: Path) -> Results:
    """Return the orbits found so far and their summary, from orbits.npz alone: the other files are copies.

    Raises:
        ValueError: as `atlas`.
    """
    held = atlas(config, out)
    return held.rows, held.summary


def load(config: Config, out: Path, landscape: Landscape) -> Census:
    """Return the census of a landscape that `out` holds, or one that has found nothing yet.

    Raises:
        ValueError: naming `out`, if orbits.npz cannot be read or belongs to another run.
    """
    file = out / ORBITS
    if not file.exists():
        return census.begin(landscape)
    try:
        with np.load(file, allow_pickle=False) as held:
            digest = str(held["digest"]) if "digest" in held else None
            parts = [held[name].reshape(len(held["hits"]), -1) for name in _leaves(landscape)]
            evidence = {name.removeprefix(EVIDENCE): held[name] for name in held if name.startswith(EVIDENCE)}
            counters = {name: int(held[name]) for name in COUNTERS}
            points = np.concatenate(parts, axis=1)
            state = Census(points, held["hits"], held["copies"], evidence, **counters)
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        said = "it is no npz archive" if "pickle" in str(error) else error
        raise ValueError(f"out: cannot read {file}: {said}; {MOVE}") from error
    if digest != config.digest():
        whose = "is of another run" if digest else "does not say of which run it is (an older version's)"
        raise ValueError(f"out: {file} {whose}; {MOVE}, or choose another folder")
    if len(points) and "orbit_dim" not in evidence:  # of an older version
        state = state._replace(evidence=census.measured(landscape, points))
    return state


def _leaves(landscape: Landscape) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the leaves of the points that a census keeps."""
    like = jax.eval_shape(census.space_of(landscape).zeros)
    return {leaf_name(path): leaf.shape for path, leaf in tree_flatten_with_path(like)[0]}


def _mended(config: Config, out: Path, landscape: Landscape) -> Census:
    """Return the census that `out` holds; a bad orbits.npz is moved to DIR/bad, and it begins again."""
    try:
        return load(config, out, landscape)
    except ValueError as error:
        log.warning("ufm: %s; moved to %s", error, move_to_bad(out, out / ORBITS))
        return census.begin(landscape)


def summarise(landscape: Landscape, state: Census) -> dict[str, Any]:
    """Return counters, the estimate of what is missing and the completeness tests, for JSON."""
    tests = census.completeness(landscape, state)
    mass = unseen_mass(state.hits)
    return {
        "orbits": len(state.hits),
        **{name: getattr(state, name) for name in COUNTERS},
        "settled": state.settled,
        "unseen_mass": None if np.isnan(mass) else mass,
        "complete_as_tested": all(t.passed for t in tests if t.passed is not None) if tests else None,
        "tests": [t._asdict() for t in tests],
    }


def write_rows(path: Path, found: list[OrbitRow]) -> None:
    """Write orbits.csv: the fields of `OrbitRow`, lowest loss first; `proved` is true, false or empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(OrbitRow._fields)
    said = {True: "true", False: "false", None: ""}
    writer.writerows(row._replace(proved=said[row.proved]) for row in found)  # type: ignore[arg-type]
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def _save(config: Config, out: Path, landscape: Landscape, state: Census) -> None:
    leaves, m = _leaves(landscape), len(state.hits)
    sizes = [int(np.prod(shape)) for shape in leaves.values()]
    parts = np.split(state.points, np.cumsum(sizes)[:-1], axis=1)
    named = zip(leaves.items(), parts, strict=True)
    arrays: dict[str, Any] = {name: part.reshape(m, *shape) for (name, shape), part in named}
    arrays |= {"hits": state.hits, "copies": state.copies, "digest": np.array(config.digest())}
    arrays |= {name: np.array(getattr(state, name)) for name in COUNTERS}
    arrays |= {f"{EVIDENCE}{name}": values for name, values in state.evidence.items()}
    write_file(out / ORBITS, lambda file: np.savez(file, **arrays))
