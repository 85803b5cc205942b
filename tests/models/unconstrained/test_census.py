"""A census against known lists, and its completeness tests against spaces whose topology is known."""

import jax
import numpy as np
import pytest
from conftest import CE, SQUARED, make

from ufm_jax.landscape import census
from ufm_jax.landscape.census import find_orbits
from ufm_jax.landscape.orbits import rows, unseen_mass
from ufm_jax.models.unconstrained.completeness import Counted, morse_bott, stiefel_poincare
from ufm_jax.models.unconstrained.permutations import group_order
from ufm_jax.models.unconstrained.reduction import rank_bound
from ufm_jax.models.unconstrained.symmetric import draw
from ufm_jax.models.unconstrained.theory import global_minimum


def public(dim=2, counts=(5, 5, 5)):
    return make(counts, dim, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)


def orbits_of(prob, state):
    return [(round(r.loss, 8), r.rank, r.index, r.nullity, r.copies) for r in rows(prob, state)]


def test_the_public_case_is_listed_whole():
    prob = public()
    state = find_orbits(prob, seed=5)
    assert orbits_of(prob, state) == [
        (0.06293301, 2, 0, 1, 1),
        (0.14356253, 1, 1, 1, 3),
        (0.50262885, 1, 2, 1, 3),
        (1.09861229, 0, 4, 0, 1),
    ]
    assert state.settled
    assert state.hits.sum() + state.num_failed == state.num_starts
    assert all(test.passed for test in census.completeness(prob, state))


def test_the_list_at_a_larger_d_has_the_same_orbits_with_the_index_of_that_d():
    small, large = public(2), public(5)
    few, more = find_orbits(small, starts=1000), find_orbits(large, starts=1000)
    for a, b in zip(rows(small, few), rows(large, more), strict=True):
        assert abs(a.loss - b.loss) < 1e-12
        assert (a.rank, a.copies, a.verdict) == (b.rank, b.copies, b.verdict)
        assert b.orbit_dim == 5 * a.rank - a.rank * (a.rank + 1) // 2 == b.nullity
        assert b.index >= a.index
    assert [t.passed for t in census.completeness(large, more)] == [True] * 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "options"),
    [
        ((2, 2, 2), {"decay_b": 0.0}),
        ((3, 1, 2), {}),
        ((2, 2, 1), {"bias": False}),
        ((2, 2, 2), {"loss": SQUARED}),
    ],
)
def test_lists_in_other_regimes_pass_and_do_not_depend_on_the_seed(counts, options):
    prob = make(counts, 2, **options)
    lists = []
    for seed in (0, 1):
        state = find_orbits(prob, seed=seed, starts=1500)
        assert all(test.passed is not False for test in census.completeness(prob, state))
        lists.append(orbits_of(prob, state))
    assert lists[0] == lists[1]


def test_a_missing_orbit_is_noticed():
    prob = public()
    state = find_orbits(prob, starts=1000)
    for missing in range(4):
        kept = np.arange(4) != missing
        short = state._replace(
            points=state.points[kept],
            hits=state.hits[kept],
            copies=state.copies[kept],
            evidence={name: values[kept] for name, values in state.evidence.items()},
        )
        assert not all(test.passed for test in census.completeness(prob, short))


def test_a_cut_census_goes_on_as_if_it_had_not_been_cut():
    prob = public()
    whole, cut = find_orbits(prob, starts=1000), find_orbits(prob, starts=300)
    *_, cut = census.rounds(prob, cut, seed=0, starts=1000)
    np.testing.assert_array_equal(cut.hits, whole.hits)
    np.testing.assert_array_equal(cut.points, whole.points)
    assert (cut.num_starts, cut.num_failed) == (whole.num_starts, whole.num_failed)


def test_a_census_without_end_is_refused_with_an_estimate():
    with pytest.raises(ValueError, match=r"^counts: a census of K = 12 .* hours"):
        census.check(make((5,) * 12, 11))
    census.check(make((5,) * 12, 11), 1000)
    census.check(make((5,) * 12, 11), force=True)
    census.check(make((5,) * 8, 7))


@pytest.mark.parametrize(("counts", "dim"), [((2, 2, 2, 2), 3), ((3, 1, 3, 1), 5), ((4, 3, 2), 1)])
@pytest.mark.parametrize("loss", [CE, SQUARED])
def test_symmetric_starts_are_balanced_and_within_the_rank_bound(counts, dim, loss):
    prob = make(counts, dim, loss=loss)
    rng = np.random.default_rng(0)
    ranks = set()
    for _ in range(200):
        W, H, b = draw(prob, rng)
        assert W.shape == H.T.shape == (len(counts), rank_bound(prob))
        assert b.shape == (len(counts),)
        assert np.all(np.isfinite(np.concatenate([W.ravel(), H.ravel(), b])))
        balance = float(prob.decay_w) * W.T @ W - float(prob.decay_h) * H @ H.T
        np.testing.assert_allclose(balance, 0.0, atol=1e-9)
        ranks.add(int(np.linalg.matrix_rank(W @ H, tol=1e-6)))
    assert ranks == set(range(1, rank_bound(prob) + 1))


@pytest.mark.parametrize("d", range(1, 6))
def test_poincare_polynomials_of_known_manifolds(d):
    assert list(stiefel_poincare(d, 0)) == [1]
    sphere = np.zeros(d, int)
    sphere[0] += 1
    sphere[-1] += 1
    assert list(stiefel_poincare(d, 1)) == list(sphere)  # V_{d,1} = S^{d-1}
    assert stiefel_poincare(d, d).sum() == 2**d  # O(d) has the Betti numbers of a product of spheres
    assert len(stiefel_poincare(d, d)) - 1 == d * (d - 1) // 2


def test_morse_bott_on_a_function_done_by_hand():
    # K = 2, d = 1: the double well in w h: two minima and a saddle at the origin.
    listed = [Counted(1, 1, 0, 0, False), Counted(0, 1, 1, 1, False)]
    assert morse_bott(listed, 1, 1) == (1, 1, (1,), True)
    # In d = 3 the minima are a sphere S², and the origin has index 3.
    assert morse_bott(listed, 1, 3) == (3, 1, (0, 0, 1), True)
    assert morse_bott(listed[:1], 1, 1).passed is False
    assert morse_bott(listed[:1], 1, 2).passed is False
    assert morse_bott([listed[0]._replace(degenerate=True)], 1, 1).passed is None
    # One whose index was not counted grows with d all the same: below, nothing is said, and nothing breaks.
    assert morse_bott([Counted(1, 1, 0, 1, True)], 3, 1).passed is None


def test_good_turing():
    assert unseen_mass(np.array([1, 1, 8])) == pytest.approx(0.2)
    assert unseen_mass(np.array([5, 5])) == 0.0
    assert np.isnan(unseen_mass(np.array([], int)))


def test_the_lowest_orbit_is_the_closed_form():
    prob = public(3, (2, 2, 2, 2))
    state = find_orbits(prob, starts=1000)
    found = rows(prob, state)
    assert abs(found[0].loss - float(global_minimum(prob))) < 1e-12
    assert {r.verdict for r in found[1:]} == {"STRICT_SADDLE"}
    assert all(group_order(prob.kinds) % r.copies == 0 for r in found)
    p = census.point_of(prob, state, 0)
    assert jax.tree.map(np.shape, p) == jax.tree.map(np.shape, prob.zeros())


def test_a_continuum_of_orbits_is_one_row_and_ends():
    # Squared loss, balanced: rank-one saddles form a sphere of orbits, since all class directions are alike.
    prob = make((2, 2, 2), 2, loss=SQUARED)
    found = rows(prob, find_orbits(prob, starts=1500))
    assert len(found) < 10
    families = [r for r in found if r.copies == 0]
    assert families
    assert all(r.nullity > r.orbit_dim for r in families)


def test_beside_the_threshold_a_flat_family_is_not_taken_for_many_orbits():
    # K theta = 0.999: along the rank-one family the gradient stays below 1e-10 between its critical points.
    decay = 0.999 / 3
    prob = make((1, 1, 1), 2, decay_w=decay, decay_h=decay)
    state = find_orbits(prob, starts=1000)
    assert [row.copies for row in rows(prob, state)] == [1, 3, 3, 1]
    assert all(test.passed for test in census.completeness(prob, state))
