"""Every page of the tracked atlas: current, and fit for a keyboard, a screen reader and a narrow window.

Levels are those of WCAG 2.2, AA: contrast 1.4.3 and 1.4.11, visible focus 2.4.7, names 1.1.1 and 4.1.2.
"""

import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.atlas import data, pages
from experiments.atlas.theorem import proved_complete
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.report.svg import _colour, _ink

ROOT = Path(__file__).parents[2]
ATLAS = ROOT / "atlas"
PAGES = sorted(ATLAS.rglob("*.html"))
VOID = {"meta", "input", "br", "img", "link", "hr", "path", "circle"}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Tree(HTMLParser):
    """A page as a list of (tag, attributes, tags around it, text); tags that are not closed are an error."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        around = [self.found[i] for i in self.open]
        self.found.append(SimpleNamespace(tag=tag, at=dict(attrs), around=around, text=""))
        if tag not in VOID:
            self.open.append(len(self.found) - 1)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.found[self.open.pop()].tag == tag

    def handle_data(self, data):
        for i in self.open:
            self.found[i].text += data

    def of(self, *tags):
        return [node for node in self.found if node.tag in tags]


def light(colour):
    """Relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
    return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one, other):
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def trees():
    return {path: Tree(path.read_text()) for path in PAGES}


def test_pages_are_those_that_the_data_make(tmp_path):
    beside = tmp_path / "docs"
    beside.mkdir()
    (beside / "theorem.md").touch()
    shutil.copytree(ATLAS, tmp_path / "atlas", ignore=shutil.ignore_patterns("*.html"))
    written = pages.write(tmp_path / "atlas")
    assert sorted(path.relative_to(tmp_path) for path in written) == [p.relative_to(ROOT) for p in PAGES]
    for path in written:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()


def test_links_lead_somewhere_and_nothing_is_fetched(trees):
    for path, tree in trees.items():
        for link in tree.of("a"):
            name, _, anchor = link.at["href"].partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.is_file(), f"{path}: {link.at['href']}"
            assert not anchor or anchor in [node.at.get("id") for node in trees[target].found]
            assert link.text.strip()
        assert not tree.of("img", "link", "iframe", "object", "embed")
        assert not [node for node in tree.of("script") if "src" in node.at]
        assert "http" not in path.read_text()


def test_language_title_landmarks_and_headings(trees):
    for path, tree in trees.items():
        assert [node.at["lang"] for node in tree.of("html")] == ["en"]
        assert tree.of("title")[0].text == tree.of("h1")[0].text
        assert "width=device-width" in [m.at.get("content", "") for m in tree.of("meta")][1]
        assert [len(tree.of(tag)) for tag in ("main", "h1", "footer")] == [1, 1, 1]
        headings = [int(node.tag[1]) for node in tree.of("h1", "h2", "h3")]
        assert all(b <= a + 1 for a, b in pairwise(headings))
        names = [node.at["aria-label"] for node in tree.of("nav")]
        assert len(set(names)) == len(names)
        assert bool(names) == (path.parent != ATLAS)
        ids = [node.at["id"] for node in tree.found if "id" in node.at]
        assert len(set(ids)) == len(ids)


def test_tables_have_names_and_headers_and_can_be_scrolled_by_keyboard(trees):
    for tree in trees.values():
        assert {node.at.get("scope") for node in tree.of("th")} <= {"col", "row"}
        for table in tree.of("table"):
            own = [node for node in tree.of("caption") if table in node.around]
            region = table.around[-1].at
            assert own or (
                region.get("aria-label") and region["role"] == "region" and region["tabindex"] == "0"
            )
            assert [node for node in tree.of("th") if table in node.around]


def test_pictures_and_fields_have_names(trees):
    for path, tree in trees.items():
        for picture in tree.of("svg"):
            assert picture.at["role"] == "img"
            assert len(picture.at["aria-label"]) > 8
        said = [node.at["aria-label"] for node in tree.of("svg")]
        assert len(set(said)) == len(said), f"two pictures of {path} have one name"
        labels = {node.at["for"] for node in tree.of("label")}
        assert {node.at["id"] for node in tree.of("input")} == labels
        assert all(node.text.strip() for node in tree.of("summary", "button", "label"))


def test_focus_is_seen_wherever_a_keyboard_comes(trees):
    kinds = {"a", "button", "input", "summary"}
    for path, tree in trees.items():
        (style,) = [node.text for node in tree.of("style")]
        selectors, rule = re.search(r"([^{}]*:focus-visible[^{}]*)\{([^}]*)\}", style).groups()
        reached = {part.strip().removesuffix(":focus-visible") for part in selectors.split(",")}
        assert kinds | {".scroll"} <= reached
        colour = re.search(r"outline: 3px solid (#\w+)", rule)[1]
        assert contrast(colour, "#ffffff") >= 3
        assert not re.search(r"outline: *(none|0)", style), path
        assert {node.at["tabindex"] for node in tree.found if "tabindex" in node.at} <= {"0"}
        assert all("scroll" in node.at["class"] for node in tree.found if "tabindex" in node.at)


def test_every_text_has_a_contrast_of_four_and_a_half(trees):
    for tree in trees.values():
        (style,) = [node.text for node in tree.of("style")]
        inks = re.findall(r"(?<![-\w])color: *(#\w+)", style)
        grounds = {"#ffffff", *re.findall(r"background: *(#\w+)", style)}
        assert inks
        assert min(contrast(ink, ground) for ink in inks for ground in grounds) >= 4.5
        ground = "#ffffff"
        for node in tree.of("svg", "path", "text"):  # a number is written on the square before it
            framed = any("framed" in outer.at.get("class", "") for outer in node.around)
            if node.tag == "path" and framed:
                ground = node.at["fill"]
            if node.tag == "text":
                assert contrast(node.at.get("fill", "#000"), ground if framed else "#ffffff") >= 4.5


def test_numbers_are_read_on_every_colour_of_a_matrix():
    colours = [_colour(n / 500 - 1) for n in range(1001)]
    assert min(contrast(_ink(colour), colour) for colour in colours) >= 4.5


def test_no_number_shown_is_rounding(trees):
    for path, tree in trees.items():
        cells = [node.text for node in tree.of("td") if "±" not in node.text]
        told = [node.at["aria-label"] for node in tree.of("svg")]
        exponents = re.findall(r"e-(\d+)", " ".join(cells + told))
        assert all(int(number) < 12 for number in exponents), path


def test_what_a_theorem_says_of_a_list():
    by_size = {}
    for folder in data.folders(ATLAS):
        setting = data.read(folder)
        found = [SimpleNamespace(rank=o["rank"], loss=o["loss"]) for o in setting.content["orbits"]]
        told = proved_complete(setting.problem, found)
        assert told == setting.content["complete_as_proved"]
        by_size[setting.problem.num_classes] = told
        if told:
            assert proved_complete(setting.problem, found[:-1]) is False
            assert proved_complete(setting.problem, [*found, found[0]]) is False
            moved = [*found[:-1], SimpleNamespace(rank=found[-1].rank, loss=found[-1].loss + 1e-6)]
            assert proved_complete(setting.problem, moved) is False
    assert by_size == {3: True, 4: True, 5: None}


@pytest.mark.parametrize(
    "change", [{"decay_w": 5.1e-3}, {"per_class": 4}, {"loss": CrossEntropy(smoothing=0.1)}]
)
def test_a_theorem_is_about_its_own_decays_alone(change):
    own = {"num_classes": 3, "per_class": 5, "dim": 2, "decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
    orbits = data.read(ATLAS / "K3_d2").content["orbits"]
    found = [SimpleNamespace(rank=o["rank"], loss=o["loss"]) for o in orbits]
    assert proved_complete(problem(**own), found) is True
    assert proved_complete(problem(**{**own, **change}), found) is None
    # In d = 1 what is left are the orbits of rank 0 and 1.
    line = problem(**{**own, "dim": 1})
    assert proved_complete(line, [row for row in found if row.rank <= 1]) is True
    assert proved_complete(line, found) is False


LOOK = """
<script>
addEventListener("error", (event) => { document.body.dataset.error = event.message; });
addEventListener("load", () => {
  const told = {}, table = document.querySelector("table"), field = document.getElementById("search");
  const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const first = () => rows()[0].cells[0].textContent, count = rows().length;
  table.querySelectorAll("th button")[1].click(); table.querySelectorAll("th button")[1].click();
  told.highest = first();
  field.value = "origin"; field.dispatchEvent(new Event("input"));
  told.origins = rows().every((row) => row.textContent.includes("origin")) && rows().length < count;
  told.status = document.getElementById("shown").textContent;
  told.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.told = JSON.stringify(told);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no browser to look with")
@pytest.mark.parametrize("width", [400, 1200])
def test_search_and_sort_in_a_browser(tmp_path, width):
    page = tmp_path / "index.html"
    page.write_text((ATLAS / "K3_d2" / "index.html").read_text().replace("<head>", "<head>" + LOOK))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    options += ["--enable-logging=stderr", f"--window-size={width},900", "--dump-dom", page.as_uri()]
    done = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=120, check=True)
    told = unescape(re.search(r'data-told="([^"]*)"', done.stdout)[1])
    assert told == '{"highest":"3","origins":true,"status":"1 of 4 orbits shown","wide":false}'
    assert "data-error" not in done.stdout
    assert "CONSOLE" not in done.stderr
