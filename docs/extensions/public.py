"""Public names of the package from their docstrings, by a directive: `{public} sweep Run`.

Every public name must be in one of them, and in one only: what is exported and not documented is a warning.
"""

import inspect
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import ufm_jax

# Of a class, the methods that a page shows: those that it defines and says something of.
MEMBERS = ["   :members:", "   :member-order: bysource"]
BARE = frozenset({"Params", "Verdict", "Reason", "Status"})  # their fields say it all


class Public(SphinxDirective):
    """An entry of autodoc for each name."""

    has_content = False
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        """Return the entries."""
        lines: list[str] = []
        for name in self.arguments:
            obj = getattr(ufm_jax, name)
            kind = "autoclass" if inspect.isclass(obj) else "autofunction"
            lines += [f".. {kind}:: ufm_jax.{name}"]
            lines += MEMBERS if kind == "autoclass" and name not in BARE else []
            lines += [""]
        block = ["```{eval-rst}", *lines, "```"]
        held = nodes.section()
        held.document = self.state.document
        self.state.nested_parse(StringList(block, "public"), 0, held)
        return held.children


def _all_shown(app: Sphinx, env: BuildEnvironment) -> None:
    text = (app.srcdir / "reference" / "python.md").read_text()
    shown = [name for line in re.findall(r"```\{public\} (.*)", text) for name in line.split()]
    if sorted(shown) != ufm_jax.__all__:
        wrong = sorted(set(shown) ^ set(ufm_jax.__all__)) or "a name twice"
        raise ExtensionError(f"reference/python.md: exported and not documented, or the reverse: {wrong}")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public", Public)
    app.connect("env-check-consistency", _all_shown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
