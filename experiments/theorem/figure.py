"""Pictures of a proof: R over the angle of a line at K = 3, the boxes over the chamber at K = 4."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection

from experiments.common import COLOURS
from experiments.theorem.proof import Proof
from experiments.theorem.search import State

LINEAR = 1e-3  # of the largest R, below which its axis is linear


def draw(proofs: list[Proof]) -> plt.Figure:
    """Draw each search of each proof in a panel of its own, those of K = 3 above those of K = 4, and no
    others.
    """
    rows = []
    for K, one in ((3, _line), (4, _triangle)):
        panels = [(p, rank) for p in proofs for rank in p.searches if p.setting.num_classes == K]
        if panels:
            rows.append((panels, one))
    width = max(3.4, *(3.0 * len(panels) for panels, _ in rows))
    heights = [2.6 if one is _line else 4.2 for _, one in rows]
    figure = plt.figure(figsize=(width, sum(heights)))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (panels, one) in zip(parts, rows, strict=True):
        for ax, (proof, rank) in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            one(ax, proof.searches[rank])
            ax.set_title(_title(proof, rank))
    return figure


def _title(proof: Proof, rank: int) -> str:
    setting, state = proof.setting, proof.searches[rank]
    strength = setting.strengths().halves()[0][0]
    bias = "no bias" if setting.decay_b is None else rf"$\lambda_b$ = {setting.decay_b:g}"
    return (
        rf"K = {setting.num_classes}, rank {rank}, $K\theta$ = {strength:.3g}, {bias}"
        f"\n{state.evaluated:,} boxes, {len(state.zeros)} zeros"
    )


def _line(ax: Any, state: State) -> None:
    """Draw the enclosures of R over s, and the zeros."""
    s, radius, low, high = np.concatenate(state.drawn).T
    shown = (s + radius > 0) & (s - radius < 0.5)
    scale = np.max(np.minimum(np.abs(low), np.abs(high))[shown])
    corners = [(s - radius, low), (s + radius, low), (s + radius, high), (s - radius, high)]
    polygons = np.array([np.stack(c, axis=1) for c in corners]).swapaxes(0, 1)[shown]
    ax.set_yscale("symlog", linthresh=LINEAR * scale)
    ax.add_collection(PolyCollection(list(polygons), facecolor=COLOURS[0], edgecolor=COLOURS[0], lw=0.4))
    ax.axhline(0.0, color="black", lw=0.6)
    for i, zero in enumerate(sorted(state.zeros, key=lambda z: z.s)):
        ax.plot(zero.s[0], 0.0, "o", color=COLOURS[1], ms=5, clip_on=False, zorder=5)
        ax.annotate(
            f"{zero.loss[0]:.6f}",
            (zero.s[0], 0.0),
            fontsize=7,
            ha=("left", "center", "right")[round(4 * min(max(zero.s[0], 0.0), 0.5))],
            xytext=(0, (8, -14)[i % 2]),
            textcoords="offset points",
        )
    ax.set(xlim=(0, 0.5), ylim=(-5 * scale, 5 * scale), xlabel="line of v, s from 0 to ½", ylabel="R")
    ax.set_xticks([0, 0.5], ["(2, −1, −1)", "(1, 0, −1)"])
    ax.set_yticks([-scale, 0, scale], [f"{-scale:.0e}", "0", f"{scale:.0e}"], fontsize=7)
    ax.minorticks_off()


# Of the chamber: ω_1 = (3, −1, −1, −1), ω_2 = (1, 1, −1, −1), ω_3 = (1, 1, 1, −3), classes in two blocks.
CORNERS = np.array([[0.0, 0.0], [0.5, 3**0.5 / 2], [1.0, 0.0]])


HALF = np.array([CORNERS[0], CORNERS[1], [0.5, 0.0]])


def _mirror(place: np.ndarray) -> np.ndarray:
    return place * np.array([-1, 1]) + np.array([1, 0])


def _place(s: np.ndarray) -> np.ndarray:
    return CORNERS[0] + s @ (CORNERS[1:] - CORNERS[0])


def _triangle(ax: Any, state: State) -> None:
    """Draw the excluded boxes over the chamber, coloured by size, and the zeros, with their mirror images."""
    s, radius = np.split(np.concatenate(state.drawn)[:, :4], 2, axis=1)
    corners = [s + radius * np.array(sign) for sign in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    half = np.stack([_place(c) for c in corners], axis=1)
    size = np.log2(radius.max(1))
    for polygons, edge in ((half, HALF), (_mirror(half), _mirror(HALF))):
        boxes = PolyCollection(list(polygons), array=size, cmap="cividis", edgecolor="face", lw=0.1)
        boxes.set_rasterized(True)
        ax.add_collection(boxes)
        boxes.set_clip_path(plt.Polygon(edge, transform=ax.transData))
    ax.add_patch(plt.Polygon(CORNERS, fill=False, lw=0.6))
    for zero in state.zeros:
        place = _place(np.array(zero.s))
        for (x, y), fill in ((place, COLOURS[1]), (_mirror(place), "none")):
            ax.plot(x, y, "o", color=fill, mec="white" if fill != "none" else COLOURS[1], ms=6, zorder=5)
        text = ax.annotate(
            f"{zero.loss[0]:.5f}", place, fontsize=7, xytext=(5, 4), textcoords="offset points"
        )
        text.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5})
        text.set_zorder(6)
    for (x, y), name in zip(CORNERS, ("1 | 2 3 4", "1 2 | 3 4", "1 2 3 | 4"), strict=True):
        where = (0, 12) if y else (0, -12)
        ax.annotate(name, (x, y), fontsize=7, xytext=where, textcoords="offset points", ha="center")
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.12, 1.0), aspect="equal")
    ax.set_axis_off()
    ax.figure.colorbar(boxes, ax=ax, label=r"$\log_2$ half width", shrink=0.7)
