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
from ufm_jax.landscape.point import Point, ravel
from ufm_jax.numerics.derivatives import Vector, dense_matrix
from ufm_jax.numerics.lanczos import extreme_eigenpairs
from ufm_jax.numerics.status import Status

# An eigenvalue is called zero when |λ| <= ZERO_RTOL ‖H‖ + (ZERO_PER_GRAD + TURN / ρ) ‖∇f‖. The first term
# covers the eigen-solver's rounding (about 1e-15 ‖H‖), the second the distance to the exact critical point,
# which moves eigenvalues by ‖∇f‖ times the third derivative over the smallest non-zero eigenvalue. The third
# holds along the orbit of a small point: ∇f(e^{tA} x) = e^{tA} ∇f(x) for A skew, so H A x = A ∇f, and along a
# rotation in one plane ‖H v‖ ≤ ‖∇f‖/ρ, ρ the least ‖A x‖ (`Orbit.radius`); TURN is room for many.
ZERO_RTOL = 1e-10
ZERO_PER_GRAD = 100.0
TURN = 10.0
# An eigenvalue ±c at a point not quite critical need not be that of the critical point near by, if there is
# one: with third derivatives q of order one Kantorovich's condition is c² > 2 q ‖∇f‖ (`doubt`). Where f is
# even along the direction, by a reflection, it is −c x²/2 + q x⁴/24 where an orbit is born from another, and
# its slope stays below c^{3/2} (8/9q)^{1/2} from one critical point to the other: c well beyond
# (q ‖∇f‖²)^{1/3} is enough (`doubt_if_even`). Not where the gap to a lower bound is closed: a saddle would be
# within GAP_TOL of the global minimum.
FLAT = 10.0
ROUNDING = (
    1e-13  # relative to ‖H‖: what eigen-solvers leave of a zero; between this and the tolerance is doubt
)
DENSE_LIMIT = 2000  # variables of a block that is diagonalised; some seconds a point there
NOT_COUNTED = -1  # an index or a nullity that nobody counted
BASIS_BYTES = 2**28  # what a Lanczos basis may take: it is held twice
# What a Lanczos search may cost in Hessian products: minutes on 2 cores. Where gaps between the lowest
# eigenvalues are 1e-9 of the largest, it ends there, not converged.
LANCZOS_FLOP = 2e12


class Spectrum(NamedTuple):
    """Evidence about the Hessian of f at a (numerically) critical point."""

    lambda_min: Float[Array, ""]  # smallest eigenvalue of f modulo the orbit: on its tangent's complement
    residual: Float[Array, ""]  # ‖H v − λ_min v‖₂ of its eigenvector v, measured: an eigenvalue is so near
    direction: Any  # the lowest eigenvector that the landscape asked about has room for, ‖·‖ = 1
    # Eigenvalues below −tolerance, or NOT_COUNTED; the name hides tuple.index.
    index: Int[Array, ""]  # type: ignore[assignment]
    nullity: Int[Array, ""]  # eigenvalues within ±tolerance, the orbit's included, or NOT_COUNTED
    orbit_dim: Int[Array, ""]
    orbit_residual: Float[Array, ""]  # ‖H Q‖, Q the projection onto the orbit's tangent space
    tolerance: Float[Array, ""]  # below which |λ| is called zero
    doubt: Float[Array, ""]  # below which |λ| is not known to have its sign at the critical point near by
    null: Float[Array, ""]  # below which |λ| is a zero that an eigen-solver returns, and no small number
    clear: Bool[
        Array, ""
    ]  # no eigenvalue is negative and near the tolerance or in `doubt`; the orbit is null
    resolved: Bool[Array, ""]  # and no positive one, modulo the orbit, is near the tolerance


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


def zero_tolerance(
    size: Float[Array, ""], grad_norm: Float[Array, ""], radius: Float[Array, ""]
) -> Float[Array, ""]:
    """Return what |λ| may be of a zero eigenvalue, `size` a bound on ‖H‖, `radius` that of the orbit."""
    return ZERO_RTOL * size + (ZERO_PER_GRAD + TURN / radius) * grad_norm


def doubt(grad_norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return below what a curvature, of either sign, shows nothing about the critical point near by."""
    return FLAT * jnp.sqrt(grad_norm)


def doubt_if_even(grad_norm: Float[Array, ""]) -> Float[Array, ""]:
    """Return `doubt` of a function that is even along directions of small curvature."""
    return FLAT * jnp.cbrt(grad_norm**2)


def assembled(
    point: Point,
    orbit: Orbit,
    blocks: list[Block],
    doubt: Float[Array, ""],
    floor: Float[Array, ""] | float = -jnp.inf,
) -> Spectrum:
    """Return what the blocks say together, `orbit` being that of the point in the landscape asked about.

    `doubt` is the landscape's, `floor` bounds all eigenvalues from below: where they were not counted it may
    show that none is negative.
    """
    grad_norm = jnp.linalg.norm(ravel(point.grad))
    held = [b for b in blocks if b.direction is not None]
    which = jnp.argmin(jnp.stack([b.values[0] for b in held]))
    direction = jax.tree.map(lambda *leaves: jnp.stack(leaves)[which], *(b.direction for b in held))
    along = jnp.stack([b.values[0] for b in held])[which]
    measured = jnp.linalg.norm(ravel(point.hv(direction)) - along * ravel(direction))
    lowest = jnp.stack([along, *(b.values[0] for b in blocks if b.direction is None)])
    residual = jnp.stack([measured, *(b.residual for b in blocks if b.direction is None)])
    values, copies = (jnp.concatenate([getattr(b, name) for b in blocks]) for name in ("values", "copies"))
    orbit_residual = jnp.max(jnp.stack([b.orbit_residual for b in blocks]))
    norm = jnp.max(jnp.stack([b.norm for b in blocks]))
    tolerance = zero_tolerance(norm, grad_norm, orbit.radius)
    index = jnp.sum(jnp.where(values < -tolerance, copies, 0)).astype(jnp.int32)
    null_elsewhere = jnp.sum(jnp.where(jnp.abs(values) <= tolerance, copies, 0)).astype(jnp.int32)
    nullity = null_elsewhere + orbit.dim
    for b in blocks:
        if b.lowest_alone:  # the nullity is known where the lowest is not zero
            index = jnp.where(floor >= -tolerance, 0, NOT_COUNTED).astype(jnp.int32)
            nullity = jnp.where(b.sound & (b.values[0] > tolerance), nullity, NOT_COUNTED)
    unsure = jnp.maximum(10 * tolerance, doubt)
    sound = jnp.all(jnp.stack([b.sound for b in blocks]))
    clear = ~jnp.any((values < -tolerance) & (values > -unsure)) & (orbit_residual <= tolerance) & sound
    clear &= measured <= 10 * tolerance  # also where it is not the lowest's
    return Spectrum(
        lambda_min=jnp.min(lowest),
        residual=residual[jnp.argmin(lowest)],
        direction=direction,
        index=index,
        nullity=nullity.astype(jnp.int32),
        orbit_dim=orbit.dim,
        orbit_residual=orbit_residual,
        tolerance=tolerance,
        doubt=doubt,
        null=tolerance - (ZERO_RTOL - ROUNDING) * norm,
        clear=clear,
        resolved=clear & ~jnp.any((values > tolerance) & (values < 10 * tolerance)),
    )


def whole_block(point: Point, orbit: Orbit, *, flop: float = 0.0) -> Block:
    """Return the block of all variables of a point: its eigenpairs, or beyond `DENSE_LIMIT` the lowest.

    `flop` is what one Hessian product costs: Lanczos makes no more of them than `LANCZOS_FLOP` allow.
    """
    x, back = ravel_pytree(point.x)
    hv = lambda v: ravel(point.hv(back(v)))
    project = lambda v: ravel(orbit.project(back(v)))
    if x.size > DENSE_LIMIT:
        found = _by_lanczos(hv, project, x, flop)
        return found._replace(direction=back(found.direction))
    values, vectors, residual = eigen(dense_matrix(hv, x), dense_matrix(project, x))
    return block(values, back(vectors[:, 0]), residual)


def eigen(H: Float[Array, "m m"], Q: Float[Array, "m m"]) -> tuple[Array, Array, Array]:
    """Return eigenvalues and vectors of H, those in the range of the projection Q at +∞, and ‖H Q‖_F.

    As H Q ≈ 0, adding a multiple of Q moves the orbit's null directions out of the way, and changes the
    other eigenvalues by ‖H Q‖² at most.
    """
    away = 2.0 * jnp.linalg.norm(H) + 1.0
    values, vectors = jnp.linalg.eigh(H + away * Q)
    kept = jnp.where(values > away / 2 + jnp.linalg.norm(H) / 2, jnp.inf, values)
    return kept, vectors, jnp.linalg.norm(H @ Q)


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
