"""Minimisers, critical values and thresholds in closed form, each with the regime in which it holds.

θ = √n √(λ_W λ_H) throughout, for balanced classes of n samples; s = √(λ_W λ_H). Cross-entropy: Zhu et al.
2021, thm. 3.1; its explicit logit gap, label smoothing and focal loss were derived for this project. Squared
loss: Zhou et al. 2022, Tirer & Bruna 2022 (balanced); Dang et al. 2023 (imbalanced). Each is tested against
numerical minimisers. All are traced in the decays; sizes and losses are checked in Python.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.unequal_losses import WeightedSquared
from ufm_jax.numerics.bisection import last_true


class BalancedMinimum(NamedTuple):
    """The global minimiser with logits W h_k = α (e_k − 1/K) + β 1/K before the bias, in closed form."""

    loss: Float[Array, "..."]  # f*
    alpha: Float[Array, "..."]  # scale of the simplex part of W H̃/√n: the logit gap m* for cross-entropy
    beta: Float[Array, "..."]  # scale of the all-ones part; 0 for softmax losses: the frame is then an ETF
    bias: Float[Array, "..."]  # every entry of b*


class SquaredMinimum(NamedTuple):
    """A global minimiser for squared loss and any class counts, on class means (`reduction`)."""

    loss: Float[Array, "..."]  # f*
    singular_values: Float[Array, "... K"]  # of W H̃, descending
    logits: Float[Array, "... K K"]  # W H̃: column k is √n_k times the logits of class k before the bias
    gram: Float[Array, "... K K"]  # W Wᵀ
    bias: Float[Array, " K"]


class SymmetricMinimum(NamedTuple):
    """The lowest point with logits W h_k = m (e_k − 1/K), m ≥ 0, and b = 0."""

    loss: Float[Array, "..."]
    gap: Float[Array, "..."]  # m*


def theta(prob: Problem) -> Float[Array, "..."]:
    """Return θ = √n √(λ_W λ_H) of a balanced problem."""
    return np.sqrt(float(prob.counts[0])) * prob.strength


def has_balanced_form(prob: Problem) -> bool:
    """True for balanced classes with plain cross-entropy and d ≥ K − 1, or squared loss and d ≥ K."""
    least = {CrossEntropy: prob.num_classes - 1, Squared: prob.num_classes}.get(type(prob.loss))
    if isinstance(prob.loss, CrossEntropy) and not prob.loss.plain:
        return False
    return prob.balanced and least is not None and prob.dim >= least


def balanced_minimum(prob: Problem) -> BalancedMinimum:
    """Return the closed-form global minimum of a balanced problem.

    Raises:
        ValueError: outside the regime of `has_balanced_form`, naming what is missing.
    """
    if not has_balanced_form(prob):
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
    fit = -jnp.log1p(-(K - 1) * probability) + (K - 1) * (smoothing / K) * m
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


def etf_minimiser(prob: Problem) -> Params:
    """Return a closed-form global minimiser of a softmax loss: W ∝ simplex ETF, h_{k,i} = √(λ_W/(nλ_H)) w_k.

    Raises:
        ValueError: outside `has_balanced_form`, or for a loss whose minimiser is not an ETF in general.
    """
    best = balanced_minimum(prob)
    if not prob.shift_invariant:
        raise ValueError(f"loss: the minimiser of {prob.loss.name} is not a simplex ETF in general")
    K, n = prob.num_classes, prob.counts[0]
    frame = jnp.asarray(simplex_etf(K, prob.dim), prob.decay_w.dtype)
    tilt = jnp.sqrt(n * prob.decay_h / prob.decay_w)  # ‖w_k‖² = (K−1)/K · tilt · m*
    W = jnp.sqrt((K - 1) / K * tilt * best.alpha) * frame
    H = (W / tilt).T * np.sqrt(float(n)) if prob.collapsed else (W / tilt).T[:, prob.labels]
    return Params(W, H, jnp.zeros(K, W.dtype) if prob.bias else None)


def soft_threshold(prob: Problem) -> SquaredMinimum:
    """Return `squared_minimum` with NaN losses, in place of an error, where the bias is decayed.

    On class means, at its least over factors W and H̃ of equal product, f = (1/2N)‖W H̃ − D‖² + s‖W H̃‖_* with
    D = diag(√n_k), or D(I − vvᵀ/N), v = (√n_k), where an undecayed bias fits the rest. So the singular values
    of D lose N s and the d largest stay. On samples D stands for Y, or Y − Y11ᵀ/N, which have the same ones:
    Y = D Qᵀ and 1 = Q v, Q the class indicators scaled to unit length.
    """
    K, N = prob.num_classes, prob.num_samples
    v = np.sqrt(np.array(prob.counts, float))
    D = np.diag(v) - (prob.bias / N) * np.outer(v * v, v)
    U, mu, Vt = (jnp.asarray(a, prob.decay_w.dtype) for a in np.linalg.svd(D))
    room = jnp.asarray(np.arange(K) < prob.dim, mu.dtype)
    kept = room * jnp.maximum(mu - N * prob.strength[..., None], 0.0)
    loss = (jnp.sum(mu**2) - jnp.sum(kept**2, axis=-1)) / (2.0 * N)
    scaled = U * kept[..., None, :]
    gram = jnp.sqrt(prob.decay_h / prob.decay_w)[..., None, None] * (scaled @ U.T)
    known = prob.decay_b == 0
    bias = jnp.asarray(prob.bias * v * v / N, mu.dtype)  # class shares
    return SquaredMinimum(jnp.where(known, loss, jnp.nan), kept, scaled @ Vt, gram, bias)


def squared_minimum(prob: Problem) -> SquaredMinimum:
    """Return a global minimiser for squared loss, any counts and any d; no bias, or one that is not decayed.

    Without a bias and for d ≥ K, W H̃ = diag(√n_k a_k) with a_k = (1 − N s/√n_k)₊ and
    W Wᵀ = √(λ_H/λ_W) diag(√n_k a_k): class k is fitted iff n_k > `dying_count` (Dang et al. 2023). With an
    undecayed bias, b_k = n_k/N and W H̃ is soft-thresholded at N s (derived for this project). Unique up to
    rotation unless two singular values are equal and d tells them apart. Under a trace that hides λ_b, the
    loss is NaN where the bias is decayed.

    Raises:
        ValueError: for another loss, or a bias with λ_b > 0.
    """
    _need_squared(prob)
    hidden = isinstance(prob.decay_b, jax.core.Tracer)
    if prob.bias and not hidden and bool(jnp.any(prob.decay_b != 0)):
        raise ValueError(f"decay_b: need 0 (or no bias), got {prob.decay_b}")
    return soft_threshold(prob)


def critical_ladder(prob: Problem) -> Float[Array, "... rungs"]:
    """Return the critical values f_r = ½ − r α²/(2K) of rank r = 0..min(d, K), α = (1 − Kθ)₊; the last is f*.

    Squared loss, balanced, no bias: W H̃ = √n α P, P any orthogonal projection of rank r (derived for this
    project). For Kθ ≥ 1 the origin alone is critical, and every rung has its value.

    Raises:
        ValueError: for another loss, unequal counts, or a bias.
    """
    _need_squared(prob)
    _need_balanced(prob)
    if prob.bias:
        raise ValueError("bias: need none, as it lifts the directions' equality, got one")
    K = prob.num_classes
    alpha = jnp.maximum(1.0 - K * theta(prob), 0.0)
    r = jnp.arange(min(prob.dim, K) + 1, dtype=alpha.dtype)
    return 0.5 - r * alpha[..., None] ** 2 / (2.0 * K)


def decouples(prob: Problem) -> bool:
    """True for squared loss with class weights, no bias and d ≥ K: each class is fitted by itself."""
    return type(prob.loss) is WeightedSquared and not prob.bias and prob.dim >= prob.num_classes


def fitted_shares(prob: Problem) -> tuple[Float[Array, "... K"], Float[Array, "..."]]:
    """Return a_k = (1 − N s/(ω_k √n_k))₊, W h_k = a_k e_k at the global minimiser, and f*.

    On class means f ≥ Σ_k ω_k/(2N) ‖M_k − √n_k e_k‖² + s‖M‖_*, and ‖M‖_* ≥ Σ |M_kk|: the best M is diagonal
    (derived for this project; ω = 1 is Dang et al. 2023).

    Raises:
        ValueError: outside `decouples`.
    """
    if not (isinstance(prob.loss, WeightedSquared) and decouples(prob)):
        raise ValueError(
            f"no closed form: need weighted squared loss, no bias and dim >= K; got loss={prob.loss.name}, "
            f"bias={prob.bias}, dim={prob.dim}"
        )
    dtype, N = prob.decay_w.dtype, prob.num_samples
    n, omega = (jnp.asarray(a, dtype) for a in (prob.counts, prob.loss.class_weights))
    s = prob.strength[..., None]
    a = jnp.maximum(1.0 - N * s / (omega * jnp.sqrt(n)), 0.0)
    return a, jnp.sum(omega * n * (1.0 - a) ** 2 / (2 * N) + s * jnp.sqrt(n) * a, axis=-1)


def dying_count(prob: Problem) -> Float[Array, "..."]:
    """Return N² λ_W λ_H: for squared loss without a bias, classes of at most so many samples have w_k = 0.

    Dang et al. 2023; for d ≥ K all others have w_k ≠ 0.

    Raises:
        ValueError: for another loss, or a bias.
    """
    _need_squared(prob)
    if prob.bias:
        raise ValueError("bias: need none, got one")
    return (prob.num_samples * prob.strength) ** 2


def merge_thresholds(prob: Problem) -> dict[int, float]:
    """Return √n_c/N, at or above which s merges classes of equal count n_c, for each count that two share.

    Minority collapse of cross-entropy (Hong & Ling 2023).

    Raises:
        ValueError: for another loss, or label smoothing.
    """
    if prob.loss != CrossEntropy():
        raise ValueError(f"loss: need cross-entropy without smoothing, got {prob.loss}")
    shared = {n for n in prob.counts if prob.counts.count(n) > 1}
    return {n: float(np.sqrt(n) / prob.num_samples) for n in sorted(shared)}


def symmetric_minimum(prob: Problem) -> SymmetricMinimum:
    """Return the lowest f among simplex ETFs for balanced focal loss: m* = argmin φ(log(K−1) − m) + (K−1)θ m.

    φ(u) = `Focal.of_margin`. Not proven to be the global minimum of f, as focal loss is not convex in the
    logits. φ′ rises to one peak and falls, so the equation φ′ = (K−1)θ has at most one root that can be lower
    than m = 0, found by bisection (derived for this project).

    Raises:
        ValueError: for another loss, unequal counts, or d < K − 1.
    """
    if type(prob.loss) is not Focal:
        raise ValueError(f"loss: need focal, got {prob.loss.name}")
    _need_balanced(prob)
    if prob.dim < prob.num_classes - 1:
        raise ValueError(f"dim: need >= K - 1 = {prob.num_classes - 1}, got {prob.dim}")
    K, loss, gamma = prob.num_classes, prob.loss, prob.loss.gamma
    price = (K - 1) * theta(prob)
    flat = jnp.full_like(price, np.log(K - 1.0))  # u at m = 0
    peak = last_true(lambda u: loss.margin_curvature(u) >= 0, jnp.zeros_like(flat), flat)
    # φ′(u) ≤ (γ+1) e^{(γ+1)u} starts below the price.
    low = jnp.minimum(jnp.log(price / (gamma + 1.0)) / (gamma + 1.0), peak)
    root = last_true(lambda u: loss.margin_slope(u) <= price, low, peak)
    inside, outside = loss.of_margin(root) + price * (flat - root), loss.of_margin(flat)
    lower = (inside < outside) & (loss.margin_slope(peak) > price)
    return SymmetricMinimum(jnp.where(lower, inside, outside), jnp.where(lower, flat - root, 0.0))


def _need_squared(prob: Problem) -> None:
    if type(prob.loss) is not Squared:
        raise ValueError(f"loss: need squared, got {prob.loss.name}")


def _need_balanced(prob: Problem) -> None:
    if not prob.balanced:
        raise ValueError(f"counts: need equal ones, got {prob.counts}")
