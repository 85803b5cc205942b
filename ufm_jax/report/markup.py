"""HTML by small functions: every text is escaped here, so that no value of a run can become markup."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
       max-width: 68rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid #bbb; }
a { color: #00508a; }
nav a { margin-right: 1rem; white-space: nowrap; }
.notice { border-left: 5px solid #d55e00; background: #fdf1e8; padding: 0.6rem 1rem; }
.scroll { overflow-x: auto; margin: 0 0 0.6rem; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
caption, .caption { text-align: left; padding: 0.2rem 0; margin: 0.6rem 0 0; color: #444;
                    font-size: 0.92rem; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
th.number, td.number { text-align: right; }
.facts th { white-space: normal; min-width: 8rem; }
thead th { border-bottom: 1px solid #666; }
tbody tr { border-bottom: 1px solid #e4e4e4; }
td.wide { white-space: normal; overflow-wrap: anywhere; }
pre { background: #f3f3f3; padding: 0.7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.6rem; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #333; font-size: 0.92rem; max-width: 48rem; }
summary { cursor: pointer; color: #00508a; }
abbr { text-decoration: underline dotted; cursor: help; }
svg { max-width: 100%; height: auto; } svg.framed { outline: 1px solid #767676; }
td svg { display: block; height: 2.6rem; width: auto; margin: 2px; }
dt { font-weight: 600; } dd { margin: 0 0 0.4rem 1.2rem; }
@media print { body { max-width: none; font-size: 10pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding-right: 0.4rem; } }
"""


class Markup(str):
    """Markup made here, which is not escaped again."""


def page(title: str, parts: Iterable[str], *, before: str = "", after: str = "", style: str = "") -> str:
    """Return a whole document; `parts` are markup, the title is text.

    `before` and `after` stand beside the main part, `style` is added to the page's.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{before}<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + f"\n</main>\n{after}</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a section under a heading that `contents` can link to."""
    return f'<section id="{_anchor(title)}">\n<h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def contents(titles: Iterable[str]) -> str:
    """Return links to sections."""
    links = (f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in titles)
    return '<nav aria-label="Sections">' + "\n".join(links) + "</nav>"


def paragraph(content: str, *, notice: bool = False) -> str:
    """Return a paragraph; a notice is set apart."""
    kind = ' class="notice"' if notice else ""
    return f"<p{kind}>{escape(content)}</p>"


def code(text: str) -> str:
    """Return a block of commands."""
    return f"<pre><code>{escape(text)}</code></pre>"


def figure(source: str, alt: str, caption: str) -> str:
    """Return an image, given as a data URI, with its description and caption."""
    return (
        f'<figure><img src="{escape(source)}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def folded(title: str, *parts: str) -> str:
    """Return parts that show when their title is clicked."""
    return f"<details>\n<summary>{escape(title)}</summary>\n" + "\n".join(parts) + "\n</details>"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table that scrolls by itself in a narrow window; cells are made text, numbers stand right.

    `Markup` among header and cells stays what it is.
    """
    cells = [list(map(_cell, row)) for row in rows]
    kinds = [' class="number"' if all(map(_is_number, c)) else "" for c in zip(*cells, strict=True)]
    kinds = kinds or [""] * len(header)
    head = "".join(f'<th scope="col"{k}>{escaped(h)}</th>' for h, k in zip(header, kinds, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for c, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in cells
    )
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def facts(caption: str, pairs: Iterable[tuple[str, Any]]) -> str:
    """Return a table of names and values, each row headed by its name; `Markup` stays what it is."""
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="wide">{_cell(value)}</td></tr>'
        for name, value in pairs
    )
    return f'<table class="facts">\n<caption>{escape(caption)}</caption>\n<tbody>\n{body}\n</tbody>\n</table>'


def link(target: str, words: str) -> Markup:
    """Return a link."""
    return Markup(f'<a href="{escape(target)}">{escape(words)}</a>')


def explained(words: str, meaning: str | None) -> str:
    """Return a term whose meaning shows when it is pointed at; without a meaning, the words."""
    return Markup(f'<abbr title="{escape(meaning)}">{escape(words)}</abbr>') if meaning else words


def escaped(content: str) -> str:
    """Return a text as markup; markup stays what it is."""
    return content if isinstance(content, Markup) else escape(content)


def text(value: Any) -> str:
    """Return a value as text: a dash for what is not known (None, NaN), four digits of a number."""
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return value if isinstance(value, Markup) else escape(text(value))


def _is_number(cell: str) -> bool:
    return cell == "–" or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell) is not None


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
