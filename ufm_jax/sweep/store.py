"""A sweep's folder: manifest, Parquet shards, summary. The only module that touches a run's files.

DIR/manifest.json        configuration and its hash, versions, device, dtype
DIR/points/00000.parquet one row a start, decay setting and target
DIR/summary.json         counts per verdict and status; written when every shard is there
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import jax
import pyarrow as pa
import pyarrow.parquet as pq

from ufm_jax.precision import require_x64
from ufm_jax.sweep.engine import Progress, problem_of, run_shards
from ufm_jax.sweep.plan import CensusConfig, Shard, SweepConfig, shards


def run(config: SweepConfig, out: Path, progress: Progress | None = None) -> pa.Table:
    """Run a sweep into the folder `out` and return its table; finished shards are kept, not done again.

    Rows do not depend on how often the run was interrupted: a start's key is made of the seed and its number.

    Raises:
        ValueError: naming `out`, if it holds another run or other files; nothing is then changed.
    """
    require_x64()
    problem_of(config)  # refuse a bad configuration before anything is written
    open_folder(out, config)
    (out / "points").mkdir(exist_ok=True)
    todo = [s for s in shards(config) if not _path(out, s).exists()]
    for shard, table in zip(todo, run_shards(config, todo, progress), strict=True):
        write_file(_path(out, shard), partial(pq.write_table, table))
    table = load(out)
    write_json(out / "summary.json", summary(table))
    return table


def load(out: Path | str) -> pa.Table:
    """Return all finished rows of a run.

    Raises:
        ValueError: naming `out`, if it holds no run or a shard cannot be read.
    """
    folder = Path(out) / "points"
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ValueError(f"out: {out} holds no finished shard of a sweep")
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file))
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"out: cannot read {file}: {error}; delete it and run again") from error
    return pa.concat_tables(tables)


def open_folder(out: Path, config: SweepConfig | CensusConfig) -> None:
    """Make the folder and its manifest, or check that it holds this very run.

    Raises:
        ValueError: naming `out`, if it is a file, holds another run, or holds files but no manifest.
    """
    manifest = out / "manifest.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file, need a folder")
    if manifest.exists():
        try:
            held = json.loads(manifest.read_text()).get("digest")
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"out: cannot read {manifest}: {error}") from error
        if held != config.digest():
            raise ValueError(f"out: {out} holds a different run; choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"out: {out} is not empty and holds no run; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(manifest, {"config": asdict(config), "digest": config.digest(), **provenance()})
    for stale in out.rglob("*.tmp"):
        stale.unlink()


def provenance() -> dict[str, Any]:
    """Return versions, device and dtype, for manifests and figures' sidecars."""
    packages = ("ufm-jax", "jax", "jaxlib", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": str(jax.devices()[0].device_kind),
        "dtype": "float64" if jax.config.read("jax_enable_x64") else "float32",
    }


def summary(table: pa.Table) -> dict[str, Any]:
    """Count rows per verdict, status and reason for indecision; nothing is left out."""
    counts = {name: dict(Counter(table[name].to_pylist()).most_common()) for name in ("verdict", "status")}
    undecided = Counter(r for r in table["reason"].to_pylist() if r != "NONE")
    return {"rows": table.num_rows, **counts, "reason": dict(undecided)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON under a temporary name, then rename."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_file(path, lambda file: file.write((text + "\n").encode()))


def _path(out: Path, shard: Shard) -> Path:
    return out / "points" / f"{shard.number:05d}.parquet"


def write_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write under a temporary name, flush to disk, rename: the path never holds half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
