"""Every distinct eigenvalue of the Hessian at a critical point that permuting equal classes leaves in place.

Where M = W H̃ and b do not change when classes of one kind are permuted, the group G = Π S_a acts on
directions: in the gauge W = (W Wᵀ)^{1/2} by (Ẇ, Ḣ, ḃ) -> (P Ẇ Pᵀ, P Ḣ Pᵀ, P ḃ), with which the Hessian
commutes. So each eigenspace is a sum of irreducible representations of G, and those of R^K ⊗ R^K and R^K are
(a), (a−1,1), (a−2,2), (a−2,1,1) of one S_a, or products of (a), (a−1,1) of two. Each has a vector fixed by
Y = Π S_{a−2}, two classes of each kind singled out (Young's rule, Sagan 2001, thm. 2.11.2). Hence on the
vectors fixed by Y the Hessian loses multiplicities, but no eigenvalue: 94 dimensions at most for two kinds of
classes, whatever K and d. (Worked out for this project; tested against dense spectra.)

A matrix fixed by Y is some B on the normalised indicators of Y's blocks of classes, and a multiple α_i of the
identity on the vectors of zero sum in block i: so is W = E B Φᵀ + α Ψ, where the columns of E are the
indicators, those of Φ orthonormal, and Ψ is an isometry on the vectors of zero sum of each block. With Φ and
Ψ of a point, and in Φ one feature coordinate that it does not use, where there is one, the vectors fixed by Y
are given by their B and α.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.spectrum import DENSE_LIMIT, eigen
from ufm_jax.landscape.units import GRAD_TOL, even_norm
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.permutations import MATCH_TOL
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, feature_frame, lift, restrict
from ufm_jax.models.unconstrained.sizes import scale, units
from ufm_jax.models.unconstrained.symmetry import RANK_ATOL, orbit_projection
from ufm_jax.numerics.lanes import QUICK, jit_small


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

    The cost is that of as many Hessian products as there are vectors fixed by Y.

    Raises:
        ValueError: if entries of M or b differ by more than `MATCH_TOL` where they should not, the point has
            ‖∇f‖ > `GRAD_TOL`, or there are so many kinds of classes that the space is too large.
    """
    small = collapse(prob)
    q = restrict(small, p)
    deviation = _deviation(small, q)
    norm = float(_grad_norm(small, q))
    if not norm <= GRAD_TOL:
        raise ValueError(f"params: not a critical point, ‖∇f‖ = {norm:.1e} in units")
    frame, rank = _frame(small, np.asarray(q.W))
    if ravel_pytree(_fixed(small, frame))[0].size > DENSE_LIMIT:
        raise ValueError(f"counts: {len(set(prob.kinds))} different kinds of classes, need fewer")
    H, along = map(np.asarray, _compressed(small, q, frame, np.int32(rank)))
    values, vectors, _ = (np.asarray(a) for a in _eigen(H, along))
    kept, null = np.isfinite(values), np.linalg.eigh(along)
    tangent = null[1][:, null[0] > 0.5]  # along is a projection

    def pair(which: int) -> Pair:
        v = _lifted(prob, frame, vectors[:, which])
        return Pair(float(values[which]), v, float(_residual(prob, p, v, values[which])))

    low, high = np.flatnonzero(kept)[[0, -1]].tolist()
    residual = float(np.linalg.norm(H @ tangent, 2)) if tangent.size else 0.0
    return InvariantSpectrum(values[kept], pair(low), pair(high), rank, tangent.shape[1], residual, deviation)


def _deviation(prob: Problem, q: Params) -> float:
    """Return the largest change of an entry of M = W H̃ or b when classes of one kind are averaged over."""
    M, b = np.asarray(q.W @ q.H), np.zeros(prob.num_classes) if q.b is None else np.asarray(q.b)
    kinds = prob.kinds
    pairs = 1 + kinds[:, None] * (kinds.max() + 1) + kinds
    pairs = np.where(np.eye(len(b), dtype=bool), -1 - kinds, pairs)
    apart = max(np.abs(_apart(pairs, M)).max(), np.abs(_apart(kinds, b)).max())
    if not apart <= MATCH_TOL * (1.0 + np.abs(M).max()):
        raise ValueError(f"params: permuting classes of one kind changes W H or b by {apart:.1e}")
    return float(apart)


def _apart(labels: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return by how much each entry differs from the mean of those with its label."""
    _, first, where = np.unique(labels, return_index=True, return_inverse=True)
    where, entries = where.ravel(), entries.ravel()
    extra = entries - entries[first][where]  # what is summed is then rounding, and sums to rounding
    return extra - (np.bincount(where, extra) / np.bincount(where))[where]


class _Frame(NamedTuple):
    """E, Φ and Ψ of a point, and of each class and each block in whose zero-sum vectors it is 1/√(m−1)."""

    E: Float[Array, "K B"]
    Phi: Float[Array, "d f"]
    Psi: Float[Array, "K d"]
    share: Float[Array, "K s"]


class _Fixed(NamedTuple):
    """A vector fixed by Y: B and α √(m−1) of W, of H, and b on the indicators."""

    W: Float[Array, "B f"]
    w: Float[Array, " s"]
    H: Float[Array, "f B"]
    h: Float[Array, " s"]
    b: Float[Array, " B"] | None


def _frame(prob: Problem, W: Float[np.ndarray, "K d"]) -> tuple[_Frame, int]:
    """Return the frame of a critical point, and its rank; singular values of M are √(λ_W/λ_H) W's squared."""
    kinds = prob.kinds
    place = np.array([np.sum(kinds[:k] == kind) for k, kind in enumerate(kinds)])
    # The orbits of Y on classes: of each kind the first class, the second, and the others.
    _, block, size = np.unique(3 * kinds + np.minimum(place, 2), return_inverse=True, return_counts=True)
    E = (block[:, None] == np.arange(len(size))) / np.sqrt(size)
    least = np.sqrt(RANK_ATOL / float(jnp.sqrt(prob.decay_w / prob.decay_h)))
    _, singular, Vt = np.linalg.svd(E.T @ W, full_matrices=False)
    Phi, rest = Vt[singular > least].T, W - E @ (E.T @ W)
    each = np.sqrt(np.bincount(block, np.sum(rest**2, axis=1)) / np.maximum(size - 1, 1))
    standard = np.flatnonzero(each > least)
    inverse = np.zeros(len(size))
    inverse[standard] = 1.0 / each[standard]
    Psi = rest * inverse[block][:, None]
    rank = Phi.shape[1] + int(np.sum(size[standard] - 1))
    if rank < W.shape[1]:
        within = np.sum(Phi**2, axis=1) + np.sum(Psi**2, axis=0)
        spare = np.eye(1, W.shape[1], int(np.argmin(within)))[0]
        for _ in range(2):  # twice is enough
            spare = spare - Phi @ (Phi.T @ spare) - Psi.T @ (Psi @ spare)
            spare = spare / np.linalg.norm(spare)
        Phi = np.column_stack([Phi, spare])
    share = (block[:, None] == standard) / np.sqrt(size[standard] - 1.0)
    return _Frame(*map(jnp.asarray, (E, Phi, Psi, share))), rank


def _fixed(prob: Problem, frame: _Frame) -> _Fixed:
    """Return the zero vector."""
    (_, B), (_, f), (_, s) = frame.E.shape, frame.Phi.shape, frame.share.shape
    none = lambda *shape: jnp.zeros(shape, frame.E.dtype)
    return _Fixed(none(B, f), none(s), none(f, B), none(s), none(B) if prob.bias else None)


def _embed(prob: Problem, frame: _Frame, x: Float[Array, " m"]) -> Params:
    """Return the direction at the collapsed point that a vector fixed by Y is: an isometry."""
    v: _Fixed = ravel_pytree(_fixed(prob, frame))[1](x)
    spread = lambda alpha: (frame.share @ alpha)[:, None] * frame.Psi
    W = frame.E @ v.W @ frame.Phi.T + spread(v.w)
    H = frame.Phi @ v.H @ frame.E.T + spread(v.h).T
    return Params(W, H, None if v.b is None else frame.E @ v.b)


_eigen = jit_small(eigen, options=QUICK)


@partial(jit_small, options=QUICK)
def _grad_norm(small: Problem, q: Params) -> Float[Array, ""]:
    """Return ‖∇f‖ in units."""
    point = expand(small, q)
    return even_norm(point.grad, scale(small)) / units(small, point.value).gradient


@partial(jit_small, options=QUICK)
def _lifted(prob: Problem, frame: _Frame, x: Float[Array, " m"]) -> Params:
    return lift(prob, _embed(collapse(prob), frame, x))


@partial(jit_small, options=QUICK)
def _compressed(
    prob: Problem, q: Params, frame: _Frame, rank: Int[Array, ""]
) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
    """Return the Hessian, and the projection onto the orbit's tangent space, on the vectors fixed by Y."""
    zero = ravel_pytree(_fixed(prob, frame))[0]
    embed = lambda x: _embed(prob, frame, x)
    back = jax.linear_transpose(embed, zero)

    def matrix(apply: Callable[[Params], Params]) -> Float[Array, "m m"]:
        rows = jax.lax.map(lambda x: back(apply(embed(x)))[0], jnp.eye(zero.size, dtype=zero.dtype))
        return (rows + rows.T) / 2

    project = orbit_projection(prob, q, feature_frame(prob, q), rank)
    return matrix(expand(prob, q).hv), matrix(project)


@partial(jit_small, options=QUICK)
def _residual(prob: Problem, p: Params, v: Params, value: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.linalg.norm(ravel(expand(prob, p).hv(v)) - value * ravel(v))
