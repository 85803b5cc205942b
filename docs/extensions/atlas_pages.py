"""The atlas within the documentation: the folder `atlas` of the repository, copied beside the pages.

Its pages link to docs/theorem.md beside them in the repository; here that is theorem.html.
"""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

ATLAS = Path(__file__).parents[2] / "atlas"


def _copied(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir) / "atlas"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ATLAS, out)
    for page in out.rglob("index.html"):
        page.write_text(page.read_text().replace('docs/theorem.md"', 'theorem.html"'))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _copied)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
