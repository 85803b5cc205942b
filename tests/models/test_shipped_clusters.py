"""Lennard-Jones clusters of the package: the smallest by search, the others' numbers from the literature."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import grad, random

import ufm_jax as ufm


@pytest.mark.slow
@pytest.mark.parametrize(("n", "starts"), [(4, 40)])
def test_minima_and_transition_states_are_as_many_as_predicted(n, starts):
    landscape = ufm.LennardJones(num_atoms=n)
    said = ufm.predict(landscape)
    for index, target, known in ((0, "minima", "minima"), (1, 1, "transition_states")):
        run = ufm.sweep(landscape, starts=starts, target=target, seed=index)
        verdict = ("LOCAL_MINIMUM", "STRICT_SADDLE")[index]
        found = [
            row
            for row in run.orbits.to_pylist()
            if (row["verdict"], row["index"], row["nullity"]) == (verdict, index, 6)
        ]
        assert len(found) == said[known]
        if index == 0:
            np.testing.assert_allclose(found[0]["loss"], said["energies"]["lowest minimum"], atol=1e-6)


def test_a_tetrahedron_has_all_pairs_at_the_bottom_of_the_well():
    """Four points at distance 2^(1/6) from each other: f = −6, where the gradient vanishes."""
    x = 2 ** (1 / 6) / 8**0.5 * jnp.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    landscape = ufm.LennardJones(num_atoms=4)
    np.testing.assert_allclose(landscape.value(x), -6.0, rtol=1e-14)
    np.testing.assert_allclose(grad(landscape.value)(x), 0.0, atol=1e-12)
    assert landscape.start(random.key(0)).shape == (4, 3)


def test_beyond_eight_atoms_no_numbers_are_told():
    assert "minima" not in ufm.predict(ufm.LennardJones(num_atoms=9))
    with pytest.raises(ValueError, match=r"^num_atoms:"):
        ufm.LennardJones(num_atoms=1)
