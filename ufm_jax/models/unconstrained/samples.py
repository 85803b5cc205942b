"""One big problem over several devices: the samples are shared out, W and b are everywhere.

Neither H nor the logits are ever on one device: a product over samples is a local one and a sum over devices.
The layout is a property of the arrays (`jax.sharding`), so the functions of `objective` are used as they are.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ufm_jax.devices import local
from ufm_jax.landscape.evidence import Evidence, examine
from ufm_jax.landscape.search import CriticalPoint
from ufm_jax.landscape.units import SOLVED
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.sizes import units
from ufm_jax.numerics.descent import trust_region_newton


def layout(prob: Problem, devices: Sequence[Any] | None = None) -> Params:
    """Return where W, H and b go on `devices` (default: all local ones): the columns of H in equal shares.

    Raises:
        ValueError: naming `devices`, if the number of columns is not a multiple of theirs.
    """
    devices = local() if devices is None else devices
    if prob.num_columns % len(devices):
        fitting = max(n for n in range(1, len(devices)) if prob.num_columns % n == 0)
        raise ValueError(
            f"devices: need a number that divides the {prob.num_columns} columns of H, got {len(devices)}; "
            f"{fitting} would do"
        )
    mesh = Mesh(np.array(devices), ("samples",))
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    split: Any = NamedSharding(mesh, PartitionSpec(None, "samples"))
    return Params(everywhere, split, everywhere if prob.bias else None)


def gaussian(prob: Problem, key: starts.Key, scale: float, where: Params) -> Params:
    """Return independent N(0, scale²) entries, each device drawing its own."""
    return jax.jit(partial(starts.gaussian, scale=scale), out_shardings=where)(prob, key)


@jax.jit
def find_minimum(prob: Problem, start: Params) -> CriticalPoint:
    """Descend by trust-region Newton from a start that is laid out; the point found is laid out alike."""
    unit = lambda value: units(prob, value).gradient
    found = trust_region_newton(partial(expand, prob), start, gtol=SOLVED, unit=unit)
    return CriticalPoint(found.x, found.grad_norm, found.status, found.num_steps)


@jax.jit
def judge(prob: Problem, p: Params) -> Evidence:
    """Judge a point by its certificates."""
    return examine(prob, p, "certificate").evidence
