"""From evidence to a verdict that claims only what was shown."""

from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.spectrum import NOT_COUNTED, Spectrum
from ufm_jax.landscape.units import GAP_TOL, GRAD_TOL


class Verdict(IntEnum):
    """What was shown about a point."""

    GLOBAL_MINIMUM = 0  # gradient and duality gap under tolerance, no negative curvature seen
    LOCAL_MINIMUM = 1  # positive modulo the orbit, gap open
    STRICT_SADDLE = 2  # a direction of negative curvature beyond its error, returned with the point
    DEGENERATE = 3  # no negative curvature, and null directions beyond the orbit's
    UNDECIDED = 4  # the evidence is not enough; see the reason
    NOT_CRITICAL = 5  # gradient above tolerance, and above rounding


class Reason(IntEnum):
    """Why a point is UNDECIDED; else NONE. BOUND_ABOVE_VALUE is said of points that are NOT_CRITICAL, too."""

    NONE = 0
    SPECTRUM_UNRESOLVED = 1  # an eigenvalue modulo the orbit is too near zero to have a sign
    RESIDUAL_TOO_LARGE = 2  # the eigenvector did not stand up in the problem asked about
    INDEX_NOT_COUNTED = 3  # too large to diagonalise: no negative curvature was found, or shown to be absent
    SPECTRUM_NOT_TAKEN = 4  # the certificates alone do not decide
    BOUND_ABOVE_VALUE = 5  # a contradiction: a "lower bound" on the global minimum lies above f
    GRADIENT_BELOW_ROUNDING = 6  # the gradient is above tolerance, and may be rounding
    INDEX_AT_CLOSED_GAP = 7  # a contradiction: negative eigenvalues where the gap says globally minimal


class Size(NamedTuple):
    """What is judged of a point's value and gradient, in units (`landscape.units`)."""

    slope: Float[Array, ""]  # ‖∇f‖/√(C V)
    noise: Float[Array, ""]  # what rounding may leave of that
    gap: Float[Array, ""]  # (f − bound)/V
    curvature: Float[Array, ""]  # C


class Judgement(NamedTuple):
    """A verdict and its reason, as codes of `Verdict` and `Reason`, and the counts that go with them.

    `index` is 0 at minima and at least 1 at strict saddles, or NOT_COUNTED; so is `nullity` where nothing, or
    not enough, was counted.
    """

    verdict: Int[Array, ""]
    reason: Int[Array, ""]
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]


def judge(
    size: Size,
    curvature: Float[Array, ""],
    spec: Spectrum,
    floor: Float[Array, ""] | float = -jnp.inf,
    *,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Judgement:
    """Judge one point by its spectrum.

    `curvature` is the lowest measured vᵀHv over the unit directions tried, `floor` a lower bound on all of
    them, both in even coordinates. Negative curvature comes before a closed gap: it is exact up to its error
    bound, whereas two orbits may lie closer in f than any gap tolerance.
    """
    sound = spec.sound
    counted = (spec.index != NOT_COUNTED) & spec.clear & sound
    none_negative = floor >= -spec.tolerance
    index = jnp.where(none_negative, 0, jnp.where(counted, spec.index, NOT_COUNTED))
    # Eigenvalues below the tolerance that do not show: of a point that is not near enough to a critical one.
    doubtful = ~none_negative & (spec.index > 0)
    bounded = counted & spec.resolved & (index == 0)
    lowest = jnp.abs(spec.lowest)
    null = lowest <= spec.null  # beside the orbit's
    positive = (spec.lowest > spec.tolerance) & (spec.lowest > spec.doubt)
    why = jnp.where(sound, Reason.SPECTRUM_UNRESOLVED, Reason.RESIDUAL_TOO_LARGE)
    why = jnp.where(spec.index == NOT_COUNTED, Reason.INDEX_NOT_COUNTED, why)
    closed = size.gap <= gap_tol  # a NaN gap (no certificate) compares false
    why = jnp.where(closed & doubtful, Reason.INDEX_AT_CLOSED_GAP, why)
    return _judgement(
        size,
        (grad_tol, gap_tol),
        saddle=_falls(curvature, spec.tolerance, spec.doubt, size, closed) & ~none_negative,
        lowest=closed & ~doubtful,
        bounded=(bounded & null, bounded & positive),
        why=why,
        index=index,
        nullity=jnp.where(spec.resolved & sound, spec.nullity, NOT_COUNTED),
    )


def judge_by_certificates(
    size: Size,
    curvature: Float[Array, ""],
    tolerance: Float[Array, ""],
    doubt: Float[Array, ""],
    floor: Float[Array, ""],
    *,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Judgement:
    """Judge one point without its spectrum: what neither gap nor `curvature` (NaN: none tried) shows is open.

    `tolerance` is the size of a curvature that counts as zero, `doubt` the landscape's.
    """
    none_negative, closed = floor >= -tolerance, size.gap <= gap_tol
    no = jnp.zeros_like(none_negative)
    return _judgement(
        size,
        (grad_tol, gap_tol),
        saddle=_falls(curvature, tolerance, doubt, size, closed) & ~none_negative,
        lowest=closed & none_negative,
        bounded=(no, no),
        why=Reason.SPECTRUM_NOT_TAKEN,
        index=jnp.where(none_negative, 0, NOT_COUNTED),
        nullity=NOT_COUNTED,
    )


def _falls(
    curvature: Float[Array, ""],
    tolerance: Float[Array, ""],
    doubt: Float[Array, ""],
    size: Size,
    closed: Bool[Array, ""],
) -> Bool[Array, ""]:
    """Say whether negative curvature is beyond its error bound, which is larger where the gap is closed."""
    least = jnp.maximum(tolerance, doubt)
    return curvature < -jnp.where(closed, jnp.maximum(least, size.curvature * jnp.sqrt(size.slope)), least)


def _judgement(
    size: Size,
    tolerances: tuple[float, float],
    *,
    saddle: Bool[Array, ""],
    lowest: Bool[Array, ""],
    bounded: tuple[Bool[Array, ""], Bool[Array, ""]],
    why: Int[Array, ""] | Reason,
    index: Int[Array, ""],
    nullity: Int[Array, ""] | int,
) -> Judgement:
    """Take the first verdict that applies, and the counts that agree with it; the others were not made."""
    grad_tol, gap_tol = tolerances
    degenerate, positive = bounded
    critical, contradiction = size.slope <= grad_tol, size.gap < -gap_tol
    hidden = ~critical & (size.slope <= size.noise)
    verdict = jnp.select(
        [~critical & ~hidden, hidden | contradiction, saddle, lowest, degenerate, positive],
        [
            Verdict.NOT_CRITICAL,
            Verdict.UNDECIDED,
            Verdict.STRICT_SADDLE,
            Verdict.GLOBAL_MINIMUM,
            Verdict.DEGENERATE,
            Verdict.LOCAL_MINIMUM,
        ],
        Verdict.UNDECIDED,
    )
    reason = jnp.where(verdict == Verdict.UNDECIDED, why, Reason.NONE)
    reason = jnp.where(hidden, Reason.GRADIENT_BELOW_ROUNDING, reason)
    reason = jnp.where(contradiction, Reason.BOUND_ABOVE_VALUE, reason)
    counted = (verdict != Verdict.NOT_CRITICAL) & (verdict != Verdict.UNDECIDED)
    fits = jnp.where(verdict == Verdict.STRICT_SADDLE, index > 0, index == 0)
    codes = (
        verdict,
        reason,
        jnp.where(counted & fits, index, NOT_COUNTED),
        jnp.where(counted, nullity, NOT_COUNTED),
    )
    return Judgement(*(code.astype(jnp.int32) for code in codes))
