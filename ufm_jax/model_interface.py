"""The Python interface to what is known of models: your own point judged, and what theory predicts."""

from dataclasses import dataclass, field
from typing import Any

from ufm_jax.interface import Judged, judged_of
from ufm_jax.landscape.landscape import Landscape, check_is_landscape
from ufm_jax.landscape.proof import Proof
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.models.unconstrained import last_layer
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.own_point import Samples
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.report.last_layer import page


@dataclass(frozen=True)
class Certified(Judged):
    """A verdict on a point that a user brought, what it was judged by, and what it could still gain."""

    decays: dict[str, float]  # used: decay_w, decay_h, decay_b
    accuracy: float  # share of the samples whose own logit is the largest
    closed_form_loss: float | None  # f*, where theory knows it
    global_minimum: float | None  # f*, by theory or by a descent that its lower bound certifies
    excess_loss: float | None  # f − f*
    gain_last_layer: float | None  # f less its minimum over W and b, H fixed
    gain_features: float | None  # f less its minimum over H, W and b fixed
    notes: list[str]  # what was taken for granted
    warnings: list[str]  # what looks wrong
    prob: Problem | None = field(repr=False)  # None where a class has no sample
    params: Params | None = field(
        repr=False
    )  # samples in columns, sorted by class; None: gone through in passes
    row: dict[str, Any] = field(repr=False)  # what `ufm certify --json` prints
    proof: Proof | None = field(default=None, repr=False)  # where it was asked for

    def __str__(self) -> str:
        return page(self.row) + ("" if self.proof is None else f"\n\n{self.proof}")


def certify(
    W: Any,
    H: Any,
    b: Any = None,
    labels: Any = None,
    *,
    weight_decay: float | None = None,
    decay_w: float | None = None,
    decay_h: float | None = None,
    decay_b: float | None = None,
    loss: Loss | None = None,
    smoothing: float | None = None,
    samples: Samples | None = None,
    stream: bool | None = None,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
    prove: bool = False,
) -> Certified:
    """Judge your own classifier W (K, d), features H and bias b (K,) where they stand.

    Arrays of any framework; numbers become float64. H is (d, N) or (N, d), told apart by W or, where d = N,
    by `samples`, which says what they are in H: "columns" or "rows". `labels` are 0..K−1 in any order.
    Ordinary weight decay λ means λ_W = λ_b = λ; without `decay_h` it is the one that balances
    λ_W‖W‖² = λ_H‖H‖², as every critical point does. Where features and logits would take more than some GB,
    or a class has no sample, the samples are gone through in passes (`stream` says so, or forbids it): a
    memory-mapped H is then never held, and what needs all of it at once is None. A point rounded to float32
    has a gradient of about 5e-7, in units, and a gap of as much: `grad_tol` and `gap_tol` of 1e-5 allow for
    that. With `prove`, the critical orbit next to it is proved (`prove`).

    Raises:
        ValueError: naming the argument that does not fit, is not finite, or leaves open what it means; a
            decay that is missing or out of range; a tolerance; if 64-bit floating point is off.
    """
    if smoothing is not None:
        if loss is not None:
            raise ValueError(f"smoothing: it is cross-entropy's; give it or loss, got {loss!r}")
        loss = CrossEntropy(smoothing=smoothing)
    decays: dict[str, Any] = {
        "weight_decay": weight_decay,
        "decay_w": decay_w,
        "decay_h": decay_h,
        "decay_b": decay_b,
    }
    found = last_layer.judge(
        *(W, H, b, labels),
        **decays,
        loss=loss,
        samples=samples,
        stream=stream,
        grad_tol=grad_tol,
        gap_tol=gap_tol,
        prove=prove,
    )
    row = found.row
    lowest = ("closed_form_loss", "global_minimum", "excess_loss", "gain_last_layer", "gain_features")
    return Certified(
        **vars(judged_of(found.seen) if found.seen is not None else _judged(row)),
        decays={name: row[name] for name in ("decay_w", "decay_h", "decay_b")},
        **{name: row[name] for name in ("accuracy", *lowest, "notes", "warnings")},
        prob=found.prob,
        params=None if found.point is None else found.point.params,
        row=row,
        proof=found.proof,
    )


def _judged(row: dict[str, Any]) -> Judged:
    """Return the record of a point that was gone through in passes."""
    same = ("loss", "grad_norm", "rel_grad_norm", "index", "nullity", "lambda_min")
    return Judged(
        verdict=Verdict[row["verdict"]],
        reason=Reason[row["reason"]],
        **{name: row[name] for name in same},
        orbit_dim=None,
        bound=row["dual_bound"],
        gap=row["dual_gap"],
        rel_gap=row["rel_dual_gap"],
        curvature=row["negative_curvature"],
        measures={n: None if row[n] is None else float(row[n]) for n in ("rank", "nc1", "nc2", "nc3", "nc4")},
        direction=None,
    )


def predict(landscape: Landscape) -> dict[str, Any]:
    """Return what theory says of a landscape, as plain numbers for JSON; None where nothing is known.

    The landscape's `predictions`; of the unconstrained feature model, the keys of `theory.predict`.

    Raises:
        ValueError: naming `landscape`, if it predicts nothing or is none; as `theory.predict`.
    """
    check_is_landscape(landscape)
    said = landscape.predictions()
    if not said:
        raise ValueError(
            f"landscape: {landscape.name} predicts nothing; its class may have a method "
            "predictions(self) that returns names and numbers"
        )
    return said
