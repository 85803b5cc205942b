"""The figure of regimes: what it measures of points and lines, and that it draws them."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.regimes import PANELS, Panel, _held, plot

matplotlib.use("Agg")


def made(points):
    x = np.array([0.1, 0.2, 0.4])
    lines = {"low": x, "high": np.array([1.0, np.nan, 3.0])}
    return Panel("a title", "x", "y", x, lines, points, {"here": 0.2})


def test_a_point_is_measured_from_the_nearest_line_at_its_place():
    points = {
        "found": np.array([[0.1, 0.2, 0.4], [0.1, 0.2 + 1e-9, 3.0]]),
        "low": np.array([[0.4], [0.4 - 1e-6]]),
    }
    assert made(points).furthest == pytest.approx(1e-6)


def test_a_page_has_a_panel_for_each_regime_with_lines_points_and_marks():
    panels = [made({"low": np.array([[0.1], [0.1]])})] * len(PANELS)
    figure = plot(panels)
    assert len(figure.axes) == len(PANELS)
    assert all(axis.get_title() == "a title" and len(axis.lines) == 4 for axis in figure.axes)
    plt.close(figure)
    assert _held(panels[0])["lines"]["high"] == [1.0, None, 3.0]
