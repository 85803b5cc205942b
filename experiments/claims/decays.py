"""Claims about every decay that can be typed: nothing false is said where f, slope and curvature are tiny."""

from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import ufm_jax as ufm
from experiments.claims.finding import Finding
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.fields import at_lane
from ufm_jax.landscape.landscape import Key
from ufm_jax.landscape.units import GAP_TOL, from_even
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import trimmed
from ufm_jax.models.unconstrained.sizes import scale
from ufm_jax.models.unconstrained.starts import gaussian, log_uniform_scale
from ufm_jax.models.unconstrained.theory import global_minimum

LOWEST, HIGHEST = 1e-13, 1e2  # decays, each drawn by itself
SWEPT = (1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-13)  # decays that are all equal
RESOLVED = 1e-11  # down to here less than 1% may stay undecided
LOSS_RTOL = 1e-9
BATCH = 20_000
# A strict saddle that is not the origin would be met by chance: so near it, in even coordinates, points may
# be called one. The gradient there is its distance times σ, and at most 1e-8 √(f s).
NEAR_ORIGIN = 1e-3


def random_decays(count: int) -> Finding:
    """Judge points at random decays: Gaussian ones, and some at all distances from minimum and origin.

    A point may be called GLOBAL_MINIMUM only within `GAP_TOL` of f*, relative, and STRICT_SADDLE only next to
    the origin; the others are NOT_CRITICAL, or UNDECIDED.
    """
    prob = trimmed(ufm.problem(num_classes=4, per_class=5, dim=6, decay_w=1.0, decay_h=1.0, decay_b=1.0))
    seen: Counter[str] = Counter()
    false = 0
    for number in range(-(-count // BATCH)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), min(BATCH, count))
        verdict, wrong = map(np.asarray, _judged(prob, keys))
        seen.update(Verdict(int(code)).name for code in verdict)
        false += int(np.sum(wrong))
    counts = ", ".join(f"{times} {name}" for name, times in seen.most_common())
    total = sum(seen.values())
    return Finding(
        f"{total} points, decays {LOWEST:g}..{HIGHEST:g}: {counts}; {false} of them false",
        false == 0 and seen["LOCAL_MINIMUM"] == seen["DEGENERATE"] == 0,
        {"points": total, "false": false, "verdicts": dict(seen)},
    )


@jax.jit
def _judged(prob: Problem, keys: Key) -> tuple[Array, Array]:
    """Return the verdict at a random point of random decays, and whether it is false."""

    def one(key: Key) -> tuple[Array, Array]:
        decay_key, kind_key, scale_key, point_key = jax.random.split(key, 4)
        low, high = np.log(LOWEST), np.log(HIGHEST)
        decays = jnp.exp(jax.random.uniform(decay_key, (3,), minval=low, maxval=high))
        at = at_lane(prob, dict(zip(("decay_w", "decay_h", "decay_b"), decays, strict=True)))
        factors, minimum = scale(at), etf_minimiser(at)
        noise = gaussian(at, point_key, 1.0)
        away = jax.tree.map(lambda a, c: a * c, noise, factors)  # of length one in even coordinates
        distance = log_uniform_scale(scale_key, 1e-14, 1.0)
        spread = log_uniform_scale(scale_key, 1e-3, 1e2)
        near = [minimum, at.zeros(), at.zeros()]
        points = [
            jax.tree.map(lambda a, v, d=d: a + d * v, here, there)
            for here, there, d in zip(near, (away, away, noise), (distance, distance, spread), strict=True)
        ]
        p = jax.tree.map(lambda *a: jnp.stack(a)[jax.random.randint(kind_key, (), 0, 3)], *points)
        seen = examine(at, p, "escape").evidence
        too_high = ~(seen.loss <= global_minimum(at) * (1 + 2 * GAP_TOL))
        return seen.verdict, jnp.select(
            [seen.verdict == Verdict.GLOBAL_MINIMUM, seen.verdict == Verdict.STRICT_SADDLE],
            [too_high, _length(p, factors) > NEAR_ORIGIN],
            False,
        )

    return jax.vmap(one)(keys)


def _length(p: Params, factors: Any) -> Float[Array, ""]:
    return jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(from_even(p, factors))))


def sweeps(num_classes: int, dim: int, starts: int) -> Finding:
    """Sweep at equal decays from 1e-1 to 1e-13 toward minima and saddles; all that is said must be so."""
    holds, parts, numbers = True, [], {}
    make = partial(ufm.problem, num_classes=num_classes, per_class=5, dim=dim)
    for decay in SWEPT:
        prob = make(decay_w=decay, decay_h=decay, decay_b=decay)
        best = float(global_minimum(prob))
        for target in ("minima", "saddles"):
            table = ufm.sweep(prob, starts=starts, target=target, seed=0, spectra="needed").table
            counts = Counter(table["verdict"].to_pylist())
            minima = np.array(table["verdict"].to_pylist()) == "GLOBAL_MINIMUM"
            off = float(np.max(np.abs(table["loss"].to_numpy()[minima] / best - 1), initial=0.0))
            allowed = 0.01 * starts if decay >= RESOLVED else starts
            fine = off <= LOSS_RTOL and counts["UNDECIDED"] <= allowed
            fine &= counts["LOCAL_MINIMUM"] == counts["DEGENERATE"] == 0
            fine &= target != "minima" or counts["GLOBAL_MINIMUM"] == starts
            holds &= fine
            said = ", ".join(f"{times} {name}" for name, times in counts.most_common())
            parts.append(f"{decay:g} {target}: {said}, off by {off:.0e}{'' if fine else ' (FAILS)'}")
            numbers[f"{decay:g} {target}"] = {**counts, "off": off}
    return Finding("; ".join(parts), holds, numbers)
