"""A pool of lanes: many searches advance together, the batch last, and those that have ended are exchanged.

Arrays are (..., B): the B lanes are the contiguous axis, so that every operation runs at full vector width.
Lanes that have ended are written out and handed the next starts. What a lane computes depends neither on its
place in the pool nor on its neighbours, if `advance` sees to that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ufm_jax.numerics.status import Status

REFILL = 1 / 8  # share of lanes that have ended when all stop for them to be given new starts


class Ended(NamedTuple):
    """Where each start ended, in the order of the starts; `num_steps` counts evaluations of f."""

    x: Float[Array, "D S"]
    value: Float[Array, " S"]
    grad_norm: Float[Array, " S"]
    status: Int[Array, " S"]
    num_steps: Int[Array, " S"]


class Lanes(Protocol):
    """What a pool must know of its lanes, which are a NamedTuple; other fields have lanes last, too."""

    @property
    def x(self) -> Float[Array, "D B"]: ...
    @property
    def value(self) -> Float[Array, " B"]: ...
    @property
    def norm(self) -> Float[Array, " B"]: ...
    @property
    def status(self) -> Int[Array, " B"]: ...
    @property
    def num_steps(self) -> Int[Array, " B"]: ...


class _Pool(NamedTuple):
    lanes: Any
    start: Int[Array, " B"]  # the start that a lane works on
    held: Bool[Array, " B"]  # it has one, whose ending is not written down yet
    taken: Int[Array, ""]  # starts handed out so far
    written: Int[Array, ""]  # endings written down so far, in the order in which they came
    rows: Float[Array, "T D"]
    facts: tuple[Array, ...]  # value, norm, status, steps and start of each ending, (T,)


def pooled(
    fresh: Callable[[Float[Array, "D B"], Bool[Array, " B"]], Any],
    advance: Callable[[Any, Any], Any],
    starts: Float[Array, "D S"],
    data: Any,
    count: Int[Array, ""] | int,
    width: int,
) -> Ended:
    """Advance lanes from the first `count` of S starts, `width` at a time, until none is RUNNING.

    `fresh` makes `Lanes` of points, of which only those that are told so hold a start; the others are not
    RUNNING. `advance` takes `Lanes` and the constants of each, out of `data`, whose last axis is the starts'.
    The results of starts beyond `count` mean nothing.
    """
    D, S = starts.shape
    dtype = starts.dtype
    block = max(1, int(REFILL * width))  # lanes exchanged at once: contiguous rows, which copy fast
    waiting = jnp.pad(starts.T, ((0, block), (0, 0)))

    def exchange(pool: _Pool) -> _Pool:
        """Write down up to `block` endings, and hand free lanes as many starts."""
        lanes = pool.lanes
        free = lanes.status != Status.RUNNING
        # Lanes with an ending to write down first, then others that are free.
        order = jnp.where(free, jnp.where(pool.held, 0, 1), 2).astype(jnp.int32)
        which = jnp.argsort(order)[:block].astype(jnp.int32)
        endings = (lanes.value, lanes.norm, lanes.status, lanes.num_steps, pool.start)
        rows = jax.lax.dynamic_update_slice(pool.rows, lanes.x[:, which].T, (pool.written, zero))
        facts = tuple(
            jax.lax.dynamic_update_slice(old, new[which], (pool.written,))
            for old, new in zip(pool.facts, endings, strict=True)
        )
        number = pool.taken + jnp.arange(block, dtype=jnp.int32)
        into = jnp.where(free[which] & (number < count), which, width)  # beyond the lanes: dropped
        given = jnp.zeros(width, bool).at[into].set(True, mode="drop")
        more = jax.lax.dynamic_slice(waiting, (pool.taken, zero), (block, D)).T
        x = lanes.x.at[:, into].set(more, mode="drop")
        begun = fresh(x, given)
        lanes = jax.tree.map(lambda new, old: jnp.where(given, new, old), begun, lanes._replace(x=x))
        return _Pool(
            lanes,
            pool.start.at[into].set(number, mode="drop"),
            given | pool.held.at[which].set(pool.held[which] & ~free[which]),
            pool.taken + jnp.sum(given, dtype=jnp.int32),
            pool.written + jnp.sum(order[which] == 0, dtype=jnp.int32),
            rows,
            facts,
        )

    def turn(pool: _Pool) -> _Pool:
        here = jax.tree.map(lambda a: a.at[..., pool.start].get(mode="clip") if a.ndim else a, data)
        # While starts are left, until a block of lanes is free; then until none is running.
        patience = jnp.where(pool.taken < count, block, width)
        lanes = jax.lax.while_loop(
            lambda s: jnp.sum(s.status != Status.RUNNING) < patience,
            lambda s: advance(s, here),
            pool.lanes,
        )
        return exchange(pool._replace(lanes=lanes))

    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(S + block, jnp.int32)
    first = _Pool(
        fresh(jnp.zeros((D, width), dtype), jnp.zeros(width, bool)),
        jnp.zeros(width, jnp.int32),
        jnp.zeros(width, bool),
        zero,
        zero,
        jnp.zeros((S + block, D), dtype),
        (none.astype(dtype), none.astype(dtype), none, none, none),
    )
    last = jax.lax.while_loop(lambda p: jnp.any(p.held), turn, exchange(first))
    *facts, start = last.facts
    place = jnp.arange(S + block, dtype=jnp.int32)
    row = none[:S].at[jnp.where(place < last.written, start, S)].set(place, mode="drop")
    return Ended(last.rows[row].T, *(fact[row] for fact in facts))
