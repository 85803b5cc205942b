"""The benchmark's peers are right, and its referee believes nobody."""

import numpy as np
import pytest

from experiments.benchmark import saddle_peers as peers
from experiments.benchmark.contenders import _saddles_seen
from experiments.benchmark.settings import problem_of, setting
from experiments.costs import approach_cost, step_cost
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.numerics.derivatives import dense_hessian

S = setting(3, 2, 4)


@pytest.fixture(scope="module")
def found():
    """A saddle, and a minimum, from SciPy's search."""
    W, H, b = peers.draw_saddle_starts(S, 0, range(24))
    points = [peers.search(S, (W[i], H[i], b[i]), peers.RECIPES["scipy-lm"]) for i in range(24)]
    return {p.verdict: p for p in points}


def seen_at(p):
    return peers.look(S, p.W, p.H, p.b)


@pytest.mark.parametrize("dim", [0, 1, 2, 4])
def test_jacobian_is_the_derivative_of_the_gradient(dim):
    f = peers.ClassMeans(S, dim)
    x = np.random.default_rng(dim).standard_normal(2 * S.K * dim + S.K)
    step = 1e-5
    columns = [(f.grad(x + step * e) - f.grad(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    # Differences err by step² of the third derivative of the slope, and by eps / step: 1e-10 and 1e-11.
    np.testing.assert_allclose(f.hessian(x), np.stack(columns, axis=1), atol=1e-9)


def test_jacobian_is_the_hessian_on_class_means_that_jax_finds():
    small = problem_of(S).space("saddles")
    f = peers.ClassMeans(S, small.dim)
    x = np.random.default_rng(0).standard_normal(2 * S.K * small.dim + S.K)
    W, H, b = f.parts(x)
    # Rows of W, H and b one after another are the order of `dense_hessian`'s variables, too.
    expected = dense_hessian(objective(small))(Params(W, H, b))
    np.testing.assert_allclose(f.hessian(x), expected, atol=1e-14)


def test_a_start_depends_on_its_number_alone_and_has_the_rank_in_turn():
    W, H, b = peers.draw_saddle_starts(S, 0, range(6))
    later = peers.draw_saddle_starts(S, 0, range(4, 6))
    for all_, part in zip((W, H, b), later, strict=True):
        np.testing.assert_array_equal(all_[4:], part)
    assert [np.linalg.matrix_rank(w) for w in W] == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(H[:, :, ::2], H[:, :, 1::2])  # constant in each class, n = 2


@pytest.mark.parametrize("recipe", peers.RECIPES.values(), ids=list(peers.RECIPES))
def test_a_peer_ends_where_the_referee_sees_a_critical_point_as_it_says(recipe):
    W, H, b = peers.draw_saddle_starts(S, 1, range(6))
    points = [peers.search(S, (W[i], H[i], b[i]), recipe) for i in range(6)]
    judged = [p for p in points if p.verdict != "NOT_CRITICAL"]
    assert len(judged) >= 4
    assert all(peers.accepted(seen_at(p), p.verdict) for p in judged)


def test_referee_refuses_a_point_that_is_not_critical(found):
    p = found["SADDLE"]
    moved = p._replace(W=p.W + 1e-5)
    assert peers.accepted(seen_at(p), "STRICT_SADDLE")
    assert not peers.accepted(seen_at(moved), "STRICT_SADDLE")


def test_referee_refuses_features_that_differ_within_a_class(found):
    p = found["SADDLE"]
    H = p.H.copy()
    H[:, 0] += 1e-3
    H[:, 1] -= 1e-3  # the class mean is as before
    assert not peers.accepted(peers.look(S, p.W, H, p.b), "SADDLE")


def test_referee_refuses_a_false_saddle_and_a_false_minimum(found):
    minimum, saddle = seen_at(found["MINIMUM"]), seen_at(found["SADDLE"])
    assert peers.accepted(minimum, "GLOBAL_MINIMUM")
    assert not peers.accepted(minimum, "STRICT_SADDLE")
    assert not peers.accepted(saddle, "GLOBAL_MINIMUM")


@pytest.mark.parametrize("verdict", ["NOT_CRITICAL", "UNDECIDED", "DEGENERATE"])
def test_what_is_not_judged_is_not_accepted(found, verdict):
    assert not peers.accepted(seen_at(found["SADDLE"]), verdict)
    assert not peers.claims(verdict)


def test_summary_counts_claims_that_are_refused_and_values_of_the_accepted(found):
    p, m = found["SADDLE"], found["MINIMUM"]
    points = tuple(np.stack(parts) for parts in zip(p[:3], m[:3], m[:3], p[:3], strict=True))
    said = ["STRICT_SADDLE", "GLOBAL_MINIMUM", "STRICT_SADDLE", "NOT_CRITICAL"]
    summary = _saddles_seen(S, points, said)
    assert (summary["refereed"], summary["accepted"], summary["refused"]) == (4, 2, 1)
    assert (summary["distinct"], summary["distinct_of"]) == (2, 4)


def test_distinct_values():
    assert peers.distinct(np.array([])) == 0
    assert peers.distinct(np.array([1.0, 1.0 + 1e-12, 2.0, 1.0])) == 2


def test_operations_of_a_step_grow_as_the_solution_of_the_eliminated_system():
    one, two = (step_cost(problem_of(setting(K, 5, K + 2)).space("saddles")).operations for K in (40, 80))
    assert 2**5.7 < two / one < 2**6.1  # (K − 1)³ (r + 1)³, r = K − 1
    small = problem_of(setting(4, 5, 6)).space("saddles")
    assert approach_cost(small, 7.0).operations == 7 * step_cost(small).operations
