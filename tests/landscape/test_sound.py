"""A landscape that is not what it says is refused by the name of the method; right ones pass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lennard_jones import LennardJones

from ufm_jax.interface import classify, sweep
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.sound import check_landscape


class Pair(NamedTuple):
    u: jax.Array
    v: jax.Array


class Ring(Landscape):
    """(‖u‖² − 1)² + ‖v‖²: u in the plane turns about the origin."""

    radius: jax.Array = 1.0

    def zeros(self):
        return Pair(jnp.zeros(2), jnp.zeros(3))

    def value(self, x):
        return (jnp.sum(x.u**2) - self.radius**2) ** 2 + jnp.sum(x.v**2)

    def tangents(self, x):
        return Pair(jnp.stack([-x.u[1], x.u[0]])[None], jnp.zeros((1, 3)))


def ring(**methods):
    """Return a ring with other methods."""
    return type("Other", (Ring,), methods)()


def along(u, v):
    """Return tangents that are always the same."""
    return lambda self, x: Pair(jnp.asarray(u), jnp.asarray(v))


RIGHT = {
    "ring": Ring(),
    "no tangents": ring(tangents=Landscape.tangents),
    "dependent tangents": ring(
        tangents=lambda self, x: jax.tree.map(
            lambda a: jnp.concatenate([a, -3.0 * a]), Ring.tangents(self, x)
        )
    ),
    "zero tangents": ring(tangents=along(np.zeros((2, 2)), np.zeros((2, 3)))),
    "cluster": LennardJones(num_atoms=4),
    "function": Landscape.of(lambda x: jnp.sum(x**2), jnp.zeros(3)),
}

WRONG = {
    "not a symmetry": (
        ring(tangents=along([[1.0, 0.0]], [[0.0, 0.0, 0.0]])),
        r"^tangents: Other changes along them: ⟨∇f, ξ⟩ = ",
    ),
    "nearly a symmetry": (
        ring(
            tangents=lambda self, x: Pair(jnp.stack([-x.u[1], x.u[0]])[None] + 1e-6 * x.u, jnp.zeros((1, 3)))
        ),
        r"^tangents: Other changes along them",
    ),
    "one of two": (
        ring(
            tangents=lambda self, x: Pair(jnp.stack([jnp.stack([-x.u[1], x.u[0]]), x.u]), jnp.zeros((2, 3)))
        ),
        r"^tangents: Other changes along them",
    ),
    "tangents without an axis in front": (
        ring(tangents=lambda self, x: Pair(jnp.zeros(2), jnp.zeros(3))),
        r"^tangents: .* each leaf with one more axis in front",
    ),
    "tangents of two lengths": (ring(tangents=along(np.zeros((1, 2)), np.zeros((2, 3)))), r"^tangents: "),
    "tangents of other shapes": (ring(tangents=along(np.zeros((1, 3)), np.zeros((1, 2)))), r"^tangents: "),
    "tangents in another tree": (ring(tangents=lambda self, x: jnp.zeros((1, 5))), r"^tangents: "),
    "value is a vector": (ring(value=lambda self, x: x.u), r"^value: Other needs one number"),
    "value is a row": (ring(value=lambda self, x: jnp.sum(x.u)[None]), r"^value: "),
    "value is an integer": (ring(value=lambda self, x: jnp.asarray(1)), r"^value: "),
    "value is a pair": (ring(value=lambda self, x: (jnp.sum(x.u), 0.0)), r"^value: "),
    "value of another precision": (
        ring(value=lambda self, x: jnp.sum(x.u).astype(jnp.float32)),
        r"^value: Other needs one number of float64",
    ),
    "start of another shape": (
        ring(start=lambda self, key: Pair(jnp.zeros(2), jnp.zeros(4))),
        r"^start: Other needs a point as zeros\(\) is",
    ),
    "start in another tree": (ring(start=lambda self, key: jnp.zeros(5)), r"^start: "),
    "start of another precision": (
        ring(start=lambda self, key: Pair(jnp.zeros(2), jnp.zeros(3, jnp.float32))),
        r"^start: ",
    ),
    "zeros are integers": (
        ring(zeros=lambda self: Pair(jnp.zeros(2, int), jnp.zeros(3))),
        r"^zeros: Other needs a point of floating-point arrays",
    ),
    "zeros are nothing": (ring(zeros=lambda self: ()), r"^zeros: Other needs a point"),
}


class Number(Landscape):
    """x², of a single number."""

    def zeros(self):
        return jnp.zeros(())

    def value(self, x):
        return x**2

    def tangents(self, x):
        return jnp.zeros(())


@pytest.mark.parametrize("name", RIGHT)
def test_right_landscapes_pass(name):
    check_landscape(RIGHT[name])
    check_landscape(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_landscapes_are_refused_by_name(name):
    landscape, message = WRONG[name]
    for _ in range(2):  # a refusal is not remembered as a pass
        with pytest.raises(ValueError, match=message):
            check_landscape(landscape)


def test_tangents_of_a_number_need_an_axis_too():
    with pytest.raises(ValueError, match=r"^tangents: Number needs directions as its points are"):
        check_landscape(Number())


def test_sweeps_and_verdicts_ask():
    landscape, message = WRONG["not a symmetry"]
    for ask in (lambda: sweep(landscape, starts=2), lambda: classify(landscape, landscape.zeros())):
        with pytest.raises(ValueError, match=message):
            ask()
