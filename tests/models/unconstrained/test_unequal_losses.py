"""Losses for unequal classes: their parts, certified minima, and what they are made to do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import IMBALANCED, dense_batch, dual_bound, find_minimum, make

from ufm_jax.cli import main
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import loss_checks, starts
from ufm_jax.models.unconstrained.losses import CrossEntropy, Squared
from ufm_jax.models.unconstrained.reduction import collapse, full_spectrum, restrict
from ufm_jax.models.unconstrained.theory import predict
from ufm_jax.models.unconstrained.unequal_losses import (
    VectorScaling,
    WeightedSquared,
    class_balanced,
    logit_adjusted,
    vector_scaling,
)

LOSSES = {
    "class-balanced": class_balanced(IMBALANCED),
    "logit-adjusted": logit_adjusted(IMBALANCED, 0.7),
    "vector-scaling": vector_scaling(IMBALANCED, 0.5, 0.3),
    "weighted squared": WeightedSquared(class_weights=(0.5, 2.0, 1.0)),
}


@jax.jit
def minimum(prob, seed):
    params = find_minimum(prob, starts.gaussian(prob, jax.random.key(seed))).x
    return params, examine(prob, params).evidence


@pytest.mark.parametrize("loss", LOSSES)
def test_each_passes_the_check_of_users_losses(loss, monkeypatch):
    monkeypatch.setattr(loss_checks, "OWN", "nobody's")
    loss_checks.check_loss(LOSSES[loss], 3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_minima_are_certified_and_their_spectrum_is_the_dense_one(loss, bias):
    prob = make(IMBALANCED, 3, loss=LOSSES[loss], bias=bias)
    params, found = minimum(prob, 0)
    assert found.verdict == Verdict.GLOBAL_MINIMUM
    assert dual_bound(prob, jax.tree.map(lambda a: 1.2 * a + 0.1, params)) <= found.loss + 1e-12
    dense = np.linalg.eigvalsh(dense_batch(prob, jax.tree.map(lambda a: a[None], params))[0])
    np.testing.assert_allclose(full_spectrum(prob, restrict(collapse(prob), params)), dense, atol=1e-9)


def test_vector_scaling_without_temperatures_is_logit_adjustment():
    prob, other = (
        make(IMBALANCED, 2, loss=loss)
        for loss in (vector_scaling(IMBALANCED, 0.7, 0.0), logit_adjusted(IMBALANCED, 0.7))
    )
    p = starts.gaussian(prob, jax.random.key(1))
    np.testing.assert_allclose(prob.value(p), other.value(p), rtol=1e-14)


def test_rows_of_the_classifier_sum_to_zero_over_the_temperatures():
    """1ᵀ Δ⁻¹ W = 0 where cross-entropy has 1ᵀ W = 0."""
    loss = VectorScaling(temperatures=(1.0, 0.5, 0.7), offsets=(0.0, -0.5, 0.2))
    params, _ = minimum(make(IMBALANCED, 3, loss=loss), 1)
    W = np.asarray(params.W)
    np.testing.assert_allclose((W / np.array(loss.temperatures)[:, None]).sum(axis=0), 0.0, atol=1e-8)
    assert np.linalg.norm(W.sum(axis=0)) > 0.1


def test_class_weights_of_balanced_classes_are_one():
    assert class_balanced((4, 4, 4)) == CrossEntropy(class_weights=(1.0, 1.0, 1.0))


def test_weighted_squared_loss_decouples():
    """a_k = (1 − N s/(ω_k √n_k))₊, and f* of it, against a descent; the class of one sample dies."""
    counts, weights = (6, 3, 1), (1.0, 3.0, 0.5)
    loss = WeightedSquared(class_weights=weights)
    prob = make(counts, 3, loss=loss, bias=False, decay_w=0.06, decay_h=0.06)
    said = predict(prob)
    params, found = minimum(prob, 2)
    np.testing.assert_allclose(found.loss, said["loss"], rtol=1e-12)
    means = np.asarray(params.W @ params.H)[:, np.cumsum((0, *counts[:-1]))]
    np.testing.assert_allclose(means, np.diag(said["fitted"]), atol=1e-6)
    assert said["fitted"][2] < 1e-15 < said["fitted"][1]
    one = make(counts, 3, loss=WeightedSquared(class_weights=(1.0,) * 3), bias=False)
    plain = make(counts, 3, loss=Squared(), bias=False)
    np.testing.assert_allclose(predict(one)["loss"], predict(plain)["loss"], rtol=1e-13)


@pytest.mark.parametrize("loss", ["class-balanced", "logit-adjusted", "vector-scaling"])
def test_the_command_line_makes_them_for_the_counts(loss, capsys):
    main(f"predict --counts 8,4,2 --dim 2 --decay-w 1e-2 --decay-h 1e-2 --loss {loss} --json".split())
    said = json.loads(capsys.readouterr().out)
    assert said["loss"] is None  # no closed form
    assert said["loss_name"] in ("cross-entropy", "vector-scaling")


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: class_balanced((1, 0)), "counts"),
        (lambda: logit_adjusted((1, 2), -1.0), "tau"),
        (lambda: vector_scaling((1, 2), power=-1.0), "power"),
        (lambda: VectorScaling(temperatures=(1.0, 0.0)), "temperatures"),
        (lambda: VectorScaling(temperatures=(1.0, 1.0)).check(3), "temperatures"),
        (lambda: WeightedSquared(class_weights=(1.0, -1.0)), "class_weights"),
        (lambda: WeightedSquared().check(3), "class_weights"),
    ],
)
def test_what_does_not_fit_is_named(make_it, named):
    with pytest.raises(ValueError, match=f"^{named}:"):
        make_it()


def test_vector_scaling_tells_no_classes_apart_that_are_alike():
    prob = make((2, 2, 1), 2, loss=vector_scaling((2, 2, 1)))
    assert prob.kinds.tolist() == [1, 1, 0]
    assert jnp.all(jnp.isfinite(prob.value(prob.zeros())))
