"""What theory says of a problem: the global minimum where it is known, and a summary of every prediction."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.candidates import candidates
from ufm_jax.models.unconstrained.closed_forms import (
    balanced_minimum,
    decouples,
    dying_count,
    fitted_shares,
    has_balanced_form,
    merge_thresholds,
    soft_threshold,
    symmetric_minimum,
    theta,
)
from ufm_jax.models.unconstrained.etf_spectrum import etf_spectrum
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.models.unconstrained.objective import logit_gradient
from ufm_jax.models.unconstrained.problem import Problem, check_single
from ufm_jax.models.unconstrained.reduction import reduced, tail_hessian
from ufm_jax.numerics.lanes import QUICK, jit_small

MOST_CLASSES = 2000  # their spectra are dense: some seconds, and the memory of K x K matrices

KEYS = (
    *("kt", "regime", "loss", "rank", "logit_gap", "softmax_off_diagonal", "w_norm", "h_norm", "bias"),
    *("nullity", "hessian_min_nonzero", "hessian_max", "origin_lambda_min", "origin_index"),
    *("merge_threshold", "dying_count", "symmetric_loss", "symmetric_logit_gap"),
    *("candidate", "candidate_loss", "candidates", "lower_bound"),
)


def has_closed_form(prob: Problem) -> bool:
    """True if f* is known at every decay: `has_balanced_form`, `decouples`, or squared loss, no bias."""
    return has_balanced_form(prob) or decouples(prob) or (type(prob.loss) is Squared and not prob.bias)


def global_minimum(prob: Problem) -> Float[Array, "..."]:
    """Return f* where a closed form exists, else NaN; traced in the decays.

    Beyond `has_closed_form` it exists for squared loss with an undecayed bias.
    """
    if has_balanced_form(prob):
        return balanced_minimum(prob).loss
    if decouples(prob):
        return fitted_shares(prob)[1]
    if type(prob.loss) is Squared:
        return soft_threshold(prob).loss
    return jnp.full_like(prob.decay_w, jnp.nan)


def predict(prob: Problem) -> dict[str, Any]:
    """Return what theory says of the problem, as plain numbers for JSON; None where nothing is known.

    Keys: `kt` = Kθ (balanced); of the global minimiser, `regime` (what it looks like), `loss` = f*, `rank` of
    its logits before the bias, `logit_gap` m*, `softmax_off_diagonal`, `w_norm`, `h_norm` (one row of W, one
    feature), `bias`, and the Hessian's `nullity`, `hessian_min_nonzero` and `hessian_max` there;
    `origin_lambda_min`, `origin_index`; `merge_threshold`: √n_c/N, at or above which √(λ_W λ_H) merges
    classes of equal count n_c (minority collapse, Hong & Ling 2023), one for each count that at least two
    classes share; `dying_count`: classes of at most so many samples have w_k = 0 (squared loss without a
    bias); `fitted`, there alone: a_k, W h_k = a_k e_k (weighted squared, no bias, d ≥ K); `symmetric_loss`,
    `symmetric_logit_gap`: of the lowest simplex ETF for focal loss, which need not be the global minimiser.
    For balanced cross-entropy in d < K − 1: `candidates`, f at symmetric critical points by name (module
    `candidates`); the lowest, `candidate` of `candidate_loss`, is not proven to be the global minimum;
    `lower_bound`, f* of d = K − 1, bounds it.
    """
    check_single(prob)
    if prob.num_classes > MOST_CLASSES:
        raise ValueError(f"num_classes: predictions need at most {MOST_CLASSES}, got {prob.num_classes}")
    out: dict[str, Any] = dict.fromkeys(KEYS)
    out |= {"num_classes": prob.num_classes, "dim": prob.dim, "counts": list(prob.counts)}
    out |= {"loss_name": prob.loss.name, "strength": float(prob.strength)}
    if prob.balanced:
        out["kt"] = prob.num_classes * float(theta(prob))
    return out | _thresholds(prob) | _origin(prob) | _minimum(prob)


def _minimum(prob: Problem) -> dict[str, Any]:
    """What is known of the global minimiser, or of the lowest simplex ETF."""
    if has_balanced_form(prob):
        return _balanced(prob)
    if decouples(prob):
        shares, least = fitted_shares(prob)
        alive = int(jnp.sum(shares > 0))
        said = {"loss": float(least), "rank": alive, "fitted": shares.tolist()}
        return said | {"regime": "classes fitted one by one" if alive else "origin"}
    lowest = float(global_minimum(prob))
    if np.isfinite(lowest):
        rank = int(jnp.sum(soft_threshold(prob).singular_values > 0))
        return {"regime": "soft-thresholded targets" if rank else "origin", "loss": lowest, "rank": rank}
    if isinstance(prob.loss, CrossEntropy) and prob.loss.plain and prob.balanced:
        return _few_dimensions(prob)
    unknown = {"regime": "no closed form for this loss, dimension and class counts"}
    if type(prob.loss) is Focal and prob.balanced and prob.dim >= prob.num_classes - 1:
        best = symmetric_minimum(prob)
        return unknown | {"symmetric_loss": float(best.loss), "symmetric_logit_gap": float(best.gap)}
    return unknown


def _few_dimensions(prob: Problem) -> dict[str, Any]:
    """What is known of balanced cross-entropy in d < K − 1; where the origin is best of all d, it is here."""
    whole = balanced_minimum(replace(prob, dim=prob.num_classes - 1))
    if float(whole.alpha) == 0.0:
        return {"regime": "origin", "loss": float(whole.loss), "rank": 0, "bias": 0.0}
    found = candidates(prob)
    about = "orthogonal simplices" if prob.num_classes <= 2 * prob.dim else "spherical codes"
    what = f"{about} are candidates, none proven to be the global minimum" if found else about
    out: dict[str, Any] = {"regime": f"no closed form: {what}", "lower_bound": float(whole.loss)}
    out |= {"candidates": {c.name: c.loss for c in found}}
    return out | ({"candidate": found[0].name, "candidate_loss": found[0].loss} if found else {})


def _balanced(prob: Problem) -> dict[str, Any]:
    K, best = prob.num_classes, balanced_minimum(prob)
    alpha, beta = float(best.alpha), float(best.beta)
    names = {
        (False, False): "origin",
        (True, False): "simplex ETF",
        (True, True): "orthogonal frame" if not prob.bias else "general frame",
        (False, True): "one direction",
    }
    tilt = float(jnp.sqrt(prob.counts[0] * prob.decay_h / prob.decay_w))
    square = ((K - 1) * alpha + beta) / K
    out = {"regime": names[alpha > 0, beta > 0], "loss": float(best.loss), "bias": float(best.bias)}
    out |= {"rank": (K - 1) * (alpha > 0) + (beta > 0)}
    out |= {"w_norm": (square * tilt) ** 0.5, "h_norm": (square / tilt) ** 0.5}
    return out | _softmax(prob, alpha) if isinstance(prob.loss, CrossEntropy) else out


def _softmax(prob: Problem, gap: float) -> dict[str, Any]:
    """What the minimiser of cross-entropy has besides: probabilities and the Hessian's spectrum."""
    assert isinstance(prob.loss, CrossEntropy)
    K = prob.num_classes
    spectrum = etf_spectrum(prob)
    null = sum(e.multiplicity for e in spectrum if e.value == 0.0)
    return {
        "logit_gap": gap,
        "softmax_off_diagonal": min(float(theta(prob)) + prob.loss.smoothing / K, 1.0 / K),
        "nullity": null if gap > 0 else None,
        "hessian_min_nonzero": min(e.value for e in spectrum if e.value != 0.0),
        "hessian_max": spectrum[-1].value,
    }


def _origin(prob: Problem) -> dict[str, Any]:
    """Spectrum at the origin with the best constant logits 0: for balanced softmax losses it is critical.

    The curvature along b is positive for a convex loss, so that only W and H count: as many eigenvalues are
    negative as singular values of G are above s, in every coordinate.
    """
    if not (prob.loss.convex and prob.shift_invariant and prob.balanced):
        return {}
    G, tail = map(np.asarray, _at_origin(reduced(prob)))
    eigenvalues, singular = np.linalg.eigvalsh(tail), np.linalg.svd(G, compute_uv=False)
    return {
        "origin_lambda_min": float(eigenvalues[0]),
        "origin_index": int(np.sum(singular > float(prob.strength) * (1 + ROUNDED))) * prob.dim,
    }


@partial(jit_small, options=QUICK)
def _at_origin(small: Problem) -> tuple[Array, Array]:
    """Return the gradient of the logits, and the Hessian of one direction of W and H that is 0."""
    G = logit_gradient(small, small.zeros())
    return G, tail_hessian(small, G)


ROUNDED = 1e-14  # of a singular value, relative: G is of a few numbers


def _thresholds(prob: Problem) -> dict[str, Any]:
    """Where classes merge or die."""
    if prob.loss == CrossEntropy():
        return {"merge_threshold": {str(n): s for n, s in merge_thresholds(prob).items()}}
    if type(prob.loss) is Squared and not prob.bias:
        return {"dying_count": float(dying_count(prob))}
    return {}
