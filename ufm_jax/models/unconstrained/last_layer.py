"""Anyone's last layer, measured and judged: what `ufm certify` prints of it.

Where features and logits fit, the point is held and judged with its spectrum (`own_point`). Where they do
not, or a class has no sample, everything comes from passes over the samples (`passes`); what those cannot
tell is None, and `unknown` says why.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ufm_jax.landscape import proof as proofs
from ufm_jax.landscape.evidence import Examined
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.models.relu_features import ReLUFeatures
from ufm_jax.models.unconstrained import gains, own_point, passes
from ufm_jax.models.unconstrained.arrays import Slices, read_point
from ufm_jax.models.unconstrained.class_geometry import NAMES, class_geometry
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, has_balanced_form
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.own_point import OwnPoint
from ufm_jax.models.unconstrained.passes import Layer, Samples, Say
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.streamed import Sizes, streamed_row
from ufm_jax.models.unconstrained.warned import warnings_of
from ufm_jax.numerics.checks import check_positive
from ufm_jax.precision import require_x64

# Features and some six arrays as large as all logits: 2 GiB in float64. Beyond, the samples are gone through.
HELD = 2**28
# Multiplications that the passes of the last layer's own minimum may take: some ten minutes of two cores.
MOST_WORK = 4e13
MOST_PASSES = {True: 100, False: 1000}  # with the samples on the disk; in memory
RTOL = {True: 1e-5, False: 1e-9}  # to which the last layer's own minimum is found, relative to f


class LastLayer(NamedTuple):
    """What is said of a point, and the point itself where it is held."""

    row: dict[str, Any]  # plain values for JSON
    prob: Problem | None  # None: a class has no sample
    point: OwnPoint | None
    seen: Examined | None
    proof: proofs.Proof | None


def judge(
    W: Any,
    H: Any,
    b: Any,
    labels: Any,
    *,
    samples: own_point.Samples | None = None,
    guessed: bool = False,
    stream: bool | None = None,
    loss: Loss | None = None,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
    prove: bool = False,
    direction: bool = True,
    notes: Sequence[str] = (),
    say: Say | None = None,
    **decays: float | None,
) -> LastLayer:
    """Measure and judge W (K, d), H (N, d) or (d, N), b (K,) or None and labels (N,).

    `decays` as for `own_point.own_point`, `samples` too; `guessed` says that nobody said it.
    `stream` says whether the samples are gone through in passes instead of held, by default as their number
    needs it. `say` is told of progress there.

    Raises:
        ValueError: as `own_point.own_point`, but that a class may have no sample; naming `stream`, if it is
            false and that is so; `prove`, if the point is not held; a tolerance.
    """
    require_x64()
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    loss = CrossEntropy() if loss is None else loss
    weight, bias, classes, rows = checked(W, H, b, labels, samples)
    counts = np.bincount(classes, minlength=len(weight))
    held = _is_held(counts, weight.shape[1], stream, prove)
    point = seen = proof = None
    if held:
        point = own_point.own_point(W, H, b, labels, loss=loss, samples=samples, **decays)
        seen = own_point.examined(point, grad_tol, gap_tol, direction=direction)
    features = H if isinstance(H, Slices) else own_point.matrix("H", H)
    source = Samples(features, classes, len(weight), rows=rows, held=held)
    sizes, said = _sizes(source, weight, bias, point, decays, loss, say)
    survey = passes.survey(source, sizes.layer, sizes.means, sizes.decay_h, loss, say)
    unknown: dict[str, str] = {}
    prob = _problem(sizes) if np.all(counts) else None
    least = _lowest(prob, sizes, unknown)
    if point is not None and seen is not None:
        row = own_point.as_row(point, seen)
        uncounted = [name for name in ("index", "nullity") if row[name] is None]
        unknown |= dict.fromkeys(uncounted, _why_no_index(row["verdict"]))
        row |= _classes(sizes, survey, skip=("nc1", "nc2", "nc3", "nc4"))
    else:
        row = streamed_row(sizes, survey, least, unknown, grad_tol, gap_tol, say)
        row |= _classes(sizes, survey)
        if not survey.within.size:
            unknown["nc1"] = f"a matrix of {source.dim} x {source.dim} is too large"
    row |= _measured(sizes, survey, prob) | _least(row["loss"], least)
    row |= _gains(prob, sizes, survey, row["loss"], unknown, not held, say)
    if prove and point is not None:
        proof = proofs.prove(point.prob, point.params)
        row |= proof.columns()
    if source.heavy:
        said = [*said, "products with all classes were taken in float32: gradient and loss to about 1e-6"]
    unknown |= _undefined(row, unknown)
    row |= {"streamed": not held, "notes": [*notes, *said], "unknown": unknown}
    row["warnings"] = warnings_of(row["accuracy"], classes, counts, weight, H if guessed else None)
    return LastLayer({n: own_point.plain(v) for n, v in row.items()}, prob, point, seen, proof)


def _is_held(counts: np.ndarray, dim: int, stream: bool | None, prove: bool) -> bool:
    """Say whether the point is held; passes it is where that is asked for, or needed."""
    everyone = bool(np.all(counts))
    large = int(np.sum(counts)) * (dim + 6 * len(counts)) > HELD
    held = everyone and not (large if stream is None else stream)
    if stream is False and not held:
        raise ValueError(f"stream: a point with a class without samples is not held, got {stream}")
    if prove and not held:
        raise ValueError("prove: the point needs to be held, with samples of every class")
    return held


def _sizes(
    source: Samples,
    weight: np.ndarray,
    bias: np.ndarray | None,
    point: OwnPoint | None,
    decays: dict[str, float | None],
    loss: Loss,
    say: Say | None,
) -> tuple[Sizes, list[str]]:
    """Go through the samples a first time; return the point's sizes and what is to be said of its decays."""
    first = passes.centres(source, say)
    if not np.isfinite(float(first.square)):
        raise ValueError("H: has non-finite entries")
    settled: dict[str, Any]
    if point is not None:
        settled, said = {name: point.facts[name] for name in ("decay_w", "decay_h", "decay_b")}, point.notes
    else:
        squares = lambda: (float(np.sum(weight**2)), float(first.square))
        asked = {name: decays.get(name) for name in ("weight_decay", "decay_w", "decay_h", "decay_b")}
        settled, said = own_point.settled_decays(squares, bias is not None, **asked)
    layer = Layer(jnp.asarray(weight), jnp.zeros(len(weight)) if bias is None else jnp.asarray(bias))
    return Sizes(source, layer, bias is not None, first, settled, loss), said


def _problem(s: Sizes) -> Problem:
    return problem(
        counts=s.samples.counts.tolist(),
        dim=s.samples.dim,
        decay_w=s.decay_w,
        decay_h=s.decay_h,
        decay_b=s.decay_b,
        bias=s.bias,
        loss=s.loss,
    )


def _why_no_index(verdict: str) -> str:
    return "the point is not critical" if verdict == "NOT_CRITICAL" else "not all eigenvalues were counted"


def judge_files(*files: Path, names: Mapping[str, str] | None = None, **given: Any) -> LastLayer:
    """Return `judge` of what files hold; of a square H the columns are taken to be the samples.

    Raises:
        ValueError: as `arrays.read_point` and `judge`.
    """
    found = read_point(*files, names=names)
    if given.get("samples") is None and len(set(found.H.shape)) == 1 and found.H.ndim == 2:
        given |= {"samples": "columns", "guessed": True}
    return judge(found.W, found.H, found.b, found.labels, notes=found.notes, direction=False, **given)


def checked(
    W: Any, H: Any, b: Any, labels: Any, samples: own_point.Samples | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, bool]:
    """Return W and b in float64, the labels, and whether the samples are the rows of H, which is not read.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    weight = own_point.matrix("W", W).astype(np.float64)
    classes = own_point.checked_labels(labels, weight.shape)
    bias = None if b is None else own_point.numbers("b", b).astype(np.float64)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"b: need shape (K,) = {weight.shape[:1]} to fit W, got {bias.shape}")
    for name, array in (("W", weight), ("b", bias)):
        if array is not None and not np.all(np.isfinite(array)):
            raise ValueError(f"{name}: has non-finite entries")
    shape = H.shape if hasattr(H, "shape") else own_point.matrix("H", H).shape
    return weight, bias, classes, own_point.in_rows(shape, weight.shape[1], classes.size, samples)


def _measured(sizes: Sizes, seen: passes.Survey, prob: Problem | None) -> dict[str, Any]:
    """Return what passes say of any point, with m* beside the mean logit gap."""
    N, s = sizes.samples.number, sizes
    parts = {"w": s.decay_w * s.squares[0], "h": s.decay_h * s.squares[1], "b": s.decay_b * s.squares[2]}
    predicted = None
    if prob is not None and isinstance(prob.loss, CrossEntropy) and has_balanced_form(prob):
        predicted = float(balanced_minimum(prob).alpha)
    return {
        "accuracy": float(seen.correct) / N,
        "mean_loss": float(seen.loss),
        "norm_w": s.squares[0] ** 0.5,
        "norm_h": s.squares[1] ** 0.5,
        "norm_b": s.squares[2] ** 0.5 if s.bias else None,
        "balance": parts["h"] / parts["w"] if parts["w"] > 0 else None,
        "imbalance": _imbalance(s, seen),
        "logit_gap": float(seen.margin) / N,
        "logit_gap_predicted": predicted,
        "ncc_mismatch": float(seen.mismatched) / N,
        "nonnegative": float(s.first.least) >= 0,
        "nonnegative_minimum": _nonnegative(s, prob),
        "num_classes": len(s.samples.counts),
        "classes_present": int(np.sum(s.present)),
        "dim": s.samples.dim,
        "num_samples": N,
    }


def _nonnegative(s: Sizes, prob: Problem | None) -> float | None:
    """Return the lowest f of non-negative features without a bias, if these are and theory knows it."""
    if prob is None or float(s.first.least) < 0 or s.loss != CrossEntropy():
        return None
    sizes: dict[str, Any] = {"counts": prob.counts, "dim": prob.dim, "loss": s.loss}
    bounded = ReLUFeatures(decay_w=prob.decay_w, decay_h=prob.decay_h, **sizes)
    return float(bounded.known_minimum())


def _imbalance(s: Sizes, seen: passes.Survey) -> float | None:
    """Return ‖λ_W WᵀW − λ_H HHᵀ‖ over the sum of their norms, 0 at critical points; Frobenius."""
    second = s.second(seen)
    if second is None:
        return None
    W = np.asarray(s.layer.W)
    ours, theirs = s.decay_w * W.T @ W, s.decay_h * second
    total = float(np.linalg.norm(ours) + np.linalg.norm(theirs))
    return float(np.linalg.norm(ours - theirs)) / total if total > 0 else None


def _classes(s: Sizes, seen: passes.Survey, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Return the metrics of class means over the classes present, none where there is but one."""
    here = s.present
    if np.sum(here) < 2:
        return {name: None for name in NAMES if name not in skip}
    W, b = np.asarray(s.layer.W)[here], np.asarray(s.layer.b)[here] if s.bias else None
    means, counts, spreads = np.asarray(s.means)[here], s.samples.counts[here], np.asarray(seen.spreads)[here]
    within = np.asarray(seen.within) if seen.within.size else None
    found = class_geometry(W, b, means, counts, spreads, within)
    return {name: value for name, value in found.items() if name not in skip}


def _undefined(row: dict[str, Any], unknown: dict[str, str]) -> dict[str, str]:
    """Say why what is not known yet is none: 0/0, or a part of it that is not known."""
    why = dict.fromkeys(NAMES, "0/0: lengths that are zero, class means that coincide, or one class alone")
    why |= dict.fromkeys(("balance", "imbalance"), "0/0: W or H is zero")
    because = unknown.get("global_minimum", row["global_minimum_source"] + ", not certified")
    why |= dict.fromkeys(("global_minimum", "excess_loss", "gain_both"), because)
    return {name: text for name, text in why.items() if row[name] is None and name not in unknown}


def _lowest(prob: Problem | None, s: Sizes, unknown: dict[str, str]) -> gains.Lowest:
    if prob is None:
        least = gains.Lowest(None, None, "unknown: a class has no sample")
    else:
        least = gains.lowest(prob, s.layer.W, s.means, s.layer.b if s.bias else None)
    if least.value is None:
        unknown["global_minimum"] = least.source.removeprefix("unknown: ")
    return least


def _least(value: float, least: gains.Lowest) -> dict[str, Any]:
    """Return f* by name; where it is not certified, what is known of it."""
    gap = None if least.value is None else value - least.value
    return {
        "global_minimum": least.value if least.known else None,
        "global_minimum_source": least.source,
        "global_minimum_bound": least.bound,
        "lowest_found": least.value,
        "excess_loss": gap if least.known else None,
        "gain_both": gap,
    }


def _gains(
    prob: Problem | None,
    s: Sizes,
    seen: passes.Survey,
    value: float,
    unknown: dict[str, str],
    on_disk: bool,
    say: Say | None,
) -> dict[str, Any]:
    """Return by how much f falls if W and b alone, or H alone, are at their best."""
    out: dict[str, Any] = dict.fromkeys(
        ("gain_last_layer", "gain_last_layer_error", "gain_features", "gain_features_error")
    )
    K, d, N = len(s.samples.counts), s.samples.dim, s.samples.number
    second, rounding = s.second(seen), s.samples.rounded * float(seen.loss)
    most = int(min(MOST_PASSES[on_disk], MOST_WORK / (3.0 * N * K * d)))
    if not s.loss.convex:
        unknown["gain_last_layer"] = unknown["gain_features"] = f"{s.loss.name} is not convex"
    elif second is None or most < 10 or K * (d + K) > 2**27:
        unknown["gain_last_layer"] = f"a pass over the samples takes {3.0 * N * K * d:.1e} multiplications"
    else:
        trained = gains.last_layer_alone(
            s.samples, s.layer, s.augmented(second), (s.decay_w, s.decay_b), s.loss,
            bias=s.bias, rtol=RTOL[on_disk], most=most, say=say,
        )  # fmt: skip
        before = value - s.decay_h * s.squares[1] / 2
        out |= {"gain_last_layer": max(0.0, before - trained.least.value)}
        out |= {"gain_last_layer_error": trained.least.error + rounding}
    if prob is None:
        unknown["gain_features"] = "a class has no sample"
    elif K**2 * max(K, d) > gains.MOST_WORK:
        unknown["gain_features"] = f"K = {K} is too many classes"
    elif s.loss.convex:
        found = gains.features_alone(prob, s.layer.W, s.means, s.layer.b if s.bias else None)
        rest = (s.decay_w * s.squares[0] + s.decay_b * s.squares[2]) / 2
        out |= {"gain_features": max(0.0, value - rest - found.value)}
        out |= {"gain_features_error": found.error + rounding}
    return out
