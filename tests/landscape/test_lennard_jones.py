"""A landscape nobody wrote the explorer for: clusters of Lennard-Jones atoms, whose saddles are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lennard_jones import LennardJones

from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.descent import minimise
from ufm_jax.numerics.rootfind import follow_to_index
from ufm_jax.numerics.status import Status

# Of one orbit two points differ by rounding, two orbits by 1e-3 or more.
SAME = 1e-5


@jax.jit
def descents(landscape, starts):
    return jax.lax.map(lambda x: minimise(landscape.value, x), starts)


@jax.jit
def climbs(landscape, starts):
    return jax.lax.map(
        lambda x: follow_to_index(landscape.value, x, 1, tangents=landscape.tangents, max_steps=300), starts
    )


class Orbits(NamedTuple):
    """Critical points, one of each orbit, the lowest first, and how often each was met."""

    points: np.ndarray
    values: np.ndarray
    hits: np.ndarray


def orbits(landscape, found) -> Orbits:
    """Return the distinct orbits at which searches converged."""
    done = np.asarray(found.status) == Status.CONVERGED
    points, values = np.asarray(found.x)[done], np.asarray(found.value)[done]
    marks = np.asarray(jax.vmap(landscape.invariants)(points))
    same = np.max(np.abs(marks[:, None] - marks[None]), axis=2) < SAME
    first = np.flatnonzero(np.argmax(same, axis=1) == np.arange(len(points)))
    first = first[np.argsort(values[first])]
    return Orbits(points[first], values[first], same[first].sum(axis=1))


def random_starts(landscape, seed, count):
    return jax.jit(jax.vmap(landscape.start))(jax.random.split(jax.random.key(seed), count))


def near(points, seed, count, scale=0.05):
    """Return `count` perturbed points, of each as many."""
    chosen = points[np.arange(count) % len(points)]
    return chosen + scale * jax.random.normal(jax.random.key(seed), chosen.shape)


def index_modulo_motions(landscape, x):
    """Return how many eigenvalues are negative, of a dense Hessian whose null directions are counted, too."""
    eigenvalues = np.linalg.eigvalsh(dense_hessian(landscape.value)(x))
    assert np.sum(np.abs(eigenvalues) < 1e-6) == 6
    return int(np.sum(eigenvalues < -1e-6))


def minima(landscape, seed, count):
    return orbits(landscape, descents(landscape, random_starts(landscape, seed, count)))


def transition_states(landscape, seed, count):
    """Climb from random starts."""
    return orbits(landscape, climbs(landscape, random_starts(landscape, seed, count)))


KNOWN = {  # atoms: minima, the lowest, transition states, the lowest
    5: (1, -9.103852, 2, -8.480620),
    6: (2, -12.712062, 3, -12.079031),
    7: (4, -16.505384, 12, -15.444734),
}
# The rarest orbits, a minimum of six atoms and a transition state of seven, are met by 4% and 1.5% of starts.
STARTS = {5: 100, 6: 400, 7: 800}


@pytest.mark.parametrize("n", KNOWN)
def test_all_minima_and_transition_states_are_found_and_no_others(n):
    landscape = LennardJones(num_atoms=n)
    num_minima, lowest_minimum, num_saddles, lowest_saddle = KNOWN[n]
    for index, found, count, lowest in (
        (0, minima(landscape, 0, STARTS[n]), num_minima, lowest_minimum),
        (1, transition_states(landscape, 1, STARTS[n]), num_saddles, lowest_saddle),
    ):
        assert len(found.values) == count
        np.testing.assert_allclose(found.values[0], lowest, atol=1e-6)
        assert [index_modulo_motions(landscape, x) for x in found.points] == [index] * count


def test_climbing_from_beside_a_minimum_ends_at_a_transition_state():
    landscape = LennardJones(num_atoms=5)
    found = climbs(landscape, near(minima(landscape, 0, 50).points, 2, 300))
    assert np.mean(np.asarray(found.status) == Status.CONVERGED) >= 0.95
    assert len(orbits(landscape, found).values) == 2


def test_invariants_forget_motions_mirrors_and_names():
    landscape = LennardJones(num_atoms=7)
    x = landscape.start(jax.random.key(3))
    rotation, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(4), (3, 3)))  # also of determinant −1
    order = jax.random.permutation(jax.random.key(5), 7)
    for y in (x @ rotation + 2.0, -x, x[order]):
        np.testing.assert_allclose(landscape.invariants(y), landscape.invariants(x), atol=1e-12)
        np.testing.assert_allclose(landscape.value(y), landscape.value(x), rtol=1e-10)


def test_the_value_does_not_change_along_tangents():
    landscape = LennardJones(num_atoms=4)
    x = landscape.start(jax.random.key(6))
    slopes = jnp.tensordot(landscape.tangents(x), jax.grad(landscape.value)(x), axes=2)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-10)
