"""What the atlas's pages share: titles, links to each other and to the data, and what stands below."""

from typing import Any

from ufm_jax.report.markup import Markup, escaped, link

COLUMNS = ("index", "nullity", "rank", "stabiliser", "copies", "hits")
FILES = {
    "orbits.json": "all there is of each orbit",
    "orbits.npz": "arrays for NumPy",
    "orbits.parquet": "a table",
    "proofs.json": "what is proved, exactly, for python -m experiments.check_proofs",
}


def short_title(content: dict[str, Any]) -> str:
    """Return how many classes and dimensions a setting has."""
    return f"K = {content['setting']['num_classes']}, d = {content['setting']['dim']}"


def title_of(content: dict[str, Any]) -> str:
    """Return what a setting is called."""
    s = content["setting"]
    decays = ", ".join(
        f"{x} = {s[n]:g}" for x, n in (("λ_W", "decay_w"), ("λ_H", "decay_h"), ("λ_b", "decay_b"))
    )
    return f"{short_title(content)}, n = {s['counts'][0]}, {decays}"


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
