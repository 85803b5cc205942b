"""The page of one orbit: what it looks like, what is proved of it, where flow leads, how it goes on."""

import json
from typing import Any

import numpy as np

from experiments.atlas.page_parts import (
    COLUMNS,
    MEANT,
    downloads,
    file_of,
    foot,
    short_title,
    shown,
    title_of,
    trail,
)
from experiments.atlas.script import STYLE
from ufm_jax.report import svg
from ufm_jax.report.markup import (
    Markup,
    contents,
    escaped,
    facts,
    folded,
    link,
    page,
    paragraph,
    section,
    table,
)
from ufm_jax.report.terms import glossary

TICKS = (0.001, 0.01, 0.1, 0.5, 0.9)
FEW = 8  # classes, up to which logits are written into their picture


def orbit_page(content: dict[str, Any], orbit: dict[str, Any]) -> str:
    """Return the page of one orbit."""
    sections = {
        "Picture": _pictures(orbit),
        "Invariants": _invariants(content, orbit),
        "Flows": _flows(content, orbit),
        "Branch": _branch(content, orbit),
        "Download": downloads()
        + paragraph(f"In each file this orbit is entry {orbit['line']}, counted from 0.")
        + folded("Its record", Markup(f"<pre><code>{escaped(json.dumps(orbit))}</code></pre>")),
        "Terms": glossary(("orbit", "name", "loss", "proved", *COLUMNS, "verdict", "logits", "Kθ"), MEANT),
    }
    where = [("../index.html", "Atlas"), ("index.html", short_title(content))]
    beside = [(file_of(i), f"{word} orbit") for i, word in _neighbours(content, orbit["line"])]
    title = f"Orbit {orbit['line']}, {orbit['name'] or 'no name'}: {title_of(content)}"
    parts = [contents(sections), *(section(*item) for item in sections.items())]
    above = trail(where, f"orbit {orbit['line']}", beside)
    return page(title, parts, before=above, after=foot(content), style=STYLE)


def _pictures(orbit: dict[str, Any]) -> str:
    W, H, logits = (np.array(orbit[name]) for name in ("W", "H", "logits"))
    K, rank = len(W), orbit["rank"]
    # The directions that W and H use, the strongest first: at a critical point they are the same.
    turn = np.linalg.svd(
        np.concatenate([W / max(np.linalg.norm(W), 1e-300), H.T / max(np.linalg.norm(H), 1e-300)])
    )[2].T
    seen = min(max(rank, 1), 3)
    rows, columns = W @ turn[:, :seen], H.T @ turn[:, :seen]
    where = f"all {rank} of its directions" if rank <= 3 else f"the strongest three of its {rank} directions"
    where = where if rank else "all are 0"
    groups = " ".join("{" + ",".join(str(k + 1) for k in classes) + "}" for classes in orbit["merged"])
    size = 300 // K if K <= FEW else 10
    told = "; ".join(", ".join(shown(value, 3) for value in row) for row in logits) if K <= FEW else ""
    one = svg.matrix(logits, f"Logits, {K} by {K}: {told}", cell=size, numbers=K <= FEW)
    two = svg.arrows(rows, columns, f"Class means and classifier of {K} classes in {where}; merged: {groups}")
    parts = (
        (one, "Logits at class means, bias included: row j, column k is logit j of class k. Blue above 0."),
        (
            two,
            f"Class means (dots, numbered from 1) and rows of W (circles on lines), each scaled to its "
            f"longest; {where}{', seen from a corner' if seen == 3 else ''}. Classes by point: {groups}.",
        ),
    )
    made = (f"<figure>{picture}<figcaption>{escaped(said)}</figcaption></figure>" for picture, said in parts)
    return Markup(f'<div class="pictures">{"".join(made)}</div>')


def _invariants(content: dict[str, Any], orbit: dict[str, Any]) -> str:
    digits = orbit["loss_digits"]
    proved = "not proved" if digits is None else f"{digits} ± {orbit['loss_radius']}, proved"
    read = link("index.html#names", "how names are read")
    own = [
        ("name", Markup(f"{escaped(orbit['name'] or 'none')} ({read})")),
        ("loss, in nats", proved if digits else f"{orbit['loss']!r}, {proved}"),
        ("proved", orbit["statement"]),
        ("verdict in floating point", orbit["verdict"].replace("_", " ").lower()),
        (
            "global minimum",
            {True: "proved", False: "proved not to be", None: "not shown"}[orbit["global_minimum"]],
        ),
        *((name, orbit[name]) for name in ("rank", "index", "nullity")),
        ("dimension of the orbit", orbit["orbit_dim"]),
        ("copies under permutations of classes", orbit["copies"]),
        ("order of its stabiliser", orbit["stabiliser"]),
        ("merged classes", " ".join("{" + ",".join(str(k + 1) for k in c) + "}" for c in orbit["merged"])),
        ("singular values of the logits", ", ".join(shown(s, 10) for s in orbit["singular_values"])),
        ("‖W‖²", shown(float(np.sum(np.square(orbit["W"]))))),
        ("bias", ", ".join(map(shown, orbit["b"]))),
        ("searches of the census that ended here", orbit["hits"]),
    ]
    return facts(f"Orbit {orbit['line']} of {len(content['orbits'])}", own)


def _flows(content: dict[str, Any], orbit: dict[str, Any]) -> str:
    orbits, line = content["orbits"], orbit["line"]
    if content["unknown_flows"] is None:
        return paragraph("No flows were followed in this setting.")
    head = ("orbit", "name", "loss", "share of flows in random directions", "share of the others", "flows")

    def cells(number: int, flow: dict[str, Any]) -> tuple[Any, ...]:
        other = orbits[number]
        shares = (f"{flow['generic']:.2f}", f"{flow['other']:.2f}", flow["flows"])
        return (link(file_of(number), str(number)), other["name"], f"{other['loss']:.8g}", *shares)

    down = [cells(flow["to"], flow) for flow in orbit["flows"]]
    up = [cells(o["line"], flow) for o in orbits for flow in o["flows"] if flow["to"] == line]
    parts = [
        table("Gradient flow out of this orbit ended at", head, down)
        if down
        else paragraph("No flow leaves it: it is no strict saddle."),
        table("Flows that ended here left", head, up)
        if up
        else paragraph("No flow that was followed ended here."),
        paragraph(
            "Flows start beside a saddle in random directions of negative curvature, others along "
            "eigenvectors and in directions that some of its symmetries fix. A flow that ended shows a "
            "connection; none shows nothing."
        ),
    ]
    return "\n".join(parts)


def _branch(content: dict[str, Any], orbit: dict[str, Any]) -> str:
    held, branch = content["branches"], orbit["branch"]
    if held is None or branch is None:
        return paragraph(
            "Not known: no orbit of this setting was followed over Kθ." if held is None else "Not known."
        )
    kt = np.array(held["kt"])
    below = kt < 1
    heights = np.array(held["relative_height"], dtype=float)[:, below]
    low, high = (_logit(v) for v in (kt[below][0], kt[below][-1]))
    along = (_logit(kt[below]) - low) / (high - low)
    lines = [(along, y, "#b0b0b0", 1.0) for i, y in enumerate(heights) if i != branch]
    lines.append((along, heights[branch], "#0072b2", 3.0))
    own = content["setting"]["kt"]
    marks = [((_logit(t) - low) / (high - low), f"{t:g}") for t in TICKS if low <= _logit(t) <= high]
    of = {o["branch"]: f"orbit {o['line']} ({o['name']})" for o in content["orbits"]}
    events = [
        (
            f"{e['low']:.4g} to {e['high']:.4g}",
            e["kind"],
            ", ".join(of.get(b, f"branch {b}") for b in e["branches"]),
        )
        for e in held["events"]
        if branch in e["branches"]
    ]
    said = f"Height of branch {branch} over Kθ among {len(heights)} branches"
    axes = ("Kθ, logit scale", "(f − f*) / (log K − f*)")
    drawn = svg.curves(lines, said, at=float((_logit(own) - low) / (high - low)), marks=marks, names=axes)
    caption = (
        "This orbit followed as λ_W and λ_H grow by one factor (blue), the other orbits (grey); dotted: this "
        f"setting, Kθ = {own:.4g}. At 1 the origin is all that is left."
    )
    head = ("Kθ between", "what", "of")
    told = (
        table("What happens to it as Kθ grows", head, events)
        if events
        else paragraph("Nothing happens to it.")
    )
    words = (
        "Birth, death: orbits appear or end together. Split, merge: one leaves another, or joins it, which "
        "stays. Rank, index: that number changes. A branch that has no orbit here lives at other Kθ alone."
    )
    told += paragraph(words) if events else ""
    return f"<figure>{drawn}<figcaption>{escaped(caption)}</figcaption></figure>\n{told}"


def _logit(t: Any) -> Any:
    return np.log(t / (1 - t))


def _neighbours(content: dict[str, Any], line: int) -> list[tuple[int, str]]:
    pairs = [(line - 1, "previous"), (line + 1, "next")]
    return [(number, word) for number, word in pairs if 0 <= number < len(content["orbits"])]
