"""Closed forms and thresholds against numerical minimisers and dense Hessians."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, CE, IMBALANCED, SMOOTH, SQUARED, dense_batch, find_minimum, keys, make, take

from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, etf_minimiser
from ufm_jax.models.unconstrained.geometry import simplex_gram
from ufm_jax.models.unconstrained.losses import Focal
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import expand, objective
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.models.unconstrained.starts import gaussian
from ufm_jax.models.unconstrained.theory import global_minimum, has_closed_form, predict
from ufm_jax.models.unconstrained.unequal_losses import class_balanced, logit_adjusted
from ufm_jax.numerics.status import Status

TILT = 5.0  # λ_W / λ_H


@jax.jit
def lowest(prob, keys):
    """Descend on class means from a Gaussian start a key, at every setting; return the lowest endings."""

    def one(prob):
        small = collapse(prob)
        found = jax.vmap(lambda key: find_minimum(small, gaussian(small, key)))(keys)
        values = jax.vmap(objective(small))(found.params)
        return take(found, jnp.argmin(values)), jnp.min(values)

    return jax.vmap(one)(prob)


def at_strengths(kt, decay_b, counts, dim, *, loss=CE, bias=True):
    """Return problems with Kθ = K√n √(λ_W λ_H) = kt, `counts` balanced, one an entry of kt and decay_b."""
    s = np.asarray(kt) / (len(counts) * np.sqrt(counts[0]))
    return problem(
        counts=counts,
        dim=dim,
        decay_w=s * np.sqrt(TILT),
        decay_h=s / np.sqrt(TILT),
        decay_b=np.asarray(decay_b),
        loss=loss,
        bias=bias,
    )


def grid_of(loss, bias):
    """Return pairs (Kθ, λ_b) on both sides of the thresholds Kθ = 1 − α and λ_b = Kθ/(1 − Kθ)."""
    kts = (1.0 - getattr(loss, "smoothing", 0.0)) * np.array([0.02, 0.4, 0.98, 1.02, 2.0])
    if not bias:
        return kts, np.zeros(5)
    pairs = [(kt, b) for kt in kts for b in (0.0, 1e-2)]
    if loss is SQUARED:
        pairs += [(kt, x * kt / (1 - kt)) for kt in (0.02, 0.4) for x in (0.99, 1.01, 5.0)]
    return np.array(pairs).T


# Each loss without and with a bias (decayed and not), d at and above its least dimension.
FAMILIES = [
    (CE, BALANCED, 2, True),
    (CE, BALANCED, 3, False),
    (CE, (3,) * 4, 6, True),
    (SMOOTH, BALANCED, 2, False),
    (SMOOTH, (3,) * 4, 4, True),
    (SQUARED, BALANCED, 3, False),
    (SQUARED, BALANCED, 3, True),
    (SQUARED, BALANCED, 5, True),
]


@pytest.mark.parametrize(("loss", "counts", "dim", "bias"), FAMILIES)
def test_numerical_minimisers_are_those_of_the_closed_form(loss, counts, dim, bias):
    kt, decay_b = grid_of(loss, bias)
    prob = at_strengths(kt, decay_b, counts, dim, loss=loss, bias=bias)
    found, values = lowest(prob, keys(31, 3))
    assert np.all(found.status == Status.CONVERGED)
    best = balanced_minimum(prob)
    np.testing.assert_allclose(best.loss, values, atol=1e-11)
    assert np.array_equal(jax.vmap(global_minimum)(prob), best.loss)
    K, n = len(counts), counts[0]
    for i in range(len(kt)):
        p = take(found.params, i)
        # Logits α(I − J/K) + βJ/K before the bias; W and the class means share their Gram matrix up to scale.
        expected = best.alpha[i] * (np.eye(K) - 1 / K) + best.beta[i] / K
        np.testing.assert_allclose(p.W @ p.H / np.sqrt(n), expected, atol=1e-9)
        gram = np.sqrt(n / TILT) * expected
        np.testing.assert_allclose(p.W @ p.W.T, gram, atol=1e-9 * (1 + gram.max()))
        if bias:
            free = loss.shift_invariant and decay_b[i] == 0.0  # then b is known up to a shift
            shift = np.mean(p.b) if free else best.bias[i]
            np.testing.assert_allclose(p.b, np.full(K, shift), atol=1e-9)


def test_label_smoothing_lifts_the_off_diagonal_probability_by_its_share():
    kt = np.array([0.02, 0.4, 0.89])
    K, theta = 3, kt / 3
    prob = at_strengths(kt, np.full(3, 1e-2), BALANCED, 2, loss=SMOOTH)
    m = np.asarray(balanced_minimum(prob).alpha)
    share = theta + 0.1 / K
    np.testing.assert_allclose(m, np.log(1 / share - K + 1), rtol=1e-13)
    np.testing.assert_allclose(np.exp(-m) / (1 + (K - 1) * np.exp(-m)), share, rtol=1e-13)


@pytest.mark.parametrize("kt", [0.02, 0.4, 0.9])
@pytest.mark.parametrize("factor", [0.0, 0.999, 1.001, 10.0])
def test_squared_loss_gives_an_etf_up_to_a_bias_decay(kt, factor):
    decay_b = factor * kt / (1 - kt)
    prob = at_strengths(kt, decay_b, BALANCED, 3, loss=SQUARED)
    assert predict(prob)["regime"] == ("simplex ETF" if factor < 1 else "general frame")
    best = balanced_minimum(prob)
    assert (best.beta == 0.0) == (factor < 1)


@pytest.mark.parametrize(
    ("loss", "bias", "kt", "decay_b", "regime"),
    [
        (CE, True, 0.99, 0.0, "simplex ETF"),
        (CE, True, 1.01, 0.0, "origin"),
        (SMOOTH, False, 0.89, 0.0, "simplex ETF"),
        (SMOOTH, False, 0.91, 0.0, "origin"),
        (SQUARED, False, 0.99, 0.0, "orthogonal frame"),
        (SQUARED, False, 1.01, 0.0, "origin"),
        (SQUARED, True, 0.99, 1e-2, "simplex ETF"),
        (SQUARED, True, 1.01, 1e-2, "origin"),
    ],
)
def test_regimes_change_at_their_thresholds(loss, bias, kt, decay_b, regime):
    said = predict(at_strengths(kt, decay_b, BALANCED, 3, loss=loss, bias=bias))
    assert said["regime"] == regime
    assert (said["w_norm"] == said["h_norm"] == 0.0) == (regime == "origin")
    np.testing.assert_allclose(said["kt"], kt, rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "counts", "dim", "bias", "decay_b"),
    [
        (CE, BALANCED, 2, True, 1e-2),
        (CE, BALANCED, 2, True, 0.0),
        (SMOOTH, (2,) * 4, 3, False, 0.0),
        (SMOOTH, BALANCED, 5, True, 1e-2),
        (SMOOTH, BALANCED, 5, True, 0.0),
        (CE, (1,) * 4, 4, True, 0.0),
    ],
)
def test_what_is_predicted_of_minimiser_and_origin_holds_for_dense_hessians(loss, counts, dim, bias, decay_b):
    prob = at_strengths(0.3, decay_b, counts, dim, loss=loss, bias=bias)
    said, p = predict(prob), etf_minimiser(prob)
    K, e = len(counts), expand(prob, p)
    np.testing.assert_allclose(e.value, said["loss"], rtol=1e-14)
    assert np.linalg.norm(ravel(e.grad)) < 1e-15
    P = jax.nn.softmax(p.W @ p.H, axis=0)
    np.testing.assert_allclose(P[1:, 0], said["softmax_off_diagonal"], rtol=1e-13)
    np.testing.assert_allclose(jnp.log(P[0, 0] / P[1, 0]), said["logit_gap"], rtol=1e-13)
    np.testing.assert_allclose(jnp.linalg.norm(p.W, axis=1), said["w_norm"], rtol=1e-13)
    np.testing.assert_allclose(jnp.linalg.norm(p.H, axis=0), said["h_norm"], rtol=1e-13)
    np.testing.assert_allclose(p.W @ p.W.T / jnp.linalg.norm(p.W @ p.W.T), simplex_gram(K), atol=1e-14)

    both = jax.tree.map(lambda *a: jnp.stack(a), p, prob.zeros())
    minimum, origin = (np.linalg.eigvalsh(H) for H in dense_batch(prob, both))
    assert minimum[0] > -1e-14
    assert np.sum(minimum < 1e-12) == said["nullity"]
    assert said["nullity"] == (K - 1) * (2 * dim - K) // 2 + (bias and decay_b == 0.0)
    np.testing.assert_allclose(minimum[minimum > 1e-12][0], said["hessian_min_nonzero"], atol=1e-14)
    np.testing.assert_allclose(minimum[-1], said["hessian_max"], atol=1e-14)
    assert said["rank"] == np.linalg.matrix_rank(p.W) == K - 1
    np.testing.assert_allclose(origin[0], said["origin_lambda_min"], atol=1e-14)
    assert np.sum(origin < -1e-12) == said["origin_index"] == (K - 1) * dim


def test_the_origin_has_no_negative_eigenvalue_where_it_is_the_minimiser():
    said = predict(at_strengths(1.5, 1e-2, BALANCED, 2))
    assert said["origin_index"] == 0
    assert said["origin_lambda_min"] > 0
    np.testing.assert_allclose(said["loss"], np.log(3.0), rtol=1e-15)


@pytest.mark.parametrize("bias", [True, False])
def test_minority_classes_merge_exactly_from_the_threshold_on(bias):
    counts, factors = (5, 2, 2), np.array([0.8, 0.999, 1.001, 1.25])
    threshold = predict(make(counts, 2, bias=bias))["merge_threshold"]
    assert threshold == {"2": pytest.approx(np.sqrt(2.0) / 9.0, rel=1e-15)}
    s = threshold["2"] * factors
    prob = problem(
        counts=counts, dim=2, decay_w=s * 2.0, decay_h=s / 2.0, decay_b=np.full(4, 1e-2 * bias), bias=bias
    )
    found, _ = lowest(prob, keys(32, 4))
    assert np.all(found.status == Status.CONVERGED)
    apart = np.linalg.norm(found.params.W[:, 1] - found.params.W[:, 2], axis=1)
    assert np.all(apart[factors < 1] > 1e-2)
    assert np.all(apart[factors > 1] < 1e-8)
    assert np.all(np.linalg.norm(found.params.W[:, 0] - found.params.W[:, 1], axis=1) > 1e-2)


@pytest.mark.parametrize("made", [class_balanced, logit_adjusted])
def test_weights_move_the_threshold_and_shared_offsets_do_not(made):
    """Merged, the residuals of the minority's samples differ by ω √n_c/N in singular value, whatever p is."""
    counts, factors = (5, 2, 2), np.array([0.8, 0.999, 1.001, 1.25])
    loss = made(counts)
    weight = loss.class_weights[-1] if loss.class_weights else 1.0
    s = weight * np.sqrt(2.0) / 9.0 * factors
    prob = problem(
        counts=counts, dim=2, decay_w=s * 2.0, decay_h=s / 2.0, decay_b=np.full(4, 1e-2), loss=loss
    )
    found, _ = lowest(prob, keys(32, 4))
    assert np.all(found.status == Status.CONVERGED)
    apart = np.linalg.norm(found.params.W[:, 1] - found.params.W[:, 2], axis=1)
    assert np.all(apart[factors < 1] > 1e-2)
    assert np.all(apart[factors > 1] < 1e-8)


def test_balanced_classes_merge_where_the_origin_becomes_the_minimiser():
    threshold = predict(make((4, 4, 4), 2))["merge_threshold"]["4"]
    np.testing.assert_allclose(3 * np.sqrt(4.0) * threshold, 1.0, rtol=1e-15)


KEYS = {
    *("num_classes", "dim", "counts", "loss_name", "strength", "kt", "regime", "loss", "logit_gap"),
    *("softmax_off_diagonal", "w_norm", "h_norm", "bias", "nullity", "merge_threshold"),
    *("origin_lambda_min", "origin_index", "rank", "hessian_min_nonzero", "hessian_max", "dying_count"),
    *("symmetric_loss", "symmetric_logit_gap"),
    *("candidate", "candidate_loss", "candidates", "lower_bound"),
}
FRAME = {"w_norm", "h_norm", "bias"}
CLOSED_FORM = {"regime", "loss", "rank"} | FRAME
SOFTMAX_MINIMUM = {"logit_gap", "softmax_off_diagonal", "nullity", "hessian_min_nonzero", "hessian_max"}
ORIGIN = {"origin_lambda_min", "origin_index"}
SYMMETRIC = {"symmetric_loss", "symmetric_logit_gap"}
ENOUGH_DIMENSIONS = {"candidate", "candidate_loss", "candidates", "lower_bound"}  # or another loss
NOT_CROSS_ENTROPY = SOFTMAX_MINIMUM | ORIGIN | {"merge_threshold"}
NOT_SQUARED = {"dying_count"} | SYMMETRIC


@pytest.mark.parametrize(
    ("prob", "unknown"),
    [
        (make(BALANCED, 2), NOT_SQUARED),
        (make(BALANCED, 2, loss=SMOOTH, bias=False), {"merge_threshold"} | NOT_SQUARED),
        (make(BALANCED, 2, decay_w=1.0, decay_h=1.0), {"nullity"} | NOT_SQUARED),
        (make(BALANCED, 3, loss=SQUARED), NOT_CROSS_ENTROPY | NOT_SQUARED),
        (make(BALANCED, 1), CLOSED_FORM | SOFTMAX_MINIMUM | NOT_SQUARED),
        (make((2,) * 5, 3), CLOSED_FORM | SOFTMAX_MINIMUM | NOT_SQUARED),
        (make(BALANCED, 2, loss=SQUARED), CLOSED_FORM | NOT_CROSS_ENTROPY | NOT_SQUARED),
        (make(IMBALANCED, 2), CLOSED_FORM | SOFTMAX_MINIMUM | ORIGIN | {"kt"} | NOT_SQUARED),
        (make(IMBALANCED, 2, loss=SQUARED, bias=False), FRAME | NOT_CROSS_ENTROPY | {"kt"} | SYMMETRIC),
        (make(IMBALANCED, 2, loss=SQUARED, decay_b=0.0), FRAME | NOT_CROSS_ENTROPY | {"kt"} | NOT_SQUARED),
        (make(BALANCED, 2, loss=Focal(2.0)), CLOSED_FORM | NOT_CROSS_ENTROPY | {"dying_count"}),
        (make(BALANCED, 1, loss=Focal(2.0)), CLOSED_FORM | NOT_CROSS_ENTROPY | NOT_SQUARED),
    ],
    ids=[
        *("etf", "smoothed", "origin", "squared", "below", "orthoplex", "squared below", "imbalanced"),
        *("imbalanced squared", "imbalanced undecayed", "focal", "focal below"),
    ],
)
def test_predict_has_fixed_keys_and_null_where_nothing_is_known(prob, unknown):
    said = predict(prob)
    assert set(said) == KEYS
    assert said["regime"].startswith("no closed form") == (unknown >= CLOSED_FORM)
    few = isinstance(prob.loss, type(CE)) and prob.balanced and prob.dim < prob.num_classes - 1
    unknown = unknown if few else unknown | ENOUGH_DIMENSIONS
    assert {key for key, value in said.items() if value is None} == unknown - {"regime"}
    assert json.loads(json.dumps(said, allow_nan=False)) == said


@pytest.mark.parametrize(
    ("counts", "dim", "loss"),
    [(BALANCED, 1, CE), (IMBALANCED, 3, SMOOTH), (BALANCED, 2, SQUARED), (BALANCED, 3, Focal(2.0))],
)
def test_no_closed_form_is_said_so(counts, dim, loss):
    prob = make(counts, dim, loss=loss)
    assert not has_closed_form(prob)
    assert np.isnan(global_minimum(prob))
    for build in (balanced_minimum, etf_minimiser):
        with pytest.raises(ValueError, match=rf"no closed form.*dim={dim}, loss={loss.name}"):
            build(prob)


@pytest.mark.parametrize("bias", [True, False])
def test_a_trace_knows_the_minimum_of_squared_loss_where_no_bias_is_decayed(bias):
    decay_b = np.array([0.0, 1e-2 * bias])
    prob = make(IMBALANCED, 1, loss=SQUARED, bias=bias)
    prob = replace(prob, **{f"decay_{x}": jnp.full(2, 1e-3) for x in "wh"}, decay_b=jnp.asarray(decay_b))
    found = jax.jit(jax.vmap(global_minimum))(prob)
    assert np.array_equal(np.isnan(found), decay_b > 0)
    assert has_closed_form(prob) == (not bias)
    assert found[0] == predict(take(prob, 0))["loss"]


def test_a_frame_that_is_no_etf_is_not_called_one():
    with pytest.raises(ValueError, match="loss: the minimiser of squared"):
        etf_minimiser(make(BALANCED, 3, loss=SQUARED))
