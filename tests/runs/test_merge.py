"""Orbits of shards made orbits of a run: by their invariants, and by no order."""

import numpy as np
import pyarrow as pa
import pytest

from ufm_jax.runs.merge import in_order, rows_of
from ufm_jax.runs.plan import Plan, Shard


def table(lines):
    """Rows (local orbit, loss, index, λ_min, invariant or None)."""
    orbit, loss, index, lowest, held = zip(*lines, strict=True)
    count = len(lines)
    return pa.table(
        {
            "loss": pa.array(loss, pa.float64()),
            "verdict": ["STRICT_SADDLE"] * count,
            "index": pa.array(index, pa.int32()),
            "nullity": pa.array([None if i is None else 0 for i in index], pa.int32()),
            "lambda_min": pa.array(lowest, pa.float64()),
            "rel_grad_norm": pa.array(1e-12 * np.arange(1, count + 1)),
            "orbit": pa.array(orbit, pa.int64()),
            "invariants": pa.array([None if v is None else [v, 1.0] for v in held], pa.list_(pa.float64())),
        }
    )


def merged(*shards):
    """Merge tables as shards of one plan."""
    plan = Plan(starts=sum(map(len, shards)), shard_size=1000)
    first, numbered = 0, []
    for number, lines in enumerate(shards):
        numbered.append((Shard(number, "minima", first, first + len(lines)), table(lines)))
        first += len(lines)
    return rows_of(plan, numbered)


A = [(0, 1.0, 1, -1.0, 5.0), (0, 1.0, 1, -1.0, None), (1, 0.5, 0, 1.0, 7.0), (None, 3.0, None, None, None)]
B = [(0, 0.5, 0, 1.0, 7.0 + 1e-7), (1, 2.0, 2, -2.0, 9.0), (2, 1.0, 1, -1.0, 5.0 - 1e-7)]


def test_orbits_of_two_shards_become_one_the_lowest_first():
    rows = merged(A, B)
    assert rows.table["orbit"].to_pylist() == [1, 1, 0, None, 0, 2, 1]
    assert "invariants" not in rows.table.column_names
    found = rows.orbits.to_pydict()
    assert found["hits"] == [2, 3, 1]
    assert found["loss"] == [0.5, 1.0, 2.0]
    assert found["row"] == [4, 0, 5]  # the best solved
    assert found["shard"] == [[0, 1], [0, 1], [1]]
    assert found["shard_orbit"] == [[1, 0], [0, 2], [1]]


def test_one_invariant_and_other_counts_are_two_orbits_and_what_was_not_counted_joins_either():
    other = [(0, 1.0, 2, -1.0, 5.0)]
    assert merged(A, other).orbits.num_rows == 3
    unknown = [(0, 1.0, None, None, 5.0)]
    assert merged(A, unknown).table["orbit"].to_pylist()[-1] == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_two_orbits_of_one_shard_are_never_one_and_are_matched_by_their_lowest_eigenvalue(swapped):
    one = [(0, 1.0, 1, -1.0, 5.0), (1, 1.0, 1, -2.0, 5.0)]
    other = [(0, 1.0, 1, -2.0, 5.0), (1, 1.0, 1, -1.0, 5.0)] if swapped else one
    line = merged(one, other).table["orbit"].to_pylist()
    assert line == ([0, 1, 1, 0] if swapped else [0, 1, 0, 1])


def test_nothing_critical_is_no_orbit():
    rows = merged([(None, 1.0, None, None, None)])
    assert rows.orbits.num_rows == 0
    assert rows.table["orbit"].null_count == 1


def test_groups_are_in_order_of_setting_and_then_of_their_lowest_value():
    group, loss = np.array([7, 7, -1, 3, 5]), np.array([2.0, 0.5, 0.0, 1.0, 0.1])
    line = in_order(group, loss, np.array([0, 0, 0, 0, 1]))
    assert line.tolist() == [0, 0, -1, 1, 2]
