"""How it gets there: a flow that steps down the atlas from a small start, and times to collapse.

    python -m experiments.plateaus --scale smoke|default|paper

Gradient flow from Gaussian starts of falling size, for unequal counts: near the origin one direction after
another grows, and the flow stays long beside saddles on its way. Which they are is read off a census, by the
nearest orbit along the path (`Atlas.nearest`). Beside it, along the path from the smallest start, the
singular values of W H̃; and, in several regimes from the same starts, how long gradient flow, gradient
descent, with momentum, and Adam take until f is within 1e-6 of where it ends, relative to where it began.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up
from ufm_jax.models.unconstrained.reduction import collapse, restrict
from ufm_jax.numerics.lanes import each_lane


@dataclass(frozen=True)
class Config:
    """Counts and sizes of starts of the plateaus; starts and longest runs of the times to collapse."""

    counts: tuple[int, ...] = (8, 4, 2, 1)
    sizes: tuple[float, ...] = (1e-1, 1e-4, 1e-8)
    census: int = 4000
    reports: int = 400
    horizon: float = 3e4
    starts: int = 8
    steps: int = 30_000
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config((2, 1, 1), (1e-2, 1e-6), 300, 60, 1e3, 2, 300),
    "default": Config(),
    "paper": Config(census=20_000, starts=64, steps=100_000),
}
DECAYS: dict[str, Any] = {"decay_w": 2e-3, "decay_h": 2e-3, "decay_b": 1e-2}
NEAR = 0.02  # of an orbit, by its invariants: a flow that comes so near is said to pass it
COLLAPSED = 1e-6  # share of the way from the start to the end of f that is left
SETTLED = 1e-5  # ‖∇f‖ at the end of a run, beyond which it still moves
ADAM = optax.adam(optax.exponential_decay(0.03, 3000, 0.1, end_value=3e-5))  # else it oscillates for ever
METHODS = {  # optimiser, and flow time of a step
    "gradient descent, rate 1": (optax.sgd(1.0), 1.0),
    "momentum 0.9, rate 1": (optax.sgd(1.0, momentum=0.9), 10.0),
    "Adam, rate 0.03 falling to 3e-5": (ADAM, None),
}
FLOW = "gradient flow"


def stepping(config: Config) -> dict[str, Any]:
    """Take the census, and flow from each size of start."""
    dim = len(config.counts) - 1
    prob = ufm.problem(counts=config.counts, dim=dim, **DECAYS)
    atlas = ufm.census(prob, starts=config.census)
    rows = [{"loss": row.loss, "rank": row.rank, "index": row.index, "name": row.name} for row in atlas.rows]
    normal = _normal(prob, jax.random.key(config.seed))
    times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(0.1, config.horizon, config.reports)])
    paths = [_path(config, atlas, normal, size, times) for size in config.sizes]
    for size, path in zip(config.sizes, paths, strict=True):
        said = [
            f"{line} ({rows[line]['name']}, rank {rows[line]['rank']}, index {rows[line]['index']}, from "
            f"{start:.3g} to {end:.3g})"
            for line, start, end in path["passed"]
        ]
        print(f"start of size {size:g} passes: {'; '.join(said)}", flush=True)
    ends = downhill(atlas, sorted({line for path in paths for line, _, _ in path["passed"]}))
    print(f"`flow_from` ends: {', '.join(f'from {line} at {end}' for line, end in ends.items())}", flush=True)
    return {"orbits": rows, "complete": atlas.complete, "paths": paths, "flow_from": ends}


def _normal(landscape: ufm.Landscape, key: Any) -> Any:
    leaves, tree = jax.tree.flatten(landscape.zeros())
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def _path(config: Config, atlas: ufm.Atlas, normal: Any, size: float, times: Any) -> dict[str, Any]:
    start = jax.tree.map(lambda a: size * a, normal)
    path = _flowed(atlas.landscape, start, times, 1e-8 * size)
    lines, far = atlas.nearest(path.points)
    return {
        "size": size,
        "times": np.asarray(path.times).tolist(),
        "values": np.asarray(path.values).tolist(),
        "singular": np.asarray(_singular(atlas.landscape, path.points)).tolist(),
        "passed": passed(np.asarray(path.times), lines, far),
    }


@jax.jit
def _flowed(landscape: ufm.Landscape, start: Any, times: Any, atol: Any) -> Any:
    # Beside a saddle, what is about to grow is smaller than any usual tolerance, and so is the gradient.
    return ufm.gradient_flow(landscape.value, start, times, gtol=1e-60, rtol=1e-6, atol=atol)


@jax.jit
def _singular(landscape: Any, points: Any) -> Any:
    logits = lambda p: p.W @ restrict(collapse(landscape), p).H
    return jax.lax.map(lambda p: jnp.linalg.svd(logits(p), compute_uv=False), points)


def passed(times: np.ndarray, lines: np.ndarray, far: np.ndarray) -> list[tuple[int, float, float]]:
    """Return the orbits that a path comes near, in order, each with the first and last time near it."""
    out: list[tuple[int, float, float]] = []
    for time, line in zip(times[far <= NEAR].tolist(), lines[far <= NEAR].tolist(), strict=True):
        if out and out[-1][0] == line:
            out[-1] = (line, out[-1][1], time)
        else:
            out.append((line, time, time))
    return out


def downhill(atlas: ufm.Atlas, lines: list[int]) -> dict[int, int | None]:
    """Return where flows end that leave saddles along their lowest curvature (`ufm.flow_from`)."""
    saddles = [line for line in lines if atlas.rows[line].verdict == "STRICT_SADDLE"]
    ends = [ufm.flow_from(atlas.landscape, atlas[line].x, horizon=1e5).end for line in saddles]
    return {line: atlas.locate(end.x) for line, end in zip(saddles, ends, strict=True)}


def regimes() -> dict[str, ufm.Landscape]:
    """Return the landscapes of which times to collapse are taken."""
    free = partial(ufm.problem, dim=3, **DECAYS)
    return {
        "balanced": free(num_classes=4, per_class=2),
        "counts 8, 4, 2, 1": free(counts=(8, 4, 2, 1)),
        "squared loss": free(num_classes=4, per_class=2, loss=ufm.Squared()),
        "two layers": ufm.DeepLinear(decay=jnp.asarray(2e-3), num_classes=4, num_layers=2),
    }


def collapse_times(config: Config) -> dict[str, dict[str, list[float | None]]]:
    """Return, for each regime and method, when each start has collapsed: steps, or time of the flow."""
    steps = jnp.asarray(
        np.unique(np.append(0, np.geomspace(1, config.steps, config.reports).round())), jnp.int32
    )
    times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(0.1, 10.0 * config.steps, config.reports)])
    out: dict[str, dict[str, list[float | None]]] = {}
    for name, landscape in regimes().items():
        keys = jax.random.split(jax.random.key(config.seed + 1), config.starts)
        starts = _starts(landscape, keys)
        out[name] = {FLOW: _when(times, *_many_flows(landscape, starts, times))}
        for method, (optimiser, _) in METHODS.items():
            values, norms = _many_steps(landscape, starts, steps, optimiser)
            out[name][method] = _when(steps, values, norms)
        said = ", ".join(f"{method} {_median(when)}" for method, when in out[name].items())
        print(f"{name}: median time to collapse: {said}", flush=True)
    return out


def _starts(landscape: ufm.Landscape, keys: Any) -> Any:
    """Return normal points of standard deviation ½."""
    return jax.vmap(lambda key: jax.tree.map(lambda a: a / 2, _normal(landscape, key)))(keys)


@jax.jit
def _many_flows(landscape: ufm.Landscape, starts: Any, times: Any) -> Any:
    def one(x: Any) -> Any:
        path = ufm.gradient_flow(landscape.value, x, times, gtol=1e-10, rtol=1e-6, atol=1e-9)
        return path.values, path.grad_norms[-1]

    return each_lane(one)(starts)


@partial(jax.jit, static_argnames="optimiser")
def _many_steps(landscape: ufm.Landscape, starts: Any, steps: Any, optimiser: Any) -> Any:
    def one(x: Any) -> Any:
        path = ufm.discrete_flow(landscape.value, x, optimiser, steps)
        return path.values, path.grad_norms[-1]

    return each_lane(one)(starts)


def _when(times: Any, values: Any, norms: Any) -> list[float | None]:
    """Return the first time from which on f is within `COLLAPSED` of its end; None: it still moves there."""
    out: list[float | None] = []
    for path, norm in zip(np.asarray(values), np.asarray(norms), strict=True):
        left = (path - path[-1]) / (path[0] - path[-1])
        last = np.flatnonzero(~(np.abs(left) <= COLLAPSED))
        ended = np.isfinite(norm) and norm <= SETTLED and last.size and last[-1] + 1 < len(path)
        out.append(float(times[last[-1] + 1]) if ended else None)
    return out


def _median(when: list[float | None]) -> str:
    known = [t for t in when if t is not None]
    return f"{np.median(known):.3g} ({len(known)} of {len(when)})" if known else "none"


def run(config: Config) -> dict[str, Any]:
    """Flow down the atlas, and take the times."""
    return {"stepping": stepping(config), "times": collapse_times(config)}


def plot(told: dict[str, Any], config: Config) -> plt.Figure:
    """Draw f and singular values along the flows, and times to collapse."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10.0, 7.0))
        _draw_steps(axes[0, 0], told["stepping"])
        path = told["stepping"]["paths"][-1]
        for i, values in enumerate(np.array(path["singular"])[:, : len(config.counts) - 1].T):
            axes[0, 1].plot(path["times"][1:], values[1:], color=COLOURS[i], label=f"{i + 1}")
        axes[0, 1].set(xscale="log", yscale="log", xlabel="flow time", ylabel="singular value of W H")
        axes[0, 1].set_title(f"ranks that grow, start of size {path['size']:g}")
        axes[0, 1].legend(title="number", loc="lower right")
        in_steps = dict.fromkeys(METHODS, 1.0)
        in_time = {FLOW: 1.0} | {name: unit for name, (_, unit) in METHODS.items() if unit is not None}
        _draw_times(axes[1, 0], told["times"], in_steps, "steps")
        _draw_times(axes[1, 1], told["times"], in_time, "flow time (rate x steps / (1 − momentum))")
        handles: dict[str, Any] = {}
        for ax in axes[1]:
            handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
        return figure


def _draw_steps(ax: Any, told: dict[str, Any]) -> None:
    levels: dict[int, float] = {}
    for i, path in enumerate(told["paths"]):
        look = {"color": COLOURS[i], "label": f"start of size {path['size']:g}"}
        ax.plot(path["times"][1:], path["values"][1:], ("-", "--", "-.")[i % 3], **look)
        levels |= {line: told["orbits"][line]["loss"] for line, _, _ in path["passed"]}
    for line, loss in levels.items():
        row = told["orbits"][line]
        ax.axhline(loss, color="0.7", lw=0.8, zorder=0)
        what = "minimum" if row["index"] == 0 else f"index {row['index']}"
        place = (1.01, loss)
        ax.annotate(
            f"rank {row['rank']}, {what}", place, xycoords=("axes fraction", "data"), fontsize=7, va="center"
        )
    ax.set(xscale="log", yscale="log", xlabel="flow time", ylabel="f (nats)")
    ax.set_title("gradient flow down the atlas; lines: critical values passed")
    ax.legend(loc="lower left")


def _draw_times(ax: Any, times: dict[str, Any], units: dict[str, float], label: str) -> None:
    names = [FLOW, *METHODS]
    for method, unit in units.items():
        which = names.index(method)
        for place, one in enumerate(times.values()):
            x = place + 0.18 * (which - 1.5)
            known = unit * np.array([t for t in one[method] if t is not None])
            look = {"color": COLOURS[which], "ms": 4, "mfc": "none"}
            ax.plot(np.full(len(known), x), known, MARKERS[which], **look, label=None if place else method)
            if len(known) < len(one[method]):
                missing = len(one[method]) - len(known)
                ax.annotate(
                    f"{missing} not", (x, 1.0), xycoords=("data", "axes fraction"), fontsize=6, ha="center"
                )
    ax.set_xticks(range(len(times)), list(times))
    ax.set(yscale="log", ylabel=label, title="until f is within 1e-6 of its end")


def main(scale: Scale = "default") -> None:
    """Flow, take times, print what was found, and draw figures/plateaus.png and .pdf."""
    set_up()
    config = SCALES[scale]
    told = run(config)
    save(partial(plot, told, config), "plateaus", scale, config=asdict(config), decays=DECAYS, **told)


if __name__ == "__main__":
    cli(main)
