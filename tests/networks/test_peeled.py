"""A network's last layer is judged alike here and by `ufm certify`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.last_layer import judge_files
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import network
from ufm_jax.networks.peeled import export, extract, stand, standing
from ufm_jax.networks.run import experiment, run
from ufm_jax.networks.training import Recipe, on_device


@pytest.fixture(scope="module", params=["parameters", "peeled"])
def trained(request):
    """A small network after two epochs."""
    train = on_device(stratified(load("digits").train, 12))
    recipe = Recipe(batch=24, epochs=2, form=request.param, decay_w=5e-3, decay_h=1e-5)
    exp = experiment(network(Design("mlp", 10, width=12, depth=1), (8, 8, 1)), recipe, train, train)
    return exp, run(exp, 0)[0].weights


def test_exports_are_what_certify_reads(trained, tmp_path):
    exp, weights = trained
    file = tmp_path / "layer.npz"
    decays = export(file, exp.net, exp.recipe, weights, exp.train)
    verdict = judge_files(file, **decays).row
    here = stand(exp.net, exp.recipe, weights, exp.train)
    for name in ("loss", "grad_norm", "dual_gap", "negative_curvature"):
        np.testing.assert_allclose(here[name], verdict[name], rtol=1e-8, atol=1e-12)
    assert here["dual_gap"] > 0
    metrics = exp.measure(weights, exp.train)
    for name in ("nc1", "nc2", "nc3", "nc4"):
        np.testing.assert_allclose(getattr(metrics, name), verdict[name], rtol=1e-5)  # features in float32


def test_the_decays_are_those_of_training_or_balanced(trained):
    exp, weights = trained
    here = stand(exp.net, exp.recipe, weights, exp.train)
    if exp.recipe.form == "peeled":
        assert (here["decay_w"], here["decay_h"], here["decay_b"]) == (5e-3, 1e-5, 1e-2)
    else:
        assert here["decay_w"] == here["decay_b"] == exp.recipe.decay
        np.testing.assert_allclose(here["balance"], 1.0, rtol=1e-12)


def test_features_are_sorted_by_class(trained):
    exp, weights = trained
    point, labels = extract(exp.net, weights, exp.train, chunk=50)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 12))
    assert point.H.dtype == jnp.float64
    b = 0.0 if point.b is None else point.b[:, None]
    right = np.mean(np.argmax(np.asarray(point.W @ point.H + b), axis=0) == labels)
    np.testing.assert_allclose(right, float(exp.measure(weights, exp.train).accuracy))


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_minimiser_stands_where_theory_says(d):
    prob = problem(num_classes=3, per_class=4, dim=d, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    here = standing(prob, etf_minimiser(prob))
    np.testing.assert_allclose(here.logit_gap, here.logit_gap_predicted, rtol=1e-12)
    np.testing.assert_allclose(here.wrong_probability, here.wrong_probability_predicted, rtol=1e-10)
    np.testing.assert_allclose(here.balance, 1.0, rtol=1e-12)
    assert max(abs(float(here.dual_gap)), float(here.grad_norm), -float(here.negative_curvature)) < 1e-12


def test_without_a_bias_there_is_no_decay_of_it():
    train = on_device(stratified(load("digits").train, 3))
    net = network(dataclasses.replace(Design("mlp", 10, width=10, depth=1), bias=False), (8, 8, 1))
    exp = experiment(net, Recipe(batch=30, epochs=1), train, train)
    assert stand(net, exp.recipe, exp.trainer.init(0).weights, train)["decay_b"] == 0.0
