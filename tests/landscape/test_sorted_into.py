"""Points of one orbit are found to be, in whatever order they come and however many there are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.landscape.orbits import MATCH_TOL, sorted_into

labels = st.lists(st.integers(0, 4), max_size=30)


def centres(seed):
    """Return five vectors, each two of which are far apart beside `MATCH_TOL` for their sizes."""
    return np.random.default_rng(seed).permutation(5)[:, None] * np.array([1.0, -100.0, 0.0])


@given(labels, st.integers(0, 50))
def test_points_are_sorted_by_orbit_in_the_order_of_their_first(which, seed):
    at = centres(seed)[np.array(which, int)]
    size = 1.0 + np.abs(at).max(axis=1, initial=0.0)[:, None]
    noise = np.random.default_rng(seed).uniform(-1, 1, at.shape) * size * MATCH_TOL / 2.1
    first: dict[int, int] = {}
    expected = [first.setdefault(label, len(first)) for label in which]
    assert sorted_into(at + noise).tolist() == expected


@given(labels, st.integers(0, 50))
def test_another_order_is_another_numbering_of_the_same_orbits(which, seed):
    at = centres(seed)[np.array(which, int)]
    turn = np.random.default_rng(seed).permutation(len(at))
    one, other = sorted_into(at), sorted_into(at[turn])
    pairs = set(zip(one[turn].tolist(), other.tolist(), strict=True))
    assert len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@given(labels.filter(bool), st.data())
def test_what_is_not_a_number_is_an_orbit_of_its_own(which, data):
    at = centres(0)[np.array(which, int)]
    bad = data.draw(st.lists(st.booleans(), min_size=len(at), max_size=len(at)))
    at[np.array(bad), 1] = np.nan
    found = sorted_into(at).tolist()
    for i in np.flatnonzero(bad):
        assert found.count(found[i]) == 1
    assert sorted(set(found)) == list(range(len(set(found))))


def test_one_invariant_that_differs_is_enough():
    at = np.zeros((3, 4))
    at[1, 2] = 3 * MATCH_TOL
    at[2] = MATCH_TOL / 3
    assert sorted_into(at).tolist() == [0, 1, 0]


def test_without_points_there_are_no_orbits():
    assert sorted_into(np.zeros((0, 3))).tolist() == []


def test_without_invariants_all_points_are_one_orbit():
    assert sorted_into(np.zeros((3, 0))).tolist() == [0, 0, 0]
