"""What the landscapes of this folder take as plain numbers and texts: class counts, and losses by name."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ufm_jax import objects
from ufm_jax.models.unconstrained.loss_checks import check_loss
from ufm_jax.models.unconstrained.loss_names import LOSSES, OF_COUNTS
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss
from ufm_jax.models.unconstrained.problem import checked_counts
from ufm_jax.numerics.checks import check_count


def settle_counts(landscape: Any) -> None:
    """Write the fields `num_classes`, `per_class` and `counts` of a landscape as they follow from each other.

    One sample a class where only K is given.

    Raises:
        ValueError: as `checked_counts`.
    """
    given = landscape.counts
    per_class = landscape.per_class if given is not None or landscape.per_class is not None else 1
    if isinstance(given, int):  # of a command line, where one number is no tuple
        given = (given,)
    counts = checked_counts(landscape.num_classes, per_class, given)
    for name, value in (("counts", counts), ("num_classes", len(counts)), ("per_class", None)):
        object.__setattr__(landscape, name, value)


def settle_dim(landscape: Any, default: int) -> None:
    """Write the field `dim`, which may be None: then the default.

    Raises:
        ValueError: naming `dim`, if it is no integer of at least 1.
    """
    if landscape.dim is None:
        object.__setattr__(landscape, "dim", default)
    check_count(dim=landscape.dim)


def chosen_loss(loss: str | Loss, counts: Sequence[int]) -> Loss:
    """Return a loss, given as itself or by its name and parameters, as "focal gamma=3".

    Names are those of the command line. A loss made for class counts (`loss_names.OF_COUNTS`) is for these.

    Raises:
        ValueError: naming the loss, if there is none of that name or it does not fit.
    """
    made = loss if isinstance(loss, Loss) else _named(loss, tuple(counts))
    check_loss(made, len(counts))
    return made


def is_cross_entropy(loss: Loss) -> bool:
    """True for plain cross-entropy, of which most closed forms are: no smoothing, weights or offsets."""
    return loss == CrossEntropy()


@functools.lru_cache(maxsize=64)
def _named(text: Any, counts: tuple[int, ...]) -> Loss:
    if not isinstance(text, str) or not text.split():
        raise ValueError(f"loss: need a name or an instance of Loss, got {text!r}")
    name, *assigned = text.split()
    settings = objects.parsed("loss", assigned)
    if name in OF_COUNTS:
        settings = {"counts": counts, **settings}
    if ":" not in name and name not in LOSSES:
        raise ValueError(f"loss: need {', '.join(LOSSES)}, module:Class or file.py:Class, got {name!r}")
    made = objects.make("loss", objects.spec("loss", LOSSES.get(name, name), settings))
    if not isinstance(made, Loss):
        raise ValueError(f"loss: need an instance of Loss, got {made!r}")
    return made


def labels_of(counts: Sequence[int]) -> np.ndarray:
    """Return the class of each sample, sorted."""
    return np.repeat(np.arange(len(counts)), np.array(counts))
