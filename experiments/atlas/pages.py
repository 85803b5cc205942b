"""The atlas as pages: one for the whole, one for each setting, one for each orbit; they need no server.

Everything is read from the folder's data (`data`), so that pages and data cannot differ:
`python -m experiments.atlas.pages atlas` writes them again.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.atlas.data import folders, write_text
from experiments.atlas.orbit_page import orbit_page
from experiments.atlas.page_parts import COLUMNS, downloads, file_of, foot, short_title, title_of, trail
from experiments.atlas.script import FIND, SCRIPT, STYLE
from ufm_jax.report import svg
from ufm_jax.report.markup import (
    Markup,
    contents,
    facts,
    link,
    page,
    paragraph,
    section,
    table,
)
from ufm_jax.report.terms import glossary, heads


def write(atlas: Path) -> list[Path]:
    """Write all pages of an atlas's folder; return them, the whole's first."""
    contents_of = {out.name: json.loads((out / "orbits.json").read_text()) for out in folders(atlas)}
    pages = {atlas / "index.html": _whole(contents_of)}
    for name, content in contents_of.items():
        pages[atlas / name / "index.html"] = _setting(content)
        for orbit in content["orbits"]:
            pages[atlas / name / file_of(orbit["line"])] = orbit_page(content, orbit)
    for old in atlas.rglob("*.html"):
        if old not in pages:
            old.unlink()  # of an orbit that is no longer there
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)


def _whole(settings: dict[str, dict[str, Any]]) -> str:
    head = ("setting", "K", "d", "samples a class", "orbits", "proved", "f*", "tests of completeness")
    cells = []
    for name, content in settings.items():
        s, orbits = content["setting"], content["orbits"]
        where = link(f"{name}/index.html", short_title(content))
        proved, best = sum(o["proved"] for o in orbits), f"{orbits[0]['loss']:.10g}"
        passed = {True: "passed", False: "VIOLATED", None: "none"}[content["complete_as_tested"]]
        samples = ", ".join(map(str, sorted(set(s["counts"]))))
        cells.append((where, s["num_classes"], s["dim"], samples, len(orbits), proved, best, passed))
    lead = (
        "Critical points of the unconstrained feature model, the function that neural collapse is explained "
        "by: each page is one orbit, all points that rotations of features and permutations of classes make "
        "of one. What is called proved is proved by interval arithmetic; that a list is complete is tested, "
        "not proved."
    )
    first = next(iter(settings.values()))
    names = ("SHA256SUMS", "atlas.schema.json", "VERSION", "LICENSE.txt")
    files = Markup(" ".join(f"<li>{link(name, name)}</li>" for name in names))
    parts = [
        paragraph(lead),
        section("Settings", table("Settings of the atlas, by number of classes", head, cells)),
        section("Files", Markup(f"<ul>{files}</ul>"), paragraph("A folder a setting holds its data.")),
    ]
    return page("Atlas of critical orbits", parts, after=foot(first), style=STYLE)


def _setting(content: dict[str, Any]) -> str:
    head = ["orbit", "loss", "name", *COLUMNS, "verdict", "proved", "logits"]
    cells = [
        (
            link(file_of(o["line"]), str(o["line"])),
            f"{o['loss']:.10g}",
            o["name"],
            *(o[name] for name in COLUMNS),
            o["verdict"].replace("_", " ").lower(),
            "yes" if o["proved"] else "no",
            svg.matrix(np.array(o["logits"]), f"logits of orbit {o['line']}", cell=6),
        )
        for o in content["orbits"]
    ]
    flows = content["unknown_flows"]
    known = [
        *_function(content),
        ("searches of the census", content["num_starts"]),
        ("it ended by itself", "yes" if content["settled"] else "no"),
        (
            "tests of completeness",
            {True: "passed", False: "VIOLATED", None: "none"}[content["complete_as_tested"]],
        ),
        ("pairs not shown to be different", str(content["alike"] or "none")),
        (
            "flows",
            "not followed here" if flows is None else f"followed; {flows} ended at no orbit of the list",
        ),
    ]
    sections = {
        "Orbits": FIND + table("Orbits, the lowest loss first", heads(head), cells),
        "Setting": facts("The function, and how its orbits were found", known),
        "Download": downloads(),
        "Terms": glossary([*head, "logits"]),
    }
    parts = [paragraph(_lead(content)), contents(sections), *(section(*item) for item in sections.items())]
    above = trail((("../index.html", "Atlas"),), short_title(content))
    return page(
        f"Critical orbits, {title_of(content)}",
        parts,
        before=above,
        after=foot(content) + SCRIPT,
        style=STYLE,
    )


def _function(content: dict[str, Any]) -> list[tuple[str, Any]]:
    s = content["setting"]
    counts = sorted(set(s["counts"]))
    return [
        ("function", f"{s['model']}, {s['loss']}, {'with' if s['bias'] else 'without'} bias"),
        ("K, d", f"{s['num_classes']}, {s['dim']}"),
        ("samples a class", ", ".join(map(str, counts))),
        ("λ_W, λ_H, λ_b", ", ".join(f"{s[name]:g}" for name in ("decay_w", "decay_h", "decay_b"))),
        ("Kθ", s["kt"]),
    ]


def _lead(content: dict[str, Any]) -> str:
    orbits = content["orbits"]
    proved = sum(o["proved"] for o in orbits)
    return (
        f"{len(orbits)} critical orbits, {proved} of them proved"
        + ("" if content["alike"] else " and pairwise different")
        + ". An orbit is what rotations of features and permutations of classes make of one critical point."
    )


if __name__ == "__main__":
    print(f"wrote {len(write(Path(sys.argv[1])))} pages")
