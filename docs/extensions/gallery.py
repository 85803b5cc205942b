"""Every figure in figures/ with the command that makes it, by a directive: `{gallery}`.

Nothing is written by hand: figures are the PNGs there, the words are the JSON beside each (command, device,
versions) and the first sentence of the experiment's docstring. A figure without its JSON is an error.
"""

import ast
import json
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"


class Gallery(SphinxDirective):
    """All figures, by experiment."""

    def run(self) -> list[nodes.Node]:
        """Return a section an experiment, with its figures."""
        for sidecar in FIGURES.glob("*.json"):
            self.env.note_dependency(str(sidecar))
        made: dict[str, list[Path]] = {}
        for picture in sorted(FIGURES.glob("*.png")):
            command = json.loads(picture.with_suffix(".json").read_text())["command"]
            made.setdefault(command, []).append(picture)
        without = {f.stem for f in FIGURES.glob("*.json")} - {f.stem for f in FIGURES.glob("*.png")}
        for name in sorted(without):  # tables: no picture to show
            sidecar = FIGURES / f"{name}.json"
            made.setdefault(json.loads(sidecar.read_text())["command"], []).append(sidecar)
        lines: list[str] = []
        seen = ""
        for command, files in sorted(made.items()):
            experiment = command.split()[2].removeprefix("experiments.")
            if experiment != seen:  # one may have several commands
                lines += [f"## {experiment}", "", _summary(experiment), ""]
            lines, seen = lines + _entry(command, files), experiment
        held = nodes.section()
        held.document = self.state.document
        self.state.nested_parse(StringList(lines, "gallery"), 0, held, match_titles=True)
        return held.children


def _entry(command: str, files: list[Path]) -> list[str]:
    experiment = command.split()[2].removeprefix("experiments.")
    facts = json.loads(files[0].with_suffix(".json").read_text())
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines: list[str] = []
    for file in files:
        if file.suffix == ".png":
            alt = f"{file.stem.replace('_', ' ')}. {_summary(experiment)}"
            lines += [
                f":::{{figure}} ../figures/{file.name}",
                f":alt: {alt}",
                "",
                f"`{file.stem}`",
                ":::",
                "",
            ]
    held = ", ".join(f"`{f.name}`" for f in sorted(FIGURES.iterdir()) if f.stem in {p.stem for p in files})
    lines += ["```text", command, "```", ""]
    lines += [f"In `figures/`: {held}. Made on {facts['device']} by {versions}.", ""]
    return lines


def _summary(experiment: str) -> str:
    """Return the first paragraph of the experiment's docstring."""
    path = ROOT / "experiments" / experiment
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
