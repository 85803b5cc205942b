"""Flows down the atlas: which orbits a path passes, when it has collapsed, and the figure."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments import plateaus

matplotlib.use("Agg")


def test_orbits_are_passed_in_order_where_the_path_is_near():
    times, lines = np.arange(6.0), np.array([3, 3, 1, 1, 0, 0])
    far = np.array([0.001, 0.01, 0.3, 0.01, 0.5, 0.0])
    assert plateaus.passed(times, lines, far) == [(3, 0.0, 1.0), (1, 3.0, 3.0), (0, 5.0, 5.0)]


def test_collapse_is_when_what_is_left_stays_small_and_the_end_is_still():
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    falls = [1.0, 0.0, 1e-3, 1e-7, 0.0]  # it comes back once
    values, norms = np.array([falls, falls, [1.0, 0.5, 0.4, 0.3, 0.2]]), np.array([1e-9, 1.0, 1e-9])
    assert plateaus._when(times, values, norms) == [3.0, None, 4.0]


def test_a_page_shows_flows_ranks_and_times():
    path = {"times": [0.0, 1.0, 2.0], "values": [1.0, 0.5, 0.1], "singular": [[1e-3, 1e-4]] * 3, "size": 0.1}
    orbits = [{"loss": 0.1, "rank": 2, "index": 0, "name": "simplex"}]
    stepping = {"paths": [path | {"passed": [(0, 1.0, 2.0)]}], "orbits": orbits}
    one = {name: [10.0, 20.0] for name in plateaus.METHODS} | {plateaus.FLOW: [3.0, None]}
    figure = plateaus.plot({"stepping": stepping, "times": {"balanced": one}}, plateaus.SCALES["smoke"])
    assert [len(axis.lines) for axis in figure.axes] == [2, 2, 3, 3]
    plt.close(figure)
