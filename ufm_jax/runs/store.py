"""A sweep's folder (`folder`): Parquet shards and a summary.

DIR/points/00000.parquet one row a start, decay setting and target; the key `ufm` of the schema's metadata
                         says which run and shard it is, and what made it; pages carry checksums
DIR/orbits.parquet       one row a distinct orbit of all shards there (`merge`), with the same key `ufm`: what
                         the shards say, written again whenever a run ends
DIR/summary.json         counts per verdict and status, shards that were given up
DIR/bad/                 bad shards that --repair moved away
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array, Float

import ufm_jax
from ufm_jax.files import provenance, write_file, write_json
from ufm_jax.landscape.grid import Grid
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.runs.engine import Progress, run_shards
from ufm_jax.runs.folder import (
    METADATA,
    POINTS,
    SWEPT_ORBITS,
    UNREADABLE,
    claimed,
    configuration,
    holds_run,
    manifest,
    move_to_bad,
    open_folder,
    said_by,
)
from ufm_jax.runs.merge import Rows, counted, rows_of
from ufm_jax.runs.plan import (
    CensusPlan,
    LandscapeConfig,
    Shard,
    Sweep,
    lanes_of,
    num_shards,
    settings_of,
    shard,
    shards,
)
from ufm_jax.runs.recipe import grid_of
from ufm_jax.runs.work import check

log = logging.getLogger(__name__)

MOVE = "`ufm sweep`, as it was given, with --repair writes it again from the shards"
# The columns that say what came of a run, and those that its orbits are made of, beside its settings.
TOLD = "target", "verdict", "status", "reason", "loss", "index", "grad_norm", "dual_gap", "closed_form_loss"
SORTED = "nullity", "lambda_min", "rel_grad_norm", "orbit", "invariants"
PROBE_RTOL = 1e-9  # another machine rounds otherwise


def run(config: Sweep, out: Path, progress: Progress | None = None, *, repair: bool = False) -> pa.Table:
    """Run a sweep into the folder `out` and return `TOLD` of its rows; finished shards are kept.

    Rows do not depend on how often the run was interrupted: a start's key is made of the seed and its number.

    Raises:
        ValueError: naming `out`, if it holds another run or other files (nothing is then changed), if another
            process is writing into it, or if it holds bad shards and `repair` is not given.
        OSError: naming a file that cannot be written; finished shards are kept.
    """
    check(config)  # before anything is written
    with claimed(config, out, repair=repair):
        todo = unfinished(config, out, repair=repair)
        opened(config, out, repair=repair)
        for number, table in run_shards(config, todo, progress):
            write_shard(config, out, number, table)
        return concluded(config, out)


def concluded(config: Sweep, out: Path, failed: dict[Shard, str] | None = None) -> pa.Table | None:
    """Write orbits.parquet and summary.json of what is finished, and return `TOLD` of it, if there is any.

    Raises:
        ValueError: as `read_shards`.
        OSError: naming a file that cannot be written.
    """
    rows = _rows(config, out, partial(_lean, config)) if finished(config, out) else None
    if rows is not None and rows.orbits is not None:
        says = {"digest": config.digest(), "rows": rows.table.num_rows, **provenance()}
        marked = rows.orbits.replace_schema_metadata({METADATA: json.dumps(says)})
        write_file(out / SWEPT_ORBITS, partial(pq.write_table, marked, write_page_checksum=True))
    table = None if rows is None else _told(config, rows.table)
    write_json(out / "summary.json", summary(table, config.num_rows, failed))
    return table


def opened(config: Sweep, out: Path, made_by: dict[str, Any] | None = None, *, repair: bool = False) -> None:
    """Make what the folder lacks before shards are written; see `folder.open_folder`.

    The manifest of a landscape also holds a `probe`, its value at one start: a class whose own file is the
    same may be another function.
    """
    if not isinstance(config, LandscapeConfig):
        open_folder(out, config, made_by, repair=repair)
    else:
        value = probe(grid_of(config))
        open_folder(out, config, (made_by or provenance()) | {"probe": value}, repair=repair)
        check_probe(out, value)
    (out / POINTS).mkdir(exist_ok=True)


def probe(grid: Grid) -> float | None:
    """Return the value of a landscape at its first start, or None where that is no finite number."""
    value = float(_value_at_start(grid.landscape))
    return value if np.isfinite(value) else None


@jax.jit
def _value_at_start(landscape: Landscape) -> Float[Array, ""]:
    return landscape.value(landscape.start(jax.random.key(0)))


def check_probe(out: Path, now: float | None) -> None:
    """Check that a landscape of this `probe` is the one whose run the folder holds.

    Raises:
        ValueError: naming the landscape.
    """
    held = manifest(out).get("probe")
    if held is not None and not np.isclose(np.nan if now is None else now, held, rtol=PROBE_RTOL, atol=0.0):
        raise ValueError(
            f"landscape: it is not the one of {out}: at its first start f was {held:.10g}, and is {now}"
        )


def load(out: Path | str) -> pa.Table:
    """Return all finished rows of a sweep, in the order of the plan; warn if some are missing.

    The key `ufm` of the schema's metadata holds JSON: `rows`, `rows_planned` and `complete`.

    Raises:
        ValueError: naming `out`, if it holds no sweep, no finished shard, or one that cannot be read.
    """
    config = configuration(Path(out))
    if isinstance(config, CensusPlan):
        raise ValueError(f"out: {out} holds a census, need a sweep; ufm.load reads both")
    table = read_shards(config, Path(out))
    planned = json.loads(table.schema.metadata[METADATA])["rows_planned"]
    if table.num_rows < planned:
        warn(
            f"out: {out} holds {table.num_rows} of {planned} rows; the sweep's command does the rest",
            stacklevel=2,
        )
    return table


def read_shards(config: Sweep, out: Path) -> pa.Table:
    """Return all finished rows, as `load` does, without its warning.

    Raises:
        ValueError: naming `out`, if there is no finished shard, or one that cannot be read, or if
            orbits.parquet is not what they say.
    """
    rows = _rows(config, out)
    if why := _wrong_orbits(config, out, rows):
        raise ValueError(f"out: {out / SWEPT_ORBITS} {why}; {MOVE}")
    return _told(config, rows.table)


def _told(config: Sweep, table: pa.Table) -> pa.Table:
    """Return a table that says how many rows of the plan it has."""
    rows = {"rows": table.num_rows, "rows_planned": config.num_rows}
    says = rows | {"complete": table.num_rows == config.num_rows}
    return table.replace_schema_metadata({METADATA: json.dumps(says)})


def _wrong_orbits(config: Sweep, out: Path, rows: Rows | None = None) -> str | None:
    """Return what is wrong with orbits.parquet: it is not this run's, or not what these `rows` say.

    One that was written of fewer or more rows is not held against them, and none at all: the run goes on.
    """
    file = out / SWEPT_ORBITS
    if not file.exists():
        return None
    try:
        with _open(file) as held:
            table = held.read()
            says = said_by(held.schema_arrow)
    except UNREADABLE as error:
        return f"cannot be read ({str(error).splitlines()[0]})"
    if says.get("digest") != config.digest():
        return "belongs to another run"
    if rows is None or rows.orbits is None or says.get("rows") != rows.table.num_rows:
        return None
    held, made = table.replace_schema_metadata(), rows.orbits.replace_schema_metadata()
    # As text, in which NaN is itself.
    same = held.schema == made.schema and repr(held.to_pylist()) == repr(made.to_pylist())
    return None if same else "is not what the shards say"


def _rows(config: Sweep, out: Path, keep: Callable[[pa.Table], pa.Table] = lambda table: table) -> Rows:
    """Return what is to keep of the rows of all finished shards, and their orbits.

    Raises:
        ValueError: naming `out`, if there is no finished shard, or one that cannot be read.
    """
    files = [(shard, _path(out, shard)) for shard in finished(config, out)]
    if not files:
        raise ValueError(f"out: {out} holds no finished shard of a sweep")
    if bad := _faults(config, out, [shard for shard, _ in files], thorough=False):
        raise ValueError(_advice(out, bad))
    tables = []
    for one, path in files:
        found = _read(config, one, path)
        if isinstance(found, str):
            raise ValueError(f"out: cannot read {path}: {found}; `ufm sweep` with --repair renews it")
        tables.append((one, keep(found)))
    return rows_of(config, tables)


def _lean(config: Sweep, table: pa.Table) -> pa.Table:
    """Return what is told of a run: 70 bytes a row, where all columns take 700."""
    names = (*TOLD, *SORTED, *config.columns) if config.spectra == "all" else TOLD
    return pa.table({name: _short(table[name]) for name in table.column_names if name in names})


def _short(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.dictionary_encode() if pa.types.is_string(column.type) else column


def unfinished(config: Sweep, out: Path, *, repair: bool = False) -> Iterator[Shard]:
    """Return the shards still to be done, in order, however many there are.

    Finished ones are checked: their footers (what is cut short, and what belongs to another run), or every
    page where `repair` is given. Bad shards are then moved to DIR/bad, logged, and to be done again.

    Raises:
        ValueError: naming `out` and the bad shards, if there are any and `repair` is not given; or
            orbits.parquet; or if shards of a version that sorted no orbits are there, and others to be done.
    """
    done = finished(config, out)
    bad = _faults(config, out, done, thorough=repair)
    if bad and not repair:
        raise ValueError(_advice(out, bad))
    if why := _wrong_orbits(config, out):
        if not repair:
            raise ValueError(f"out: {out / SWEPT_ORBITS} {why}; {MOVE}")
        moved = move_to_bad(out, out / SWEPT_ORBITS)
        log.warning("ufm: %s: %s; moved to %s", out / SWEPT_ORBITS, why, moved)
    good = [one for one in done if one not in bad]
    if (
        len(good) < num_shards(config)
        and good
        and "orbit" not in _open(_path(out, good[0])).schema_arrow.names
    ):
        raise ValueError(
            f"out: {out} was begun by a version that sorted no orbits; this one reads it, and does not go on "
            "with it: choose another folder"
        )
    for one, why in bad.items():
        log.warning("ufm: %s: %s; moved to %s", _path(out, one), why, move_to_bad(out, _path(out, one)))
    held = {one.number for one in good}
    return (one for one in shards(config) if one.number not in held)


def finished(config: Sweep, out: Path) -> list[Shard]:
    """Return the shards whose files are there, in order, without a look into them.

    Raises:
        ValueError: naming `out`, if points/ holds a Parquet file that is no shard of this plan.
    """
    held = {file.name for file in (out / POINTS).glob("*.parquet")}
    numbers = (int(name.removesuffix(".parquet")) for name in held if name[:-8].isdecimal())
    done = [shard(config, number) for number in sorted(numbers) if number < num_shards(config)]
    if strange := held - {_path(out, one).name for one in done}:
        names = ", ".join(sorted(strange))
        raise ValueError(
            f"out: {out / POINTS} holds files that are no shards of this run: {names}; move them"
        )
    return done


def rows_there(config: Sweep, out: Path, *, repair: bool = False) -> int:
    """Return how many rows the finished shards hold, going by their files' names.

    Raises:
        ValueError: naming `out`, if it holds another run or other files.
    """
    return (
        sum(s.stop - s.first for s in finished(config, out)) if holds_run(config, out, repair=repair) else 0
    )


def write_shard(config: Sweep, out: Path, shard: Shard, table: pa.Table) -> None:
    """Write the table of a shard; whoever reads the folder sees all of it or nothing.

    Raises:
        OSError: naming the file, if it cannot be written.
        ValueError: naming `out`, if shards with other columns are there already (of another version).
    """
    other = next((out / POINTS).glob("*.parquet"), None)
    if other is not None and _open(other).schema_arrow.remove_metadata() != table.schema.remove_metadata():
        raise ValueError(f"out: {other} has other columns than this version writes; choose another folder")
    says = {"digest": config.digest(), "shard": shard.number, **provenance()}
    marked = table.replace_schema_metadata({METADATA: json.dumps(says)})
    write_file(_path(out, shard), partial(pq.write_table, marked, write_page_checksum=True))


def summary(table: pa.Table | None, planned: int, failed: dict[Shard, str] | None = None) -> dict[str, Any]:
    """Count rows per verdict, status and reason for indecision; nothing is left out, nor what `failed`."""
    names = ("verdict", "status", "reason")
    counts = {name: counted(table[name]) if table else {} for name in names}
    counts["reason"].pop("NONE", None)
    rows = {"rows": table.num_rows if table else 0, "rows_planned": planned}
    return rows | counts | {"failed": {str(s.number): why for s, why in (failed or {}).items()}}


def _path(out: Path, shard: Shard) -> Path:
    return out / POINTS / f"{shard.number:05d}.parquet"


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


class _Footer(NamedTuple):
    """What a good shard's footer says."""

    schema: pa.Schema
    version: str  # of this package


def _faults(config: Sweep, out: Path, done: list[Shard], *, thorough: bool) -> dict[Shard, str]:
    """Return the bad shards of `done`, each with what is wrong; pages are read only where `thorough`.

    It is said if others were made by another version: its rows are kept.
    """
    looks = {shard: _look(config, shard, _path(out, shard), thorough=thorough) for shard in done}
    good = {shard: found for shard, found in looks.items() if isinstance(found, _Footer)}
    schemas = Counter(found.schema for found in good.values())
    usual = schemas.most_common(1)[0][0] if schemas else None
    if others := {found.version for found in good.values()} - {ufm_jax.__version__}:
        made = ", ".join(sorted(others))
        log.warning("ufm: %s holds rows of ufm-jax %s; this is %s", out, made, ufm_jax.__version__)
    faults = {s: found for s, found in looks.items() if isinstance(found, str)}
    return faults | {
        shard: "has other columns than the rest" for shard, found in good.items() if found.schema != usual
    }


def _look(config: Sweep, shard: Shard, file: Path, *, thorough: bool) -> _Footer | str:
    """Return the columns of a shard's file and who made it, or what is wrong with it."""
    try:
        with _open(file) as held:
            schema, footer = held.schema_arrow, held.metadata
            rows = {footer.num_rows, sum(footer.row_group(i).num_rows for i in range(footer.num_row_groups))}
            says = said_by(schema)
    except UNREADABLE as error:
        return f"cannot be read ({str(error).splitlines()[0]})"
    if (says.get("digest"), says.get("shard")) != (config.digest(), shard.number):
        return "belongs to another run or is another shard"
    if rows != {shard.stop - shard.first}:
        said = " or ".join(map(str, sorted(rows)))
        return f"says that it holds {said} rows, need {shard.stop - shard.first}"
    if thorough and isinstance(read := _read(config, shard, file), str):
        return read
    return _Footer(schema.remove_metadata(), _version_of(says))


def _version_of(says: dict[str, Any]) -> str:
    versions = says.get("versions")
    return str(versions.get("ufm-jax")) if isinstance(versions, dict) else "unknown"


def _read(config: Sweep, shard: Shard, file: Path) -> pa.Table | str:
    """Return the rows of a shard, every page read against its checksum, or what is wrong with them.

    A checksum covers a page and not the footer, which says where pages are and how many rows: so the rows
    read are compared with the plan.
    """
    try:
        with _open(file) as held:
            table = held.read().replace_schema_metadata()
    except UNREADABLE as error:
        return f"cannot be read ({str(error).splitlines()[0]})"
    if table.num_rows != shard.stop - shard.first:
        return f"{table.num_rows} rows could be read, need {shard.stop - shard.first}"
    start, setting = lanes_of(config, np.arange(shard.first, shard.stop))
    targets = np.full(len(start), str(shard.target))
    planned = {"start": start, "target": targets, **settings_of(config, setting)}
    for name, values in planned.items():
        if name not in table.column_names:
            return f"has no column {name}"
        if not np.array_equal(table[name].to_numpy(), values):
            return f"{name} is not that of the plan"
    return table


def _advice(out: Path, bad: dict[Shard, str]) -> str:
    names = "; ".join(f"{_path(out, shard)} {why}" for shard, why in list(bad.items())[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"out: {names}{more}; `ufm sweep` with --repair computes just these again, the others are intact"
