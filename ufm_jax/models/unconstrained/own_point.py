"""A point that a user brings: W, H, labels and perhaps b, of any framework, checked and judged."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ufm_jax.landscape import proof
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.evidence import Examined, examine, examine_off_critical, is_critical
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.model import UnconstrainedFeatureModel, problem
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.checks import check_positive
from ufm_jax.numerics.lanes import QUICK, jit_small
from ufm_jax.precision import require_x64

Samples = Literal["columns", "rows"]
SOME = 1024  # samples that are sorted at once: some MB of them

NAMES = {"W": ("W", "weight"), "H": ("H", "features"), "labels": ("labels",), "b": ("b", "bias")}
WRITE = "np.savez('point.npz', W=W, H=H, b=b, labels=labels) writes one"


class OwnPoint(NamedTuple):
    """A point of the full problem, its samples sorted by class, and what is said of it."""

    prob: UnconstrainedFeatureModel
    params: Params
    facts: dict[str, float | None]  # decays used, accuracy, f* where theory knows it
    notes: list[str]  # what was taken for granted


def read_point(file: Path) -> tuple[Params, np.ndarray]:
    """Read W (K,d), H (d,N) or (N,d), labels (N,) and, if there, b (K,) from an npz file.

    `weight`, `features` and `bias` are read as W, H and b.

    Raises:
        ValueError: naming the file and what is missing or unreadable.
    """
    arrays = _arrays(file)
    found = {
        name: next((arrays[other] for other in others if other in arrays), None)
        for name, others in NAMES.items()
    }
    missing = [" or ".join(NAMES[name]) for name in ("W", "H", "labels") if found[name] is None]
    if missing:
        raise ValueError(f"file: {file} has no {', no '.join(missing)}; it holds {sorted(arrays)}")
    return Params(found["W"], found["H"], found["b"]), found["labels"]  # type: ignore[arg-type, return-value]


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        held = np.load(file, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"file: cannot read {file} as npz: {error.strerror or error}; {WRITE}") from error
    except Exception as error:  # zipfile and NumPy raise their own, of text that it might be a pickle
        raise ValueError(f"file: {file} is no npz archive (a zip of arrays); {WRITE}") from error
    if isinstance(held, np.ndarray):
        raise ValueError(f"file: {file} is one array, {held.shape}, need an archive of several; {WRITE}")
    with held:
        if any(name.endswith("data.pkl") or "/data/" in name for name in held.files):
            to_numpy = "where tensors become arrays by tensor.detach().cpu().numpy()"
            raise ValueError(f"file: {file} looks like PyTorch's own, need npz; {WRITE}, {to_numpy}")
        try:
            return {name: held[name] for name in held.files}
        except Exception as error:
            raise ValueError(f"file: cannot read {file} as npz: {error}; {WRITE}") from error


def own_point(
    W: Any,
    H: Any,
    b: Any,
    labels: Any,
    *,
    weight_decay: float | None = None,
    decay_w: float | None = None,
    decay_h: float | None = None,
    decay_b: float | None = None,
    loss: Loss | None = None,
    samples: Samples | None = None,
) -> OwnPoint:
    """Return the point of a full problem that arrays describe; samples may come in any order.

    Numbers become float64. H is (d, N) or (N, d), told apart by W (K, d) or, where d = N, by `samples`, which
    says what they are in H: "columns" or "rows". Ordinary weight decay λ is λ_W = λ_b = λ; without `decay_h`
    it is the one that balances λ_W‖W‖² = λ_H‖H‖², as every critical point does: no other λ_H could make the
    point critical.

    Raises:
        ValueError: naming the argument: shapes that do not fit or leave open what they mean, non-finite
            entries, labels that are not integers in 0..K−1 or leave a class empty, decays out of range, too
            few or too many of them, 64-bit floating point off.
    """
    require_x64()
    weight, features = _matrix("W", W).astype(np.float64), _matrix("H", H)
    classes = _labels(labels, weight.shape)
    bias = None if b is None else _numbers("b", b).astype(np.float64)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"b: need shape (K,) = {weight.shape[:1]} to fit W, got {bias.shape}")
    columns = _in_columns(features, weight.shape[1], classes.size, samples)
    counts, order = np.bincount(classes, minlength=len(weight)), np.argsort(classes, kind="stable")
    held, right = _by_class(columns, order), classes[order]
    del features, columns
    scores = weight @ held + (0.0 if bias is None else bias[:, None])
    accuracy = float(np.mean(np.argmax(scores, axis=0) == right))
    shared = jax.device_put(held, may_alias=True)  # which nobody else holds
    params = Params(jnp.asarray(weight), shared, None if bias is None else jnp.asarray(bias))
    check_finite(params)
    decays, notes = _decays(params, weight_decay, decay_w, decay_h, decay_b)
    prob = problem(counts=counts.tolist(), dim=weight.shape[1], **decays, bias=bias is not None, loss=loss)
    known = _plain(float(global_minimum(prob)))
    return OwnPoint(prob, params, {**decays, "accuracy": accuracy, "closed_form_loss": known}, notes)


def certify(
    params: Params,
    labels: Any,
    *,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
    prove: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Return evidence and verdict on a point of the full problem, as plain values for JSON.

    `given` as for `own_point`, but of a square H the columns are taken to be the samples, and `notes` say so.
    A point that is not critical has `verdict` NOT_CRITICAL and no index,
    nullity or λ_min; its dual bound, gap, curvature and metrics are given all the same. A saddle beyond
    `spectrum.DENSE_LIMIT` has no index and nullity. NaN becomes None. `excess_loss` is f − f*, where theory
    knows f* = `closed_form_loss`; `notes` say what was taken for granted. With `prove` come the columns of
    `landscape.proof.Proof`.

    Raises:
        ValueError: as `own_point`; a tolerance, if it is not a finite number above 0.
    """
    return _certified(_taken(params, labels, given), grad_tol, gap_tol, prove)


def certify_file(
    file: Path, *, grad_tol: float = GRAD_TOL, gap_tol: float = GAP_TOL, prove: bool = False, **given: Any
) -> dict[str, Any]:
    """Return `certify` of the point that an npz file holds, whose arrays are let go once they are sorted.

    Raises:
        ValueError: as `read_point` and `certify`.
    """
    return _certified(_taken(*read_point(file), given), grad_tol, gap_tol, prove)


def _taken(params: Params, labels: Any, given: dict[str, Any]) -> OwnPoint:
    notes = []
    if given.get("samples") is None and len(set(np.shape(params.H))) == 1:
        given["samples"] = "columns"
        notes = ["H is square: its columns were taken to be the samples; say so if these are its rows"]
    point = own_point(*params, labels, **given)
    return point._replace(notes=notes + point.notes)


def _certified(point: OwnPoint, grad_tol: float, gap_tol: float, prove: bool) -> dict[str, Any]:
    row = as_row(point, examined(point, grad_tol, gap_tol, direction=False))
    return row | proof.prove(point.prob, point.params).columns() if prove else row


def examined(
    point: OwnPoint, grad_tol: float = GRAD_TOL, gap_tol: float = GAP_TOL, *, direction: bool = True
) -> Examined:
    """Measure and judge the point: its gradient first, the Hessian's spectrum only where that is small.

    Without `direction`, which is as large as the point, it is None, and so is the spectrum's.

    Raises:
        ValueError: naming the tolerance that is not a finite number above 0.
    """
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    if not _is_critical(point.prob, point.params, grad_tol=grad_tol):
        seen = _examine_off_critical(
            point.prob, point.params, grad_tol=grad_tol, gap_tol=gap_tol, direction=direction
        )
        if seen.evidence.verdict == Verdict.NOT_CRITICAL:  # and not by a rounding of another program
            return seen
    return _examine(point.prob, point.params, grad_tol=grad_tol, gap_tol=gap_tol, direction=direction)


_is_critical = jit_small(is_critical, static_argnames=("grad_tol",), options=QUICK)


@partial(jit_small, static_argnames=("grad_tol", "gap_tol", "direction"), options=QUICK)
def _examine_off_critical(
    prob: Problem, p: Params, grad_tol: float, gap_tol: float, direction: bool
) -> Examined:
    seen = examine_off_critical(prob, p, grad_tol=grad_tol, gap_tol=gap_tol)
    return seen if direction else seen._replace(direction=None)


@partial(jit_small, static_argnames=("grad_tol", "gap_tol", "direction"), options=QUICK)
def _examine(prob: Problem, p: Params, grad_tol: float, gap_tol: float, direction: bool = True) -> Examined:
    seen = examine(prob, p, grad_tol=grad_tol, gap_tol=gap_tol)
    if direction:
        return seen
    assert seen.spectrum is not None
    return seen._replace(spectrum=seen.spectrum._replace(direction=None), direction=None)


def as_row(point: OwnPoint, seen: Examined) -> dict[str, Any]:
    """Return what `ufm certify --json` prints."""
    values = {name: np.asarray(value).item() for name, value in seen.evidence.columns().items()}
    values |= {"verdict": Verdict(values["verdict"]).name, "reason": Reason(values["reason"]).name}
    values |= {name: None for name in ("index", "nullity") if values[name] == NOT_COUNTED}
    known = point.facts["closed_form_loss"]
    values |= point.facts | {"excess_loss": None if known is None else values["loss"] - known}
    return {name: _plain(value) for name, value in values.items()} | {"notes": point.notes}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _decays(
    p: Params,
    weight_decay: float | None,
    decay_w: float | None,
    decay_h: float | None,
    decay_b: float | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the decays to judge by, and what is to be said of them."""
    if (weight_decay is None) == (decay_w is None):
        how = "neither" if decay_w is None else f"both, {weight_decay} and {decay_w}"
        raise ValueError(f"weight_decay: give it (ordinary weight decay) or decay_w, got {how}")
    w: Any = decay_w if weight_decay is None else weight_decay
    given: dict[str, Any] = {"decay_w": decay_w} if weight_decay is None else {"weight_decay": weight_decay}
    check_positive(**given)
    b = (weight_decay or 0.0) if decay_b is None else decay_b
    if p.b is None:
        b = 0.0  # whatever is said of it
    if decay_h is not None:
        return {"decay_w": w, "decay_h": decay_h, "decay_b": b}, []
    W2, H2 = (float(jnp.vdot(a, a)) for a in (p.W, p.H))  # without the squares, as many as features
    if not (W2 > 0 and H2 > 0):
        raise ValueError("decay_h: give it; none balances W and H where one of them is zero")
    note = "decay_h balances decay_w ‖W‖² = decay_h ‖H‖², as at every critical point; it was not given"
    return {"decay_w": w, "decay_h": float(w) * (W2 / H2), "decay_b": b}, [note]


def _array(name: str, value: Any) -> np.ndarray:
    """Return anything that NumPy can read, tensors that follow gradients or lie on a device among it."""
    for step in ("detach", "cpu"):  # PyTorch's, which np.asarray refuses
        if callable(getattr(value, step, None)):
            value = getattr(value, step)()
    try:
        return np.asarray(value)
    except Exception as error:  # each framework raises its own
        kind = type(value).__name__
        raise ValueError(
            f"{name}: cannot make a NumPy array of {kind}: {error}; convert it to one of float32 or float64"
        ) from error


def _numbers(name: str, value: Any) -> np.ndarray:
    array = _array(name, value)
    if array.dtype.kind not in "fiu" and not jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16
        raise ValueError(f"{name}: need real numbers, got dtype {array.dtype}")
    return array


def _by_class(columns: np.ndarray, order: np.ndarray) -> Float[np.ndarray, "d N"]:
    """Return columns in this order as float64, some at a time: a large array is held once, and read in rows.

    On a boundary of 64 bytes, where JAX takes it as it is.
    """
    d, N = columns.shape
    space = np.empty(d * N + 8)
    first = -space.ctypes.data % 64 // 8
    held = space[first : first + d * N].reshape(d, N)
    for some in range(0, N, SOME):
        held[:, some : some + SOME] = columns[:, order[some : some + SOME]]
    return held


def _matrix(name: str, value: Any) -> np.ndarray:
    array = _numbers(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: need a non-empty matrix, got shape {array.shape}")
    return array


def _labels(value: Any, shape: Sequence[int]) -> np.ndarray:
    """Return the labels, each a class of the K rows of W."""
    if value is None:
        raise ValueError("labels: give the class 0..K−1 of each sample")
    labels, (K, d) = _array("labels", value), shape
    if labels.ndim != 1 or labels.size == 0:
        hint = "; of one-hot rows take .argmax(axis=1)" if labels.ndim == 2 else ""
        raise ValueError(f"labels: need a vector of N labels, got shape {labels.shape}{hint}")
    if labels.dtype.kind not in "iu":
        hint = "; labels.astype(int) makes them such" if labels.dtype.kind == "f" else ""
        raise ValueError(f"labels: need integers, got dtype {labels.dtype}{hint}")
    low, high = int(labels.min()), int(labels.max())
    if (low, high) == (1, K):
        raise ValueError(f"labels: need 0..{K - 1}, got 1..{K}; subtract 1")
    if low < 0 or high >= K:
        hint = f"; is W transposed? It has shape {(K, d)}, need (K, d)" if low == 0 and high == d - 1 else ""
        raise ValueError(f"labels: need 0..{K - 1} (W has {K} rows), got {low}..{high}{hint}")
    counts = np.bincount(labels, minlength=K)
    if counts.min() == 0:
        hint = f"; is W transposed? It has shape {(K, d)}, need (K, d)" if high == d - 1 else ""
        raise ValueError(f"labels: class {int(counts.argmin())} has no sample{hint}")
    return labels


def _in_columns(H: np.ndarray, d: int, N: int, samples: Samples | None) -> np.ndarray:
    """Return H with a sample a column."""
    if samples is not None and samples not in get_args(Samples):
        raise ValueError(f"samples: need one of {get_args(Samples)}, got {samples!r}")
    if H.shape not in ((d, N), (N, d)):
        raise ValueError(
            f"H: need shape (d, N) = {(d, N)} or (N, d) = {(N, d)} to fit W and labels, got {H.shape}"
        )
    if samples is None and d == N:
        raise ValueError(
            f"H: as many features as samples ({N}) leave open which are its columns; say samples='columns' "
            "of H (d, N), or samples='rows' of H (N, d)"
        )
    rows = samples == "rows" if d == N else H.shape == (N, d)
    if samples is not None and rows != (samples == "rows"):
        raise ValueError(f"samples: they are not the {samples} of H, which has shape {H.shape}, d = {d}")
    return H.T if rows else H
