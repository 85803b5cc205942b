"""Branches of critical orbits over Kθ: the ETF's against its closed form, and all of K = 3."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gradient_norm, make

from experiments.atlas import branches as atlas_branches
from ufm_jax.landscape.flat import unravel
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.permutations import Shape
from ufm_jax.models.unconstrained.reduction import reduced
from ufm_jax.models.unconstrained.theory import global_minimum

K, DIM = 3, 3
PROB = make((2, 2, 2), DIM)
GRID = atlas_branches.kt_grid(16)


@functools.cache
def followed():
    return atlas_branches.follow(PROB, GRID, censuses=(8, 1))


def etf():
    """Return the number of the ETF's branch and of the origin's."""
    paths = followed()
    return int(np.argmin(paths.loss[:, 0])), int(np.flatnonzero(paths.rank[:, 0] == 0)[0])


@pytest.mark.parametrize("kt", [1e-3, 0.3, 1.5])
def test_at_kt_sets_theta_and_keeps_the_ratio_of_decays(kt):
    there = atlas_branches.at_kt(PROB, kt)
    assert K * float(theta(there)) == pytest.approx(kt, rel=1e-14)
    assert float(there.decay_w / there.decay_h) == pytest.approx(float(PROB.decay_w / PROB.decay_h))
    assert there.decay_b == PROB.decay_b


@pytest.mark.slow
def test_every_recorded_point_is_critical():
    paths, small = followed(), reduced(PROB)
    for g, kt in enumerate(GRID):
        for b in np.flatnonzero(paths.rank[:, g] >= 0):
            x = jnp.asarray(paths.points[b, g])
            assert gradient_norm(atlas_branches.at_kt(small, kt), unravel(small, x)) < 1e-9


def test_loss_of_the_etf_branch_is_the_closed_form():
    expected = [float(global_minimum(atlas_branches.at_kt(PROB, kt))) for kt in GRID[:-1]]
    np.testing.assert_allclose(followed().loss[etf()[0], :-1], expected, atol=1e-9, rtol=0)


def test_etf_ends_at_one_in_the_origin_which_becomes_the_minimum():
    paths, (best, origin) = followed(), etf()
    assert np.all(paths.rank[best, :-1] == K - 1)
    assert np.all(paths.index[best, :-1] == 0)
    assert atlas_branches.Event("merge", GRID[-2], GRID[-1], (best, origin)) in paths.events
    assert atlas_branches.Event("index", GRID[-2], GRID[-1], (origin,)) in paths.events
    np.testing.assert_array_equal(paths.index[origin], [(K - 1) * DIM] * 15 + [0])
    # For Kθ >= 1 nothing else is critical.
    np.testing.assert_array_equal(np.flatnonzero(paths.rank[:, -1] >= 0), [origin])


def test_all_branches_of_three_classes():
    """Two orbits of rank 1 all along; an orbit of six copies joins the lower one in a pitchfork."""
    paths = followed()
    assert set(paths.complete) == {True}
    assert sorted(paths.rank[:, 0]) == [0, 1, 1, 1, 2]
    [six] = np.flatnonzero(paths.copies[:, 0] == 6)
    ends = [e for e in paths.events if e.kind in ("birth", "split", "death", "merge") and e.low < GRID[-2]]
    assert [(e.kind, e.branches[0]) for e in ends] == [("merge", six)]
    stays = ends[0].branches[1]
    assert paths.copies[stays, 0] == 3
    # Supercritical: what stays loses the negative direction along which the six copies lay.
    assert paths.index[stays, 0] == paths.index[stays, -2] + 1
    assert atlas_branches.Event("index", ends[0].low, ends[0].high, (stays,)) in paths.events
    assert np.all(paths.excess[paths.rank >= 0] == 0)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_records_and_the_tests_betray_a_missing_branch():
    grid = atlas_branches.kt_grid(4)
    first, second = (atlas_branches.follow(PROB, grid, censuses=(1,), seed=3) for _ in range(2))
    # The six copies live at the lowest grid value only, where no census was taken.
    assert first.complete == (False, True, True, True)
    assert first.events == second.events
    assert first.complete == second.complete
    for name in ("points", "loss", "rank", "index", "excess", "copies"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_following_there_and_back_returns():
    paths, small = followed(), reduced(PROB)
    for x in paths.points[:2, 8]:
        (there,), _, reached = atlas_branches.advance(small, x, GRID[8], np.array([0.5]))
        assert reached == pytest.approx(0.5, rel=1e-14)
        (y,), *_ = atlas_branches.advance(small, there, 0.5, GRID[8:9])
        np.testing.assert_allclose(
            *(p.W @ p.H for p in (unravel(small, jnp.asarray(z)) for z in (x, y))), atol=1e-7
        )


def test_distance_forgets_the_order_of_classes():
    rng = np.random.default_rng(0)
    M, b, counts, order = rng.normal(size=(4, 4)), rng.normal(size=4), np.ones(4, int), [2, 0, 3, 1]
    moved = Shape(M[np.ix_(order, order)], b[order], counts)
    assert atlas_branches.distance(Shape(M, b, counts), moved) == 0
    moved = moved._replace(b=moved.b + 1e-3)
    assert atlas_branches.distance(Shape(M, b, counts), moved) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("prob", "grid", "message"),
    [
        (make((3, 1, 2), 2), GRID, "prob"),
        (make((2, 2, 2), 2, loss=CrossEntropy(smoothing=0.1)), GRID, "prob"),
        (PROB, GRID[:-1], "kt"),
        (PROB, GRID[::-1], "kt"),
    ],
)
def test_refusals_name_the_argument(prob, grid, message):
    with pytest.raises(ValueError, match=f"^{message}:"):
        atlas_branches.follow(prob, grid, censuses=(0,))
