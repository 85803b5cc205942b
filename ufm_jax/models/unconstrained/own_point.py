"""Judging a point that a user brings: their W, H, labels and perhaps b."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import GAP_TOL, GRAD_TOL, Reason, Verdict
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.numerics.checks import check_positive
from ufm_jax.precision import require_x64


def read_point(file: Path) -> tuple[Params, np.ndarray]:
    """Read W (K,d), H (d,N), labels (N,) and, if there, b (K,) from an npz file.

    Raises:
        ValueError: naming the file and what is missing or unreadable.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        raise ValueError(f"file: cannot read {file} as npz: {error}") from error
    missing = [name for name in ("W", "H", "labels") if name not in arrays]
    if missing:
        raise ValueError(f"file: {file} has no {', '.join(missing)}; it holds {sorted(arrays)}")
    return Params(arrays["W"], arrays["H"], arrays.get("b")), arrays["labels"]


def certify(
    params: Params,
    labels: Any,
    *,
    decay_w: float,
    decay_h: float,
    decay_b: float = 0.0,
    loss: Loss | None = None,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> dict[str, Any]:
    """Return evidence and verdict on a point of the full problem, as plain values for JSON.

    Samples may come in any order. A point that is not critical has `verdict` NOT_CRITICAL and no index,
    nullity or λ_min; its dual bound, gap, curvature and metrics are given all the same. A saddle beyond
    `spectrum.DENSE_LIMIT` has no index and nullity. NaN becomes None.

    Raises:
        ValueError: naming the argument: shapes that do not fit, non-finite entries, labels that are not
            integers in 0..K−1 or leave a class empty, decays out of range, 64-bit floating point off.
    """
    require_x64()
    W, H, labels = _matrix("W", params.W), _matrix("H", params.H), np.asarray(labels)
    K, d = W.shape
    counts = _counts(labels, K)
    if H.shape != (d, labels.size):
        raise ValueError(f"H: need shape (d, N) = {(d, labels.size)} to fit W and labels, got {H.shape}")
    b = None if params.b is None else _numbers("b", params.b)
    prob = problem(
        counts=counts,
        dim=d,
        decay_w=decay_w,
        decay_h=decay_h,
        decay_b=0.0 if b is None else decay_b,
        bias=b is not None,
        loss=loss,
    )
    order = np.argsort(labels, kind="stable")
    point = Params(jnp.asarray(W), jnp.asarray(H[:, order]), None if b is None else jnp.asarray(b))
    check_finite(point)
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    evidence = jax.jit(lambda p: examine(prob, p, grad_tol=grad_tol, gap_tol=gap_tol).evidence)(point)
    values = {name: np.asarray(value).item() for name, value in evidence.columns().items()}
    values |= {"verdict": Verdict(values["verdict"]).name, "reason": Reason(values["reason"]).name}
    values |= {name: None for name in ("index", "nullity") if values[name] == NOT_COUNTED}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: need real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def _matrix(name: str, value: Any) -> np.ndarray:
    array = _numbers(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: need a non-empty matrix, got shape {array.shape}")
    return array


def _counts(labels: np.ndarray, K: int) -> list[int]:
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels: need a vector of N labels, got shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels: need integers, got dtype {labels.dtype}")
    if labels.min() < 0 or labels.max() >= K:
        raise ValueError(f"labels: need 0..{K - 1} (W has {K} rows), got {labels.min()}..{labels.max()}")
    counts = np.bincount(labels, minlength=K)
    if counts.min() == 0:
        raise ValueError(f"labels: class {int(counts.argmin())} has no sample")
    return counts.tolist()
