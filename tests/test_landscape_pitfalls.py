"""What went wrong when landscapes came from outside: flat points, names that collide, other functions."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm


def of(f, size):
    return ufm.Landscape.of(f, jnp.zeros(size))


FLAT = {
    "quartic": (of(lambda x: x[0] ** 4, 1), "both"),
    "quartic and square": (of(lambda x: x[0] ** 4 + x[1] ** 2, 2), "saddles"),
    "monkey saddle": (of(lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, 2), "saddles"),
    "no critical point": (of(lambda x: x[0] ** 3 + 1e-12 * x[0], 1), "saddles"),
}


@pytest.mark.parametrize("name", FLAT)
def test_searches_that_end_short_of_a_flat_point_claim_no_sign(name):
    landscape, target = FLAT[name]
    run = ufm.sweep(landscape, starts=20, target=target)
    assert set(run.table["verdict"].to_pylist()) <= {"UNDECIDED", "DEGENERATE", "NOT_CRITICAL"}


@pytest.mark.parametrize(("large", "small"), [(1e6, -1e-5), (1e12, 1.0), (1e12, -1.0)])
def test_a_small_eigenvalue_beside_a_large_one_is_not_called_zero(large, small):
    judged = ufm.classify(of(lambda x: large * x[0] ** 2 + small * x[1] ** 2, 2), jnp.zeros(2))
    truth = ufm.Verdict.LOCAL_MINIMUM if small > 0 else ufm.Verdict.STRICT_SADDLE
    assert judged.verdict in (ufm.Verdict.UNDECIDED, truth)
    assert judged.nullity in (None, 0)


def test_points_of_different_index_are_never_on_one_orbit():
    flat = of(lambda x: 1e-6 * ((x[0] ** 2 - 1) ** 2 + 0.3 * x[0]) + 1e-6 * x[1] ** 2, 2)
    run = ufm.sweep(flat, starts=40, target="saddles")
    index = np.array([-1 if i is None else i for i in run.table["index"].to_pylist()])
    for line in range(run.orbits.num_rows):
        assert len(set(index[run.orbit == line]) - {-1}) <= 1


class Well(ufm.Landscape):
    tilt: jax.Array = 0.1

    def zeros(self):
        return {"a": jnp.zeros(2), "b": 0.0}

    def value(self, x):
        return jnp.sum((x["a"] ** 2 - 1) ** 2) + self.tilt * x["b"] ** 2


@pytest.mark.parametrize("name", ["verdict", "loss", "start", "index"])
def test_measures_cannot_take_the_place_of_evidence(name):
    class Bad(Well):
        def measures(self, x):
            return {name: jnp.zeros(())}

    for ask in (lambda: ufm.sweep(Bad(), starts=2), lambda: ufm.classify(Bad(), Bad().zeros())):
        with pytest.raises(ValueError, match=f"^measures: '{name}'"):
            ask()


def test_fields_cannot_be_called_as_what_every_landscape_has():
    with pytest.raises(TypeError, match=r"^value: "):

        class Bad(ufm.Landscape):
            value: jax.Array


def test_a_number_among_the_leaves_is_kept_in_a_folder(tmp_path):
    run = ufm.sweep(Well(), starts=5, out=tmp_path / "run")
    again = ufm.load(tmp_path / "run")
    assert run.points["b"].shape == (5,)
    np.testing.assert_array_equal(again.points["a"], run.points["a"])
    assert again.table.column_names[-2:] == ["a", "b"]


def test_a_folder_knows_its_function_not_only_its_class(tmp_path):
    ufm.sweep(Well(), starts=3, out=tmp_path / "run")
    with pytest.raises(ValueError, match=re.escape(f"landscape: it is not the one of {tmp_path / 'run'}")):
        ufm.load(tmp_path / "run", landscape=Well(tilt=0.2))


def test_tangents_are_asked_again_for_other_leaves():
    class Broken(ufm.Landscape):
        breaks: jax.Array

        def zeros(self):
            return jnp.zeros(2)

        def value(self, x):
            return self.breaks * x[0] ** 4 + x[1] ** 2

        def tangents(self, x):
            return jnp.array([[1.0, 0.0]])

    assert ufm.classify(Broken(breaks=0.0), jnp.zeros(2)).orbit_dim == 1
    with pytest.raises(ValueError, match=r"^tangents: "):
        ufm.classify(Broken(breaks=1.0), jnp.zeros(2))


def test_an_index_beyond_the_variables_is_refused_before_the_search():
    with pytest.raises(ValueError, match=r"^target: need an index of at most 3, got 99"):
        ufm.sweep(Well(), starts=2, target=99)


@pytest.mark.slow
def test_a_search_for_an_index_counts_it_over_all_coordinates():
    """The lowest saddle of f in d = 4, K = 3, has another index in the coordinates of a search."""
    prob = ufm.problem(num_classes=3, per_class=2, dim=4, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    run = ufm.sweep(prob, starts=60, target="saddles")
    index = min(row["index"] for row in run.orbits.to_pylist() if row["verdict"] == "STRICT_SADDLE")
    starts = jax.vmap(prob.start)(jax.random.split(jax.random.key(0), 12))
    found = ufm.search(prob, starts, ufm.EigenvectorFollowing(index))
    ended = np.flatnonzero(np.asarray(found.status) == ufm.Status.CONVERGED)
    assert len(ended)
    for i in ended[:3]:
        judged = ufm.classify(prob, jax.tree.map(lambda a, i=i: a[i], found.x))
        assert (judged.verdict, judged.index) == (ufm.Verdict.STRICT_SADDLE, index)


class Named(Well):
    def measures(self, x):
        return {"tilt": jnp.zeros(())}


def test_settings_cannot_take_the_name_of_a_measure_or_a_leaf():
    with pytest.raises(ValueError, match=r"^grid: 'tilt' is a leaf of a point or a measure"):
        ufm.sweep(ufm.grid(Named(), tilt=[0.1, 0.2]), starts=2)


class Wells(ufm.Landscape):
    """Four wells of two depths, of any size and height: nine critical points, six up to mirror images."""

    size: jax.Array = 1.0
    height: jax.Array = 0.0

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return self.size * (jnp.sum((x**2 - 1) ** 2) + 0.3 * x[0]) + self.height

    def units(self, value):
        return ufm.Units(self.size, self.size)


@pytest.mark.parametrize(
    ("size", "height"), [(1.0, 0.0), (1.0, 1e6), (1.0, -1e12), (1e-12, 0.0), (1e12, 0.0)]
)
def test_orbits_are_told_apart_whatever_the_size_and_height_of_f(size, height):
    run = ufm.sweep(Wells(size=size, height=height), starts=60, target="both", seed=0)
    assert run.orbits.num_rows == 6
    assert sorted(run.orbits["index"].to_pylist()) == [0, 0, 1, 1, 1, 2]


def test_a_small_eigenvalue_at_a_point_not_quite_critical_is_not_counted_as_no_zero():
    # At the origin an eigenvalue is 0 (σ = λ); beside it the same direction bends by 3 x², x = 3.5e-4.
    flat = ufm.Factorisation(M=jnp.diag(jnp.array([2.0, 1.0])), rank=1, decay=1.0)
    assert ufm.classify(flat, flat.zeros()).nullity == 1
    beside = jax.tree.map(lambda a: a.at[1, 0].set(3.5e-4), flat.zeros())
    judged = ufm.classify(flat, beside)
    assert (judged.verdict, judged.index, judged.nullity) == (ufm.Verdict.STRICT_SADDLE, 1, None)


@pytest.mark.parametrize("units", [(1.0, 1.0), 1.0, ufm.Units(0.0, 0.0), ufm.Units(1.0, -1.0)])
def test_units_that_are_none_are_refused(units):
    class Unsized(ufm.Landscape):
        def zeros(self):
            return jnp.zeros(1)

        def value(self, x):
            return jnp.sum(x**2)

        def units(self, value):
            return units

    with pytest.raises(ValueError, match=r"^units: Unsized needs"):
        ufm.sweep(Unsized(), starts=2)


NONE = """
import jax
import jax.numpy as jnp
import ufm_jax as ufm

jax.config.update("jax_enable_x64", True)
grid = ufm.grid(ufm.Landscape.of(lambda x: x @ x, like=jnp.zeros(2)))
alone = {ufm.sweep, ufm.grid, ufm.predict}
at = {ufm.search, ufm.classify, ufm.flow_from, ufm.hessian, ufm.slice, ufm.spectrum, ufm.prove}
for call in (*alone, *at):
    for wrong in (lambda x: x @ x, 3, None, *(() if call in alone else (grid,))):
        try:
            call(wrong) if call in alone else call(wrong, jnp.zeros(2))
        except ValueError as error:
            told = f"landscape: need a Landscape, got {type(wrong).__name__}"
            assert str(error).startswith(told), (call, str(error))
        else:
            raise AssertionError(call)
"""


def test_what_is_no_landscape_is_said_to_be_none():
    """In a process of its own: in this one types are checked, which users' are not."""
    made = subprocess.run([sys.executable, "-c", NONE], capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
