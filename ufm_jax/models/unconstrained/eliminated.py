"""f on class means without its features, toward critical points of any index, many at once.

For given W and b each class's feature h̃_k solves a strictly convex problem of r variables (`reduction`). So

    φ(W, b) = min over H̃ of f̃(W, H̃, b)

has the critical points of f̃ and fewer variables. With B_k the Hessian in h̃_k and C_k the mixed one,
∇²φ = ∇²_(W,b) f̃ − Σ_k C_k B_k⁻¹ C_kᵀ, in closed form; its inertia and the B_k's together are f̃'s. Where the
loss does not see a shift of all logits, 1ᵀW and 1ᵀb vanish at critical points (but for a bias without
decay, whose shift is a symmetry) and are left out: (K − 1)(r + 1) variables are left.

x is (D, B): the variables of φ, rows of (QᵀŴ, Qᵀb̂) with Q's columns an orthonormal basis of logits, then Ĥ,
all in even coordinates (`sizes`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.landscape import Eliminated
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.sizes import scale, units
from ufm_jax.models.unconstrained.stacked import Lanes, lanes_of
from ufm_jax.numerics.marquardt import Expanded
from ufm_jax.numerics.solve import product, solve_positive

FEATURE_STEPS = 3  # Newton's, at every evaluation; more where these are not enough (`Expanded.settled`)
# A feature step changes logits by so much at most. Where softmax is saturated Newton's own overshoots, and
# beyond a few units curvature is another.
LONGEST = 3.0
SETTLED = 0.1  # the features' gradient, relative to that of φ, which is right to first order in it
WRITTEN_OUT = 30  # variables of φ up to which lanes advance together; of 36 LAPACK is faster, one by one


class _Columns(NamedTuple):
    """Constants: axes are logits, classes, and one for the batch, if there is one."""

    Q: Float[Array, "K q *one"]
    T: Float[Array, "K K *one"]
    weights: Float[Array, "K *one"]
    scales: Float[Array, "K *one"]


def eliminated(prob: Problem) -> Eliminated:
    """Return φ at many points, for a collapsed problem whose decays have one entry a lane."""
    (K, q), r, free = _logit_basis(prob).shape, prob.dim, _variables(prob)
    lanes, factors = lanes_of(prob), scale(prob)
    Q = jnp.asarray(_logit_basis(prob), lanes.strength.dtype)

    def into(p: Params) -> Float[Array, "D S"]:
        """Return points, along the first axis of every leaf, as columns."""
        S, last = len(p.W), lambda a: jnp.moveaxis(a, 0, -1)
        parts = [last(p.W) / factors.W]
        if p.b is not None:
            parts.append((last(p.b) / lanes.bias)[:, None])
        X = jnp.tensordot(Q.T, jnp.concatenate(parts, axis=1), 1)
        return jnp.concatenate([X.reshape(free, S), (last(p.H) / factors.H).reshape(r * K, S)])

    def back(x: Float[Array, "D S"]) -> Params:
        S = x.shape[1]
        X = jnp.tensordot(Q, x[:free].reshape(q, r + prob.bias, S), 1)
        H = factors.H * x[free:].reshape(r, K, S)
        p = Params(factors.W * X[:, :r], H, lanes.bias * X[:, r] if prob.bias else None)
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), p)

    expand = partial(_expand_one if batch_size(prob) == 1 else _expand, prob)
    return Eliminated(expand, lanes, into, back, free, batch_size(prob))


def _expand_one(prob: Problem, x: Float[Array, "D 1"], lanes: Lanes) -> Expanded:
    """Evaluate a batch of one, whose linear algebra is a library's."""
    there = _expand(prob, x[:, 0], jax.tree.map(lambda a: a.reshape(()), lanes))
    return jax.tree.map(lambda a: a[..., None], there)


def batch_size(prob: Problem) -> int:
    """Return how many points to evaluate at once: what a core's cache holds, else a device's fill."""
    n = _variables(prob)
    if jax.default_backend() != "cpu":
        return max(16, min(2**13, 2**26 // n**2))
    if n > WRITTEN_OUT:
        return 1
    return 128 if n <= 12 else 64 if n <= 20 else 32


def _variables(prob: Problem) -> int:
    return _logit_basis(prob).shape[1] * (prob.dim + prob.bias)


def _logit_basis(prob: Problem) -> np.ndarray:
    """Return an orthonormal basis, in columns, of the logits that count: all, or those of mean 0."""
    K = prob.num_classes
    if not prob.shift_invariant:
        return np.eye(K)
    k = np.arange(1, K)
    contrast = np.where(np.arange(K)[:, None] < k, 1.0, 0.0) - np.where(np.arange(K)[:, None] == k, k, 0.0)
    return contrast / np.sqrt(k * (k + 1.0))  # Helmert's


def _columns(prob: Problem, ndim: int, dtype: jnp.dtype) -> _Columns:
    one = (1,) * ndim
    each = _logit_basis(prob), prob.targets, prob.weights, prob.scales
    return _Columns(*(jnp.asarray(a, dtype).reshape(*a.shape, *one) for a in each))


def _expand(prob: Problem, x: Float[Array, "D *B"], lanes: Lanes) -> Expanded:
    """Evaluate φ, its gradient and its Hessian, of a batch or at one point, having moved the features."""
    K, r, batch = prob.num_classes, prob.dim, x.shape[1:]
    at = _columns(prob, len(batch), x.dtype)
    q, free = at.Q.shape[1], _variables(prob)
    X = x[:free].reshape(q, r + prob.bias, *batch)  # (QᵀŴ, Qᵀb̂)
    Y = product(at.Q, X)
    W, b = Y[:, :r], lanes.bias * Y[:, r] if prob.bias else jnp.zeros_like(Y[:, 0])
    H = jax.lax.fori_loop(
        0,
        FEATURE_STEPS,
        lambda _, H: _feature_step(prob, at, lanes, W, b, H),
        x[free:].reshape(r, K, *batch),
    )

    s, Z = lanes.strength, product(W, H) * at.scales + b[:, None]
    losses, slope = prob.loss.value_and_slope(Z, at.T)
    slope = slope * at.weights
    own = lanes.decay_b * lanes.bias**2 if prob.bias else s
    decays = jnp.stack([jnp.broadcast_to(s, batch)] * r + [jnp.broadcast_to(own, batch)] * prob.bias)
    value = jnp.sum(losses * at.weights, axis=0)
    value = value + (jnp.sum(decays * X**2, axis=(0, 1)) + s * jnp.sum(H**2, axis=(0, 1))) / 2

    # E: what each column of X is multiplied by in a class's logits.
    E = H * at.scales
    if prob.bias:
        E = jnp.concatenate([E, jnp.broadcast_to(lanes.bias, (1, K, *batch))])
    slope = product(jnp.swapaxes(at.Q, 0, 1), slope)  # (q, K)
    grad_x = product(slope, jnp.swapaxes(E, 0, 1)) + decays * X
    G = slope * at.scales
    grad_h = product(jnp.swapaxes(X[:, :r], 0, 1), G) + s * H

    A = _curvature(prob, at, Z)  # (q, q, K)
    V = X[:, :r, None]  # (q, r, 1)
    AV = product(A, V) * at.scales  # (q, r, K)
    eye = _eye(r, (K, *batch))
    B = product(jnp.swapaxes(V, 0, 1), AV) * at.scales + s * eye
    right = [jnp.swapaxes(AV, 0, 1), jnp.broadcast_to(eye, B.shape), grad_h[:, None]]
    solved = solve_positive(B, jnp.concatenate(right, axis=1))
    U, inverse, y = solved[:, :q], solved[:, q : q + r], solved[:, q + r]  # (r, q, K), (r, r, K), (r, K)
    grad = grad_x - product(jnp.sum(AV * y[None], axis=1), jnp.swapaxes(E, 0, 1))
    grad = grad - _widened(prob, product(G, jnp.swapaxes(y, 0, 1)))
    hess = _hessian(prob, A - product(AV, U), E, G, U, inverse)
    hess = hess.reshape(free, free, *batch) + _eye(free, batch) * jnp.tile(decays, (q, *(1,) * len(batch)))

    unit = jnp.sqrt(units(prob, value).value) * jnp.sqrt(s)
    size, slack = jnp.sum(grad**2, axis=(0, 1)), jnp.sum(grad_h**2, axis=(0, 1))
    norm = jnp.sqrt(jnp.sum(grad_x**2, axis=(0, 1)) + slack) / unit
    return Expanded(
        x=jnp.concatenate([x[:free], H.reshape(-1, *batch)]),
        value=value,
        grad=grad.reshape(free, *batch),
        hess=hess,
        norm=norm,
        settled=slack <= jnp.maximum(SETTLED**2 * size, (1e-11 * unit) ** 2),
    )


def _feature_step(
    prob: Problem,
    at: _Columns,
    lanes: Lanes,
    W: Float[Array, "K r *B"],
    b: Float[Array, "K *B"],
    H: Float[Array, "r K *B"],
) -> Float[Array, "r K *B"]:
    """Take one Newton step in the features of every class, no longer than `LONGEST` in its logits."""
    Z = product(W, H) * at.scales + b[:, None]
    transposed = jnp.swapaxes(W, 0, 1)
    grad = product(transposed, prob.loss.slope(Z, at.T) * (at.weights * at.scales)) + lanes.strength * H
    each = jnp.broadcast_to(transposed[:, :, None], (W.shape[1], *Z.shape))
    AW = jax.vmap(prob.loss.curvature(Z, at.T))(each) * (at.weights * at.scales**2)
    hess = product(transposed[:, :, None], jnp.swapaxes(AW, 0, 1))
    step = solve_positive(hess + lanes.strength * _eye(W.shape[1], Z.shape[1:]), grad[:, None])[:, 0]
    moved = jnp.max(jnp.abs(product(W, step)), axis=0) * at.scales
    return H - jnp.minimum(1.0, LONGEST / jnp.maximum(moved, LONGEST)) * step


def _curvature(prob: Problem, at: _Columns, Z: Float[Array, "K K *B"]) -> Float[Array, "q q K *B"]:
    """Return Qᵀ ∇²ℓ_k Q of each class k, times its weight."""
    Q = at.Q[:, :, None]  # (K, q, 1)
    each = jnp.broadcast_to(jnp.swapaxes(Q, 0, 1), (Q.shape[1], *Z.shape))
    AQ = jax.vmap(prob.loss.curvature(Z, at.T))(each) * at.weights
    return product(jnp.swapaxes(Q, 0, 1), jnp.swapaxes(AQ, 0, 1))


def _hessian(
    prob: Problem,
    M: Float[Array, "q q K *B"],
    E: Float[Array, "c K *B"],
    G: Float[Array, "q K *B"],
    U: Float[Array, "r q K *B"],
    inverse: Float[Array, "r r K *B"],
) -> Float[Array, "q c q c *B"]:
    """Return Σ_k A_k ⊗ e_k e_kᵀ − C_k B_k⁻¹ C_kᵀ, where C_k = A_k V ⊗ e_k + g_k ⊗ (1, 0).

    With V = QᵀŴ and U_k = B_k⁻¹ Vᵀ A_k this is a sum of M_k ⊗ e_k e_kᵀ, M_k = A_k − A_k V U_k, less the terms
    of g_k: a product of K columns twice, whatever r is.
    """
    (q, K), c, r, batch = G.shape[:2], len(E), len(U), G.shape[2:]
    over = lambda a, *axes: jnp.expand_dims(a, axes)
    U_wide = jnp.pad(U, ((0, c - r), *((0, 0),) * (U.ndim - 1)))
    inverse = jnp.pad(inverse, ((0, c - r), *((0, 0),) * (inverse.ndim - 1)))
    first = over(M, 1) * over(E, 0, 2) - over(G, 1, 2) * over(U_wide, 0)  # i, b, j, k
    second = over(jnp.swapaxes(U, 0, 1), 1) * over(E, 0, 2) + over(G, 1, 2) * over(inverse, 0)  # i, b, c, k
    first = product(first.reshape(-1, K, *batch), jnp.swapaxes(E, 0, 1)).reshape(q, c, q, c, *batch)
    second = product(second.reshape(-1, K, *batch), jnp.swapaxes(G, 0, 1)).reshape(q, c, r, q, *batch)
    second = jnp.swapaxes(second, 2, 3)
    return first - jnp.pad(second, ((0, 0),) * 3 + ((0, c - r), *((0, 0),) * len(batch)))


def _widened(prob: Problem, a: Float[Array, "q r *B"]) -> Float[Array, "q c *B"]:
    """Add zeros in the place of the bias."""
    return jnp.pad(a, ((0, 0), (0, int(prob.bias)), *((0, 0),) * (a.ndim - 2)))


def _eye(n: int, batch: tuple[int, ...]) -> Float[Array, "n n *one"]:
    return jnp.eye(n).reshape(n, n, *(1,) * len(batch))
