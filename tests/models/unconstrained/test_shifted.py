"""f toward saddles: its derivatives with a shift, searches toward saddles from its starts, and their rows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.landscape.evidence import examine
from ufm_jax.models.unconstrained import shifted as shifting
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.reduction import reduced
from ufm_jax.models.unconstrained.shifted import batch_size, shifted
from ufm_jax.models.unconstrained.sizes import units
from ufm_jax.numerics.status import Status
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.pipeline import from_starts, search
from ufm_jax.runs.plan import SweepConfig

PROBLEMS = {
    "default": {},
    "no bias": {"bias": False, "decay_b": 0.0},
    "squared": {"loss": ufm.Squared()},
    "free bias": {"decay_b": 0.0},
    "weighted": {"loss": ufm.CrossEntropy(smoothing=0.1, class_weights=(1.0, 2.0, 1.0, 0.5))},
}


def model(**given):
    return ufm.problem(
        **({"counts": (5, 4, 3, 3), "dim": 6, "decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2} | given)
    )


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_slope_and_shift_are_those_of_f(name, alone, monkeypatch):
    if alone:
        monkeypatch.setattr(shifting, "WRITTEN_OUT", 0)
    small = replace(reduced(model(**PROBLEMS[name])), dim=2)
    f = shifted(small)
    assert (small.shift_size == 1) == alone
    x = f.into(jax.vmap(lambda key: starts.gaussian(small, key))(jax.random.split(jax.random.key(0), 4)))
    value = lambda x: objective(small)(jax.tree.map(lambda a: a[0], f.back(x[:, None])))
    derivatives = jax.jit(lambda x: (value(x), jax.grad(value)(x), jax.hessian(value)(x)))
    for i in range(x.shape[1]):
        here = x[:, i : i + 1] if alone else x
        j = 0 if alone else i
        first = jax.jit(f.slope)(here, f.data)
        z = jax.jit(f.shift)(here, f.data, first.grad, jnp.full(here.shape[1], 1e-2))
        f_i, g, H = map(np.asarray, derivatives(x[:, i]))
        np.testing.assert_allclose(first.value[j], f_i, rtol=1e-14)
        np.testing.assert_allclose(first.grad[:, j], g, atol=1e-14)
        np.testing.assert_allclose(
            first.unit[j], np.sqrt(units(small, jnp.asarray(f_i)).value * small.strength), rtol=1e-14
        )
        # largest entry of the diagonal, and what couples features to the rest
        assert 0.5e-2 * np.max(np.abs(H)) <= z.sigma[j] <= 2e-2 * np.max(np.abs(H)) + 1e-2
        expected = np.linalg.solve(H + 1j * float(z.sigma[j]) * np.eye(len(H)), g)
        np.testing.assert_allclose(z.re[:, j], expected.real, atol=1e-11)
        np.testing.assert_allclose(z.im[:, j], expected.imag, atol=1e-11)


def test_to_and_fro_is_the_point_less_the_shift_of_all_logits():
    small = reduced(model())
    f, p = shifted(small), starts.gaussian(small, jax.random.key(1))
    q = jax.tree.map(lambda a: a[0], f.back(f.into(jax.tree.map(lambda a: a[None], p))))
    np.testing.assert_allclose(q.W, p.W - jnp.mean(p.W, axis=0), atol=1e-14)
    np.testing.assert_allclose(q.b, p.b - jnp.mean(p.b), atol=1e-14)
    np.testing.assert_allclose(q.H, p.H, atol=1e-14)


def test_many_classes_advance_lane_by_lane():
    many = reduced(
        ufm.problem(num_classes=10, per_class=20, dim=16, decay_w=5e-4, decay_h=2.5e-5, decay_b=1e-2)
    )
    assert batch_size(many) == 1
    assert batch_size(replace(many, dim=1)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_searches_end_at_critical_points_and_no_row_knows_of_the_others(name):
    prob = model(**PROBLEMS[name]).space("rows")
    numbers = np.arange(40)
    found = search(prob, {}, jax.random.key(0), numbers, "saddles")
    assert np.mean(found.status == Status.CONVERGED) >= 0.95
    some = numbers[[3, 38, 17, 5]]
    again = search(prob, {}, jax.random.key(0), some, "saddles")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[some], b), found, again)


def test_starts_of_one_s_own_may_use_any_coordinates():
    prob = model().space("rows")
    p = jax.vmap(lambda key: starts.gaussian(prob, key))(jax.random.split(jax.random.key(2), 8))
    p = p._replace(W=p.W.at[0, :, :2].set(0.0), H=p.H.at[0, :2].set(0.0))
    found = from_starts(prob, {}, p, "saddles")
    assert np.all(found.status == Status.CONVERGED)
    evidence = jax.jit(jax.vmap(lambda x: examine(prob, x, "escape").evidence))(found.x)
    assert np.all(evidence.rel_grad_norm <= 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("K", "count"), [(4, 512), (10, 40)])
def test_nearly_all_starts_end_at_a_judged_critical_point(K, count):
    n, decay_h = (5, 1e-4) if K == 4 else (20, 2.5e-5)
    config = SweepConfig(
        counts=(n,) * K, dim=K + 2, starts=count, decay_w=(5e-4,), decay_h=(decay_h,), decay_b=(1e-2,),
        target="saddles", spectra="needed",
    )  # fmt: skip
    verdicts = sweep(config)["verdict"].to_pylist()
    assert np.mean([v not in ("NOT_CRITICAL", "UNDECIDED") for v in verdicts]) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("K", [3, 4])
def test_sweeps_toward_saddles_find_what_a_census_lists(K):
    prob = ufm.problem(num_classes=K, per_class=5, dim=K + 2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    listed = np.array([row["loss"] for row in ufm.census(prob).table.to_pylist()])
    losses = ufm.sweep(prob, starts=2000, target="saddles").table["loss"].to_numpy()
    apart = np.abs(losses[:, None] - listed) / listed
    assert np.max(np.min(apart, axis=1)) < 1e-8  # none is new
    assert np.all(np.min(apart, axis=0) < 1e-8)  # and none is missing
