"""The unconstrained feature model as a landscape: what the explorer may know of it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.balls import Balls
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Batched, Effort, Shifted, Target
from ufm_jax.landscape.units import Units, doubt_if_even
from ufm_jax.models.unconstrained import (
    balls,
    blocks,
    census,
    certificate,
    names,
    objective,
    reduction,
    shifted,
    sizes,
    stacked,
    starts,
    symmetry,
    theory,
)
from ufm_jax.models.unconstrained.loss_checks import check_loss
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.permutations import group_order
from ufm_jax.models.unconstrained.problem import (
    MOST,
    Params,
    Problem,
    checked_counts,
    checked_decay,
    checked_size,
)


class UnconstrainedFeatureModel(Problem):
    """f(W, H, b), full or on class means, in all feature coordinates or those that points can use."""

    @property
    def name(self) -> str:
        return "unconstrained feature model"

    def value(self, x: Params) -> Float[Array, ""]:
        return objective.objective(self)(x)

    # Written where its mathematics is; mypy minds that x is called p there.
    evaluate = objective.expand  # type: ignore[assignment]
    start = starts.gaussian_of_some_scale
    draw = starts.draw
    tangents = symmetry.tangents  # type: ignore[assignment]
    invariants = symmetry.invariants  # type: ignore[assignment]
    shape = symmetry.shape  # type: ignore[assignment]
    orbit = symmetry.orbit_at
    blocks = blocks.blocks
    known = certificate.known
    units = sizes.units
    coordinate_scales = sizes.scale
    in_even_coordinates = sizes.even
    gradient_noise = sizes.noise
    gradient_norms = sizes.gradient_norms
    predictions = theory.predict
    space = reduction.space
    spaces = reduction.spaces  # type: ignore[assignment]
    space_at = reduction.space_at  # type: ignore[assignment]
    restrict = reduction.restrict  # type: ignore[assignment]
    lift = reduction.lift  # type: ignore[assignment]
    known_minimum = theory.global_minimum
    check_census = census.check
    census_starts = census.starts
    same_orbit = census.same_orbit
    copies_of = census.copies
    name_of = names.name_at  # type: ignore[assignment]
    picture = names.logits_at  # type: ignore[assignment]
    completeness = census.completeness

    def lower_bound(self, x: Params) -> Float[Array, ""]:
        return certificate.dual_bound(self, self.evaluate(x))

    def measures(self, x: Params) -> dict[str, Array]:
        return certificate.measures(self, x, symmetry.rank(self, x))

    @property
    def tells_orbits(self) -> bool:
        return self.loss.convex  # else features of a class may differ, and class means do not tell

    def doubt(self, units: Units, slope: Float[Array, ""]) -> Float[Array, ""]:
        return doubt_if_even(units, slope)  # a feature coordinate may be reversed

    @property
    def discrete_order(self) -> int:
        return group_order(self.kinds)

    def efforts(self, target: Target) -> tuple[Effort, ...]:
        if not self.loss.convex:
            return ()
        return ("certificate", "escape") if target == "minima" else ("escape",)

    def balls(self, x: Params, **fields: Any) -> Balls:
        return balls.model_balls(self, x, fields)

    def batched(self, lanes: dict[str, Array]) -> Batched:
        return stacked.batched(at_lane(self, lanes))

    @property
    def shift_size(self) -> int:
        return shifted.batch_size(self) if self.collapsed and self.loss.convex else 0

    def shifted(self, lanes: dict[str, Array]) -> Shifted:
        return shifted.shifted(at_lane(self, lanes))

    @property
    def batch_size(self) -> int:
        return stacked.batch_size(self)

    @property
    def short_sums(self) -> bool:
        return stacked.short_sums(self)

    @property
    def largest_block(self) -> int:
        return reduction.reduced(self).num_variables

    def split(self) -> tuple[Problem, dict[str, np.ndarray]]:
        decays = {name: np.asarray(getattr(self, name)) for name in ("decay_w", "decay_h", "decay_b")}
        if not any(values.ndim for values in decays.values()):
            return self, {}
        each = dict(zip(decays, map(np.ravel, np.broadcast_arrays(*decays.values())), strict=True))
        return at_lane(self, {name: jnp.asarray(values[0]) for name, values in each.items()}), each


def problem(
    *,
    num_classes: int | None = None,
    per_class: int | None = None,
    counts: Sequence[Any] | None = None,
    dim: int,
    decay_w: Any,
    decay_h: Any,
    decay_b: Any = 0.0,
    bias: bool = True,
    loss: Loss | None = None,
) -> UnconstrainedFeatureModel:
    """Check the arguments and return the landscape of the full (not collapsed) problem.

    Sizes are either `num_classes` and `per_class`, or `counts`. Decays are numbers, or arrays of one shape
    for `jax.vmap` over problems; λ_b = 0 with `bias=True` is the trained, undecayed bias.

    Raises:
        ValueError: naming the argument and its value: K < 2, a count or d below 1 or beyond `MOST`, a decay
            that is not 0 < λ_W, λ_H or 0 ≤ λ_b or is not within `DECAYS`, a loss that contradicts itself
            (`loss_checks.check_loss`).
    """
    decays = {"decay_w": decay_w, "decay_h": decay_h, "decay_b": decay_b}
    traced = {name: checked_decay(name, value) for name, value in decays.items()}
    if not isinstance(bias, bool):
        raise ValueError(f"bias: need True or False, got {bias!r}")
    if len({np.shape(a) for a in traced.values()} - {()}) > 1:
        shapes = ", ".join(str(np.shape(a)) for a in traced.values())
        raise ValueError(f"decay_w, decay_h, decay_b: need numbers or arrays of one shape, got {shapes}")
    if bias is False and np.any(np.asarray(decay_b) != 0):
        raise ValueError(f"decay_b: need 0 where there is no bias, got {decay_b}")
    sizes = checked_counts(num_classes, per_class, counts)
    loss = CrossEntropy() if loss is None else loss
    if not isinstance(loss, Loss):
        raise ValueError(f"loss: need an instance of Loss, got {loss!r}")
    check_loss(loss, len(sizes))
    dim = checked_size("dim", dim, least=1)
    if dim * 2 * len(sizes) > MOST:
        raise ValueError(f"dim: need at most {MOST // (2 * len(sizes))} for {len(sizes)} classes, got {dim}")
    return UnconstrainedFeatureModel(
        decay_w=traced["decay_w"],
        decay_h=traced["decay_h"],
        decay_b=traced["decay_b"],
        counts=sizes,
        dim=dim,
        bias=bias,
        loss=loss,
    )
