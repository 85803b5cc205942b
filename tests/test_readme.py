"""The README's Python examples run as printed, and it stays a page.

What the documentation shows runs whenever it is built (`make docs`).
"""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "GLOBAL_MINIMUM 0.0629330061"), (1, "distinct critical orbits")],
    ids=["model", "own landscape"],
)
def test_example_runs(number, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {"__name__": "__main__"})
    assert expected in capsys.readouterr().out


def test_every_example_is_run():
    assert len(EXAMPLES) == 2


def test_it_is_a_page():
    assert len(README.splitlines()) <= 120
