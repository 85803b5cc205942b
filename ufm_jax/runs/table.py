"""The table of a shard: a row a start, its columns in order; and points of them again."""

from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jax.tree_util import tree_flatten_with_path

from ufm_jax.landscape.grid import Grid
from ufm_jax.landscape.point import leaf_name
from ufm_jax.landscape.search import CriticalPoint
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.numerics.status import Status
from ufm_jax.runs import by_orbit
from ufm_jax.runs.plan import Plan, Target


def table_of(
    columns: dict[str, np.ndarray],
    target: Target,
    start: np.ndarray,
    point: CriticalPoint,
    found: by_orbit.Sorted,
    best: np.ndarray,
) -> pa.Table:
    """Return the table of one shard; what was not shown of a row is null."""
    evidence = found.evidence
    shown = evidence.columns()
    measures = {name: np.asarray(values) for name, values in evidence.measures.items()}
    numbers = {name: values for name, values in measures.items() if values.dtype.kind == "i"}
    evident = ("index", "nullity", "lambda_min", "lambda_min_residual", "dual_bound", "dual_gap")
    return pa.table(
        {
            "start": pa.array(start.astype(np.int64)),
            "loss": pa.array(np.asarray(evidence.loss)),  # NaN where a search ended so
            "grad_norm": pa.array(np.asarray(evidence.grad_norm)),
            "status": _names(Status, point.status),
            "verdict": _names(Verdict, evidence.verdict),
            **{name: pa.array(values) for name, values in numbers.items()},
            **{name: _shown(shown[name]) for name in evident},
            **{name: _shown(values) for name, values in measures.items() if name not in numbers},
            "num_steps": pa.array(np.asarray(point.num_steps)),
            "target": pa.repeat(str(target), len(start)),
            **{name: pa.array(values) for name, values in columns.items()},
            "negative_curvature": _shown(evidence.negative_curvature),
            "reason": _names(Reason, evidence.reason),
            "closed_form_loss": _shown(best),
            "rel_grad_norm": pa.array(np.asarray(evidence.rel_grad_norm)),
            "rel_dual_gap": _shown(evidence.rel_dual_gap),
            "orbit": pa.array(found.orbit, pa.int64(), mask=found.orbit < 0),
            "invariants": _vectors(len(start), found.best, found.invariants),
        }
    )


def with_points(rows: pa.Table, points: Any) -> pa.Table:
    """Return rows with a column of tensors for each leaf of their points."""
    for path, array in tree_flatten_with_path(points)[0]:
        rows = rows.append_column(leaf_name(path), _tensors(array))
    return rows


def points_in(table: pa.Table, grid: Grid | None) -> Any:
    """Return the points that a table's columns hold, or None."""
    if grid is None:
        return None
    like = jax.eval_shape(grid.landscape.space("points").zeros)
    names = [leaf_name(path) for path, _ in tree_flatten_with_path(like)[0]]
    if any(name not in table.column_names for name in names):
        return None
    held = [
        column.to_numpy_ndarray() if hasattr(column, "to_numpy_ndarray") else column.to_numpy()
        for column in (table[name].combine_chunks() for name in names)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), held)


def settings_in(table: pa.Table, plan: Plan) -> np.ndarray:
    """Return the number of the setting of each row, by its columns."""
    number = np.zeros(table.num_rows, int)
    if plan.num_settings > 1:
        rows = np.stack([table[name].to_numpy() for name in plan.columns], axis=1)
        for setting, values in enumerate(zip(*plan.columns.values(), strict=True)):
            number[np.all(rows == values, axis=1)] = setting
    return number


def _shown(values: Any) -> pa.Array:
    """Return numbers with null for NaN, and for what was NOT_COUNTED."""
    values = np.asarray(values)
    return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else values == NOT_COUNTED)


def _vectors(size: int, rows: np.ndarray, vectors: np.ndarray) -> pa.Array:
    """Return a column of `size` lists that has these vectors in these rows, and null elsewhere."""
    order, held = np.argsort(rows), np.zeros(size, bool)
    held[rows] = True
    ends = np.cumsum(held) * vectors.shape[1]
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(vectors[order])), mask=pa.array(~held))


def _names(codes: type[Status] | type[Verdict] | type[Reason], values: Any) -> pa.Array:
    names = pa.array([codes(code).name for code in range(len(codes))])  # by code, which count from 0
    return pa.DictionaryArray.from_arrays(pa.array(np.asarray(values)), names).cast(pa.string())


def _tensors(a: Any) -> pa.Array:
    if np.ndim(a) == 1:  # a number a row
        return pa.array(np.asarray(a))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a))
