"""Docstrings of the package as Sphinx wants them.

Absolute values are no substitutions; "Raises:" begins a list; and what records hold is said in the comments
beside the fields of NamedTuples, dataclasses and enums, which autodoc does not read: what it says instead of
a tuple's fields is their number, which is left out.
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


def _raises(lines: list[str]) -> list[str]:
    """Return lines with the entries after "Raises:" as fields, each with the lines that it goes on for."""
    told: list[str] = []
    inside = False
    for line in lines:
        if line.strip() == "Raises:":
            inside = True
            told.append("")
        elif inside and line.startswith("    ") and not line.startswith("     "):
            kind, _, why = line.strip().partition(": ")
            told.append(f":raises {kind}: {why}")
        else:
            inside = inside and (not line.strip() or line.startswith("     "))
            told.append(line)
    return told


def _processed(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _raises([line.replace("|", "\\|") for line in lines])
    if what == "class" and inspect.isclass(obj):
        told = [f"``{field}``\n    {said}" for field, said in _fields(obj) if said]
        lines += ["", *"\n".join(told).split("\n"), ""] if told else []


def _skipped(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    return True if type(obj).__name__ == "_tuplegetter" else None


def _short(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    signature, returned = (a and a.replace("jaxlib._jax.Array", "Array") for a in (signature, returned))
    return signature, returned


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _processed)
    app.connect("autodoc-skip-member", _skipped)
    app.connect("autodoc-process-signature", _short)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
