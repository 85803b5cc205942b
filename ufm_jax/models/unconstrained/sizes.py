"""Units of f, and coordinates of even curvature: what is small where all decays are.

With W = τ Ŵ, H = Ĥ/τ and b = β b̂, τ = (λ_H/λ_W)^¼, β = √(s/(λ_b + θ)), s = √(λ_W λ_H), θ = s√(N/K), both
decays are s, and a critical point's balance λ_W WᵀW = λ_H HHᵀ is ŴᵀŴ = ĤĤᵀ: f has the unit f, and
curvature the unit s. Near a minimum the loss bends like θ in the logits, and so in b; logits are of order
one, but for the logarithm of 1/θ, which is left to the tolerances.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.point import Point
from ufm_jax.landscape.units import Units, even_norm, from_even
from ufm_jax.models.unconstrained.objective import LARGE, expand, square_sum
from ufm_jax.models.unconstrained.problem import Params, Problem

# H and G are good to rounding relative to their largest entries (`losses.CrossEntropy`), and so are the
# eigenvalues: 1e-15 times the root of their number, and room.
HESSIAN_RTOL = 1e-13
# Roundings of a sum of products that gradients are, in units of the largest: measured 1 to 3 at saddles of
# 4 to 10 classes.
GRADIENT_ROUNDINGS = 4.0


def units(prob: Problem, value: Float[Array, "..."]) -> Units:
    """Return (f − inf ℓ, s), decays of one problem or one of each value."""
    least = 0.0 if not np.isfinite(prob.loss.infimum) else prob.loss.infimum
    size = jnp.maximum(jnp.abs(value - least), jnp.finfo(value.dtype).tiny)
    return Units(size, prob.strength, HESSIAN_RTOL)


def scale(prob: Problem) -> Params:
    """Return τ, 1/τ and β."""
    s = prob.strength
    tilt = jnp.sqrt(jnp.sqrt(prob.decay_h) / jnp.sqrt(prob.decay_w))
    theta = s * (prob.num_samples / prob.num_classes) ** 0.5
    return Params(tilt, 1 / tilt, jnp.sqrt(s / (prob.decay_b + theta)) if prob.bias else None)


def even(prob: Problem, point: Point) -> tuple[Problem, Point]:
    """Return the problem in Ŵ and Ĥ, and the point there; b, whose curvature is no smaller, is left."""
    s = prob.strength
    balanced = replace(prob, decay_w=s, decay_h=s)
    factors = scale(prob)._replace(b=None)
    there = from_even(point.x._replace(b=None), factors)._replace(b=point.x.b)
    return balanced, expand(balanced, there)


def gradient_norms(prob: Problem, point: Point) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return ‖∇f‖₂, and that in even coordinates.

    Of many features a coordinate at a time, so that nothing as large as H need be held.
    """
    factors = scale(prob)
    if point.x.H.size <= LARGE:
        return point.grad_norm, even_norm(point.grad, factors)

    def of_row(_: None, row: tuple[Array, Array]) -> tuple[None, Array]:
        w, h = row
        return None, jnp.sum((w @ point.shared + prob.decay_h * h) ** 2)

    squares = point.grad._replace(W=jnp.sum(point.grad.W**2), b=None, H=jnp.zeros((), point.value.dtype))
    squares = squares._replace(H=jnp.sum(jax.lax.scan(of_row, None, (point.x.W.T, point.x.H))[1]))
    if point.grad.b is not None:
        squares = squares._replace(b=jnp.sum(point.grad.b**2))
    even_squares = jax.tree.map(lambda square, c: square * c**2, squares, factors)
    return jnp.sqrt(sum(jax.tree.leaves(squares))), jnp.sqrt(sum(jax.tree.leaves(even_squares)))


def noise(prob: Problem, point: Point) -> Float[Array, ""]:
    """Return what rounding may leave of ‖∇f‖: of G times a factor's entries, and of the decays' part."""
    eps = jnp.finfo(point.value.dtype).eps
    squares = jax.tree.map(lambda a, c: square_sum(a) / c**2, point.x, scale(prob))
    length = jnp.sqrt(sum(jax.tree.leaves(squares)))
    return GRADIENT_ROUNDINGS * eps * (jnp.max(jnp.abs(point.shared)) + prob.strength) * length
