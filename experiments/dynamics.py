"""Neural collapse along gradient flow and three optimisers, all from one Gaussian start.

    python -m experiments.dynamics --scale smoke|default|paper

The full (not collapsed) unconstrained feature model with balanced cross-entropy and d ≥ K − 1, where f* is
known in closed form. One figure for each size: NC1–NC4, the loss gap f − f* and the gradient norm against
steps (flow time for gradient flow); and a table of where each ended. Every optimiser sees the full batch.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from experiments.common import COLOURS, Scale, cli, save, set_up
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.starts import gaussian
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.flow import Trajectory, discrete_flow, gradient_flow
from ufm_jax.numerics.status import Status

# Rounding of f makes gaps of some 1e-16, of either sign: what is drawn here is nought or below.
LEAST_GAP = 1e-17
SMALL_GRADIENT = 1e-8
LINES = ("-", "--", ":", "-.")
PANELS = {
    "nc1": "NC1: within-class variability",
    "nc2": "NC2: distance of $W W^T$ to ETF",
    "nc3": "NC3: distance of $W \\bar{H}$ to ETF",
    "nc4": "NC4: $\\|W h_G + b\\|_2$",
    "gap": "$f - f^*$ (nats), at least $10^{-17}$",
    "grad_norm": "$\\|\\nabla f\\|_2$ (nats)",
}


@dataclass(frozen=True)
class Config:
    """Sizes (K, n, d), decays, how long each optimiser runs and how it is set.

    λ_H = λ_W/n. Set by a small search, K = 4 and 10: SGD diverges from some starts at rate 10; Adam needs
    fewest steps from rate 1, and oscillates for ever where its rate does not fall far enough.
    """

    sizes: tuple[tuple[int, int, int], ...] = ((4, 5, 6),)
    decay: float = 5e-4
    decay_b: float = 1e-2
    horizon: float = 3e5  # of gradient flow, in flow time
    sgd_steps: int = 8_000
    sgd_rate: float = 5.0
    momentum: float = 0.9
    adam_steps: int = 8_000
    adam_rate: float = 1.0
    adam_end_rate: float = 1e-4  # reached exponentially at the last step
    lbfgs_steps: int = 300
    memory: int = 20
    reports: int = 200  # points of each curve, evenly spaced in the logarithm
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        sizes=((3, 2, 2),), horizon=1e3, sgd_steps=500, adam_steps=500, lbfgs_steps=60, reports=40
    ),
    "default": Config(),
    "paper": Config(
        sizes=((4, 5, 6), (10, 5, 9)), horizon=1e6, sgd_steps=20_000, adam_steps=20_000, lbfgs_steps=600
    ),
}


class Curve(NamedTuple):
    """What is drawn of one trajectory: each array of `series` is over `times`."""

    name: str
    status: str
    times: np.ndarray
    series: dict[str, np.ndarray]


Runner = Callable[[Any, Any], Trajectory]


def runners(config: Config) -> dict[str, Runner]:
    """Build name -> (f, start) -> trajectory, for each of the four ways down."""
    sgd = optax.sgd(config.sgd_rate, momentum=config.momentum)
    shrink = config.adam_end_rate / config.adam_rate
    adam = optax.adam(optax.exponential_decay(config.adam_rate, config.adam_steps, shrink))
    lbfgs = optax.lbfgs(memory_size=config.memory)
    rates = f"{config.adam_rate:g} to {config.adam_end_rate:g}"
    return {
        "gradient flow": partial(gradient_flow, times=report_times(config)),
        f"SGD, full batch, momentum {config.momentum:g}, rate {config.sgd_rate:g}": partial(
            discrete_flow, optimiser=sgd, steps=report_steps(config.sgd_steps, config.reports)
        ),
        f"Adam, full batch, rate {rates}": partial(
            discrete_flow, optimiser=adam, steps=report_steps(config.adam_steps, config.reports)
        ),
        f"L-BFGS, memory {config.memory}, line search": partial(
            discrete_flow, optimiser=lbfgs, steps=report_steps(config.lbfgs_steps, config.reports)
        ),
    }


def report_times(config: Config) -> jax.Array:
    """Return 0 and flow times from 0.1 to the horizon."""
    return jnp.concatenate([jnp.zeros(1), jnp.geomspace(0.1, config.horizon, config.reports)])


def report_steps(last: int, count: int) -> jax.Array:
    """Return 0 and at most `count` different step numbers from 1 to `last`."""
    return jnp.asarray(np.unique(np.append(0, np.geomspace(1, last, count).round())), jnp.int32)


def curve(prob: Problem, name: str, path: Trajectory) -> Curve:
    """Measure NC1–NC4 and the loss gap along a trajectory, up to the last report at which it still moved."""
    metrics = jax.vmap(partial(collapse_metrics, prob))(path.points)
    series = {key: np.asarray(value) for key, value in metrics._asdict().items()}
    series["gap"] = np.asarray(path.values - global_minimum(prob))
    series["grad_norm"] = np.asarray(path.grad_norms)
    times = np.asarray(path.times)
    # Times after a flow's end repeat the end.
    moved = np.append(True, (np.diff(path.values) != 0) | (np.diff(path.grad_norms) != 0))
    length = 1 + np.flatnonzero(moved)[-1]
    cut = {key: value[:length] for key, value in series.items()}
    return Curve(name, Status(int(path.status)).name, times[:length], cut)


def run(config: Config, K: int, n: int, d: int) -> list[Curve]:
    """Run gradient flow and the optimisers from the same start."""
    prob = problem(
        num_classes=K,
        per_class=n,
        dim=d,
        decay_w=config.decay,
        decay_h=config.decay / n,
        decay_b=config.decay_b,
    )
    f, start = objective(prob), gaussian(prob, jax.random.key(config.seed))
    curves = []
    for name, runner in runners(config).items():
        print(f"K={K}: {name} starts", flush=True)
        began = time.perf_counter()
        curves.append(curve(prob, name, runner(f, start)))
        print(f"K={K}: {name} ends {curves[-1].status} after {time.perf_counter() - began:.0f} s", flush=True)
    return curves


def ends(curves: list[Curve]) -> list[dict[str, Any]]:
    """Return one row for each curve: how and where it ended; None for what is undefined or never happened."""
    rows = []
    for name, status, times, series in curves:
        small = np.flatnonzero(series["grad_norm"] <= SMALL_GRADIENT)
        row = {"optimiser": name, "status": status, "last": float(times[-1])}
        row["small_gradient_at"] = float(times[small[0]]) if small.size else None
        last = {key: float(value[-1]) for key, value in series.items()}
        rows.append(row | {key: value if np.isfinite(value) else None for key, value in last.items()})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows of `ends`; a dash stands for None."""
    heads = ("optimiser", "status", "last", f"|grad f|<={SMALL_GRADIENT:.0e} at", "f - f*", "|grad f|")
    keys = (
        "optimiser",
        "status",
        "last",
        "small_gradient_at",
        "gap",
        "grad_norm",
        "nc1",
        "nc2",
        "nc3",
        "nc4",
    )
    cells = [[*heads, "NC1", "NC2", "NC3", "NC4"]]
    cells += [[_cell(key, row[key]) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.0f}" if key in ("last", "small_gradient_at") else f"{value:.1e}"


def plot(curves: list[Curve], K: int, n: int, d: int) -> plt.Figure:
    """Draw each quantity in its own panel on logarithmic axes, one colour and line style an optimiser."""
    figure, axes = plt.subplots(2, 3, figsize=(9.0, 5.4), sharex=True)
    for ax, (key, label) in zip(axes.flat, PANELS.items(), strict=True):
        for i, c in enumerate(curves):
            values = np.maximum(c.series[key], LEAST_GAP) if key == "gap" else c.series[key]
            # Zero has no place on a logarithmic axis.
            seen = (values > 0) & (c.times > 0)
            name = c.name if ax is axes[0][0] else None
            ax.plot(c.times[seen], values[seen], LINES[i], color=COLOURS[i], lw=1.4, label=name)
        ax.set(xscale="log", yscale="log", ylabel=label)
    for ax in axes[1]:
        ax.set_xlabel("step (gradient flow: time)")
    figure.legend(loc="outside lower center", ncols=2, handlelength=3)
    figure.suptitle(
        f"Collapse metrics, loss gap and gradient norm from one Gaussian start (K = {K}, n = {n}, d = {d})",
        fontsize=10,
    )
    return figure


def main(scale: Scale = "default") -> None:
    """Run gradient flow and the optimisers, print where they ended, and draw a figure for each size."""
    set_up()
    config = SCALES[scale]
    for number, size in enumerate(config.sizes):
        curves = run(config, *size)
        rows = ends(curves)
        print(f"\nK = {size[0]}, n = {size[1]}, d = {size[2]}\n{table(rows)}\n", flush=True)
        name = "dynamics" if number == 0 else f"dynamics_K{size[0]}"
        draw = partial(plot, curves, *size)
        save(draw, name, scale, config=asdict(config), size=list(size), ends=rows)


if __name__ == "__main__":
    cli(main)
