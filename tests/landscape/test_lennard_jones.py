"""A landscape nobody wrote the explorer for: clusters of Lennard-Jones atoms, whose saddles are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lennard_jones import LennardJones

import ufm_jax as ufm
from ufm_jax.numerics.derivatives import dense_hessian

KNOWN = {  # atoms: minima, the lowest, transition states, the lowest
    5: (1, -9.103852, 2, -8.480620),
    6: (2, -12.712062, 3, -12.079031),
    7: (4, -16.505384, 12, -15.444734),
}
# The rarest orbits, a minimum of six atoms and a transition state of seven, are met by 4% and 1.5% of starts.
STARTS = {5: 100, 6: 400, 7: 800}


def orbits(run, index):
    """Return the rows of the distinct orbits of one index whose verdict says that no direction is flat."""
    verdicts = ("STRICT_SADDLE",) if index else ("LOCAL_MINIMUM",)
    found = [row for row in run.orbits.to_pylist() if row["index"] == index and row["verdict"] in verdicts]
    assert all(row["nullity"] == 6 for row in found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n", KNOWN)
def test_all_minima_and_transition_states_are_found_and_no_others(n):
    landscape = LennardJones(num_atoms=n)
    num_minima, lowest_minimum, num_saddles, lowest_saddle = KNOWN[n]
    for index, target, count, lowest in (
        (0, "minima", num_minima, lowest_minimum),
        (1, 1, num_saddles, lowest_saddle),
    ):
        run = ufm.sweep(landscape, starts=STARTS[n], target=target, seed=index)
        found = orbits(run, index)
        assert len(found) == count
        np.testing.assert_allclose(found[0]["loss"], lowest, atol=1e-6)
        for row in found:  # by a dense Hessian
            eigenvalues = np.linalg.eigvalsh(dense_hessian(landscape.value)(run.point(row["row"]).x))
            assert np.sum(np.abs(eigenvalues) < 1e-6) == 6
            assert np.sum(eigenvalues < -1e-6) == index


def test_climbing_from_beside_a_minimum_ends_at_a_transition_state():
    """Along the null directions of rotations 251 of 300 fell back, before these were kept out of the way."""
    landscape = LennardJones(num_atoms=5)
    minimum = ufm.sweep(landscape, starts=1).point(0).x
    beside = minimum + 0.05 * jax.random.normal(jax.random.key(2), (300, *minimum.shape))
    run = ufm.sweep(landscape, starts=beside, target=1)
    assert sum(row["hits"] for row in orbits(run, 1)) >= 285
    assert len(orbits(run, 1)) == 2


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
