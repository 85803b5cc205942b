"""Where two tables differ: rows by key, floats beyond rounding, all else exactly."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-12  # |x - y| / (1 + |y|): between the rounding of a loss and what a descent can be off
Table = Mapping[str, Sequence[Any]]  # columns of one length: numbers, text, arrays, None where null
Key = tuple[Any, ...]


class Cell(NamedTuple):
    """One entry that differs."""

    key: Key
    column: str
    here: Any
    there: Any
    size: float  # `distance`


class Differences(NamedTuple):
    """What one table has and the other has not, and the entries that differ of the rows in both."""

    rows: int  # in both
    cells: list[Cell]
    only_here: list[Key]
    only_there: list[Key]
    columns_here: list[str]
    columns_there: list[str]


def table_of(record: Mapping[str, Any]) -> Table:
    """Return a JSON object as a table of one row; what is nested is compared as text."""
    nested = (dict, list)
    return {
        name: [json.dumps(v, sort_keys=True) if isinstance(v, nested) else v] for name, v in record.items()
    }


def distance(here: Any, there: Any) -> float:
    """Return |x − y| / (1 + |y|), largest of an array; 0 where equal, infinite where not to be compared."""
    if here is None or there is None or isinstance(here, str) or isinstance(there, str):
        return 0.0 if here is there or (isinstance(here, str) and here == there) else np.inf
    x, y = np.asarray(here, float), np.asarray(there, float)
    if x.shape != y.shape:
        return np.inf
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        sizes = np.where(same, 0.0, np.abs(x - y) / (1 + np.abs(y)))
    return float(np.max(np.where(np.isnan(sizes), np.inf, sizes), initial=0.0))


def differences(here: Table, there: Table, key: Sequence[str]) -> Differences:
    """Compare two tables by the columns of `key` that both have, or row by row in their order if none is."""
    key = [name for name in key if name in here and name in there]
    first, second = _numbered(here, key), _numbered(there, key)
    columns = [name for name in here if name in there]
    both = [k for k in first if k in second]
    cells = [
        Cell(k, name, a, b, size)
        for k in both
        for name in columns
        for a, b in [(here[name][first[k]], there[name][second[k]])]
        for size in [distance(a, b)]
        if size > TOLERANCE
    ]
    return Differences(
        len(both),
        cells,
        [k for k in first if k not in second],
        [k for k in second if k not in first],
        [name for name in here if name not in there],
        [name for name in there if name not in here],
    )


def _numbered(table: Table, key: Sequence[str]) -> dict[Key, int]:
    """Return key -> row; a key that comes again gets its number beside it, so that no row is lost."""
    length = len(next(iter(table.values()), ()))
    keys = list(zip(*(table[name] for name in key), strict=True)) if key else [(i,) for i in range(length)]
    seen: Counter[Key] = Counter()
    numbered = {}
    for row, k in enumerate(keys):
        numbered[k if not seen[k] else (*k, seen[k])] = row
        seen[k] += 1
    return numbered


def said(found: Differences, show: int = 5) -> list[str]:
    """Return lines: count and largest difference of each column, then the first entries; none if equal."""
    lines = []
    for where, keys in (("here", found.only_here), ("there", found.only_there)):
        if keys:
            more = f" and {len(keys) - show} more" if len(keys) > show else ""
            listed = "; ".join(_key(k) for k in keys[:show])
            lines.append(f"{len(keys)} row{'s' * (len(keys) > 1)} only {where}: {listed}{more}")
    columns = defaultdict(list)
    for cell in found.cells:
        columns[cell.column].append(cell)
    for name, cells in columns.items():
        nulls = sum((c.here is None) != (c.there is None) for c in cells)
        largest = max((c.size for c in cells if np.isfinite(c.size)), default=None)
        lines.append(
            f"{name}: {len(cells)} of {found.rows} rows"
            + (f", {nulls} of them null in one only" if nulls else "")
            + (f", largest difference {largest:.2g}" if largest is not None else "")
        )
    lines += [
        f"  {_key(c.key)}: {c.column} here {_value(c.here)}, there {_value(c.there)}"
        for c in found.cells[:show]
    ]
    if len(found.cells) > show:
        lines.append(f"  and {len(found.cells) - show} more")
    return lines


def _key(key: Key) -> str:
    return ", ".join(map(str, key))


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=6)
    return "null" if value is None else repr(value)
