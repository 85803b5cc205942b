"""Small pictures as markup that a page holds: each an image with a text for who cannot see it.

Matplotlib's files are ten times as large; a page shows dozens of these.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from ufm_jax.report.markup import Markup
from ufm_jax.report.style import COLOURS

CELLS = 400  # entries of a matrix that is drawn small: each is some 50 bytes
ZERO = 1e-6  # what is smaller is rounding, and is not blown up
HIGH, LOW = (0, 114, 178), (213, 94, 0)  # the first two of `COLOURS`
# Where three directions are seen on paper: none of the three hides another, and up is up.
SEEN = np.array([[0.866, -0.5, 0.0], [-0.25, -0.433, 0.866]])


def matrix(values: Float[np.ndarray, "m n"], said: str, *, cell: int = 8, numbers: bool = False) -> Markup:
    """Return a matrix as coloured squares: blue above 0, orange below, white 0; `said` is read aloud."""
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)), ZERO)
    parts = []
    for (i, j), value in np.ndenumerate(values):
        share = float(value) / largest
        x, y = j * cell, i * cell
        parts.append(f'<path fill="{_colour(share)}" d="M{x} {y}h{cell}v{cell}h-{cell}z"/>')
        if numbers:
            ink = _ink(_colour(share))
            place = f'x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" fill="{ink}"'
            parts.append(f"<text {place}>{_short(float(value))}</text>")
    return picture("".join(parts), values.shape[1] * cell, values.shape[0] * cell, said, framed=True)


def arrows(rows: Float[np.ndarray, "m r"], columns: Float[np.ndarray, "n r"], said: str) -> Markup:
    """Return two sets of vectors from the origin, at most three of their coordinates: numbered from 1.

    `rows` are open circles on thin lines, `columns` full dots; each set is scaled to its longest. Vectors
    that lie on each other carry their numbers together.
    """
    parts = ['<circle cx="0" cy="0" r="2" fill="#444"/>']
    for vectors, full in ((rows, False), (columns, True)):
        longest = max(float(np.linalg.norm(vectors, axis=1).max(initial=0.0)), ZERO)
        places = 80 * _on_paper(vectors / longest)
        for number, (x, y) in enumerate(places):
            colour = COLOURS[number % (len(COLOURS) - 1)]
            if full:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
            else:
                parts.append(f'<path d="M0 0L{x:.1f} {y:.1f}" stroke="{colour}" fill="none"/>')
                ring = f'stroke="{colour}" stroke-width="2" fill="none"'
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" {ring}/>')
        if full:
            parts += [_label(x, y, text) for (x, y), text in _labels(places)]
    return picture("".join(parts), 240, 240, said, origin=(-120, -120))


def curves(
    lines: Sequence[tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"], str, float]],
    said: str,
    *,
    at: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
    names: tuple[str, str] = ("", ""),
) -> Markup:
    """Return curves (x, y, colour, width), x and y within 0 to 1 and gaps where y is not a number.

    `at` is a dotted vertical line, `marks` are labels of the horizontal axis, `names` those of both axes.
    """
    width, height = 360, 200
    place = lambda x, y: f"{x * width:.1f} {(1 - y) * height:.1f}"
    parts = [f'<path d="M0 0V{height}H{width}" stroke="#444" fill="none"/>']
    if at is not None:
        parts.append(f'<path d="M{at * width:.1f} 0v{height}" stroke="#666" stroke-dasharray="2 3"/>')
    for x, y, colour, thick in lines:
        runs = np.split(np.arange(len(y)), np.flatnonzero(np.diff(np.isfinite(y))) + 1)
        for run in (run for run in runs if np.isfinite(y[run[0]])):
            d = "M" + "L".join(place(x[g], y[g]) for g in run)
            parts.append(f'<path d="{d}" stroke="{colour}" stroke-width="{thick:g}" fill="none"/>')
    parts += [f'<text x="{x * width:.1f}" y="{height + 14}">{escape(text)}</text>' for x, text in marks]
    parts += [f'<text x="-8" y="{(1 - y) * height + 4:g}">{y}</text>' for y in (0, 1)]
    parts.append(f'<text x="{width / 2:g}" y="{height + 30}">{escape(names[0])}</text>')
    middle = f'x="-22" y="{height / 2:g}" transform="rotate(-90 -22 {height / 2:g})"'
    parts.append(f"<text {middle}>{escape(names[1])}</text>")
    return picture("".join(parts), width + 52, height + 46, said, origin=(-40, -8))


def picture(
    inside: str, width: int, height: int, said: str, *, origin: tuple[int, int] = (0, 0), framed: bool = False
) -> Markup:
    """Return an inline SVG of this size; a framed one has a thin line around it."""
    box = f"{origin[0]} {origin[1]} {width} {height}"
    kind = ' class="framed"' if framed else ""
    return Markup(
        f'<svg{kind} role="img" aria-label="{escape(said)}" width="{width}" height="{height}" '
        f'viewBox="{box}" font-size="11" text-anchor="middle">{inside}</svg>'
    )


def _colour(share: float) -> str:
    if share != share:
        return "#cccccc"
    end = HIGH if share > 0 else LOW
    return "#" + "".join(f"{round(255 + min(abs(share), 1.0) * (c - 255)):02x}" for c in end)


def _ink(fill: str) -> str:
    """Return black or white, whichever is read better on a colour: of the two one has a contrast of 4.58.

    Their contrasts, (L + 0.05)/0.05 and 1.05/(L + 0.05), are equal at L + 0.05 = √0.0525 (WCAG 2.2, "relative
    luminance").
    """
    level = np.array([int(fill[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return "#000" if float(light @ [0.2126, 0.7152, 0.0722]) + 0.05 > 0.0525**0.5 else "#fff"


def _short(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _on_paper(vectors: Float[np.ndarray, "m r"]) -> Float[np.ndarray, "m 2"]:
    """Return where vectors are seen: up to two coordinates as they are, three from a corner; y goes down."""
    three = np.zeros((len(vectors), 3))
    three[:, : vectors.shape[1]] = vectors[:, :3]
    return (three @ SEEN.T if vectors.shape[1] > 2 else three[:, :2]) * np.array([1.0, -1.0])


def _labels(places: Float[np.ndarray, "m 2"]) -> list[tuple[np.ndarray, str]]:
    """Return where vectors end, each place once, with the numbers of those that end there."""
    found: list[tuple[np.ndarray, list[int]]] = []
    for number, place in enumerate(places, start=1):
        near = next((numbers for other, numbers in found if np.linalg.norm(other - place) < 4), None)
        if near is None:
            found.append((place, [number]))
        else:
            near.append(number)
    return [(place, ",".join(map(str, numbers))) for place, numbers in found]


def _label(x: float, y: float, text: str) -> str:
    length = max(float(np.hypot(x, y)), 1e-9)
    away = 20 / length if length > 10 else 0.0
    x, y = x * (1 + away), y * (1 + away) - (0 if away else 16)
    return f'<text x="{x:.1f}" y="{y + 4:.1f}">{escape(text)}</text>'
