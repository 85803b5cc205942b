"""Searches that begin in float32 end where others do, and are judged in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make

import ufm_jax as ufm
from ufm_jax import devices
from ufm_jax.models.factorisation import Factorisation
from ufm_jax.precision import require_x64
from ufm_jax.runs import rough
from ufm_jax.runs.recipe import config_of

MODEL = make((2, 2, 2), 3)
ANY = Factorisation(M=jnp.diag(jnp.arange(3.0, 0.0, -1.0)), decay=0.1, rank=2)


class Stiff(ufm.Landscape):
    """A bowl that makes float64 of everything."""

    def zeros(self):
        return jnp.zeros(3)

    def value(self, x):
        return jnp.sum(x.astype("float64") ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("landscape", [MODEL, ANY], ids=["model", "any"])
def test_the_same_critical_orbits_are_found(landscape):
    runs = [
        ufm.sweep(landscape, starts=200, target="both", search_dtype=dtype)
        for dtype in ("float32", "float64")
    ]
    for run in runs:
        assert set(run.table["status"].to_pylist()) == {"CONVERGED"}
    single, double = (run.orbits.to_pylist() for run in runs)
    assert len(single) == len(double)
    for ours, theirs in zip(single, double, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-10)
        assert [ours[n] for n in ("verdict", "index", "nullity")] == [
            theirs[n] for n in ("verdict", "index", "nullity")
        ]


@pytest.mark.parametrize("target", ["minima", "saddles"])
@pytest.mark.parametrize("landscape", [MODEL, ANY], ids=["model", "any"])
def test_ends_in_float32_are_near_critical_points(landscape, target):
    """Near by the standard of float32, not by that of verdicts."""
    rows = landscape.space("rows")
    space = rows.space(target)
    begin = jax.vmap(lambda key: space.restrict(rows.draw(key, jnp.zeros((), int), target)))(
        jax.random.split(jax.random.key(1), 64)
    )
    ends, steps = rough.rough_ends(rows, {}, begin, target, 64)
    assert {a.dtype for a in jax.tree.leaves(ends)} == {np.dtype("float64")}
    slopes = np.array(jax.vmap(lambda x: space.evaluate(x).grad_norm)(ends))
    units = np.array(jax.vmap(lambda x: space.units(space.value(x)).gradient)(ends))
    assert np.mean(slopes <= 10 * rough.ROUGH * units) > 0.95
    assert np.median(slopes / units) > 1e-10
    assert np.all(steps > 0)


def test_a_start_that_float32_does_not_hold_is_searched_from_itself():
    begin = jax.tree.map(lambda a: np.full((2, *a.shape), 1e200), ANY.zeros())
    ends, _ = rough.rough_ends(ANY, {}, begin, "minima", 8)
    for given, kept in zip(jax.tree.leaves(begin), jax.tree.leaves(ends), strict=True):
        np.testing.assert_array_equal(given, kept)


def test_a_landscape_that_makes_float64_is_refused_only_if_asked():
    with pytest.raises(ValueError, match=r"search_dtype: Stiff .*float64 of points in float32"):
        ufm.sweep(Stiff(), starts=4, search_dtype="float32")
    assert rough.dtype_of("auto", Stiff()) == "float64"


def test_searches_begin_in_float32_where_devices_have_nothing_else(monkeypatch):
    monkeypatch.setattr(devices, "has_float64", lambda device: False)
    assert rough.dtype_of("auto", MODEL) == "float32"
    assert rough.dtype_of("auto", Stiff()) == "float64"
    assert rough.dtype_of("float64", MODEL) == "float64"
    assert devices.local() == tuple(jax.local_devices(backend="cpu"))


def test_verdicts_on_a_device_without_float64_are_refused(monkeypatch):
    monkeypatch.setattr("ufm_jax.precision.has_float64", lambda device: False)
    with pytest.raises(ValueError, match=r"jax_default_device: .*has no float64"):
        require_x64()


@pytest.mark.slow
def test_a_folder_says_what_its_searches_began_in(tmp_path):
    grid = ufm.grid(MODEL)
    plain, single = (config_of(grid, starts=8, search_dtype=dtype, seed=0) for dtype in ("auto", "float32"))
    assert "search_dtype" not in plain.content
    assert single.content["search_dtype"] == "float32"
    assert plain.digest() != single.digest()
    ufm.sweep(MODEL, starts=8, search_dtype="float32", out=tmp_path)
    assert ufm.load(tmp_path).plan.search_dtype == "float32"
    with pytest.raises(ValueError, match="another"):
        ufm.sweep(MODEL, starts=8, out=tmp_path)
