"""The referee of clusters against differences and known shapes; and small sweeps before it."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.clusters import __main__ as clusters
from experiments.clusters.referee import Book, counted, derivatives, seen_at

mpl.use("Agg")
RNG = np.random.default_rng(0)
TETRAHEDRON = 2 ** (1 / 6) / 8**0.5 * np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


@pytest.mark.parametrize("n", [2, 4, 7])
def test_the_referees_derivatives_are_those_of_differences(n):
    x, h = 1.3 * RNG.permutation(np.indices((2, 2, 2)).reshape(3, 8).T)[:n] + 0.1 * RNG.random((n, 3)), 1e-5
    _, gradient, hessian = derivatives(x)
    for k, step in enumerate(h * np.eye(3 * n).reshape(3 * n, n, 3)):
        (up, above, _), (down, below, _) = derivatives(x + step), derivatives(x - step)
        np.testing.assert_allclose(gradient[k], (up - down) / (2 * h), atol=1e-6)
        np.testing.assert_allclose(hessian[k], (above - below) / (2 * h), atol=1e-5)


def test_a_tetrahedron_is_one_minimum_wherever_it_is_and_no_saddle():
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    copies = [TETRAHEDRON, (TETRAHEDRON @ turn)[[2, 0, 3, 1]] + 5.0, -TETRAHEDRON + 1e-4 * RNG.random((4, 3))]
    book = counted(0, copies)
    np.testing.assert_allclose(book.values, [-6.0], rtol=1e-12)
    assert book.refused == 0
    assert not Book(1).enter(TETRAHEDRON)


def test_what_is_not_critical_is_refused():
    assert seen_at(TETRAHEDRON * 1.2) is None
    assert seen_at(np.concatenate([TETRAHEDRON, [[50.0, 0, 0]]])) is None  # an atom that flew away
    assert seen_at(np.zeros((4, 3))) is None
    assert seen_at(np.full((4, 3), np.nan)) is None


@pytest.mark.slow
def test_sweeps_find_what_is_known_of_four_atoms_and_the_rest_is_left_out(capsys):
    config = clusters.Config({4: (8, 32)}, {4: 1.0})
    (row,) = clusters.run(config, "no/such/python")
    assert "topsearch not installed" in capsys.readouterr().out
    for sweep in row["ours"]["first"]:
        assert (sweep["found"], sweep["refused"]) == (row["known"][sweep["index"]], 0)
    np.testing.assert_allclose(row["ours"]["warm"][1]["energies"], [row["lowest"]], atol=1e-6)
    assert [s["starts"] for s in row["ours"]["warm"]] == [8, 32, 8, 32]
    figure = clusters.plot([row | {"atoms": 5}])
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    plt.close(figure)


def test_a_curve_counts_each_accepted_point_once():
    points = [
        (0.5, 0, [9.0] * 12),
        (1.0, 0, TETRAHEDRON.ravel().tolist()),
        (2.0, 0, (-TETRAHEDRON).ravel().tolist()),
    ]
    curve = clusters._curve(0, points)
    assert (curve["times"], curve["refused"]) == ([1.0], 1)
