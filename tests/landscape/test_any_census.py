"""A census of any landscape: against lists known in closed form, in memory, in a folder and as a command."""

import csv
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.cli import main
from ufm_jax.landscape import census
from ufm_jax.landscape.orbits import rows
from ufm_jax.models.factorisation import Factorisation, critical_point_of, critical_values

DECAY, RANK = 0.1, 2
M = np.diag([4.0, 3.0, 2.0, 1.0])
FLAGS = ["--landscape", "ufm_jax.models.factorisation:Factorisation", "--set", f"M={M.tolist()}"]
FLAGS = [*FLAGS, f"decay={DECAY}", f"rank={RANK}"]


class Mirrored(ufm.Landscape):
    """The six-hump camel function (Dixon & Szegö 1978): 6 minima, 7 saddles and 2 maxima; f(−x) = f(x)."""

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        u, v = x
        return (4 - 2.1 * u**2 + u**4 / 3) * u**2 + u * v + (4 * v**2 - 4) * v**2

    def start(self, key):
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([2.5, 1.5])


class Camel(Mirrored):
    """The same, where a point and its mirror image are two."""

    def invariants(self, x):
        return x


def factorisation():
    return Factorisation(M=M, decay=DECAY, rank=RANK)


@pytest.fixture(scope="module")
def atlas():
    return ufm.census(factorisation(), starts=1000)


def expected():
    return critical_values(M, DECAY, RANK)


def check(rows):
    """Compare orbits with the closed form: all eleven, their index, and no null direction but the orbit's."""
    assert len(rows) == len(expected()) == 11
    for row, want in zip(rows, expected(), strict=True):
        assert row["loss"] == pytest.approx(want.value, rel=1e-12)
        assert (row["index"], row["orbit_dim"], row["nullity"]) == (
            want.index,
            want.orbit_dim,
            want.orbit_dim,
        )
        assert row["rank"] is row["copies"] is None


def test_every_orbit_of_a_factorisation_is_listed(atlas):
    check(atlas.table.to_pylist())
    assert atlas.table["verdict"].to_pylist() == ["GLOBAL_MINIMUM"] + 10 * ["STRICT_SADDLE"]
    assert atlas.state.hits.sum() + atlas.state.num_failed == atlas.state.num_starts == 1000
    assert atlas.complete is None  # no test is known
    assert atlas.summary["complete_as_tested"] is None
    assert repr(atlas) == "Atlas(11 orbits of Factorisation; completeness not testable, not settled)"


@pytest.mark.parametrize("line", range(11))
def test_a_point_is_located_modulo_the_symmetry(atlas, line):
    x = critical_point_of(M, DECAY, RANK, expected()[line].chosen)
    Q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(line), (RANK, RANK)))
    assert atlas.locate(jax.tree.map(lambda a: a @ Q, x)) == line
    assert atlas.locate(atlas[line].x) == line
    assert atlas.locate(jax.tree.map(lambda a: a + 0.01, x)) is None


@pytest.fixture(scope="module")
def camel():
    return ufm.census(Camel())


def test_the_fifteen_critical_points_of_the_camel_function(camel):
    index = np.array(camel.table["index"].to_pylist())
    assert [int(np.sum(index == i)) for i in range(3)] == [6, 7, 2]
    assert camel.state.settled
    assert np.sum((-1) ** index) == 1  # Morse: f grows in all directions
    assert camel[0].row.loss == pytest.approx(-1.031628453489877, abs=1e-12)
    gradients = [float(jnp.linalg.norm(jax.grad(Camel().value)(orbit.x))) for orbit in camel]
    assert max(gradients) < 1e-9


def test_by_default_points_of_one_value_and_spectrum_are_one_orbit():
    # The saddle at the origin is its own mirror image.
    assert sorted(row.index for row in ufm.census(Mirrored(), starts=1000).rows) == [0] * 3 + [1] * 4 + [2]


def test_minima_alone_are_what_descents_find():
    state = census.find_orbits(Camel(), starts=500, target="minima")
    assert {row.index for row in rows(Camel(), state)} == {0}


def test_starts_are_shared_by_descents_and_searches_for_saddles():
    one = ufm.census(Camel(), starts=1)
    assert [row.index for row in one.rows] == [0]  # the first descends
    assert ufm.census(Camel(), starts=4).state.num_starts == 4


def test_a_census_goes_on_in_a_folder_and_by_the_command(atlas, tmp_path, capsys):
    out = tmp_path / "run"
    ufm.census(factorisation(), starts=300, out=out)
    command = ["census", *FLAGS, "--out", str(out)]
    main([*command, "--starts", "1000"])
    said = capsys.readouterr().out
    assert "11 orbits from 1000 starts" in said
    with (out / "orbits.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert (
        ",".join(lines[0]) == "loss,rank,index,nullity,orbit_dim,copies,verdict,hits,proved,name,stabiliser"
    )
    assert {(line["rank"], line["copies"]) for line in lines} == {("", "")}
    assert [int(line["hits"]) for line in lines] == atlas.table["hits"].to_pylist()
    with np.load(out / "orbits.npz") as held:
        assert held["U"].shape == held["V"].shape == (11, 4, RANK)
    for again in (ufm.load(out), ufm.load(out, landscape=factorisation())):
        check(again.table.to_pylist())
        np.testing.assert_array_equal(again.state.points, atlas.state.points)
    with pytest.raises(ValueError, match=r"^landscape: it is not the one of"):
        ufm.load(out, landscape=Factorisation(M=2 * M, decay=DECAY, rank=RANK))
    with pytest.raises(SystemExit):
        main([*command, "--seed", "7"])
    assert "holds a different run (other seed" in capsys.readouterr().err


def test_the_report_of_a_census_of_any_landscape(tmp_path):
    ufm.census(factorisation(), starts=100, out=tmp_path)
    main(["report", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert "<title>Census: ufm_jax.models.factorisation:Factorisation" in page
    assert "knows no test of completeness" in page
    assert "ufm census --landscape ufm_jax.models.factorisation:Factorisation --set" in page
    assert "violated" not in page


def test_a_class_in_a_file_and_repair(tmp_path, capsys):
    file, out = tmp_path / "well.py", tmp_path / "run"
    file.write_text(
        textwrap.dedent("""
        import jax.numpy as jnp
        import ufm_jax as ufm
        from jax import Array

        class Well(ufm.Landscape):
            depth: Array

            def zeros(self):
                return {"x": jnp.zeros(2)}

            def value(self, p):
                return jnp.sum(p["x"] ** 4 / 4 - self.depth * p["x"] ** 2 / 2)
        """)
    )
    command = ["census", "--landscape", f"{file}:Well", "--out", str(out), "--starts", "200"]
    main([*command, "--set", "depth=2"])
    capsys.readouterr()
    rows = (out / "orbits.csv").read_text()
    assert [line.split(",")[2] for line in rows.splitlines()[1:]] == ["0", "1", "2"]
    (out / "orbits.npz").write_bytes(b"garbage")
    main([*command, "--set", "depth=2", "--repair"])
    assert (out / "orbits.csv").read_text() == rows
    assert (out / "bad" / "orbits.npz").exists()
    (out / "manifest.json").unlink()
    main([*command, "--set", "depth=2", "--repair"])
    assert json.loads((out / "manifest.json").read_text())["config"]["landscape"] == f"{file}:Well"
    for wrong, named in (
        (["--set", "depth=1", "depth=2"], "set: a census is of one setting"),
        (["--set", "depth=2", "--dim", "3"], "dim: this is a flag of the unconstrained"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*command, *wrong])
        assert named in capsys.readouterr().err


def test_what_no_census_can_be_of_is_refused():
    large = ufm.Landscape.of(lambda x: jnp.sum(x**2), jnp.zeros(3000))
    with pytest.raises(ValueError, match=r"^landscape: a census is of at most 2000 variables"):
        ufm.census(large)
    slow = ufm.Landscape.of(lambda x: jnp.sum(x**2), jnp.zeros(1000))
    with pytest.raises(ValueError, match=r"^landscape: a census of .* hours"):
        ufm.census(slow)


def test_a_leaf_cannot_be_called_as_an_array_of_every_folder(tmp_path):
    file = tmp_path / "named.py"
    file.write_text(
        textwrap.dedent("""
        import jax.numpy as jnp
        import ufm_jax as ufm

        class Named(ufm.Landscape):
            def zeros(self):
                return {"copies": jnp.zeros(2)}

            def value(self, p):
                return jnp.sum(p["copies"] ** 2)
        """)
    )
    with pytest.raises(SystemExit):
        main(["census", "--landscape", f"{file}:Named", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_points_on_one_family_are_one_row():
    # A ring of minima that nobody said is a symmetry: degenerate, with the family's dimension as nullity.
    ring = ufm.Landscape.of(lambda x: (jnp.sum(x**2) - 1) ** 2, jnp.zeros(2))
    found = ufm.census(ring, starts=100)
    assert found.table.select(["index", "nullity", "orbit_dim", "verdict"]).to_pylist() == [
        {"index": 0, "nullity": 1, "orbit_dim": 0, "verdict": "DEGENERATE"},
        {"index": 2, "nullity": 0, "orbit_dim": 0, "verdict": "STRICT_SADDLE"},
    ]
