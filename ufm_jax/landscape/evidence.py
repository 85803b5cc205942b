"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.landscape import Effort, Known, Landscape, sizes_of
from ufm_jax.landscape.point import Point, curvature_along
from ufm_jax.landscape.spectrum import Parts, Spectrum, assembled
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL, Units, even_curvature, even_norm
from ufm_jax.landscape.verdict import (
    Judgement,
    Size,
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
    grad_norm: Float[Array, ""]  # ‖∇f‖₂
    rel_grad_norm: Float[Array, ""]  # ‖∇f‖ in units (`landscape.units`), which is compared with `grad_tol`
    verdict: Int[Array, ""]
    reason: Int[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    dual_bound: Float[Array, ""]  # on the global minimum; never above `loss`
    dual_gap: Float[Array, ""]
    rel_dual_gap: Float[Array, ""]  # in units, which is compared with `gap_tol`
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
    eigenvalues as well. `grad_tol` and `gap_tol` are in the landscape's units.

    Raises:
        ValueError: naming the leaf of x whose shape or dtype is not the landscape's; a tolerance, if it is
            not a finite number above 0; 64-bit floating point, if it is off.
    """
    require_x64(landscape)
    check_positive(grad_tol=grad_tol, gap_tol=gap_tol)
    point = landscape.evaluate(landscape.check(x))
    known = landscape.known(point, effort)
    tolerances = {"grad_tol": grad_tol, "gap_tol": gap_tol}
    scale, nothing = landscape.coordinate_scales(), jnp.full_like(point.value, jnp.nan)
    units, slope = measured(landscape, point)
    size = Size(
        slope=slope / units.gradient,
        noise=landscape.gradient_noise(point) / units.gradient,
        gap=(point.value - known.bound) / units.value,
        curvature=units.curvature,
    )
    if effort != "spectrum":
        value, along = nothing, nothing
        if known.escape is not None:
            value, along = known.escape.value, even_curvature(known.escape, scale)
        judgement = judge_by_certificates(
            size, along, known.tolerance, landscape.doubt(units, slope), known.floor, **tolerances
        )
        direction = None if known.escape is None else known.escape.direction
        return Examined(_row(point, known, size, judgement, value, (nothing, nothing)), None, direction)
    spec = spectrum(landscape, point, known.floor)
    tried = [curvature_along(point, spec.direction)]
    if known.escape is not None:
        tried.append(known.escape)
    best = jnp.argmin(jnp.stack([c.value for c in tried]))
    curvature = jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tried)
    judgement = judge(size, even_curvature(curvature, scale), spec, known.floor, **tolerances)
    row = _row(point, known, size, judgement, curvature.value, (spec.lambda_min, spec.residual))
    return Examined(row, spec, curvature.direction)


def measured(landscape: Landscape, point: Point) -> tuple[Units, Float[Array, ""]]:
    """Return the units at a point, and ‖∇f‖ in even coordinates."""
    return sizes_of(landscape, point.value), even_norm(point.grad, landscape.coordinate_scales())


def spectrum(landscape: Landscape, point: Point, floor: Float[Array, ""] | float = -jnp.inf) -> Spectrum:
    """Return the spectrum's evidence at a critical point, from the landscape's blocks.

    `floor` bounds all eigenvalues in even coordinates from below, where that is known.
    """
    units, slope = measured(landscape, point)
    asked = Parts(*landscape.blocks(point), point.grad_norm)
    other, there = landscape.in_even_coordinates(point)
    even = asked if other is landscape else Parts(*other.blocks(there, counting=True), slope)
    return assembled(point, asked, even, units, landscape.doubt(units, slope), floor)


def _row(
    point: Point,
    known: Known,
    size: Size,
    judgement: Judgement,
    curvature: Float[Array, ""],
    lowest: tuple[Float[Array, ""], Float[Array, ""]],
) -> Evidence:
    """Return a row that cannot contradict itself: what does not describe the point judged is left out.

    A bound above the value by rounding is lowered to it, which keeps it a bound; one that contradicts the
    value is none, and so is -inf. The Hessian's spectrum describes critical points only.
    """
    none = (size.gap < -GAP_TOL) | jnp.isneginf(known.bound)
    bound = jnp.where(none, jnp.nan, jnp.minimum(known.bound, point.value))
    critical = judgement.verdict != Verdict.NOT_CRITICAL
    value, residual = (jnp.where(critical, number, jnp.nan) for number in lowest)
    return Evidence(
        loss=point.value,
        grad_norm=point.grad_norm,
        rel_grad_norm=size.slope,
        verdict=judgement.verdict,
        reason=judgement.reason,
        index=judgement.index,
        nullity=judgement.nullity,
        lambda_min=value,
        lambda_min_residual=residual,
        dual_bound=bound,
        dual_gap=point.value - bound,
        rel_dual_gap=jnp.where(none, jnp.nan, size.gap),
        negative_curvature=curvature,
        measures=known.measures,
    )
