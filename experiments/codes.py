"""Fewer dimensions than a simplex needs, d < K − 1: codes found beside the best known spherical codes.

    python -m experiments.codes --scale smoke|default|paper

Unit-norm rows and columns (`ufm.UnitNorm`) at growing temperature, and the paper's problem without a bias at
decays that fall to 0: for each (K, d) the lowest end of descents, its greatest cosine between two rows of W
and its least margin ⟨w_y − w_j, h⟩ of unit vectors. A spherical code makes the greatest cosine as small as
it can be; a softmax code makes the least distance from one vector to the hull of the others as large as it
can be, which is what the margin tends to (Jiang et al. 2023). The two differ.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ufm_jax as ufm
from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, save, set_up


@dataclass(frozen=True)
class Config:
    """(K, d), temperatures and decays, descents at each."""

    sizes: tuple[tuple[int, int], ...]
    temperatures: int
    decays: int
    starts: int
    free: tuple[tuple[int, int], ...] = ()  # where the paper's problem is looked at, too
    hottest: float = 3e2


def every(most: int, dims: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return all (K, d) with d + 2 ≤ K ≤ `most`."""
    return tuple((K, d) for d in dims for K in range(d + 2, most + 1))


FREE = ((5, 2), (5, 3), (7, 3), (8, 3))
SCALES: dict[Scale, Config] = {
    "smoke": Config(((4, 2), (5, 3)), 3, 2, 8, ((4, 2),)),
    "default": Config((*every(8, (2,)), *every(12, (3,)), *every(8, (4,))), 8, 5, 24, FREE),
    "paper": Config((*every(12, (2, 3, 4, 5)), (24, 4)), 9, 9, 400, FREE),
}
DECAYS = (1e-2, 1e-8)
SAME = 1e-6  # margins that are one

# Angles in degrees of the best codes in three dimensions: 7 and 9 (Schütte & van der Waerden 1951), 8 (the
# same), 10 (Danzer 1986), 11 and 12, the icosahedron (Fejes Tóth 1943; Danzer 1986).
ANGLES = {7: 77.8695421, 8: 74.8584922, 9: 70.5287794, 10: 66.1468220, 11: 63.4349488, 12: 63.4349488}


def code_cosine(num_classes: int, dim: int) -> float | None:
    """Return the greatest cosine of the best spherical code where it is proved; None elsewhere.

    Polygons; the simplex, −1/(K−1), for K ≤ d + 1; 0 for d + 2 ≤ K ≤ 2d (Rankin 1955); `ANGLES`; the 24-cell
    (Musin 2008).
    """
    K, d = num_classes, dim
    if d == 2:
        return float(np.cos(2 * np.pi / K))
    if d >= K - 1:
        return -1 / (K - 1)
    if 2 * d >= K:
        return 0.0
    if d == 3 and K in ANGLES:
        return float(np.cos(np.deg2rad(ANGLES[K])))
    return 0.5 if (K, d) == (24, 4) else None


def geometry(W: np.ndarray, H: np.ndarray) -> dict[str, float]:
    """Return the greatest cosine of two rows of W, and the least margin of unit vectors."""
    W, H = W / np.linalg.norm(W, axis=1, keepdims=True), H / np.linalg.norm(H, axis=0)
    off = ~np.eye(len(W), dtype=bool)
    margins = np.diag(W @ H) - W @ H
    spread = np.linalg.norm(W @ W.T - H.T @ H)
    return {
        "cosine": float((W @ W.T)[off].max()),
        "margin": float(margins[off].min()),
        "w_and_h": float(spread),
    }


class Hot(ufm.UnitNorm):
    """Unit norms with (log g)/τ in place of g, which moves no critical point: g is tiny at high τ."""

    def value(self, x: Any) -> Any:
        lengths = jnp.concatenate([jnp.sum(x.W**2, axis=1), jnp.sum(x.H**2, axis=0)])
        W = x.W / jnp.linalg.norm(x.W, axis=1, keepdims=True)
        cosines = W @ (x.H / jnp.linalg.norm(x.H, axis=0))
        apart = self.temperature * (cosines - jnp.diag(cosines))  # one sample a class
        wrong = ~np.eye(len(self.counts), dtype=bool)
        g = jnp.mean(jnp.log1p(jnp.sum(jnp.where(wrong, jnp.exp(apart), 0.0), axis=0)))
        return jnp.log(g) / self.temperature + jnp.sum((lengths - 1.0) ** 2) / (4 * len(self.counts))


def annealed(landscapes: Sequence[ufm.Landscape], starts: int) -> list[dict[str, Any]]:
    """Return what the lowest end of descents is at each landscape: from random starts, and the lowest before.

    At a high temperature most descents from random starts end above it, and the lowest code at a low one may
    not be the lowest later.
    """
    out: list[dict[str, Any]] = []
    kept: Any = None
    for number, landscape in enumerate(landscapes):
        key = jax.random.fold_in(jax.random.key(0), number)
        keys = jax.random.split(key, starts * (2 if kept is None else 1))
        begun = jax.vmap(landscape.start)(keys)
        if kept is not None:
            begun = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), begun, kept)
        found = ufm.search(landscape, begun, ufm.Newton())
        loss = np.where(np.asarray(found.status) == ufm.Status.CONVERGED, _values(landscape, found.x), np.inf)
        order = np.argsort(loss, kind="stable")[:starts]
        kept = _taken(found.x, order)
        every = [geometry(np.asarray(W), np.asarray(H)) for W, H in zip(found.x.W, found.x.H, strict=True)]
        own, fresh = every[order[0]], every[:starts]
        share = float(np.mean([abs(one["margin"] - own["margin"]) < SAME for one in fresh]))
        told = {"loss": float(loss[order[0]]), "name": landscape.name_of(_taken(found.x, order[0]))}
        out.append(told | {"share": share, "failed": int(np.isinf(loss).sum()), **own})
    return out


@jax.jit
def _values(landscape: ufm.Landscape, points: Any) -> Any:
    return jax.lax.map(landscape.value, points)


def _taken(points: Any, which: Any) -> Any:
    return jax.tree.map(lambda a: a[which], points)


def run(config: Config) -> list[dict[str, Any]]:
    """Descend at each size, temperature and decay."""
    taus, decays = (
        np.geomspace(2.0, config.hottest, config.temperatures),
        np.geomspace(*DECAYS, config.decays),
    )
    table = []
    for K, d in config.sizes:
        unit = [Hot(temperature=jnp.asarray(tau), num_classes=K, dim=d) for tau in taus]
        size: dict[str, Any] = {"num_classes": K, "per_class": 1, "dim": d, "bias": False}
        free = [ufm.problem(**size, decay_w=s, decay_h=s) for s in decays]
        row: dict[str, Any] = {"K": K, "d": d, "code": code_cosine(K, d)}
        hot = annealed(unit, config.starts)
        row["unit"] = [{"temperature": float(t), **r} for t, r in zip(taus, hot, strict=True)]
        if (K, d) in config.free:
            cold = annealed(free, config.starts)
            row["free"] = [{"decay": float(s), **r} for s, r in zip(decays, cold, strict=True)]
        table.append(row)
        print(_line(row), flush=True)
    return table


def _line(row: dict[str, Any]) -> str:
    code = "      -" if row["code"] is None else f"{row['code']:+.6f}"
    parts = [f"K = {row['K']:>2}, d = {row['d']}: code {code}"]
    for kind, field in (("unit", "temperature"), ("free", "decay")):
        if kind in row:
            one = row[kind][-1]
            parts.append(
                f"{field} {one[field]:g}: cosine {one['cosine']:+.6f}, margin {one['margin']:.6f}, "
                f"{one['name']} ({one['share']:.0%} of random starts)"
            )
    return "; ".join(parts)


def plot(table: list[dict[str, Any]]) -> plt.Figure:
    """Draw cosines and margins of the best codes found, and both on the way to no decay."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10.0, 7.0))
        dims = sorted({row["d"] for row in table})
        for i, d in enumerate(dims):
            rows = [row for row in table if row["d"] == d]
            K, look = (
                np.array([row["K"] for row in rows]) + 0.1 * (i - 1),
                {"color": COLOURS[i], "mfc": "none"},
            )
            code = np.array([row["code"] for row in rows], float)
            for ax, key, known in ((axes[0, 0], "cosine", code), (axes[0, 1], "margin", 1.0 - code)):
                found = [row["unit"][-1][key] for row in rows]
                ax.plot(K, found, MARKERS[i], **look, label=f"d = {d}, found")
                ax.plot(K, known, "_", color=COLOURS[i], ms=14, label=f"d = {d}, spherical code")
        axes[0, 0].set(ylabel="greatest cosine of two rows of W", title="the best codes found, hottest")
        axes[0, 1].set(ylabel="least margin", title="their margins; 1: orthogonal simplices")
        for ax in axes[0]:
            ax.set(xlabel="classes K", xticks=sorted({row["K"] for row in table}))
        axes[0, 0].legend(fontsize=7)
        chosen = [row for row in table if "free" in row]
        for ax, part, field in ((axes[1, 0], "unit", "temperature"), (axes[1, 1], "free", "decay")):
            for i, row in enumerate(chosen):
                x, y = ([one[key] for one in row[part]] for key in (field, "cosine"))
                label = f"K = {row['K']}, d = {row['d']}"
                ax.plot(x, y, ("-", "--", "-.", ":")[i % 4] + MARKERS[i], color=COLOURS[i], ms=4, label=label)
            ax.set(xscale="log", ylabel="greatest cosine of two rows of W")
        axes[1, 0].set(xlabel="temperature τ", title="unit norms")
        axes[1, 1].set(xlabel="λ_W = λ_H", title="free lengths, no bias, decays to 0")
        axes[1, 1].invert_xaxis()
        axes[1, 1].legend(fontsize=7)
        return figure


def main(scale: Scale = "default") -> None:
    """Search, print what was found, and draw figures/codes.png and .pdf."""
    set_up()
    config = SCALES[scale]
    table = run(config)
    save(partial(plot, table), "codes", scale, config=asdict(config), table=table)


if __name__ == "__main__":
    cli(main)
