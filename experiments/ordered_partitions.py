"""One feature dimension: critical points are ordered partitions of the classes, in a window of decays.

    python -m experiments.ordered_partitions --scale smoke|default|paper

Balanced cross-entropy with n = 1, λ_W = λ_H = θ, ε = Kθ, d = 1: each class has one weight w_k and one feature
t_k. Observed: one critical point for each ordered partition of the classes into B blocks. Classes of a block
share w, t and b, blocks lie on the line in that order, and the Morse index is K − B. Counted with class
permutations and signs these are the ordered set partitions: 13, 75, 541, 4683 (Fubini numbers), K = 3 to 6.

*Why.* For given w, f is strictly convex in (t, b), where λ_b > 0; let φ(w) be its minimum, for Σ w = 0. φ is
smooth, symmetric under permutations, grows at infinity, and its critical points have the index of f's. The
mirrors w_i = w_j cut w-space into faces, one for each ordered partition, and by symmetry ∇φ is tangent to the
mirrors: downhill flow stays in its face. At a critical point the permutations of a block of m classes leave
one curvature to the m − 1 directions that split it. Along (v, τv, ρv) of (w, t, b), Σ v = 0, ‖v‖ = 1,

    K × curvature of f = ε (1 + τ²) − 2τ + τ² V + Kλ_b ρ² + Σ_k p(t_k) (t_k + ρ)²,

p(t_k) the probability of one class of the block at class k, V the variance of w under the block's own
probabilities. With S the least of the last two terms over ρ, a block splits downhill iff (ε + S)(ε + V) < 1.

1. If all blocks of all critical points on the border of a face split, then Σ (−1)^(index within the face) = 1
   over the critical points in the open face: those on its border have no local homology in it, as what is
   below them is a cone. So the partition has a critical point, and if all it has are minima within the face,
   just one. The index is K − B plus that within the face. That is the observation.
2. Unconditionally: the origin, S = V = 0, splits for all ε < 1. So all partitions into two blocks exist.

It ends where a block no longer splits (there two blocks of a longer partition meet), or where the point of a
face is no minimum within it (it has branched). Measured here: both, following each partition from ε = 0.03,
and a census at a grid of ε. Not proven: that all blocks split inside the window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.common import COLOURS, Scale, cli, save, set_up
from ufm_jax.landscape.census import find_orbits
from ufm_jax.landscape.orbits import rows, unseen_mass
from ufm_jax.models.unconstrained.model import problem

START = 0.03  # ε from which partitions are followed: there all of K ≤ 6 exist
RESIDUAL = 1e-11  # largest entry of the gradient at a point that counts as solved
APART = 1e-4  # least distance of neighbouring w: nearer ones have met
HALVINGS = 20  # of the interval of log ε in which something happens


@dataclass(frozen=True)
class Config:
    """Class numbers; ε of the censuses, their starts; steps per factor 10 and ends of following."""

    classes: tuple[int, ...] = (3, 4, 5, 6)
    k_theta: tuple[float, ...] = (1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.03, 0.08, 0.15, 0.2, 0.3, 0.5, 0.9)
    starts: int = 2000
    decay_b: float = 1e-2
    steps: int = 12
    ends: tuple[float, float] = (1e-4, 0.99)
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config(classes=(3, 4), k_theta=(1e-3, 0.1), starts=1000, steps=4, ends=(1e-3, 0.9)),
    "default": Config(),
    "paper": Config(classes=(3, 4, 5, 6, 7), starts=20_000, steps=30),
}


class State(NamedTuple):
    """A point of a face: w, t and b of each block."""

    x: np.ndarray  # (3, B)
    residual: float  # largest entry of the gradient
    curvature: float  # lowest eigenvalue of the Hessian within the face
    splitting: float  # largest (ε + S)(ε + V) of a block of at least two classes; 0 without one

    def trouble(self) -> str | None:
        """Say why this is no point as observed: None where it is."""
        if self.residual > RESIDUAL or np.diff(self.x[0]).min(initial=np.inf) < APART:
            return "blocks meet"
        if self.curvature <= 0:
            return "no minimum within its face"
        return "a block does not split" if self.splitting >= 1 else None


def compositions(total: int) -> Iterator[tuple[int, ...]]:
    """Yield the ordered partitions of `total` alike classes, of each and its reverse one."""

    def parts(left: int) -> Iterator[tuple[int, ...]]:
        if left == 0:
            yield ()
        for first in range(1, left + 1):
            for rest in parts(left - first):
                yield (first, *rest)

    return (c for c in parts(total) if c >= c[::-1])


@jax.jit
def merged(x: jax.Array, sizes: jax.Array, k_theta: float, decay_b: float) -> jax.Array:
    """Return f at w, t, b of blocks of these sizes."""
    w, t, b = x
    K = jnp.sum(sizes)
    logits = t[:, None] * w + b  # of a class of each block, a row a sample
    fit = jax.nn.logsumexp(logits + jnp.log(sizes), axis=1) - jnp.diag(logits)
    decay = k_theta / K * jnp.sum(sizes * (w**2 + t**2)) + decay_b * jnp.sum(sizes * b**2)
    return jnp.sum(sizes * fit) / K + decay / 2


@jax.jit
def derivatives(
    x: jax.Array, sizes: jax.Array, k_theta: float, decay_b: float
) -> tuple[jax.Array, jax.Array]:
    """Return gradient and Hessian of `merged`, flat."""
    flat = lambda v: merged(v.reshape(x.shape), sizes, k_theta, decay_b)
    return jax.grad(flat)(x.ravel()), jax.hessian(flat)(x.ravel())


def splitting(x: np.ndarray, sizes: np.ndarray, k_theta: float, decay_b: float) -> np.ndarray:
    """Return (ε + S)(ε + V) of every block: it splits downhill iff this is below 1."""
    w, t, b = x
    logits = t[:, None] * w + b
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / (p @ sizes)[:, None]  # of one class
    mean = p @ (sizes * w)
    V = p @ (sizes * w**2) - mean**2
    weight = sizes[:, None] * p  # sample, class
    rho = -(t @ weight) / (sizes.sum() * decay_b + weight.sum(axis=0))
    S = sizes.sum() * decay_b * rho**2 + np.sum(weight * (t[:, None] + rho) ** 2, axis=0)
    return (k_theta + S) * (k_theta + V)


def solve(x: np.ndarray, sizes: np.ndarray, k_theta: float, decay_b: float, *, down: bool = False) -> State:
    """Return the critical point within the face that Newton's method finds near x; `down`: a minimum."""
    f = partial(merged, sizes=sizes, k_theta=k_theta, decay_b=decay_b)
    for _ in range(100):
        gradient, hessian = map(np.asarray, derivatives(x, sizes, k_theta, decay_b))
        values, vectors = np.linalg.eigh(hessian)
        if np.abs(gradient).max() < RESIDUAL / 100:
            break
        safe = np.maximum(np.abs(values), 1e-12)
        scaled = (vectors.T @ gradient) / (safe if down else np.where(values < 0, -safe, safe))
        step = -(vectors @ scaled).reshape(x.shape)
        step = step / max(1.0, np.abs(step).max())
        while down and f(x + step) > f(x) + 1e-15 and np.abs(step).max() > 1e-9:
            step = step / 2
        x = x + step
    split = splitting(x, sizes, k_theta, decay_b)[sizes > 1].max(initial=0.0)
    return State(x, float(np.abs(gradient).max()), float(values[0]), float(split))


def window(config: Config, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Follow a partition from ε = `START` to both ends; return where and how it ceases to be as observed."""
    m = np.array(sizes, float)
    places = np.linspace(-1.0, 1.0, len(m)) * (len(m) > 1)
    begun = solve(np.stack([3 * places, 3 * places, 0 * places]), m, START, config.decay_b, down=True)
    out: dict[str, Any] = {"partition": list(sizes), "at_start": begun.trouble()}
    for side, end in zip(("lower", "upper"), config.ends, strict=True):
        here, state, what = START, begun, begun.trouble()
        number = 1 + int(config.steps * abs(np.log10(end / START)))
        for there in np.geomspace(START, end, number + 1)[1:]:
            later = solve(state.x, m, float(there), config.decay_b)
            if (what := later.trouble()) is not None:
                here, what = _between(config, m, state, here, float(there))
                break
            here, state = float(there), later
        out |= {side: here, f"{side}_ends": what}
    return out


def _between(
    config: Config, m: np.ndarray, state: State, good: float, bad: float
) -> tuple[float, str | None]:
    """Halve log ε between where all is as observed and where it is not; return where, and what ends."""
    what = None
    for _ in range(HALVINGS):
        middle = float(np.sqrt(good * bad))
        later = solve(state.x, m, middle, config.decay_b)
        if (trouble := later.trouble()) is None:
            good, state = middle, later
        else:
            bad, what = middle, trouble
    return good, what or solve(state.x, m, bad, config.decay_b).trouble()


def take_census(config: Config, K: int, k_theta: float) -> dict[str, Any]:
    """List the critical points at d = 1 and compare them with the ordered partitions."""
    decay = k_theta / K
    prob = problem(num_classes=K, per_class=1, dim=1, decay_w=decay, decay_h=decay, decay_b=config.decay_b)
    state = find_orbits(prob, seed=config.seed, starts=config.starts)
    found = rows(prob, state)
    expected = {f"ordered[{'|'.join(map(str, c))}]": len(c) for c in compositions(K) if len(c) > 1}
    expected |= {"origin": 1}
    names = [row.name for row in found]
    return {
        "K": K,
        "K_theta": k_theta,
        "points": sum((row.copies or 0) * (2 if row.rank else 1) for row in found),
        "fubini": fubini(K),
        "missing": sorted(set(expected) - set(names)),
        "more_than_one": sorted({name for name in names if names.count(name) > 1}),
        "other_index": sorted({r.name for r in found if r.index != K - expected.get(r.name, 0)}),
        "unseen": unseen_mass(state.hits),
    }


def fubini(K: int) -> int:
    """Count the ordered set partitions of K things."""
    counts = [1]
    for n in range(1, K + 1):
        binomial = 1
        total = 0
        for first in range(1, n + 1):
            binomial = binomial * (n - first + 1) // first
            total += binomial * counts[n - first]
        counts.append(total)
    return counts[K]


def as_observed(census: dict[str, Any]) -> bool:
    """True if there is one point for each ordered partition, of the index observed, and no other."""
    unlike = census["missing"] + census["more_than_one"] + census["other_index"]
    return not unlike and census["points"] == census["fubini"]


def run(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return windows and censuses."""
    windows, censuses = [], []
    for K in config.classes:
        own = [window(config, sizes) for sizes in compositions(K)]
        windows += own
        low, high = (max(own, key=lambda w: w["lower"]), min(own, key=lambda w: w["upper"]))
        print(f"K = {K}: all {len(own)} partitions (modulo reversal) as observed for")
        print(f"  Kθ > {low['lower']:.6g}: {low['partition']}: {low['lower_ends']}")
        print(f"  Kθ < {high['upper']:.6g}: {high['partition']}: {high['upper_ends']}")
        for k_theta in config.k_theta:
            censuses.append(take_census(config, K, k_theta))
            print(_line(censuses[-1]), flush=True)
    return windows, censuses


def _line(c: dict[str, Any]) -> str:
    said = "as observed" if as_observed(c) else "NOT as observed"
    unlike = {name: len(c[name]) for name in ("missing", "more_than_one", "other_index") if c[name]}
    return f"  Kθ = {c['K_theta']:<6g} {c['points']:>5} points of {c['fubini']}: {said} {unlike or ''}"


def plot(config: Config, windows: list[dict[str, Any]], censuses: list[dict[str, Any]]) -> plt.Figure:
    """Draw the window of each partition as a bar, and the censuses above them."""
    figure, axes = plt.subplots(
        1, len(config.classes), figsize=(2.0 + 2.0 * len(config.classes), 4.6), squeeze=False
    )
    for ax, K in zip(axes[0], config.classes, strict=True):
        own = [w for w in windows if sum(w["partition"]) == K and w["at_start"] is None]
        own.sort(key=lambda w: (len(w["partition"]), w["partition"]))
        for place, w in enumerate(own):
            colour = COLOURS[(len(w["partition"]) - 1) % len(COLOURS)]
            ax.plot([w["lower"], w["upper"]], [place, place], color=colour, lw=3, solid_capstyle="butt")
        ax.set_yticks(range(len(own)), ["|".join(map(str, w["partition"])) for w in own], fontsize=6)
        top = len(own) + 0.6
        for c in (c for c in censuses if c["K"] == K):
            good = as_observed(c)
            ax.plot(c["K_theta"], top, "o" if good else "x", color="black", mfc="none", ms=5)
        ax.axvspan(max(w["lower"] for w in own), min(w["upper"] for w in own), color="0.9", zorder=0, lw=0)
        ax.set(
            xscale="log", xlabel=r"$K\theta$", title=f"K = {K}: {fubini(K)} points", ylim=(-0.7, top + 0.8)
        )
        ax.set_xlim(config.ends[0] / 1.3, 1.3)
    figure.suptitle(
        "Ordered partitions as critical points at d = 1. Bars: where each is\n"
        "a minimum within its face whose blocks split; grey: where all are.\n"
        "Census: ○ these points and no others, × not so",
        fontsize=9,
    )
    return figure


def main(scale: Scale = "default") -> None:
    """Test whether critical points at d = 1 are the ordered partitions; print tables and draw the windows."""
    set_up()
    config = SCALES[scale]
    windows, censuses = run(config)
    draw = partial(plot, config, windows, censuses)
    save(draw, "ordered_partitions", scale, config=config.__dict__, windows=windows, censuses=censuses)


if __name__ == "__main__":
    cli(main)
