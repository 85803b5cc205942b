"""A spectrum once an orbit: the same counts as by a spectrum a row, and never of another orbit."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.landscape.grid import as_grid
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.polish import polished
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained.losses import Focal
from ufm_jax.runs import by_orbit, engine, pipeline
from ufm_jax.runs.plan import Plan, shards


@pytest.fixture
def spectra(monkeypatch):
    """Count the spectra taken: of representatives, and of rows for themselves."""
    taken, real = Counter(), by_orbit._spectra

    def counting(landscape, fields, x, rows, *, polish):
        taken["shared" if polish else "own"] += len(rows)
        return real(landscape, fields, x, rows, polish=polish)

    monkeypatch.setattr(by_orbit, "_spectra", counting)
    return taken


def both_ways(landscape, target, starts, shard_size=4096):
    """Return the rows of a sweep of one shard, and evidence of the same points with a spectrum each."""
    grid = as_grid(landscape)
    plan = Plan(starts=starts, target=target, keep_points=True, shard_size=shard_size)
    work = engine.work_on(grid, plan)
    ((_, ends),) = engine.judged(work, plan, shards(plan))
    fields = {name: values[ends.setting] for name, values in work.settings.items()}
    return ends.rows, pipeline.judge(work.landscape, fields, ends.points, target, "all")


def codes(rows):
    return [int(Verdict[name]) for name in rows["verdict"].to_pylist()]


def numbers(rows, name):
    return rows[name].fill_null(-1).to_numpy()


DECAYS = {"decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
FACTORS = ufm.Factorisation(M=np.diag([4.0, 3.0, 2.0, 1.0]), decay=0.1, rank=2)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["minima", "saddles"])
@pytest.mark.parametrize(
    "landscape",
    [
        ufm.problem(counts=(2, 2, 2), dim=4, **DECAYS),
        ufm.problem(counts=(4, 2, 1), dim=2, **(DECAYS | {"decay_w": np.array([5e-3, 1e-9])})),
        FACTORS,
    ],
    ids=["balanced", "unequal, and tiny decays", "factors"],
)
def test_the_counts_are_those_by_a_spectrum_a_row(landscape, target, spectra):
    rows, own = both_ways(landscape, target, 100)
    assert codes(rows) == own.verdict.tolist()
    for name in ("index", "nullity"):
        np.testing.assert_array_equal(numbers(rows, name), getattr(own, name), err_msg=name)
    lowest, theirs = rows["lambda_min"].fill_null(np.nan).to_numpy(), own.lambda_min
    np.testing.assert_allclose(lowest, theirs, rtol=1e-6, atol=1e-11)
    assert spectra["shared"] > 0
    assert spectra["shared"] + spectra["own"] < rows.num_rows / 2


def test_one_orbit_takes_one_spectrum(spectra):
    rows, _ = both_ways(ufm.problem(counts=(2, 2, 2), dim=4, **DECAYS), "minima", 60)
    assert dict(spectra) == {"shared": 1}
    assert set(rows["orbit"].to_pylist()) == {0}
    assert len(set(rows["lambda_min"].to_pylist())) == 1
    (invariants,) = rows["invariants"].drop_null().to_pylist()
    slope = rows["rel_grad_norm"].to_numpy()
    assert rows["invariants"].is_valid().to_pylist().index(True) == np.argmin(slope)
    assert all(np.isfinite(invariants))


class Wells(Landscape):
    """(x² − 1)² + (2 + x) y²: two minima of value 0 whose curvatures differ, 2 and 6 along y."""

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return (x[0] ** 2 - 1) ** 2 + (2 + x[0]) * x[1] ** 2


class ByPlace(Wells):
    def invariants(self, x):
        return jnp.stack([x[0], x[1] ** 2])


class ByMore(Wells):
    """Invariants that the two minima share; the landscape knows that they are two."""

    def invariants(self, x):
        return self.value(x)[None]

    def same_orbit(self, x, y):
        return bool(x[0] * y[0] > 0)


ENDS = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 1e-10], [-1.0, 1e-10], [1.0, 0.0]])


def sorted_ends(landscape, x=ENDS):
    seen = by_orbit.look(landscape, {}, x, "minima")
    return by_orbit.sort(landscape, {}, x, seen, np.zeros(len(x), int))


@pytest.mark.parametrize("landscape", [Wells(), ByPlace(), ByMore()])
def test_orbits_of_equal_value_are_not_merged(landscape, spectra):
    found = sorted_ends(landscape)
    assert found.orbit.tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_allclose(found.evidence.lambda_min, [6, 2, 6, 2, 6], rtol=1e-9)
    assert dict(spectra) == ({} if type(landscape) is Wells else {"shared": 2})  # else a spectrum each


@pytest.mark.slow
def test_where_class_means_do_not_tell_orbits_apart_no_row_takes_another_s_spectrum(spectra):
    prob = ufm.problem(counts=(2, 2), dim=2, **DECAYS, loss=Focal(2.0))
    rows, own = both_ways(prob, "minima", 8)
    assert not prob.tells_orbits
    assert not spectra
    np.testing.assert_array_equal(numbers(rows, "index"), own.index)


class ByValue(Landscape):
    """Minimum at (−1, 0), saddle at (1, 0), both of value 0, and lower ones; invariants leave most out."""

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return (x[0] ** 2 - 1) ** 2 - x[0] * x[1] ** 2 + x[1] ** 4 / 8

    def invariants(self, x):
        return self.value(x)[None]


class ByNothing(ByValue):
    def invariants(self, x):
        return jnp.zeros(2)


class Stretched(Landscape):
    """(xy − 1)², which the symmetry (tx, y/t) leaves alone, and H not: λ at a minimum is 2 (x² + y²)."""

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return (x[0] * x[1] - 1) ** 2

    def tangents(self, x):
        return jnp.stack([x[0], -x[1]])[None]

    def invariants(self, x):
        return (x[0] * x[1])[None]


@pytest.mark.parametrize("landscape", [ByValue(), ByNothing(), Stretched()])
def test_whatever_invariants_leave_out_a_row_is_what_its_own_spectrum_says(landscape):
    rows, own = both_ways(landscape, "saddles", 60)
    assert len(set(np.round(own.lambda_min, 3))) > 2
    assert codes(rows) == own.verdict.tolist()
    for name in ("index", "nullity"):
        np.testing.assert_array_equal(numbers(rows, name), getattr(own, name), err_msg=name)
    lowest = rows["lambda_min"].fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(lowest, own.lambda_min, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("landscape", [ByValue(), ByNothing()])
def test_points_of_other_values_are_on_other_orbits_whatever_invariants_say(landscape):
    run = ufm.sweep(landscape, starts=40, target="both", shard_size=16)
    loss, orbit = run.table["loss"].to_numpy(), run.orbit
    for number in set(orbit[orbit >= 0]):
        assert np.ptp(loss[orbit == number]) < 1e-8
    atlas = ufm.census(landscape, starts=200)
    values = set(np.round(loss[orbit >= 0], 6) + 0.0)
    assert values <= set(np.round(np.array(atlas.table["loss"]), 6) + 0.0)


class Valley(Landscape):
    """c x²/2 + y²/2, c = 1e-4."""

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return (1e-4 * x[0] ** 2 + x[1] ** 2) / 2

    def invariants(self, x):
        return x**2


def test_a_row_at_whose_gradient_an_eigenvalue_does_not_show_keeps_its_own(spectra):
    """At ‖∇f‖ = 5e-10 curvature below 10 √5e-10 = 2.2e-4 shows nothing (`units.doubt`)."""
    ends = np.array([[0.0, 0.0], [5e-6, 0.0], [0.0, 1e-13]])
    found = sorted_ends(Valley(), ends)
    assert [Verdict(code).name for code in found.evidence.verdict] == [
        "LOCAL_MINIMUM",
        "UNDECIDED",
        "LOCAL_MINIMUM",
    ]
    assert found.evidence.index.tolist() == [0, -1, 0]
    assert found.orbit.tolist() == [0, 0, 0]
    assert dict(spectra) == {"shared": 1, "own": 1}


def test_of_a_family_every_row_keeps_its_own_spectrum(spectra):
    """A sphere of minima without its symmetry: every point is one, and degenerate."""

    class Sphere(Landscape):
        def zeros(self):
            return jnp.zeros(3)

        def value(self, x):
            return (x @ x - 1) ** 2

        def invariants(self, x):
            return jnp.zeros(1)  # says nothing

    ends = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]])
    found = sorted_ends(Sphere(), ends)
    assert {Verdict(code).name for code in found.evidence.verdict} == {"DEGENERATE"}
    assert spectra["own"] == len(ends)


def test_a_row_that_is_not_critical_is_on_no_orbit():
    found = sorted_ends(ByPlace(), np.array([[1.0, 0.0], [0.9, 0.0], [1.0, 0.0]]))
    assert found.orbit.tolist() == [0, -1, 0]
    assert found.evidence.verdict[1] == Verdict.NOT_CRITICAL


def test_polishing_squares_the_gradient_and_stays_near():
    prob = ufm.problem(counts=(2, 2, 2), dim=4, **DECAYS)
    (point,) = [ufm.sweep(prob, starts=1).point(0).x]
    near = jax.tree.map(lambda a: a * (1 + 1e-9), point)
    made = jax.jit(polished)(prob, near)
    before, after = (float(prob.evaluate(p).grad_norm) for p in (near, made))
    assert before > 1e-11
    assert after < 1e-15
    far = jax.tree.map(lambda a: a * 2.0, point)  # no Newton step of that length is taken
    np.testing.assert_array_equal(jax.jit(polished)(prob, far).W, far.W)


def test_other_shards_make_other_representatives_and_the_same_orbits():
    runs = [ufm.sweep(FACTORS, starts=60, target="both", shard_size=size) for size in (7, 25, 4096)]
    for run in runs[1:]:
        assert run.orbits.num_rows == runs[0].orbits.num_rows
        np.testing.assert_array_equal(run.orbit, runs[0].orbit)
        for name in ("index", "nullity", "hits", "row", "verdict"):
            assert run.orbits[name].to_pylist() == runs[0].orbits[name].to_pylist(), name
        lowest = [one.orbits["lambda_min"].to_numpy() for one in (run, runs[0])]
        np.testing.assert_allclose(*lowest, rtol=1e-10, atol=1e-14)
