"""The orbits of a whole run, from those of its shards.

In a shard's table `orbit` numbers the shard's own orbits, and `invariants` are those of the best solved row
of each (`by_orbit`). Here orbits of several shards become one, which is a function of the tables: the same,
whatever the order in which they were made.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from ufm_jax.landscape.orbits import MATCH_TOL, near, projected
from ufm_jax.runs.plan import Plan, Shard, lanes_of

NUMBERS = ("loss", "verdict", "index", "nullity", "lambda_min")  # of an orbit, beside its setting


class Rows(NamedTuple):
    """All rows of some shards."""

    table: pa.Table  # `orbit` is a line of `orbits`; without `invariants`
    orbits: pa.Table | None  # None: nobody sorted the rows (`spectra` "needed", older versions)


def counted(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value occurs, the most frequent first."""
    counts = column.value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda c: -c["counts"])}


def rows_of(plan: Plan, shards: Iterable[tuple[Shard, pa.Table]]) -> Rows:
    """Return the rows of shards, in their order, and their distinct orbits, as `listed`.

    Which orbit it is (`shard_orbit`) in which shard (`shard`) is said of each.
    """
    numbers, tables = zip(*shards, strict=True)
    table = pa.concat_tables(tables)
    if "invariants" not in table.column_names:
        return Rows(table, None)
    held, table = table["invariants"], table.drop_columns("invariants")
    if plan.spectra != "all":
        return Rows(table, None)
    setting = np.concatenate([lanes_of(plan, np.arange(s.first, s.stop))[1] for s in numbers])
    shard = np.repeat([s.number for s in numbers], [part.num_rows for part in tables])
    own = table["orbit"].fill_null(-1).to_numpy()
    heads = _heads(table, held, setting, shard)
    group = np.full(len(own), -1)
    group[own >= 0] = _merged(heads)[_find(heads, shard[own >= 0], own[own >= 0])]
    line = in_order(group, table["loss"].to_numpy(), setting)
    orbits = listed(table, line, plan.columns)
    orbits = orbits.add_column(0, "orbit", pa.array(np.arange(orbits.num_rows)))
    order = np.lexsort((heads.own, heads.shard, line[heads.row]))
    ends = np.cumsum(np.bincount(line[heads.row], minlength=orbits.num_rows))
    for name, values in (("shard", heads.shard), ("shard_orbit", heads.own)):
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        orbits = orbits.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values[order])))
    place = table.schema.get_field_index("orbit")
    column = pa.array(line, pa.int64(), mask=line < 0)
    return Rows(table.set_column(place, "orbit", column), orbits)


def in_order(
    group: Int[np.ndarray, " n"], loss: Float[np.ndarray, " n"], setting: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Return the groups of rows numbered by setting, the lowest first; -1 stays."""
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.lexsort((rows, loss[rows]))]
    found, first = np.unique(group[rows], return_index=True)
    lowest = rows[first]
    place = np.argsort(np.lexsort((lowest, loss[lowest], setting[lowest])))
    line = np.full(len(group), -1)
    line[rows] = place[np.searchsorted(found, group[rows])]
    return line


def listed(table: pa.Table, orbit: Int[np.ndarray, " n"], settings: Iterable[str]) -> pa.Table:
    """Return the distinct orbits, one row each, of rows on them (-1: on none).

    `row` is the one of least gradient, in units, whose other columns stand for the orbit; `hits` counts the
    rows that ended there.
    """
    slope, rows = table["rel_grad_norm"].to_numpy(), np.flatnonzero(orbit >= 0)
    rows = rows[np.lexsort((rows, slope[rows]))]
    first, hits = np.unique(orbit[rows], return_index=True, return_counts=True)[1:]
    chosen = table.select([*NUMBERS, *settings]).take(rows[first]).replace_schema_metadata()
    chosen = chosen.set_column(1, "verdict", chosen["verdict"].cast(pa.string()))
    for name, values in (("hits", hits), ("row", rows[first])):
        chosen = chosen.append_column(name, pa.array(values, pa.int64()))
    return chosen.combine_chunks()


class _Heads(NamedTuple):
    """The best solved row of each orbit of each shard, by shard and orbit."""

    row: Int[np.ndarray, " m"]
    shard: Int[np.ndarray, " m"]
    own: Int[np.ndarray, " m"]  # the orbit's number in its shard
    setting: Int[np.ndarray, " m"]
    kind: Int[np.ndarray, "m 2"]  # index and nullity, -1 and -1 where not both were counted
    lowest: Float[np.ndarray, " m"]  # λ_min
    invariants: Float[np.ndarray, "m F"]


def _heads(table: pa.Table, held: pa.ChunkedArray, setting: np.ndarray, shard: np.ndarray) -> _Heads:
    rows = np.flatnonzero(held.is_valid().to_numpy())
    own = table["orbit"].take(rows).to_numpy()
    order = np.lexsort((own, shard[rows]))
    rows, own = rows[order], own[order]
    vectors = held.combine_chunks().take(pa.array(rows))
    few = table.select(["index", "nullity", "lambda_min"]).take(rows)
    kind = np.stack([few[name].fill_null(-1).to_numpy() for name in ("index", "nullity")], axis=1)
    kind[(kind < 0).any(axis=1)] = -1
    flat = vectors.flatten().to_numpy()
    return _Heads(
        rows,
        shard[rows],
        own,
        setting[rows],
        kind,
        few["lambda_min"].fill_null(np.nan).to_numpy(),
        flat.reshape(len(rows), len(flat) // max(1, len(rows))),
    )


def _find(heads: _Heads, shard: np.ndarray, own: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return the line of each of some orbits of shards."""
    first = np.searchsorted(heads.shard, shard)
    return first + own


def _merged(heads: _Heads) -> Int[np.ndarray, " m"]:
    """Return for each orbit of a shard the one that stands for it: the first whose invariants it has.

    Shard by shard, those that were counted first. Two of one shard are never one, as they were told apart
    there by more; where several would do it is the one of the nearest λ_min.
    """
    number = np.arange(len(heads.row))
    group = np.full(len(number), -1)
    taken: dict[int, set[int]] = {}
    uncounted = heads.kind[:, 0] < 0
    along = projected(heads.invariants)
    ordered = np.lexsort((number, along, heads.setting))
    settings, places = heads.setting[ordered], along[ordered]
    for i in np.argsort(uncounted, kind="stable"):
        own = heads.invariants[i]
        tolerance = MATCH_TOL * (1.0 + np.abs(own).max(initial=0.0))
        low, high = np.searchsorted(settings, heads.setting[i] + np.array([0, 1]))
        ends = along[i] + 1.01 * tolerance * np.array([-1, 1])
        window = ordered[low:high][slice(*np.searchsorted(places[low:high], ends))]
        window = window[group[window] == window]
        window = window[near(heads.invariants[window], own)]
        window = window[uncounted[i] | (heads.kind[window] == heads.kind[i]).all(axis=1)]
        window = np.array([j for j in window if heads.shard[i] not in taken[j]], int)
        if len(window):
            distance = np.nan_to_num(np.abs(heads.lowest[window] - heads.lowest[i]), nan=np.inf)
            group[i] = window[np.lexsort((window, distance))[0]]
        else:
            group[i], taken[i] = i, set()
        taken[group[i]].add(heads.shard[i])
    return group
