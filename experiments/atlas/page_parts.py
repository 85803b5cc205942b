"""What the atlas's pages share: titles, links to each other and to the data, and what stands below."""

from pathlib import Path
from typing import Any

from ufm_jax.report.markup import Markup, escaped, link, paragraph, table

ROUNDING = 1e-12  # logits and biases are of order 1 and solved to 1e-15: what is smaller is a zero
THEOREM = Path("docs/theorem.md")  # beside the folder `atlas`
COLUMNS = ("index", "nullity", "rank", "stabiliser", "copies", "hits")
FILES = {
    "orbits.json": "all there is of each orbit",
    "orbits.npz": "arrays for NumPy",
    "orbits.parquet": "a table",
    "proofs.json": "what is proved, exactly, for python -m experiments.check_proofs",
}


# How an orbit's name is read (ufm_jax/models/unconstrained/names.py).
NAMES = (
    ("origin", "all is 0: every class has the same logits; origin(2) in a sum: two classes lie at 0"),
    ("simplex(4)", "four classes at the corners of a regular simplex; of all classes, the global minimum"),
    ("simplex[2,1,1]", "three points that carry 2, 1 and 1 merged classes, in two dimensions"),
    ("simplices[3,2]", "simplices of 3 and of 2 classes in directions orthogonal to each other"),
    ("orthoplex(4)", "two pairs of opposite classes, orthogonal, of equal length: simplices[2,2]"),
    ("ordered[1|2|1]", "on a line, in this order or its reverse: one class, two merged ones, one"),
    ("ordered[simplex(2)|1|1]", "nested: two classes in one place of the line, apart in another direction"),
    ("polygon(5)", "five classes at the corners of a regular polygon, in a plane"),
    ("simplex(3)+origin(1)", "a sum: no logits between the parts"),
    ("partition[2,1,1,1]", "none of these: four points that carry 2, 1, 1 and 1 merged classes"),
)
MEANT = {  # beside `report.terms`, whose words say what holds of any landscape
    "orbit": "All points that rotations of features and permutations of classes make of one; numbered from 0 "
    "by loss, the lowest first.",
    "name": "How its classes lie; merged classes share their row of W and their feature.",
    "proved": "Shown by interval arithmetic, no rounding left open: one critical orbit meets a box around "
    "the point (centre and radius are in proofs.json), with this rank, index and nullity; f is bounded.",
    "samples a class": "n: all samples of a class have one feature at every critical point.",
    "f*": "The global minimum, in nats.",
    "flows": "Gradient flows that left saddles and ended at an orbit of the list.",
    "branches": "Orbits followed while λ_W and λ_H grow by one factor.",
    "complete": "Why there should be no other orbit. Theorem: proved by computer, for these very decays. "
    "Tested: indices and dimensions fulfil Morse's and Bott's inequalities at every d.",
    "Kθ": "K times θ = √(n λ_W λ_H): how strong the decays are. From 1 on the origin alone is critical.",
}


def shown(value: float, digits: int = 6) -> str:
    """Return a number as text, 0 where it is rounding."""
    return "0" if abs(value) < ROUNDING else f"{value:.{digits}g}"


def completeness(content: dict[str, Any]) -> str:
    """Return why a list is taken to be all there is."""
    if (proved := content["complete_as_proved"]) is not None:
        return "theorem" if proved else "CONTRADICTED by a theorem"
    return {True: "tested", False: "VIOLATED", None: "not tested"}[content["complete_as_tested"]]


def theorem(atlas: Path, depth: int = 0) -> str:
    """Return where the theorem is: a link from a page so many folders below `atlas`, if it is beside that."""
    there = (atlas.parent / THEOREM).is_file()
    return link("../" * (depth + 1) + str(THEOREM), "theorem") if there else Markup(f"theorem ({THEOREM})")


def names() -> str:
    """Return how names are read."""
    return paragraph("Names say how the classes lie, up to rotations and permutations.") + table(
        "Names, for example", ("name", "meaning"), NAMES
    )


def short_title(content: dict[str, Any]) -> str:
    """Return how many classes and dimensions a setting has."""
    return f"K = {content['setting']['num_classes']}, d = {content['setting']['dim']}"


def title_of(content: dict[str, Any]) -> str:
    """Return what a setting is called."""
    return f"{short_title(content)}, n = {content['setting']['counts'][0]}, {decays_of(content)}"


def decays_of(content: dict[str, Any]) -> str:
    """Return the decays of a setting."""
    s = content["setting"]
    symbols = (("λ_W", "decay_w"), ("λ_H", "decay_h"), ("λ_b", "decay_b"))
    return ", ".join(f"{symbol} = {s[name]:g}" for symbol, name in symbols)


def trail(above: Any, here: str, beside: Any = ()) -> str:
    """Return the pages above this one, and those beside it, as landmarks."""
    items = "".join(f"<li>{link(*item)} ›</li>" for item in above)
    items += f'<li aria-current="page">{escaped(here)}</li>'
    more = " ".join(link(*item) for item in beside)
    more = f'<nav aria-label="Beside this page">{more}</nav>' if more else ""
    return f'<header><nav aria-label="Where you are"><ol>{items}</ol></nav>{more}</header>\n'


def downloads() -> str:
    """Return links to a setting's files."""
    items = "".join(f"<li>{link(name, name)}: {escaped(what)}</li>" for name, what in FILES.items())
    return Markup(f"<ul>{items}</ul>")


def foot(content: dict[str, Any]) -> str:
    """Return what stands below every page."""
    return (
        f"<footer>Data version {escaped(content['version'])}, licence CC BY 4.0; made by "
        f"ufm-jax {escaped(content['made_by']['versions']['ufm-jax'])}.</footer>\n"
    )


def file_of(line: int) -> str:
    """Return the name of an orbit's page."""
    return f"orbit_{line}.html"
