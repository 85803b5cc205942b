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
from experiments.atlas.page_parts import (
    COLUMNS,
    MEANT,
    completeness,
    decays_of,
    downloads,
    file_of,
    foot,
    names,
    short_title,
    theorem,
    title_of,
    trail,
)
from experiments.atlas.script import FIND, SCRIPT, STYLE
from ufm_jax.report import svg
from ufm_jax.report.markup import (
    Markup,
    contents,
    escaped,
    facts,
    link,
    page,
    paragraph,
    section,
    table,
)
from ufm_jax.report.terms import glossary, heads

WHOLE = {
    "atlas.schema.json": "what orbits.json holds, as JSON Schema",
    "SHA256SUMS": "checksums of all data: sha256sum -c SHA256SUMS",
    "VERSION": "of the data: cite it",
    "LICENSE.txt": "CC BY 4.0",
}


def write(atlas: Path) -> list[Path]:
    """Write all pages of an atlas's folder; return them, the whole's first."""
    contents_of = {out.name: json.loads((out / "orbits.json").read_text()) for out in folders(atlas)}
    pages = {atlas / "index.html": _whole(atlas, contents_of)}
    for name, content in contents_of.items():
        pages[atlas / name / "index.html"] = _setting(atlas, content)
        for orbit in content["orbits"]:
            pages[atlas / name / file_of(orbit["line"])] = orbit_page(content, orbit)
    for old in atlas.rglob("*.html"):
        if old not in pages:
            old.unlink()  # of an orbit that is no longer there
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)


def _whole(atlas: Path, settings: dict[str, dict[str, Any]]) -> str:
    head = ("setting", "samples a class", "orbits", "proved", "complete", "f*", "flows", "branches")
    cells = []
    for name, content in settings.items():
        s, orbits, held = content["setting"], content["orbits"], content["branches"]
        where = link(f"{name}/index.html", short_title(content))
        proved, best = sum(o["proved"] for o in orbits), f"{orbits[0]['loss']:.10g}"
        samples = ", ".join(map(str, sorted(set(s["counts"]))))
        flows = "–" if content["unknown_flows"] is None else _flows(content)
        branches = "–" if held is None else len(held["loss"])
        cells.append((where, samples, len(orbits), proved, completeness(content), best, flows, branches))
    first = next(iter(settings.values()))
    alike = all(decays_of(content) == decays_of(first) for content in settings.values())
    lead = (
        "Critical points of the unconstrained feature model, the function that neural collapse is explained "
        f"by{f', at {decays_of(first)}' if alike else ''}. A page is one orbit: all points that rotations of "
        "features and permutations of classes make of one."
    )
    shown = Markup(
        "<p>An orbit that is called proved exists, with its rank, index and loss: by interval arithmetic, "
        f"no rounding left open. {_complete(atlas, settings)}</p>"
    )
    files = Markup("".join(f"<li>{link(name, name)}: {escaped(what)}</li>" for name, what in WHOLE.items()))
    here = ", ".join(f"{name}/" for name in settings)
    parts = [
        paragraph(lead),
        shown,
        section("Settings", table("Settings of the atlas, by number of classes", heads(head, MEANT), cells)),
        section(
            "Files",
            Markup(f"<ul>{files}</ul>"),
            paragraph(f"The data are in a folder a setting ({here}); the page of a setting links to them."),
        ),
        section("Terms", glossary(["orbit", *head], MEANT)),
    ]
    return page("Atlas of critical orbits", parts, after=foot(first), style=STYLE)


def _complete(atlas: Path, settings: dict[str, dict[str, Any]]) -> str:
    """Return of which settings a theorem says that the list is complete, as markup."""
    by_theorem = [c["setting"]["num_classes"] for c in settings.values() if c["complete_as_proved"]]
    if not by_theorem:
        return "That a list is complete is tested, not proved."
    which = " and ".join(map(str, by_theorem))
    others = "" if len(by_theorem) == len(settings) else "; of the others it is tested, not proved"
    return f"That there is no other is a {theorem(atlas)} for K = {which}, at these very decays{others}."


def _setting(atlas: Path, content: dict[str, Any]) -> str:
    head = ["orbit", "loss", "name", *COLUMNS, "verdict", "proved", "logits"]
    cells = [
        (
            link(file_of(o["line"]), str(o["line"])),
            f"{o['loss']:.10g}",
            o["name"],
            *(o[name] for name in COLUMNS),
            o["verdict"].replace("_", " ").lower(),
            "yes" if o["proved"] else "no",
            svg.matrix(np.array(o["logits"]), f"logits of orbit {o['line']}, {o['name']}", cell=6),
        )
        for o in content["orbits"]
    ]
    flows, held = content["unknown_flows"], content["branches"]
    settled = "; the last of them found nothing new" if content["settled"] else "; cut short"
    passed = {True: "passed", False: "VIOLATED", None: "none"}[content["complete_as_tested"]]
    known = [
        *_function(content),
        ("searches of the census", f"{content['num_starts']}{settled}"),
        ("Morse–Bott tests at every d", passed),
        ("pairs not shown to be different", str(content["alike"] or "none")),
        (
            "flows",
            "not followed here"
            if flows is None
            else f"{_flows(content)} ended at an orbit of the list, {flows} at none",
        ),
        ("branches", "not followed here" if held is None else f"{len(held['loss'])}, over Kθ"),
    ]
    sections = {
        "Orbits": FIND + table("Orbits, the lowest loss first", heads(head, MEANT), cells),
        "Names": names(),
        "Setting": facts("The function, and how its orbits were found", known),
        "Download": downloads(),
        "Terms": glossary([*head, "Kθ", "Morse–Bott inequalities", "flows", "branches"], MEANT),
    }
    lead = Markup(f"<p>{escaped(_lead(content))} {_no_other(atlas, content)}</p>")
    parts = [lead, contents(sections), *(section(*item) for item in sections.items())]
    above = trail((("../index.html", "Atlas"),), short_title(content))
    return page(
        f"Critical orbits, {title_of(content)}",
        parts,
        before=above,
        after=foot(content) + SCRIPT,
        style=STYLE,
    )


def _no_other(atlas: Path, content: dict[str, Any]) -> str:
    """Return what is known of orbits that a list may lack, as markup."""
    if content["complete_as_proved"]:
        return f"That there is no other is a {theorem(atlas, 1)}."
    return "That there is no other is tested, not proved."


def _flows(content: dict[str, Any]) -> int:
    """Return how many flows ended at an orbit of the list."""
    return sum(flow["flows"] for orbit in content["orbits"] for flow in orbit["flows"])


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
