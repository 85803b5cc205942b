"""From evidence to a verdict that claims only what was shown."""

from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.spectrum import NOT_COUNTED, Spectrum

GRAD_TOL = 1e-9  # ‖∇f‖₂ above this: not a critical point
GAP_TOL = 1e-9  # f − dual bound below this, with no negative curvature: globally minimal


class Verdict(IntEnum):
    """What was shown about a point."""

    GLOBAL_MINIMUM = 0  # gradient and duality gap under tolerance, no negative curvature seen
    LOCAL_MINIMUM = 1  # positive modulo the orbit, gap open
    STRICT_SADDLE = 2  # a direction of negative curvature beyond its error, returned with the point
    DEGENERATE = 3  # no negative curvature, and nullity above the orbit's dimension
    UNDECIDED = 4  # the evidence is not enough; see the reason
    NOT_CRITICAL = 5  # gradient above tolerance


class Reason(IntEnum):
    """Why a point is UNDECIDED; NONE for every other verdict."""

    NONE = 0
    SPECTRUM_UNRESOLVED = 1  # an eigenvalue modulo the orbit is too near zero to have a sign
    RESIDUAL_TOO_LARGE = 2  # the eigenvector did not stand up in the problem asked about
    SPECTRUM_NOT_TAKEN = 4  # the certificates alone do not decide
    INDEX_NOT_COUNTED = 3  # too large to diagonalise: no negative curvature was found, or shown to be absent


class Judgement(NamedTuple):
    """A verdict and its reason, as codes of `Verdict` and `Reason`."""

    verdict: Int[Array, ""]
    reason: Int[Array, ""]


def judge(
    grad_norm: Float[Array, ""],
    dual_gap: Float[Array, ""],
    curvature: Float[Array, ""],
    spec: Spectrum,
    *,
    grad_tol: float = GRAD_TOL,
    gap_tol: float = GAP_TOL,
) -> Judgement:
    """Judge one point. `curvature` is the lowest measured vᵀHv over the unit directions tried.

    Negative curvature comes first: it is exact up to rounding, whereas two orbits may lie closer in f than
    any gap tolerance.
    """
    critical = grad_norm <= grad_tol
    saddle = curvature < -spec.tolerance
    # NaN gaps (no certificate) compare false.
    global_minimum = dual_gap <= gap_tol
    sound = spec.residual <= 10 * spec.tolerance
    bounded = (spec.index == 0) & spec.resolved & sound
    verdict = jnp.select(
        [
            ~critical,
            saddle,
            global_minimum,
            bounded & (spec.nullity > spec.orbit_dim),
            bounded,
        ],
        [
            Verdict.NOT_CRITICAL,
            Verdict.STRICT_SADDLE,
            Verdict.GLOBAL_MINIMUM,
            Verdict.DEGENERATE,
            Verdict.LOCAL_MINIMUM,
        ],
        Verdict.UNDECIDED,
    )
    why = jnp.where(sound, Reason.SPECTRUM_UNRESOLVED, Reason.RESIDUAL_TOO_LARGE)
    why = jnp.where(spec.index == NOT_COUNTED, Reason.INDEX_NOT_COUNTED, why)
    reason = jnp.where(verdict == Verdict.UNDECIDED, why, Reason.NONE)
    return Judgement(verdict.astype(jnp.int32), reason.astype(jnp.int32))
