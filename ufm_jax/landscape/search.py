"""From a start to a critical point, by methods that are values."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array, Float, Int

from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.flat import even, oracle, unravel
from ufm_jax.landscape.landscape import Key, Landscape, Target, sizes_of
from ufm_jax.landscape.point import leaf_name, ravel
from ufm_jax.landscape.units import DESCENDED, GRAD_TOL, SOLVED
from ufm_jax.numerics import lockstep
from ufm_jax.numerics.descent import Solution, trust_region_newton
from ufm_jax.numerics.following import eigenvector_following
from ufm_jax.numerics.marquardt import marquardt
from ufm_jax.numerics.rootfind import levenberg_marquardt, natural_newton
from ufm_jax.numerics.status import Status
from ufm_jax.precision import require_x64


class CriticalPoint(NamedTuple):
    """Where a search ended, in the landscape it was asked about."""

    x: Any
    grad_norm: Float[Array, ""]  # measured again here, whatever space the search ran in
    status: Int[Array, ""]
    num_steps: Int[Array, ""]

    @property
    def params(self) -> Any:
        """The same as `x`."""
        return self.x

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{leaf_name(path)} {jnp.shape(a)}" for path, a in tree_flatten_with_path(self.x)[0]
        )
        return f"CriticalPoint({_ended(self)}; {shapes})"


def _ended(found: CriticalPoint) -> str:
    """Return how one search ended, or many, in words; of traced points nothing is known."""
    numbers = (found.status, found.grad_norm, found.num_steps)
    if not all(isinstance(a, int | float | np.generic | np.ndarray | jax.Array) for a in numbers):
        return "no numbers"
    if any(isinstance(a, jax.core.Tracer) for a in numbers):
        return "traced"
    status, norm, steps = (np.asarray(a) for a in numbers)
    if status.ndim == 0:
        return f"{Status(int(status)).name}, gradient norm {float(norm):.2e}, {int(steps)} steps"
    codes, counts = np.unique(status, return_counts=True)
    each = ", ".join(f"{Status(int(code)).name} {count}" for code, count in zip(codes, counts, strict=True))
    largest = f"; largest gradient norm {np.max(norm):.2e}" if norm.size else ""
    return f"{status.size} points: {each or 'none'}{largest}"


class Newton(NamedTuple):
    """Descent by trust-region Newton: `numerics.descent.trust_region_newton`."""

    max_steps: int = 500
    gtol: float = SOLVED
    radius: float = 1.0

    def run(self, landscape: Landscape, x: Any) -> Solution:
        """Search from a point of a landscape, to one of it."""
        f = even(landscape)
        found = trust_region_newton(
            f.expand, f.into(x), gtol=self.gtol, max_steps=self.max_steps, radius=self.radius, unit=f.unit
        )
        return found._replace(x=f.back(found.x))


class LevenbergMarquardt(NamedTuple):
    """A critical point of any index near by: `numerics.rootfind.levenberg_marquardt`, then `natural_newton`.

    The first in coordinates as given and then in even ones, if they are others: a local minimum of ‖∇f‖ with
    ∇f ≠ 0, where it stalls, is none in other coordinates. The second where that does not come down, as in
    flat tails of exponentials it does not.
    """

    max_steps: int = 300
    gtol: float = SOLVED

    def run(self, landscape: Landscape, x: Any) -> Solution:
        """Search from a point of a landscape, to one of it."""
        f = even(landscape)
        lm = partial(levenberg_marquardt, max_steps=self.max_steps)
        steps = jnp.zeros((), jnp.int32)
        if (stretch := f.stretch) is not None:
            near = max(self.gtol, GRAD_TOL)  # from where its last step squares the gradient
            first = lm(oracle(landscape), ravel(x), gtol=near, unit=lambda value: f.unit(value) / stretch)
            x, steps = unravel(landscape, first.x), first.num_steps
        found = lm(f.expand, f.into(x), gtol=self.gtol, unit=f.unit, polish=f.stretch is None)
        last = natural_newton(f.expand, found.x, gtol=self.gtol, unit=f.unit)
        return last._replace(x=f.back(last.x), num_steps=steps + found.num_steps + last.num_steps)


class EigenvectorFollowing(NamedTuple):
    """A saddle of one index, counted modulo the symmetry: `numerics.following.eigenvector_following`."""

    index: int  # type: ignore[assignment]
    max_steps: int = 1000
    gtol: float = SOLVED

    def run(self, landscape: Landscape, x: Any) -> Solution:
        """Search from a point of a landscape, to one of it."""
        f = even(landscape)
        found = eigenvector_following(
            f.expand,
            f.into(x),
            self.index,
            tangents=f.tangents,
            gtol=self.gtol,
            max_steps=self.max_steps,
            unit=f.unit,
        )
        return found._replace(x=f.back(found.x))


Method = Newton | LevenbergMarquardt | EigenvectorFollowing


def method_of(target: Target) -> Method:
    """Return the method that a sweep toward a target uses, start by start."""
    if isinstance(target, int):
        return EigenvectorFollowing(target)
    return Newton() if target == "minima" else LevenbergMarquardt()


def search_from(landscape: Landscape, space: Landscape, start: Any, method: Method) -> CriticalPoint:
    """Search in `space` from a point of it; the end is lifted to `landscape` and measured there."""
    found = method.run(space, start)
    follows = isinstance(method, EigenvectorFollowing)
    x = landscape.lift(found.x)
    return _measured(landscape, x, found.status, found.num_steps, method.gtol, met_is_enough=not follows)


def _measured(
    landscape: Landscape,
    x: Any,
    status: Int[Array, ""],
    num_steps: Int[Array, ""],
    gtol: float,
    met_is_enough: bool = True,
) -> CriticalPoint:
    """Measure the gradient where a search ended: whether it has come down is decided here.

    That is enough unless the search stalls also where the index is another.
    """
    point = landscape.evaluate(x)
    norm, slope = landscape.gradient_norms(point)
    enough = 10 * gtol * sizes_of(landscape, point.value).gradient
    met = slope <= jnp.maximum(enough, landscape.gradient_noise(point))
    status = jnp.where((status == Status.CONVERGED) & ~met, Status.STALLED, status)
    if met_is_enough:
        status = jnp.where((status == Status.STALLED) & met, Status.CONVERGED, status)
    return CriticalPoint(point.x, norm, status.astype(jnp.int32), num_steps)


def search_start(
    landscape: Landscape, key: Key, number: Int[Array, ""] | int = 0, target: Target = "minima"
) -> CriticalPoint:
    """Draw the start of this number toward a target and search from it, where that costs least."""
    space = landscape.space(target)
    start = space.restrict(landscape.draw(key, jnp.asarray(number), target))
    return search_from(landscape, space, start, method_of(target))


def search(landscape: Landscape, start: Any, method: Method | None = None) -> CriticalPoint:
    """Search from one start, or from many along the first axis of every leaf; compiled once a shape.

    By default a descent (`Newton`). `LevenbergMarquardt` may run in a smaller space that holds every critical
    point (`Landscape.space`): the unconstrained feature model's are class means.

    Raises:
        ValueError: naming the leaf of `start` whose shape or dtype is not the landscape's; if 64-bit floating
            point is off.
    """
    require_x64(landscape)
    like = jax.tree.leaves(jax.eval_shape(landscape.zeros))
    given = jax.tree.leaves(start)
    many = len(given) == len(like) and all(
        getattr(a, "ndim", -1) == b.ndim + 1 for a, b in zip(given, like, strict=True)
    )
    return _search(landscape, landscape.check(start, many=many), method or Newton(), many)


@partial(jax.jit, static_argnames=("method", "many"))
def _search(landscape: Landscape, start: Any, method: Method, many: bool) -> CriticalPoint:
    if isinstance(method, Newton):
        space = landscape
    else:  # an index is counted over all coordinates, which the space of all saddles need not have
        space = landscape.space(method.index if isinstance(method, EigenvectorFollowing) else "saddles")
    one = lambda x: search_from(landscape, space, space.restrict(x), method)
    return jax.lax.map(one, start) if many else one(start)


def descend_together(
    landscape: Landscape,
    space: Landscape,
    fields: dict[str, Array],
    starts: Any,
    count: Int[Array, ""] | int,
    gtol: float = DESCENDED,
    max_steps: int = 2000,
) -> CriticalPoint:
    """Descend in `space` from the first `count` of S starts there at once; CONVERGED is ‖∇f‖ ≤ `SOLVED`.

    Starts, the entries of `fields` (see `Landscape.batched`) and results have S entries along their first
    axis. First order (`numerics.lockstep`): many times faster than `Newton` where there are many starts, and
    nearly as exact.
    """
    f = space.batched(fields)
    found = lockstep.bfgs(
        f.at,
        f.into(jax.vmap(ravel)(starts).T),
        f.data,
        count,
        width=f.width,
        gtol=gtol,
        sizes=f.sizes,
        max_steps=max_steps,
    )
    norms = jnp.linalg.norm(f.into(f.at(found.x, f.data)[1]), axis=0)
    x = jax.vmap(lambda x: landscape.lift(unravel(space, x)))(f.back(found.x).T)
    status = jnp.where(found.grad_norm <= SOLVED, Status.CONVERGED, found.status).astype(jnp.int32)
    return CriticalPoint(x, norms, status, found.num_steps)


def approach_together(
    landscape: Landscape,
    space: Landscape,
    fields: dict[str, Array],
    starts: Any,
    count: Int[Array, ""] | int,
    method: LevenbergMarquardt,
) -> CriticalPoint:
    """Search in `space` for critical points of any index, from the first `count` of S starts there at once.

    As `descend_together`, by `numerics.marquardt`: for a space whose `shift_size` is not 0.
    """
    f = space.shifted(fields)
    found = marquardt(
        f.slope,
        f.shift,
        f.into(starts),
        f.data,
        count,
        width=space.shift_size,
        gtol=method.gtol,
        max_steps=method.max_steps,
    )
    x = jax.vmap(landscape.lift)(f.back(found.x))
    return jax.vmap(
        lambda x, fields, status, steps: _measured(at_lane(landscape, fields), x, status, steps, method.gtol)
    )(x, fields, found.status, found.num_steps)
