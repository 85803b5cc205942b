"""Sweeps over all features and over class means tell the same story."""

import jax
import numpy as np
import pyarrow.compute as pc
import pytest

from ufm_jax.landscape.verdict import Verdict
from ufm_jax.model.problem import Params, problem
from ufm_jax.model.theory import global_minimum
from ufm_jax.numerics.status import Status
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.pipeline import descend
from ufm_jax.runs.plan import SweepConfig


def config(space, **options):
    """A small sweep on both sides of the threshold."""
    sizes = {"counts": (2, 2, 2), "dim": 4, "starts": 6, "space": space}
    decays = {"decay_w": (5e-3, 0.5), "decay_h": (1e-3, 0.5), "decay_b": (1e-2,)}
    return SweepConfig(**(sizes | decays | options))


def test_full_space_and_class_means_agree():
    full, means = (sweep(config(space)) for space in ("full", "auto"))
    for name in ("verdict", "rank", "index", "nullity", "decay_w"):
        assert full[name].to_pylist() == means[name].to_pylist(), name
    for name in ("loss", "dual_bound", "lambda_min", "nc4"):
        np.testing.assert_allclose(full[name].to_numpy(), means[name].to_numpy(), atol=1e-9)
    assert set(full["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}


@pytest.mark.parametrize(
    ("space", "target"), [("auto", "minima"), ("full", "saddles"), ("collapsed", "both")]
)
def test_a_loss_that_is_not_convex_is_searched_over_all_features_only(space, target):
    with pytest.raises(ValueError, match=r"^loss: .*focal"):
        sweep(config(space, target=target, loss="focal"))


@pytest.mark.parametrize(("counts", "target"), [((2, 2, 2), "both"), ((4, 2, 1), "minima")])
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


def assert_same_bits(a, b):
    assert a.column_names == b.column_names
    for name in a.column_names:
        np.testing.assert_array_equal(a[name].to_numpy(), b[name].to_numpy(), err_msg=name)


@pytest.mark.parametrize("target", ["minima", "saddles"])
def test_a_row_depends_on_its_seed_and_start_alone(target):
    """Not on shards, nor on the place in a batch, nor on the device that it was computed on."""
    whole = sweep(config("auto", target=target, starts=50))
    for size in (7, 64):
        assert_same_bits(sweep(config("auto", target=target, starts=50, shard_size=size)), whole)
    fewer = sweep(config("auto", target=target, starts=50, decay_w=(0.5,)))
    assert_same_bits(fewer, whole.filter(pc.field("decay_w") == 0.5))


@pytest.mark.parametrize("target", ["minima", "saddles"])
def test_many_devices_find_what_one_does(target, monkeypatch):
    """To the last bits: XLA compiles for one device otherwise than for several."""
    assert jax.local_device_count() == 4  # virtual, see conftest.py
    many = sweep(config("auto", target=target, starts=50))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    one = sweep(config("auto", target=target, starts=50))
    for name in ("start", "verdict", "rank", "index", "nullity", "decay_w"):
        np.testing.assert_array_equal(many[name].to_numpy(), one[name].to_numpy(), err_msg=name)
    np.testing.assert_allclose(many["loss"].to_numpy(), one["loss"].to_numpy(), rtol=1e-13)


@pytest.mark.parametrize("space", ["auto", "full"])
def test_own_starts_are_judged_where_they_end(space):
    prob = problem(counts=(2, 2, 2), dim=4, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    rng = np.random.default_rng(0)
    begin = Params(*(rng.normal(size=(9, *a.shape)) for a in prob.zeros()))
    point, evidence = descend(prob, begin, space=space)
    assert np.all(point.status == Status.CONVERGED)
    assert np.all(evidence.verdict == Verdict.GLOBAL_MINIMUM)
    np.testing.assert_allclose(evidence.loss, global_minimum(prob), atol=1e-12)
    assert point.params.H.shape == ((9, 4, 6) if space == "full" else (9, 4, 3))
