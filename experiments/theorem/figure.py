"""Pictures of a proof: R over the angle of a line at K = 3, the boxes over the chamber at K = 4."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection

from experiments.common import COLOURS
from experiments.theorem.proof import Proof
from experiments.theorem.search import State


def draw(proofs: list[Proof]) -> plt.Figure:
    """Draw each search of each proof in a panel of its own."""
    panels = [(proof, rank) for proof in proofs for rank in proof.searches]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.0 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (proof, rank) in zip(axes.flat, panels, strict=False):
        state = proof.searches[rank]
        (_line if proof.setting.num_classes == 3 else _triangle)(ax, state)
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
    """Draw the enclosures of R over s, scaled to the largest, and the zeros."""
    s, radius, low, high = np.concatenate(state.drawn).T
    shown = (s + radius > 0) & (s - radius < 0.5)
    scale = np.max(np.minimum(np.abs(low), np.abs(high))[shown])
    corners = [(s - radius, low), (s + radius, low), (s + radius, high), (s - radius, high)]
    polygons = np.array([np.stack(c, axis=1) for c in corners]).swapaxes(0, 1)[shown]
    ax.add_collection(PolyCollection(list(polygons), facecolor=COLOURS[0], edgecolor="none", alpha=0.8))
    ax.axhline(0.0, color="black", lw=0.6)
    for zero in state.zeros:
        ax.plot(zero.s[0], 0.0, "o", color=COLOURS[1], ms=5, clip_on=False, zorder=5)
        below = zero.s[0] < 0.25
        ax.annotate(
            f"f = {zero.loss[0]:.6f}",
            (zero.s[0], 0.0),
            fontsize=7,
            ha="left" if below else "right",
            xytext=(4 if below else -4, 5),
            textcoords="offset points",
        )
    ax.set(
        xlim=(0, 0.5), ylim=(-1.4 * scale, 1.4 * scale), xlabel=r"$s$:  2|-1|-1 to 1|0|-1", ylabel=r"$R(s)$"
    )
    ax.set_xticks([0, 0.25, 0.5])


# Of the chamber: ω_1 = (3, −1, −1, −1), ω_2 = (1, 1, −1, −1), ω_3 = (1, 1, 1, −3), classes in two blocks.
CORNERS = np.array([[0.0, 0.0], [0.5, 3**0.5 / 2], [1.0, 0.0]])


def _place(s: np.ndarray) -> np.ndarray:
    return CORNERS[0] + s @ (CORNERS[1:] - CORNERS[0])


def _triangle(ax: Any, state: State) -> None:
    """Draw the excluded boxes over half the chamber, coloured by size, and the zeros."""
    s, radius = np.split(np.concatenate(state.drawn)[:, :4], 2, axis=1)
    corners = [s + radius * np.array(sign) for sign in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    polygons = np.stack([_place(c) for c in corners], axis=1)
    size = np.log2(radius.max(1))
    boxes = PolyCollection(list(polygons), array=size, cmap="cividis", edgecolor="none", rasterized=True)
    ax.add_collection(boxes)
    edge = np.array([CORNERS[0], CORNERS[1], [0.5, 0.0]])
    boxes.set_clip_path(plt.Polygon(edge, transform=ax.transData))
    ax.add_patch(plt.Polygon(edge, fill=False, lw=0.6))
    for zero in state.zeros:
        ax.plot(*_place(np.array(zero.s)), "o", color=COLOURS[1], mec="white", ms=6, zorder=5, clip_on=False)
        ax.annotate(
            f"{zero.loss[0]:.5f}",
            _place(np.array(zero.s)),
            fontsize=7,
            xytext=(5, 3),
            textcoords="offset points",
            zorder=6,
            clip_on=False,
        )
    ax.set(xlim=(-0.02, 0.52), ylim=(-0.02, 0.88), aspect="equal")
    ax.set_axis_off()
    ax.figure.colorbar(boxes, ax=ax, label=r"$\log_2$ half width", shrink=0.7)
