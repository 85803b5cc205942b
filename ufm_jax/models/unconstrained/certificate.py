"""Global optimality by a duality gap, and directions of negative curvature: evidence at any point.

For every Θ with ‖Θ‖₂ ≤ s = √(λ_W λ_H), f* ≥ −g*(Θ) − ‖Θ1‖²/(2 λ_b), with g the mean loss: the nuclear norm
s‖WH‖_* is the least the two decays can cost. Θ = c G, c = min(1, s/‖G‖₂), G = ∇_Z g at the point itself,
lies in the domain of g*; the bound meets f exactly at global minimisers when d ≥ K − 1. (Zhu et al. 2021,
app. A, give the condition ‖G‖₂ ≤ s at critical points; the bound at any point was derived for this project
and is tested against true minima at random points.)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.landscape import Effort, Known
from ufm_jax.landscape.point import Curvature, Point, curvature_along
from ufm_jax.landscape.spectrum import zero_tolerance
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.objective import Columns, columns
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import check_class_means, feature_frame
from ufm_jax.models.unconstrained.symmetry import balanced_rank
from ufm_jax.models.unconstrained.symmetry import rank as rank_of


def dual_bound(prob: Problem, point: Point, norm: Float[Array, ""] | None = None) -> Float[Array, ""]:
    """Return a lower bound on the global minimum of f over all points, valid at any p; NaN without a dual.

    The bias is first re-optimised for the logits W H, so that Θ1 = −c λ_b b; for λ_b = 0 what rounding
    leaves of Θ1 is charged with a bound on the minimiser's bias. Who has `norm` = ‖G‖₂ at p's own bias may
    give it: then there is no eigen-solve, as ‖G′‖₂ ≤ ‖G‖₂ + ‖G′ − G‖_F.
    """
    p = point.x
    if not prob.loss.certified:
        return jnp.full((), jnp.nan, p.W.dtype)
    cols = columns(prob, p.W.dtype)
    centred = p if p.b is None else p._replace(b=_best_bias(prob, cols, p))
    Z = (p.W @ p.H) * cols.scales + (0.0 if centred.b is None else centred.b[:, None])
    slope = prob.loss.slope(Z, cols.T)
    G = slope * (cols.weights * cols.scales)
    s = prob.strength
    norm = spectral_norm(G) if norm is None else norm + jnp.linalg.norm(G - point.shared)
    c = jnp.minimum(1.0, s / jnp.maximum(norm, jnp.finfo(s.dtype).tiny))
    bound = jnp.dot(cols.weights, prob.loss.dual(slope, cols.T, c))
    trivial = jnp.dot(cols.weights, prob.loss.dual(slope, cols.T, jnp.zeros_like(c)))  # Θ = 0
    if p.b is not None:
        row_sums = c * jnp.sum(slope * cols.weights, axis=1)
        decayed = prob.decay_b > 0
        charge = jnp.dot(row_sums, row_sums) / (2 * jnp.where(decayed, prob.decay_b, 1.0))
        size = jnp.linalg.norm(row_sums)
        unbounded = jnp.where(size > 0, size * _bias_reach(prob), 0.0)
        bound -= jnp.where(decayed, charge, unbounded)
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
        size = jnp.maximum(prob.decay_w, prob.decay_h)
        if effort == "escape":
            # ‖H‖ ≤ λ + ‖W‖² + ‖H̃‖² + 1, doubled for the slope's part: ‖∇²ℓ‖ ≤ 1/2 of softmax, 1 of squares.
            size = prob.decay_w + prob.decay_h + prob.decay_b + 2 * (1 + jnp.sum(p.W**2) + jnp.sum(p.H**2))
        tolerance = zero_tolerance(size, point.grad_norm, radius)
    escape = None if effort == "certificate" else null_direction(prob, point)
    return Known(bound, floor, tolerance, measures(prob, p, rank), escape)


def measures(prob: Problem, p: Params, rank: Int[Array, ""]) -> dict[str, Array]:
    """Return the rank of W H̃ and the collapse metrics, by name."""
    return {"rank": rank, **collapse_metrics(prob, p)._asdict()}


def curvature_floor(prob: Problem, norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return a lower bound on every eigenvalue of ∇²f: −(‖G‖₂ − s)₊ for a convex loss, else −inf.

    vᵀHv ≥ 2⟨G, ẆḢ⟩ + λ_W‖Ẇ‖² + λ_H‖Ḣ‖² ≥ −2(‖G‖₂ − s)₊‖Ẇ‖‖Ḣ‖ ≥ −(‖G‖₂ − s)₊‖v‖², as the loss's part is ≥ 0
    (derived for this project; at critical points, Zhu et al. 2021, app. A, in the form ‖G‖₂ ≤ s). `norm` is
    ‖G‖₂, G = `objective.logit_gradient` at the point.
    """
    return -jnp.maximum(norm - prob.strength, 0.0) if prob.loss.certified else jnp.full_like(norm, -jnp.inf)


def spectral_norm(G: Float[Array, "K C"]) -> Float[Array, ""]:
    """Return ‖G‖₂, by the K x K Gram matrix."""
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(G @ G.T)[-1], 0.0))


def _bias_reach(prob: Problem) -> Float[Array, ""]:
    """Bound ‖b‖ at a global minimiser, up to the shift: f there is at most f at the origin."""
    K = prob.num_classes
    with jax.ensure_compile_time_eval():
        at_origin = float(jnp.max(prob.loss.value(jnp.zeros((K, K)), jnp.asarray(np.eye(K)))))
    # By convexity the mean logits W m_k + b of a class have ℓ ≤ f(0) N/n_k, and s‖W‖ √n_k‖m_k‖ ≤ f(0).
    spread = prob.loss.reach(at_origin * prob.num_samples / min(prob.counts))
    return np.sqrt(K) * (spread + np.sqrt(2.0 / min(prob.counts)) * at_origin / prob.strength)


def _best_bias(prob: Problem, cols: Columns, p: Params) -> Float[Array, " K"]:
    """Minimise the convex b -> g(WH + b1ᵀ) + λ_b/2 ‖b‖² by damped Newton, from p's own bias."""
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
        least = 1e-14 * jnp.trace(hess) + jnp.finfo(dtype).tiny
        regular = hess + (prob.decay_b + least) * eye + jnp.ones((K, K), dtype) / K
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

    # What is left costs the bound norm²/(2 λ_b).
    negligible = jnp.maximum(1e-15, jnp.sqrt(2e-16 * prob.decay_b))

    def go_on(state: tuple) -> Bool[Array, ""]:
        _, norm, length, count = state
        return (norm > negligible) & (length > 1e-3) & (count < 60)

    first = (p.b, jnp.linalg.norm(gradient(p.b)), jnp.ones((), dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(go_on, step, first)[0]


def null_direction(prob: Problem, point: Point) -> Curvature:
    """Return the paper's direction out of a rank-deficient critical point, in its sharpest unit form.

    With W a = 0 and (u, v) the top singular pair of G, along (x u aᵀ, −y a vᵀ, 0) the curvature is
    λ_W x² + λ_H y² − 2‖G‖₂ xy (Zhu et al. 2021, thm. 3.2); at the best unit (x, y) it is the smallest
    eigenvalue of `reduction.tail_hessian`. The value returned is measured with the exact Hessian product, so
    it holds at every point, whatever W a is.
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
    return curvature_along(point, direction)
