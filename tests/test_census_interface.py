"""`census` from Python: the atlas of orbits in memory and in a folder, and where a point is on it."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import dense, make
from matplotlib.figure import Figure

from ufm_jax.census_interface import census
from ufm_jax.cli import main
from ufm_jax.interface import flow_from, load
from ufm_jax.landscape.grid import grid
from ufm_jax.landscape.search import CriticalPoint, LevenbergMarquardt, search
from ufm_jax.models.factorisation import Factorisation
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.runs.orbits import Atlas

# d above K − 1, so that a point of an orbit is in no particular frame
PROB = make((5, 5, 5), 3)
FLAGS = "--num-classes 3 --per-class 5 --dim 3 --decay-w 5e-3 --decay-h 1e-3 --decay-b 1e-2"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return census(PROB, starts=600)


def moved(p, seed=0):
    """Rotate features and permute classes, samples within classes staying alike."""
    Q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (3, 3)))
    order = np.array([2, 0, 1])
    columns = np.concatenate([np.flatnonzero(PROB.labels == k) for k in order])
    return p._replace(W=(p.W @ Q)[order], H=(Q.T @ p.H)[:, columns], b=p.b[order])


@pytest.mark.slow
def test_an_atlas_lists_orbits_and_points_of_the_full_problem(atlas):
    assert atlas.table.select(["rank", "copies", "verdict"]).to_pylist() == [
        {"rank": 2, "copies": 1, "verdict": "GLOBAL_MINIMUM"},
        {"rank": 1, "copies": 3, "verdict": "STRICT_SADDLE"},
        {"rank": 1, "copies": 3, "verdict": "STRICT_SADDLE"},
        {"rank": 0, "copies": 1, "verdict": "STRICT_SADDLE"},
    ]
    assert atlas.complete is True
    assert atlas.summary["num_starts"] == 600
    for orbit in atlas:
        assert orbit.params.H.shape == (3, 15)
        assert orbit.x is orbit.params
        np.testing.assert_allclose(objective(PROB)(orbit.x), orbit.row.loss, rtol=1e-12)
        eigenvalues = np.linalg.eigvalsh(dense(PROB, orbit.x))
        assert np.sum(eigenvalues < -1e-8) == orbit.row.index
        assert np.sum(np.abs(eigenvalues) < 1e-8) == orbit.row.nullity


def test_a_list_that_lacks_an_orbit_is_not_complete_and_one_with_a_degenerate_orbit_is_open(atlas):
    def without(line, evidence=None):
        kept = np.delete(np.arange(4), line)
        state = atlas.state._replace(
            points=atlas.state.points[kept],
            hits=atlas.state.hits[kept],
            copies=atlas.state.copies[kept],
            evidence={name: values[kept] for name, values in atlas.state.evidence.items()},
        )
        return Atlas(PROB, state)

    assert without(1).complete is False
    assert "INCOMPLETE" in repr(without(1))
    nullity = atlas.state.evidence["nullity"] + 1
    state = atlas.state._replace(evidence=atlas.state.evidence | {"nullity": nullity})
    degenerate = Atlas(PROB, state)
    assert degenerate.complete is None
    assert "not testable" in repr(degenerate)


@pytest.mark.parametrize("line", range(4))
def test_a_point_is_located_whatever_its_rotation_and_order_of_classes(atlas, line):
    x = atlas[line].x
    assert atlas.locate(x) == line
    assert atlas.locate(moved(x)) == line


def test_what_is_on_no_orbit_is_not_located(atlas):
    x = atlas[0].x
    assert atlas.locate(x._replace(W=2 * x.W, H=x.H / 2)) is None  # the same logits
    assert (
        atlas.locate(x._replace(H=x.H.at[0, 0].add(0.1).at[0, 1].add(-0.1))) is None
    )  # the same class means
    assert atlas.locate(x._replace(b=x.b.at[0].add(0.1))) is None
    with pytest.raises(ValueError, match=r"^H: need shape"):
        atlas.locate(x._replace(H=x.H.T))
    with pytest.raises(ValueError, match=r"^W: has .* non-finite"):
        atlas.locate(x._replace(W=x.W * jnp.nan))


def test_ends_of_searches_are_on_the_atlas(atlas):
    found = search(PROB, etf_minimiser(PROB), LevenbergMarquardt())
    assert atlas.locate(found.x) == 0
    assert atlas.locate(PROB.zeros()) == 3


def test_an_atlas_prints_its_table_and_draws_itself(atlas):
    assert repr(atlas) == ("Atlas(4 orbits of counts (5, 5, 5) in d = 3; complete as tested, not settled)")
    lines = str(atlas).splitlines()
    assert lines[0] == repr(atlas)
    assert lines[1].split()[:4] == ["loss", "rank", "index", "nullity"]
    assert "GLOBAL_MINIMUM" in lines[2]
    assert "GLOBAL_MINIMUM" in repr(atlas[0])
    assert atlas.plot(Figure().subplots()).get_xlabel().startswith("Morse index")


def test_a_flow_out_of_a_saddle_is_drawn_on_the_atlas_s_graph(atlas):
    flow = flow_from(atlas.landscape, atlas[1].x)
    ax = flow.plot(Figure().subplots(), atlas=atlas)
    steps = [(arrow.xyann, arrow.xy) for arrow in ax.texts]
    assert [place for place, _ in steps[1:]] == [end for _, end in steps[:-1]]
    first, last = steps[0][0], steps[-1][1]
    assert first == (atlas[1].row.index, atlas[1].row.loss)
    assert last == (0, atlas[0].row.loss)


def test_a_folder_is_that_of_the_command_and_goes_on(atlas, tmp_path, capsys):
    out = tmp_path / "atlas"
    first = census(PROB, starts=300, out=out)
    assert first.state.num_starts == 300
    main(["census", *FLAGS.split(), "--starts", "600", "--out", str(out)])
    assert "4 orbits from 600 starts" in capsys.readouterr().out
    again = census(PROB, starts=600, out=str(out), progress=True)
    assert "600 starts done before" in capsys.readouterr().err
    for held in (again, load(out)):
        assert held.table.drop_columns("hits").equals(atlas.table.drop_columns("hits"))
        assert held.locate(atlas[1].x) == 1
        assert held.complete
    assert json.loads((out / "manifest.json").read_text())["config"]["counts"] == [5, 5, 5]
    with pytest.raises(ValueError, match=r"^out: .* holds a different run \(other decay_w"):
        census(replace(PROB, decay_w=jnp.asarray(1e-3)), out=out)


def test_the_loss_is_part_of_the_folder(tmp_path):
    prob = replace(PROB, loss=CrossEntropy(smoothing=0.1, class_weights=(1, 2, 1)))
    census(prob, starts=50, out=tmp_path)
    assert load(tmp_path).landscape.loss == prob.loss


def test_what_no_census_is_of_is_refused_and_says_what_to_do():
    with pytest.raises(ValueError, match=r"^landscape: a census is of one setting"):
        census(grid(Factorisation(M=np.eye(2), decay=0.1, rank=1), decay=[0.1, 0.2]))
    for wrong, named in (
        (collapse(PROB), "prob"),
        (replace(PROB, decay_w=jnp.ones(2)), "decay_w"),
        (replace(PROB, loss=Focal(gamma=2.0)), "loss"),
        (make((2,) * 12, 11), "counts"),
    ):
        with pytest.raises(ValueError, match=f"^{named}: "):
            census(wrong)
    for given in ({"starts": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(given))}: "):
            census(PROB, **given)


def test_ends_of_searches_print_in_one_line():
    one = search(PROB, etf_minimiser(PROB))
    assert repr(one).startswith("CriticalPoint(CONVERGED, gradient norm ")
    assert repr(one).endswith("steps; W (3, 3), H (3, 15), b (3,))")
    many = jax.tree.map(lambda a: jnp.stack([a, a]), one)
    assert repr(many).startswith("CriticalPoint(2 points: CONVERGED 2; largest gradient norm ")
    said = []

    @jax.jit
    def traced(found):
        said.append(repr(found))
        return found.grad_norm

    traced(one)
    jax.vmap(lambda found: said.append(str(found)))(many)
    jax.eval_shape(lambda found: said.append(repr(found)), one)
    assert [words.split(";")[0] for words in said] == ["CriticalPoint(traced"] * 3
    assert repr(jax.eval_shape(lambda: one)).startswith("CriticalPoint(no numbers; W (3, 3)")
    empty = CriticalPoint(
        x=jnp.zeros((0, 2)), grad_norm=jnp.zeros(0), status=jnp.zeros(0, int), num_steps=jnp.zeros(0, int)
    )
    assert repr(empty) == "CriticalPoint(0 points: none; x (0, 2))"


@pytest.mark.parametrize("line", range(4))
def test_the_nearest_orbit_is_where_a_point_is_or_was_moved_from(atlas, line):
    x = moved(atlas[line].x)
    there = jax.tree.map(lambda a: jnp.stack([a, a * (1 + 1e-4)]), x)
    lines, distances = atlas.nearest(there)
    assert lines.tolist() == [line, line]
    assert distances[0] < 1e-7
    assert line == 3 or 1e-6 < distances[1] < 1e-3  # the origin stays where it is


def test_points_of_another_shape_are_near_no_orbit(atlas):
    with pytest.raises(ValueError, match=r"^W: "):
        atlas.nearest(atlas[0].x)
