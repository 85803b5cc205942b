"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.certificate import curvature_along, dual_bound, null_direction
from ufm_jax.landscape.spectrum import Spectrum, spectrum
from ufm_jax.landscape.verdict import GAP_TOL, GRAD_TOL, judge
from ufm_jax.model.geometry import collapse_metrics
from ufm_jax.model.objective import gradient_norm, objective
from ufm_jax.model.problem import Params, Problem
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
