"""The ruler between two commits sees every kind of difference, and nothing where there is none."""

import signal
import subprocess

import numpy as np
import pytest

from experiments.compare import two_trees
from experiments.compare.__main__ import said_of_rates
from experiments.compare.differences import differences, distance, said, table_of
from experiments.compare.two_trees import trees
from experiments.compare.workloads import SCALES, points

KEY = ("target", "start")
ROWS = {
    "target": ["minima", "minima", "saddles"],
    "start": [0, 1, 0],
    "loss": [1.0, 2.0, 3.0],
    "index": [0, None, 2],
    "verdict": ["GLOBAL_MINIMUM", "STRICT_SADDLE", "STRICT_SADDLE"],
    "W": [np.eye(2), np.ones((2, 2)), np.zeros((2, 2))],
}


def changed(column, row, value):
    """Return the rows with one entry changed."""
    return ROWS | {column: [value if i == row else v for i, v in enumerate(ROWS[column])]}


def without(row):
    """Return the rows but one."""
    return {name: [v for i, v in enumerate(values) if i != row] for name, values in ROWS.items()}


def test_equal_tables_do_not_differ_in_any_order():
    backwards = {name: values[::-1] for name, values in ROWS.items()}
    found = differences(ROWS, backwards, KEY)
    assert (found.rows, found.cells, found.only_here, found.only_there) == (3, [], [], [])
    assert said(found) == []


@pytest.mark.parametrize(
    ("column", "row", "value", "size"),
    [
        ("loss", 1, 2.0 + 3e-11, 1e-11),
        ("loss", 2, np.nan, np.inf),
        ("loss", 2, np.inf, np.inf),
        ("loss", 0, None, np.inf),
        ("index", 1, 4, np.inf),
        ("index", 2, None, np.inf),
        ("index", 2, 3, 1 / 4),
        ("verdict", 1, "LOCAL_MINIMUM", np.inf),
        ("verdict", 0, None, np.inf),
        ("W", 1, np.array([[1.0, 1.0], [1.0, 1.5]]), 0.2),
        ("W", 1, np.ones((2, 3)), np.inf),
    ],
)
def test_one_changed_entry_is_the_one_difference(column, row, value, size):
    found = differences(ROWS, changed(column, row, value), KEY)
    (cell,) = found.cells
    assert (cell.column, cell.key) == (column, (ROWS["target"][row], ROWS["start"][row]))
    np.testing.assert_allclose(cell.size, size, rtol=1e-4)
    text = "\n".join(said(found))
    assert column in text
    assert f"{ROWS['target'][row]}, {ROWS['start'][row]}" in text


def test_nulls_are_counted_for_each_column():
    there = changed("index", 1, 4) | {"loss": [None, None, 3.0]}
    text = "\n".join(said(differences(ROWS, there, KEY)))
    assert "loss: 2 of 3 rows, 2 of them null in one only" in text
    assert "index: 1 of 3 rows, 1 of them null in one only" in text


def test_rounding_is_no_difference_and_what_is_beyond_it_is():
    assert differences(ROWS, changed("loss", 1, 2.0 + 2.9e-12), KEY).cells == []
    assert len(differences(ROWS, changed("loss", 1, 2.0 + 3.1e-12), KEY).cells) == 1
    assert 0.9e-13 < distance(0.0, 1e-13) <= 1e-13
    assert distance(1e9, 1e9 + 1e-3) < 1.1e-12


def test_missing_rows_and_columns_are_reported_as_such():
    there = without(1) | {"nc9": [0.0, 0.0]}
    del there["verdict"]
    found = differences(ROWS, there, KEY)
    assert (found.rows, found.only_here, found.only_there) == (2, [("minima", 1)], [])
    assert (found.columns_here, found.columns_there) == (["verdict"], ["nc9"])
    assert found.cells == []
    assert "1 row only here: minima, 1" in "\n".join(said(found))


def test_a_column_of_the_key_that_one_has_not_is_a_column_like_others():
    there = {name: values for name, values in without(2).items() if name != "target"}
    found = differences(without(2), there, KEY)
    assert (found.rows, found.cells, found.columns_here) == (2, [], ["target"])


def test_rows_without_a_key_are_compared_in_order():
    orbits = {"loss": [1.0, 2.0], "rank": [1, 2]}
    assert differences(orbits, {"loss": [2.0, 1.0], "rank": [2, 1]}, ()).cells[0].key == (0,)
    assert differences(orbits, {"loss": [1.0], "rank": [1]}, ()).only_here == [(1,)]


def test_at_most_so_many_rows_are_shown_and_all_are_counted():
    here = {"start": list(range(50)), "loss": [0.0] * 50}
    there = here | {"loss": [1.0] * 50}
    lines = said(differences(here, there, ("start",)), show=3)
    assert sum("here 0.0" in line for line in lines) == 3
    assert any("50 of 50 rows" in line for line in lines)
    assert any("47 more" in line for line in lines)


def test_a_json_object_is_a_table_of_one_row():
    table = table_of({"K": 3, "theta": None, "tests": [{"dim": 1, "remainder": [5, 1]}]})
    assert (table["K"], table["theta"]) == ([3], [None])
    other = table_of({"K": 3, "theta": None, "tests": [{"dim": 1, "remainder": [5, 2]}]})
    assert [cell.column for cell in differences(table, other, ()).cells] == ["tests"]


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ([100.0, 101.0, 99.0], [100.0, 99.0, 102.0], "no difference beyond the noise"),
        ([150.0, 151.0, 149.0], [100.0, 99.0, 102.0], "faster here in every turn"),
        ([50.0, 51.0, 52.0], [100.0, 99.0, 102.0], "slower here in every turn"),
        ([150.0], [100.0], "one turn says nothing of the noise"),
        ([np.nan, 100.0], [100.0, 100.0], "the noise is larger than the time of the starts"),
    ],
)
def test_a_ratio_is_claimed_only_beyond_the_noise(here, there, words):
    assert words in said_of_rates(here, there)


def test_points_to_certify_fit_their_problem(tmp_path):
    for file in points(tmp_path):
        with np.load(file) as found:
            K, d = found["W"].shape
            assert found["H"].shape == (d, len(found["labels"]))
            assert set(found["labels"].tolist()) == set(range(K))


def test_names_of_workloads_are_different():
    for scale in SCALES.values():
        names = [work.name for work in scale.works]
        assert len(set(names)) == len(names)


@pytest.fixture
def repository(tmp_path):
    """A repository of two commits, with a change that is not committed."""
    root = tmp_path / "repository"
    file = root / "ufm_jax" / "file"
    file.parent.mkdir(parents=True)
    git = lambda *words: subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    git("init", "-q")
    for text in ("first", "second"):
        file.write_text(text)
        git("add", "ufm_jax")
        git("commit", "-qm", text)
    file.write_text("changed")
    return root, git


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError, signal.SIGTERM])
def test_the_other_work_tree_is_gone_afterwards_whatever_happens(repository, error):
    root, git = repository
    before = git("status", "--porcelain"), git("rev-parse", "HEAD")
    seen = []

    def use():
        with trees(root, "HEAD~1") as pair:
            seen.extend(tree.path for tree in pair)
            assert [(tree.path / "ufm_jax" / "file").read_text() for tree in pair] == ["changed", "first"]
            if error is signal.SIGTERM:
                signal.raise_signal(signal.SIGTERM)
            elif error:
                raise error

    if error:
        with pytest.raises(SystemExit if error is signal.SIGTERM else error):
            use()
    else:
        use()
    assert not any(path.exists() or path == root for path in seen)
    assert len(git("worktree", "list").splitlines()) == 1
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD")) == before


@pytest.mark.parametrize("commit", ["no-such-thing", "--help", "HEAD~7"])
def test_a_commit_that_is_none_ends_in_one_line(repository, commit):
    root, _ = repository
    with pytest.raises(ValueError, match=f"with: .*{commit}"), trees(root, commit):
        pass


def test_a_failing_command_is_one_line(tmp_path):
    box = "╭─ Parsing error ──╮\n│ Unrecognized options: --spectra │\n╰──────────╯\n"
    assert two_trees.one_line(box) == "Unrecognized options: --spectra"
    assert (
        two_trees.one_line("Traceback\n  File x\nValueError: dim: need >= 1") == "ValueError: dim: need >= 1"
    )
    assert two_trees.one_line("compiling\nufm: error: counts: none\n") == "ufm: error: counts: none"
    assert two_trees.one_line("") == "no message"
