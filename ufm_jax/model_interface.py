"""The Python interface to what is known of models: your own point judged, and what theory predicts."""

from dataclasses import dataclass, field, fields
from typing import Any

from ufm_jax.interface import Judged, judged_of
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proof import Proof
from ufm_jax.landscape.proof import prove as prove_point
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL
from ufm_jax.models.unconstrained import own_point
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.own_point import Samples
from ufm_jax.models.unconstrained.problem import Params, Problem


@dataclass(frozen=True)
class Certified(Judged):
    """A verdict on a point that a user brought, and what it was judged by."""

    decays: dict[str, float]  # used: decay_w, decay_h, decay_b
    accuracy: float  # share of the samples whose own logit is the largest
    closed_form_loss: float | None  # f*, where theory knows it
    excess_loss: float | None  # f − f*
    notes: list[str]  # what was taken for granted
    prob: Problem = field(repr=False)
    params: Params = field(repr=False)  # the point: samples in columns, sorted by class
    row: dict[str, Any] = field(repr=False)  # what `ufm certify --json` prints
    proof: Proof | None = field(default=None, repr=False)  # where it was asked for

    def __str__(self) -> str:
        judged = Judged(**{f.name: getattr(self, f.name) for f in fields(Judged)})
        shown = {**self.decays, **{n: self.row[n] for n in ("accuracy", "closed_form_loss", "excess_loss")}}
        lines = [f"{name:<16} {'-' if value is None else f'{value:.8g}'}" for name, value in shown.items()]
        lines += [] if self.proof is None else [str(self.proof)]
        return "\n".join([str(judged), *lines, *(f"note: {note}" for note in self.notes)])


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
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
    prove: bool = False,
) -> Certified:
    """Judge your own classifier W (K, d), features H and bias b (K,) where they stand.

    Arrays of any framework; numbers become float64. H is (d, N) or (N, d), told apart by W or, where d = N,
    by `samples`, which says what they are in H: "columns" or "rows". `labels` are 0..K−1 in any order.
    Ordinary weight decay λ means λ_W = λ_b = λ; without `decay_h` it is the one that balances
    λ_W‖W‖² = λ_H‖H‖², as every critical point does. A point rounded to float32 has a gradient of
    about 5e-7, in units, and a gap of as much: `grad_tol` and `gap_tol` of 1e-5 allow for that. With `prove`,
    the critical orbit next to it is proved (`prove`).

    Raises:
        ValueError: naming the argument that does not fit, is not finite, or leaves open what it means; a
            decay that is missing or out of range; a tolerance; if 64-bit floating point is off.
    """
    if smoothing is not None:
        if loss is not None:
            raise ValueError(f"smoothing: it is cross-entropy's; give it or loss, got {loss!r}")
        loss = CrossEntropy(smoothing=smoothing)
    decays = {"weight_decay": weight_decay, "decay_w": decay_w, "decay_h": decay_h, "decay_b": decay_b}
    point = own_point.own_point(W, H, b, labels, **decays, loss=loss, samples=samples)
    seen = own_point.examined(point, grad_tol, gap_tol)
    row = own_point.as_row(point, seen)
    proof = prove_point(point.prob, point.params) if prove else None
    return Certified(
        **vars(judged_of(seen)),
        decays={name: row[name] for name in ("decay_w", "decay_h", "decay_b")},
        **{name: row[name] for name in ("accuracy", "closed_form_loss", "excess_loss", "notes")},
        prob=point.prob,
        params=point.params,
        row=row if proof is None else row | proof.columns(),
        proof=proof,
    )


def predict(landscape: Landscape) -> dict[str, Any]:
    """Return what theory says of a landscape, as plain numbers for JSON; None where nothing is known.

    The landscape's `predictions`; of the unconstrained feature model, the keys of `theory.predict`.

    Raises:
        ValueError: naming `landscape`, if it predicts nothing or is none; as `theory.predict`.
    """
    if not isinstance(landscape, Landscape):
        raise ValueError(f"landscape: need a Landscape, got {type(landscape).__name__}")
    said = landscape.predictions()
    if not said:
        raise ValueError(
            f"landscape: {landscape.name} predicts nothing; its class may have a method "
            "predictions(self) that returns names and numbers"
        )
    return said
