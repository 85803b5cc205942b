"""A landscape: a smooth function on a pytree of arrays, and what is known of it.

All that the explorer does (searches, verdicts modulo symmetry, distinct orbits, sweeps, pictures) needs a
`Landscape` and no more. A new one is a subclass with `value` and `zeros`:

    class Factorisation(Landscape):
        M: Array                # a leaf: traced, so that a grid over it compiles once
        rank: int = static()    # sizes and choices: part of what is compiled

        def zeros(self): ...
        def value(self, x): ...

Everything else has a default which says that nothing more is known.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ufm_jax.landscape.balls import Balls
from ufm_jax.landscape.checks import checked
from ufm_jax.landscape.fields import Structure, at_lane, static
from ufm_jax.landscape.orbit import Orbit, orbit_of
from ufm_jax.landscape.point import Curvature, Point, ravel
from ufm_jax.landscape.spectrum import DENSE_LIMIT, Block, whole_block
from ufm_jax.landscape.units import Units, doubt, even_norm
from ufm_jax.numerics.derivatives import dense_hessian, floating
from ufm_jax.numerics.lockstep import Sizes, Stacked
from ufm_jax.numerics.marquardt import Shift, Slope

Key = PRNGKeyArray
Target = str | int  # "minima", "saddles" of any index, or the index of saddles
Effort = Literal["certificate", "escape", "spectrum"]

START_SCALES = (0.01, 3.0)  # range of the standard deviation of random starts
BATCH = 64  # points evaluated at once where nobody knows better


class Known(NamedTuple):
    """What a landscape tells of a point without the Hessian's spectrum."""

    bound: Float[Array, ""]  # on the global minimum, from below; NaN or -inf: none
    floor: Float[Array, ""]  # on every eigenvalue of the Hessian in even coordinates, from below
    tolerance: Float[Array, ""]  # size of a curvature that counts as zero, in even coordinates
    measures: dict[str, Array]
    escape: Curvature | None = None  # a direction that may lead down


class Batched(NamedTuple):
    """f at many points at once, the batch last, in even coordinates (`Landscape.coordinate_scales`)."""

    at: Stacked
    data: Any  # its second argument: constants of the lanes
    sizes: Sizes  # value, data -> units of value and of curvature
    into: Callable[[Float[Array, "D B"]], Float[Array, "D B"]]  # coordinates of the landscape -> these
    back: Callable[[Float[Array, "D B"]], Float[Array, "D B"]]
    width: int  # how many points to evaluate at once


class Shifted(NamedTuple):
    """∇f and (∇²f + iσ)⁻¹ ∇f at many points at once, the batch last (`numerics.marquardt`)."""

    slope: Callable[..., Slope]
    shift: Callable[..., Shift]
    data: Any  # their second argument: constants of the lanes
    into: Callable[[Any], Float[Array, "D B"]]  # points of the landscape, on the first axis, -> these
    back: Callable[[Float[Array, "D B"]], Any]


class Landscape(Structure):
    """A smooth function on a pytree of arrays, and what is known of it; see the module's docstring.

    A subclass is made a frozen dataclass with keyword arguments, and a pytree: its fields are leaves (arrays,
    or pytrees of arrays, of floating-point numbers), except those marked `static()`. Methods take one point x
    and are traced; nothing in them may depend on the numbers in x by Python's `if`.
    """

    # What users must give.

    def value(self, x: Any) -> Float[Array, ""]:
        """Return f at x."""
        raise NotImplementedError(f"{type(self).__name__} needs a method value(self, x)")

    def zeros(self) -> Any:
        """Return a point of zeros: the shapes and dtype of x."""
        raise NotImplementedError(f"{type(self).__name__} needs a method zeros(self)")

    # What they may give.

    def start(self, key: Key) -> Any:
        """Return a random start: independent normal numbers, of a scale log-uniform over `START_SCALES`."""
        scale_key, point_key = jax.random.split(key)
        low, high = np.log(START_SCALES)
        leaves, form = jax.tree.flatten(self.zeros())
        dtype = leaves[0].dtype
        scale = jnp.exp(jax.random.uniform(scale_key, (), dtype, low, high))
        keys = jax.random.split(point_key, len(leaves))
        drawn = [scale * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(form, drawn)

    def tangents(self, x: Any) -> Any:
        """Return directions at x along which the symmetry of f moves it: as x, each leaf with a leading axis.

        They need not be independent, nor of one length; f must not change along any of them.
        """
        return jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), self.zeros())

    def invariants(self, x: Any) -> Float[Array, " m"]:
        """Return a vector that the symmetry, discrete symmetry too, leaves alone: equal, if on one orbit.

        By default f and its Hessian's spectrum, in units, which different orbits hardly ever share; f alone
        where the Hessian is too large to diagonalise. It is arsinh f: invariants are compared relative to the
        largest, and a large constant added to f must not hide the rest.
        """
        units = sizes_of(self, self.value(x))
        value = jnp.arcsinh(self.value(x) / units.value)[None]
        if self.num_variables > DENSE_LIMIT:
            return value
        return jnp.concatenate([value, jnp.linalg.eigvalsh(dense_hessian(self.value)(x)) / units.curvature])

    @property
    def tells_orbits(self) -> bool:
        """Whether `invariants` and `same_orbit` tell orbits apart without the Hessian's spectrum.

        Only then do points share one. By default where the landscape has invariants of its own.
        """
        return type(self).invariants is not Landscape.invariants

    def lower_bound(self, x: Any) -> Float[Array, ""]:
        """Return a lower bound on the global minimum; it may depend on x, and must hold whatever x is."""
        return jnp.full((), -jnp.inf, jax.tree.leaves(self.zeros())[0].dtype)

    def measures(self, x: Any) -> dict[str, Array]:
        """Return more numbers to record of a point, each a scalar, by name."""
        return {}

    def shape(self, x: Any) -> Float[Array, " m"]:
        """Return numbers that the continuous symmetry leaves alone, and by which the orbit of x is known.

        Cheaper than `invariants`, the default, if they are others: discrete symmetry may change them.
        """
        return self.invariants(x)

    def name_of(self, x: Any) -> str:
        """Return what a critical point is called, from its numbers (it is not traced); by default nothing."""
        return ""

    def picture(self, x: Any) -> Float[np.ndarray, "m n"] | None:
        """Return a matrix by which a point is shown beside others (it is not traced); by default none."""
        return None

    def units(self, value: Float[Array, "..."]) -> Units:
        """Return sizes of f and of its curvature where f is `value`: what is small is small beside these.

        By default 1 and 1: right for a function of order one with lengths of order one.
        """
        one = jnp.ones_like(value)
        return Units(one, one)

    # What a landscape of this package overrides, for speed or knowledge.

    @property
    def name(self) -> str:
        """What it is called in tables and pages."""
        return type(self).__name__

    def check(self, x: Any, *, many: bool = False) -> Any:
        """Return a point as JAX arrays: its structure, shapes and dtypes are those of `zeros`.

        With `many` they are any number of points, along the first axis of every leaf. Traced arrays will do,
        as their shapes and dtypes are known.

        Raises:
            ValueError: naming the leaf and what is wrong with it.
        """
        return checked(x, jax.eval_shape(self.zeros), many=many)

    def evaluate(self, x: Any) -> Point:
        """Return f, its gradient and its Hessian product at x."""
        (value, grad), push = jax.linearize(jax.value_and_grad(self.value), x)
        return Point(x, value, grad, lambda v: push(v)[1])

    def orbit(self, point: Point) -> Orbit:
        """Return the orbit's tangent space."""
        return orbit_of(point.x, self.tangents(point.x))

    def blocks(self, point: Point, *, counting: bool = False) -> tuple[Orbit, list[Block]]:
        """Return the orbit, and blocks whose eigenvalues together are the Hessian's modulo the orbit.

        With `counting` no directions are asked for.
        """
        orbit = self.orbit(point)
        return orbit, [whole_block(point, orbit, counting=counting)]

    def known(self, point: Point, effort: Effort) -> Known:
        """Return what is known of a point, at no more cost than `effort` allows."""
        nothing = jnp.full_like(point.value, -jnp.inf)
        return Known(self.lower_bound(point.x), nothing, jnp.zeros_like(point.value), self.measures(point.x))

    def doubt(self, units: Units, slope: Float[Array, ""]) -> Float[Array, ""]:
        """Return below what size curvature says nothing of the critical point near by, where ‖∇f‖ is `slope`.

        Both in even coordinates.
        """
        return doubt(units, slope)

    def coordinate_scales(self) -> Any:
        """Return as x, one positive number a leaf: x = scale x̂ has even curvature in x̂; None for ones."""
        return None

    def in_even_coordinates(self, point: Point) -> tuple["Landscape", Point]:
        """Return the landscape of x̂ (`coordinate_scales`), where zeros are told, and the point there."""
        return self, point

    def gradient_noise(self, point: Point) -> Float[Array, ""]:
        """Return what rounding may leave of ‖∇f‖ in even coordinates; by default nothing is known."""
        return jnp.zeros_like(point.value)

    def gradient_norms(self, point: Point) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return ‖∇f‖₂, and that in even coordinates."""
        return point.grad_norm, even_norm(point.grad, self.coordinate_scales())

    def efforts(self, target: Target) -> tuple[Effort, ...]:
        """Return what is worth trying on ends of searches, cheapest first, before a spectrum is taken."""
        return ()

    def space(self, purpose: Target | Effort | Literal["rows", "points"]) -> "Landscape":
        """Return the landscape in which a search or a judgement is made instead, at less cost.

        Its points are `restrict`ed ones of this landscape, and `lift` brings them back. "rows" is for all of
        a sweep's work on one start, "points" for what a sweep keeps of where it ended.
        """
        return self

    def restrict(self, x: Any) -> Any:
        """Return a point of a larger landscape as one of this."""
        return x

    def lift(self, x: Any) -> Any:
        """Return a point (or a direction) of a smaller landscape as one of this: an isometry."""
        return x

    def space_at(self, x: Any) -> tuple["Landscape", Any, Callable[[Any], Any]]:
        """Return a landscape of fewer variables that holds the critical point x and its branch.

        With it come x there, exactly, and the way back, an isometry that does not depend on the leaves.
        """
        return self, x, lambda y: y

    def balls(self, x: Any, **fields: Any) -> Balls:
        """Return this landscape over balls near the critical point x, in coordinates that suit a proof.

        `fields` are balls in place of the exact numbers in leaves of these names.

        Raises:
            ValueError: naming the landscape: by default it has no such form.
        """
        raise ValueError(
            f"landscape: {type(self).__name__} cannot be evaluated over balls, as a proof must: give it a "
            "method balls(self, x, **fields) that returns a ufm_jax.landscape.balls.Balls: f, gradient, "
            "Hessian and tangents of the symmetry in python-flint's balls, as ufm.Factorisation has it"
        )

    def draw(self, key: Key, number: Int[Array, ""], target: Target) -> Any:
        """Return the start of this number toward a target; by default `start`, whatever the number."""
        return self.start(key)

    def batched(self, lanes: dict[str, Array]) -> Batched:
        """Return f at many points, where each field in `lanes` has one entry a point, on its first axis."""
        form = self.zeros()
        back = ravel_pytree(form)[1]

        def one(x: Float[Array, " D"], fields: dict[str, Array]) -> tuple[Array, Array]:
            value, grad = jax.value_and_grad(at_lane(self, fields).value)(back(x))
            return value, ravel(grad)

        def sizes(value: Float[Array, ""], fields: dict[str, Array]) -> tuple[Array, Array]:
            units = sizes_of(at_lane(self, fields), value)
            return units.value, units.curvature

        same = lambda x: x
        return Batched(
            at=jax.vmap(one, in_axes=(1, -1), out_axes=(0, 1)),
            data={name: jnp.moveaxis(values, 0, -1) for name, values in lanes.items()},
            sizes=jax.vmap(sizes, in_axes=(0, -1)),
            into=same,
            back=same,
            width=self.batch_size,
        )

    @property
    def shift_size(self) -> int:
        """How many points `shifted` evaluates at once; 0: it does not, and each is searched by itself."""
        return 0

    def shifted(self, lanes: dict[str, Array]) -> Shifted:
        """Return ∇f and shifted solves at many points, toward critical points of any index.

        Each field in `lanes` has one entry a point, as for `batched`. Asked for only where `shift_size` > 0.
        """
        raise NotImplementedError

    def spaces(self, starts: Any) -> list[tuple["Landscape", np.ndarray]]:
        """Return smaller landscapes that searches toward saddles do not leave, and which starts are in each.

        `starts` are points of `space("saddles")`, along the first axis of every leaf, in NumPy.
        """
        return [(self.space("saddles"), np.arange(len(jax.tree.leaves(starts)[0])))]

    @property
    def num_variables(self) -> int:
        """D, how many numbers a point has."""
        return sum(a.size for a in jax.tree.leaves(jax.eval_shape(self.zeros)))

    @property
    def numbers_held(self) -> int:
        """How many numbers an evaluation holds at once, about."""
        return self.num_variables

    @property
    def batch_size(self) -> int:
        """How many points to evaluate at once in a first-order search."""
        return BATCH

    @property
    def short_sums(self) -> bool:
        """True if sums in an evaluation are so short that XLA does best without its library of reductions."""
        return False

    @property
    def largest_block(self) -> int:
        """How many variables the largest of the Hessian's blocks has."""
        return self.num_variables

    def split(self) -> tuple["Landscape", dict[str, np.ndarray]]:
        """Return the first of several settings that the fields hold, and all of them; by default one."""
        return self, {}

    def known_minimum(self) -> Float[Array, ""]:
        """Return the global minimum where a formula gives it, else NaN."""
        return jnp.full((), jnp.nan, jax.tree.leaves(self.zeros())[0].dtype)

    def predictions(self) -> dict[str, Any]:
        """Return what theory says of it, in Python: names and plain numbers, for JSON; nothing by default.

        Two names have a meaning for whoever prints them beside what was found: `loss`, the global minimum,
        and `critical_values`, f at critical points by their name.
        """
        return {}

    # Of a census, in Python: points there are single vectors of the space of all saddles, in NumPy.

    def check_census(self, starts: int | None) -> None:
        """Refuse what no census can be of, or one of so many starts (0: till it ends; None: insisted on).

        Raises:
            ValueError: naming what is wrong.
        """

    def census_starts(self, seed: int, number: int, size: int) -> tuple[Any, Any] | None:
        """Return a round's starts, on the first axis, and the method to search by; None: those of `draw`."""
        return None

    def same_orbit(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Say whether two points whose invariants agree are on one orbit, of discrete symmetry, too."""
        return True

    def copies_of(self, x: np.ndarray) -> int | None:
        """Return how many orbits of the continuous symmetry a point's orbit consists of; None: not known."""
        return None

    @property
    def discrete_order(self) -> int:
        """The order of the discrete symmetry, by which `copies_of` are counted."""
        return 1

    def completeness(self, rows: list[Any], points: np.ndarray) -> list[Any]:
        """Test a list of orbits (`orbits.OrbitRow`): records with a field `passed`, which may be None."""
        return []

    @staticmethod
    def of(f: Callable[[Any], Float[Array, ""]], like: Any) -> "Landscape":
        """Return the landscape of a function without a class; its points look as `like`, which is a start.

        Raises:
            ValueError: naming `f`, if it cannot be called; naming the leaf of `like` that is no
                floating-point array, or not of the others' dtype.
        """
        if not callable(f):
            raise ValueError(f"f: need a function of one point, got {type(f).__name__}")
        leaves, form = jax.tree.flatten(floating(like, "like"))
        return _Function(f=f, form=form, shapes=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves))


class _Function(Landscape):
    """A function's landscape: nothing is known but its values."""

    f: Callable[[Any], Float[Array, ""]] = static()
    form: Any = static()
    shapes: tuple[jax.ShapeDtypeStruct, ...] = static()

    @property
    def name(self) -> str:
        return getattr(self.f, "__name__", "function")

    def zeros(self) -> Any:
        return jax.tree.unflatten(self.form, [jnp.zeros(a.shape, a.dtype) for a in self.shapes])

    def value(self, x: Any) -> Float[Array, ""]:
        return self.f(x)


def sizes_of(landscape: Landscape, value: Float[Array, "..."]) -> Units:
    """Return a landscape's units as arrays, where the user's may be Python's floats."""
    units = landscape.units(value)
    V, C = (jnp.broadcast_to(jnp.asarray(a, value.dtype), value.shape) for a in units[:2])
    return Units(V, C, units.rtol)


def check_is_landscape(landscape: Any) -> None:
    """Check that it is one.

    Raises:
        ValueError: naming the landscape, and what to do.
    """
    if not isinstance(landscape, Landscape):
        raise ValueError(
            f"landscape: need a Landscape, got {type(landscape).__name__}; ufm.Landscape.of(f, like=x0) is a "
            "function's"
        )
