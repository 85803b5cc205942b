"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.models.unconstrained.certificate import (
    Curvature,
    curvature_along,
    curvature_floor,
    dual_bound,
    null_direction,
    spectral_norm,
)
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.objective import gradient_norm, logit_gradient, objective
from ufm_jax.models.unconstrained.problem import Params, Problem, checked_point
from ufm_jax.models.unconstrained.reduction import check_class_means
from ufm_jax.models.unconstrained.spectrum import Spectrum, spectrum, zero_tolerance
from ufm_jax.models.unconstrained.symmetry import balanced_rank
from ufm_jax.models.unconstrained.symmetry import rank as rank_of
from ufm_jax.models.unconstrained.verdict import (
    GAP_TOL,
    GRAD_TOL,
    Judgement,
    Verdict,
    judge,
    judge_by_certificates,
)
from ufm_jax.numerics.checks import check_positive
from ufm_jax.precision import require_x64


class Evidence(NamedTuple):
    """One judged point. Curvature and index are of f in the problem asked about.

    What was not shown is NaN, or NOT_COUNTED where it is a number of eigenvalues.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    verdict: Int[Array, ""]
    reason: Int[Array, ""]
    rank: Int[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    dual_bound: Float[Array, ""]  # never above `loss`
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


class _Certificates(NamedTuple):
    """What the logits' gradient tells of a point."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    bound: Float[Array, ""]  # on the global minimum
    floor: Float[Array, ""]  # on every eigenvalue of the Hessian

    @property
    def gap(self) -> Float[Array, ""]:
        return self.loss - self.bound


def examine(prob: Problem, p: Params, *, grad_tol: float = GRAD_TOL, gap_tol: float = GAP_TOL) -> Examined:
    """Measure and judge the point p: gradient, rank, spectrum, duality gap, curvature, collapse metrics.

    Raises:
        ValueError: naming W, H or b, if its shape or dtype is not the problem's; a tolerance, if it is not a
            finite number above 0; the loss, if it is not convex and `prob` is on class means; 64-bit floating
            point, if it is off.
    """
    require_x64(prob)
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    p = checked_point(prob, p)
    if prob.collapsed:
        check_class_means(prob)
    G = logit_gradient(prob, p)
    shown, rank = _certificates(prob, p, dual_bound(prob, p), spectral_norm(G)), rank_of(prob, p)
    spec = spectrum(prob, p, rank)
    tried = [curvature_along(prob, p, spec.direction), null_direction(prob, p)]
    best = jnp.argmin(jnp.stack([c.value for c in tried]))
    curvature = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tried)
    judgement = judge(
        shown.grad_norm, shown.gap, curvature.value, spec, shown.floor, grad_tol=grad_tol, gap_tol=gap_tol
    )
    evidence = _evidence(prob, p, shown, judgement, rank, curvature.value, (spec.lambda_min, spec.residual))
    return Examined(evidence, spec, curvature.direction)


def by_duality(prob: Problem, p: Params) -> Evidence:
    """Judge p without the Hessian's spectrum: GLOBAL_MINIMUM or NOT_CRITICAL if shown, else UNDECIDED.

    A closed duality gap shows a global minimum, and the bound of `certificate.curvature_floor` its index 0.
    """
    return _by_certificates(prob, p, None)


def by_escape(prob: Problem, p: Params) -> Evidence:
    """Judge p as `by_duality`, and where that is open by the one direction out of points of lower rank.

    STRICT_SADDLE if its curvature is negative beyond what rounding can do to vᵀHv.
    """
    return _by_certificates(prob, p, null_direction(prob, p))


def _by_certificates(prob: Problem, p: Params, out: Curvature | None) -> Evidence:
    G = logit_gradient(prob, p)
    norm = spectral_norm(G)
    shown = _certificates(prob, p, dual_bound(prob, p, (G, norm)), norm)
    rank, radius = balanced_rank(prob, p)
    if out is None:
        curvature, size = jnp.full_like(shown.loss, jnp.nan), jnp.maximum(prob.decay_w, prob.decay_h)
    else:
        # ‖H‖ ≤ λ + ‖W‖² + ‖H̃‖² + 1, doubled for the slope's part: softmax has ‖∇²ℓ‖ ≤ 1/2, squared loss 1.
        size = prob.decay_w + prob.decay_h + prob.decay_b + 2 * (1 + jnp.sum(p.W**2) + jnp.sum(p.H**2))
        curvature = out.value
    tolerance = zero_tolerance(size, shown.grad_norm, radius)
    judgement = judge_by_certificates(shown.grad_norm, shown.gap, curvature, tolerance, shown.floor)
    nothing = jnp.full_like(shown.loss, jnp.nan)
    return _evidence(prob, p, shown, judgement, rank, curvature, (nothing, nothing))


def _certificates(prob: Problem, p: Params, bound: Float[Array, ""], norm: Float[Array, ""]) -> _Certificates:
    """Gather what is known without second derivatives, `norm` = ‖G‖₂."""
    floor = curvature_floor(prob, p, norm)
    return _Certificates(objective(prob)(p), gradient_norm(prob, p), bound, floor)


def _evidence(
    prob: Problem,
    p: Params,
    shown: _Certificates,
    judgement: Judgement,
    rank: Int[Array, ""],
    curvature: Float[Array, ""],
    lowest: tuple[Float[Array, ""], Float[Array, ""]],
) -> Evidence:
    """Return a row that cannot contradict itself: what does not describe the point judged is left out.

    A bound above the value by rounding is lowered to it, which keeps it a bound; one that contradicts the
    value is none. The Hessian's spectrum describes critical points only.
    """
    bound = jnp.where(shown.gap < -GAP_TOL, jnp.nan, jnp.minimum(shown.bound, shown.loss))
    critical = judgement.verdict != Verdict.NOT_CRITICAL
    value, residual = (jnp.where(critical, number, jnp.nan) for number in lowest)
    return Evidence(
        loss=shown.loss,
        grad_norm=shown.grad_norm,
        verdict=judgement.verdict,
        reason=judgement.reason,
        rank=rank,
        index=judgement.index,
        nullity=judgement.nullity,
        lambda_min=value,
        lambda_min_residual=residual,
        dual_bound=bound,
        dual_gap=shown.loss - bound,
        negative_curvature=curvature,
        **collapse_metrics(prob, p)._asdict(),
    )
