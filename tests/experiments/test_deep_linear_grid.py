"""Linear layers: kinds of the map, starts of a given size, the barrier around the origin, the figure."""

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import ufm_jax as ufm
from experiments import deep_linear

matplotlib.use("Agg")


@pytest.mark.parametrize(
    ("K", "L", "decay", "kind"),
    [
        (4, 1, 1e-3, "simplex"),
        (4, 3, 2.0**-10, "pairs"),
        (5, 3, 2.0**-10, "one polygon"),
        (4, 3, 1.0, "origin"),
    ],
)
def test_the_lowest_configuration_has_its_kind_and_its_value_is_at_most_the_simplex(K, L, decay, kind):
    name, value = deep_linear.lowest(K, L, decay)
    assert deep_linear.family(name, K) == kind
    known = deep_linear.symmetric_values(K, L, decay, 1, K)
    assert value <= min(known.get(f"simplex({K})", np.inf), np.log(K))


@pytest.mark.parametrize("L", [1, 2, 3])
def test_scaled_starts_have_scaled_logits(L):
    landscape = ufm.DeepLinear(decay=jnp.asarray(1e-3), num_classes=3, num_layers=L)
    drawn = jax.vmap(landscape.start)(jax.random.split(jax.random.key(0), 2))
    factor = jnp.array([1e-6, 3.0])
    logits, scaled = (jax.vmap(landscape.logits)(x) for x in (drawn, deep_linear.scaled(drawn, factor, L)))
    np.testing.assert_allclose(scaled, factor[:, None, None] * logits, rtol=1e-12)


@pytest.mark.parametrize("L", [2, 3])
def test_f_is_highest_at_the_barrier_along_a_direction_of_rank_one(L):
    landscape = ufm.DeepLinear(decay=jnp.asarray(1e-5), num_classes=3, num_layers=L)
    u = jnp.array([1.0, -1.0, 0.0]) / 2**0.5
    first = jnp.zeros(3).at[0].set(1.0)

    def value(sigma):
        root = sigma ** (1 / (L + 1))
        inner = jnp.tile(root * jnp.outer(first, first), (L - 1, 1, 1))
        x = deep_linear.Layers(root * jnp.outer(u, first), inner, root * jnp.outer(first, u))
        return landscape.value(x)

    at = deep_linear.barrier(3, L, 1e-5) * 3**0.5
    below, here, above = (jax.grad(value)(factor * at) for factor in (0.9, 1.0, 1.1))
    assert below > 0 > above
    assert abs(here) < 0.1 * min(below, -above)


def test_a_page_shows_the_map_the_ends_and_the_basin():
    config = deep_linear.Config((3, 4), (1, 2), 3, ((3, 2),), 4, 2, ((3, 2),))
    orbits = [
        {"loss": 0.1, "hits": 3, "verdict": "LOCAL_MINIMUM", "name": "simplex(3)"},
        {"loss": 0.2, "hits": 1, "verdict": "STRICT_SADDLE", "name": "not listed"},
    ]
    ends = [{"K": 3, "L": 2, "minima": 1, "orbits": orbits, "simplex": 0.1}]
    basins = [{"K": 3, "L": 2, "sizes": [1e-9, 1e-3], "shares": [1.0, 0.0]}]
    told = {"map": deep_linear.the_map(config), "descents": ends, "basins": basins}
    figure = deep_linear.plot(told, config)
    assert len(figure.axes) == 4
    assert len(figure.axes[2].collections) == 2
    plt.close(figure)
