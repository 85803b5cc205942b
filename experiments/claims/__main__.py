"""The project's claims, checked at full counts: one line for each, exit status 1 if any fails.

    python -m experiments.claims --scale smoke|default|paper

1. The public case has four critical orbits, those of its table, and no fifth.
2. Descent from every Gaussian start ends at a certified, collapsed global minimum of the closed form's loss.
3. At d ≥ K − 1 every other critical point found is a strict saddle, and its direction bends as claimed when
   measured with a dense Hessian that shares no code with the library's products.
4. Random points are not critical, and none's dual bound exceeds the best known global minimum.
5. Nothing false is said at any decay from 1e-13 to 1e2: of random points, and of sweeps to either target.
6. Of each regime after the paper (docs/regimes.md): what is predicted is where blind descents end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Array, Float

from experiments.claims.decays import random_decays, sweeps
from experiments.claims.finding import Finding
from experiments.claims.regimes import regimes
from experiments.common import Scale, cli, record, set_up
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.landscape import Key
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, lift
from ufm_jax.models.unconstrained.starts import gaussian, log_uniform_scale
from ufm_jax.models.unconstrained.theory import global_minimum, has_closed_form
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.plan import SweepConfig, loss_of, short_name
from ufm_jax.runs.work import work_of

LOSS_TOL = 1e-10  # of a minimum against its closed form
METRIC_TOL = 1e-6  # NC1, NC2, NC3 at a minimum
CURVATURE_RTOL = 1e-10  # of vᵀHv by two codes, in units of max(1, ‖H‖)
BOUND_ATOL = 1e-12  # rounding of a bound of order 1
SEARCHES = 20  # for the best known minimum where there is no closed form

# (loss, rank, index, nullity) of every critical orbit of the public case, losses rounded to 8 decimals.
ORBITS = (
    (0.06293301, 2, 0, 1),
    (0.14356253, 1, 1, 1),
    (0.50262885, 1, 2, 1),
    (1.09861229, 0, 4, 0),
)


@dataclass(frozen=True)
class Counts:
    """Starts, and random points, in the order of MINIMA and SADDLES; 0 leaves a problem out."""

    public: int
    minima: tuple[int, int]  # a setting
    saddles: tuple[int, int, int]
    random: tuple[int, int]  # in the first two of SADDLES
    other_random: int  # in each problem of OTHERS
    decays: int  # points at random decays
    swept: tuple[int, int]  # at each of the equal decays, K = 4 and 10
    regimes: int  # in each regime
    others: int = 99  # how many of OTHERS


SCALES: dict[Scale, Counts] = {
    "smoke": Counts(100, (10, 0), (100, 0, 0), (500, 0), 500, 20_000, (0, 0), 12, others=1),
    "default": Counts(2000, (1000, 200), (2000, 400, 2000), (10_000, 10_000), 2000, 1_000_000, (200, 40), 60),
    "paper": Counts(
        *(10_000, (10_000, 2_000), (50_000, 10_000, 50_000), (100_000, 100_000), 20_000),
        *(10_000_000, (2000, 200), 400),
    ),
}


def _sweep(
    counts: tuple[int, ...],
    dim: int,
    decay_w: tuple[float, ...],
    decay_h: tuple[float, ...],
    decay_b: tuple[float, ...],
    **more: Any,
) -> SweepConfig:
    return SweepConfig(counts=counts, dim=dim, decay_w=decay_w, decay_h=decay_h, decay_b=decay_b, **more)


PUBLIC = _sweep((5, 5, 5), 2, (5e-3,), (1e-3,), (1e-2,), target="saddles", space="collapsed")
# Kθ from 0.009 to 2.4 and from 0.01 to 1.3, unequal decays on either side, with and without bias decay.
MINIMA = (
    _sweep((5,) * 4, 6, (1e-3, 0.1, 0.5), (1e-3, 0.15), (0.0, 1e-2), space="full"),
    _sweep((20,) * 10, 16, (2.5e-5, 0.02, 0.4), (2e-3,), (0.0, 1e-2), space="full"),
)
SADDLES = (
    _sweep((5,) * 4, 6, (5e-4,), (1e-4,), (1e-2,)),
    _sweep((20,) * 10, 16, (5e-4,), (2.5e-5,), (1e-2,)),
    _sweep((8, 4, 2, 1), 3, (5e-4,), (1e-4,), (1e-2,)),
)
# d below, at and above K − 1, balanced or not, every loss and every bias mode.
OTHERS = (
    _sweep((5,) * 4, 3, (5e-3,), (1e-3,), (0.0,), loss=CrossEntropy(smoothing=0.1)),
    _sweep((8, 4, 2, 1), 2, (5e-3,), (1e-3,), (0.0,)),
    _sweep((8, 4, 2, 1), 6, (5e-3,), (1e-3,), (0.0,), bias=False, loss=CrossEntropy(smoothing=0.1)),
    _sweep((5,) * 4, 6, (5e-3,), (1e-3,), (1e-2,), loss="squared"),
    _sweep((8, 4, 2, 1), 5, (5e-3,), (1e-3,), (0.0,), loss="squared"),
    _sweep((5,) * 4, 2, (5e-3,), (1e-3,), (1e-2,)),
)


def claims(counts: Counts) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield each claim, in words, and its check."""
    public = replace(PUBLIC, starts=counts.public)
    yield f"1. four critical orbits, {_name(PUBLIC)}", partial(four_orbits, public)
    for config, starts in zip(MINIMA, counts.minima, strict=True):
        if starts:
            check = partial(minima_are_global, replace(config, starts=starts))
            yield f"2. every minimum is global, {_name(config)}", check
    for config, starts in zip(SADDLES, counts.saddles, strict=True):
        if starts:
            sized = replace(config, starts=starts, target="saddles", space="collapsed", keep_points=True)
            yield (
                f"3. every other point is a strict saddle, {_name(config)}",
                partial(saddles_are_strict, sized),
            )
    others = [(config, counts.other_random) for config in OTHERS[: counts.others]]
    for config, points in (*zip(SADDLES[:2], counts.random, strict=True), *others):
        if points:
            yield f"4. random points are judged so, {_name(config)}", partial(random_points, config, points)
    yield "5. nothing false is said at random decays, K=4 n=5", partial(random_decays, counts.decays)
    for (K, d), starts in zip(((4, 6), (10, 12)), counts.swept, strict=True):
        if starts:
            yield f"5. nothing false is said at tiny decays, K={K} n=5 d={d}", partial(sweeps, K, d, starts)
    for words, regime in regimes(counts.regimes):
        yield f"6. {words}", regime


def four_orbits(config: SweepConfig) -> Finding:
    """Group the converged rows of a saddle sweep into orbits and compare them with the table."""
    table = sweep(config)
    rows = table.filter(pc.field("status") == "CONVERGED")
    found = orbits(rows)
    errors = [
        max(abs(low - e[0]), abs(high - e[0])) for (low, high, *_), e in zip(found, ORBITS, strict=False)
    ]
    same = [tuple(o[2:5]) for o in found] == [e[1:] for e in ORBITS]
    lines = [f"{low:.8f} rank {r} index {i} nullity {z} ({hits} hits)" for low, _, r, i, z, hits in found]
    measured = (
        f"{rows.num_rows} of {table.num_rows} starts converged, to {len(found)} orbits: {', '.join(lines)}; "
        f"max |loss − table| {max(errors):.1e}"
    )
    return Finding(measured, same and max(errors) <= 1e-8, {"orbits": found, "max_error": max(errors)})


def orbits(rows: pa.Table) -> list[tuple[float, float, int, int, int, int]]:
    """Return (lowest loss, highest loss, rank, index, nullity, hits) of each orbit, the lowest first.

    Losses that follow each other within 1e-7 are one level.
    """
    order = np.argsort(rows["loss"].to_numpy())
    loss = rows["loss"].to_numpy()[order]
    level = np.concatenate([[0], np.cumsum(np.diff(loss) > 1e-7)])
    kinds = [rows[name].to_numpy()[order] for name in ("rank", "index", "nullity")]
    keys, where = np.unique(np.stack([level, *kinds]), axis=1, return_inverse=True)
    groups = [loss[where == g] for g in range(keys.shape[1])]
    return [
        (float(of[0]), float(of[-1]), *(int(x) for x in key[1:]), len(of))  # type: ignore[misc]
        for of, key in zip(groups, keys.T, strict=True)
    ]


def minima_are_global(config: SweepConfig) -> Finding:
    """Descend from Gaussian starts at every setting; compare with the closed form on both sides of Kθ = 1."""
    table = sweep(config)
    K = len(config.counts)
    strength = np.sqrt(table["decay_w"].to_numpy() * table["decay_h"].to_numpy())
    kt = K * np.sqrt(config.counts[0]) * strength
    certified = table["verdict"].to_pylist().count("GLOBAL_MINIMUM")
    error = float(np.max(np.abs(table["loss"].to_numpy() - table["closed_form_loss"].to_numpy())))
    ranks = np.array_equal(table["rank"].to_numpy(), np.where(kt < 1, K - 1, 0))
    nc = {n: float(np.max(table[n].to_numpy()[kt < 1])) for n in ("nc1", "nc2", "nc3")}
    measured = (
        f"{table.num_rows} starts over {config.num_settings} settings, Kθ {kt.min():.2g}..{kt.max():.2g}: "
        f"{certified} GLOBAL_MINIMUM, max |loss − closed form| {error:.1e}; where Kθ < 1 "
        f"({int(np.sum(kt < 1))} rows) max NC1 {nc['nc1']:.1e}, NC2 {nc['nc2']:.1e}, NC3 {nc['nc3']:.1e}; "
        f"elsewhere the origin, where they are 0/0; ranks {'as' if ranks else 'NOT as'} predicted"
    )
    holds = certified == table.num_rows and error <= LOSS_TOL and ranks and max(nc.values()) < METRIC_TOL
    return Finding(measured, holds, {"rows": table.num_rows, "global": certified, "max_error": error, **nc})


def saddles_are_strict(config: SweepConfig) -> Finding:
    """Judge the critical points of a saddle sweep, and measure each returned direction densely.

    In the collapsed problem, and for K = 4 in the full one as well.
    """
    table = sweep(config)
    verdicts = Counter(table["verdict"].to_pylist())
    rows = table.filter(~pc.field("verdict").isin(["NOT_CRITICAL", "GLOBAL_MINIMUM"]))
    points = Params(*(jnp.asarray(rows[name].combine_chunks().to_numpy_ndarray()) for name in "WHb"))
    spaces = {"collapsed": collapse(single(config))}
    if len(config.counts) == 4:
        spaces["full"] = single(config)
    critical = table.num_rows - verdicts["NOT_CRITICAL"]
    holds = verdicts["UNDECIDED"] < 0.01 * critical
    holds &= verdicts["LOCAL_MINIMUM"] == verdicts["DEGENERATE"] == 0
    parts, numbers = [], {}
    for space, prob in spaces.items():
        bends = jax.tree.map(np.asarray, bends_at(prob, points))
        strict = bends.verdict == Verdict.STRICT_SADDLE
        highest, error = float(np.max(bends.curvature[strict])), float(np.max(bends.error))
        holds &= int(np.sum(strict)) == verdicts["STRICT_SADDLE"] and highest < 0 and error <= CURVATURE_RTOL
        parts.append(f"{space}: {np.sum(strict)} of {len(strict)}, highest {highest:.2e}, error {error:.1e}")
        numbers[space] = {"strict": int(np.sum(strict)), "highest_curvature": highest, "max_error": error}
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    measured = f"{table.num_rows} starts: {counts}; dense vᵀHv of the strict saddles {'; '.join(parts)}"
    return Finding(measured, holds, {"verdicts": dict(verdicts), **numbers})


class Bend(NamedTuple):
    """A point's verdict, vᵀHv by a dense Hessian, and its distance from the claim in max(1, ‖H‖)."""

    verdict: Array
    curvature: Float[Array, "..."]
    error: Float[Array, "..."]


@jax.jit
def bends_at(prob: Problem, points: Params) -> Bend:
    """Examine points of the collapsed problem in `prob`; H by plain automatic differentiation."""

    def one(q: Params) -> Bend:
        p = lift(prob, q)
        seen = examine(prob, p)
        v = ravel(seen.direction)
        v = v / jnp.linalg.norm(v)
        H = jax.hessian(lambda x: objective(prob)(unravel(prob, x)))(ravel(p))
        size = jnp.max(jnp.linalg.norm(H, axis=0))  # at most ‖H‖₂
        curvature = v @ H @ v
        error = jnp.abs(curvature - seen.evidence.negative_curvature) / jnp.maximum(1.0, size)
        return Bend(seen.evidence.verdict, curvature, error)

    return jax.lax.map(one, points)  # one dense Hessian in memory at a time


def random_points(config: SweepConfig, count: int) -> Finding:
    """Judge Gaussian points of scales 1e-3 to 1e2 in the full problem, and compare their dual bounds."""
    prob = single(config)
    best, source = best_known(config)
    keys = jax.random.split(jax.random.key(config.seed), count)
    verdict, norm, bound = (np.asarray(a) for a in judged(prob, keys))
    apart = int(np.sum(verdict == Verdict.NOT_CRITICAL))
    excess = float(np.max(bound - best))
    measured = (
        f"{count} points: {apart} NOT_CRITICAL (min |∇f| {norm.min():.1e}), largest dual bound − minimum "
        f"{excess:.3e}, minimum {best:.8f} ({source})"
    )
    holds = apart == count and excess <= BOUND_ATOL
    return Finding(
        measured, holds, {"points": count, "not_critical": apart, "excess": excess, "minimum": best}
    )


@jax.jit
def judged(prob: Problem, keys: Key) -> tuple[Array, Array, Array]:
    """Return verdict, gradient norm and dual bound at one random point a key."""

    def one(key: Key) -> tuple[Array, Array, Array]:
        scale_key, point_key = jax.random.split(key)
        p = gaussian(prob, point_key, log_uniform_scale(scale_key, 1e-3, 1e2))
        # The gradient is looked at first; a spectrum at each of 10,000 points would take minutes.
        e = examine(prob, p, "spectrum" if prob.num_classes <= 4 else "certificate").evidence
        return e.verdict, e.grad_norm, e.dual_bound

    return jax.lax.map(one, keys)


def best_known(config: SweepConfig) -> tuple[float, str]:
    """Return the lowest known value of f and its source; any value reached bounds the minimum from above."""
    prob = single(config)
    if has_closed_form(prob):
        return float(global_minimum(prob)), "closed form"
    rows = sweep(replace(config, target="minima", space="collapsed", starts=SEARCHES))
    lowest = int(np.argmin(rows["loss"].to_numpy()))
    return rows["loss"][lowest].as_py(), f"lowest of {SEARCHES} searches, {rows['verdict'][lowest].as_py()}"


def single(config: SweepConfig) -> Problem:
    """Return the full problem of a sweep's first setting."""
    prob = work_of(replace(config, space="full")).landscape
    assert isinstance(prob, Problem)
    return prob


def _name(config: SweepConfig) -> str:
    K, n = len(config.counts), sorted(set(config.counts), reverse=True)
    loss, smoothing = short_name(loss_of(config)), dict(loss_of(config).settings).get("smoothing")
    loss += f" smoothed by {smoothing}" if smoothing else ""
    bias = "no bias" if not config.bias else f"λ_b = {', '.join(f'{b:g}' for b in config.decay_b)}"
    return f"K={K} n={','.join(map(str, n))} d={config.dim}, {loss}, {bias}"


def main(scale: Scale = "default") -> None:
    """Check every claim, print a line for each, and write claims.json."""
    set_up()
    results = []
    for claim, check in claims(SCALES[scale]):
        print(f"checking {claim}", flush=True)
        began = time.monotonic()
        found = check()
        seconds = round(time.monotonic() - began, 1)
        print(f"  {'holds' if found.holds else 'FAILS'} ({seconds} s): {found.measured}", flush=True)
        results.append({"claim": claim, **found._asdict(), "seconds": seconds})
    failed = sum(not r["holds"] for r in results)
    path = record("claims", scale, claims=results)
    print(f"{len(results) - failed} of {len(results)} claims hold; wrote {path}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
