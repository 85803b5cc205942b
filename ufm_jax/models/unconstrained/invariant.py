"""Every distinct eigenvalue of the Hessian at a critical point that permuting equal classes leaves in place.

Where M = W H̃ and b do not change when classes of one kind are permuted, the group G = Π S_a acts on
directions: in the gauge W = (W Wᵀ)^{1/2} by (Ẇ, Ḣ, ḃ) -> (P Ẇ Pᵀ, P Ḣ Pᵀ, P ḃ), with which the Hessian
commutes. So each eigenspace is a sum of irreducible representations of G, and those of R^K ⊗ R^K and R^K are
(a), (a−1,1), (a−2,2), (a−2,1,1) of one S_a, or products of (a), (a−1,1) of two. Each has a vector fixed by
Y = Π S_{a−2}, two classes of each kind singled out (Young's rule, Sagan 2001, thm. 2.11.2). Hence on the
points fixed by Y f loses multiplicities, but no eigenvalue: 94 dimensions at most for two kinds of
classes, whatever K and d. (Worked out for this project; tested against dense spectra.)

A matrix fixed by Y is some B on the normalised indicators of Y's blocks of classes, and a multiple α_i of the
identity on the vectors of zero sum in block i; products act on B and α apart. Of the features only the
coordinates that W uses matter, and one that it does not, where there is one (`reduction`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.spectrum import DENSE_LIMIT
from ufm_jax.landscape.verdict import GRAD_TOL
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.permutations import MATCH_TOL
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, lift, restrict
from ufm_jax.models.unconstrained.symmetry import RANK_ATOL, shift_dimension


class Pair(NamedTuple):
    """An eigenvalue, its unit eigenvector in the problem asked about, and ‖H v − value v‖ measured there."""

    value: float
    direction: Params
    residual: float


class InvariantSpectrum(NamedTuple):
    """Eigenvalues of ∇²f̃ (collapsed problem) on the vectors fixed by Y, modulo the symmetry orbit."""

    values: Float[np.ndarray, " m"]  # ascending: every eigenvalue modulo the orbit, each at least once
    lowest: Pair
    highest: Pair
    rank: int
    num_null: int  # directions along the orbit among the vectors fixed by Y: left out of `values`
    null_residual: float  # ‖H T‖₂ over them, T orthonormal
    deviation: float  # largest change of an entry of M or b under permutations of equal classes


def invariant_spectrum(prob: Problem, p: Params) -> InvariantSpectrum:
    """Return all distinct eigenvalues at a critical point fixed by all permutations of equal classes.

    The point is rebuilt from M and b, averaged over permutations, by the balance λ_W WᵀW = λ_H H̃H̃ᵀ; its
    gradient is then measured. On the host; the cost is that of a few K x K products.

    Raises:
        ValueError: if entries of M or b differ by more than `MATCH_TOL` where they should not, the rebuilt
            point has ‖∇f‖ > `GRAD_TOL`, or there are so many kinds of classes that the space is too large.
    """
    small, q = collapse(prob), restrict(collapse(prob), p)
    M, b, deviation = _averaged(small, q)
    blocks = _Blocks.of(prob.kinds)
    point = _rebuilt(small, blocks, M, b)
    if len(point.x) > DENSE_LIMIT:
        raise ValueError(f"counts: {len(set(prob.kinds))} different kinds of classes, need fewer")
    grad, H = (np.asarray(a) for a in _derivatives(small, point.space, jnp.asarray(point.x)))
    if not np.linalg.norm(grad) <= GRAD_TOL:
        raise ValueError(f"params: not a critical point, ‖∇f‖ = {np.linalg.norm(grad):.1e}")
    tangent = _tangent(small, blocks, point)
    complement = np.linalg.qr(tangent, mode="complete")[0][:, tangent.shape[1] :]
    values, vectors = np.linalg.eigh(complement.T @ H @ complement)
    frame = _frame(blocks, point, np.asarray(q.W))

    def pair(which: int) -> Pair:
        value, v = jnp.asarray(values[which]), lift(prob, frame(complement @ vectors[:, which]))
        return Pair(float(value), v, float(_residual(prob, p, v, value)))

    null_residual = float(np.linalg.norm(H @ tangent, 2)) if tangent.size else 0.0
    return InvariantSpectrum(
        values, pair(0), pair(-1), point.rank, tangent.shape[1], null_residual, deviation
    )


class _Blocks(NamedTuple):
    """The orbits of Y on classes: of each kind the first class, the second, and the others."""

    of_class: Int[np.ndarray, " K"]
    first: Int[np.ndarray, " B"]  # a class of each block
    size: Float[np.ndarray, " B"]

    @classmethod
    def of(cls, group: Int[np.ndarray, " K"]) -> "_Blocks":
        place = np.array([np.sum(group[:k] == g) for k, g in enumerate(group)])
        _, first, block, size = np.unique(
            3 * group + np.minimum(place, 2), return_index=True, return_inverse=True, return_counts=True
        )
        return cls(block, first, size.astype(float))

    @property
    def indicators(self) -> Float[np.ndarray, "K B"]:
        """Normalised indicators of the blocks, as columns."""
        return (self.of_class[:, None] == np.arange(len(self.size))) / np.sqrt(self.size)


class _Space(NamedTuple):
    """The shape of a vector fixed by Y: B_W, then α_W √(m−1), B_H, α_H √(m−1), and b of the blocks, √m."""

    num_fixed: int  # feature coordinates that Y leaves alone: those used, and one unused where d > rank
    standard: tuple[int, ...]  # blocks whose vectors of zero sum W does not annihilate

    def split(self, x: Array, num_blocks: int) -> list[Array]:
        """Return the five parts."""
        f, s = self.num_fixed, len(self.standard)
        W, w, H, h, b = jnp.split(x, np.cumsum([num_blocks * f, s, f * num_blocks, s]))
        return [W.reshape(num_blocks, f), w, H.reshape(f, num_blocks), h, b]


class _Point(NamedTuple):
    """A point fixed by G in the coordinates of `space`; used feature coordinates first."""

    space: _Space
    x: Float[np.ndarray, " m"]
    rank: int
    num_used: int  # of the coordinates that Y leaves alone


def _averaged(prob: Problem, q: Params) -> tuple[np.ndarray, np.ndarray, float]:
    """Average M = W H̃ and b over permutations of equal classes; return also the largest deviation."""
    M, b = np.asarray(q.W @ q.H), np.zeros(prob.num_classes) if q.b is None else np.asarray(q.b)
    group = prob.kinds
    pairs = 1 + group[:, None] * (group.max() + 1) + group
    mean_M = _mean_over(np.where(np.eye(len(b), dtype=bool), -1 - group, pairs), M)
    mean_b = _mean_over(group, b)
    deviation = float(max(np.abs(M - mean_M).max(), np.abs(b - mean_b).max()))
    if not deviation <= MATCH_TOL * (1.0 + np.abs(M).max()):
        raise ValueError(f"params: permuting classes of one kind changes W H or b by {deviation:.1e}")
    return mean_M, mean_b, deviation


def _mean_over(labels: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Replace each entry by the mean of those with its label."""
    _, first, where = np.unique(labels, return_index=True, return_inverse=True)
    where = where.ravel()
    base = entries.ravel()[first]  # what is summed is then rounding, and sums to rounding
    extra = np.bincount(where, entries.ravel() - base[where]) / np.bincount(where)
    return (base + extra)[where].reshape(entries.shape)


def _rebuilt(prob: Problem, blocks: _Blocks, M: np.ndarray, b: np.ndarray) -> _Point:
    """Return the balanced point with W H̃ = M and bias b."""
    E, i, size = blocks.indicators, blocks.first, blocks.size
    other = np.array([np.flatnonzero(blocks.of_class == k)[-1] for k in range(len(size))])
    alpha = M[i, i] - M[i, other]  # 0 where the block has one class
    U, S, Vt = np.linalg.svd(E.T @ M @ E)
    used, standard = int(np.sum(S > RANK_ATOL)), np.flatnonzero(np.abs(alpha) > RANK_ATOL)
    rank = used + int(np.sum(size[standard] - 1))
    spare = int(prob.dim > rank)
    tilt = float(prob.decay_h / prob.decay_w) ** 0.25
    root, scalar = np.sqrt(S[:used]), np.sqrt(np.abs(alpha) * np.maximum(size - 1, 0))[standard]
    W = np.pad(U[:, :used] * root * tilt, ((0, 0), (0, spare)))
    H = np.pad(root[:, None] * Vt[:used] / tilt, ((0, spare), (0, 0)))
    parts = [W, scalar * tilt, H, np.sign(alpha[standard]) * scalar / tilt]
    if prob.bias:
        parts.append(b[i] * np.sqrt(size))
    space = _Space(used + spare, tuple(int(k) for k in standard))
    return _Point(space, np.concatenate([a.ravel() for a in parts]), rank, used)


def _objective(prob: Problem, space: _Space) -> Callable[[Float[Array, " m"]], Float[Array, ""]]:
    """Build f̃ on the points fixed by Y: columns of logits of one block are equal up to a permutation."""
    blocks, dtype = _Blocks.of(prob.kinds), prob.decay_w.dtype
    K, num_blocks, standard = prob.num_classes, len(blocks.size), np.array(space.standard, int)
    T = jnp.asarray(prob.loss.targets(blocks.first, K), dtype)
    shares = jnp.asarray((prob.weights * blocks.size[blocks.of_class])[blocks.first], dtype)
    scales, size = jnp.asarray(prob.scales[blocks.first], dtype), jnp.asarray(blocks.size, dtype)

    def f(x: Float[Array, " m"]) -> Float[Array, ""]:
        W, w, H, h, b = space.split(x, num_blocks)
        alpha = jnp.zeros(num_blocks, dtype).at[standard].set(w * h / (size[standard] - 1))
        constant = (W @ H) / jnp.sqrt(size[:, None] * size) - jnp.diag(alpha / size)
        M = constant[blocks.of_class].at[blocks.first, np.arange(num_blocks)].add(alpha)
        Z = M * scales
        if prob.bias:
            Z = Z + (b / jnp.sqrt(size))[blocks.of_class][:, None]
        squares = [jnp.sum(W**2) + jnp.sum(w**2), jnp.sum(H**2) + jnp.sum(h**2), jnp.sum(b**2)]
        decays = [prob.decay_w, prob.decay_h, prob.decay_b]
        decay = sum((c * s for c, s in zip(decays, squares, strict=True)), jnp.zeros((), dtype))
        return jnp.dot(shares, prob.loss.value(Z, T)) + decay / 2

    return f


@partial(jax.jit, static_argnames="space")
def _derivatives(prob: Problem, space: _Space, x: Float[Array, " m"]) -> tuple[Array, Array]:
    f = _objective(prob, space)
    return jax.grad(f)(x), jax.hessian(f)(x)


@jax.jit
def _residual(prob: Problem, p: Params, v: Params, value: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.linalg.norm(ravel(expand(prob, p).hv(v)) - value * ravel(v))


def _tangent(prob: Problem, blocks: _Blocks, point: _Point) -> Float[np.ndarray, "m q"]:
    """Return the orbit's tangent vectors fixed by Y, as orthonormal columns.

    (W A, −A H), A skew, in the planes of two fixed coordinates of which one is used: orthogonal to each
    other, as the columns of W are in this frame, and the rows of H. And the shift of the logits, where it is
    a symmetry.
    """
    num_blocks = len(blocks.size)
    W, w, H, h, b = (np.asarray(a) for a in point.space.split(jnp.asarray(point.x), num_blocks))
    columns = []
    for i in range(point.num_used):
        for j in range(i + 1, point.space.num_fixed):
            dW, dH = np.zeros_like(W), np.zeros_like(H)
            dW[:, j], dW[:, i], dH[i], dH[j] = W[:, i], -W[:, j], -H[j], H[i]
            parts = [dW.ravel(), 0 * w, dH.ravel(), 0 * h, 0 * b]
            columns.append(np.concatenate(parts))
    if int(shift_dimension(prob)):
        columns.append(np.concatenate([np.zeros(len(point.x) - num_blocks), np.sqrt(blocks.size)]))
    if not columns:
        return np.zeros((len(point.x), 0))
    stacked = np.stack(columns, axis=1)
    return stacked / np.linalg.norm(stacked, axis=0)


def _frame(
    blocks: _Blocks, point: _Point, W: Float[np.ndarray, "K d"]
) -> Callable[[Float[np.ndarray, " m"]], Params]:
    """Build the isometry from vectors fixed by Y to directions at the collapsed point with this W."""
    E, num_blocks, (f, used) = blocks.indicators, len(blocks.size), (point.space.num_fixed, point.num_used)
    split = lambda x: [np.asarray(a) for a in point.space.split(jnp.asarray(x), num_blocks)]
    B, w, *_ = split(point.x)
    # W = E B Φᵀ + α Ψ, Φ with orthonormal columns and Ψ an isometry on the vectors of zero sum of a block.
    standard = np.array(point.space.standard, int)
    root = np.sqrt(blocks.size[standard] - 1)
    inverse = np.zeros(num_blocks)
    inverse[standard] = root / w
    Psi = (W - E @ (E.T @ W)) * inverse[blocks.of_class][:, None]
    Phi = W.T @ (E @ (B[:, :used] / np.sum(B[:, :used] ** 2, axis=0)))
    if f > used:
        within = np.sum(Phi**2, axis=1) + np.sum(Psi**2, axis=0)
        spare = np.eye(1, W.shape[1], int(np.argmin(within)))[0]
        for _ in range(2):  # twice is enough
            spare = spare - Phi @ (Phi.T @ spare) - Psi.T @ (Psi @ spare)
            spare = spare / np.linalg.norm(spare)
        Phi = np.column_stack([Phi, spare])

    def spread(alpha: np.ndarray) -> np.ndarray:
        each = np.zeros(num_blocks)
        each[standard] = alpha / root
        return each[blocks.of_class][:, None] * Psi

    def embed(x: Float[np.ndarray, " m"]) -> Params:
        dW, dw, dH, dh, db = split(x)
        dW, dH = E @ dW @ Phi.T + spread(dw), Phi @ dH @ E.T + spread(dh).T
        return Params(jnp.asarray(dW), jnp.asarray(dH), jnp.asarray(E @ db) if db.size else None)

    return embed
