"""The phase diagram agrees with theory away from its lines, and each of its points is certified."""

import numpy as np
import pytest

from experiments import phase_diagram
from experiments.phase_diagram import Config, Grid

SMALL = Config(
    num_classes=4,
    decays=5,
    majority=5,
    minority=(1, 5),
    strengths=25,
    strength_range=(1e-2, 1.0),
    starts=1,
)


@pytest.fixture(scope="module", params=phase_diagram.LOSSES)
def grids(request):
    """Both grids of one loss, and what was compiled for each."""
    made = []
    for make in (phase_diagram.balanced, phase_diagram.imbalanced):
        with phase_diagram.compilations() as compiled:
            grid = make(SMALL, request.param)
        made.append((grid, sum(compiled.values())))
    return made


def test_the_gap_is_zero_on_theorys_side_alone(grids):
    for grid, _ in grids:
        away = abs(np.log(grid.strength / grid.threshold)) > 0.01
        assert away.mean() > 0.9
        assert not (phase_diagram.wrong_side(grid) & away).any()
        assert 0 < (grid.gap <= phase_diagram.ZERO).sum() < grid.gap.size


def test_every_point_is_shown_to_be_a_global_minimum(grids):
    for grid, _ in grids:
        assert set(grid.verdict.ravel()) == {"GLOBAL_MINIMUM"}
        assert np.max(grid.dual_gap) <= 1e-9


def test_decays_compile_once_and_each_count_once(grids):
    (_, first), (_, second) = grids
    assert first > 0
    # One of its two shapes is the balanced one, with as many lanes: no more than another shape's programs.
    assert second <= first


def test_boundary_lies_between_the_last_point_above_zero_and_the_next():
    gap = np.array([[1.0, 0.0, 2.0], [0.5, 0.0, 1.0], [0.0, 0.0, 1.0]])
    y = np.array([1.0, 2.0, 4.0])
    rest = np.zeros_like(gap)
    low, high = phase_diagram.boundary(Grid(y, y, gap, rest, rest, rest, rest))
    np.testing.assert_array_equal(low, [2.0, np.nan, np.nan])
    np.testing.assert_array_equal(high, [4.0, np.nan, np.nan])


def test_logit_gap_compares_chosen_classes_alone():
    Z = np.array([[3.0, 9.0, 9.0], [9.0, 5.0, 1.0], [9.0, 2.0, 4.0]])[None]
    counts = (4, 9, 9)
    H = np.sqrt(counts) * np.eye(3)[None]
    assert phase_diagram.logit_gap(Z, H, counts, range(1, 3)) == pytest.approx(((5 - 2) + (4 - 1)) / 2)
