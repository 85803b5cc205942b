"""Arguments are checked by name; sizes and derived quantities are consistent; sweeps compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import dual_bound, find_critical, find_minimum, gradient_norm, make
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.landscape.census import find_orbits
from ufm_jax.landscape.checks import check_finite
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.flat import hessian, unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, lift, restrict
from ufm_jax.models.unconstrained.theory import predict
from ufm_jax.runs.plan import SweepConfig

GOOD = {"counts": (2, 3), "dim": 2, "decay_w": 1e-3, "decay_h": 1e-3, "decay_b": 1e-3}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"counts": (5,)}, "counts"),
        ({"counts": ()}, "counts"),
        ({"counts": (2, 0)}, "counts"),
        ({"counts": (2, -1)}, "counts"),
        ({"counts": (2, 1.5)}, "counts"),
        ({"counts": None}, "counts"),
        ({"counts": None, "num_classes": 3}, "counts"),
        ({"counts": None, "per_class": 3}, "counts"),
        ({"counts": None, "num_classes": 1, "per_class": 3}, "num_classes"),
        ({"counts": None, "num_classes": 3, "per_class": 0}, "per_class"),
        ({"per_class": 2}, "per_class"),
        ({"num_classes": 3}, "num_classes"),
        ({"dim": 0}, "dim"),
        ({"dim": -2}, "dim"),
        ({"decay_w": 0.0}, "decay_w"),
        ({"decay_h": 0.0}, "decay_h"),
        ({"decay_w": -1e-3}, "decay_w"),
        ({"decay_h": -1e-3}, "decay_h"),
        ({"decay_b": -1e-3}, "decay_b"),
        ({"decay_w": np.nan}, "decay_w"),
        ({"decay_h": np.inf}, "decay_h"),
        ({"decay_b": np.nan}, "decay_b"),
        ({"decay_w": [1e-3, -1.0]}, "decay_w"),
        ({"bias": False}, "decay_b"),
    ],
)
def test_a_bad_argument_is_named(change, named):
    with pytest.raises(ValueError, match=rf"^{named}:"):
        problem(**(GOOD | change))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_a_bad_smoothing_is_named(smoothing):
    with pytest.raises(ValueError, match=r"^smoothing:"):
        CrossEntropy(smoothing=smoothing)


def test_an_undecayed_bias_is_allowed():
    assert problem(**(GOOD | {"decay_b": 0.0})).bias


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(1, 4), st.booleans(), st.booleans())
def test_sizes_are_consistent(counts, dim, bias, collapsed):
    prob = make(tuple(counts), dim, bias=bias)
    prob = collapse(prob) if collapsed else prob
    zeros = prob.zeros()
    assert sum(a.size for a in jax.tree.leaves(zeros)) == prob.num_variables
    assert prob.targets.shape == (prob.num_classes, prob.num_columns)
    np.testing.assert_allclose(prob.weights.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(prob.targets.sum(axis=0), 1.0, rtol=1e-15)
    # ω σ⁻² is one column's share of Σ n_k/N · n_k in the collapsed problem and 1/N in the full one.
    np.testing.assert_allclose(np.sum(prob.weights * prob.scales**2), prob.num_columns / prob.num_samples)
    assert prob.balanced == (len(set(counts)) == 1)
    prob.check(zeros)


def test_both_ways_of_giving_sizes_agree():
    by_counts = make((4, 4, 4), 2)
    by_class = problem(num_classes=3, per_class=4, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    assert jax.tree.structure(by_counts) == jax.tree.structure(by_class)


@pytest.mark.parametrize("bias", [True, False])
def test_unravel_undoes_ravel(bias):
    prob = make((2, 3), 4, bias=bias)
    x = jnp.arange(float(prob.num_variables))
    assert np.array_equal(ravel(unravel(prob, x)), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": jnp.zeros((3, 2))}, r"^W: need shape \(2, 2\), got \(3, 2\)"),
        ({"H": jnp.zeros((2, 4))}, r"^H: need shape \(2, 5\)"),
        ({"H": jnp.zeros((5, 2))}, r"^H: need shape \(2, 5\), got \(5, 2\); is it transposed"),
        ({"W": jnp.zeros((9, 2, 2))}, r"^W: need shape \(2, 2\), got \(9, 2, 2\); that is several points"),
        ({"W": jnp.zeros((2, 2), jnp.float32)}, r"^W: need dtype float64, got float32"),
        ({"b": jnp.zeros(2, int)}, r"^b: need dtype float64, got int64"),
        ({"b": jnp.zeros(3)}, r"^b: need shape \(2,\)"),
        ({"b": None}, r"^b: the problem has bias=True, the point has no b"),
    ],
)
def test_every_door_names_what_is_wrong_with_a_point(change, message):
    prob = problem(**GOOD)
    point = prob.zeros()._replace(**change)
    searches, measures = (find_minimum, find_critical), (examine, dual_bound, hessian, collapse_metrics)
    for door in (Problem.check, *searches, *measures):
        with pytest.raises(ValueError, match=message):
            door(prob, point)
    with pytest.raises(ValueError, match=message):
        objective(prob)(point)


def test_a_bias_is_refused_where_there_is_none():
    prob = problem(**(GOOD | {"bias": False, "decay_b": 0.0}))
    with pytest.raises(ValueError, match=r"^b: the problem has bias=False"):
        prob.check(Params(*prob.zeros()[:2], jnp.zeros(2)))


def test_a_grid_of_problems_is_no_problem():
    prob = problem(**(GOOD | {"decay_w": [1e-3, 1e-2]}))
    with pytest.raises(ValueError, match=r"^decay_w: need one number"):
        find_minimum(prob, prob.zeros())


@pytest.mark.parametrize("door", [find_minimum, find_critical, examine])
def test_verdicts_and_their_searches_need_float64(door):
    prob = problem(**GOOD)
    point = prob.zeros()
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match=r"^jax_enable_x64"):
            door(prob, point)
        old = problem(**GOOD)
    finally:
        jax.config.update("jax_enable_x64", True)
    with pytest.raises(ValueError, match=r"^landscape: unconstrained feature model has points of float32"):
        door(old, point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": jnp.full((2, 2), jnp.nan)}, r"^W: has 4 non-finite"),
        ({"H": jnp.zeros((2, 5)).at[0, 0].set(jnp.inf)}, r"^H: has 1 non-finite"),
    ],
)
def test_entries_that_are_not_finite_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_finite(problem(**GOOD).zeros()._replace(**change))


def test_a_sweep_over_decays_compiles_once():
    traces = []

    @jax.jit
    def measured(prob, p):
        traces.append(prob.counts)
        return gradient_norm(prob, p)

    for decay in (1e-3, 2e-3, 0.5):
        prob = make((2, 2), 2, decay_w=decay, decay_b=decay - 1e-3)
        measured(prob, prob.zeros())
    assert len(traces) == 1


def test_problems_are_vmapped_over_their_decays():
    decays = np.array([1e-3, 1e-2, 1e-1])
    many = problem(**(GOOD | dict.fromkeys(("decay_w", "decay_h", "decay_b"), decays)))
    x = jnp.linspace(-1.0, 1.0, many.num_variables)
    norms = jax.vmap(lambda prob: gradient_norm(prob, unravel(prob, x)))(many)
    for decay, norm in zip(decays, norms, strict=True):
        one = problem(**(GOOD | dict.fromkeys(("decay_w", "decay_h", "decay_b"), decay)))
        np.testing.assert_allclose(norm, gradient_norm(one, unravel(one, x)), rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bias": 0}, "bias"),
        ({"bias": None}, "bias"),
        ({"decay_w": [1.0, 2.0], "decay_h": [1.0, 2.0, 3.0]}, "decay_w"),
        ({"decay_w": "a"}, "decay_w"),
        ({"counts": 5}, "counts"),
        ({"counts": (2, np.inf)}, "counts"),
        ({"dim": "a"}, "dim"),
    ],
)
def test_what_is_no_number_or_flag_is_refused_by_name(change, named):
    with pytest.raises((ValueError, TypeError), match=named):  # the tests' type hook may come first
        problem(**(GOOD | change))


def test_what_takes_one_problem_takes_no_grid():
    prob = problem(**(GOOD | {"decay_w": [1e-3, 1e-2]}))
    for door in (predict, find_orbits, lambda prob: hessian(prob, problem(**GOOD).zeros())):
        with pytest.raises(ValueError, match=r"^decay_w: need one number"):
            door(prob)


@pytest.mark.parametrize("how", [{"starts": 0}, {"starts": 1.5}, {"seed": -1}, {"target": "x"}])
def test_a_census_is_refused_by_name(how):
    (argument,) = how
    with pytest.raises((ValueError, TypeError), match=argument):
        find_orbits(problem(**GOOD), **how)


@pytest.mark.parametrize("move", [lift, restrict, lambda prob, p: restrict(collapse(prob), p)])
def test_points_that_are_neither_full_nor_on_class_means_are_refused(move):
    prob = problem(**GOOD)
    with pytest.raises(ValueError, match=r"^H: need 5 columns, or 2 on class means, got 3"):
        move(prob, prob.zeros()._replace(H=jnp.zeros((2, 3))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"starts": 4.0}, "starts"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"shard_size": None}, "shard_size"),
        ({"decay_w": 5e-3}, "decay_w"),
        ({"counts": 5}, "counts"),
        ({"bias": "no"}, "bias"),
        ({"smoothing": None}, "smoothing"),
    ],
)
def test_a_sweep_s_configuration_is_refused_by_name(change, named):
    usual = {"counts": (2, 2), "dim": 2, "decay_w": (1e-3,), "decay_h": (1e-3,), "decay_b": (1e-3,)}
    with pytest.raises((ValueError, TypeError), match=named):
        SweepConfig(**(usual | change))
