"""Critical points of any index, on the surface of Müller & Brown (1979) and on small normal forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.numerics.derivatives import dense_hessian, second_order
from ufm_jax.numerics.following import eigenvector_following, follow_to_index
from ufm_jax.numerics.rootfind import critical_point, levenberg_marquardt, natural_newton
from ufm_jax.numerics.status import Status

A = np.array([-200.0, -100.0, -170.0, 15.0])
a, b, c = (
    np.array([-1.0, -1.0, -6.5, 0.7]),
    np.array([0.0, 0.0, 11.0, 0.6]),
    np.array([-10.0, -10.0, -6.5, 0.7]),
)
X, Y = np.array([1.0, 0.0, -0.5, -1.0]), np.array([0.0, 0.5, 1.5, 1.0])

MINIMA, SADDLES = (-146.6995, -108.1667, -80.7678), (-40.6648, -72.2489)
NEAR_MINIMA = [(-0.5, 1.4), (0.6, 0.0), (-0.1, 0.5)]
NEAR_SADDLES = [(-0.8, 0.6), (0.2, 0.3)]
# An energy of order 100 and its gradient are rounded at about 1e-13.
GTOL = 1e-9


def mueller_brown(z):
    x, y = z[0] - X, z[1] - Y
    return jnp.sum(A * jnp.exp(a * x**2 + b * x * y + c * y**2))


MARQUARDT = jax.jit(lambda z: levenberg_marquardt(second_order(mueller_brown), z, gtol=GTOL))
MARQUARDT_BATCH = jax.jit(jax.vmap(lambda z: levenberg_marquardt(second_order(mueller_brown), z, gtol=GTOL)))
FOLLOW = {
    k: jax.jit(jax.vmap(lambda z, k=k: follow_to_index(mueller_brown, z, k, gtol=GTOL))) for k in (0, 1)
}
HESSIAN = jax.jit(dense_hessian(mueller_brown))
GRADIENT = jax.jit(jax.grad(mueller_brown))


def index(z):
    return int(np.sum(np.linalg.eigvalsh(HESSIAN(z)) < 0))


@pytest.mark.parametrize(
    ("near", "energy", "expected"),
    [(z, e, 0) for z, e in zip(NEAR_MINIMA, MINIMA, strict=True)]
    + [(z, e, 1) for z, e in zip(NEAR_SADDLES, SADDLES, strict=True)],
)
def test_marquardt_finds_all_five_critical_points(near, energy, expected):
    found = MARQUARDT(jnp.asarray(near))
    assert found.status == Status.CONVERGED
    assert np.linalg.norm(GRADIENT(found.x)) <= GTOL
    assert index(found.x) == expected
    np.testing.assert_allclose(found.value, energy, atol=1e-4)


@pytest.mark.parametrize(("k", "energies"), [(0, MINIMA), (1, SADDLES)])
def test_eigenvector_following_ends_at_the_index_asked_for(k, energies):
    grid = np.stack(np.meshgrid(np.linspace(-1.3, 0.8, 5), np.linspace(-0.2, 1.6, 5)), -1).reshape(-1, 2)
    found = FOLLOW[k](grid)
    done = np.asarray(found.status) == Status.CONVERGED
    assert done.sum() >= (25 if k == 0 else 10)  # climbing may leave for the plateau at infinity
    for z, value in zip(found.x[done], found.value[done], strict=True):
        assert index(z) == k
        assert np.linalg.norm(GRADIENT(z)) <= 2 * GTOL
        assert np.min(np.abs(np.array(energies) - value)) < 1e-4
    seen = {int(np.argmin(np.abs(np.array(energies) - v))) for v in found.value[done]}
    assert seen == set(range(len(energies)))


@pytest.mark.parametrize(
    "spectrum", [(1.0, 2.0, 3.0), (-1.0, 2.0, 3.0), (-3.0, -2.0, 1e-3), (-1.0, -1.0, -1.0)]
)
def test_the_sign_of_curvature_plays_no_part_in_marquardt(spectrum):
    quadratic = lambda z: jnp.dot(jnp.asarray(spectrum), (z - 1.0) ** 2) / 2
    found = critical_point(quadratic, jnp.asarray([3.0, -2.0, 0.5]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 1.0, atol=1e-6)


def test_a_circle_of_critical_points_is_met():
    rim = lambda z: (jnp.dot(z, z) - 1.0) ** 2 / 4  # singular Hessian all along the circle
    found = critical_point(rim, jnp.asarray([0.9, 0.9]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(jnp.linalg.norm(found.x), 1.0, atol=1e-9)


def test_a_stationary_gradient_norm_without_a_root_is_not_called_converged():
    slope = lambda z: z[0] ** 3 / 3 + z[0]  # gradient z² + 1 ≥ 1
    found = critical_point(slope, jnp.asarray([0.7]))
    assert found.status == Status.STALLED
    np.testing.assert_allclose(found.grad_norm, 1.0, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_followers_reach_every_index_of_a_product_of_double_wells(k):
    wells = lambda z: jnp.sum((z**2 - 1.0) ** 2) / 4  # index = number of coordinates at 0
    found = follow_to_index(wells, jnp.asarray([0.9, 0.5, 0.3]), k)
    assert found.status == Status.CONVERGED
    assert int(np.sum(np.linalg.eigvalsh(dense_hessian(wells)(found.x)) < 0)) == k


@pytest.mark.parametrize("k", [-1, 3])
def test_an_impossible_index_is_refused(k):
    with pytest.raises(ValueError, match=f"index.*got {k}"):
        follow_to_index(mueller_brown, jnp.zeros(2), k)


@pytest.mark.parametrize("search", [critical_point, lambda f, z, **kw: follow_to_index(f, z, 1, **kw)])
def test_nonfinite_starts_and_budgets_are_reported(search):
    assert search(mueller_brown, jnp.asarray([np.nan, 0.0])).status == Status.NONFINITE
    assert search(mueller_brown, jnp.asarray([0.0, 1.0]), max_steps=1).status == Status.MAX_STEPS


def test_a_lost_lane_leaves_the_others_unchanged_to_the_bit():
    z = np.array([*NEAR_MINIMA, *NEAR_SADDLES])
    healthy = MARQUARDT_BATCH(z)
    z[1] = np.nan
    mixed = MARQUARDT_BATCH(z)
    others = np.array([0, 2, 3, 4])
    assert mixed.status[1] == Status.NONFINITE
    for p, q in zip(mixed, healthy, strict=True):
        assert np.array_equal(np.asarray(p)[others], np.asarray(q)[others])
    alone = MARQUARDT(z[3])
    np.testing.assert_allclose(healthy.x[3], alone.x, atol=1e-10)


def turn(z):
    """Return the direction of rotation about the third axis, twice, and nothing: dependent and zero."""
    direction = jnp.stack([-z[1], z[0], 0 * z[2]])
    return jnp.stack([direction, -2 * direction, 0 * z])


def ring(z):
    """A minimum at rings of radius 1 at heights ±1, saddles at (0, 0, ±1) and the ring at height 0."""
    return (z[0] ** 2 + z[1] ** 2 - 1) ** 2 + (z[2] ** 2 - 1) ** 2 / 4


@pytest.mark.parametrize("seed", range(8))
def test_a_saddle_modulo_rotations_is_reached_from_beside_a_minimum(seed):
    start = jnp.asarray([0.6, 0.8, 0.9]) + 0.03 * jax.random.normal(jax.random.key(seed), (3,))
    found = follow_to_index(ring, start, 1, tangents=turn)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.value, 0.25, atol=1e-12)
    np.testing.assert_allclose([jnp.hypot(*found.x[:2]), found.x[2]], [1.0, 0.0], atol=1e-9)


def test_a_null_direction_in_the_place_of_a_negative_one_is_not_convergence():
    start = jnp.asarray([0.61, 0.79, 1.01])
    found = follow_to_index(ring, start, 1)  # climbs around the ring, not being told that it is level
    assert found.grad_norm < 1e-10
    np.testing.assert_allclose(found.value, 0.0, atol=1e-12)
    assert found.status == Status.STALLED


@pytest.mark.parametrize(
    ("start", "k", "expected"),
    [
        ([0.0, 0.0, 1.0], 2, Status.CONVERGED),  # on the axis no rotation moves the point
        ([0.0, 0.0, 1.0], 1, Status.STALLED),
        ([0.0, 0.0, 0.0], 3, Status.CONVERGED),
        ([1.0, 0.0, 0.0], 1, Status.CONVERGED),
        ([1.0, 0.0, 1.0], 0, Status.CONVERGED),
        ([1.0, 0.0, 1.0], 1, Status.STALLED),
    ],
)
def test_the_index_of_a_start_that_is_critical_is_checked(start, k, expected):
    found = follow_to_index(ring, jnp.asarray(start), k, tangents=turn)
    assert found.status == expected
    np.testing.assert_allclose(found.x, start, atol=1e-12)


def test_the_index_of_a_search_into_a_fixed_point_of_the_symmetry_is_the_full_one():
    # Away from the axis one direction is the rotation's, at its end on the axis both are negative.
    found = follow_to_index(ring, jnp.asarray([0.2, 0.1, 1.1]), 1, tangents=turn)
    assert found.status == Status.STALLED
    np.testing.assert_allclose(found.x, [0.0, 0.0, 1.0], atol=1e-9)


def test_without_directions_nothing_is_projected():
    none = lambda z: jnp.zeros((0, 2))
    start = jnp.asarray([-0.7, 0.5])
    plain, empty = (follow_to_index(mueller_brown, start, 1, tangents=t, gtol=GTOL) for t in (None, none))
    for p, q in zip(plain, empty, strict=True):
        assert np.array_equal(p, q)


def test_tangents_come_as_the_point_does():
    f = lambda p: ring(jnp.append(p["xy"], p["z"]))
    start = {"xy": jnp.asarray([0.62, 0.78]), "z": jnp.asarray(0.9)}

    def rotation(p):
        return {"xy": jnp.stack([-p["xy"][1], p["xy"][0]])[None], "z": jnp.zeros(1)}

    found = jax.jit(lambda s: follow_to_index(f, s, 1, tangents=rotation))(start)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x["z"], 0.0, atol=1e-9)
    for wrong in (
        lambda p: p,
        lambda p: rotation(p)["xy"],
        lambda p: {**rotation(p), "z": jnp.zeros((1, 1))},
    ):
        with pytest.raises(ValueError, match="tangents"):
            follow_to_index(f, start, 1, tangents=wrong)


def test_many_searches_at_once_end_where_each_ends_alone():
    starts = jnp.asarray([0.6, 0.8, 0.8]) + 0.1 * jax.random.normal(jax.random.key(7), (5, 3))
    search = lambda z: eigenvector_following(second_order(ring), z, 1, tangents=turn)
    together, alone = jax.vmap(search)(starts), jax.lax.map(search, starts)
    assert np.array_equal(together.status, alone.status)
    np.testing.assert_allclose(together.x, alone.x, atol=1e-9)


def flat_tail(scale):
    """A saddle at e^{-u} = scale, v = u/2, w = 0, where two curvatures are `scale` times that across."""
    return lambda x: (x[1] - x[0] / 2) ** 2 + jnp.exp(-x[0]) + scale * (x[0] - x[2] ** 2 + x[2] ** 4)


@pytest.mark.parametrize("scale", [1e-2, 1e-6, 1e-11])
def test_natural_newton_comes_down_flat_tails(scale):
    expand, start = second_order(flat_tail(scale)), jnp.array([0.3, 0.4, 0.1])
    found = jax.jit(lambda x: natural_newton(expand, x, gtol=1e-6 * scale))(start)
    assert found.status == Status.CONVERGED
    u = -np.log(scale)
    np.testing.assert_allclose(found.x, [u, u / 2, 0.0], atol=1e-4)
    assert np.sum(jnp.linalg.eigvalsh(dense_hessian(flat_tail(scale))(found.x)) < 0) == 1
    other = jax.jit(lambda x: levenberg_marquardt(expand, x, gtol=1e-6 * scale))(start)
    assert (other.status == Status.CONVERGED) == (scale > 1e-9)  # H² holds no curvature below 1e-8


def test_natural_newton_steps_around_what_its_coordinates_are():
    """Scaled coordinates give the scaled steps: its test of a step knows no lengths but the step's own."""
    stretch = jnp.array([1.0, 1e3, 1e-2])
    plain, start = flat_tail(1e-2), jnp.array([0.8, 0.7, 0.1])
    one, other = (
        natural_newton(second_order(f), x, gtol=1e-13, longest=1e6)
        for f, x in ((plain, start), (lambda y: plain(y / stretch), start * stretch))
    )
    assert one.status == other.status == Status.CONVERGED
    np.testing.assert_allclose(other.x / stretch, one.x, atol=1e-9)


def test_natural_newton_leaves_what_is_solved_and_says_what_is_not_finite():
    expand = second_order(flat_tail(1.0))
    solved = natural_newton(expand, jnp.array([0.0, 0.0, 0.0]))
    assert (int(solved.status), int(solved.num_steps)) == (Status.CONVERGED, 0)
    assert natural_newton(expand, jnp.array([jnp.nan, 1.0, 0.0])).status == Status.NONFINITE
