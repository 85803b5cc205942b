"""Closed forms and thresholds, each with the regime in which it holds.

θ = √n √(λ_W λ_H) throughout, for balanced classes of n samples. Cross-entropy: Zhu et al. 2021, thm. 3.1;
its explicit logit gap, and label smoothing, were derived for this project. Squared loss: Zhou et al. 2022;
Tirer & Bruna 2022. Each is tested against numerical minimisers and the duality gap.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.model.geometry import simplex_etf
from ufm_jax.model.losses import CrossEntropy, Squared
from ufm_jax.model.objective import logit_gradient
from ufm_jax.model.problem import Params, Problem
from ufm_jax.model.reduction import collapse, tail_hessian


class BalancedMinimum(NamedTuple):
    """The global minimiser with logits W h_k = α (e_k − 1/K) + β 1/K before the bias, in closed form."""

    loss: Float[Array, ""]  # f*
    alpha: Float[Array, ""]  # scale of the simplex part of W H̃/√n: the logit gap m* for cross-entropy
    beta: Float[Array, ""]  # scale of the all-ones part; 0 for softmax losses: the frame is then an ETF
    bias: Float[Array, ""]  # every entry of b*


def theta(prob: Problem) -> Float[Array, "..."]:
    """Return θ = √n √(λ_W λ_H) of a balanced problem."""
    return np.sqrt(float(prob.counts[0])) * prob.strength


def has_closed_form(prob: Problem) -> bool:
    """True for balanced classes with cross-entropy and d ≥ K − 1, or squared loss and d ≥ K."""
    least = {CrossEntropy: prob.num_classes - 1, Squared: prob.num_classes}.get(type(prob.loss))
    return prob.balanced and least is not None and prob.dim >= least


def balanced_minimum(prob: Problem) -> BalancedMinimum:
    """Return the closed-form global minimum; traced in the decays.

    Raises:
        ValueError: outside the regime of `has_closed_form`, naming what is missing.
    """
    if not has_closed_form(prob):
        raise ValueError(
            f"no closed form: need balanced counts and dim >= K - 1 (cross-entropy) or dim >= K (squared "
            f"loss); got counts={prob.counts}, dim={prob.dim}, loss={prob.loss.name}"
        )
    if isinstance(prob.loss, CrossEntropy):
        return _cross_entropy(prob, prob.loss.smoothing)
    return _squared(prob)


def _cross_entropy(prob: Problem, smoothing: float) -> BalancedMinimum:
    """Off-diagonal softmax probability θ + α/K; logit gap m* = log(1/(θ + α/K) − K + 1), 0 if Kθ ≥ 1 − α."""
    K, t = prob.num_classes, theta(prob)
    probability = jnp.minimum(t + smoothing / K, 1.0 / K)
    ratio = (1.0 - (K - 1) * probability) / probability  # of diagonal to off-diagonal probability
    # Exactly 0 at the origin, where the ratio of two rounded 1/K may exceed 1.
    m = jnp.where(probability < 1.0 / K, jnp.log(jnp.maximum(ratio, 1.0)), 0.0)
    fit = -jnp.log(1.0 - (K - 1) * probability) + (K - 1) * (smoothing / K) * m
    zero = jnp.zeros_like(m)
    return BalancedMinimum(fit + (K - 1) * t * m, m, zero, zero)


def _squared(prob: Problem) -> BalancedMinimum:
    """α = (1 − Kθ)₊; β = α without a bias, else (1 − Kθ(1 + λ_b)/λ_b)₊ and b = (1 − β)/(K(1 + λ_b))."""
    K, t, lam = prob.num_classes, theta(prob), prob.decay_b
    alpha = jnp.maximum(1.0 - K * t, 0.0)
    if prob.bias:
        beta = jnp.where(
            lam > 0, jnp.maximum(1.0 - K * t * (1.0 + lam) / jnp.where(lam > 0, lam, 1.0), 0.0), 0.0
        )
        b = (1.0 - beta) / (K * (1.0 + lam))
    else:
        beta, b = alpha, jnp.zeros_like(alpha)
    misfit = (K - 1) * (1.0 - alpha) ** 2 + (1.0 - beta - K * b) ** 2
    loss = misfit / (2.0 * K) + t * ((K - 1) * alpha + beta) + lam * K * b**2 / 2
    return BalancedMinimum(loss, alpha, beta, b)


def global_minimum(prob: Problem) -> Float[Array, ""]:
    """Return f* where a closed form exists, else NaN; traced in the decays."""
    if has_closed_form(prob):
        return balanced_minimum(prob).loss
    return jnp.full_like(prob.decay_w, jnp.nan)


def etf_minimiser(prob: Problem) -> Params:
    """Return a closed-form global minimiser of a softmax loss: W ∝ simplex ETF, h_{k,i} = √(λ_W/(nλ_H)) w_k.

    Raises:
        ValueError: outside `has_closed_form`, or for a loss whose minimiser is not an ETF in general.
    """
    best = balanced_minimum(prob)
    if not prob.loss.shift_invariant:
        raise ValueError(f"loss: the minimiser of {prob.loss.name} is not a simplex ETF in general")
    K, n = prob.num_classes, prob.counts[0]
    frame = jnp.asarray(simplex_etf(K, prob.dim), prob.decay_w.dtype)
    tilt = jnp.sqrt(n * prob.decay_h / prob.decay_w)  # ‖w_k‖² = (K−1)/K · tilt · m*
    W = jnp.sqrt((K - 1) / K * tilt * best.alpha) * frame
    H = (W / tilt).T * np.sqrt(float(n)) if prob.collapsed else (W / tilt).T[:, prob.labels]
    return Params(W, H, jnp.zeros(K, W.dtype) if prob.bias else None)


def predict(prob: Problem) -> dict[str, Any]:
    """Return what theory says of the problem, as plain numbers for JSON; None where nothing is known.

    Keys: `kt` = Kθ (balanced), `regime` (what the global minimiser looks like), `loss` = f*, `logit_gap` m*,
    `softmax_off_diagonal`, `w_norm`, `h_norm` (one row of W, one feature), `bias`, `nullity` of the Hessian
    at the minimiser, `origin_lambda_min`, `origin_index`, `merge_threshold`: √n_c/N, at or above which
    √(λ_W λ_H) merges classes of equal count n_c (minority collapse, Hong & Ling 2023), one for each count
    that at least two classes share.
    """
    K, d = prob.num_classes, prob.dim
    out: dict[str, Any] = dict.fromkeys(
        ("kt", "regime", "loss", "logit_gap", "softmax_off_diagonal", "w_norm", "h_norm", "bias", "nullity")
    )
    out |= {"num_classes": K, "dim": d, "counts": list(prob.counts), "loss_name": prob.loss.name}
    out |= {"strength": float(prob.strength), "merge_threshold": _merge_thresholds(prob)}
    out |= _origin(prob)
    if prob.balanced:
        out["kt"] = K * float(theta(prob))
    if not has_closed_form(prob):
        out["regime"] = "no closed form for this loss, dimension and class counts"
        return out
    best = balanced_minimum(prob)
    alpha, beta = float(best.alpha), float(best.beta)
    names = {
        (False, False): "origin",
        (True, False): "simplex ETF",
        (True, True): "orthogonal frame" if not prob.bias else "general frame",
        (False, True): "one direction",
    }
    out |= {"regime": names[alpha > 0, beta > 0], "loss": float(best.loss), "bias": float(best.bias)}
    tilt = float(jnp.sqrt(prob.counts[0] * prob.decay_h / prob.decay_w))
    square = ((K - 1) * alpha + beta) / K
    out |= {"w_norm": (square * tilt) ** 0.5, "h_norm": (square / tilt) ** 0.5}
    if isinstance(prob.loss, CrossEntropy):
        out["logit_gap"] = alpha
        out["softmax_off_diagonal"] = min(float(theta(prob)) + prob.loss.smoothing / K, 1.0 / K)
        shift = int(prob.bias and float(prob.decay_b) == 0.0)
        out["nullity"] = (K - 1) * (2 * d - K) // 2 + shift if alpha > 0 else None
    return out


def _origin(prob: Problem) -> dict[str, Any]:
    """Spectrum at the origin with the best constant logits 0: for balanced softmax losses it is critical."""
    if not (prob.loss.shift_invariant and prob.balanced):
        return {"origin_lambda_min": None, "origin_index": None}
    small = collapse(prob)
    G = logit_gradient(small, small.zeros())
    eigenvalues = np.linalg.eigvalsh(np.asarray(tail_hessian(small, G)))
    return {
        "origin_lambda_min": float(eigenvalues[0]),
        "origin_index": int(np.sum(eigenvalues < -1e-15)) * prob.dim,
    }


def _merge_thresholds(prob: Problem) -> dict[str, float] | None:
    if not isinstance(prob.loss, CrossEntropy) or prob.loss.smoothing > 0:
        return None
    shared = {n for n in prob.counts if prob.counts.count(n) > 1}
    return {str(n): float(np.sqrt(n) / prob.num_samples) for n in sorted(shared)}
