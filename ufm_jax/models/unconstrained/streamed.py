"""Evidence from passes over the samples alone: a held point's names, None where passes cannot tell.

Formulas are those of `certificate`, with what is as large as the features or the logits summed up in passes.
"""

from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.units import Units, doubt_if_even, zero_tolerance
from ufm_jax.landscape.verdict import Reason, Size, Verdict, judge_by_certificates
from ufm_jax.models.unconstrained import passes
from ufm_jax.models.unconstrained.gains import Lowest
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.passes import Centres, Layer, Samples, Say
from ufm_jax.models.unconstrained.sizes import HESSIAN_RTOL
from ufm_jax.models.unconstrained.symmetry import RANK_ATOL

MOST_ROWS = 2048  # classes whose W H̃ is diagonalised for its rank


class Sizes:
    """A point with its decays, and what a first pass says of it."""

    def __init__(
        self,
        samples: Samples,
        layer: Layer,
        bias: bool,
        first: Centres,
        decays: dict[str, Any],
        loss: Loss,
    ) -> None:
        self.samples, self.layer, self.bias, self.first, self.loss = samples, layer, bias, first, loss
        self.decay_w, self.decay_h, self.decay_b = (
            float(decays[name]) for name in ("decay_w", "decay_h", "decay_b")
        )
        self.present = samples.counts > 0

    @cached_property
    def means(self) -> Float[Array, "K d"]:
        """Class means; NaN where a class has no sample."""
        counts = jnp.asarray(self.samples.counts, jnp.float64)[:, None]
        return jnp.where(counts > 0, self.first.sums / jnp.maximum(counts, 1.0), jnp.nan)

    @cached_property
    def squares(self) -> tuple[float, float, float]:
        """‖W‖², ‖H‖² and ‖b‖²."""
        return float(jnp.sum(self.layer.W**2)), float(self.first.square), float(jnp.sum(self.layer.b**2))

    @property
    def strength(self) -> float:
        """s."""
        return self.decay_w**0.5 * self.decay_h**0.5

    def second(self, seen: passes.Survey) -> Float[np.ndarray, "d d"] | None:
        """Return HHᵀ, where d is small enough: within classes, and of their means."""
        if not seen.within.size:
            return None
        counts, means = self.samples.counts[self.present], np.asarray(self.means)[self.present]
        return np.asarray(seen.within) + (means.T * counts) @ means

    def augmented(self, second: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "e e"]:
        """Return the mean of (h, 1)(h, 1)ᵀ."""
        total = np.asarray(jnp.sum(self.first.sums, axis=0))[:, None]
        N = float(self.samples.number)
        return np.block([[second, total], [total.T, np.full((1, 1), N)]]) / N


def streamed_row(
    s: Sizes,
    seen: passes.Survey,
    least: Lowest,
    unknown: dict[str, str],
    grad_tol: float,
    gap_tol: float,
    say: Say | None,
) -> dict[str, Any]:
    """Return the columns of `landscape.evidence.Evidence` and the facts of `own_point`."""
    decay = s.decay_w * s.squares[0] + s.decay_h * s.squares[1] + s.decay_b * s.squares[2]
    value = float(seen.loss) + decay / 2
    slopes = (
        float(jnp.sum((seen.slope.W + s.decay_w * s.layer.W) ** 2)),
        float(seen.features),
        float(jnp.sum((seen.slope.b + s.decay_b * s.layer.b) ** 2)) if s.bias else 0.0,
    )
    even = _even(s)
    slope = sum(square * c**2 for square, c in zip(slopes, even, strict=True)) ** 0.5
    bound = None if least.bound is None else min(least.bound, value)
    unit = (value * s.strength) ** 0.5
    curvature, judged = _judged(s, seen, value, slope, unit, bound, even, unknown, (grad_tol, gap_tol), say)
    for name in ("nullity", "lambda_min"):
        unknown[name] = unknown["index"] = "the spectrum needs all features at once"
    if bound is None:
        unknown["dual_bound"] = "no lower bound on f* where f* is unknown"
    return {
        "loss": value,
        "grad_norm": sum(slopes) ** 0.5,
        "rel_grad_norm": slope / unit,
        "verdict": Verdict(int(judged.verdict)).name,
        "reason": Reason(int(judged.reason)).name,
        **dict.fromkeys(("index", "nullity", "lambda_min", "lambda_min_residual")),
        "dual_bound": bound,
        "dual_gap": None if bound is None else value - bound,
        "rel_dual_gap": None if bound is None else (value - bound) / value,
        "negative_curvature": curvature,
        "rank": _rank(s),
        **dict.fromkeys(("nc1", "nc2", "nc3", "nc4")),
        "decay_w": s.decay_w,
        "decay_h": s.decay_h,
        "decay_b": s.decay_b,
        "accuracy": None,
        "closed_form_loss": least.value if least.source == "closed form" else None,
        "excess_loss": None,
    }


def _even(s: Sizes) -> tuple[float, float, float]:
    """Return the lengths of W, H and b in coordinates of even curvature, as `sizes.scale`."""
    tilt = (s.decay_h / s.decay_w) ** 0.25
    theta = s.strength * (s.samples.number / int(np.sum(s.present))) ** 0.5
    return tilt, 1 / tilt, (s.strength / (s.decay_b + theta)) ** 0.5


def _rank(s: Sizes) -> int | None:
    """Return the rank of W times the class means, in logits."""
    if len(s.present) > MOST_ROWS or not np.all(s.present):
        return None
    W, arms = np.asarray(s.layer.W), np.asarray(s.means) * np.sqrt(s.samples.counts)[:, None]
    return int(np.sum(np.linalg.svd(W @ arms.T, compute_uv=False) > RANK_ATOL))


def _judged(
    s: Sizes,
    seen: passes.Survey,
    value: float,
    slope: float,
    unit: float,
    bound: float | None,
    even: tuple[float, float, float],
    unknown: dict[str, str],
    tolerances: tuple[float, float],
    say: Say | None,
) -> tuple[float | None, Any]:
    """Return the curvature along the paper's direction and the verdict of certificates alone."""
    number = jnp.asarray
    second = s.second(seen)
    curvature, along, floor, tolerance = None, np.nan, -np.inf, np.inf
    if second is None or not seen.outer.size:
        unknown["negative_curvature"] = "K x K or d x d is too large"
    else:
        W = np.asarray(s.layer.W)
        eigenvalues, frame = np.linalg.eigh(s.decay_w * W.T @ W + s.decay_h * second)
        top = np.linalg.eigh(np.asarray(seen.outer))
        norm = max(float(top[0][-1]), 0.0) ** 0.5
        if norm > 0:
            curvature, along = _null_curvature(s, norm, top[1][:, -1], frame[:, 0], even, say)
        floor = -max(norm - s.strength, 0.0) if s.loss.convex else -np.inf
        # As in `certificate.known`; the orbit's radius is that of the weakest coordinate in use.
        used = eigenvalues[eigenvalues > 1e-10 * eigenvalues[-1]] / s.strength
        size = 2 * (s.strength + 1 + sum(sq / c**2 for sq, c in zip(s.squares[:2], even[:2], strict=True)))
        radius = float(used[0]) ** 0.5 if used.size else 1.0
        tolerance = float(zero_tolerance(number(size), number(slope), number(radius), HESSIAN_RTOL))
    rounding = s.samples.rounded * float(seen.loss)
    gap = np.nan if bound is None else (value - bound + rounding) / value
    size_of = Size(number(slope / unit), number(0.0), number(gap), number(s.strength))
    doubt = doubt_if_even(Units(number(value), number(s.strength), HESSIAN_RTOL), number(slope))
    judged = judge_by_certificates(
        size_of,
        number(along),
        number(tolerance),
        doubt,
        number(floor),
        grad_tol=tolerances[0],
        gap_tol=tolerances[1],
    )
    return curvature, judged


def _null_curvature(
    s: Sizes,
    norm: float,
    u: np.ndarray,
    a: np.ndarray,
    even: tuple[float, float, float],
    say: Say | None,
) -> tuple[float, float]:
    """Return vᵀHv along `certificate.null_direction`: of unit length, and so in even coordinates."""
    angle = 0.5 * np.arctan2(norm, (s.decay_w - s.decay_h) / 2)
    x, y = np.sin(angle), np.cos(angle)
    square, bend = passes.along_null(
        s.samples, s.layer, jnp.asarray(u), jnp.asarray(a), float(x), float(y / norm), s.loss, say
    )
    of_w, of_h = x**2, y**2 * square / norm**2
    total = bend - 2 * x * y * square / norm + s.decay_w * of_w + s.decay_h * of_h
    in_even = of_w / even[0] ** 2 + of_h / even[1] ** 2
    return float(total / (of_w + of_h)), float(total / in_even)
