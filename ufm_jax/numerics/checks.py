"""Checks of a method's numbers, in Python, before anything is traced."""

import math
from typing import Any

import jax
import numpy as np


def check_positive(*, zero: bool = False, **numbers: Any) -> None:
    """Check that numbers are finite and above 0, or 0 where that is allowed; traced ones have no value yet.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, value in numbers.items():
        if isinstance(value, jax.core.Tracer):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
            raise ValueError(f"{name}: need a finite number {'>=' if zero else '>'} 0, got {_shown(value)}")


def _shown(value: Any) -> str:
    """Return a number as Python's, whatever array holds it; all else as it writes itself."""
    return repr(value.item() if getattr(value, "shape", None) == () else value)


def check_flag(**flags: Any) -> None:
    """Check that arguments are True or False: a text that a command line leaves as it is, as "no", is true.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}: need true or false, got {value!r}")


def check_search(gtol: Any, max_steps: Any) -> None:
    """Check when a search stops.

    Raises:
        ValueError: naming `gtol` or `max_steps`, and its value.
    """
    check_positive(zero=True, gtol=gtol)
    check_count(0, max_steps=max_steps)


def check_count(least: int = 1, **numbers: Any) -> None:
    """Check that numbers are integers of at least `least`.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}: need an integer >= {least}, got {value!r}")
