"""The Hessian at a critical point: lowest eigenvalue modulo the symmetry's orbit, Morse index, nullity.

The spectrum is that of blocks. A landscape that knows of none has one, its own Hessian; one that does gives
smaller ones, each with the number of its copies (`Landscape.blocks`). Up to `DENSE_LIMIT` variables a block
is diagonalised; beyond, Lanczos looks for its lowest eigenvalue and the index is not counted. What comes out
is checked in the landscape that was asked about: the residual of λ_min is measured there with the exact
Hessian product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.landscape.orbit import Orbit
from ufm_jax.landscape.point import Point, inner, picked, ravel
from ufm_jax.landscape.units import ROUNDING, ZERO_RTOL, Units, per_slope, zero_tolerance
from ufm_jax.numerics.derivatives import Vector, dense_matrix
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.status import Status

DENSE_LIMIT = 2000  # variables of a block that is diagonalised; some seconds a point there
NOT_COUNTED = -1  # an index or a nullity that nobody counted
BASIS_BYTES = 2**28  # what a Lanczos basis may take: it is held twice
# What a Lanczos search may cost in Hessian products: minutes on 2 cores. Where gaps between the lowest
# eigenvalues are 1e-9 of the largest, it ends there, not converged.
LANCZOS_FLOP = 2e12


class Spectrum(NamedTuple):
    """Evidence about the Hessian of f at a (numerically) critical point.

    λ_min and its eigenvector are of f as it was asked about; what is counted, and what zero is, is told in
    even coordinates (`units`), where the numbers of negative, zero and positive eigenvalues are the same.
    """

    lambda_min: Float[Array, ""]  # smallest eigenvalue of f modulo the orbit: on its tangent's complement
    residual: Float[Array, ""]  # ‖H v − λ_min v‖₂ of its eigenvector v, measured: an eigenvalue is so near
    direction: Any  # the lowest eigenvector that the landscape asked about has room for, ‖·‖ = 1
    sound: Bool[Array, ""]  # residuals are rounding, there
    # Smallest eigenvalue modulo the orbit in even coordinates, but for those that are known to be positive
    lowest: Float[Array, ""]
    # Eigenvalues below −tolerance, or NOT_COUNTED; the name hides tuple.index.
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]  # eigenvalues within ±tolerance, the orbit's included, or NOT_COUNTED
    orbit_dim: Int[Array, ""]
    orbit_residual: Float[Array, ""]  # ‖H Q‖, Q the projection onto the orbit's tangent space
    tolerance: Float[Array, ""]  # below which |λ| is called zero
    doubt: Float[Array, ""]  # below which |λ| is not known to have its sign at the critical point near by
    null: Float[Array, ""]  # below which |λ| is a zero to rounding; from here to `tolerance` it may be none
    # No eigenvalue is negative and too small for its sign, by tolerance or `doubt`, and the orbit is null;
    clear: Bool[Array, ""]
    resolved: Bool[Array, ""]  # and no positive one, modulo the orbit, is too small
    # What is needed to judge other points of the orbit by this one; NaN where nobody asks, or knows.
    least: Float[Array, ""] | float = jnp.nan  # smallest |λ| modulo the orbit, in even coordinates
    per_slope: Float[Array, ""] | float = jnp.nan  # by which of ‖∇f‖ there `tolerance` grows

    @property
    def isolated(self) -> Bool[Array, ""]:
        """True where all was counted and no direction is null but the orbit's: no critical point is near."""
        counted = (self.index != NOT_COUNTED) & (self.nullity == self.orbit_dim)
        return self.sound & self.clear & self.resolved & counted

    def at_slope(self, more: Float[Array, ""], doubt: Float[Array, ""]) -> "Spectrum":
        """Return the evidence at a point of the same orbit whose ‖∇f‖ is `more` larger, and its `doubt`.

        `isolated` says no longer that it is so where an eigenvalue might not show there: twice what it must
        be, as those of two such points differ by less than one tolerance.
        """
        larger = self.per_slope * more
        there = self._replace(tolerance=self.tolerance + larger, null=self.null + larger, doubt=doubt)
        shows = self.least > 2 * jnp.maximum(10 * there.tolerance, doubt)
        return there._replace(clear=self.clear & shows, resolved=self.resolved & shows)


class Block(NamedTuple):
    """Eigenvalues modulo the orbit (ascending, those of the orbit at +∞): all of a block, or its lowest."""

    values: Float[Array, " m"]
    copies: Int[Array, " m"]
    direction: Any  # of the lowest, in the landscape asked about; None where that has no room for it
    residual: Float[Array, ""]  # of the lowest, where there is no direction to measure it along
    orbit_residual: Float[Array, ""]
    norm: Float[Array, ""]
    sound: Bool[Array, ""]  # what is here can be relied on
    lowest_alone: bool = False  # the other eigenvalues are not known
    positive: bool = False  # by mathematics, at this point and all others: no size is too small for a sign


class Parts(NamedTuple):
    """A Hessian in blocks, the orbit of the point where it was taken, and ‖∇f‖ there."""

    orbit: Orbit
    blocks: list[Block]
    slope: Float[Array, ""]
    noise: Float[Array, ""] | float = 0.0  # what rounding may leave of that


def assembled(
    point: Point,
    asked: Parts,
    even: Parts,
    units: Units,
    doubt: Float[Array, ""],
    floor: Float[Array, ""] | float = -jnp.inf,
) -> Spectrum:
    """Return what blocks say together: `asked` in the landscape asked about, `even` in even coordinates.

    `point` is of the former, `units`, `doubt` and `floor`, which bounds all eigenvalues from below, of the
    latter: where eigenvalues were not counted the floor may show that none is negative.
    """
    held = [b for b in asked.blocks if b.direction is not None]
    which = jnp.argmin(jnp.stack([b.values[0] for b in held]))
    direction = picked(which, [b.direction for b in held])
    along = jnp.stack([b.values[0] for b in held])[which]
    left = jax.tree.map(lambda pushed, a: pushed - along * a, point.hv(direction), direction)
    measured = jnp.sqrt(inner(left, left))
    others = [b for b in asked.blocks if b.direction is None]
    values = jnp.stack([along, *(b.values[0] for b in others)])
    residual = jnp.stack([measured, *(b.residual for b in others)])[jnp.argmin(values)]
    rounding = 10 * _zero(asked, units)
    return Spectrum(
        lambda_min=jnp.min(values),
        residual=residual,
        direction=direction,
        sound=(residual <= rounding) & (measured <= rounding),  # also where that is not the lowest's
        **_counted(even, units, doubt, floor),
    )


def _norm(parts: Parts) -> Float[Array, ""]:
    return jnp.max(jnp.stack([b.norm for b in parts.blocks]))


def _zero(parts: Parts, units: Units) -> Float[Array, ""]:
    """Return what |λ| may be of a zero; a Lanczos search comes no nearer than `ZERO_RTOL`."""
    rtol = max(units.rtol, ZERO_RTOL) if any(b.lowest_alone for b in parts.blocks) else units.rtol
    return zero_tolerance(_norm(parts), parts.slope, parts.orbit.radius, rtol)


def _counted(
    parts: Parts, units: Units, doubt: Float[Array, ""], floor: Float[Array, ""] | float
) -> dict[str, Array]:
    """Return the counts of a spectrum, and what zero is, by their names in `Spectrum`."""
    orbit, blocks = parts.orbit, [b for b in parts.blocks if not b.positive]
    values, copies = (jnp.concatenate([getattr(b, name) for b in blocks]) for name in ("values", "copies"))
    orbit_residual = jnp.max(jnp.stack([b.orbit_residual for b in blocks]))
    tolerance = _zero(parts, units)
    index = jnp.sum(jnp.where(values < -tolerance, copies, 0)).astype(jnp.int32)
    null_elsewhere = jnp.sum(jnp.where(jnp.abs(values) <= tolerance, copies, 0)).astype(jnp.int32)
    nullity = null_elsewhere + orbit.dim
    for b in blocks:
        if b.lowest_alone:  # the nullity is known where the lowest is not zero
            index = jnp.where(floor >= -tolerance, 0, NOT_COUNTED).astype(jnp.int32)
            nullity = jnp.where(b.sound & (b.values[0] > tolerance), nullity, NOT_COUNTED)
    rounded = jnp.minimum(parts.slope, parts.noise)
    null = zero_tolerance(_norm(parts), rounded, orbit.radius, min(ROUNDING, units.rtol / 10))
    unsure = jnp.maximum(10 * tolerance, doubt)
    sound = jnp.all(jnp.stack([b.sound for b in blocks]))
    least = jnp.min(jnp.abs(values))
    if any(b.lowest_alone for b in blocks):  # of others it is known that they are larger
        least = jnp.where(jnp.min(values) > 0, least, jnp.nan)
    clear = ~jnp.any((values < -null) & (values > -unsure)) & (orbit_residual <= tolerance) & sound
    return {
        "lowest": jnp.min(values),
        "index": index,
        "nullity": nullity.astype(jnp.int32),
        "orbit_dim": orbit.dim,
        "orbit_residual": orbit_residual,
        "tolerance": tolerance,
        "doubt": doubt,
        "null": null,
        "clear": clear,
        "resolved": clear & ~jnp.any((values > null) & (values < unsure)),
        "least": least,
        "per_slope": per_slope(orbit.radius),
    }


def whole_block(point: Point, orbit: Orbit, *, flop: float = 0.0, counting: bool = False) -> Block:
    """Return the block of all variables of a point: its eigenpairs, or beyond `DENSE_LIMIT` the lowest.

    `flop` is what one Hessian product costs: Lanczos makes no more of them than `LANCZOS_FLOP` allow. With
    `counting` eigenvectors are not asked for where that is cheaper, and the block has no direction.
    """
    x, back = ravel_pytree(point.x)
    hv = lambda v: ravel(point.hv(back(v)))
    project = lambda v: ravel(orbit.project(back(v)))
    if x.size > DENSE_LIMIT:
        found = _by_lanczos(hv, project, x, flop)
        return found._replace(direction=back(found.direction))
    H, Q = dense_matrix(hv, x), dense_matrix(project, x)
    if counting:
        values, residual = eigenvalues(H, Q)
        return block(values, None, residual)
    values, vectors, residual = eigen(H, Q)
    return block(values, back(vectors[:, 0]), residual)


def eigen(H: Float[Array, "m m"], Q: Float[Array, "m m"]) -> tuple[Array, Array, Array]:
    """Return eigenvalues and vectors of H, those in the range of the projection Q at +∞, and ‖H Q‖_F.

    As H Q ≈ 0, adding a multiple of Q moves the orbit's null directions out of the way, and changes the
    other eigenvalues by ‖H Q‖² at most.
    """
    raised, limit = _raised(H, Q)
    values, vectors = jnp.linalg.eigh(raised)
    return jnp.where(values > limit, jnp.inf, values), vectors, jnp.linalg.norm(H @ Q)


def eigenvalues(H: Float[Array, "m m"], Q: Float[Array, "m m"]) -> tuple[Array, Array]:
    """Return what `eigen` does, without the vectors, for a third of the cost."""
    raised, limit = _raised(H, Q)
    values = jnp.linalg.eigvalsh(raised)
    return jnp.where(values > limit, jnp.inf, values), jnp.linalg.norm(H @ Q)


def _raised(H: Float[Array, "m m"], Q: Float[Array, "m m"]) -> tuple[Array, Array]:
    """Return H with the range of Q raised beyond a limit, below which all its own eigenvalues are."""
    size = jnp.linalg.norm(H)
    away = 2.0 * jnp.maximum(size, jnp.finfo(H.dtype).tiny)
    return H + away * Q, (away + size) / 2


def block(
    values: Float[Array, " m"],
    direction: Any,
    orbit_residual: Float[Array, ""],
    copies: Int[Array, " m"] | int = 1,
) -> Block:
    """Return a block of all these eigenvalues, each as often as `copies` says."""
    norm = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0))
    copies = jnp.broadcast_to(jnp.asarray(copies, jnp.int32), values.shape)
    unmeasured = jnp.full((), jnp.nan, values.dtype)
    return Block(values, copies, direction, unmeasured, orbit_residual, norm, jnp.asarray(True))


def _by_lanczos(hv: Any, project: Any, x: Vector, flop: float) -> Block:
    """Return the lowest eigenpair, with the orbit's null directions raised.

    Where `LANCZOS_FLOP` did not suffice the block is not sound: its value is above the lowest eigenvalue.
    """
    key = jax.random.key(0)
    basis = max(16, min(96, BASIS_BYTES // (x.size * x.dtype.itemsize)))
    cycles = int(LANCZOS_FLOP / (flop * basis)) if flop else 400
    top = extreme_eigenpairs(
        hv, x.size, which="largest", key=key, rtol=1e-2, basis_size=basis, max_restarts=3, dtype=x.dtype
    )
    low = extreme_eigenpairs(
        lambda v: hv(v) + 2.0 * top.norm * project(v),
        x.size,
        key=key,
        rtol=ZERO_RTOL,
        basis_size=basis,
        max_restarts=max(1, min(400, cycles)),
        dtype=x.dtype,
    )
    tangent = project(jax.random.normal(key, x.shape, x.dtype))
    length = jnp.maximum(jnp.linalg.norm(tangent), jnp.finfo(x.dtype).tiny)
    found = block(low.values, low.vectors[:, 0], jnp.linalg.norm(hv(tangent)) / length)
    return found._replace(norm=top.norm, sound=low.status == Status.CONVERGED, lowest_alone=True)
