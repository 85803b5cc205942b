"""An atlas of the critical orbits: how many there are, what bifurcates as the decays grow, what flows where.

    python -m experiments.atlas --scale smoke|default|paper

A census for each K (d = K − 1, balanced cross-entropy), its orbit table, its completeness tests at every d;
every orbit of K = 3 and 4 followed over Kθ; and gradient flow from every saddle of K = 3 and 4 down to the
orbits it reaches. The exit status is 1 if a completeness test is violated. Tables go to atlas_K{K}.csv.
"""

import csv
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float

from experiments.common import MARKERS, STYLE, Scale, folder, save, set_up
from ufm_jax.landscape import census, continuation
from ufm_jax.landscape.census import Census, OrbitRow
from ufm_jax.landscape.completeness import MorseBott, unseen_mass
from ufm_jax.landscape.continuation import Continuation, Event
from ufm_jax.landscape.critical import SOLVE_GTOL
from ufm_jax.model.objective import hessian, objective, oracle, unravel
from ufm_jax.model.permutations import Shape, matching
from ufm_jax.model.problem import Problem, problem
from ufm_jax.model.theory import global_minimum, theta
from ufm_jax.numerics.flow import gradient_flow
from ufm_jax.numerics.lanes import each_lane
from ufm_jax.numerics.rootfind import levenberg_marquardt
from ufm_jax.numerics.status import Status

LOSS_TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
SHOWN = 10  # first and last lines of a long table
LONG = 6  # K from which tables are long
FLOW_GTOL = 1e-6
HORIZON = 1e7  # flow time; the slowest decay rate here is about 1e-4
LANES = 64  # flows of one compiled batch


@dataclass(frozen=True)
class Config:
    """Sizes, decays, and how finely branches and flows are sampled."""

    sizes: tuple[int, ...] = (3, 4, 5, 6)
    followed: tuple[int, ...] = (3, 4)
    per_class: int = 5
    decay_w: float = 5e-3
    decay_h: float = 1e-3
    decay_b: float = 1e-2
    grid: int = 60  # values of Kθ
    censuses: tuple[float, ...] = (0.3, 0.02, 0.9, 1e-3)  # near these Kθ
    generic: int = 40  # flows from each saddle in random directions of its negative eigenspace
    symmetric: int = 120  # in random directions fixed by a random subgroup of the saddle's symmetries
    displacement: float = 1e-2
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(sizes=(3, 4), followed=(3,), grid=16, censuses=(0.02, 1e-3), generic=6, symmetric=6),
    "default": Config(),
    "paper": Config(sizes=(3, 4, 5, 6, 7, 8), grid=120, generic=200, symmetric=600),
}


class Edge(NamedTuple):
    """Flows from one orbit that ended at another; both are lines of the orbit table, from 0."""

    saddle: int
    reached: int
    generic: float  # share of the flows in random directions
    other: float  # share of those along eigenvectors and in symmetric directions
    flows: int


def make(config: Config, K: int) -> Problem:
    """Return the problem with K classes and d = K − 1."""
    return problem(
        num_classes=K,
        per_class=config.per_class,
        dim=K - 1,
        decay_w=config.decay_w,
        decay_h=config.decay_h,
        decay_b=config.decay_b,
    )


def take_census(config: Config, K: int) -> Census:
    """Run a census until it has settled, reporting every few seconds."""
    prob, began = make(config, K), time.perf_counter()
    told, state = 0.0, census.begin(prob)
    for state in census.rounds(prob, state, seed=config.seed):  # noqa: B020
        passed = time.perf_counter() - began
        if passed - told > 5:
            told = passed
            print(f"K={K}: {state.num_starts} starts, {len(state.points)} orbits, {passed:.0f} s", flush=True)
    print(
        f"K={K}: settled at {len(state.points)} orbits, {state.num_starts} starts, {state.num_failed} "
        f"failed, the last new one within {state.last_new}; {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return state


def table(rows: list[OrbitRow], short: bool) -> str:
    """Format orbits; of a long table, the first and the last lines and how many are left out."""
    cells = [list(OrbitRow._fields), *([f"{row.loss:.8f}", *map(str, row[1:])] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    if not short or len(rows) <= 2 * SHOWN:
        return "\n".join(lines)
    left = f"  ... {len(rows) - 2 * SHOWN} more ..."
    return "\n".join([*lines[: SHOWN + 1], left, *lines[-SHOWN:]])


def report(K: int, rows: list[OrbitRow], tests: list[MorseBott], unseen: float) -> bool:
    """Print table and tests; return whether none is violated."""
    print(f"\nK = {K}, d = {K - 1}: {len(rows)} orbits, {sum(r.copies for r in rows)} with copies")
    print(table(rows, K >= LONG))
    print(f"estimated chance that the next start finds a new orbit: {unseen:.1e}")
    for t in tests:
        words = {True: "passed", False: "VIOLATED", None: "says nothing: degenerate orbits"}[t.passed]
        least = min(t.remainder, default=0)
        print(f"Morse–Bott at d = {t.dim}: Euler sum {t.euler}, least coefficient {least}: {words}")
    if bad := [t.dim for t in tests if t.passed is False]:
        line = f"!!! K = {K}: completeness VIOLATED at d = {bad}: an orbit is missing or miscounted !!!"
        print("\n".join(["!" * len(line), line, "!" * len(line)]))
    print(flush=True)
    return not bad


def write_csv(K: int, rows: list[OrbitRow], scale: Scale) -> None:
    """Write atlas_K{K}.csv."""
    with (folder(scale) / f"atlas_K{K}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(OrbitRow._fields)
        writer.writerows(rows)


def branches(config: Config, K: int) -> Continuation:
    """Follow all orbits over Kθ and print what happens."""
    began = time.perf_counter()
    print(f"K={K}: following orbits over Kθ", flush=True)
    kt = continuation.kt_grid(config.grid)
    censuses = tuple(int(np.argmin(abs(np.log(kt / near)))) for near in config.censuses)
    paths = continuation.follow(make(config, K), kt, censuses=censuses, seed=config.seed)
    print(f"K={K}: {len(paths.loss)} branches, {time.perf_counter() - began:.0f} s")
    for e in paths.events:
        print(f"  {e.low:.4g} < Kθ < {e.high:.4g}: {e.kind} of {', '.join(map(str, e.branches))}")
    violated = [f"{k:.3g}" for k, passed in zip(kt, paths.complete, strict=True) if passed is False]
    print(f"  Morse–Bott at every d violated at Kθ = {violated}\n" if violated else "", flush=True)
    return paths


class Flows(NamedTuple):
    """Starts of gradient flows from one saddle; `projections` keep a flow in the subspace it starts in."""

    starts: Float[np.ndarray, "F D"]
    projections: Float[np.ndarray, "F D D"]
    generic: np.ndarray  # whether the direction was random in the whole negative eigenspace


def starts_from(
    config: Config, small: Problem, x: Float[np.ndarray, " D"], rng: np.random.Generator
) -> Flows:
    """Displace a saddle along ± its negative eigenvectors and in random and symmetric negative directions.

    A symmetric direction is fixed by a random subgroup of the permutations and rotations that fix the saddle.
    The flow then stays among the points so fixed, and it is projected there, since rounding would leave.
    """
    values, vectors = np.linalg.eigh(hessian(small, unravel(small, jnp.asarray(x))))
    V = vectors[:, values < -1e-8 * abs(values).max()]
    whole = np.eye(len(x))
    directions = [(sign * v, whole, False) for v in V.T for sign in (1, -1)]
    directions += [(V @ rng.normal(size=V.shape[1]), whole, True) for _ in range(config.generic)]
    actions = symmetries(small, x)
    for _ in range(config.symmetric):
        # The first is the identity on classes: with signs, it keeps features unused.
        number = rng.integers(len(actions), size=rng.integers(1, 4)) * (rng.random() < 0.7)
        axes = _null(np.eye(small.dim) - actions[0].unused)
        axes = axes @ np.linalg.qr(rng.normal(size=(axes.shape[1], axes.shape[1])))[0]
        moved = np.concatenate([_matrix(small, actions[i], axes, rng) - whole for i in number])
        fixed, inside = _null(moved), _null(moved @ V)
        if 0 < inside.shape[1] < V.shape[1]:
            direction = V @ (inside @ rng.normal(size=inside.shape[1]))
            directions.append((direction, fixed @ fixed.T, False))
    away = [x + config.displacement * v / np.linalg.norm(v) for v, _, _ in directions]
    return Flows(
        np.array(away), np.array([P for _, P, _ in directions]), np.array([g for _, _, g in directions])
    )


class Symmetry(NamedTuple):
    """A permutation of classes that moves a point within its orbit: W[order] rotation = W."""

    order: list[int]
    rotation: Float[np.ndarray, "d d"]  # of the features that the point uses; zero on the others
    unused: Float[np.ndarray, "d d"]  # projection onto the others


def symmetries(small: Problem, x: Float[np.ndarray, " D"]) -> list[Symmetry]:
    """Return all symmetries of a point, the identity first."""
    W, shape = np.asarray(unravel(small, jnp.asarray(x)).W), shape_of(small, x)
    unused = np.eye(small.dim) - np.linalg.pinv(W, rcond=1e-6) @ W
    return [
        Symmetry(p, np.linalg.pinv(W[p], rcond=1e-6) @ W, unused)
        for p in map(list, permutations(range(small.num_classes)))
        if np.abs(shape.M[np.ix_(p, p)] - shape.M).max() <= shape.tolerance
        and np.abs(shape.b[p] - shape.b).max() <= shape.tolerance
    ]


def _matrix(small: Problem, s: Symmetry, axes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the matrix of (W, H, b) -> (W[p] Q, Qᵀ H[:, p], b[p]) in the order of `ravel`.

    Q adds to the rotation an identity on the unused features, in which some of the `axes` are reversed.
    """
    Q = s.rotation + (axes * rng.choice((-1, 1), size=axes.shape[1])) @ axes.T
    order = np.eye(small.num_classes)[s.order]
    return np.asarray(block_diag(np.kron(order, Q.T), np.kron(Q.T, order), order))


def _null(A: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the null space, in columns."""
    _, singular, Vt = np.linalg.svd(A)
    return Vt[np.sum(singular > 1e-6) :].T


@jax.jit
def descend(
    small: Problem, starts: Float[Array, "F D"], projections: Float[Array, "F D D"]
) -> tuple[
    Float[Array, "F D"], Float[Array, " F"], Float[Array, "F D"], Float[Array, " F"], Float[Array, " F"]
]:
    """Return where flows stop (‖∇f‖ ≤ `FLOW_GTOL`), f there, the critical point near, f there, success.

    An implicit ODE solver is used, not a descent method: a minimiser's long steps may jump into the basin of
    another orbit, and what is asked for is where the flow goes.
    """

    def one(x: Float[Array, " D"], P: Float[Array, "D D"]) -> Any:
        f = objective(small)
        along = gradient_flow(
            lambda y: f(unravel(small, x + P @ (y - x))),
            x,
            jnp.array([0.0, HORIZON]),
            gtol=FLOW_GTOL,
            rtol=1e-6,
            atol=1e-8,
        )
        end = along.points[-1]
        near = levenberg_marquardt(oracle(small), end, gtol=SOLVE_GTOL)
        good = (along.status == Status.CONVERGED) & (near.status == Status.CONVERGED)
        return end, along.values[-1], near.x, near.value, good

    return each_lane(one)(starts, projections)


def edges(config: Config, K: int, state: Census) -> tuple[list[Edge], int]:
    """Flow down from every saddle; return what was reached and how many flows ended at no known orbit."""
    prob = make(config, K)
    small, order = census.reduced(prob), np.argsort(state.evidence["loss"], kind="stable")
    shapes = [shape_of(small, state.points[i]) for i in order]
    rng, found, unknown = np.random.default_rng(config.seed), [], 0
    for line, i in enumerate(order):
        if not state.evidence["index"][i]:
            continue
        began = time.perf_counter()
        flows = starts_from(config, small, state.points[i], rng)
        reached = []
        for first in range(0, len(flows.starts), LANES):
            part = np.arange(first, first + LANES)
            out = jax.device_get(
                descend(
                    small,
                    flows.starts.take(part, 0, mode="clip"),
                    flows.projections.take(part, 0, mode="clip"),
                )
            )
            for _, stopped, x, value, good in list(zip(*out, strict=True))[: len(flows.starts) - first]:
                shape = shape_of(small, x)
                # The polish must not have left: near a critical point f moves by (1e-6)²/λ.
                same = good and abs(stopped - value) < 1e-6 and value < state.evidence["loss"][i]
                hit = (n for n, s in enumerate(shapes) if matching(s, shape) is not None) if same else ()
                reached.append(next(iter(hit), -1))
        unknown += reached.count(-1)
        total = Counter(flows.generic.tolist())
        by = Counter(zip(flows.generic.tolist(), reached, strict=True))
        for target in sorted(set(reached) - {-1}):
            generic, other = (by[kind, target] / max(total[kind], 1) for kind in (True, False))
            found.append(Edge(line, target, generic, other, by[True, target] + by[False, target]))
        print(
            f"K={K}: orbit {line}, {len(reached)} flows reach {sorted(set(reached) - {-1})}, "
            f"{reached.count(-1)} unknown; {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return found, unknown


def plot_orbits(tables: dict[int, list[OrbitRow]], best: dict[int, float]) -> plt.Figure:
    """Draw loss against Morse index, one panel a K: colour and marker by rank, area by number of copies."""
    columns = min(len(tables), 2)
    lines = -(-len(tables) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.9 * columns, 3.4 * lines), squeeze=False)
    colours: Any = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(tables)))
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    for ax, (K, rows) in zip(axes.flat, tables.items(), strict=False):
        ax.axhline(best[K], color="black", lw=0.8, ls="--", zorder=0)
        # Large markers first, so that none hides another.
        for row in sorted(rows, key=lambda r: -r.copies):
            ax.scatter(
                row.index,
                row.loss,
                s=_area(row.copies),
                marker=MARKERS[row.rank],
                color=colours[row.rank],
                edgecolors="white",
                linewidths=0.5,
                alpha=0.85,
            )
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(plt.FixedLocator(LOSS_TICKS))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(
            xlabel="Morse index at $d = K - 1$",
            ylabel="loss $f$ (nats, log scale)",
            title=f"K = {K}: {len(rows)} orbits",
        )
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    mark = lambda r: plt.Line2D([], [], ls="", marker=MARKERS[r], color=colours[r], label=str(r))
    size = lambda c: plt.Line2D([], [], ls="", marker="o", color="grey", ms=_area(c) ** 0.5, label=f"{c:,}")
    figure.legend(
        handles=[mark(r) for r in range(max(tables))],
        title="rank",
        loc="outside right upper",
        handletextpad=0.2,
    )
    copies = [
        c for c in (1, 10, 100, 1000, 10000) if c <= max(r.copies for rows in tables.values() for r in rows)
    ]
    line = plt.Line2D([], [], color="black", lw=0.8, ls="--", label="$f^*$, closed\nform")
    figure.legend(
        handles=[*map(size, copies), line], title="copies", loc="outside right lower", labelspacing=0.9
    )
    figure.suptitle("Critical orbits: loss against Morse index, by rank and number of copies", fontsize=10)
    return figure


def _area(copies: int) -> float:
    """Return a marker area in points², affine in log(copies)."""
    return 22.0 + 12.0 * np.log10(max(copies, 1))


def plot_branches(config: Config, followed: dict[int, Continuation]) -> plt.Figure:
    """Draw height above f* relative to the origin's against Kθ, coloured by index; one event magnified."""
    figure, axes = plt.subplots(1, len(followed), figsize=(4.2 * len(followed), 4.2), squeeze=False)
    seen = sorted({int(i) for paths in followed.values() for i in np.unique(paths.index) if i >= 0})
    colours = dict(zip(seen, plt.get_cmap("viridis")(np.linspace(0, 0.97, len(seen))), strict=True))
    for ax, (K, paths) in zip(axes[0], followed.items(), strict=True):
        heights = relative_heights(config, K, paths)
        draw_branches(ax, paths, heights, colours)
        ax.axvline(K * float(theta(make(config, K))), color="grey", lw=0.8, ls=":")
        ax.set_xscale("logit", one_half="0.5")
        ax.xaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(xlim=(paths.kt[0] / 1.3, 0.988), ylim=(-0.04, 1.05), title=f"K = {K}, d = {K - 1}")
        ax.set(xlabel="$K\\theta$ (logit scale)", ylabel="$(f - f^*)\\,/\\,(\\log K - f^*)$")
        for r in range(K):
            last = heights[paths.rank[:, -2] == r, -2]
            if last.size:
                spot = (paths.kt[-2], last.mean())
                ax.annotate(f"rank {r}", spot, (0, 5), textcoords="offset points", fontsize=7, ha="right")
        meet = [e for e in paths.events if e.kind not in ("rank", "index") and e.high < 1]
        if meet:
            close = _window(paths, heights, meet[0])
            inset = ax.inset_axes((0.19, 0.71, 0.42, 0.21))
            draw_branches(inset, paths, heights, colours)
            inset.set(xlim=close[0], ylim=close[1])
            inset.tick_params(labelsize=6)
            inset.xaxis.set_major_locator(plt.MaxNLocator(4))
            inset.yaxis.set_major_locator(plt.MaxNLocator(4))
            ax.indicate_inset_zoom(inset, edgecolor="grey", alpha=0.8)
    lines = [plt.Line2D([], [], color=colour, lw=2, label=str(i)) for i, colour in colours.items()]
    circle = plt.Line2D([], [], ls="", marker="o", mfc="none", mec="black", ms=7, label="orbits\nmeet")
    here = plt.Line2D([], [], color="grey", lw=0.8, ls=":", label="orbit\ntable")
    figure.legend(handles=[*lines, circle, here], title="Morse\nindex", loc="outside right center")
    figure.suptitle(
        "Critical orbits over $K\\theta$: height above the minimum relative to the origin's", fontsize=10
    )
    return figure


def draw_branches(
    ax: Any, paths: Continuation, heights: Float[np.ndarray, "B G"], colours: dict[int, Any]
) -> None:
    """Draw every branch below Kθ = 1, coloured by index, and a circle where branches meet."""
    for b, index in enumerate(paths.index):
        for g in np.flatnonzero((index[:-2] >= 0) & (index[1:-1] >= 0)).tolist():
            ax.plot(paths.kt[g : g + 2], heights[b, g : g + 2], color=colours[int(index[g])], lw=1.4)
    for e in paths.events:
        if e.kind not in ("rank", "index") and e.high < 1:
            g = int(np.flatnonzero(paths.kt == (e.low if e.kind in ("merge", "death") else e.high))[0])
            ax.plot(paths.kt[g], heights[e.branches[0], g], "o", mfc="none", mec="black", ms=7)


def _window(
    paths: Continuation, heights: np.ndarray, event: Event
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return limits of Kθ and height around an event that show the branches it is about."""
    low, high = event.low / 2.5, event.high * 2
    inside = (paths.kt > low) & (paths.kt < high)
    seen = heights[list(event.branches)][:, inside]
    margin = 0.15 * (np.nanmax(seen) - np.nanmin(seen))
    return (low, high), (float(np.nanmin(seen) - margin), float(np.nanmax(seen) + margin))


def relative_heights(config: Config, K: int, paths: Continuation) -> Float[np.ndarray, "B G"]:
    """Return (f − f*)/(log K − f*): 0 at the global minimum, 1 at the origin; NaN at Kθ ≥ 1."""
    prob = make(config, K)
    best = np.array([float(global_minimum(continuation.at_kt(prob, float(kt)))) for kt in paths.kt])
    depth = np.where(paths.kt < 1, np.log(K) - best, np.nan)
    return (paths.loss - best) / depth


def plot_graph(tables: dict[int, list[OrbitRow]], graphs: dict[int, list[Edge]]) -> plt.Figure:
    """Draw orbits at (index, loss) and an arrow for every pair joined by a flow."""
    widths = [float(K) for K in graphs]
    figure, axes = plt.subplots(
        1, len(graphs), figsize=(1.35 * sum(widths), 5.4), squeeze=False, width_ratios=widths
    )
    colours: Any = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(graphs)))
    for ax, (K, graph) in zip(axes[0], graphs.items(), strict=True):
        rows = tables[K]
        places = [(row.index + _aside(rows, line), row.loss) for line, row in enumerate(rows)]
        for e in sorted(graph, key=lambda e: e.generic > 0):
            arrow = {
                "arrowstyle": "-|>",
                "lw": 0.6 + 1.4 * (e.generic or e.other),
                "ls": "-" if e.generic else "--",
                "color": "0.2" if e.generic else colours[rows[e.reached].rank],
                "connectionstyle": f"arc3,rad={0.18 if e.generic else 0.06}",
                "shrinkA": 8,
                "shrinkB": 8,
                "mutation_scale": 9,
            }
            ax.annotate("", places[e.reached], places[e.saddle], arrowprops=arrow)
        for line, (row, place) in enumerate(zip(rows, places, strict=True)):
            ax.scatter(*place, s=170, color="white", edgecolors=colours[row.rank], linewidths=2, zorder=3)
            ax.annotate(str(line), place, fontsize=8, ha="center", va="center", zorder=4)
        ax.margins(0.08)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(plt.FixedLocator(LOSS_TICKS))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
        ax.set(xlabel="Morse index", ylabel="loss $f$ (nats, log scale)", title=f"K = {K}, d = {K - 1}")
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    handles = [
        plt.Line2D([], [], ls="", marker="o", ms=8, mfc="white", mew=2, color=colours[r], label=f"rank {r}")
        for r in range(max(graphs))
    ]
    handles += [
        plt.Line2D([], [], color="0.2", lw=1.8, label="from random negative directions"),
        plt.Line2D(
            [], [], color="grey", lw=1.2, ls="--", label="along eigenvectors or in symmetric subspaces only"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.suptitle(
        "Where gradient flow from each saddle ended (number: line of the orbit table, from 0;\n"
        "width: share of flows; dashed: colour by rank of the orbit reached)",
        fontsize=9,
    )
    return figure


def _aside(rows: list[OrbitRow], line: int) -> float:
    """Return how far to move a node along the index axis so that those of nearly equal loss stay apart."""
    row = rows[line]
    near = [i for i, o in enumerate(rows) if o.index == row.index and abs(np.log(o.loss / row.loss)) < 0.12]
    return 0.44 * (near.index(line) - (len(near) - 1) / 2)


def shape_of(small: Problem, x: Float[np.ndarray, " D"]) -> Shape:
    """Return a point of the reduced problem modulo rotations."""
    p = unravel(small, jnp.asarray(x))
    return Shape(np.asarray(p.W @ p.H), np.asarray(p.b), np.array(small.counts))


def _json(values: np.ndarray) -> list[Any]:
    """Return nested lists with None for NaN."""
    return [[None if np.isnan(v) else float(v) for v in line] for line in values]


def main(scale: Scale = "default") -> None:
    """Take the censuses, follow the orbits, run the flows; exit with 1 if a completeness test fails."""
    set_up()
    config = SCALES[scale]
    states, tables, best, facts, good = {}, {}, {}, {}, True
    for K in config.sizes:
        states[K] = take_census(config, K)
        prob = make(config, K)
        tables[K], tests = census.rows(prob, states[K]), census.completeness(prob, states[K])
        best[K], unseen = float(global_minimum(prob)), unseen_mass(states[K].hits)
        good &= report(K, tables[K], tests, unseen)
        write_csv(K, tables[K], scale)
        facts[str(K)] = {
            "num_starts": states[K].num_starts,
            "num_failed": states[K].num_failed,
            "unseen_mass": unseen,
            "closed_form": best[K],
            "completeness": [t._asdict() for t in tests],
            "orbits": [row._asdict() for row in tables[K]],
        }
    shared = {"config": asdict(config)}
    with plt.rc_context(STYLE):
        save(plot_orbits(tables, best), "atlas", scale, **shared, sizes=facts)
        followed = {K: branches(config, K) for K in config.followed}
        records = {
            str(K): {
                "kt": paths.kt.tolist(),
                "loss": _json(paths.loss),
                "relative_height": _json(relative_heights(config, K, paths)),
                **{name: getattr(paths, name).tolist() for name in ("rank", "index", "excess", "copies")},
                "complete": list(paths.complete),
                "events": [e._asdict() for e in paths.events],
            }
            for K, paths in followed.items()
        }
        save(plot_branches(config, followed), "atlas_bifurcation", scale, **shared, branches=records)
        flowed = {K: edges(config, K, states[K]) for K in config.followed}
        graphs = {K: graph for K, (graph, _) in flowed.items()}
        notes = {
            str(K): {"edges": [e._asdict() for e in graph], "unknown": unknown}
            for K, (graph, unknown) in flowed.items()
        }
        save(plot_graph(tables, graphs), "atlas_graph", scale, **shared, graphs=notes)
    good &= all(False not in paths.complete for paths in followed.values())
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
