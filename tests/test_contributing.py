"""The changes that CONTRIBUTING walks through work as it says."""

import re
from pathlib import Path

import pytest

import ufm_jax as ufm
from ufm_jax.cli import main

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n# (\S+?)(, continued)?\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split()[1:] for line in re.findall(r"^ufm .*$", TEXT.replace("\\\n", ""), re.MULTILINE)]


def command(name: str, *words: str) -> list[str]:
    """Return the arguments of the command that has these words."""
    (found,) = (c for c in COMMANDS if c[0] == name and set(words) <= set(c))
    return found


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, continued, code in BLOCKS:
        with Path(name).open("a" if continued else "w") as file:
            file.write(code)


def test_every_change_is_here():
    assert [name for name, *_ in BLOCKS] == ["wells.py", "wells.py", "tempered.py"]
    assert [c[0] for c in COMMANDS] == ["predict", "sweep", "census", "sweep"]


@pytest.mark.usefixtures("files")
def test_a_landscape_and_a_column(capsys):
    main(command("predict"))
    assert "orbits  6" in capsys.readouterr().out
    main([*command("sweep", "wells.py:Wells"), "--no-cache"])
    run = ufm.load("runs/wells")
    assert run.orbits.num_rows == 6
    shown = run.table.filter(run.table["index"].is_valid())
    assert shown.num_rows > 60
    assert shown["at_top"].to_pylist() == shown["index"].to_pylist()
    main([*command("census"), "--no-cache"])
    atlas = ufm.load("runs/wells_orbits")
    assert sorted(atlas.table["index"].to_pylist()) == [0, 0, 0, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_a_loss():
    main([*command("sweep", "tempered.py:Tempered"), "--no-cache"])
    run = ufm.load("runs/tempered")
    assert set(run.table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    plain = run.landscape.loss.__class__(temperature=1.0)
    decays = {"decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
    found = ufm.sweep(ufm.problem(num_classes=3, per_class=2, dim=2, loss=plain, **decays), starts=5)
    known = ufm.predict(ufm.problem(num_classes=3, per_class=2, dim=2, **decays))["loss"]
    assert abs(found.orbits["loss"][0].as_py() - known) < 1e-10
