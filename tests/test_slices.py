"""Pictures are of f: along eigenvectors, between orbits, and along orbits, where f does not change."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import ufm_jax as ufm
from ufm_jax.landscape.flat import hessian
from ufm_jax.numerics.flow import Trajectory


class Ring(ufm.Landscape):
    """(|x|² − 1)²/4 + (y² − 1)²/4 + y/10: a circle of minima, y below, and one of other minima, y above."""

    def value(self, x):
        ring, y = x[:2], x[2]
        return (ring @ ring - 1) ** 2 / 4 + (y**2 - 1) ** 2 / 4 + y / 10

    def zeros(self):
        return jnp.zeros(3)

    def tangents(self, x):
        return jnp.array([[-x[1], x[0], 0.0]])


RING = Ring()
LOW, HIGH = (float(r) for r in sorted(np.roots([1, 0, -1, 0.1]).real)[:3:2])
BELOW = jnp.array([1.0, 0.0, LOW])


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_along_an_eigenvector_f_bends_as_its_eigenvalue_says(number):
    line = ufm.slice(RING, BELOW, number, radius=1e-3, num_points=3)
    bend = (line.values[0] - 2 * line.values[1] + line.values[2]) / 1e-6
    eigenvalues = np.linalg.eigvalsh(np.asarray(hessian(RING, BELOW)))
    assert bend == pytest.approx(eigenvalues[number], abs=1e-5)


def test_the_orbit_is_drawn_as_a_circle_along_which_f_is_constant(ax):
    plane = ufm.slice(RING, BELOW, "orbit", "bend", radius=2.5, num_points=21)
    (circle,) = plane.orbits
    u, v = np.array([0.0, 1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    points = np.asarray(BELOW) + circle @ np.array([u, v])
    np.testing.assert_allclose(np.linalg.norm(points[:, :2], axis=1), 1.0, atol=1e-6)
    values = jax.vmap(RING.value)(jnp.asarray(points))
    np.testing.assert_allclose(values, RING.value(BELOW), atol=1e-10)
    assert np.ptp(circle, axis=0) == pytest.approx([2.0, 2.0], abs=1e-3)  # all of it
    assert plane.plot(ax) is ax
    assert ax.get_legend() is not None


@pytest.mark.parametrize("angle", [0.3, 2.0, -2.5])
def test_between_two_orbits_the_symmetry_brings_the_second_near(angle, ax):
    there = jnp.array([np.cos(angle), np.sin(angle), HIGH])
    line = ufm.slice(RING, BELOW, to=there, num_points=7)
    assert line.second is None
    assert (line.first[1], line.first[5]) == (0.0, 1.0)
    assert line.values[5] == pytest.approx(float(RING.value(there)), abs=1e-10)
    barrier = RING.value(jnp.array([1.0, 0.0, (LOW + HIGH) / 2]))  # straight up: |x| stays 1
    assert line.values[3] == pytest.approx(float(barrier), abs=1e-10)
    assert len(line.plot(ax).lines) == 3  # f, and both ends


def test_an_orbit_that_leaves_the_plane_is_not_drawn():
    assert ufm.slice(RING, BELOW, 1, 2, num_points=5).orbits == []
    assert ufm.slice(RING, BELOW, "orbit", 2, radius=3.0, num_points=5).orbits[0].shape[0] < 50


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "u"),
        ({"u": 0, "to": BELOW}, "u"),
        ({"u": 3}, "u"),
        ({"u": 0, "v": -4}, "v"),
        ({"u": "valley"}, "u"),
        ({"u": jnp.ones(2)}, "x"),
        ({"u": 0, "radius": 0.0}, "radius"),
        ({"u": 0, "num_points": 1}, "num_points"),
    ],
)
def test_what_is_no_slice_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        ufm.slice(RING, BELOW, **arguments)


def test_no_symmetry_has_no_orbit():
    plain = ufm.Landscape.of(lambda x: x @ x, like=jnp.zeros(2))
    with pytest.raises(ValueError, match="u: no symmetry"):
        ufm.slice(plain, jnp.zeros(2), "orbit")
    assert ufm.slice(plain, jnp.zeros(2), 0, 1, num_points=3).orbits == []
    assert ufm.slice(plain, jnp.zeros(2), to=jnp.ones(2), num_points=3).values[-1] == pytest.approx(
        2 * 1.25**2
    )


def test_a_spectrum_is_that_of_the_hessian(ax):
    found = ufm.spectrum(RING, BELOW)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(np.asarray(hessian(RING, BELOW))))
    assert repr(found) == "Spectrum(3 eigenvalues, 0 negative, 1 zero)"
    assert found.plot(ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0 negative", "1 zero", "2 positive"]


def test_a_flow_is_drawn_over_time_and_without_axes_on_new_ones(ax):
    times = jnp.array([0.0, 1.0, 10.0])
    path = Trajectory(times, None, jnp.array([3.0, 2.0, 1.0]), jnp.zeros(3), jnp.int32(0))
    flow = ufm.Flow(path, None)
    assert flow.plot(ax) is ax
    assert ax.lines[0].get_ydata().tolist() == [2.0, 1.0]
    made = flow.plot()
    assert made.figure is plt.gcf()
    plt.close(made.figure)
