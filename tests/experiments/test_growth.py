"""Growth of a sweep's cost: each point is a process, and what fails says why."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

from experiments import growth

matplotlib.use("Agg")


@pytest.mark.slow
def test_a_point_is_measured_in_its_own_process_and_a_failure_says_why():
    good = growth.Point("classes", num_classes=3, dim=3, starts=20)
    bad = growth.Point("classes", num_classes=3000, dim=3000, starts=20, target="saddles")
    one, other = growth.run((good, bad))
    assert one["verdicts"] == {"GLOBAL_MINIMUM": 20}
    assert 0 < one["warm_s"] < one["first_s"]  # compiled by then
    assert 100 < one["peak_mib"] < 4000
    assert other["num_classes"] == 3000
    assert "num_classes: " in other["failed"]
    assert "GiB are free" in other["failed"]
    figure = growth.plot([one, other])
    assert [len(axes.lines) for axes in figure.axes] == [0, 1, 0]
    plt.close(figure)


def test_every_scale_has_each_axis_and_paper_goes_to_ten_million():
    for points in growth.SCALES.values():
        assert {point.axis for point in points} == {"starts", "classes", "features", "samples"}
    assert max(point.starts for point in growth.SCALES["paper"]) == 10**7
    assert max(point.num_classes for point in growth.SCALES["default"]) == 100
