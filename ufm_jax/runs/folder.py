"""What every run's folder has, be it of a sweep or of a census: a manifest, a lock, and nobody else's files.

DIR/manifest.json  configuration and its hash, versions, device, dtype
DIR/.ufm.lock      locked by the process that works there

All files that hold results say the hash of their run, too: what does not belong is refused, and a manifest
that was lost or edited can be written again from them.
"""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ufm_jax.files import LOCK, is_ours, locked, provenance, remove_stale, write_json
from ufm_jax.runs.plan import (
    CensusConfig,
    LandscapeCensusConfig,
    LandscapeConfig,
    SweepConfig,
    digest_of,
    held_landscape,
    held_loss,
)

UNREADABLE = (OSError, ValueError, pa.ArrowException)  # what pyarrow raises at bytes that are not its own
METADATA = b"ufm"  # the key of a Parquet file's schema that says which run and shard it is
MANIFEST, POINTS, ORBITS, SWEPT_ORBITS = "manifest.json", "points", "orbits.npz", "orbits.parquet"
AGAIN = "`ufm sweep` or `ufm census`, as it was given, with --repair writes it again from the files there"

Config = SweepConfig | LandscapeConfig | CensusConfig | LandscapeCensusConfig


@contextmanager
def claimed(config: Config, out: Path, *, repair: bool = False) -> Iterator[None]:
    """Make the folder if need be and hold its lock, so that one process at a time works there.

    A folder that was made and nothing came into is removed again.

    Raises:
        ValueError: naming `out`, for what `holds_run` refuses (nothing is then changed), or if it is locked.
    """
    holds_run(config, out, repair=repair)
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"out: cannot make {out}: {error.strerror}") from error
    with locked(out):
        try:
            yield
        finally:
            if made and [file.name for file in out.iterdir()] == [LOCK]:
                (out / LOCK).unlink()
                out.rmdir()


def open_folder(
    out: Path, config: Config, made_by: dict[str, Any] | None = None, *, repair: bool = False
) -> None:
    """Write the manifest of a new run, or check that the folder holds this very run.

    The manifest says `made_by`, or what this process would do: versions, device, dtype. One that `repair`
    writes again says what made the files there.

    Raises:
        ValueError: naming `out`, as `holds_run`.
    """
    if holds_run(config, out, repair=repair):
        made_by = _maker(out)
    if not _manifest_is(config, out):
        out.mkdir(parents=True, exist_ok=True)
        content = {"config": config.content, "digest": config.digest(), **(made_by or provenance())}
        write_json(out / MANIFEST, content)
    remove_stale(out, out / POINTS)


def holds_run(config: Config, out: Path, *, repair: bool = False) -> bool:
    """Say whether the folder holds this very run; False for one that is empty or not there. Changes nothing.

    With `repair` a manifest that is lost, unreadable or of another run is passed over where the files there
    are of this run.

    Raises:
        ValueError: naming `out`, if it is a file, holds another run or foreign files, or has no good manifest
            and `repair` is not given or cannot help.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file, need a folder")
    if not out.exists():
        above = next(folder for folder in (out / ".").absolute().parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise ValueError(f"out: cannot make {out}: {above} is no folder that may be written to")
        return False
    if _manifest_is(config, out):
        return True
    there, digests = (out / MANIFEST).exists(), set(_digests(out))
    if repair and digests == {config.digest()}:
        return True
    if there:
        held = manifest(out)["config"]  # says itself what is wrong with it
        other = ", ".join(sorted(n for n in {*held, *config.content} if _other(held, config.content, n)))
        raise ValueError(f"out: {out} holds a different run (other {other}); choose another folder")
    if digests == {config.digest()}:
        raise ValueError(f"out: {out} holds this run without its {MANIFEST}; {AGAIN}")
    if _foreign(out):
        raise ValueError(f"out: {out} is not empty and holds no run of this kind; choose another folder")
    return False


def manifest(out: Path) -> dict[str, Any]:
    """Return a run's manifest.json, whose configuration is that of its hash.

    Raises:
        ValueError: naming `out`, if it is not there, cannot be read or was edited.
    """
    path = out / MANIFEST
    if not path.exists():
        what = f"; {AGAIN}" if any(_digests(out)) else ""
        raise ValueError(f"out: {out} holds no {MANIFEST}, so no run{what}")
    try:
        content = dict(json.loads(path.read_text()))
        if not isinstance(content.get("config"), dict) or not isinstance(content.get("digest"), str):
            raise TypeError("there is no configuration with its digest")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"out: cannot read {path}: {error}; {_help(out)}") from error
    if content["digest"] not in digest_of(content["config"]):
        raise ValueError(f"out: {path} was edited: its configuration is not that of its digest; {_help(out)}")
    return content


def configuration(out: Path) -> Config:
    """Return the configuration of a run, of an older version with today's defaults for what is new.

    Raises:
        ValueError: naming `out`, as `manifest`, or if the configuration lacks what has no default.
    """
    held = manifest(out)["config"]
    kind: type[Any]
    if "landscape" in held:
        kind, more = (LandscapeConfig if "target" in held else LandscapeCensusConfig), held_landscape(held)
    else:
        kind, more = (SweepConfig if "target" in held else CensusConfig), {"loss": held_loss(held)}
    known = {field.name for field in fields(kind)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in held.items() if k in known}
    try:
        return kind(**given | {name: value for name, value in more.items() if name in known})
    except TypeError as error:
        raise ValueError(f"out: cannot read the configuration in {out / MANIFEST}: {error}") from error


def move_to_bad(out: Path, file: Path) -> Path:
    """Move a bad file to DIR/bad, under a name that is free there; return the new path."""
    folder = out / "bad"
    folder.mkdir(exist_ok=True)
    again = itertools.chain([""], (f".{i}" for i in itertools.count(1)))
    names = (folder / f"{file.stem}{one}{file.suffix}" for one in again)
    return file.rename(next(name for name in names if not name.exists()))


def marks(file: Path) -> dict[str, Any]:
    """Return what a Parquet file's footer says of its run; {} where it says nothing.

    Raises:
        UNREADABLE: as pyarrow.
    """
    with pq.ParquetFile(file) as held:
        return said_by(held.schema_arrow)


def said_by(schema: pa.Schema) -> dict[str, Any]:
    """Return what a schema's metadata say of the run, {} where they say nothing that could be read."""
    says = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    return says if isinstance(says, dict) else {}


def _help(out: Path) -> str:
    return AGAIN if any(_digests(out)) else f"delete {MANIFEST}, or choose another folder"


def _other(held: dict[str, Any], content: dict[str, Any], name: str) -> bool:
    return json.dumps(held.get(name)) != json.dumps(content.get(name))


def _manifest_is(config: Config, out: Path) -> bool:
    try:
        return manifest(out)["digest"] == config.digest()
    except ValueError:
        return False


def _digests(out: Path) -> Iterator[str]:
    """Yield the hash of the run that each file of results says it is of, where it can be read."""
    yield from (str(says["digest"]) for says in _all_marks(out) if "digest" in says)
    try:
        with np.load(out / ORBITS, allow_pickle=False) as held:
            yield str(held["digest"])
    except Exception:  # zipfile, NumPy and the OS each raise their own; not there
        return


def _all_marks(out: Path) -> Iterator[dict[str, Any]]:
    for file in (*sorted((out / POINTS).glob("*.parquet")), *out.glob(SWEPT_ORBITS)):
        try:
            yield marks(file)
        except UNREADABLE:
            continue


def _maker(out: Path) -> dict[str, Any] | None:
    """Return versions, device and dtype of the first shard."""
    says = next(_all_marks(out), {})
    names = ("versions", "device", "dtype")
    return {name: says[name] for name in names} if all(name in says for name in names) else None


def _foreign(out: Path) -> bool:
    """Say whether there is a file that no process of ours leaves which is killed at its very beginning."""
    points = out / POINTS
    inside = points.iterdir() if points.is_dir() and not points.is_symlink() else ()
    return any(not is_ours(f) for f in inside) or any(
        not (is_ours(f) or (f == points and f.is_dir())) for f in out.iterdir()
    )
