"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.certificate import (
    curvature_along,
    curvature_floor,
    dual_bound,
    null_direction,
    spectral_norm,
)
from ufm_jax.landscape.spectrum import NOT_COUNTED, ZERO_PER_GRAD, ZERO_RTOL, Spectrum, spectrum
from ufm_jax.landscape.verdict import GAP_TOL, GRAD_TOL, Reason, Verdict, judge
from ufm_jax.model.geometry import collapse_metrics
from ufm_jax.model.objective import gradient_norm, logit_gradient, objective
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.symmetry import balanced_rank
from ufm_jax.model.symmetry import rank as rank_of


class Evidence(NamedTuple):
    """One judged point. Curvature and index are of f in the problem asked about."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    verdict: Int[Array, ""]
    reason: Int[Array, ""]
    rank: Int[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    dual_bound: Float[Array, ""]
    dual_gap: Float[Array, ""]
    negative_curvature: Float[Array, ""]  # lowest measured vᵀHv over the unit directions tried
    nc1: Float[Array, ""]
    nc2: Float[Array, ""]
    nc3: Float[Array, ""]
    nc4: Float[Array, ""]


class Examined(NamedTuple):
    """Evidence, and the arrays that it speaks of."""

    evidence: Evidence
    spectrum: Spectrum
    direction: Params  # unit direction of the lowest measured curvature


def examine(prob: Problem, p: Params, *, grad_tol: float = GRAD_TOL, gap_tol: float = GAP_TOL) -> Examined:
    """Measure and judge the point p: gradient, rank, spectrum, duality gap, curvature, collapse metrics."""
    value, norm, rank = objective(prob)(p), gradient_norm(prob, p), rank_of(prob, p)
    spec = spectrum(prob, p, rank)
    bound = dual_bound(prob, p)
    tried = [curvature_along(prob, p, spec.direction), null_direction(prob, p)]
    best = jnp.argmin(jnp.stack([c.value for c in tried]))
    curvature = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tried)
    judgement = judge(norm, value - bound, curvature.value, spec, grad_tol=grad_tol, gap_tol=gap_tol)
    metrics = collapse_metrics(prob, p)
    evidence = Evidence(
        loss=value,
        grad_norm=norm,
        verdict=judgement.verdict,
        reason=judgement.reason,
        rank=rank,
        index=spec.index,
        nullity=spec.nullity,
        lambda_min=spec.lambda_min,
        lambda_min_residual=spec.residual,
        dual_bound=bound,
        dual_gap=value - bound,
        negative_curvature=curvature.value,
        **metrics._asdict(),
    )
    return Examined(evidence, spec, curvature.direction)


def by_duality(prob: Problem, p: Params) -> Evidence:
    """Judge p without the Hessian's spectrum: GLOBAL_MINIMUM or NOT_CRITICAL if shown, else UNDECIDED.

    A closed duality gap shows a global minimum, and the bound of `certificate.curvature_floor` its index 0.
    What only the Hessian's spectrum tells is NaN or NOT_COUNTED.
    """
    value, norm = objective(prob)(p), gradient_norm(prob, p)
    G = logit_gradient(prob, p)
    size = spectral_norm(G)
    bound, floor = dual_bound(prob, p, (G, size)), curvature_floor(prob, p, size)
    tolerance = ZERO_RTOL * jnp.maximum(prob.decay_w, prob.decay_h) + ZERO_PER_GRAD * norm
    shown = (value - bound <= GAP_TOL) & (floor >= -tolerance)
    verdict = jnp.where(shown, Verdict.GLOBAL_MINIMUM, Verdict.UNDECIDED)
    verdict = jnp.where(norm <= GRAD_TOL, verdict, Verdict.NOT_CRITICAL)
    open_ = verdict == Verdict.UNDECIDED
    nan = jnp.full_like(value, jnp.nan)
    return Evidence(
        loss=value,
        grad_norm=norm,
        verdict=verdict.astype(jnp.int32),
        reason=jnp.where(open_, Reason.SPECTRUM_NOT_TAKEN, Reason.NONE).astype(jnp.int32),
        rank=balanced_rank(prob, p),
        index=jnp.where(verdict == Verdict.GLOBAL_MINIMUM, 0, NOT_COUNTED).astype(jnp.int32),
        nullity=jnp.full_like(verdict, NOT_COUNTED, jnp.int32),
        lambda_min=nan,
        lambda_min_residual=nan,
        dual_bound=bound,
        dual_gap=value - bound,
        negative_curvature=nan,
        **collapse_metrics(prob, p)._asdict(),
    )


def by_escape(prob: Problem, p: Params) -> Evidence:
    """Judge p as `by_duality`, and where that is open by the one direction out of points of lower rank.

    STRICT_SADDLE if its curvature is negative beyond what rounding can do to vᵀHv.
    """
    evidence, out = by_duality(prob, p), null_direction(prob, p)
    # ‖H‖ ≤ λ + ‖W‖² + ‖H̃‖² + 1, doubled for the slope's part: softmax has ‖∇²ℓ‖ ≤ 1/2, squared loss 1.
    size = prob.decay_w + prob.decay_h + prob.decay_b + 2 * (1 + jnp.sum(p.W**2) + jnp.sum(p.H**2))
    below = out.value < -(ZERO_RTOL * size + ZERO_PER_GRAD * evidence.grad_norm)
    saddle = below & (evidence.verdict == Verdict.UNDECIDED)
    return evidence._replace(
        verdict=jnp.where(saddle, Verdict.STRICT_SADDLE, evidence.verdict).astype(jnp.int32),
        reason=jnp.where(saddle, Reason.NONE, evidence.reason).astype(jnp.int32),
        negative_curvature=out.value,
    )
