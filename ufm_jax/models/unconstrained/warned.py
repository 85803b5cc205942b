"""What looks wrong in a point that a user brings, and what to do about it."""

from typing import Any

import numpy as np


def warnings_of(
    accuracy: float, labels: np.ndarray, counts: np.ndarray, W: np.ndarray, square: Any = None
) -> list[str]:
    """Return warnings in words, none where nothing is suspicious.

    `square` is an H whose columns were taken to be the samples, if one was.
    """
    return [
        *([] if square is None else _square(labels, np.asarray(square, np.float64), W)),
        *_absent(counts),
        *_single(counts),
        *_chance(accuracy, counts),
    ]


def _square(labels: np.ndarray, H: np.ndarray, W: np.ndarray) -> list[str]:
    shares = [float(np.mean(np.argmax(W @ X, axis=0) == labels)) for X in (H, H.T)]
    better = "rows" if shares[1] > shares[0] else "columns"
    return [
        "H is square: its columns were taken to be the samples; say so if these are its rows (--samples). "
        f"Without the bias the accuracy is {shares[0]:.3f} by columns and {shares[1]:.3f} by rows, which "
        f"speaks for {better}"
    ]


def _absent(counts: np.ndarray) -> list[str]:
    missing = np.flatnonzero(counts == 0)
    if not missing.size:
        return []
    named = ", ".join(map(str, missing[:10])) + ("" if missing.size <= 10 else ", ...")
    hint = "; do labels count from 1?" if missing.tolist() == [0] else ""
    others = counts.size - missing.size
    return [
        f"{missing.size} of {counts.size} classes have no sample ({named}): NC1-NC4 and what is beside them "
        f"are those of the {others} others; f has all rows of W{hint}"
    ]


def _single(counts: np.ndarray) -> list[str]:
    single = int(np.sum(counts == 1))
    if not single:
        return []
    return [
        f"{single} of {counts.size} classes have one sample: their part of NC1 and CDNV is 0 whatever H is"
    ]


def _chance(accuracy: float, counts: np.ndarray) -> list[str]:
    """Two deviations of a guess, which is at best that of the most frequent class."""
    N = int(np.sum(counts))
    chance = max(1 / len(counts), int(np.max(counts)) / N)
    two = 2 * (chance * (1 - chance) / N) ** 0.5
    if accuracy == 1 or accuracy > chance + two:
        return []
    return [
        f"the accuracy, {accuracy:.3f}, may be that of a guess ({chance:.3f} ± {two:.3f}): are W, H and "
        "labels of one network, and labels in the order of H's samples?"
    ]
