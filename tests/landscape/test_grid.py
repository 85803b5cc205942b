"""A grid is every combination of values of leaves, in order; what is no leaf is refused by name."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.grid import as_grid, at_setting, grid, num_settings
from ufm_jax.landscape.landscape import Landscape


class Spring(Landscape):
    """stiffness ‖x − rest‖²/2 + tilt Σ x."""

    rest: jax.Array
    stiffness: jax.Array
    tilt: jax.Array = 0.0
    length: int = static(default=2)

    def zeros(self):
        return jnp.zeros(self.length)

    def value(self, x):
        return self.stiffness * jnp.sum((x - self.rest) ** 2) / 2 + self.tilt * jnp.sum(x)


SPRING = Spring(rest=[1.0, 2.0], stiffness=1.0)
X = jnp.array([0.5, -3.0])


def test_the_last_field_runs_fastest():
    many = grid(SPRING, stiffness=[1.0, 2.0, 3.0], tilt=(0.1, 0.2))
    expected = list(itertools.product([1.0, 2.0, 3.0], [0.1, 0.2]))
    assert list(zip(*many.columns.values(), strict=True)) == expected
    assert list(many.columns) == ["stiffness", "tilt"]
    assert num_settings(many) == 6
    for number, (stiffness, tilt) in enumerate(expected):
        one = Spring(rest=[1.0, 2.0], stiffness=stiffness, tilt=tilt)
        np.testing.assert_allclose(at_setting(many, number).value(X), one.value(X), rtol=1e-15)


def test_a_field_that_is_an_array_takes_several_arrays():
    rests = np.arange(6.0).reshape(3, 2)
    many = grid(SPRING, rest=rests, stiffness=[1.0, 4.0])
    assert num_settings(many) == 6
    assert list(many.columns) == ["stiffness"]  # what a table can hold
    for number, (rest, stiffness) in enumerate(itertools.product(rests, [1.0, 4.0])):
        one = Spring(rest=rest, stiffness=stiffness)
        np.testing.assert_allclose(at_setting(many, number).value(X), one.value(X), rtol=1e-15)


def test_a_grid_of_nothing_is_the_landscape():
    for one in (grid(SPRING), as_grid(SPRING)):
        assert num_settings(one) == 1
        assert one.columns == {}
        np.testing.assert_array_equal(at_setting(one, 0).value(X), SPRING.value(X))
    assert as_grid(one) is one


def test_values_take_the_dtype_of_the_leaf():
    many = grid(SPRING, stiffness=[1, 2])
    assert many.settings["stiffness"].dtype == np.float64
    assert at_setting(many, 1).stiffness.dtype == jnp.float64


def test_a_problem_whose_decays_are_arrays_is_a_grid():
    prob = make((2, 2), 2, decay_w=np.array([1e-3, 1e-2]), decay_h=np.array([2e-3, 2e-2]))
    many = as_grid(prob)
    assert num_settings(many) == 2
    for number, decay in enumerate([1e-3, 1e-2]):
        one = at_setting(many, number)
        assert (float(one.decay_w), float(one.decay_h)) == (decay, 2 * decay)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mass": [1.0]}, r"^mass: Spring has no such leaf; it has rest, stiffness, tilt"),
        ({"length": [1, 2]}, r"^length: Spring has no such leaf"),
        ({"stiffness": 1.0}, r"^stiffness: need a sequence of values of shape \(\), got \(\)"),
        ({"stiffness": []}, r"^stiffness: need a sequence of values of shape \(\), got \(0,\)"),
        ({"stiffness": [[1.0]]}, r"^stiffness: need a sequence of values of shape \(\), got \(1, 1\)"),
        ({"rest": [1.0, 2.0]}, r"^rest: need a sequence of values of shape \(2,\), got \(2,\)"),
        ({"rest": np.zeros((4, 3))}, r"^rest: need a sequence of values of shape \(2,\), got \(4, 3\)"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        grid(SPRING, **fields)
