"""Which orbit of a census a point is on, modulo rotations and permutations of classes."""

import jax.numpy as jnp
import numpy as np

from ufm_jax.models.unconstrained.census import Census, shape_of
from ufm_jax.models.unconstrained.permutations import Shape, matching
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, reduced, restrict, within_class_deviation
from ufm_jax.models.unconstrained.symmetry import shift_dimension


def shape_at(prob: Problem, p: Params) -> Shape | None:
    """Return a point of the full problem modulo rotations; None if M = W H̃ does not say what it is.

    It does where the features of each class are one and √(λ_W/λ_H) WᵀW = √(λ_H/λ_W) H̃H̃ᵀ, as at every critical
    point: W and H̃ are then known from M up to a rotation.
    """
    q = restrict(collapse(prob), p)
    b = np.zeros(prob.num_classes) if q.b is None else np.asarray(q.b)
    centred = b - b.mean() if int(shift_dimension(prob)) else b
    shape = Shape(np.asarray(q.W @ q.H), centred, prob.kinds)
    tilt = jnp.sqrt(prob.decay_w / prob.decay_h)
    unbalanced = jnp.max(jnp.abs(tilt * q.W.T @ q.W - q.H @ q.H.T / tilt))
    apart = within_class_deviation(prob, p) / (1.0 + jnp.linalg.norm(p.H))
    return shape if max(float(unbalanced), float(apart)) <= shape.tolerance else None


def locate(prob: Problem, state: Census, p: Params) -> int | None:
    """Return the line of a census's orbit that the point is on, to `permutations.MATCH_TOL`, or None.

    Of a continuum of degenerate orbits only the one that the census keeps is known.
    """
    small, shape = reduced(prob), shape_at(prob, p)
    if shape is None:
        return None
    shapes = (shape_of(small, x) for x in state.points)
    return next((line for line, s in enumerate(shapes) if matching(s, shape) is not None), None)
