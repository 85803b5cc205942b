"""Everything measured about one point, and the verdict: what a row of a sweep holds."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.landscape import Effort, Known, Landscape, sizes_of
from ufm_jax.landscape.point import Curvature, Point, curvature_along, picked
from ufm_jax.landscape.spectrum import Parts, Spectrum, assembled
from ufm_jax.landscape.units import FLAT, GAP_TOL, GRAD_TOL, Units, even_curvature
from ufm_jax.landscape.verdict import (
    Judgement,
    Reason,
    Size,
    Verdict,
    judge,
    judge_by_certificates,
)
from ufm_jax.numerics.checks import check_positive
from ufm_jax.precision import require_x64

GAP_ROOM = 10.0  # a gap by certificates may be a few times that beside the spectrum
LOSS_RTOL = 1e-13  # rounding of f, relative to |f| and its unit: sums of a thousand numbers


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
    if effort != "spectrum":
        return _by_certificates(landscape, point, known, grad_tol, gap_tol)
    tolerances, scale = {"grad_tol": grad_tol, "gap_tol": gap_tol}, landscape.coordinate_scales()
    size = _size(landscape, point, known.bound)
    spec = spectrum(landscape, point, known.floor)
    tried = [curvature_along(point, spec.direction)]
    if known.escape is not None:
        tried.append(known.escape._replace(squares=None))
    best = jnp.argmin(jnp.stack([c.value for c in tried]))
    curvature = picked(best, tried)
    judgement = judge(size, even_curvature(curvature, scale), spec, known.floor, **tolerances)
    row = _row(landscape, point, known, size, judgement, curvature.value, (spec.lambda_min, spec.residual))
    return Examined(row, spec, curvature.direction)


class Representative(NamedTuple):
    """A judged point that may stand for others of its orbit."""

    evidence: Evidence
    spectrum: Spectrum  # without the direction
    curvature: Float[Array, ""]  # lowest measured, of unit directions in even coordinates
    slope: Float[Array, ""]  # ‖∇f‖ in even coordinates


def representative(landscape: Landscape, x: Any) -> Representative:
    """Judge a point by its spectrum, for `alike`."""
    seen = examine(landscape, x)
    assert seen.spectrum is not None
    row = seen.evidence
    along = Curvature(row.negative_curvature, seen.direction)
    return Representative(
        row,
        seen.spectrum._replace(direction=None),
        even_curvature(along, landscape.coordinate_scales()),
        row.rel_grad_norm * sizes_of(landscape, row.loss).gradient,
    )


def alike(
    landscape: Landscape, row: Evidence, apart: Float[Array, ""], other: Representative
) -> tuple[Evidence, Bool[Array, ""]]:
    """Judge a point, whose `row` holds no eigenvalues, by those of a point that seems to be on its orbit.

    `apart` is how far their invariants are. Also returned is whether that is allowed, as nothing else can be
    true: the other is an isolated orbit, whose eigenvalues all show at the gradient of this point; an orbit
    beside it, at the distance `apart`, would leave an eigenvalue of V `apart` between them, and a difference
    in f beyond rounding and ‖∇f‖²/2|λ|; and what was shown of this point alone is no other verdict, nor is
    its gap, which certificates measure less sharply, near the tolerance.
    """
    units = sizes_of(landscape, row.loss)
    slope = row.rel_grad_norm * units.gradient
    spec = other.spectrum.at_slope(slope - other.slope, landscape.doubt(units, slope))
    hidden = row.reason == Reason.GRADIENT_BELOW_ROUNDING
    size = Size(row.rel_grad_norm, jnp.where(hidden, jnp.inf, 0.0), row.rel_dual_gap, units.curvature)
    found = judge(size, other.curvature, spec)
    own, theirs = row.verdict, other.evidence.verdict
    uphill = jnp.abs(row.loss - other.evidence.loss)
    rounding = LOSS_RTOL * (jnp.abs(row.loss) + units.value)
    gap = row.rel_dual_gap
    closed = (gap <= GAP_TOL / GAP_ROOM) & (spec.index == 0)  # curvature there is judged by ‖∇f‖'s last bits
    decided = jnp.isnan(gap) | closed | (gap > GAP_TOL * GAP_ROOM)
    allowed = (
        spec.isolated
        & (spec.least > FLAT * units.value * apart)
        & (uphill <= rounding + slope**2 / (2 * spec.least))
        & ((own == Verdict.UNDECIDED) | (own == found.verdict))
        & (found.verdict == theirs)
        & (row.reason != Reason.BOUND_ABOVE_VALUE)
        & decided
    )
    for name, number in row.measures.items():
        if jnp.issubdtype(number.dtype, jnp.integer):
            allowed &= number == other.evidence.measures[name]
    filled = row._replace(
        verdict=found.verdict,
        reason=found.reason,
        index=found.index,
        nullity=found.nullity,
        lambda_min=other.evidence.lambda_min,
        lambda_min_residual=other.evidence.lambda_min_residual,
        negative_curvature=jnp.fmin(row.negative_curvature, other.evidence.negative_curvature),
    )
    return filled, allowed


def is_critical(landscape: Landscape, x: Any, grad_tol: float = GRAD_TOL) -> Bool[Array, ""]:
    """Say whether ∇f is below the tolerance or rounding: only then does the Hessian's spectrum matter."""
    point = landscape.evaluate(landscape.check(x))
    size = _size(landscape, point, point.value)
    return (size.slope <= grad_tol) | (size.slope <= size.noise)


def examine_off_critical(
    landscape: Landscape, x: Any, *, grad_tol: float = GRAD_TOL, gap_tol: float = GAP_TOL
) -> Examined:
    """Measure what `examine` does of a point that is NOT_CRITICAL, without the spectrum that it leaves out.

    The lowest curvature measured is along the one direction that the landscape suggests.
    """
    point = landscape.evaluate(landscape.check(x))
    return _by_certificates(landscape, point, landscape.known(point, "spectrum"), grad_tol, gap_tol)


def _by_certificates(
    landscape: Landscape, point: Point, known: Known, grad_tol: float, gap_tol: float
) -> Examined:
    units, slope = measured(landscape, point)
    size, nothing = _size(landscape, point, known.bound), jnp.full_like(point.value, jnp.nan)
    value, along, direction = nothing, nothing, None
    if known.escape is not None:
        value, direction = known.escape.value, known.escape.direction
        along = even_curvature(known.escape, landscape.coordinate_scales())
    judgement = judge_by_certificates(
        size,
        along,
        known.tolerance,
        landscape.doubt(units, slope),
        known.floor,
        grad_tol=grad_tol,
        gap_tol=gap_tol,
    )
    row = _row(landscape, point, known, size, judgement, value, (nothing, nothing))
    return Examined(row, None, direction)


def _size(landscape: Landscape, point: Point, bound: Float[Array, ""]) -> Size:
    """Return a point's value and gradient in units."""
    units, slope = measured(landscape, point)
    return Size(
        slope=slope / units.gradient,
        noise=landscape.gradient_noise(point) / units.gradient,
        gap=(point.value - bound) / units.value,
        curvature=units.curvature,
    )


def measured(landscape: Landscape, point: Point) -> tuple[Units, Float[Array, ""]]:
    """Return the units at a point, and ‖∇f‖ in even coordinates."""
    return sizes_of(landscape, point.value), landscape.gradient_norms(point)[1]


def spectrum(landscape: Landscape, point: Point, floor: Float[Array, ""] | float = -jnp.inf) -> Spectrum:
    """Return the spectrum's evidence at a critical point, from the landscape's blocks.

    `floor` bounds all eigenvalues in even coordinates from below, where that is known.
    """
    units, slope = measured(landscape, point)
    noise = landscape.gradient_noise(point)
    asked = Parts(*landscape.blocks(point), point.grad_norm, noise)
    other, there = landscape.in_even_coordinates(point)
    even = asked if other is landscape else Parts(*other.blocks(there, counting=True), slope, noise)
    return assembled(point, asked, even, units, landscape.doubt(units, slope), floor)


def _row(
    landscape: Landscape,
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
        grad_norm=landscape.gradient_norms(point)[0],
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
