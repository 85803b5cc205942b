"""f on class means toward critical points of any index, many at once: its gradient, and (∇²f + iσ)⁻¹ ∇f.

Features of different classes do not meet in ∇²f: with B_k the Hessian in h̃_k, C_k the mixed one and A that
in the rest, (∇²f + iσ)⁻¹ is known from the Schur complement

    S = A + iσ − Σ_k C_k (B_k + iσ)⁻¹ C_kᵀ,

in closed form. Where the loss does not see a shift of all logits, 1ᵀW and 1ᵀb vanish at critical points (but for a
bias without decay, whose shift is a symmetry) and are left out: S is of order (K − 1)(r + 1).

x is (D, B): rows of (QᵀŴ, Qᵀb̂) with Q's columns an orthonormal basis of logits, then Ĥ, all in even
coordinates (`sizes`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.landscape import Shifted
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.sizes import GRADIENT_ROUNDINGS, scale, units
from ufm_jax.models.unconstrained.stacked import Lanes, lanes_of
from ufm_jax.numerics.marquardt import Shift, Slope
from ufm_jax.numerics.solve import Complex, product, solve

WRITTEN_OUT = 30  # the order of S up to which lanes advance together; of 36 LAPACK is faster, one by one


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

    alone = batch_size(prob) == 1
    slope, shift = (partial(_alone if alone else _together, f, prob) for f in (_slope, _shift))
    return Shifted(slope, shift, lanes, into, back, batch_size(prob))


def batch_size(prob: Problem) -> int:
    """Return how many points to evaluate at once: what a core's cache holds, else a device's fill."""
    n = _order(prob)
    if jax.default_backend() != "cpu":
        return max(16, min(2**13, 2**26 // n**2))
    if n > WRITTEN_OUT:
        return 1
    return 128 if n <= 12 else 64 if n <= 20 else 32


def _together(f, prob, x, lanes, *more):
    return f(prob, x, lanes, *more)


def _alone(f, prob, x, lanes, *more):
    """Evaluate a batch of one, whose linear algebra is a library's."""
    there = f(prob, *jax.tree.map(lambda a: a[..., 0] if a.ndim else a, (x, lanes, *more)))
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
    prob: Problem, x: Float[Array, "D *B"], lanes: Lanes, grad: Float[Array, "D *B"], damping: Float[Array, " *B"]
) -> Shift:
    """Return (∇²f + iσ)⁻¹ ∇f, σ in units of the largest entry of ∇²f on its diagonal."""
    at, r, order, batch = _columns(prob, x), prob.dim, _order(prob), x.shape[1:]
    X, H, Z, E, decays = _here(prob, at, x, lanes)
    q, c = X.shape[:2]
    G = product(jnp.swapaxes(at.Q, 0, 1), prob.loss.slope(Z, at.T) * (at.weights * at.scales))  # (q, K)
    A = _curvature(prob, at, Z)  # (q, q, K)
    V = X[:, :r, None]  # (q, r, 1)
    AV = product(A, V) * at.scales  # (q, r, K)
    VA = jnp.swapaxes(AV, 0, 1)
    eye = _eye(r, (prob.num_classes, *batch))
    B = product(jnp.swapaxes(V, 0, 1), AV) * at.scales + lanes.strength * eye

    diagonal = product(jnp.stack([A[i, i] for i in range(q)]), jnp.swapaxes(E**2, 0, 1)) + decays
    largest = jnp.maximum(jnp.max(diagonal, axis=(0, 1)), jnp.max(jnp.stack([B[i, i] for i in range(r)]), axis=(0, 1)))
    sigma = damping * (largest + jnp.max(jnp.abs(G), axis=(0, 1)))

    grad_x, grad_h = grad[:order].reshape(q, c, *batch), grad[order:].reshape(r, -1, *batch)
    right = jnp.concatenate([VA, jnp.broadcast_to(eye, B.shape), grad_h[:, None]], axis=1)
    solved = solve(Complex(B, sigma * jnp.broadcast_to(eye, B.shape)), Complex(right, jnp.zeros_like(right)))
    parts = [Complex(a, b) for a, b in zip(*(_split(part, q, r) for part in solved), strict=True)]
    U, inverse, y = parts  # (r, q, K), (r, r, K), (r, K)

    from_features = lambda y: product(jnp.sum(AV * y[None], axis=1), jnp.swapaxes(E, 0, 1)) + _widened(
        prob, product(G, jnp.swapaxes(y, 0, 1))
    )
    flat = lambda a: a.reshape(order, 1, *batch)
    left = Complex(flat(grad_x - from_features(y.re)), flat(-from_features(y.im)))
    S = _schur(prob, Complex(A - product(AV, U.re), -product(AV, U.im)), E, G, U, inverse)
    one = _eye(order, batch)
    own = jnp.broadcast_to(decays, (q, *decays.shape)).reshape(order, *batch)
    S = Complex(S.re.reshape(order, order, *batch) + one * own, S.im.reshape(order, order, *batch) + one * sigma)
    z = solve(S, left)
    z_x = Complex(*(part.reshape(q, c, *batch) for part in z))

    # h_k = y_k − U_k X e_k − (B_k + iσ)⁻¹ Xᵀ g_k, X of this solution
    def to_features(U: Array, inverse: Array, x: Array) -> Float[Array, "r K *B"]:
        logits, pulled = product(x, E), product(jnp.swapaxes(x[:, :r], 0, 1), G)
        return jnp.sum(U * logits[None], axis=1) + jnp.sum(inverse * pulled[None], axis=1)

    re = y.re - (to_features(U.re, inverse.re, z_x.re) - to_features(U.im, inverse.im, z_x.im))
    im = y.im - (to_features(U.re, inverse.re, z_x.im) + to_features(U.im, inverse.im, z_x.re))
    join = lambda zx, zh: jnp.concatenate([zx.reshape(order, *batch), zh.reshape(-1, *batch)])
    return Shift(join(z.re, re), join(z.im, im), sigma)


def _split(part: Float[Array, "r m K *B"], q: int, r: int) -> tuple[Array, Array, Array]:
    return part[:, :q], part[:, q : q + r], part[:, q + r]


def _curvature(prob: Problem, at: _Columns, Z: Float[Array, "K K *B"]) -> Float[Array, "q q K *B"]:
    """Return Qᵀ ∇²ℓ_k Q of each class k, times its weight."""
    Q = at.Q[:, :, None]  # (K, q, 1)
    each = jnp.broadcast_to(jnp.swapaxes(Q, 0, 1), (Q.shape[1], *Z.shape))
    AQ = jax.vmap(prob.loss.curvature(Z, at.T))(each) * at.weights
    return product(jnp.swapaxes(Q, 0, 1), jnp.swapaxes(AQ, 0, 1))


def _schur(
    prob: Problem,
    M: Complex,
    E: Float[Array, "c K *B"],
    G: Float[Array, "q K *B"],
    U: Complex,
    inverse: Complex,
) -> Complex:
    """Return Σ_k A_k ⊗ e_k e_kᵀ − C_k (B_k + iσ)⁻¹ C_kᵀ, where C_k = A_k V ⊗ e_k + g_k ⊗ (1, 0).

    With V = QᵀŴ and U_k = (B_k + iσ)⁻¹ Vᵀ A_k this is a sum of M_k ⊗ e_k e_kᵀ, M_k = A_k − A_k V U_k, less the
    terms of g_k: a product of K columns twice, whatever r is.
    """
    (q, K), c, r, batch = G.shape[:2], len(E), len(U.re), G.shape[2:]
    over = lambda a, *axes: jnp.expand_dims(a, axes)

    def part(M: Array, U: Array, inverse: Array) -> Float[Array, "q c q c *B"]:
        U_wide = jnp.pad(U, ((0, c - r), *((0, 0),) * (U.ndim - 1)))
        inverse = jnp.pad(inverse, ((0, c - r), *((0, 0),) * (inverse.ndim - 1)))
        first = over(M, 1) * over(E, 0, 2) - over(G, 1, 2) * over(U_wide, 0)  # i, b, j, k
        second = over(jnp.swapaxes(U, 0, 1), 1) * over(E, 0, 2) + over(G, 1, 2) * over(inverse, 0)  # i, b, c, k
        first = product(first.reshape(-1, K, *batch), jnp.swapaxes(E, 0, 1)).reshape(q, c, q, c, *batch)
        second = product(second.reshape(-1, K, *batch), jnp.swapaxes(G, 0, 1)).reshape(q, c, r, q, *batch)
        second = jnp.swapaxes(second, 2, 3)
        return first - jnp.pad(second, ((0, 0),) * 3 + ((0, c - r), *((0, 0),) * len(batch)))

    return Complex(part(M.re, U.re, inverse.re), part(M.im, U.im, inverse.im))


def _widened(prob: Problem, a: Float[Array, "q r *B"]) -> Float[Array, "q c *B"]:
    """Add zeros in the place of the bias."""
    return jnp.pad(a, ((0, 0), (0, int(prob.bias)), *((0, 0),) * (a.ndim - 2)))


def _eye(n: int, batch: tuple[int, ...]) -> Float[Array, "n n *one"]:
    return jnp.eye(n).reshape(n, n, *(1,) * len(batch))
