"""Symmetries that flows of the atlas keep: of every point, the origin as a search leaves it among them."""

from math import factorial

import numpy as np
import pytest
from conftest import make

from experiments.atlas import flows
from ufm_jax.models.unconstrained.reduction import reduced

K = 4
SMALL = reduced(make((1,) * K, K - 1))


@pytest.mark.parametrize("rounding", [0.0, 1e-17, 1e-9])
def test_at_the_origin_no_feature_is_used_whatever_rounding_left(rounding):
    x = rounding * np.random.default_rng(0).normal(size=SMALL.num_variables)
    found = flows.symmetries(SMALL, x)
    assert len(found) == factorial(K)
    for symmetry in found:
        np.testing.assert_array_equal(symmetry.unused, np.eye(K - 1))
        np.testing.assert_array_equal(symmetry.rotation, 0)


def test_directions_that_flows_keep_are_fixed_and_lead_down():
    x = 1e-17 * np.random.default_rng(1).normal(size=SMALL.num_variables)
    made = flows.starts_from(SMALL, x, flows.Sampling(3, 40), np.random.default_rng(0))
    moved = made.starts - x
    np.testing.assert_allclose(np.einsum("fij,fj->fi", made.projections, moved), moved, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1e-2, rtol=1e-9)
    kept = [round(float(np.trace(P))) for P in made.projections]
    assert len({n for n in kept if n < SMALL.num_variables}) > 5  # of many subgroups
