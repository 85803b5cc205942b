"""Tracked figures change only where told, and a figure can be drawn again without computing anything."""

import json
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from experiments import common

COMPUTED = []


def draw(values):
    """Draw a line."""
    figure, ax = plt.subplots()
    ax.plot(values)
    return figure


def experiment(scale: common.Scale = "default") -> None:
    """Compute, and draw."""
    common.set_up()
    COMPUTED.append(scale)
    common.save(partial(draw, [1, 3, 2]), "line", scale, found=len(COMPUTED))


def unnamed(scale: common.Scale = "default") -> None:
    """Draw what cannot be kept."""
    common.save(lambda: draw([1, 2]), "lost", scale)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an experiment by its command line, in a folder with a tracked figure of its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x"])
    (tmp_path / "figures").mkdir()
    for kind in ("png", "json"):
        Path(f"figures/line.{kind}").write_text("tracked")
    COMPUTED.clear()

    def by(*flags, command=experiment):
        token = common._updating.set(False)
        monkeypatch.setattr(sys, "argv", ["x", *flags])
        try:
            common.cli(command)
        finally:
            common._updating.reset(token)

    return by


def files(folder):
    """Return what a folder holds, by name."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}


@pytest.mark.parametrize("scale", ["smoke", "default"])
def test_tracked_figures_stay_unless_told(run, scale, capsys):
    tracked = files("figures")
    run("--scale", scale)
    assert files("figures") == tracked
    assert set(files(f"runs/{scale}")) == {"line.pdf", "line.png", "line.json"}
    assert f"drew runs/{scale}/line.pdf" in (said := capsys.readouterr().out)
    assert ("--update" in said) is (scale == "default")


def test_told_so_they_are_written_but_never_by_a_smoke_run(run):
    tracked = files("figures")
    run("--update", "--scale", "smoke")
    assert files("figures") == tracked
    run("--update")
    assert json.loads(files("figures")["line.json"])["found"] == 2
    assert not Path("runs/default/line.png").exists()


def test_figures_are_drawn_again_by_the_code_of_now_and_nothing_is_computed(run, monkeypatch):
    run()
    before = files("runs/default")
    with pytest.raises(SystemExit) as ended:
        run("--redraw")
    assert ended.value.code is None
    assert files("runs/default") == before
    monkeypatch.setattr(sys.modules[__name__].__dict__["draw"], "__code__", _other.__code__)
    with pytest.raises(SystemExit):
        run("--redraw", "--update")
    assert files("figures")["line.json"] == before["line.json"]
    assert files("figures")["line.png"] != before["line.png"]
    assert len(COMPUTED) == 1


def _other(values):
    figure, ax = plt.subplots()
    ax.plot(values, "o")
    return figure


def test_what_cannot_be_drawn_again_is_said(run, capsys):
    run(command=unnamed)
    assert "lost cannot be drawn again" in capsys.readouterr().out
    assert Path("runs/default/lost.png").exists()
    with pytest.raises(SystemExit) as ended:
        run("--redraw", command=unnamed)
    assert "nothing is kept" in ended.value.code


def test_every_experiment_heeds_the_flags():
    folder = Path(common.__file__).parent
    asked = {p for p in folder.rglob("*.py") if "tyro.cli(" in p.read_text()}
    own = {folder / "common.py", folder / "compare" / "__main__.py"}  # compare makes no figure
    assert asked == own


@pytest.mark.parametrize("error", [ValueError, FloatingPointError])
def test_what_a_user_can_mend_is_said_in_a_line_and_a_fault_of_the_code_where_it_is(run, error):
    def refuses(what: str) -> None:
        """Raise what is asked for."""
        raise error(what)

    with pytest.raises(SystemExit) as ended:
        run("--what", "train.labels: need 0 to 9, got 10", command=refuses)
    assert ended.value.code.partition(": ")[2] == "train.labels: need 0 to 9, got 10"
    with pytest.raises(error, match=r"^shapes do not match: 3, 4"):
        run("--what", "shapes do not match: 3, 4", command=refuses)


def test_ctrl_c_ends_in_a_line_and_with_the_status_of_shells(run, capsys):
    def interrupted() -> None:
        """End as Ctrl-C does."""
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run(command=interrupted)
    assert ended.value.code == 130
    assert "goes on from its checkpoints" in capsys.readouterr().err
