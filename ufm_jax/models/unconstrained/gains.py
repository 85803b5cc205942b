"""What a point could still gain: f − f*, and what its last layer alone, or its features alone, could.

Each of the last two is a strongly convex problem, so that how far it was solved is known: f falls by no more
than ‖∇f‖²/2λ, λ the decay of what is moved. f* is that of a closed form, or of a descent on class means
that starts at the point, certified by the duality gap where it ends (`certificate`).
"""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.search import Newton, search
from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.models.unconstrained.objective import columns, expand, logits
from ufm_jax.models.unconstrained.passes import Layer, Samples, Say, bent, linear, mean_curvature
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, reduced, restrict, turned
from ufm_jax.models.unconstrained.starts import gaussian
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.convex import Linear, minimise_convex

CLOSED = 1e-8  # gap to the lower bound, relative to f, below which a descent ended at f*
STARTS = 3  # random ones, where the descent from the point does not close the gap
MOST_WORK = 2**30  # K² d of class means: products of a second each, of which a descent takes hundreds
MOST_NARROW = 2**26  # where no certificate can close
QUICK_WORK = 2**24  # up to which random starts may be tried, too
SOME = 4096  # samples whose curvature stands for all in the preconditioner: any of the right size would do


class Lowest(NamedTuple):
    """What is known of f*."""

    value: float | None  # f at the lowest point known
    bound: float | None  # f* is not below
    source: str  # closed form; descent; or why there is nothing

    @property
    def known(self) -> bool:
        """True if the value is f*, by theory or by its bound."""
        return (
            self.value is not None
            and self.bound is not None
            and (self.value - self.bound <= CLOSED * max(abs(self.value), 1e-300))
        )


def lowest(prob: Problem, W: Array, means: Array, b: Array | None) -> Lowest:
    """Find f* of a problem, near the point whose features are these class means (K, d) if no theory knows it.

    In d < K − 1 the lower bound is that of d = K − 1 and stays below f*.
    """
    known = float(global_minimum(prob))
    if np.isfinite(known):
        return Lowest(known, known, "closed form")
    if not prob.loss.convex:
        return Lowest(None, None, f"unknown: {prob.loss.name} is not convex, class means need not hold it")
    small, K = reduced(prob), prob.num_classes
    narrow = small.dim < K - 1
    if K**2 * small.dim > (MOST_NARROW if narrow else MOST_WORK):
        bound = _bound_of_all_dimensions(prob) if narrow else -np.inf
        why = f"unknown: no closed form, and K = {K} is too many classes for a descent"
        return Lowest(None, bound if np.isfinite(bound) else None, why)
    ends = [_descended(small, _on_means(prob, small, W, means, b))]
    number = 0
    while _open(ends) and number < (STARTS if K**2 * small.dim <= QUICK_WORK else 0):
        number += 1
        ends.append(_descended(small, gaussian(small, jax.random.key(number), 1.0)))
    if _open(ends) and narrow:
        ends.append((np.inf, _bound_of_all_dimensions(prob)))
    value, bound = min(end[0] for end in ends), max(end[1] for end in ends)
    what = "descent on class means from the point"
    more = "" if number == 0 else f" and {number} random start{'s' if number > 1 else ''}"
    return Lowest(value, bound if np.isfinite(bound) else None, what + more)


def _bound_of_all_dimensions(prob: Problem) -> float:
    """Return a lower bound on f* in d = K − 1, which is one in every d; −inf where that takes too long."""
    prob = replace(prob, dim=prob.num_classes - 1)
    known = float(global_minimum(prob))
    if np.isfinite(known):
        return known
    wide = reduced(prob)
    if prob.num_classes**3 > MOST_WORK:
        return -np.inf
    return _descended(wide, gaussian(wide, jax.random.key(0), 1.0))[1]


def _open(ends: list[tuple[float, float]]) -> bool:
    return not Lowest(min(end[0] for end in ends), max(end[1] for end in ends), "").known


def _on_means(prob: Problem, small: Problem, W: Array, means: Array, b: Array | None) -> Params:
    """Return the point of class means in its own frame of features."""
    whole = collapse(prob)
    p = Params(W, means.T * jnp.asarray(np.sqrt(np.array(prob.counts, float))), b)
    return restrict(small, turned(p, feature_frame(whole, p)))


def _descended(prob: Problem, start: Params) -> tuple[float, float]:
    """Return f where a descent ends, and its lower bound on f* there."""
    row = _examined(prob, search(prob, start, Newton()).x)
    return float(row.loss), float(jnp.nan_to_num(row.dual_bound, nan=-jnp.inf))


@jax.jit
def _examined(prob: Problem, p: Params) -> Any:
    return examine(prob, p, "certificate").evidence


class Least(NamedTuple):
    """The minimum of a convex part of f."""

    value: float  # what that part comes to
    error: float  # it is above the least by at most this; NaN where nothing bounds it


def features_alone(prob: Problem, W: Array, means: Array, b: Array | None) -> Least:
    """Minimise Σ of all features' share of f, W and b fixed: every feature of a class has the same minimum.

    That of the mean loss and λ_H/2 ‖H‖², by Newton steps from the class means (K, d).
    """
    small, lam = collapse(prob), float(prob.decay_h)
    x = np.asarray(means).T * np.sqrt(np.array(prob.counts, float))

    def whole(H: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _of_features(small, Params(W, jnp.asarray(H), b))
        return float(value), np.asarray(slope)

    def product(H: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray(_features_bent(small, Params(W, jnp.asarray(H), b), jnp.asarray(v)))

    def inverse(H: np.ndarray) -> Linear:
        """That of λ_H + Wᵀ Ā W/N."""
        A = np.asarray(_curvature_of_features(small, Params(W, jnp.asarray(H), b)))
        size, V = np.linalg.eigh(np.asarray(W).T @ A @ np.asarray(W) / prob.num_samples)
        return lambda v: V @ ((V.T @ v) / (np.maximum(size, 0.0) + lam)[:, None])

    error = lambda grad: float(np.sum(grad**2)) / (2 * lam)
    _, value, left = minimise_convex(whole, product, inverse, x, error, 1e-10)
    return Least(value, left)


@jax.jit
def _of_features(prob: Problem, p: Params) -> tuple[Array, Array]:
    point = expand(prob, p)
    fixed = prob.decay_w * jnp.sum(p.W**2) + (0.0 if p.b is None else prob.decay_b * jnp.sum(p.b**2))
    return point.value - fixed / 2, point.grad.H


@jax.jit
def _features_bent(prob: Problem, p: Params, v: Array) -> Array:
    still = None if p.b is None else jnp.zeros_like(p.b)
    return expand(prob, p).hv(Params(jnp.zeros_like(p.W), v, still)).H


@jax.jit
def _curvature_of_features(prob: Problem, p: Params) -> Float[Array, "K K"]:
    """Return the mean of ∇²_z ℓ over the classes."""
    Z, T = logits(prob, p), columns(prob, p.W.dtype).T
    apply = prob.loss.curvature(Z, T)
    rows = jax.lax.map(
        lambda e: jnp.mean(apply(jnp.broadcast_to(e[:, None], Z.shape)), axis=1), jnp.eye(len(Z))
    )
    return (rows + rows.T) / 2


class Trained(NamedTuple):
    """A last layer at its best for features that stay."""

    layer: Layer
    least: Least  # of g + λ_W/2 ‖W‖² + λ_b/2 ‖b‖²
    passes: int


def last_layer_alone(
    samples: Samples,
    start: Layer,
    second: Float[np.ndarray, "e e"],
    decays: tuple[float, float],
    loss: Loss,
    *,
    bias: bool,
    rtol: float,
    most: int,
    say: Say | None = None,
) -> Trained:
    """Minimise the convex g(WH + b) + λ_W/2 ‖W‖² + λ_b/2 ‖b‖² by Newton steps of conjugate gradients.

    `decays` are λ_W and λ_b. `second` is the mean of (h, 1)(h, 1)ᵀ, e = d + 1: with Ā the samples' mean
    curvature, the preconditioner Ā ⊗ second + decays is inverted by their two eigen-decompositions. Ends
    where f is within `rtol` of its minimum, relative to f, or after `most` passes over the samples.
    """
    lam = np.append(np.full(samples.dim, decays[0]), decays[1])
    keep = np.append(np.ones(samples.dim), float(bias))
    layer = lambda v: Layer(jnp.asarray(v[:, :-1]), jnp.asarray(v[:, -1]))
    joint = second * np.outer(keep, keep)  # without a bias nothing is coupled to it
    some = samples.some(min(SOME, 2**24 // len(start.W) ** 2))
    count = itertools.count(1)

    def joined(x: np.ndarray, slope: Layer) -> np.ndarray:
        return (np.column_stack([slope.W, slope.b]) + lam * x) * keep

    def whole(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = linear(samples, layer(x), loss, say, f"last layer, pass {next(count)}")
        return float(value) + float(np.sum(lam * x**2)) / 2, joined(x, slope)

    def product(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        return joined(v, bent(samples, layer(x), layer(v), loss, say, f"last layer, pass {next(count)}"))

    def inverse(x: np.ndarray) -> Linear:
        return _preconditioner(np.asarray(mean_curvature(some, layer(x), loss)), joint, lam)

    error = lambda grad: _error(grad, decays, bias)
    x = np.column_stack([start.W, start.b])
    x, value, left = minimise_convex(whole, product, inverse, x, error, rtol, most)
    return Trained(layer(x), Least(value, left), next(count) - 1)


def _error(grad: np.ndarray, decays: tuple[float, float], bias: bool) -> float:
    """Bound by how much a strongly convex function is above its minimum, NaN-free: inf without λ_b."""
    squares = np.sum(grad[:, :-1] ** 2), np.sum(grad[:, -1] ** 2)
    rest = 0.0 if not bias or squares[1] == 0 else squares[1] / decays[1] if decays[1] > 0 else np.inf
    return float(squares[0] / decays[0] + rest) / 2


def _preconditioner(A: np.ndarray, second: np.ndarray, lam: np.ndarray) -> Linear:
    """Build the inverse of v -> A v second + v diag(lam)."""
    root = 1 / np.sqrt(np.maximum(lam, 1e-6 * np.max(lam)))
    inner, U = np.linalg.eigh(root[:, None] * second * root)
    outer, Q = np.linalg.eigh(A)
    size = np.maximum(outer, 0.0)[:, None] * np.maximum(inner, 0.0) + 1.0
    return lambda v: Q @ ((Q.T @ (v * root) @ U) / size) @ U.T * root
