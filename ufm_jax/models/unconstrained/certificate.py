"""Global optimality by a duality gap, and directions of negative curvature: evidence at any point.

For every Θ with ‖Θ‖₂ ≤ s = √(λ_W λ_H), f* ≥ −g*(Θ) − ‖Θ1‖²/(2 λ_b), with g the mean loss: the nuclear norm
s‖WH‖_* is the least the two decays can cost. With λ_b = 0, f* ≥ −g*(Θ) if Θ1 = 0, as ⟨Θ, b1ᵀ⟩ = 0 for all b.
Θ = c G, c = min(1, s/‖G‖₂), G = ∇_Z g at the point itself, lies in the domain of g*; the bound meets f
exactly at global minimisers when d ≥ K − 1. (Zhu et al. 2021, app. A, give the condition ‖G‖₂ ≤ s at critical
points; the bound at any point was derived for this project, and is tested against true minima.)
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.landscape import Effort, Known
from ufm_jax.landscape.point import Curvature, Point
from ufm_jax.landscape.units import from_even, zero_tolerance
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.objective import Columns, columns, logits
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import check_class_means, feature_frame
from ufm_jax.models.unconstrained.sizes import HESSIAN_RTOL, gradient_norms, scale
from ufm_jax.models.unconstrained.symmetry import balanced_rank
from ufm_jax.models.unconstrained.symmetry import rank as rank_of


def dual_bound(prob: Problem, point: Point, norm: Float[Array, ""] | None = None) -> Float[Array, ""]:
    """Return a lower bound on the global minimum of f over all points, valid at any p; NaN without convexity.

    The bias is first re-optimised for the logits W H, so that Θ1 = −c λ_b b. For λ_b = 0 the bound needs
    Θ1 = 0, and what rounding leaves of it is taken out (`Loss.centred`); of a loss that does not know how it
    is charged, with a bound on the minimiser's bias. Who has `norm` = ‖G‖₂ at p's own bias may give it: then
    there is no eigen-solve, as ‖G′‖₂ ≤ ‖G‖₂ + ‖G′ − G‖_F.
    """
    p = point.x
    if not prob.loss.convex:
        return jnp.full((), jnp.nan, p.W.dtype)
    cols = columns(prob, p.W.dtype)
    centred = p if p.b is None else p._replace(b=_best_bias(prob, cols, p, point.value))
    Z = (p.W @ p.H) * cols.scales + (0.0 if centred.b is None else centred.b[:, None])
    slope = prob.loss.slope(Z, cols.T)
    G = slope * (cols.weights * cols.scales)
    s = prob.strength
    norm = spectral_norm(G) if norm is None else norm + jnp.linalg.norm(G - point.shared)
    c = jnp.minimum(1.0, s / jnp.maximum(norm, jnp.finfo(s.dtype).tiny))
    push, taken = slope, c
    if p.b is not None and (centred_push := prob.loss.centred(c * slope, cols.T, cols.weights)) is not None:
        # Of ‖Θ‖₂ ≤ s, too, with a factor that is 1 but for rounding.
        moved = jnp.linalg.norm((centred_push - c * slope) * (cols.weights * cols.scales))
        factor = jnp.minimum(1.0, s / jnp.maximum(c * norm + moved, jnp.finfo(s.dtype).tiny))
        push = jnp.where(prob.decay_b > 0, slope, centred_push)
        taken = jnp.where(prob.decay_b > 0, c, factor)
    bound = jnp.dot(cols.weights, prob.loss.dual(Z, cols.T, push, taken))
    trivial = jnp.dot(cols.weights, prob.loss.dual(Z, cols.T, slope, jnp.zeros_like(c)))  # Θ = 0
    if p.b is not None:
        row_sums = c * jnp.sum(slope * cols.weights, axis=1)
        decayed = prob.decay_b > 0
        charge = jnp.dot(row_sums, row_sums) / (2 * jnp.where(decayed, prob.decay_b, 1.0))
        bound -= jnp.where(decayed, charge, _unbounded(prob, row_sums) if push is slope else 0.0)
    return jnp.maximum(bound, trivial)


def known(prob: Problem, point: Point, effort: Effort) -> Known:
    """Return what is known of a point without the Hessian's spectrum.

    Raises:
        ValueError: naming the loss, if it is not convex and `prob` is on class means.
    """
    if prob.collapsed:
        check_class_means(prob)
    p, norm = point.x, spectral_norm(point.shared)
    floor = curvature_floor(prob, norm)
    if effort == "spectrum":
        bound, rank, tolerance = dual_bound(prob, point), rank_of(prob, p), jnp.zeros_like(point.value)
    else:
        bound, (rank, radius) = dual_bound(prob, point, norm), balanced_rank(prob, p)
        size, factors = prob.strength, scale(prob)
        if effort == "escape":
            # ‖H‖ ≤ s + ‖W‖² + ‖H̃‖² + 1, doubled for the slope's part: ‖∇²ℓ‖ ≤ 1/2 of softmax, 1 of squares.
            there = from_even(p, factors)
            size = 2 * (size + 1 + jnp.sum(there.W**2) + jnp.sum(there.H**2))
        tolerance = zero_tolerance(size, gradient_norms(prob, point)[1], radius, HESSIAN_RTOL)
    escape = None if effort == "certificate" else null_direction(prob, point)
    return Known(bound, floor, tolerance, measures(prob, p, rank), escape)


def measures(prob: Problem, p: Params, rank: Int[Array, ""]) -> dict[str, Array]:
    """Return the rank of W H̃ and the collapse metrics, by name."""
    return {"rank": rank, **collapse_metrics(prob, p)._asdict()}


def curvature_floor(prob: Problem, norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return a lower bound on every eigenvalue of ∇²f: −(‖G‖₂ − s)₊ for a convex loss, else −inf.

    In coordinates as given, and in even ones, where λ_W = λ_H = s:
    vᵀHv ≥ 2⟨G, ẆḢ⟩ + λ_W‖Ẇ‖² + λ_H‖Ḣ‖² ≥ −2(‖G‖₂ − s)₊‖Ẇ‖‖Ḣ‖ ≥ −(‖G‖₂ − s)₊‖v‖², as the loss's part is ≥ 0
    (derived for this project; at critical points, Zhu et al. 2021, app. A, in the form ‖G‖₂ ≤ s). `norm` is
    ‖G‖₂, G = `objective.logit_gradient` at the point.
    """
    return -jnp.maximum(norm - prob.strength, 0.0) if prob.loss.convex else jnp.full_like(norm, -jnp.inf)


def spectral_norm(G: Float[Array, "K C"]) -> Float[Array, ""]:
    """Return ‖G‖₂, by the K x K Gram matrix."""
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(G @ G.T)[-1], 0.0))


def _unbounded(prob: Problem, row_sums: Float[Array, " K"]) -> Float[Array, ""]:
    """Return what row sums that are not zero may cost where the bias has no decay."""
    size = jnp.linalg.norm(row_sums)
    return jnp.where(size > 0, size * _bias_reach(prob), 0.0)


def _bias_reach(prob: Problem) -> Float[Array, ""]:
    """Bound ‖b‖ at a global minimiser, up to the shift: f there is at most f at the origin."""
    if type(prob.loss).reach is Loss.reach:
        apart, per_strength = _reach_by_convexity(prob.counts, prob.loss, prob.shift_invariant)
        return apart + per_strength / prob.strength
    K, least = prob.num_classes, min(prob.counts)
    excess = _excess_at_origin(prob.loss, K)
    # By convexity the mean logits W m_k + b of a class have ℓ − inf ℓ ≤ (f(0) − inf ℓ) N/n_k, and
    # s‖W‖ √n_k‖m_k‖ ≤ f(0) − inf ℓ.
    spread = prob.loss.reach(prob.loss.infimum + excess * prob.num_samples / least)
    return np.sqrt(K) * (spread + np.sqrt(2.0 / least) * excess / prob.strength)


def _excess_at_origin(loss: Loss, num_classes: int) -> float:
    """Return the largest ℓ(0) of a class above inf ℓ."""
    T = loss.targets(np.arange(num_classes), num_classes)
    with jax.ensure_compile_time_eval():
        at_zero = jax.jit(loss.value)(jnp.zeros(T.shape), jnp.asarray(T))  # one program
    return float(np.asarray(at_zero).max()) - loss.infimum


@lru_cache(maxsize=64)
def _reach_by_convexity(counts: tuple[int, ...], loss: Loss, shift_invariant: bool) -> tuple[float, float]:
    """Return (A, B) such that ‖b‖ ≤ A + B/s at a global minimiser with λ_b = 0, up to the shift.

    φ(b) = Σ_k (n_k/N) ℓ_k(b) has its minimum at β. The tangents of ℓ at β ± h v_j, v_j a unit vector
    (less its mean, if shifts do not matter), say ⟨∇φ(β ± h v_j), b − β⟩ ≤ R, since the mean loss is at
    most φ(0) and ‖W m_k‖ ≤ (φ(0) − inf ℓ)/(s√n_k). The two gradients are opposites up to δ, so
    σ ‖b − β‖ ≤ √K (R + δ ‖b − β‖), with σ the smallest singular value of [∇φ(β + h v_j)]_j. The best of
    some h (derived for this project).
    """
    K, shares = len(counts), np.array(counts) / sum(counts)
    T = loss.targets(np.arange(K), K)
    room = np.array(counts) ** -0.5 * _excess_at_origin(loss, K)

    def tangent(b: Float[Array, " K"]) -> tuple[Array, Array, Array]:
        """Return φ, ∇φ and Σ_k (n_k/N) ‖∇ℓ_k‖ (φ(0) − inf ℓ)/√n_k."""
        Z, targets = jnp.broadcast_to(b[:, None], T.shape), jnp.asarray(T, b.dtype)
        slope = loss.slope(Z, targets)
        norms = jnp.linalg.norm(slope, axis=0)
        return loss.value(Z, targets) @ shares, slope @ shares, norms @ (shares * room)

    best = np.inf, np.inf
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        zero = jnp.zeros(())
        one = Problem(
            decay_w=zero, decay_h=zero, decay_b=zero, counts=counts, dim=1, loss=loss, collapsed=True
        )
        beta = np.asarray(_best_bias(one, columns(one, one.decay_w.dtype), one.zeros(), jnp.ones(())))
        V = np.eye(K) - (1.0 / K if shift_invariant else 0.0)
        V = np.concatenate([V, -V])
        at_zero = float(tangent(jnp.zeros(K))[0])
        tangents = jax.jit(partial(jax.lax.map, tangent))
        for h in 2.0 ** -np.arange(12):
            value, slope, norms = map(np.asarray, tangents(jnp.asarray(beta + h * V)))
            along = np.sum(slope * V, axis=1)
            sigma = np.linalg.svd(slope[:K], compute_uv=False)[-2 if shift_invariant else -1]
            delta = float(np.linalg.norm(slope[:K] + slope[K:], axis=1).max())
            steep = float(sigma) / K**0.5 - delta
            if steep > 0 and norms.max() < best[1] * steep:
                apart = max(0.0, float(np.max(at_zero - value + h * along))) / steep
                best = float(np.linalg.norm(beta)) + apart, float(norms.max()) / steep
    return best


def _best_bias(prob: Problem, cols: Columns, p: Params, value: Float[Array, ""]) -> Float[Array, " K"]:
    """Minimise the convex b -> g(WH + b1ᵀ) + λ_b/2 ‖b‖² by damped Newton, from p's own bias.

    `value` is of the size of f.
    """
    assert p.b is not None
    WH = (p.W @ p.H) * cols.scales
    K, dtype = prob.num_classes, p.W.dtype

    def gradient(b: Float[Array, " K"]) -> Float[Array, " K"]:
        return prob.loss.slope(WH + b[:, None], cols.T) @ cols.weights + prob.decay_b * b

    def newton(b: Float[Array, " K"]) -> Float[Array, " K"]:
        apply = prob.loss.curvature(WH + b[:, None], cols.T)
        # In batches, since a product holds as much as all logits.
        hess = jax.lax.map(
            lambda e: apply(jnp.broadcast_to(e[:, None], WH.shape)) @ cols.weights,
            jnp.eye(K, dtype=dtype),
            batch_size=max(1, min(K, 32, 2**22 // WH.size)),
        )
        # The shift of all logits is null for λ_b = 0: J/K fills it. Saturated softmax: a little of I.
        eye = jnp.eye(K, dtype=dtype)
        size = jnp.trace(hess) + jnp.finfo(dtype).tiny
        regular = hess + (prob.decay_b + 1e-14 * size) * eye + size * jnp.ones((K, K), dtype) / K
        return -jnp.linalg.solve(regular, gradient(b))

    def step(state: tuple) -> tuple:
        b, norm, length, count = state
        trial = b + length * newton(b)
        new = jnp.linalg.norm(gradient(trial))
        better = new < norm
        return (
            jnp.where(better, trial, b),
            jnp.where(better, new, norm),
            jnp.where(better, jnp.minimum(1.0, 2 * length), length / 4),
            count + 1,
        )

    # What is left costs the bound norm²/(2 λ_b); below the second number it is rounding.
    negligible = jnp.sqrt(2e-16 * prob.decay_b) * jnp.sqrt(value)
    rounding = jnp.max(jnp.abs(prob.loss.slope(WH + p.b[:, None], cols.T) * cols.weights))
    negligible = jnp.maximum(negligible, 4 * jnp.finfo(dtype).eps * rounding)

    def go_on(state: tuple) -> Bool[Array, ""]:
        _, norm, length, count = state
        return (norm > negligible) & (length > 1e-3) & (count < 60)

    first = (p.b, jnp.linalg.norm(gradient(p.b)), jnp.ones((), dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(go_on, step, first)[0]


def null_direction(prob: Problem, point: Point) -> Curvature:
    """Return the paper's direction out of a rank-deficient critical point, in its sharpest unit form.

    With W a = 0 and (u, v) the top singular pair of G, along (x u aᵀ, −y a vᵀ, 0) the curvature is
    λ_W x² + λ_H y² − 2‖G‖₂ xy (Zhu et al. 2021, thm. 3.2); at the best unit (x, y) it is the smallest
    eigenvalue of `reduction.tail_hessian`. The value returned is vᵀHv itself, written out for this direction
    so that nothing but the direction is as large as H: it holds at every point, whatever W a is.
    """
    p, G = point.x, point.shared
    squares, U = jnp.linalg.eigh(G @ G.T)
    sigma = jnp.sqrt(jnp.maximum(squares[-1], 0.0))
    u = U[:, -1]
    image = G.T @ u
    v = image / jnp.maximum(jnp.linalg.norm(image), jnp.finfo(G.dtype).tiny)
    half = (prob.decay_w - prob.decay_h) / 2
    # Lowest eigenvector of [[λ_W, −σ], [−σ, λ_H]].
    angle = 0.5 * jnp.arctan2(sigma, half)
    x, y = jnp.sin(angle), jnp.cos(angle)
    a = feature_frame(prob, p)[:, -1]
    direction = Params(
        x * jnp.outer(u, a), -y * jnp.outer(a, v), None if p.b is None else jnp.zeros_like(p.b)
    )
    cols = columns(prob, p.W.dtype)
    squares = Params(
        x**2 * jnp.dot(u, u) * jnp.dot(a, a),
        y**2 * jnp.dot(a, a) * jnp.dot(v, v),
        None if p.b is None else jnp.zeros_like(x),
    )
    dZ = (x * jnp.outer(u, a @ p.H) - y * jnp.outer(p.W @ a, v)) * cols.scales
    bent = jnp.sum(dZ * prob.loss.curvature(logits(prob, p), cols.T)(dZ) * cols.weights)
    mixed = -2 * x * y * jnp.dot(a, a) * jnp.dot(u, G @ v)  # 2⟨G, ẆḢ⟩
    decays = prob.decay_w * squares.W + prob.decay_h * squares.H
    # Where G = 0 there is no v, and what is left of the direction is shorter than 1.
    square = jnp.maximum(squares.W + squares.H, jnp.finfo(G.dtype).tiny)
    unit = jax.tree.map(lambda leaf: leaf / jnp.sqrt(square), direction)
    return Curvature((bent + mixed + decays) / square, unit, jax.tree.map(lambda s: s / square, squares))
