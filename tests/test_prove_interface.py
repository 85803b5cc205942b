"""Proofs as users ask for them: census, certify, files; and the checker, which no corruption may fool."""

import copy
import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from experiments.check_proofs import check_all
from ufm_jax.cli import main

FLAGS = [
    "--num-classes",
    "3",
    "--per-class",
    "5",
    "--dim",
    "4",
    "--decay-w",
    "5e-3",
    "--decay-h",
    "1e-3",
    "--decay-b",
    "1e-2",
]
CENSUS = ["census", *FLAGS, "--starts", "600"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("census") / "out"
    main([*CENSUS, "--prove", "--out", str(out)])
    return out


@pytest.fixture
def held(folder):
    return json.loads((folder / "proofs.json").read_text())


def rows_of(folder):
    return list(csv.DictReader((folder / "orbits.csv").read_text().splitlines()))


def test_a_census_proves_its_orbits(folder, held):
    rows = rows_of(folder)
    assert [row["proved"] for row in rows] == ["true"] * 4
    assert list(rows[0])[8:] == ["proved", "name", "stabiliser"]
    assert held["alike"] == []
    for row, proof in zip(rows, held["proofs"], strict=True):
        assert (int(row["index"]), int(row["nullity"])) == (proof["index"], proof["nullity"])
        assert abs(float(row["loss"]) - float.fromhex(proof["lower"])) < 1e-12
    assert [proof["global_minimum"] for proof in held["proofs"]] == [True, False, False, False]
    assert ufm.load(folder).table["proved"].to_pylist() == [True] * 4


def test_what_was_proved_stays_when_the_census_is_taken_up_again(folder, capsys):
    main([*CENSUS, "--out", str(folder)])
    assert [row["proved"] for row in rows_of(folder)] == ["true"] * 4
    main([*CENSUS, "--prove", "--out", str(folder)])
    assert "4 of 4 orbits are proved, pairwise different" in capsys.readouterr().out


def test_without_being_asked_nothing_is_proved(tmp_path):
    main([*CENSUS, "--out", str(tmp_path / "out")])
    assert [row["proved"] for row in rows_of(tmp_path / "out")] == [""] * 4
    assert not (tmp_path / "out" / "proofs.json").exists()


def test_a_loss_that_cannot_be_proved_is_refused_before_the_census(tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nimport ufm_jax as ufm\n\n@dataclass(frozen=True)\n"
        "class Half(ufm.CrossEntropy):\n    convex = True\n\n    def value(self, Z, T):\n"
        "        return super().value(Z, T) / 2\n"
    )
    with pytest.raises(SystemExit):
        main([*CENSUS, "--loss", f"{tmp_path}/own.py:Half", "--prove", "--out", str(tmp_path / "out")])
    assert "loss: proofs are made of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_census_in_memory_is_proved():
    prob = ufm.problem(num_classes=3, per_class=5, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    atlas = ufm.census(prob, starts=600, prove=True)
    assert [row.proved for row in atlas.rows] == [True] * 4
    assert "4 of 4 orbits are proved, pairwise different" in str(atlas)


def test_certify_proves_the_orbit_next_to_a_point(tmp_path, capsys):
    prob = ufm.problem(num_classes=3, per_class=2, dim=3, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    etf = ufm.search(prob, prob.start(jax.random.key(0))).x
    labels = np.repeat(np.arange(3), 2)
    arrays = {"W": np.float32(etf.W), "H": np.float32(etf.H), "b": np.float32(etf.b), "labels": labels}
    np.savez(tmp_path / "point.npz", **arrays)
    decays = ["--decay-w", "5e-3", "--decay-h", "1e-3", "--decay-b", "1e-2", "--json"]
    main(["certify", str(tmp_path / "point.npz"), *decays, "--prove"])
    row = json.loads(capsys.readouterr().out)
    assert row["proved"] is True
    assert (row["proved_rank"], row["proved_index"], row["proved_nullity"]) == (2, 0, 3)
    assert row["proved_global_minimum"] is True
    assert row["not_proved"] is None
    known = float(ufm.global_minimum(prob))
    assert row["loss_lower"] - 1e-15 <= known <= row["loss_upper"] + 1e-15
    assert 1e-9 < row["proved_within"] < 1e-5  # rounded to float32
    main(["certify", str(tmp_path / "point.npz"), *decays])
    assert "proved" not in json.loads(capsys.readouterr().out)
    judged = ufm.certify(
        etf.W, etf.H, etf.b + 1.0, labels, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2, prove=True
    )
    assert judged.proof.proved is False
    assert "not_proved" in judged.row
    assert "nothing is proved" in str(judged)


def test_the_checker_accepts_what_was_proved(held):
    assert check_all(held) == []


def test_the_checker_accepts_other_models():
    for given in (
        {"decay_b": 0.0},
        {"bias": False},
        {
            "decay_b": 1e-2,
            "loss": ufm.CrossEntropy(smoothing=0.1, class_weights=(1, 2, 2), offsets=(0, 0.5, 0)),
        },
    ):
        prob = ufm.problem(counts=(3, 2, 1), dim=3, decay_w=5e-3, decay_h=1e-3, **given)
        points = [prob.zeros(), ufm.search(prob, prob.start(jax.random.key(0))).x]
        proofs = [ufm.prove(prob, x) for x in points]
        entries = [
            {"line": i, "loss": float(prob.value(x)).hex(), **proof.record()}
            for i, (x, proof) in enumerate(zip(points, proofs, strict=True))
        ]
        content = {"format": "ufm proofs 2", "digest": "", "orbits": 2, "alike": []}
        content["problem"] = prob.balls(prob.zeros()).problem()
        assert check_all({**content, "proofs": entries}) == []
        entries[1]["index"] += 1
        assert len(check_all({**content, "proofs": entries})) == 1


def raised(entry, name, by=1):
    entry[name] += by


def shifted(entry, by):
    """Change the largest number of the box by a part of itself."""
    sizes = [abs(int(a.split("p")[0], 16)) * 2.0 ** int(a.split("p")[1]) for a in entry["centre"]]
    place = int(np.argmax(sizes))
    mantissa, exponent = entry["centre"][place].split("p")
    entry["centre"][place] = f"{hex(int(int(mantissa, 16) * (1 + by)))}p{exponent}"


def f_beside(entry, ulps):
    for name in ("lower", "upper"):
        value = float.fromhex(entry[name])
        entry[name] = (value + ulps * np.spacing(value)).hex()


def lower_rank(entry):
    """Claim the rank of the origin, with as many numbers as it has."""
    entry["rank"] = 0
    entry["centre"] = entry["centre"][-3:]


CORRUPTIONS = {
    "index": lambda one: raised(one, "index"),
    "index lower": lambda one: raised(one, "index", -1),
    "nullity": lambda one: raised(one, "nullity"),
    "rank higher": lambda one: raised(one, "rank"),
    "rank": lower_rank,
    "centre": lambda one: shifted(one, 1e-6),
    "centre a little": lambda one: shifted(one, 1e-15),
    "bias": lambda one: one["centre"].__setitem__(-1, "0x1p-3"),
    "a number missing": lambda one: one["centre"].pop(),
    "no number": lambda one: one["centre"].__setitem__(0, "nan"),
    "wide box": lambda one: one.update(radius=(0.5).hex()),
    "narrow box": lambda one: one.update(radius=(2.0**-140).hex()),
    "no box": lambda one: one.update(radius=(0.0).hex()),
    "negative box": lambda one: one.update(radius=(-(2.0**-64)).hex()),
    "f": lambda one: f_beside(one, 8),
    "f turned round": lambda one: one.update(lower=one["upper"], upper=one["lower"]),
    "loss": lambda one: one.update(loss=(0.3).hex()),
    "global minimum": lambda one: one.update(global_minimum=not one["global_minimum"]),
    "precision": lambda one: one.update(precision=10),
}


@pytest.mark.parametrize("line", [0, 1, 3])
@pytest.mark.parametrize("what", list(CORRUPTIONS))
def test_the_checker_refuses_a_corrupted_proof(held, what, line):
    wrong = copy.deepcopy(held)
    if line == 3 and what in ("centre", "centre a little", "rank"):
        pytest.skip("the origin has no such number")
    CORRUPTIONS[what](wrong["proofs"][line])
    refused = check_all(wrong)
    assert refused
    assert all(f"line {line}" in said or f"lines {line}" in said or f"and {line}" in said for said in refused)


@pytest.mark.parametrize("name", ["decay_w", "decay_h", "decay_b"])
def test_the_checker_refuses_another_decay(held, name):
    """By a unit in the tenth digit. The origin of balanced classes is critical whatever the decays."""
    held["problem"][name] = (float.fromhex(held["problem"][name]) * (1 + 1e-10)).hex()
    refused = check_all(held)
    assert {said.split(":")[0] for said in refused} >= (
        {"line 0", "line 1", "line 2"} if name != "decay_b" else {"line 1"}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", [5, 5, 6]),
        ("dim", 5),
        ("dim", 1),
        ("bias", False),
        ("model", "another"),
        ("loss", {"name": "squared"}),
        ("loss", {"name": "cross-entropy", "smoothing": (0.1).hex(), "class_weights": None, "offsets": None}),
        ("decay_h", "-0x1.0p-9"),
    ],
)
def test_the_checker_refuses_another_problem(held, name, value):
    held["problem"][name] = value
    assert check_all(held)


def test_the_checker_refuses_an_orbit_told_twice(held):
    """The same box again, another point of the same orbit, and the same line number."""
    again = copy.deepcopy(held["proofs"][1])
    held["proofs"].append({**again, "line": 4})
    assert check_all(held) == ["the file: ValueError(\"not as shown: ['orbits']\")"]
    held["orbits"] = 5
    assert check_all(held) == ["lines 1 and 4: not shown to be different orbits"]
    K, centre = 3, again["centre"]  # of rank 1: minus W and H
    turned = [a[1:] if a.startswith("-") else f"-{a}" for a in centre[: 2 * K]]
    held["proofs"][4]["centre"] = turned + centre[2 * K :]
    assert check_all(held) == ["lines 1 and 4: not shown to be different orbits"]
    held["alike"] = [[1, 4]]
    assert check_all(held) == []
    held["proofs"][4]["line"] = 2
    assert check_all(held)


def places(held, path=()):
    """Every place of a file, whole parts too; of a box the first number."""
    if path:
        yield path
    if isinstance(held, dict | list):
        keys = (
            list(held)
            if isinstance(held, dict)
            else range(min(1, len(held)) if path[-1] == "centre" else len(held))
        )
        for key in keys:
            yield from places(held[key], (*path, key))


ODD = [None, True, 0, 7, -1.5, 10**400, "", "nan", "0x1p999999999", [], [[0, 1]], {}, "gone", "a sentence"]


def test_whatever_a_file_says_is_checked_or_refused(held):
    """Each part in turn is replaced by odd values, or left out: what is accepted claims nothing else."""
    one, other = held["proofs"][0], held["proofs"][3]
    failed = {**dict.fromkeys(one), "proved": False, "failed": "why", "statement": "nothing is proved: why"}
    held["proofs"] = [one, {**other, "line": 1}, {**failed, "line": 2, "centre": [], "loss": "0x1.0p+0"}]
    held["orbits"] = 3
    assert check_all(held) == []
    for path in places(held):
        for odd in ODD:
            wrong = copy.deepcopy(held)
            *parents, last = path
            inside = wrong
            for key in parents:
                inside = inside[key]
            if json.dumps(inside[last]) == json.dumps(odd):
                continue
            if odd == "gone":
                del inside[last]
            else:
                inside[last] = odd
            refused = check_all(wrong)
            unspoken = path == ("digest",) and isinstance(odd, str) and odd != "gone"
            less = path == ("alike",) and odd == [[0, 1]]
            found = (
                path == ("proofs", 2, "loss") and odd == "0x1p999999999"
            )  # of an entry that proves nothing
            assert refused or unspoken or less or found, (path, odd)
            assert all(len(said.splitlines()) == 1 for said in refused)


def test_a_dropped_or_renumbered_entry_and_an_edited_sentence_are_refused(held):
    for change in (
        lambda one: one["proofs"].pop(),
        lambda one: one["proofs"].pop(0),
        lambda one: one["proofs"].reverse(),
        lambda one: one["proofs"][2].update(line=1),
        lambda one: one["proofs"][1].update(
            statement=one["proofs"][1]["statement"].replace("index 3", "index 0")
        ),
        lambda one: one["proofs"][1].update(note="it is a global minimum"),
        lambda one: one.update(note="nothing else exists"),
        lambda one: one["problem"].update(note="any d"),
        lambda one: one["proofs"][1].update(proved=False),
    ):
        wrong = copy.deepcopy(held)
        change(wrong)
        assert check_all(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "NaN",
        '{"proofs": NaN}',
        "not json",
        "[" * 100_000,
        "1" * 5000,
        '{"format": "ufm proofs 2", "format": "ufm proofs 2"}',
        "\udcff",
    ],
    ids=range(10),
)
def test_odd_files_are_refused_in_a_line(tmp_path, text):
    (tmp_path / "odd.json").write_bytes(text.encode(errors="surrogateescape"))
    found = subprocess.run(
        [sys.executable, "experiments/check_proofs.py", str(tmp_path / "odd.json")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == ""
    refused, last = found.stdout.splitlines()
    assert refused.startswith("refused: ")
    assert last == "REFUSED"


def test_a_row_that_says_otherwise_is_not_proved(folder):
    from ufm_jax.landscape.proof import prove_row

    atlas = ufm.load(folder)
    row = atlas.rows[1]._replace(index=7)
    proof = prove_row(atlas.landscape.balls(atlas[1].x), row)
    assert not proof.proved
    assert "index 7, proved is 3" in proof.failed


def test_proofs_of_another_census_mark_nothing(folder, tmp_path):
    main([*CENSUS[:-2], "--starts", "300", "--decay-w", "6e-3", "--out", str(tmp_path / "out")])
    (tmp_path / "out" / "proofs.json").write_bytes((folder / "proofs.json").read_bytes())
    main([*CENSUS[:-2], "--starts", "600", "--decay-w", "6e-3", "--out", str(tmp_path / "out")])
    assert {row["proved"] for row in rows_of(tmp_path / "out")} == {""}
    assert jnp.isfinite(jnp.asarray([float(row["loss"]) for row in rows_of(tmp_path / "out")])).all()
