"""The README's Python examples run as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "GLOBAL_MINIMUM 0.0629330061"),
        (1, "distinct critical orbits"),
        (2, "GLOBAL_MINIMUM   20       0.157"),
        (3, "CONVERGED"),
        (4, "decay_h"),
    ],
    ids=["model", "own landscape", "own loss", "own function", "network"],
)
def test_example_runs(number, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {})
    assert expected in capsys.readouterr().out
