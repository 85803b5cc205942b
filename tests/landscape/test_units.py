"""What is small is small beside the landscape's own units: no verdict depends on the size of f."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.units import Units
from ufm_jax.landscape.verdict import Verdict


class Wells(Landscape):
    """size ((u² − length²)² / length⁴ + v² / length²): minima at u = ±length, a saddle at the origin."""

    size: jax.Array = 1.0
    length: jax.Array = 1.0

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        u, v = x / self.length
        return self.size * ((u**2 - 1) ** 2 + v**2)

    def lower_bound(self, x):
        return jnp.zeros(())

    def units(self, value):
        return Units(self.size, self.size / self.length**2)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-10, 1.0, 1e10, 1e30])
def test_no_verdict_depends_on_the_size_of_f(size):
    wells = Wells(size=size)
    judged = [ufm.classify(wells, jnp.array(x)) for x in ([1.0, 0.0], [0.0, 0.0], [0.5, 0.0], [1.0, 1e-6])]
    assert [one.verdict for one in judged] == [
        Verdict.GLOBAL_MINIMUM,
        Verdict.STRICT_SADDLE,
        Verdict.NOT_CRITICAL,
        Verdict.NOT_CRITICAL,
    ]
    assert [(one.index, one.nullity) for one in judged[:2]] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_searches_stop_by_the_same_measure(size):
    run = ufm.sweep(Wells(size=size), starts=40, target="both", seed=3)
    assert set(run.table["status"].to_pylist()) == {"CONVERGED"}
    assert sorted(set(run.table["verdict"].to_pylist())) == ["GLOBAL_MINIMUM", "STRICT_SADDLE"]
    assert np.max(run.table["rel_grad_norm"].to_numpy()) <= 1e-10
    assert run.orbits["index"].to_pylist() == [0, 1]


def test_without_units_a_function_of_order_one_is_judged_as_it_stands():
    plain = ufm.Landscape.of(lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2, jnp.zeros(2))
    ours = Wells()
    for x in ([1.0, 0.0], [0.0, 0.0], [1.0 + 1e-10, 0.0], [0.3, 0.1]):
        a, b = ufm.classify(plain, jnp.array(x)), ufm.classify(ours, jnp.array(x))
        assert (a.index, a.nullity, a.rel_grad_norm) == (b.index, b.nullity, b.rel_grad_norm)
        assert a.rel_grad_norm == a.grad_norm
