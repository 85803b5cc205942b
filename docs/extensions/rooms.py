"""The modules of a package with the first sentence of each docstring, by a directive: `{rooms} numerics`."""

import ast
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).parents[2] / "ufm_jax"


class Rooms(SphinxDirective):
    """A line a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return them as a list of definitions."""
        listed = nodes.definition_list()
        for path in sorted((PACKAGE / self.arguments[0]).glob("*.py")):
            self.env.note_dependency(str(path))
            if not path.stem.startswith("_"):
                said = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
                term = nodes.term("", "", nodes.literal("", path.stem))
                words = nodes.paragraph("", "", *_inline(said))
                listed += nodes.definition_list_item("", term, nodes.definition("", words))
        return [listed]


def _inline(text: str) -> list[nodes.Node]:
    """Return text with what stands in single backticks as code."""
    parts = text.split("`")
    return [nodes.literal(p, p) if i % 2 else nodes.Text(p) for i, p in enumerate(parts)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rooms", Rooms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
