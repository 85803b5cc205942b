"""A sweep's folder: manifest, Parquet shards, summary. The only module that touches a run's files.

DIR/manifest.json        configuration and its hash, versions, device, dtype
DIR/points/00000.parquet one row a start, decay setting and target; the key `ufm` of the schema's metadata
                         says which run and shard it is, and what made it; pages carry checksums
DIR/summary.json         counts per verdict and status, shards that were given up
DIR/bad/                 unreadable shards that --repair moved away
DIR/.lock                locked by the process that runs the sweep
"""

import json
import logging
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from warnings import warn

import jax
import pyarrow as pa
import pyarrow.parquet as pq

import ufm_jax
from ufm_jax.precision import require_x64
from ufm_jax.runs.durable import is_ours, locked, remove_stale, write_file
from ufm_jax.runs.engine import Progress, problem_of, run_shards
from ufm_jax.runs.plan import CensusConfig, Shard, SweepConfig, shards

UNREADABLE = (OSError, ValueError, pa.ArrowException)  # what pyarrow raises at bytes that are not its own
METADATA = b"ufm"

log = logging.getLogger(__name__)


def run(
    config: SweepConfig, out: Path, progress: Progress | None = None, *, repair: bool = False
) -> pa.Table:
    """Run a sweep into the folder `out` and return its table; finished shards are kept, not done again.

    Rows do not depend on how often the run was interrupted: a start's key is made of the seed and its number.

    Raises:
        ValueError: naming `out`, if it holds another run or other files (nothing is then changed), if another
            process is writing into it, or if it holds bad shards and `repair` is not given.
        OSError: naming a file that cannot be written; finished shards are kept.
    """
    require_x64()
    problem_of(config)  # refuse a bad configuration before anything is written
    with claimed(config, out):
        todo = unfinished(config, out, repair=repair)
        open_folder(out, config)
        for shard, table in zip(todo, run_shards(config, todo, progress), strict=True):
            write_shard(config, out, shard, table)
        table = read_shards(config, out)
        write_json(out / "summary.json", summary(table, config.num_rows))
    return table


def load(out: Path | str) -> pa.Table:
    """Return all finished rows of a sweep, in the order of the plan; warn if some are missing.

    The key `ufm` of the schema's metadata holds JSON: `rows`, `rows_planned` and `complete`.

    Raises:
        ValueError: naming `out`, if it holds no sweep, no finished shard, or one that cannot be read.
    """
    table = read_shards(_configuration(Path(out)), Path(out))
    planned = json.loads(table.schema.metadata[METADATA])["rows_planned"]
    if table.num_rows < planned:
        warn(
            f"out: {out} holds {table.num_rows} of {planned} rows; the sweep's command does the rest",
            stacklevel=2,
        )
    return table


def read_shards(config: SweepConfig, out: Path) -> pa.Table:
    """Return all finished rows, as `load` does, without its warning.

    Raises:
        ValueError: naming `out`, if there is no finished shard, or one that cannot be read.
    """
    files = [(shard, _path(out, shard)) for shard in finished(config, out)]
    if not files:
        raise ValueError(f"out: {out} holds no finished shard of a sweep")
    if bad := _faults(config, out, [shard for shard, _ in files], thorough=False):
        raise ValueError(_advice(out, bad))
    try:
        tables = [_open(file := path).read().replace_schema_metadata() for _, path in files]
    except UNREADABLE as error:
        raise ValueError(f"out: cannot read {file}: {error}; `ufm sweep` with --repair renews it") from error
    table = pa.concat_tables(tables)
    rows = {"rows": table.num_rows, "rows_planned": config.num_rows}
    says = rows | {"complete": table.num_rows == config.num_rows}
    return table.replace_schema_metadata({METADATA: json.dumps(says)})


@contextmanager
def claimed(config: SweepConfig, out: Path) -> Iterator[None]:
    """Make the folder if need be and hold its lock, so that one process at a time runs a sweep there.

    Raises:
        ValueError: naming `out`, if it holds something else (nothing is then changed) or is locked.
    """
    holds_run(config, out)
    (out / "points").mkdir(parents=True, exist_ok=True)
    with locked(out):
        yield


def unfinished(config: SweepConfig, out: Path, *, repair: bool = False) -> list[Shard]:
    """Return the shards still to be done, in order.

    Finished ones are checked: their footers (what is cut short, and what belongs to another run), or every
    page where `repair` is given. Bad shards are then moved to DIR/bad, logged, and to be done again.

    Raises:
        ValueError: naming `out` and the bad shards, if there are any and `repair` is not given.
    """
    done = finished(config, out)
    bad = _faults(config, out, done, thorough=repair)
    if bad and not repair:
        raise ValueError(_advice(out, bad))
    for shard, why in bad.items():
        (out / "bad").mkdir(exist_ok=True)
        _path(out, shard).replace(out / "bad" / _path(out, shard).name)
        log.warning("ufm: %s: %s; moved to %s", _path(out, shard), why, out / "bad")
    return [shard for shard in shards(config) if shard not in done or shard in bad]


def finished(config: SweepConfig, out: Path) -> list[Shard]:
    """Return the shards whose files are there, in order, without a look into them.

    Raises:
        ValueError: naming `out`, if points/ holds a Parquet file that is no shard of this plan.
    """
    held = {file.name for file in (out / "points").glob("*.parquet")}
    done = [shard for shard in shards(config) if _path(out, shard).name in held]
    if strange := held - {_path(out, shard).name for shard in done}:
        names = ", ".join(sorted(strange))
        raise ValueError(
            f"out: {out / 'points'} holds files that are no shards of this run: {names}; move them"
        )
    return done


def rows_there(config: SweepConfig, out: Path) -> int:
    """Return how many rows the finished shards hold, going by their files' names.

    Raises:
        ValueError: naming `out`, if it holds another run or other files.
    """
    return sum(s.stop - s.first for s in finished(config, out)) if holds_run(config, out) else 0


def write_shard(config: SweepConfig, out: Path, shard: Shard, table: pa.Table) -> None:
    """Write the table of a shard; whoever reads the folder sees all of it or nothing.

    Raises:
        OSError: naming the file, if it cannot be written.
        ValueError: naming `out`, if shards with other columns are there already (of another version).
    """
    other = next((out / "points").glob("*.parquet"), None)
    if other is not None and _open(other).schema_arrow.remove_metadata() != table.schema.remove_metadata():
        raise ValueError(f"out: {other} has other columns than this version writes; choose another folder")
    says = {"digest": config.digest(), "shard": shard.number, **provenance()}
    marked = table.replace_schema_metadata({METADATA: json.dumps(says)})
    write_file(_path(out, shard), partial(pq.write_table, marked, write_page_checksum=True))


def open_folder(out: Path, config: SweepConfig | CensusConfig, made_by: dict[str, Any] | None = None) -> None:
    """Make the folder and its manifest, or check that it holds this very run.

    The manifest says `made_by`, or what this process would do: versions, device, dtype.

    Raises:
        ValueError: naming `out`, if it is a file, holds another run, or holds files but no manifest.
    """
    if not holds_run(config, out):
        out.mkdir(parents=True, exist_ok=True)
        content = {"config": asdict(config), "digest": config.digest(), **(made_by or provenance())}
        write_json(out / "manifest.json", content)
    remove_stale(out)


def holds_run(config: SweepConfig | CensusConfig, out: Path) -> bool:
    """Say whether the folder holds this very run; False for one that is empty or not there. Changes nothing.

    Raises:
        ValueError: naming `out`, if it is a file, holds another run, or holds files but no manifest.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file, need a folder")
    if (out / "manifest.json").exists():
        if manifest(out).get("digest") != config.digest():
            raise ValueError(f"out: {out} holds a different run; choose another folder")
        return True
    files = (file for file in out.rglob("*") if not (is_ours(file) or file == out / "points"))
    if out.exists() and any(files):
        raise ValueError(f"out: {out} is not empty and holds no run; choose another folder")
    return False


def manifest(out: Path) -> dict[str, Any]:
    """Return a run's manifest.json.

    Raises:
        ValueError: naming `out`, if it cannot be read.
    """
    try:
        return dict(json.loads((out / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"out: cannot read {out / 'manifest.json'}: {error}") from error


def provenance() -> dict[str, Any]:
    """Return versions, device and dtype, for manifests, shards and figures' sidecars."""
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy")}
    return {
        # Its own, which a checkout that is not installed has, too.
        "versions": {"python": platform.python_version(), "ufm-jax": ufm_jax.__version__, **versions},
        "device": str(jax.devices()[0].device_kind),
        "dtype": "float64" if jax.config.read("jax_enable_x64") else "float32",
    }


def summary(table: pa.Table | None, planned: int, failed: dict[Shard, str] | None = None) -> dict[str, Any]:
    """Count rows per verdict, status and reason for indecision; nothing is left out, nor what `failed`."""
    columns = {n: table[n].to_pylist() if table else [] for n in ("verdict", "status", "reason")}
    counts = {name: dict(Counter(values).most_common()) for name, values in columns.items()}
    counts["reason"].pop("NONE", None)
    rows = {"rows": table.num_rows if table else 0, "rows_planned": planned}
    return rows | counts | {"failed": {str(s.number): why for s, why in (failed or {}).items()}}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON under a temporary name, then rename."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_file(path, lambda file: file.write((text + "\n").encode()))


def _path(out: Path, shard: Shard) -> Path:
    return out / "points" / f"{shard.number:05d}.parquet"


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


def _faults(config: SweepConfig, out: Path, done: list[Shard], *, thorough: bool) -> dict[Shard, str]:
    """Return the bad shards of `done`, each with what is wrong; pages are read only where `thorough`."""
    looks = {shard: _look(config, shard, _path(out, shard), thorough=thorough) for shard in done}
    schemas = Counter(found for found in looks.values() if isinstance(found, pa.Schema))
    usual = schemas.most_common(1)[0][0] if schemas else None
    faults = {s: found for s, found in looks.items() if isinstance(found, str)}
    return faults | {
        shard: "has other columns than the rest"
        for shard, found in looks.items()
        if isinstance(found, pa.Schema) and found != usual
    }


def _look(config: SweepConfig, shard: Shard, file: Path, *, thorough: bool) -> pa.Schema | str:
    """Return the columns of a shard's file, or what is wrong with it."""
    try:
        with _open(file) as held:
            if thorough:
                held.read()
            schema, rows = held.schema_arrow, held.metadata.num_rows
            says = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    except UNREADABLE as error:
        return f"cannot be read ({str(error).splitlines()[0]})"
    if (says.get("digest"), says.get("shard")) != (config.digest(), shard.number):
        return "belongs to another run or is another shard"
    if rows != shard.stop - shard.first:
        return f"holds {rows} rows, need {shard.stop - shard.first}"
    return schema.remove_metadata()


def _advice(out: Path, bad: dict[Shard, str]) -> str:
    names = "; ".join(f"{_path(out, shard)} {why}" for shard, why in list(bad.items())[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"out: {names}{more}; `ufm sweep` with --repair computes just these again, the others are intact"


def _configuration(out: Path) -> SweepConfig:
    """Return the configuration of the sweep that the folder holds."""
    if not (out / "manifest.json").exists():
        raise ValueError(f"out: {out} holds no manifest.json, so no sweep")
    held: dict[str, Any] = manifest(out).get("config", {})
    tuples: dict[str, Any] = {name: tuple(v) for name, v in held.items() if isinstance(v, list)}
    try:
        return SweepConfig(**(held | tuples))
    except TypeError as error:
        raise ValueError(f"out: {out} holds no sweep, or one of another version: {error}") from error
