"""What records hold, for autodoc: the comments beside the fields of NamedTuples, dataclasses and enums.

The package says of a field what it is in a comment on its line, which autodoc does not read.
"""

import ast
import inspect
import io
import textwrap
import tokenize
from typing import Any

from sphinx.application import Sphinx


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _fields(cls: type) -> list[tuple[str, str]]:
    """Return the names of a class's fields, in order, and the comment on the line of each."""
    source = textwrap.dedent(inspect.getsource(cls))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    comments = {line: said for line, said in _comments(source).items() if not said.startswith("type:")}
    found = []
    for node in body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]  # of an enum
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            found.append((target.id, comments.get(node.end_lineno or 0, "")))
    return found


def _with_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace("|", "\\|") for line in lines]  # |x| is an absolute value, not a substitution
    if what != "class" or not inspect.isclass(obj):
        return
    told = [f"``{field}``\n    {said.split('  #')[0] or '…'}" for field, said in _fields(obj) if said]
    if told:
        lines += ["", *"\n".join(told).split("\n"), ""]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _with_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
