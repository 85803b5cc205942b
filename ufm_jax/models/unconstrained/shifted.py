"""f on class means toward critical points of any index, many at once: its gradient, and (∇²f + iσ)⁻¹ ∇f.

Features of different classes do not meet in ∇²f: with B_k the Hessian in h̃_k, C_k the mixed one and A that
in the rest, (∇²f + iσ)⁻¹ is known from the Schur complement

    S = A + iσ − Σ_k C_k (B_k + iσ)⁻¹ C_kᵀ,

in closed form. Where the loss does not see a shift of all logits, 1ᵀW and 1ᵀb vanish at critical points (but
for a bias without decay, whose shift is a symmetry) and are left out: S is of order (K − 1)(r + 1).

x is (D, B): rows of (QᵀŴ, Qᵀb̂) with Q's columns an orthonormal basis of logits, then Ĥ, all in even
coordinates (`sizes`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax import devices
from ufm_jax.landscape.landscape import Shifted
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.sizes import GRADIENT_ROUNDINGS, scale, units
from ufm_jax.models.unconstrained.stacked import Lanes, lanes_of
from ufm_jax.numerics.marquardt import Shift, Slope
from ufm_jax.numerics.solve import Complex, product, solve

WRITTEN_OUT = 42  # the order of S up to which lanes advance together; of 56 LAPACK is as fast, one by one


class _Columns(NamedTuple):
    """Constants: axes are logits, classes, and one for the batch, if there is one."""

    Q: Float[Array, "K q *one"]
    T: Float[Array, "K K *one"]
    weights: Float[Array, "K *one"]
    scales: Float[Array, "K *one"]


class _Here(NamedTuple):
    """f at a batch, or at one point."""

    X: Float[Array, "q c *B"]  # (QᵀŴ, Qᵀb̂), c = r + 1 with a bias
    H: Float[Array, "r K *B"]
    Z: Float[Array, "K K *B"]
    E: Float[Array, "c K *B"]  # what each column of X is multiplied by in a class's logits
    decays: Float[Array, "c *B"]


class _Curvature(NamedTuple):
    """∇²f at a batch, or at one point, and a shift of it.

    Of class k the feature's mixed block is C_k = A_k V ⊗ e_k + g_k ⊗ (1, 0), with V = QᵀŴ.
    """

    A: Float[Array, "q q K *B"]  # in the logits
    AV: Float[Array, "q r K *B"]
    B: Float[Array, "r r K *B"]  # in the feature
    E: Float[Array, "c K *B"]
    G: Float[Array, "q K *B"]
    decays: Float[Array, "c *B"]
    sigma: Float[Array, " *B"]


def shifted(prob: Problem) -> Shifted:
    """Return f at many points, for a collapsed problem whose decays have one entry a lane."""
    (K, q), r, order = _logit_basis(prob).shape, prob.dim, _order(prob)
    lanes, factors = lanes_of(prob), scale(prob)
    Q = jnp.asarray(_logit_basis(prob), lanes.strength.dtype)

    def into(p: Params) -> Float[Array, "D S"]:
        """Return points, along the first axis of every leaf, as columns."""
        S, last = len(p.W), lambda a: jnp.moveaxis(a, 0, -1)
        parts = [last(p.W) / factors.W]
        if p.b is not None:
            parts.append((last(p.b) / lanes.bias)[:, None])
        X = jnp.tensordot(Q.T, jnp.concatenate(parts, axis=1), 1)
        return jnp.concatenate([X.reshape(order, S), (last(p.H) / factors.H).reshape(r * K, S)])

    def back(x: Float[Array, "D S"]) -> Params:
        S = x.shape[1]
        X = jnp.tensordot(Q, x[:order].reshape(q, r + prob.bias, S), 1)
        H = factors.H * x[order:].reshape(r, K, S)
        p = Params(factors.W * X[:, :r], H, lanes.bias * X[:, r] if prob.bias else None)
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), p)

    batched = (lambda f: partial(_alone, f, prob)) if batch_size(prob) == 1 else (lambda f: partial(f, prob))
    slope, shift = batched(_slope), batched(_shift)
    return Shifted(slope, shift, lanes, into, back)


def batch_size(prob: Problem) -> int:
    """Return how many points to evaluate at once: what a core's cache holds, else a device's fill."""
    n = _order(prob)
    if devices.platform() != "cpu":
        return max(16, min(2**13, 2**26 // n**2))
    if n > WRITTEN_OUT:
        return 1
    return 128 if n <= 12 else 64 if n <= 20 else 32 if n <= 30 else 16


def _alone(f: Callable[..., Any], prob: Problem, *given: Any) -> Any:
    """Evaluate a batch of one, whose linear algebra is a library's."""
    there = f(prob, *jax.tree.map(lambda a: a[..., 0] if a.ndim else a, given))
    return jax.tree.map(lambda a: a[..., None], there)


def _order(prob: Problem) -> int:
    return _logit_basis(prob).shape[1] * (prob.dim + prob.bias)


def _logit_basis(prob: Problem) -> np.ndarray:
    """Return an orthonormal basis, in columns, of the logits that count: all, or those of mean 0."""
    K = prob.num_classes
    if not prob.shift_invariant:
        return np.eye(K)
    k = np.arange(1, K)
    contrast = np.where(np.arange(K)[:, None] < k, 1.0, 0.0) - np.where(np.arange(K)[:, None] == k, k, 0.0)
    return contrast / np.sqrt(k * (k + 1.0))  # Helmert's


def _columns(prob: Problem, like: Float[Array, "D *B"]) -> _Columns:
    one = (1,) * (like.ndim - 1)
    each = _logit_basis(prob), prob.targets, prob.weights, prob.scales
    return _Columns(*(jnp.asarray(a, like.dtype).reshape(*a.shape, *one) for a in each))


def _here(prob: Problem, at: _Columns, x: Float[Array, "D *B"], lanes: Lanes) -> _Here:
    K, r, batch = prob.num_classes, prob.dim, x.shape[1:]
    X = x[: _order(prob)].reshape(-1, r + prob.bias, *batch)
    H = x[_order(prob) :].reshape(r, K, *batch)
    E, decays = H * at.scales, jnp.broadcast_to(lanes.strength, (r, *batch))
    if prob.bias:
        E = jnp.concatenate([E, jnp.broadcast_to(lanes.bias, (1, K, *batch))])
        decays = jnp.concatenate([decays, jnp.broadcast_to(lanes.decay_b * lanes.bias**2, (1, *batch))])
    return _Here(X, H, product(at.Q, product(X, E)), E, decays)


def _slope(prob: Problem, x: Float[Array, "D *B"], lanes: Lanes) -> Slope:
    """Return f, ∇f, the unit of its length, and what rounding may leave of it (`sizes.noise`)."""
    at = _columns(prob, x)
    X, H, Z, E, decays = _here(prob, at, x, lanes)
    losses, slope = prob.loss.value_and_slope(Z, at.T)
    G = product(jnp.swapaxes(at.Q, 0, 1), slope * at.weights)
    value = jnp.sum(losses * at.weights, axis=0)
    value = value + (jnp.sum(decays * X**2, axis=(0, 1)) + lanes.strength * jnp.sum(H**2, axis=(0, 1))) / 2
    grad_x = product(G, jnp.swapaxes(E, 0, 1)) + decays * X
    grad_h = product(jnp.swapaxes(X[:, : prob.dim], 0, 1), G * at.scales) + lanes.strength * H
    flat = lambda a: a.reshape(-1, *x.shape[1:])
    grad = jnp.concatenate([flat(grad_x), flat(grad_h)])
    largest = jnp.max(jnp.abs(slope * (at.weights * at.scales)), axis=(0, 1)) + lanes.strength
    rounding = GRADIENT_ROUNDINGS * jnp.finfo(x.dtype).eps * largest * jnp.linalg.norm(x, axis=0)
    return Slope(value, grad, jnp.sqrt(units(prob, value).value) * jnp.sqrt(lanes.strength), rounding)


def _shift(
    prob: Problem,
    x: Float[Array, "D *B"],
    lanes: Lanes,
    grad: Float[Array, "D *B"],
    damping: Float[Array, " *B"],
) -> Shift:
    """Return (∇²f + iσ)⁻¹ ∇f, σ in units of the largest entry of ∇²f on its diagonal."""
    at = _curvature(prob, x, lanes, damping)
    (q, c), r, batch = (len(at.A), len(at.E)), len(at.B), x.shape[1:]
    order = q * c
    grad_x, grad_h = grad[:order].reshape(q, c, *batch), grad[order:].reshape(r, -1, *batch)

    # P_k = (B_k + iσ)⁻¹, U_k = P_k Vᵀ A_k and y_k = P_k ∂f/∂h_k
    eye = _eye(r, at.B[0, 0])
    right = jnp.concatenate([jnp.swapaxes(at.AV, 0, 1), eye + 0 * at.B, grad_h[:, None]], axis=1)
    solved = solve(Complex(at.B, at.sigma * eye + 0 * at.B), Complex(right, jnp.zeros_like(right)))
    U, P, y = (Complex(*(a[:, cut] for a in solved)) for cut in (slice(q), slice(q, q + r), q + r))

    flat = lambda a: a.reshape(order, 1, *batch)
    left = Complex(flat(grad_x - _from_features(at, y.re)), flat(-_from_features(at, y.im)))
    one = _eye(order, at.sigma)
    own = jnp.broadcast_to(at.decays, (q, *at.decays.shape)).reshape(order, *batch)
    square = lambda a: a.reshape(order, order, *batch)
    S = Complex(
        square(_schur(at, at.A - product(at.AV, U.re), U.re, P.re)) + one * own,
        square(_schur(at, -product(at.AV, U.im), U.im, P.im)) + one * at.sigma,
    )
    z = Complex(*(a.reshape(q, c, *batch) for a in solve(S, left)))

    # of a feature: y_k − P_k C_kᵀ z
    re = y.re - (_to_features(at, U.re, P.re, z.re) - _to_features(at, U.im, P.im, z.im))
    im = y.im - (_to_features(at, U.re, P.re, z.im) + _to_features(at, U.im, P.im, z.re))
    join = lambda of_x, of_h: jnp.concatenate([of_x.reshape(order, *batch), of_h.reshape(-1, *batch)])
    return Shift(join(z.re, re), join(z.im, im), at.sigma)


def _curvature(
    prob: Problem, x: Float[Array, "D *B"], lanes: Lanes, damping: Float[Array, " *B"]
) -> _Curvature:
    at, r = _columns(prob, x), prob.dim
    here = _here(prob, at, x, lanes)
    A = _logit_curvature(prob, at, here.Z)
    V = here.X[:, :r, None]
    AV = product(A, V) * at.scales
    B = product(jnp.swapaxes(V, 0, 1), AV) * at.scales + lanes.strength * _eye(r, AV[0, 0])
    slope = prob.loss.slope(here.Z, at.T) * (at.weights * at.scales)
    G = product(jnp.swapaxes(at.Q, 0, 1), slope)

    diagonal = lambda a: jnp.stack([a[i, i] for i in range(len(a))])
    most = lambda a: jnp.max(a, axis=(0, 1))
    of_x = product(diagonal(A), jnp.swapaxes(here.E**2, 0, 1)) + here.decays
    largest = jnp.maximum(most(of_x), most(diagonal(B))) + most(jnp.abs(G))
    return _Curvature(A, AV, B, here.E, G, here.decays, damping * largest)


def _from_features(at: _Curvature, y: Float[Array, "r K *B"]) -> Float[Array, "q c *B"]:
    """Return Σ_k C_k y_k."""
    by_logits = product(jnp.sum(at.AV * y[None], axis=1), jnp.swapaxes(at.E, 0, 1))
    return by_logits + _widened(product(at.G, jnp.swapaxes(y, 0, 1)), len(at.E), axis=1)


def _to_features(
    at: _Curvature, U: Float[Array, "r q K *B"], P: Float[Array, "r r K *B"], x: Float[Array, "q c *B"]
) -> Float[Array, "r K *B"]:
    """Return P_k C_kᵀ x."""
    logits, pulled = product(x, at.E), product(jnp.swapaxes(x[:, : len(at.B)], 0, 1), at.G)
    return jnp.sum(U * logits[None], axis=1) + jnp.sum(P * pulled[None], axis=1)


def _logit_curvature(prob: Problem, at: _Columns, Z: Float[Array, "K K *B"]) -> Float[Array, "q q K *B"]:
    """Return Qᵀ ∇²ℓ_k Q of each class k, times its weight."""
    Q = at.Q[:, :, None]  # (K, q, 1)
    each = jnp.broadcast_to(jnp.swapaxes(Q, 0, 1), (Q.shape[1], *Z.shape))
    AQ = jax.vmap(prob.loss.curvature(Z, at.T))(each) * at.weights
    return product(jnp.swapaxes(Q, 0, 1), jnp.swapaxes(AQ, 0, 1))


def _schur(
    at: _Curvature, M: Float[Array, "q q K *B"], U: Float[Array, "r q K *B"], P: Float[Array, "r r K *B"]
) -> Float[Array, "q c q c *B"]:
    """Return Σ_k A_k ⊗ e_k e_kᵀ − C_k P_k C_kᵀ, or its imaginary part.

    It is a sum of M_k ⊗ e_k e_kᵀ, M_k = A_k − A_k V U_k, less the terms of g_k: a product of K columns twice,
    whatever r is.
    """
    E, G = at.E, at.G
    (q, K), c, r, batch = G.shape[:2], len(E), len(U), G.shape[2:]
    over = lambda a, *axes: jnp.expand_dims(a, axes)
    wide_U, wide_P = _widened(U, c), _widened(P, c)
    first = over(M, 1) * over(E, 0, 2) - over(G, 1, 2) * over(wide_U, 0)  # i, b, j, k
    second = over(jnp.swapaxes(U, 0, 1), 1) * over(E, 0, 2) + over(G, 1, 2) * over(wide_P, 0)  # i, b, c, k
    first = product(first.reshape(-1, K, *batch), jnp.swapaxes(E, 0, 1)).reshape(q, c, q, c, *batch)
    second = product(second.reshape(-1, K, *batch), jnp.swapaxes(G, 0, 1)).reshape(q, c, r, q, *batch)
    return first - _widened(jnp.swapaxes(second, 2, 3), c, axis=3)


def _widened(a: Float[Array, "..."], size: int, axis: int = 0) -> Float[Array, "..."]:
    """Add zeros in the place of the bias."""
    return jnp.pad(a, [(0, size - a.shape[axis] if i == axis else 0) for i in range(a.ndim)])


def _eye(n: int, entry: Float[Array, "*B"]) -> Float[Array, "n n *one"]:
    """Return the identity among stacks of matrices with such entries."""
    return jnp.eye(n, dtype=entry.dtype).reshape(n, n, *(1,) * entry.ndim)
