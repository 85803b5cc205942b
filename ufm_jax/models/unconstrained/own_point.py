"""A point that a user brings: W, H, labels and perhaps b, of any framework, checked and judged."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

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


class OwnPoint(NamedTuple):
    """A point of the full problem, its samples sorted by class, and what is said of it."""

    prob: UnconstrainedFeatureModel
    params: Params
    facts: dict[str, float | None]  # decays used, accuracy, f* where theory knows it
    notes: list[str]  # what was taken for granted


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
    weight, features = matrix("W", W).astype(np.float64), matrix("H", H)
    classes = checked_labels(labels, weight.shape)
    _check_all_there(classes, len(weight))
    bias = None if b is None else numbers("b", b).astype(np.float64)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"b: need shape (K,) = {weight.shape[:1]} to fit W, got {bias.shape}")
    rows = in_rows(features.shape, weight.shape[1], classes.size, samples)
    columns = features.T if rows else features
    counts, order = np.bincount(classes, minlength=len(weight)), np.argsort(classes, kind="stable")
    held, right = _by_class(columns, order), classes[order]
    del features, columns
    with np.errstate(over="ignore", invalid="ignore"):  # what is wrong with such entries is said below
        scores = weight @ held + (0.0 if bias is None else bias[:, None])
    accuracy = float(np.mean(np.argmax(scores, axis=0) == right))
    shared = jax.device_put(held, may_alias=True)  # which nobody else holds
    params = Params(jnp.asarray(weight), shared, None if bias is None else jnp.asarray(bias))
    check_finite(params)
    squares = lambda: tuple(float(jnp.vdot(a, a)) for a in (params.W, params.H))
    decays, notes = settled_decays(squares, bias is not None, weight_decay, decay_w, decay_h, decay_b)
    prob = problem(counts=counts.tolist(), dim=weight.shape[1], **decays, bias=bias is not None, loss=loss)
    known = plain(float(global_minimum(prob)))
    return OwnPoint(prob, params, {**decays, "accuracy": accuracy, "closed_form_loss": known}, notes)


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
    return {name: plain(value) for name, value in values.items()} | {"notes": point.notes}


def plain(value: Any) -> Any:
    """Return None for a number that is none, as JSON has it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def settled_decays(
    squares: Callable[[], Sequence[float]],
    bias: bool,
    weight_decay: float | None,
    decay_w: float | None,
    decay_h: float | None,
    decay_b: float | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the decays to judge by, and what is to be said of them; `squares` are ‖W‖² and ‖H‖².

    Raises:
        ValueError: naming the decay that is missing, given twice or out of range.
    """
    if (weight_decay is None) == (decay_w is None):
        how = "neither" if decay_w is None else f"both, {weight_decay} and {decay_w}"
        raise ValueError(f"weight_decay: give it (ordinary weight decay) or decay_w, got {how}")
    w: Any = decay_w if weight_decay is None else weight_decay
    given: dict[str, Any] = {"decay_w": decay_w} if weight_decay is None else {"weight_decay": weight_decay}
    check_positive(**given)
    b = (weight_decay or 0.0) if decay_b is None else decay_b
    if not bias:
        b = 0.0  # whatever is said of it
    if decay_h is not None:
        return {"decay_w": w, "decay_h": decay_h, "decay_b": b}, []
    W2, H2 = squares()
    if not (W2 > 0 and H2 > 0):
        raise ValueError("decay_h: give it; none balances W and H where one of them is zero")
    if not math.isfinite(W2 / H2 * max(W2, H2)):
        raise ValueError(f"H: its scale or W's is no network's, ‖W‖² = {W2:.3g} and ‖H‖² = {H2:.3g}")
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


def numbers(name: str, value: Any) -> np.ndarray:
    """Return an array of any framework whose entries are real numbers, a memory map as it is.

    Raises:
        ValueError: naming the argument.
    """
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


def matrix(name: str, value: Any) -> np.ndarray:
    """Return `numbers` of a matrix that is not empty."""
    array = numbers(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: need a non-empty matrix, got shape {array.shape}")
    return array


def checked_labels(value: Any, shape: Sequence[int]) -> np.ndarray:
    """Return the labels, each a class of the K rows of W, of shape (K, d); a class may have no sample.

    Raises:
        ValueError: naming labels and what to do; W, if it has one row.
    """
    if value is None:
        raise ValueError("labels: give the class 0..K−1 of each sample")
    labels, (K, d) = _array("labels", value), shape
    if K < 2:
        raise ValueError(
            f"W: need a row for each of at least 2 classes, got shape {(K, d)}; "
            "of a single logit's, of class 1 against class 0, np.vstack([-W / 2, W / 2]) makes two"
        )
    if labels.ndim != 1 or labels.size == 0:
        numeric = labels.dtype.kind in "biuf" and labels.size > 0
        one_hot = numeric and labels.ndim == 2 and labels.shape[1] == K and labels.max() <= 1
        hint = "; of sequences take labels.ravel() and H.reshape(-1, d)" if labels.ndim > 1 else ""
        hint = "; of one-hot rows take .argmax(axis=1)" if one_hot else hint
        hint = "; labels.ravel() makes one" if labels.ndim > 1 and labels.size == max(labels.shape) else hint
        raise ValueError(f"labels: need a vector of N labels, got shape {labels.shape}{hint}")
    if labels.dtype.kind not in "iu":
        hint = "; labels.astype(int) makes them such" if labels.dtype.kind == "f" else ""
        raise ValueError(f"labels: need integers, got dtype {labels.dtype}{hint}")
    low, high = int(labels.min()), int(labels.max())
    if (low, high) == (1, K):
        raise ValueError(f"labels: need 0..{K - 1}, got 1..{K}; subtract 1")
    if low < 0 or high >= K:
        hint = f"; is W transposed? It has shape {(K, d)}, need (K, d)" if low == 0 and high == d - 1 else ""
        hint = "; keep = labels >= 0 says which samples to give, of ignored ones none" if low < 0 else hint
        raise ValueError(f"labels: need 0..{K - 1} (W has {K} rows), got {low}..{high}{hint}")
    if high == d - 1 < K - 1 and len(np.unique(labels)) == d:
        hint = f"is W transposed? It has shape {(K, d)}, need (K, d)"
        raise ValueError(f"labels: {K - d} of {K} classes have no sample; {hint}")
    return labels


def _check_all_there(labels: np.ndarray, num_classes: int) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() == 0:
        raise ValueError(f"labels: class {int(counts.argmin())} has no sample, which f needs of each")


def in_rows(shape: Sequence[int], d: int, N: int, samples: Samples | None) -> bool:
    """Say whether the samples are the rows of H, of this shape.

    Raises:
        ValueError: naming H, if its shape does not fit or leaves that open; `samples`, if it does not fit.
    """
    if samples is not None and samples not in get_args(Samples):
        raise ValueError(f"samples: need one of {get_args(Samples)}, got {samples!r}")
    if tuple(shape) not in ((d, N), (N, d)):
        raise ValueError(
            f"H: need shape (d, N) = {(d, N)} or (N, d) = {(N, d)} to fit W and labels, got {tuple(shape)}"
        )
    if samples is None and d == N:
        raise ValueError(
            f"H: as many features as samples ({N}) leave open which are its columns; say samples='columns' "
            "of H (d, N), or samples='rows' of H (N, d)"
        )
    rows = samples == "rows" if d == N else tuple(shape) == (N, d)
    if samples is not None and rows != (samples == "rows"):
        raise ValueError(f"samples: they are not the {samples} of H, which has shape {tuple(shape)}, d = {d}")
    return rows
