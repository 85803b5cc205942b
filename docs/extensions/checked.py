"""The role `{test}`: names a test, and fails where there is none of that name.

    {test}`models/unconstrained/test_theory.py::test_name`

So no page can say that a formula is checked by what was renamed or removed. The file shows where the name is
pointed at.
"""

import ast
import functools
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

TESTS = Path(__file__).parents[2] / "tests"


@functools.cache
def _tests_of(file: str) -> frozenset[str]:
    path = TESTS / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def _test(name: str, raw: str, text: str, lineno: int, inliner: Any, *_: Any) -> Any:
    file, _, test = text.partition("::")
    if test not in _tests_of(file):
        return [], [inliner.reporter.error(f"tests/{file} has no test {test!r}", line=lineno)]
    shown = nodes.abbreviation("", "", explanation=f"tests/{file}")
    shown += nodes.literal(text, test, classes=["test"])
    return [nodes.inline("", "", shown, classes=["checked"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("test", _test)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
