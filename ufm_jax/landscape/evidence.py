"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.landscape import Effort, Known, Landscape
from ufm_jax.landscape.point import Point, curvature_along
from ufm_jax.landscape.spectrum import Spectrum, assembled
from ufm_jax.landscape.verdict import (
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
    """One judged point. Curvature and index are of f in the landscape asked about.

    What was not shown is NaN, or NOT_COUNTED where it is a number of eigenvalues.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    verdict: Int[Array, ""]
    reason: Int[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    dual_bound: Float[Array, ""]  # on the global minimum; never above `loss`
    dual_gap: Float[Array, ""]
    negative_curvature: Float[Array, ""]  # lowest measured vᵀHv over the unit directions tried
    measures: dict[str, Array]  # the landscape's own

    def columns(self) -> dict[str, Any]:
        """Return everything by name, the landscape's own measures beside the rest."""
        named = self._asdict()
        return named | named.pop("measures")


class Examined(NamedTuple):
    """Evidence, and the arrays that it speaks of: None where `effort` did not go so far."""

    evidence: Evidence
    spectrum: Spectrum | None
    direction: Any  # unit direction of the lowest measured curvature


def examine(
    landscape: Landscape,
    x: Any,
    effort: Effort = "spectrum",
    *,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Examined:
    """Measure and judge the point x, at no more cost than `effort`.

    "certificate": GLOBAL_MINIMUM or NOT_CRITICAL if the lower bound shows it, else UNDECIDED. "escape": and
    STRICT_SADDLE, if the one direction that the landscape suggests has negative curvature. "spectrum": the
    eigenvalues as well.

    Raises:
        ValueError: naming the leaf of x whose shape or dtype is not the landscape's; a tolerance, if it is
            not a finite number above 0; 64-bit floating point, if it is off.
    """
    require_x64(landscape)
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    point = landscape.evaluate(landscape.check(x))
    known = landscape.known(point, effort)
    tolerances = {"grad_tol": grad_tol, "gap_tol": gap_tol}
    gap = point.value - known.bound
    nothing = jnp.full_like(point.value, jnp.nan)
    if effort != "spectrum":
        value = nothing if known.escape is None else known.escape.value
        judgement = judge_by_certificates(
            point.grad_norm,
            gap,
            value,
            known.tolerance,
            landscape.doubt(point.grad_norm),
            known.floor,
            **tolerances,
        )
        direction = None if known.escape is None else known.escape.direction
        return Examined(_row(point, known, judgement, value, (nothing, nothing)), None, direction)
    spec = spectrum(landscape, point, known.floor)
    tried = [curvature_along(point, spec.direction)]
    if known.escape is not None:
        tried.append(known.escape)
    best = jnp.argmin(jnp.stack([c.value for c in tried]))
    curvature = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tried)
    judgement = judge(point.grad_norm, gap, curvature.value, spec, known.floor, **tolerances)
    row = _row(point, known, judgement, curvature.value, (spec.lambda_min, spec.residual))
    return Examined(row, spec, curvature.direction)


def spectrum(landscape: Landscape, point: Point, floor: Float[Array, ""] | float = -jnp.inf) -> Spectrum:
    """Return the spectrum's evidence at a critical point, from the landscape's blocks.

    `floor` bounds all eigenvalues from below, where that is known.
    """
    orbit, blocks = landscape.blocks(point)
    return assembled(point, orbit, blocks, landscape.doubt(point.grad_norm), floor)


def _row(
    point: Point,
    known: Known,
    judgement: Judgement,
    curvature: Float[Array, ""],
    lowest: tuple[Float[Array, ""], Float[Array, ""]],
) -> Evidence:
    """Return a row that cannot contradict itself: what does not describe the point judged is left out.

    A bound above the value by rounding is lowered to it, which keeps it a bound; one that contradicts the
    value is none, and so is -inf. The Hessian's spectrum describes critical points only.
    """
    gap = point.value - known.bound
    none = (gap < -GAP_TOL) | jnp.isneginf(known.bound)
    bound = jnp.where(none, jnp.nan, jnp.minimum(known.bound, point.value))
    critical = judgement.verdict != Verdict.NOT_CRITICAL
    value, residual = (jnp.where(critical, number, jnp.nan) for number in lowest)
    return Evidence(
        loss=point.value,
        grad_norm=point.grad_norm,
        verdict=judgement.verdict,
        reason=judgement.reason,
        index=judgement.index,
        nullity=judgement.nullity,
        lambda_min=value,
        lambda_min_residual=residual,
        dual_bound=bound,
        dual_gap=point.value - bound,
        negative_curvature=curvature,
        measures=known.measures,
    )
