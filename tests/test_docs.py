"""What the pages say of commands, files and versions holds; what they show of Python runs at their build."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import tyro

import ufm_jax
from ufm_jax.cli import _gathered
from ufm_jax.flags import Command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(text: str) -> list[str]:
    """Return the commands `ufm ...` of a page's blocks of text, each on one line, without comments."""
    whole = text.replace("\\\n", " ")
    found = re.findall(r"^\s*(ufm (?:sweep|census|certify|predict|report) .*)$", whole, re.MULTILINE)
    return [line.split("#")[0] for line in found if "..." not in line]


SHOWN = [(page.name, line) for page in PAGES for line in commands(page.read_text())]


def test_there_are_commands_to_check():
    assert len(SHOWN) > 20


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_every_command_shown_is_understood(page, line):
    tyro.cli(Command, prog="ufm", args=_gathered(line.split()[1:]), config=(tyro.conf.OmitArgPrefixes,))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_is_named_is_there(page):
    targets = set(re.findall(r"[a-z_]+", MAKEFILE))
    named = re.findall(r"`make ([a-z_]+)", page.read_text())
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    """Modules of the package, experiments and tests in code marks, and relative links."""
    text = page.read_text()
    marked = re.findall(r"`((?:ufm_jax|experiments|tests|figures)/[a-z0-9_/]+\.\w+)`", text)
    for name in marked:
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(((?!https?:|#)[^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_every_figure_says_how_it_is_made():
    pictures = sorted((ROOT / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        said = json.loads(picture.with_suffix(".json").read_text())
        module = said["command"].split()[2].replace(".", "/")
        assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists()
        assert said["versions"]


def test_every_experiment_is_listed():
    (targets,) = re.findall(r"^EXPERIMENTS := (.*)", MAKEFILE.replace("\\\n", " "), re.MULTILINE)
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/experiments.md").read_text(), re.MULTILINE)
    assert sorted(targets.split()) == sorted(listed)


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert project["version"] == ufm_jax.__version__ == cited[1]
    assert f"## {ufm_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/inside/networks.md"])
def test_the_table_of_designs_is_that_of_the_figure(page):
    text = (ROOT / page).read_text().replace("−", "-")
    rows = json.loads((ROOT / "figures/fixed_etf.json").read_text())["table"]
    of = lambda value: f"{100 * value['mean']:.2f} ± {100 * value['sd']:.2f}"
    for name, row in rows.items():
        count = row["full_width_parameters"] if page == "README.md" else row["parameters"]
        assert f"| {of(row['test_accuracy'])} |" in text, name
        assert f"| {count:,} " in text, name
        if row["test_accuracy_change"]["sd"]:
            assert f"| {of(row['test_accuracy_change'])} |" in text, name


def test_what_rounded_products_change_is_said_as_found():
    text = (ROOT / "docs/inside/networks.md").read_text().replace("−", "-")
    row = json.loads((ROOT / "figures/precision.json").read_text())["table"]["bfloat16"]
    ratio, change = row["nc1_ratio"], row["test_accuracy_change"]
    assert f"change NC1 by a factor {ratio['mean']:.2f}, e to the ± {ratio['sd']:.2f}" in text
    assert f"seed by seed {100 * change['mean']:.2f} ± {100 * change['sd']:.2f} points" in text
