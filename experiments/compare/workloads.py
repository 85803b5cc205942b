"""Small sweeps, censuses, certificates and predictions, as command lines, and how to read what they write."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.compare.differences import Table, table_of

DECAYS = ("--decay-w", "5e-3", "--decay-h", "1e-3", "--decay-b", "1e-2")
MAIN = ("--num-classes", "4", "--per-class", "5", "--dim", "6")  # K, n, d of most
FEW = ("--num-classes", "3", "--per-class", "3", "--dim", "3")
SWEEP_KEY = ("target", "decay_w", "decay_h", "decay_b", "start")
FULL = "full space"  # the sweep whose points are certified


class Work(NamedTuple):
    """One command; `read` makes tables of its folder and standard output, compared by `keys`."""

    name: str
    words: tuple[str, ...]  # after `python -m ufm_jax`, without --out
    writes: bool = True  # takes --out


class Rate(NamedTuple):
    """A sweep timed with few and with many starts: its rate is that of the starts between."""

    name: str
    words: tuple[str, ...]
    few: int
    many: int


class Scale(NamedTuple):
    """What is compared, what is timed, and how often in turns."""

    works: tuple[Work, ...]
    certified: int  # of `points`, and as many of the sweep in the full space
    rates: tuple[Rate, ...]
    turns: int


def _sweep(name: str, starts: int, *words: str, sizes: tuple[str, ...] = MAIN) -> Work:
    decays = () if "--decay-w" in words else DECAYS
    return Work(name, ("sweep", *sizes, *decays, "--starts", str(starts), *words))


def _census(name: str, starts: int, *sizes: str) -> Work:
    return Work(name, ("census", *sizes, *DECAYS, "--starts", str(starts)))


def _predict(name: str, *words: str) -> Work:
    return Work(name, ("predict", *words, "--json"), writes=False)


NEEDED = ("--spectra", "needed")
GRID = ("--decay-w", "5e-3", "5e-4", "--decay-h", "1e-3", "--decay-b", "1e-2", "0")
UNDECAYED = ("--decay-w", "5e-3", "--decay-h", "1e-3", "--decay-b", "0")
IMBALANCED = ("--counts", "5,3,2", "--dim", "4")
NARROW = ("--num-classes", "4", "--per-class", "3", "--dim", "2")
THREE = ("--num-classes", "3", "--per-class", "2", "--dim", "4")
FOUR = ("--num-classes", "4", "--per-class", "2", "--dim", "4")

_needed = _sweep("minima, spectra needed", 256, *NEEDED)
_unequal = _sweep("unequal classes", 48, "--target", "both", sizes=IMBALANCED)
_full = _sweep(FULL, 16, "--target", "both", "--space", "full", "--keep-points", sizes=FEW)
_brief = _sweep(FULL, 16, "--space", "full", "--keep-points", *NEEDED, sizes=FEW)
_three = _census("census, K = 3", 96, *THREE)
_closed = _predict("predict", *MAIN, *DECAYS)
_hot = Rate("minima, spectra needed", ("sweep", *MAIN, *DECAYS, *NEEDED), 4096, 65_536)
_hot_longer = _hot._replace(many=262_144)
_spectra = Rate("minima, all spectra", ("sweep", *MAIN, *DECAYS), 1024, 33_792)

SCALES = {
    "smoke": Scale((_needed, _brief, _three, _closed), 1, (_hot,), 1),
    "default": Scale(
        (
            _needed,
            _sweep("minima, all spectra", 64, "--keep-points"),
            _sweep("saddles", 96, "--target", "saddles"),
            _sweep("grid of decays", 32, *GRID, *NEEDED),
            _unequal,
            _sweep("smoothed labels", 48, "--smoothing", "0.1", "--target", "saddles", sizes=FEW),
            _sweep("squared loss", 48, "--loss", "squared", "--target", "both", sizes=FEW),
            _sweep("no bias", 48, "--no-bias", *UNDECAYED, "--target", "both", sizes=FEW),
            _sweep("undecayed bias", 48, *UNDECAYED, sizes=FEW),
            _sweep("d below K - 1", 96, "--target", "both", sizes=NARROW),
            _full,
            _three,
            _census("census, K = 4", 768, *FOUR),
            _closed,
            _predict("predict, unequal classes", *IMBALANCED, *DECAYS),
            _predict("predict, squared loss", *MAIN, *DECAYS, "--loss", "squared"),
        ),
        3,
        (_hot_longer, _spectra),
        4,
    ),
}


def read(work: Work, out: Path, stdout: str) -> dict[str, tuple[Table, Sequence[str]]]:
    """Return what a command wrote: name -> table, and the columns that tell its rows apart."""
    found: dict[str, tuple[Table, Sequence[str]]] = {}
    shards = sorted(out.glob("points/*.parquet"))
    if shards:
        rows = pa.concat_tables([pq.read_table(file) for file in shards])
        found["rows"] = ({name: _values(rows[name]) for name in rows.column_names}, SWEEP_KEY)
    if (out / "orbits.csv").exists():
        with (out / "orbits.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        columns = {name: [_number(line[name]) for line in lines] for name in (lines or [{}])[0]}
        found["orbits"] = (columns, ())
    if work.words[0] == "census" and (out / "summary.json").exists():
        found["census summary"] = (table_of(json.loads((out / "summary.json").read_text())), ())
    if not work.writes and stdout.strip():
        found[work.words[0]] = (table_of(json.loads(stdout)), ())
    return found


def _values(column: pa.ChunkedArray) -> list[Any]:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return list(pa.concat_arrays(column.chunks).to_numpy_ndarray())
    values: list[Any] = column.to_pylist()
    return values


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def certificates(folder: Path, rows: Table | None, count: int) -> tuple[Work, ...]:
    """Write `count` points of `points`, and as many of a sweep's rows, as npz; return their certificates."""
    files = points(folder)[:count]
    if rows is not None and "H" in rows:
        by_loss = np.argsort(rows["loss"])
        # Lowest and highest, then what lies between.
        order = [by_loss[0], by_loss[-1], by_loss[len(by_loss) // 2]]
        for number, row in enumerate(order[:count]):
            W, H, b = (np.asarray(rows[name][row]) for name in "WHb")
            files.append(_point(folder / f"found-{number}.npz", W, H, b))
    return tuple(
        Work(f"certify {file.stem}", ("certify", str(file), *DECAYS, "--json"), writes=False)
        for file in files
    )


def points(folder: Path) -> list[Path]:
    """Write an ETF, the origin and a random point of K = 3, n = 3, d = 3 as npz; return the files."""
    K, n, d = 3, 3, 3
    rng = np.random.default_rng(0)
    etf = np.sqrt(K / (K - 1)) * (np.eye(K) - 1 / K)
    makers: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
        "etf": lambda: (etf, np.repeat(etf.T, n, axis=1), np.zeros(K)),
        "origin": lambda: (np.zeros((K, d)), np.zeros((d, K * n)), np.zeros(K)),
        "random": lambda: (rng.normal(size=(K, d)), rng.normal(size=(d, K * n)), rng.normal(size=K)),
    }
    return [_point(folder / f"{name}.npz", *make()) for name, make in makers.items()]


def _point(file: Path, W: np.ndarray, H: np.ndarray, b: np.ndarray) -> Path:
    labels = np.repeat(np.arange(len(W)), H.shape[1] // len(W))
    np.savez(file, W=W, H=H, b=b, labels=labels)
    return file
