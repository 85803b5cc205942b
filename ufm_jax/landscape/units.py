"""What counts as zero: the one place where sizes of f, of its gradient and of its curvature are judged.

A landscape has units (`Landscape.units`): V, a size of f, and C, a size of its curvature, in coordinates in
which curvature is even (x = scale x̂, `Landscape.coordinate_scales`). The gradient's unit is then √(C V), and
what is judged is a ratio: ‖∇f‖/√(C V), gap/V, curvature against rounding of ‖H‖. Lengths are of order one.
Of a function of which nothing is known V = C = 1. The unconstrained feature model's are f itself and
s = √(λ_W λ_H), in coordinates where both decays are s: f, gradient and curvature all shrink with the
decays, and a point three times too high has ‖∇f‖ = 1e-11 at λ = 1e-12.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm_jax.landscape.point import Curvature

# ‖∇f‖ above this, in units: not a critical point. By a Newton step f falls by ‖∇f‖²/(2C), which is 1e-16 V/2.
GRAD_TOL = 1e-8
# f − bound below this, in units, with no negative curvature: globally minimal. The gap of a point near the
# minimum is about ‖∇f‖ in units, and searches come down to 1e-10.
GAP_TOL = 1e-9
# Two values of f within this, in units, are one level. Near a family of critical orbits f is flat: points
# solved to `SOLVED` have their loss to about 1e-10 of its unit; another version or device rounds by less.
LEVEL_TOL = 1e-8
SOLVED = 1e-10  # ‖∇f‖, in units, that a search must reach; it then takes one more Newton step
DESCENDED = 1e-11  # first-order searches have no last Newton step: they go on to this

# An eigenvalue is called zero when |λ| <= rtol ‖H‖ + (PER_GRAD + TURN / ρ) ‖∇f‖. The first term covers the
# rounding of H and of the eigen-solver, the second the distance to the exact critical point, which moves
# eigenvalues by ‖∇f‖ times the third derivative over the smallest non-zero eigenvalue. The third holds along
# the orbit of a small point: ∇f(e^{tA} x) = e^{tA} ∇f(x) for A skew, so H A x = A ∇f, and along a rotation in
# one plane ‖H v‖ ≤ ‖∇f‖/ρ, ρ the least ‖A x‖ (`Orbit.radius`); TURN is room for many.
ZERO_RTOL = 1e-10  # of a function that automatic differentiation takes as its user wrote it
PER_GRAD = 100.0
TURN = 10.0
# Relative to ‖H‖, what eigen-solvers leave of a zero. A zero is claimed of nothing larger than that and what
# rounding leaves of ‖∇f‖ in the tolerance; between this and the tolerance (and ten times that) is doubt: how
# far a point is from the critical one bounds how wrong an eigenvalue may be, and makes no number a zero.
ROUNDING = 1e-13
# An eigenvalue ±c at a point not quite critical need not be that of the critical point near by, if there is
# one: with third derivatives V q Kantorovich's condition is c² > 2 q V ‖∇f‖ (`doubt`). Where f is even along
# the direction, by a reflection, it is −c x²/2 + q V x⁴/24 where an orbit is born from another, and its slope
# stays below c^{3/2} (8/9qV)^{1/2} from one critical point to the other: c well beyond (q V ‖∇f‖²)^{1/3} is
# enough (`doubt_if_even`). Not where the gap to a lower bound is closed: a saddle would be within GAP_TOL of
# the global minimum.
FLAT = 10.0


class Units(NamedTuple):
    """Sizes at a point, in even coordinates; see the module's docstring."""

    value: Float[Array, "*B"]  # V
    curvature: Float[Array, "*B"]  # C
    rtol: float = ZERO_RTOL  # to which the Hessian is known, relative to ‖H‖

    @property
    def gradient(self) -> Float[Array, "*B"]:
        """√(C V), not as the root of a product that underflows."""
        return jnp.sqrt(self.value) * jnp.sqrt(self.curvature)


def to_even(direction: Any, scale: Any) -> Any:
    """Return a gradient times `scale`, one number a leaf; of a direction in even coordinates, that in x."""
    return direction if scale is None else jax.tree.map(lambda a, c: a * c, direction, scale)


def from_even(direction: Any, scale: Any) -> Any:
    """Return a point or direction in x in even coordinates: divided by `scale`."""
    return direction if scale is None else jax.tree.map(lambda a, c: a / c, direction, scale)


def even_norm(grad: Any, scale: Any) -> Float[Array, ""]:
    """Return ‖∇f‖₂ with respect to even coordinates."""
    return jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(to_even(grad, scale))))


def even_curvature(curvature: Curvature, scale: Any) -> Float[Array, ""]:
    """Return vᵀHv along the same direction, of unit length in even coordinates."""
    if scale is None:
        return curvature.value
    squares = curvature.squares
    if squares is None:
        squares = jax.tree.map(lambda a: jnp.sum(a**2), curvature.direction)
    length = jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(lambda square, c: square / c**2, squares, scale))))
    return curvature.value / jnp.maximum(length, jnp.finfo(length.dtype).tiny) ** 2


def zero_tolerance(
    size: Float[Array, ""], slope: Float[Array, ""], radius: Float[Array, ""], rtol: float = ZERO_RTOL
) -> Float[Array, ""]:
    """Return what |λ| may be of a zero eigenvalue: `size` bounds ‖H‖, `slope` is ‖∇f‖, `radius` the orbit's.

    All in even coordinates.
    """
    return rtol * size + per_slope(radius) * slope


def per_slope(radius: Float[Array, ""]) -> Float[Array, ""]:
    """Return by how much of ‖∇f‖ the tolerance of a zero grows, on an orbit of this radius."""
    return PER_GRAD + TURN / radius


def doubt(units: Units, slope: Float[Array, ""]) -> Float[Array, ""]:
    """Return below what a curvature, of either sign, shows nothing about the critical point near by.

    `slope` is ‖∇f‖ in even coordinates, and so is the curvature.
    """
    return FLAT * jnp.sqrt(units.value) * jnp.sqrt(slope)


def doubt_if_even(units: Units, slope: Float[Array, ""]) -> Float[Array, ""]:
    """Return `doubt` of a function that is even along directions of small curvature."""
    return FLAT * jnp.cbrt(units.value) * jnp.cbrt(slope) ** 2
