"""The Python interface to what only the unconstrained feature model has: a census, your own point judged."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ufm_jax.interface import Judged, judged_of
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proof import Proof, can_prove
from ufm_jax.landscape.proof import prove as prove_point
from ufm_jax.landscape.verdict import GAP_TOL, GRAD_TOL
from ufm_jax.models.unconstrained import census as censuses
from ufm_jax.models.unconstrained import own_point
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.own_point import Samples
from ufm_jax.models.unconstrained.problem import Params, Problem, check_single
from ufm_jax.numerics.checks import check_count
from ufm_jax.precision import require_x64
from ufm_jax.runs import orbits
from ufm_jax.runs.orbits import Atlas
from ufm_jax.runs.plan import CensusConfig


def census(
    prob: Landscape,
    *,
    starts: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool = False,
    force: bool = False,
    prove: bool = False,
) -> Atlas:
    """List all critical orbits of an unconstrained feature model, and test whether any is missing.

    It ends when as many starts again as were needed bring nothing new and no test is violated, or after
    `starts`. With `out` it is kept in a folder after every round: the same call, or `ufm census`, goes on
    there, and `load` reads it. Without, an interruption loses it. With `prove` each orbit found is proved,
    and that they are pairwise different: `atlas.proved`, and DIR/proofs.json.

    Raises:
        ValueError: naming `prob`, if it is another landscape, or on class means; a decay that is not one
            number; the loss, if it is not convex; the counts, if it would take hours and `force` is not
            given; `out`, if the folder holds another run; `starts`; `seed`; if 64-bit floating point is off;
            with `prove`, a loss that is not cross-entropy or squared loss; python-flint, if it is missing.
    """
    prob = _model(prob)
    if prove:
        can_prove(prob)
    if starts is not None:
        check_count(starts=starts)
    check_count(0, seed=seed)
    listen = None
    if progress:
        from ufm_jax.report.progress import census_progress

        listen = census_progress("census")
    if out is not None:
        config = config_of(prob, starts=starts, seed=seed)
        orbits.run(config, Path(out), listen, force=force, prove=prove)
        return orbits.atlas(config, Path(out))
    if not force:
        censuses.check_size(prob, starts)
    state = censuses.begin(prob)
    if listen is not None:
        listen(state)
    for later in censuses.rounds(prob, state, seed=seed, starts=starts):
        state = later
        if listen is not None:
            listen(state)
    found = censuses.rows(prob, state)
    if not prove:
        return Atlas(prob, found, state)
    proved = orbits.proved_rows(prob, state, found)
    told = zip(found, proved.proofs, strict=True)
    return Atlas(prob, [row._replace(proved=proof.proved) for row, proof in told], state, proved)


def config_of(prob: Problem, *, starts: int | None, seed: int) -> CensusConfig:
    """Return the configuration of a census of a problem, as `ufm census` makes it from its flags."""
    return CensusConfig(
        counts=prob.counts,
        dim=prob.dim,
        decay_w=float(prob.decay_w),
        decay_h=float(prob.decay_h),
        decay_b=float(prob.decay_b),
        bias=prob.bias,
        loss=prob.loss,
        seed=seed,
        starts=starts,
    )


def _model(prob: Landscape) -> Problem:
    if not isinstance(prob, Problem):
        raise ValueError(
            f"prob: a census is of the unconstrained feature model (ufm.problem), got {type(prob).__name__}; "
            "ufm.sweep(landscape).orbits lists the orbits that were found of any landscape"
        )
    check_single(prob)
    require_x64(prob)
    if prob.collapsed or prob.unused:
        raise ValueError("prob: need the full problem, got one on class means; a census goes there by itself")
    return prob


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
    λ_W‖W‖² = λ_H‖H‖², as every critical point does. A point rounded to float32 has a gradient of 1e-9 and
    more, and needs a `grad_tol` above that. With `prove`, the critical orbit next to it is proved (`prove`).

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
