"""`ufm COMMAND --help` as it is printed, by a directive: `{help} sweep`."""

import os
import subprocess
import sys
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class Help(Directive):
    """The help text of a command of `ufm`, printed by this very version."""

    optional_arguments = 1
    option_spec: ClassVar[dict] = {}

    def run(self) -> list[nodes.Node]:
        """Return it as a block of text."""
        plain = {**os.environ, "COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}
        command = [sys.executable, "-m", "ufm_jax", *self.arguments, "--help"]
        shown = subprocess.run(command, env=plain, check=True, capture_output=True, text=True).stdout
        return [nodes.literal_block(shown, shown.rstrip(), language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("help", Help)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
