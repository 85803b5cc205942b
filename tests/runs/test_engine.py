"""Sweeps over all features and over class means tell the same story."""

import jax
import numpy as np
import pyarrow.compute as pc
import pytest
from conftest import assert_near

from ufm_jax import devices, interface
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.search import LevenbergMarquardt
from ufm_jax.landscape.search import search as search_one
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.models.unconstrained.losses import Focal, Squared
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import collapse, lift
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.status import Status
from ufm_jax.runs import table as columns
from ufm_jax.runs.engine import judged, sweep
from ufm_jax.runs.pipeline import search
from ufm_jax.runs.plan import Plan, SweepConfig, shards
from ufm_jax.runs.work import Work, work_of


def config(space, **options):
    """A small sweep on both sides of the threshold."""
    sizes = {"counts": (2, 2, 2), "dim": 4, "starts": 6, "space": space}
    decays = {"decay_w": (5e-3, 0.5), "decay_h": (1e-3, 0.5), "decay_b": (1e-2,)}
    return SweepConfig(**(sizes | decays | options))


@pytest.mark.slow
def test_full_space_and_class_means_agree():
    full, means = (sweep(config(space)) for space in ("full", "auto"))
    for name in ("verdict", "rank", "index", "nullity", "decay_w"):
        assert full[name].to_pylist() == means[name].to_pylist(), name
    for name in ("loss", "dual_bound", "lambda_min", "nc4"):
        np.testing.assert_allclose(full[name].to_numpy(), means[name].to_numpy(), atol=1e-9)
    largest = max(table["nc4"].to_numpy().max() for table in (full, means))
    assert largest < 1e-8  # first order in x: 0 there
    assert set(full["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}


@pytest.mark.parametrize(
    ("space", "target"), [("auto", "minima"), ("full", "saddles"), ("collapsed", "both")]
)
def test_a_loss_that_is_not_convex_is_searched_over_all_features_only(space, target):
    with pytest.raises(ValueError, match=r"^loss: .*focal"):
        sweep(config(space, target=target, loss="focal"))


@pytest.mark.slow
@pytest.mark.parametrize(("counts", "target"), [((2, 2, 2), "both"), ((8, 4, 2, 1), "minima")])
def test_certificates_decide_as_the_spectrum_does(counts, target):
    options = {"counts": counts, "target": target, "starts": 40, "decay_b": (1e-2, 0.0)}
    every, needed = (sweep(config("auto", spectra=s, **options)) for s in ("all", "needed"))
    assert every["verdict"].to_pylist() == needed["verdict"].to_pylist()
    nonzero = every["rank"].to_numpy() > 0  # NC2 and NC3 are 0/0 at the origin
    for name in ("loss", "dual_gap", "nc2", "nc3", "nc4"):
        a, b = (table[name].to_numpy()[nonzero] for table in (every, needed))
        np.testing.assert_allclose(a, b, atol=1e-9, err_msg=name)
    assert needed["index"].null_count > 0 or target == "minima"
    counted = [
        i
        for i in zip(every["index"].to_pylist(), needed["index"].to_pylist(), strict=True)
        if i[1] is not None
    ]
    assert all(a == b for a, b in counted)
    assert needed["lambda_min"].null_count == needed["nullity"].null_count


@pytest.mark.slow
@pytest.mark.parametrize("target", ["minima", "saddles"])
def test_a_row_depends_on_its_seed_and_start_alone(target):
    """Not on shards, nor on the place in a batch, nor on the device that it was computed on; see above."""
    whole = sweep(config("auto", target=target, starts=50))
    for size in (7, 64):
        # To rounding: what is measured of many rows at once depends on the place, what orbits share on
        # shards. Where searches ended, and what was shown of it, does not.
        assert_near(sweep(config("auto", target=target, starts=50, shard_size=size)), whole, but="orbit")
    fewer = sweep(config("auto", target=target, starts=50, decay_w=(0.5,)))
    assert_near(fewer, whole.filter(pc.field("decay_w") == 0.5), but="orbit")


@pytest.mark.parametrize("target", ["minima", "saddles"])
def test_many_devices_find_what_one_does(target):
    """To the last bits: XLA compiles for one device otherwise than for several."""
    assert jax.local_device_count() == 4  # virtual, see conftest.py
    many = sweep(config("auto", target=target, starts=50))
    with devices.on(tuple(jax.local_devices()[:1])):
        one = sweep(config("auto", target=target, starts=50))
    for name in ("start", "verdict", "rank", "index", "nullity", "decay_w"):
        np.testing.assert_array_equal(many[name].to_numpy(), one[name].to_numpy(), err_msg=name)
    np.testing.assert_allclose(many["loss"].to_numpy(), one["loss"].to_numpy(), rtol=1e-13)


def own_starts(prob, count):
    """Return random points of the full problem."""
    rng = np.random.default_rng(0)
    return Params(*(rng.normal(size=(count, *a.shape)) for a in prob.zeros()))


def test_own_starts_are_judged_where_they_end():
    prob = problem(counts=(2, 2, 2), dim=4, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    run = interface.sweep(prob, starts=own_starts(prob, 9))
    assert run.table["start"].to_pylist() == list(range(9))
    assert set(run.table["status"].to_pylist()) == {"CONVERGED"}
    assert set(run.table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    np.testing.assert_allclose(run.table["loss"].to_numpy(), global_minimum(prob), atol=1e-12)
    assert run.points.H.shape == (9, 3, 3)  # on class means, in the coordinates searched
    point = run.point(3)
    assert point.x.H.shape == (4, 6)
    assert float(prob.value(point.x)) == pytest.approx(run.table["loss"][3].as_py(), abs=1e-12)


@pytest.mark.slow
def test_own_starts_over_all_features_end_where_those_on_class_means_do():
    prob = problem(counts=(2, 2, 2), dim=4, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    plan, work = Plan(starts=9, keep_points=True), Work(prob, prob, {}, own_starts(prob, 9))
    ((_, ends),) = judged(work, plan, shards(plan))
    assert ends.points.H.shape == (9, 4, 6)
    means = interface.sweep(prob, starts=own_starts(prob, 9)).table
    for name in ("status", "verdict", "rank", "index", "nullity"):
        assert ends.rows[name].to_pylist() == means[name].to_pylist(), name
    np.testing.assert_allclose(ends.rows["loss"].to_numpy(), means["loss"].to_numpy(), atol=1e-12)


@pytest.mark.slow
def test_just_below_the_threshold_a_descent_s_end_is_the_minimum_or_undecided():
    """At Kθ = 1 the simplex shrinks to the origin: along its orbit curvature has an error of ‖∇f‖/‖x‖."""
    K, n, below = 4, 3, np.array([1e-5, 1e-6, 1e-7, 1e-8])
    s = (1 - below) / (K * np.sqrt(n))
    sizes = {"counts": (n,) * K, "dim": 4, "space": "auto", "starts": 128, "seed": 1}
    for spectra in ("all", "needed"):
        grid = {"decay_w": tuple(s**2 / s[0]), "decay_h": (s[0],), "spectra": spectra}
        table = sweep(config(**(sizes | grid)))
        for decay, distance in zip(grid["decay_w"], below, strict=True):
            rows = table.filter(pc.field("decay_w") == decay)
            assert rows.num_rows == 128
            verdicts = set(rows["verdict"].to_pylist())
            assert verdicts <= ({"GLOBAL_MINIMUM"} if distance >= 1e-5 else {"GLOBAL_MINIMUM", "UNDECIDED"})
            assert set(rows["index"].to_pylist()) <= {0, None}


@pytest.mark.slow
def test_rows_hold_no_count_that_was_not_made():
    sizes = {"counts": (8, 4, 2, 1), "target": "both", "starts": 100}
    decays = {"decay_w": (1e-10,), "decay_h": (1e-10,)}  # so small that some searches stall
    table = sweep(config("auto", **decays, **sizes))
    rows = table.to_pylist()
    assert {"NOT_CRITICAL", "STRICT_SADDLE", "GLOBAL_MINIMUM"} <= {row["verdict"] for row in rows}
    for row in rows:
        assert row["dual_bound"] is None or row["dual_bound"] <= row["loss"]
        if row["verdict"] in ("NOT_CRITICAL", "UNDECIDED"):
            assert row["index"] is row["nullity"] is None
        if row["verdict"] == "NOT_CRITICAL":
            assert row["lambda_min"] is row["lambda_min_residual"] is None
        if row["verdict"] == "STRICT_SADDLE":
            assert row["index"] is None or row["index"] > 0
    nc = table["nc2"].to_pylist()
    assert any(x is None for x in nc)  # 0/0 at the origin
    assert not any(x != x for x in nc if x is not None)


@pytest.mark.slow
@pytest.mark.parametrize(("counts", "dim"), [((1, 9, 3), 4), ((1, 9, 3), 2)])
def test_lambda_min_on_class_means_is_that_of_f(counts, dim):
    """Which has the directions in which the features of a class differ, of curvature λ_H and more."""
    sizes = {"counts": counts, "dim": dim, "target": "saddles", "starts": 30}
    decays = {"decay_w": (1e-3,), "decay_h": (1e-5,), "decay_b": (0.0,), "bias": False, "loss": "squared"}
    means = sweep(config("auto", keep_points=True, **(sizes | decays)))
    prob = problem(counts=counts, dim=dim, decay_w=1e-3, decay_h=1e-5, bias=False, loss=Squared())
    W, H = (means[n].combine_chunks().to_numpy_ndarray() for n in "WH")
    full = jax.jit(jax.vmap(lambda W, H: examine(prob, lift(prob, Params(W, H, None))).evidence))(W, H)
    shown = full.verdict != Verdict.NOT_CRITICAL
    for name in ("lambda_min", "index", "nullity"):
        of_means = means[name].to_numpy(zero_copy_only=False)[shown] if shown.any() else np.zeros(0)
        expected = np.asarray(getattr(full, name), float)[shown]
        expected = np.where(expected == -1, np.nan, expected) if name != "lambda_min" else expected
        np.testing.assert_allclose(of_means.astype(float), expected, atol=1e-9, err_msg=name)
    assert means["lambda_min"].null_count < 30


@pytest.mark.slow
@pytest.mark.parametrize("target", ["minima", "saddles"])
def test_surplus_dimensions_change_nothing_but_counts(target):
    one, other = (sweep(config("auto", target=target, starts=20, dim=d, spectra="all")) for d in (300, 10**8))
    for name in ("loss", "verdict", "rank", "lambda_min", "nc2", "num_steps"):
        np.testing.assert_array_equal(one[name].to_pylist(), other[name].to_pylist(), err_msg=name)
    rank, nullity = (other[name].to_numpy() for name in ("rank", "nullity"))
    shown = other["nullity"].is_valid().to_numpy()
    assert shown.all() or target == "saddles"
    np.testing.assert_array_equal(nullity[shown], (10**8 * rank - rank * (rank + 1) // 2)[shown])


def test_start_numbers_beyond_32_bits_are_searches_of_their_own():
    work = work_of(config("auto", decay_w=(5e-3,), decay_h=(1e-3,)))
    start = np.array([5, 5 + 2**32, 5 + 2**33, 5])
    fields = {name: values[np.zeros(4, int)] for name, values in work.settings.items()}
    ends = search(work.landscape, fields, jax.random.key(0), start, "minima").x.W
    assert len(np.unique(np.asarray(ends).reshape(4, -1), axis=0)) == 3
    np.testing.assert_array_equal(ends[0], ends[3])


@pytest.mark.slow
def test_a_loss_that_is_not_convex_is_not_judged_on_class_means():
    prob = problem(counts=(2, 2), dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2, loss=Focal(2.0))
    begin = jax.tree.map(lambda a: np.ones((3, *a.shape)), prob.zeros())
    assert interface.sweep(prob, starts=begin).points.H.shape == (3, 2, 4)  # toward minima, of all features
    for ask in (
        lambda: interface.sweep(prob, starts=begin, target="saddles"),
        lambda: examine(collapse(prob), collapse(prob).zeros()),
        lambda: search_one(prob, prob.zeros(), LevenbergMarquardt()),
    ):
        with pytest.raises(ValueError, match=r"^loss: .*focal"):
            ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "maxima"}, r"^target: .*'maxima'"),
        ({"spectra": "some"}, "spectra"),  # here the tests' type hook comes first
        ({"W": np.ones((3, 4, 3))}, r"^W: need shape \(3, 3, 4\), got \(3, 4, 3\)"),
        ({"H": np.ones((2, 4, 6))}, r"^H: need shape \(3, 4, 6\)"),
        ({"b": None}, r"^b: "),
        ({"W": np.ones((3, 3, 4), np.float32)}, r"^W: need dtype float64"),
    ],
)
def test_bad_starts_of_one_s_own_are_refused_by_name(options, message):
    prob = problem(counts=(2, 2, 2), dim=4, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    begin = {"W": np.ones((3, 3, 4)), "H": np.ones((3, 4, 6)), "b": np.ones((3, 3))}
    changed = Params(*(options.get(name, value) for name, value in begin.items()))
    with pytest.raises((ValueError, TypeError), match=message):
        interface.sweep(prob, starts=changed, **{k: v for k, v in options.items() if k not in "WHb"})


@pytest.mark.parametrize("codes", [Verdict, Reason, Status])
def test_codes_are_stored_by_their_own_names(codes):
    assert [int(code) for code in codes] == list(range(len(codes)))
    assert columns._names(codes, np.arange(len(codes))).to_pylist() == [
        codes(i).name for i in range(len(codes))
    ]
