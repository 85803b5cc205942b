"""The page needs nothing but itself, leaves no undecided start out, and lets no value become markup."""

import html
import json
import shlex
import time
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from conftest import SMOOTH

from ufm_jax import cli
from ufm_jax.landscape.orbits import OrbitRow
from ufm_jax.landscape.verdict import Reason
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.objects import Spec
from ufm_jax.report import page, sweep_page
from ufm_jax.report.orbit_table import sweep_orbits
from ufm_jax.report.page import write
from ufm_jax.report.rerun import command
from ufm_jax.report.table import setting_rows, verdict_table
from ufm_jax.runs import orbits, store
from ufm_jax.runs.plan import CensusConfig, SweepConfig


def sweep_of(counts, dim, decay_w, decay_h, decay_b=(0.0,), **options):
    """Return the configuration of a sweep."""
    return SweepConfig(counts=counts, dim=dim, decay_w=decay_w, decay_h=decay_h, decay_b=decay_b, **options)


CONFIG = sweep_of((2, 2, 2), 2, (5e-3,), (1e-3,), (1e-2,), starts=7, shard_size=4)
NAN = float("nan")
VOID = {"meta", "img", "br", "hr", "link"}
REASONS = [reason.name for reason in Reason if reason != Reason.NONE]
EVIL = "<script>alert('&\"')</script>"


def rows(count, **columns):
    """Build a table of `count` rows; a column is given as one value or a list."""
    usual = {
        "start": list(range(count)),
        "loss": 0.5,
        "grad_norm": 1e-12,
        "status": "CONVERGED",
        "verdict": "GLOBAL_MINIMUM",
        "rank": 2,
        "index": 0,
        "nullity": 1,
        "lambda_min": 1e-3,
        "lambda_min_residual": 1e-15,
        "dual_bound": 0.5,
        "dual_gap": 1e-12,
        **dict.fromkeys(("nc1", "nc2", "nc3", "nc4"), 0.0),
        "num_steps": 9,
        "target": "minima",
        "decay_w": 5e-3,
        "decay_h": 1e-3,
        "decay_b": 1e-2,
        "negative_curvature": 0.0,
        "reason": "NONE",
        "closed_form_loss": NAN,
    }
    return pa.table({k: v if isinstance(v, list) else [v] * count for k, v in (usual | columns).items()})


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Write the page of a sweep that holds the given rows, and return its text."""

    def make(table, config=CONFIG, **manifest):
        monkeypatch.setattr(sweep_page, "load", lambda out: table)
        held = {
            "config": config.content,
            "digest": config.digest(),
            "device": "cpu",
            "versions": {"jax": "0"},
        }
        held |= manifest
        (tmp_path / "manifest.json").write_text(json.dumps(held))
        return write(tmp_path).read_text()

    return make


class Reader(HTMLParser):
    """Checks that tags match, and keeps attributes and table rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.rows, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1].append(data)


def test_every_undecided_start_is_listed_with_its_reason(report):
    count = 1500
    reasons = [REASONS[i % len(REASONS)] for i in range(count)]
    table = rows(count, verdict="UNDECIDED", reason=reasons, start=[7000 + i for i in range(count)])
    page = Reader(report(table, replace(CONFIG, starts=count)))
    listed = {(row[0], reason) for row in page.rows for reason in row if reason in Reason.__members__}
    assert {(str(7000 + i), reason) for i, reason in enumerate(reasons)} <= listed


def test_of_stalled_starts_the_first_are_shown_and_all_are_counted(report):
    text = report(rows(500, verdict="NOT_CRITICAL", index=None, nullity=None), replace(CONFIG, starts=500))
    assert "200 of 500 rows that are NOT_CRITICAL" in text
    assert sum("NOT_CRITICAL" in row and len(row) > 10 for row in Reader(text).rows) == 200


@pytest.mark.parametrize(
    "table",
    [
        rows(1),
        rows(7, index=None, nullity=None, lambda_min=None, lambda_min_residual=None, rank=None),
        rows(7, index=[0, None] * 3 + [1], verdict=["GLOBAL_MINIMUM", "STRICT_SADDLE"] * 3 + ["DEGENERATE"]),
        rows(7, dual_gap=NAN, dual_bound=NAN, nc2=NAN, verdict="LOCAL_MINIMUM"),
        rows(7, dual_gap=None, dual_bound=None, closed_form_loss=None),
        rows(7, loss=NAN, grad_norm=NAN, verdict="NOT_CRITICAL", dual_gap=NAN, status="NONFINITE"),
        rows(7, loss=float("inf"), grad_norm=float("inf"), verdict="NOT_CRITICAL", dual_gap=float("inf")),
        rows(7, dual_gap=[-1e-16, 0.0] * 3 + [1e-12], grad_norm=0.0),
        rows(7, decay_w=[0.1, 0.2] * 3 + [0.3]),
        rows(8, decay_w=[0.1, 0.2] * 4, decay_h=[1.0, 1.0, 2.0, 2.0] * 2, decay_b=[0.0] * 4 + [1.0] * 4),
    ],
    ids=["one", "null", "some-null", "no-gap", "null-gap", "nan", "inf", "zero-gap", "line", "cube"],
)
def test_a_page_stands_alone(report, table):
    text = report(table)
    page = Reader(text)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(s.startswith(("data:image/svg+xml;base64,", "#")) for s in sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in text.replace("http-equiv", "")
    assert page.tags.count("img") == sum(1 for name, value in page.attributes if name == "alt" and value)
    anchors = {value[1:] for name, value in page.attributes if name == "href"}
    assert anchors <= {value for name, value in page.attributes if name == "id"}
    assert not {"nan", "None", "null"} & {cell for row in page.rows for cell in row[1:]}
    verdict_table(table)


def test_a_run_with_missing_rows_says_so(report):
    assert "Unfinished: 3 of 7 rows are missing" in report(rows(4))
    assert "Unfinished" not in report(rows(7))


def test_no_value_becomes_markup(report):
    text = report(rows(7, status=EVIL, reason=EVIL, verdict="UNDECIDED"), device=EVIL)
    text += report(rows(7), replace(CONFIG, loss=Spec(f"{EVIL}:Class")))
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;" in text


def orbit_rows(text):
    """Return the rows of the table of distinct orbits, the first of a page."""
    first = text[text.index("<table>") : text.index("</table>")]
    return Reader(first + "</table>").rows[1:]


def test_distinct_orbits_come_first_with_what_was_counted_of_them(report):
    table = rows(
        7,
        loss=[0.5, 0.25, 0.5, 0.25, 0.25, 0.5, 0.9],
        index=[1, 0, 1, 0, 0, 2, None],
        verdict=["STRICT_SADDLE", "GLOBAL_MINIMUM"] * 2 + ["GLOBAL_MINIMUM", "STRICT_SADDLE", "UNDECIDED"],
        nullity=1,
    )
    text = report(table)
    found = [(float(row[1]), int(row[2]), int(row[3]), row[4]) for row in orbit_rows(text)]
    assert found == [
        (0.25, 0, 3, "GLOBAL_MINIMUM"),
        (0.5, 1, 2, "STRICT_SADDLE"),
        (0.5, 2, 1, "STRICT_SADDLE"),
    ]
    numbered = table.append_column("orbit", pa.array([0, 1, 0, 1, 1, 0, None], pa.int64()))
    assert [row[3] for row in orbit_rows(report(numbered))] == ["3", "3"]  # as they were sorted


def test_settings_are_orbits_of_their_own_where_nobody_sorted(report):
    config = replace(CONFIG, decay_w=(0.1, 0.2), starts=2)
    text = report(rows(4, decay_w=[0.1, 0.1, 0.2, 0.2]), config)
    assert len(orbit_rows(text)) == 2
    assert "λ_W = 0.1 to 0.2, λ_H = 0.001, λ_b = 0.01</h1>" in text


def test_terms_are_explained_where_they_stand_and_in_a_list(report):
    text = report(rows(7))
    read = Reader(text)
    shown = {value for name, value in read.attributes if name == "title"}
    listed = text[text.index("<dl>") : text.index("</dl>")]
    assert len(shown) > 10
    assert all(html.escape(meaning) in listed for meaning in shown)
    assert f"Begun {time.strftime('%Y-')}" in text


@pytest.mark.parametrize("kept", [True, False])
def test_names_and_pictures_are_those_of_the_points_kept_or_found_again(tmp_path, kept):
    out = tmp_path / "run"
    store.run(sweep_of((2, 2, 2), 2, (5e-3,), (1e-3,), (1e-2,), starts=3, keep_points=kept), out)
    text = write(out).read_text()
    assert [row[2] for row in orbit_rows(text)] == ["simplex(3)"]
    assert 'role="img" aria-label="logits of orbit 0"' in text
    assert len(text.encode()) < 10**6


def test_a_point_found_again_elsewhere_is_not_pictured(tmp_path):
    out = tmp_path / "run"
    config = sweep_of((2, 2, 2), 2, (5e-3,), (1e-3,), (1e-2,), starts=3)
    store.run(config, out)
    found = store.read_shards(config, out)
    place = found.column_names.index("loss")
    moved = found.set_column(place, "loss", [[value + 1e-6 for value in found["loss"].to_pylist()]])
    for rows, name in ((found, "simplex(3)"), (moved, "")):
        orbits, pictures = sweep_orbits(config, rows)
        assert orbits[0]["name"] == name
        assert (pictures[0] is None) == (not name)


def test_settings_keep_apart_what_was_found_at_each():
    table = rows(4, decay_w=[0.1, 0.1, 0.2, 0.2], loss=[2.0, 1.0, 4.0, 3.0], dual_gap=[NAN, 1e-3, NAN, NAN])
    first, second = setting_rows(table)
    assert (first.values, first.lowest, first.max_gap, first.verdicts) == (
        {"decay_w": 0.1, "decay_h": 1e-3, "decay_b": 1e-2},
        1.0,
        1e-3,
        {"GLOBAL_MINIMUM": 2},
    )
    assert second.lowest == 3.0
    assert second.max_gap != second.max_gap  # NaN


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        sweep_of((3, 1, 2), 4, (1e-3, 0.1), (1e-30,), bias=False, loss="squared", target="both"),
        sweep_of((1, 1), 1, (0.1,), (0.3,), loss=SMOOTH, seed=3, space="full", keep_points=True),
        CensusConfig((5, 5, 5), 2, 5e-3, 1e-3, 1e-2, starts=40, seed=2),
        CensusConfig((5, 5), 2, 5e-3, 1e-3, 1e-2, loss=CrossEntropy(0.1, (1.0, 2.0), (0.0, -0.5))),
    ],
)
def test_the_command_shown_makes_this_very_run(config, tmp_path, monkeypatch):
    made = []

    def stop(config, *args, **kwargs):
        made.append(config)
        raise ValueError("seen")

    monkeypatch.setattr(store, "run", stop)
    monkeypatch.setattr(orbits, "run", stop)
    folder = tmp_path / "a folder; with 'signs'"
    with pytest.raises(SystemExit):
        cli.main(shlex.split(command(config, folder))[1:])
    assert [one.content for one in made] == [config.content]


@pytest.mark.parametrize("content", [None, "{}", "[]", "{", '{"config": {"target": "minima"}}'])
def test_a_folder_without_a_run_is_refused_by_name(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", str(tmp_path)])
    assert stopped.value.code == 2
    assert "error: out: " in (said := capsys.readouterr().err)
    assert str(tmp_path) in said
    assert not (tmp_path / "report.html").exists()


def test_the_command_reports_a_sweep_cut_short_and_whole(tmp_path, capsys):
    out = tmp_path / "run"
    store.run(CONFIG, out)
    last = max((out / "points").iterdir())
    held = last.read_bytes()
    last.unlink()
    cli.main(["report", str(out)])
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert "Unfinished: 3 of 7 rows" in (out / "report.html").read_text()
    last.write_bytes(held)
    cli.main(["report", str(out)])
    assert "7 of 7 rows: 7 GLOBAL_MINIMUM" in (out / "report.html").read_text()
    assert store.load(out).num_rows == 7


@pytest.fixture
def census(tmp_path, monkeypatch):
    """Write the page of a census that has found these orbits, and return its text."""
    config = CensusConfig((5, 5, 5), 2, 5e-3, 1e-3, 1e-2)
    held = {"config": config.content, "digest": config.digest()}
    (tmp_path / "manifest.json").write_text(json.dumps(held))

    def make(*orbits, **summary):
        monkeypatch.setattr(page, "results", lambda config, out: (list(orbits), summary))
        return write(tmp_path).read_text()

    return make


def test_a_census_is_reported_with_its_tests_and_undecided_orbits(census):
    tests = [{"dim": 1, "euler": 1, "remainder": [5, 1], "passed": True}]
    text = census(
        OrbitRow(0.06, 2, 0, 1, 1, 1, "GLOBAL_MINIMUM", 14),
        OrbitRow(0.5, 1, None, None, 1, 3, "UNDECIDED", 6),
        settled=True,
        unseen_mass=None,
        complete_as_tested=True,
        tests=tests,
    )
    read = Reader(text)
    assert "2 orbits: 1 GLOBAL_MINIMUM, 1 UNDECIDED" in text
    assert ["1", "passed", "1", "[5, 1]"] in read.rows
    assert sum("UNDECIDED" in row for row in read.rows) == 2  # among all orbits, and by itself
    assert "Unfinished" not in text
    empty = census(settled=False, complete_as_tested=False, tests=[])
    assert "Unfinished" in empty
    assert "A completeness test is violated" in empty
    Reader(empty)
