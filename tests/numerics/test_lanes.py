"""Lanes that nobody wants cost nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import keys

from ufm_jax.numerics.lanes import each_lane


@pytest.mark.parametrize("count", [0, 1, 5])
def test_wanted_lanes_are_those_of_a_map_and_the_others_are_not_computed(count):
    """The others would never end."""
    x, each = jnp.where(jnp.arange(5) < count, 1.0, -1.0), keys(3, 5)

    def one(x, key):
        return jax.lax.while_loop(lambda x: x < 0, lambda x: x, x), {"drawn": jax.random.normal(key, (2,))}

    ended, drawn = jax.jit(lambda *args: each_lane(one, jnp.int32(count))(*args))(x, each)
    assert ended.shape == (5,)
    np.testing.assert_array_equal(ended[:count], 1.0)
    alone = [jax.random.normal(key, (2,)) for key in each[:count]]
    np.testing.assert_array_equal(drawn["drawn"][:count], np.reshape(alone, (count, 2)))
