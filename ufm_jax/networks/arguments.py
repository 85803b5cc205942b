"""Arguments of networks, data and recipes, checked in Python: errors name the argument and its value."""

import operator
from numbers import Real
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)  # what networks are trained in
SMALLEST = float(np.finfo(np.float32).tiny)


def whole(name: str, value: Any, least: int) -> int:
    """Return an integer of at least `least`; 2.0 and True are none.

    Raises:
        ValueError: naming the argument.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name}: need a whole number >= {least}, got {value!r}")
    return number


def finite(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a number that is >= 0, or > 0 if `positive`, and neither overflows nor vanishes in float32.

    Raises:
        ValueError: naming the argument.
    """
    least = SMALLEST if positive else 0.0
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not (number and least <= value <= LARGEST):
        raise ValueError(f"{name}: need {'> 0' if positive else '>= 0'} and finite in float32, got {value!r}")
    return float(value)


def labelled(images: Any, labels: Any, name: str = "", pixels: str = "images") -> np.ndarray:
    """Check that there are images, uint8, N x h x w x c, and a class >= 0 for each; return the labels.

    Raises:
        ValueError: naming `pixels` or labels, after the prefix `name`.
    """
    shape, kind = np.shape(images), getattr(images, "dtype", type(images).__name__)
    if kind != np.uint8:
        raise ValueError(f"{name}{pixels}: need an array of uint8, got {kind}")
    if len(shape) != 4:
        raise ValueError(f"{name}{pixels}: need N x h x w x c, got shape {shape}")
    if 0 in shape:
        raise ValueError(f"{name}{pixels}: need at least one image, row, column and channel, got {shape}")
    classes = np.asarray(labels)
    if classes.ndim != 1:
        raise ValueError(f"{name}labels: need a vector, got shape {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name}labels: need integers, got {classes.dtype}")
    if len(classes) != shape[0]:
        raise ValueError(f"{name}labels: need one for each of {shape[0]} images, got {len(classes)}")
    if classes.min() < 0:
        raise ValueError(f"{name}labels: need >= 0, got {classes.min()} (image {classes.argmin()})")
    return classes


def within(labels: np.ndarray, num_classes: int, name: str, *, all_there: bool) -> None:
    """Check that labels are below the number of classes and, if `all_there`, that no class is empty.

    Raises:
        ValueError: naming labels, after the prefix `name`.
    """
    beyond = np.flatnonzero(labels >= num_classes)
    if beyond.size:
        raise ValueError(
            f"{name}labels: need 0 to {num_classes - 1} for {num_classes} classes, got {labels[beyond[0]]} "
            f"(image {beyond[0]})"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if all_there and missing.size:
        raise ValueError(
            f"{name}labels: need images of every class, which has a mean; class {missing[0]} has none"
        )


def scale(mean: Any, std: Any, channels: int, name: str) -> None:
    """Check a pixel scaling: a finite mean and a positive finite deviation for each channel.

    Raises:
        ValueError: naming mean or std, after the prefix `name`.
    """
    for part, given, least, need in (("mean", mean, -LARGEST, "finite"), ("std", std, SMALLEST, "> 0")):
        values = np.asarray(given)
        if values.shape != (channels,):
            raise ValueError(f"{name}{part}: need one for each of {channels} channels, got {values.shape}")
        bad = values[~((values >= least) & (values <= LARGEST))]
        if bad.size:
            raise ValueError(f"{name}{part}: need {need}, got {bad[0]}")
