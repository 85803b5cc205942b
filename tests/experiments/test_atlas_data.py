"""The atlas read back: every point is critical, f there is what is stated and proved."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.atlas import data, pages
from experiments.atlas.flows import Edge
from ufm_jax.landscape import census
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.names import name_at
from ufm_jax.models.unconstrained.symmetry import rank

TRACKED = Path(__file__).parents[2] / "atlas"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Write an atlas of K = 2 and its pages, with what flows would have said."""
    out = tmp_path_factory.mktemp("atlas")
    prob = problem(num_classes=2, per_class=2, dim=1, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    state = census.find_orbits(prob, seed=0, starts=100)
    data.write(out, data.Surveyed(prob, state, ([Edge(1, 0, 1.0, 0.5, 7)], 0)))
    pages.write(out)
    return out


def settings(folder):
    """Return the settings of a folder, read back."""
    return [data.read(one) for one in data.folders(folder)]


def check(setting):
    """Check every orbit of a setting against the function itself, and against what is proved."""
    for orbit, point in zip(setting.content["orbits"], setting.points, strict=True):
        at = setting.problem.evaluate(point)
        assert float(at.grad_norm) <= 1e-9
        assert float(at.value) == pytest.approx(orbit["loss"], rel=1e-14)
        assert name_at(setting.problem, point) == orbit["name"]
        assert int(rank(setting.problem, point)) == orbit["rank"]
        logits = np.array(orbit["W"]) @ np.array(orbit["H"]) + np.array(orbit["b"])[:, None]
        np.testing.assert_allclose(logits, orbit["logits"], atol=1e-12)


def test_every_point_is_critical_with_the_loss_stated(atlas):
    (setting,) = settings(atlas)
    assert len(setting.points) == 2
    check(setting)


@pytest.mark.parametrize("folder", [p.name for p in data.folders(TRACKED)])
def test_so_it_is_in_the_tracked_atlas(folder):
    check(data.read(TRACKED / folder))


def test_digits_are_those_of_another_program_in_twice_the_precision(atlas):
    flint = pytest.importorskip("flint")
    from experiments import check_proofs

    before = flint.ctx.prec
    try:
        for folder in data.folders(atlas):
            held = json.loads((folder / "proofs.json").read_text())
            assert check_proofs.check_all(held) == []
            for one, orbit in zip(held["proofs"], data.read(folder).content["orbits"], strict=True):
                f = check_proofs.check(held["problem"], one)[1][2]
                stated = flint.arb(orbit["loss_digits"])
                radius = flint.arb(orbit["loss_radius"])
                assert abs(f - stated) <= radius * flint.arb("1.01")
                assert float(radius) <= 1e-30 * max(orbit["loss"], 0.01)
    finally:
        flint.ctx.prec = before


def test_files_agree_with_the_schema(atlas):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads((atlas / data.SCHEMA_FILE).read_text()))
    for folder in data.folders(atlas):
        validator.validate(content := json.loads((folder / "orbits.json").read_text()))
        table = pq.read_table(folder / "orbits.parquet")
        assert table["loss_digits"].to_pylist() == [o["loss_digits"] for o in content["orbits"]]
        with np.load(folder / "orbits.npz") as held:
            assert held["W"].shape == (len(content["orbits"]), *np.shape(content["orbits"][0]["W"]))


@pytest.mark.parametrize("name", ["orbits.json", "orbits.npz", "orbits.parquet", "proofs.json"])
def test_a_changed_file_is_refused_by_name(atlas, name):
    file = atlas / "K2_d1" / name
    held = file.read_bytes()
    for changed in (held[:-1] + bytes([held[-1] ^ 1]), b""):
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=name):
            data.read(file.parent)
    file.write_bytes(held)
    data.read(file.parent)


def test_flows_go_down_and_branches_have_the_loss_of_their_orbits():
    for setting in settings(TRACKED):
        orbits, held = setting.content["orbits"], setting.content["branches"]
        flows = [(o["line"], flow["to"]) for o in orbits for flow in o["flows"] or ()]
        assert all(orbits[a]["loss"] > orbits[b]["loss"] for a, b in flows)
        if held is None:
            continue
        kt = np.array(held["kt"])
        g = int(np.flatnonzero(kt < setting.content["setting"]["kt"])[-1])
        for orbit in orbits:  # the decays' part of f is positive: f grows with them along every branch
            below, above = held["loss"][orbit["branch"]][g : g + 2]
            assert below - 1e-12 <= orbit["loss"] <= above + 1e-12


class Reader(HTMLParser):
    """Keeps what a page links to, its landmarks, and pictures without a text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.silent, self.language = [], [], 0, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.tags.append(tag)
        self.links += [held["href"]] if "href" in held else []
        self.silent += tag == "svg" and not (held.get("role") == "img" and held.get("aria-label"))
        self.language = held.get("lang", self.language)


def test_pages_lead_to_each_other_and_need_no_network(atlas):
    found = sorted(atlas.rglob("*.html"))
    assert len(found) == 1 + 1 + 2
    for path in found:
        page = Reader(text := path.read_text())
        for target in page.links:
            name, _, anchor = target.partition("#")
            assert not name or (path.parent / name).is_file()
            there = path.parent / name if name else path
            assert not anchor or f'id="{anchor}"' in there.read_text()
        assert page.language == "en"
        assert page.silent == 0
        assert page.tags.count("main") == page.tags.count("h1") == 1
        assert "http" not in text
        assert not {"img", "link", "iframe"} & set(page.tags)


def test_a_page_of_an_orbit_that_is_gone_goes(atlas):
    stale = atlas / "K2_d1" / "orbit_7.html"
    stale.write_text("old")
    pages.write(atlas)
    assert not stale.exists()
