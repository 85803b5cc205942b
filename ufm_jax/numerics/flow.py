"""Gradient flow as an ordinary differential equation, and optimisers as discrete flows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from ufm_jax.numerics.checks import check_positive, check_search
from ufm_jax.numerics.derivatives import Objective, on_vectors
from ufm_jax.numerics.status import Status


class Trajectory(NamedTuple):
    """Points along a flow, first axis time. `times` are flow time, or step numbers of a discrete flow."""

    times: Float[Array, " T"]
    points: Any  # as the start, each leaf with a leading axis T
    values: Float[Array, " T"]
    grad_norms: Float[Array, " T"]  # measured at the saved points
    status: Int[Array, ""]


def gradient_flow(
    f: Objective,
    start: Any,
    times: ArrayLike | Sequence[Any],
    *,
    gtol: float = 1e-10,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 20_000,
) -> Trajectory:
    """Solve x' = −∇f(x) from `start` at times[0], and report x at all `times`, a vector; they may repeat.

    An L-stable implicit method (Kvaerno 5(4)), since decays much smaller than the loss's curvature make the
    flow stiff; relative and absolute tolerance of each step as given. The flow ends at the steady state
    ‖∇f‖₂ ≤ `gtol` (CONVERGED); later times report that end. MAX_STEPS if `times` ran out first or the
    solver's steps did; NONFINITE if the start or the gradient where the flow ended is not finite.

    Raises:
        ValueError: naming `times` and the value, if one is not finite or less than the one before; inside
            `jit` or `vmap` the values of traced `times` are not known and not checked, and decreasing times
            run the flow backwards. Naming the leaf of `start` that is not floating-point, or not of the
            others' dtype.
    """
    check_search(gtol, max_steps)
    check_positive(rtol=rtol, atol=atol)
    times = _forward("times", times, jnp.integer, jnp.floating)
    flat, x0, unravel = on_vectors(f, start)
    times = times if jnp.issubdtype(times.dtype, jnp.floating) else times.astype(x0.dtype)
    slope = jax.grad(flat)

    def steady(t: Any, y: Any, args: Any, **_: Any) -> Any:
        return jnp.linalg.norm(slope(y)) <= gtol

    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -slope(y)),
        diffrax.Kvaerno5(),
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=x0,
        saveat=diffrax.SaveAt(ts=times, t1=True),
        # A step ends at each reported time: the interpolant inside a step is of lower order than the steps.
        stepsize_controller=diffrax.ClipStepSizeController(
            diffrax.PIDController(rtol=rtol, atol=atol), step_ts=times
        ),
        event=diffrax.Event(steady),
        max_steps=max_steps,
        throw=False,
    )
    assert solved.ys is not None
    # The end is saved behind the last time reached; what was not reached holds infinities.
    saved = jnp.all(jnp.isfinite(solved.ys), axis=1)
    end = jnp.where(jnp.any(saved), solved.ys[jnp.sum(saved) - 1], x0)
    points = jnp.where(saved[:-1, None], solved.ys[:-1], end)
    norm = jnp.linalg.norm(slope(end))
    status = jnp.where(norm <= gtol, Status.CONVERGED, Status.MAX_STEPS)
    finite = jnp.isfinite(norm) & jnp.all(jnp.isfinite(end))
    status = jnp.where(finite, status, Status.NONFINITE)
    return _measured(flat, unravel, times, points, status)


def discrete_flow(
    f: Objective,
    start: Any,
    optimiser: optax.GradientTransformationExtraArgs | optax.GradientTransformation,
    steps: ArrayLike | Sequence[Any],
    *,
    gtol: float = 1e-10,
) -> Trajectory:
    """Run any optax optimiser from `start` and report x after each number of `steps`, counted from the start.

    `steps` is a vector of integers, which may repeat. CONVERGED if the last reported ‖∇f‖₂ ≤ `gtol`. Between
    reports the loop is compiled once.

    Raises:
        ValueError: naming `steps` and the value, if they are no integers, or one is negative or less than the
            one before; inside `jit` or `vmap` the values of traced `steps` are not known and not checked: a
            report before the last one then repeats it. Naming the leaf of `start`, as `gradient_flow`.
    """
    check_positive(zero=True, gtol=gtol)
    steps = _forward("steps", steps, jnp.integer, least=0)
    flat, x0, unravel = on_vectors(f, start)
    full = optax.with_extra_args_support(optimiser)

    def step(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        x, state = carry
        value, grad = jax.value_and_grad(flat)(x)
        with jax.numpy_dtype_promotion("standard"):  # as in `descent.lbfgs`
            updates, state = full.update(grad, state, x, value=value, grad=grad, value_fn=flat)
        return optax.apply_updates(x, updates), state

    def report(carry: tuple[Any, Any], num: Int[Array, ""]) -> tuple[tuple[Any, Any], Any]:
        carry = jax.lax.fori_loop(jnp.zeros_like(num), num, step, carry)
        return carry, carry[0]

    gaps = jnp.diff(steps, prepend=jnp.zeros(1, steps.dtype))
    points = jax.lax.scan(report, (x0, full.init(x0)), gaps)[1]
    norm = jnp.linalg.norm(jax.grad(flat)(points[-1]))
    status = jnp.where(norm <= gtol, Status.CONVERGED, Status.MAX_STEPS)
    status = jnp.where(jnp.isfinite(norm), status, Status.NONFINITE)
    return _measured(flat, unravel, steps.astype(x0.dtype), points, status)


def _forward(name: str, values: Any, *kinds: Any, least: float | int = -np.inf) -> Shaped[Array, " T"]:
    """Return a vector of numbers of these kinds; known values that go back, or below `least`, are refused."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
    found = jnp.asarray(values) if traced else np.asarray(values)
    if found.ndim != 1 or found.size == 0:
        raise ValueError(f"{name}: need a vector of at least one number, got shape {found.shape}")
    if not any(jnp.issubdtype(found.dtype, kind) for kind in kinds):
        raise ValueError(f"{name}: need {' or '.join(k.__name__ for k in kinds)} dtype, got {found.dtype}")
    if traced:
        return jnp.asarray(found)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"{name}: need finite numbers, got {found[~np.isfinite(found)][0]}")
    if found[0] < least:
        raise ValueError(f"{name}: need >= {least}, got {found[0]}")
    back = np.flatnonzero(found[1:] < found[:-1])
    if back.size:
        before, after = found[back[0] : back[0] + 2]
        raise ValueError(f"{name}: need numbers that never decrease, got {after} after {before}")
    return jnp.asarray(found)


def _measured(flat: Objective, unravel: Any, times: Any, points: Any, status: Any) -> Trajectory:
    values, grads = jax.lax.map(jax.value_and_grad(flat), points)
    norms = jnp.linalg.norm(grads, axis=1)
    return Trajectory(times, jax.vmap(unravel)(points), values, norms, status.astype(jnp.int32))
