"""Sweeps and verdicts from Python, of landscapes whose critical points are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_near

import ufm_jax as ufm
from ufm_jax.landscape.point import ravel
from ufm_jax.models.factorisation import Factorisation, critical_point_of, critical_values
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.runs import engine

M, DECAY, RANK = np.diag([4.0, 3.0, 2.0, 1.0]), 0.1, 2
LISTED = critical_values(M, DECAY, RANK)


@pytest.fixture(scope="module")
def factors():
    return Factorisation(M=M, decay=DECAY, rank=RANK)


@pytest.fixture(scope="module")
def saddles(factors):
    return ufm.sweep(factors, starts=2000, target="saddles", seed=1)


def test_a_sweep_finds_the_orbits_that_there_are_and_no_other(saddles):
    """All eleven choices of at most two of four singular values, with their values, indices and orbits."""
    found = saddles.orbits
    assert found.num_rows == len(LISTED) == 11
    np.testing.assert_allclose(found["loss"].to_numpy(), [one.value for one in LISTED], atol=1e-10)
    assert found["index"].to_pylist() == [one.index for one in LISTED]
    assert found["nullity"].to_pylist() == [one.orbit_dim for one in LISTED]
    assert found["verdict"].to_pylist() == ["GLOBAL_MINIMUM"] + ["STRICT_SADDLE"] * 10
    assert sum(found["hits"].to_pylist()) == np.sum(saddles.orbit >= 0)


def test_every_row_is_of_the_orbit_of_its_value(saddles):
    loss, values = saddles.table["loss"].to_numpy(), np.array([one.value for one in LISTED])
    critical = saddles.orbit >= 0
    assert np.mean(critical) > 0.9
    nearest = np.argmin(np.abs(loss[critical, None] - values), axis=1)
    np.testing.assert_array_equal(saddles.orbit[critical], nearest)
    assert set(np.array(saddles.table["verdict"].to_pylist())[~critical]) <= {"NOT_CRITICAL"}


def test_a_row_s_point_is_where_its_search_ended(saddles, factors):
    for row in saddles.orbits["row"].to_pylist():
        point = saddles.point(row)
        np.testing.assert_allclose(factors.value(point.x), saddles.table["loss"][row].as_py(), rtol=1e-14)
        assert point.grad_norm <= 1e-9
        assert ufm.Status(int(point.status)).name == saddles.table["status"][row].as_py()
    for row in (-1, 2000):
        with pytest.raises(ValueError, match=rf"^row: need 0 <= row < 2000, got {row}"):
            saddles.point(row)


def test_what_is_printed_names_orbits_and_counts(saddles):
    text = str(saddles)
    assert "Factorisation: 2000 searches" in text
    assert "11 distinct critical orbits" in text
    assert text.count("GLOBAL_MINIMUM") >= 1
    lines = text.splitlines()
    for one, line in zip(LISTED, lines[-11:], strict=True):
        loss, verdict, index, nullity, _ = line.split()
        assert abs(float(loss) - one.value) < 1e-7
        assert (verdict == "GLOBAL_MINIMUM", int(index), int(nullity)) == (
            one is LISTED[0],
            one.index,
            one.orbit_dim,
        )


@pytest.mark.parametrize("one", LISTED, ids=lambda one: str(one.chosen))
def test_a_closed_form_is_judged_as_it_says(factors, one):
    x = critical_point_of(M, DECAY, RANK, one.chosen)
    seen = ufm.classify(factors, x)
    minimum = one is LISTED[0]
    assert seen.verdict == (ufm.Verdict.GLOBAL_MINIMUM if minimum else ufm.Verdict.STRICT_SADDLE)
    assert (seen.index, seen.nullity, seen.orbit_dim) == (one.index, one.orbit_dim, one.orbit_dim)
    np.testing.assert_allclose([seen.loss, seen.bound], [one.value, LISTED[0].value], atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(dense_hessian(factors.value)(x))
    beyond = eigenvalues[np.argsort(np.abs(eigenvalues))][one.orbit_dim :]  # all but the orbit's
    np.testing.assert_allclose(seen.lambda_min, beyond.min(), atol=1e-9)
    assert seen.measures["imbalance"] == pytest.approx(0.0, abs=1e-12)
    if not minimum:
        np.testing.assert_allclose(seen.curvature, eigenvalues[0], atol=1e-9)
        v = ravel(seen.direction)
        np.testing.assert_allclose(v @ dense_hessian(factors.value)(x) @ v, seen.curvature, atol=1e-12)


def test_a_second_verdict_compiles_nothing(factors):
    ufm.classify(factors, critical_point_of(M, DECAY, RANK, (1,)))
    other = Factorisation(M=M + 0.5, decay=0.2, rank=RANK)
    x = critical_point_of(M + 0.5, 0.2, RANK, (0,))
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert ufm.classify(other, x).verdict == ufm.Verdict.STRICT_SADDLE
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_saddles_of_one_index_are_all_that_a_search_toward_them_finds(factors, index):
    run = ufm.sweep(factors, starts=150, target=index)
    assert set(run.table["target"].to_pylist()) == {str(index)}
    expected = [one.value for one in LISTED if one.index == index]
    done = np.array(run.table["status"].to_pylist()) == "CONVERGED"
    assert set(np.array(run.table["index"].to_pylist())[done]) == {index}
    values = run.orbits.filter(np.array(run.orbits["index"].to_pylist()) == index)["loss"].to_numpy()
    np.testing.assert_allclose(values, expected, atol=1e-10)


def test_both_targets_are_twice_as_many_rows(factors):
    both = ufm.sweep(factors, starts=20, target="both", seed=4)
    assert both.table["target"].to_pylist() == ["minima"] * 20 + ["saddles"] * 20
    assert set(both.table["verdict"].to_pylist()[:20]) == {"GLOBAL_MINIMUM"}
    for target in ("minima", "saddles"):
        alone = ufm.sweep(factors, starts=20, target=target, seed=4)
        rows = both.table.filter(np.array(both.table["target"].to_pylist()) == target)
        np.testing.assert_allclose(rows["loss"].to_numpy(), alone.table["loss"].to_numpy(), rtol=1e-14)


def test_own_starts_are_searched_in_their_order(factors):
    """From beside each closed form a search toward saddles ends on its orbit."""
    points = [critical_point_of(M, DECAY, RANK, one.chosen) for one in LISTED]
    rng = np.random.default_rng(0)
    begin = jax.tree.map(lambda *a: np.stack(a), *points)
    begin = jax.tree.map(lambda a: a + 1e-4 * rng.normal(size=a.shape), begin)
    run = ufm.sweep(factors, starts=begin, target="saddles")
    assert run.table["start"].to_pylist() == list(range(11))
    np.testing.assert_allclose(run.table["loss"].to_numpy(), [one.value for one in LISTED], atol=1e-10)
    np.testing.assert_array_equal(run.orbit, np.arange(11))
    one = jax.tree.map(lambda a: a[0], begin)
    with pytest.raises(ValueError, match=r"^U: need shape .*one start needs a leading axis"):
        ufm.sweep(factors, starts=one)


def test_a_grid_keeps_its_settings_apart(factors):
    decays = [0.1, 0.5, 1.5]
    run = ufm.sweep(ufm.grid(factors, decay=decays), starts=200, target="saddles")
    assert run.table.num_rows == 600
    for setting, decay in enumerate(decays):
        rows = run.orbits.filter(run.orbits["decay"].to_numpy() == decay)
        expected = critical_values(M, decay, RANK)
        values = np.array([one.value for one in expected])
        found = rows["loss"].to_numpy()
        distance = np.abs(found[:, None] - values).min(axis=1)
        assert np.all(distance < 1e-9)
        assert len(found) >= len(values) - 2  # of 200 starts: not every saddle is found
        assert set(run.setting[run.table["decay"].to_numpy() == decay]) == {setting}
        row = rows["row"][0].as_py()
        alone = Factorisation(M=M, decay=decay, rank=RANK)
        np.testing.assert_allclose(alone.value(run.point(row).x), found[0], rtol=1e-13)


class Network(ufm.Landscape):
    """A tanh network of one hidden layer, with decay."""

    X: jax.Array
    y: jax.Array
    decay: jax.Array
    width: int = ufm.static()

    def zeros(self):
        return {"V": jnp.zeros((self.width, self.X.shape[1])), "w": jnp.zeros(self.width)}

    def value(self, x):
        error = jnp.tanh(self.X @ x["V"].T) @ x["w"] - self.y
        return jnp.mean(error**2) / 2 + self.decay / 2 * (jnp.sum(x["V"] ** 2) + jnp.sum(x["w"] ** 2))


@pytest.mark.slow
def test_a_network_of_the_user_s_own():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    net = Network(X=X, y=np.tanh(X @ [1.0, -2.0]) - np.tanh(X[:, 0]), decay=1e-2, width=3)
    run = ufm.sweep(net, starts=100, target="both")
    assert run.orbits.num_rows >= 3
    hessian = jax.jit(dense_hessian(net.value))
    for line in run.orbits.to_pylist():
        x = run.point(line["row"]).x
        eigenvalues = np.linalg.eigvalsh(hessian(x))
        np.testing.assert_allclose(line["lambda_min"], eigenvalues[0], atol=1e-9)
        assert line["index"] in (None, np.sum(eigenvalues < 0))
        seen = ufm.classify(net, x)
        assert (seen.verdict.name, seen.index) == (line["verdict"], line["index"])
    assert run.orbits["verdict"][0].as_py() == "LOCAL_MINIMUM"  # nothing bounds it from below
    assert {"LOCAL_MINIMUM", "STRICT_SADDLE"} <= set(run.orbits["verdict"].to_pylist())


def test_hidden_units_in_another_order_and_sign_are_the_same_orbit():
    X = np.random.default_rng(0).normal(size=(40, 2))
    net = Network(X=X, y=np.tanh(X @ [1.0, -2.0]) - np.tanh(X[:, 0]), decay=1e-2, width=3)
    (best,) = np.flatnonzero((run := ufm.sweep(net, starts=30)).orbit == 0)[:1]
    x = run.point(int(best)).x
    turned = [
        {"V": sign * x["V"][jnp.array(order)], "w": sign * x["w"][jnp.array(order)]}
        for order in itertools.permutations(range(3))
        for sign in (1, -1)
    ]
    again = ufm.sweep(net, starts=jax.tree.map(lambda *a: jnp.stack(a), *turned))
    assert again.orbits.num_rows == 1
    assert again.orbits["hits"][0].as_py() == 12


def camel(z):
    """Return the six-hump camel function (Dixon & Szegő 1978), even: f(−z) = f(z)."""
    x, y = z
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


def distinct(run):
    """Return the distinct critical points, not modulo z -> −z, and the index of each."""
    rows = run.orbit >= 0
    _, first = np.unique(np.round(run.points[rows], 6) + 0.0, axis=0, return_index=True)
    return run.points[rows][first], np.array(run.table["index"].to_pylist())[rows][first].astype(int)


def test_a_function_s_fifteen_critical_points():
    """Six minima, seven saddles, two maxima; by their spectra, which ±z share, they are eight orbits."""
    run = ufm.sweep(ufm.Landscape.of(camel, jnp.zeros(2)), starts=1000, target="saddles")
    points, index = distinct(run)
    assert np.bincount(index).tolist() == [6, 7, 2]
    assert run.orbits.num_rows == 8
    assert "camel" in str(run)
    np.testing.assert_allclose(run.orbits["loss"][0].as_py(), -1.031628453489877, atol=1e-12)
    for z, negative in zip(points, index, strict=True):
        np.testing.assert_allclose(jax.grad(camel)(z), 0.0, atol=1e-9)
        assert np.sum(np.linalg.eigvalsh(jax.hessian(camel)(z)) < 0) == negative


@pytest.mark.parametrize(("target", "counts"), [(0, [6]), (1, [0, 7]), (2, [0, 0, 2]), ("minima", [6])])
def test_a_function_s_critical_points_of_one_index(target, counts):
    run = ufm.sweep(ufm.Landscape.of(camel, jnp.zeros(2)), starts=600, target=target)
    assert np.bincount(distinct(run)[1]).tolist() == counts


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"target": "maxima"}, "target"),
        ({"target": -1}, "target"),
        ({"target": 17}, "index"),
        ({"starts": 0}, "starts"),
        ({"seed": -1}, "seed"),
        ({"spectra": "few"}, "spectra"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_named(factors, given, named):
    with pytest.raises((ValueError, TypeError), match=named):  # the tests' type hook may come first
        ufm.sweep(factors, **given)


def test_what_is_wrong_with_a_point_is_named(factors):
    x = factors.zeros()
    for wrong, message in (
        (x._replace(U=x.U.T), r"^U: need shape \(4, 2\), got \(2, 4\); is it transposed"),
        (x._replace(V=x.V.at[0, 0].set(jnp.nan)), r"^V: has 1 non-finite"),
        (x._replace(V=x.V.astype(jnp.float32)), r"^V: need dtype float64"),
    ):
        with pytest.raises(ValueError, match=message):
            ufm.classify(factors, wrong)
    with pytest.raises((ValueError, TypeError), match="effort"):
        ufm.classify(factors, x, effort="all")


def test_a_saddle_s_flow_ends_lower_and_a_minimum_has_none(factors):
    saddle = critical_point_of(M, DECAY, RANK, (1,))
    for sign in (1, -1):
        flow = ufm.flow_from(factors, saddle, sign=sign)
        assert float(factors.value(flow.end.x)) == pytest.approx(LISTED[0].value, abs=1e-9)
        values = jax.vmap(factors.value)(flow.path.points)
        assert np.all(np.diff(values) <= 1e-10)
    with pytest.raises(ValueError, match=r"^x: need a strict saddle to flow down from, this is GLOBAL_MIN"):
        ufm.flow_from(factors, critical_point_of(M, DECAY, RANK, (0, 1)))


def test_a_slice_is_f_on_a_plane():
    like = jnp.array([0.1, 0.2])
    one = ufm.slice(
        ufm.Landscape.of(camel, like), like, jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]), num_points=5
    )
    for (i, a), (j, b) in itertools.product(enumerate(one.first), enumerate(one.second)):
        np.testing.assert_allclose(one.values[i, j], camel(like + jnp.array([a + b, b])), rtol=1e-13)


def same_rows(a, b):
    """To the bit."""
    assert a.column_names == b.column_names
    for name in a.column_names:
        np.testing.assert_array_equal(a[name].to_numpy(), b[name].to_numpy(), err_msg=name)


def test_points_that_were_not_kept_are_searched_for_again(factors):
    """And orbits are then told apart by value, index and nullity."""
    options = {"starts": 300, "target": "saddles"}
    kept, bare = (ufm.sweep(factors, keep_points=keep, **options) for keep in (True, False))
    assert bare.points is None
    same_rows(kept.table, bare.table)
    same_rows(kept.orbits, bare.orbits)
    for row in kept.orbits["row"].to_pylist()[:3]:
        np.testing.assert_allclose(ravel(bare.point(row).x), ravel(kept.point(row).x), atol=1e-12)


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_holds_what_memory_does(factors, tmp_path, keep, monkeypatch):
    monkeypatch.setattr(engine, "HASTE", 0)  # by the same programs: small folders are compiled in haste
    grid = ufm.grid(factors, decay=[0.1, 0.5])
    options = {"starts": 30, "target": "both", "seed": 5, "keep_points": keep}
    memory = ufm.sweep(grid, **options)
    made = ufm.sweep(grid, out=tmp_path / "run", shard_size=16, **options)
    read = ufm.load(tmp_path / "run")
    again = ufm.sweep(grid, out=tmp_path / "run", shard_size=16, **options)
    names = memory.table.column_names
    for run in (made, read, again):
        # To rounding, as of other shards other rows are solved best.
        assert_near(memory.table, run.table.select(names), but="row")
        assert_near(memory.orbits, run.orbits, but="row")
        same_rows(made.table.select(names), run.table.select(names))
        np.testing.assert_array_equal(run.setting, memory.setting)
        row = int(run.orbits["row"][1].as_py())
        np.testing.assert_allclose(ravel(run.point(row).x), ravel(memory.point(row).x), atol=1e-12)
        assert "Factorisation" in str(run)
    with pytest.raises(ValueError, match=r"^out: "):
        ufm.sweep(grid, out=tmp_path / "run", shard_size=16, **(options | {"seed": 6}))
