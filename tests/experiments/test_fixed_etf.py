"""Prices are of what is held; for d < K − 1 collapse comes as near to a simplex as it can."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal

from experiments import fixed_etf
from experiments.networks_common import built
from experiments.networks_cost import (
    held_bytes,
    memory,
    product_rate,
    rates,
    state_shapes,
    temporary_bytes,
)
from experiments.networks_runs import Budget
from ufm_jax.models.unconstrained.geometry import distance_to_simplex, simplex_gram
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design, orthogonal_simplices
from ufm_jax.networks.models import network, num_parameters
from ufm_jax.networks.training import Recipe, objective, on_device

PIXELS = (8, 8, 1)


def test_rates_are_of_the_operations_that_a_step_takes():
    data = load("digits")
    images = on_device(stratified(data.train, 10))
    design = Design("mlp", 10, width=32, depth=2, batch_norm=False)
    exp = built(design, Recipe(batch=50), (images, images), "digits", 50)
    found = rates(exp, 0.01)
    assert found["images_per_second"] == 5000
    # Products alone: forward, and backward with respect to weights and to all but the first layer's inputs.
    least = 2 * 50 * (2 * 64 * 32 + 3 * 32 * 32 + 3 * 32 * 10)
    assert 0.9 * least < found["operations_per_second"] * 0.01 < 2 * least
    assert found["share_of_rate"] == found["operations_per_second"] / product_rate()
    assert np.isfinite(found["share_of_rate"])


@pytest.mark.parametrize(("optimiser", "copies"), [("sgd", 1), ("adam", 2)])
def test_an_optimiser_holds_so_many_numbers_for_each_parameter(optimiser, copies):
    design = Design("mlp", 10, width=32, depth=2, etf=True)
    held = memory(network(design, PIXELS), Recipe(optimiser=optimiser, batch=50), PIXELS)
    assert held["parameters"] == num_parameters(design, PIXELS)
    counts = held["optimiser_bytes"] - 4 * copies * held["parameters"]
    assert 0 < counts <= 8  # a count of steps, for the rate and for Adam


def residual_bytes(net, batch):
    """Bytes of what automatic differentiation keeps between the passes, each array once."""
    state = state_shapes(net, Recipe(batch=batch))
    f = objective(net, Recipe(), batch)

    def kept(params, weights, pixels, labels):
        return jax.vjp(lambda p: f(p, weights, pixels, labels), params, has_aux=True)[1]

    pixels = jax.ShapeDtypeStruct((batch, *PIXELS), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    jaxpr = jax.make_jaxpr(kept)(state.weights.params, state.weights, pixels, labels).jaxpr
    arrays = {v for v in jaxpr.outvars if not isinstance(v, Literal)} - set(jaxpr.invars)
    return held_bytes([v.aval for v in arrays])


def test_activations_are_of_the_images_and_the_rest_of_the_parameters():
    design, batch = Design("mlp", 10, width=128, depth=3, batch_norm=False), 64
    net = network(design, PIXELS)
    here, double = (memory(net, Recipe(batch=b), PIXELS) for b in (batch, 2 * batch))
    assert double["activation_bytes"] == pytest.approx(2 * here["activation_bytes"], rel=0.02)
    # Backward reads every hidden layer and the softmax, and holds as much again at most, and a layer.
    least = 4 * batch * (3 * 128 + 10)
    assert least < here["activation_bytes"] < 2 * least + 4 * batch * 128
    assert here["activation_bytes"] < residual_bytes(net, 2 * batch) - residual_bytes(net, batch)
    wide = network(replace(design, dim=256), PIXELS)
    assert memory(wide, Recipe(batch=batch), PIXELS)["activation_bytes"] > here["activation_bytes"]
    assert here["temporary_bytes"] == temporary_bytes(net, Recipe(batch=batch), PIXELS, batch)


@pytest.mark.parametrize(("K", "d"), [(10, 5), (10, 4), (5, 1), (6, 4)])
def test_no_matrix_of_rank_d_is_nearer_to_the_simplex(K, d):
    least = fixed_etf.least_nc2(K, d)
    vectors = np.linalg.eigh(simplex_gram(K))[1]
    near = vectors[:, -d:] @ vectors[:, -d:].T  # a projection orthogonal to 1: by Eckart & Young
    assert distance_to_simplex(jnp.asarray(near)) == pytest.approx(least, rel=1e-12)
    for key in jax.random.split(jax.random.key(0), 20):
        W = np.asarray(jax.random.normal(key, (K, d)))
        assert distance_to_simplex(jnp.asarray(W @ W.T)) > least
        moved = near + 0.1 * W @ W.T / np.linalg.norm(W @ W.T)
        low = np.linalg.eigh(moved)
        cut = (low[1][:, -d:] * low[0][-d:]) @ low[1][:, -d:].T  # of rank d again
        assert distance_to_simplex(jnp.asarray(cut)) > least - 1e-12
    assert fixed_etf.least_nc2(K, K - 1) == fixed_etf.least_nc2(K, K + 3) == 0.0


def test_the_orthoplex_is_as_near_as_can_be():
    W = orthogonal_simplices(10, 5)
    assert distance_to_simplex(jnp.asarray(W @ W.T)) == pytest.approx(fixed_etf.least_nc2(10, 5), rel=1e-12)


def test_full_width_has_the_papers_share_of_parameters():
    designs = fixed_etf.designs(fixed_etf.SCALES["paper"].body)
    counts = [num_parameters(replace(design, stem="imagenet")) for design in designs.values()]
    assert counts[1] / counts[0] - 1 == pytest.approx(-0.2070, abs=5e-5)  # Zhu et al. 2021: over 20%


@pytest.mark.slow
def test_every_price_of_every_design_stands_in_the_rows_and_in_the_csv(tmp_path):
    data = load("digits")
    train = on_device(stratified(data.train, 10))
    config = replace(
        fixed_etf.SCALES["smoke"], body=Design("mlp", 10, width=12, depth=1, batch_norm=False), chunk=100
    )
    config = replace(config, recipe=replace(config.recipe, epochs=1, batch=50))
    rows = {}
    for name, design in fixed_etf.designs(config.body).items():
        exp = built(design, config.recipe, (train, train), "digits", config.chunk)
        rows[name] = fixed_etf.prices(exp) | {"step_seconds": 0.01, "epochs": [1]}
        rows[name]["test_accuracy"] = {"mean": 0.5, "sd": None}
    fixed_etf.changes(rows)
    first, *others = rows.values()
    assert all(first[f"{key}_change_percent"] == 0.0 for key in fixed_etf.PRICES)
    assert [row["full_width_parameters"] for row in rows.values()][:2] == [11_181_642, 8_867_542]
    for row in others:
        assert row["parameters"] < first["parameters"]
        saved = 100 * (row["parameters"] / first["parameters"] - 1)
        assert row["parameters_change_percent"] == pytest.approx(saved)
        assert row["optimiser_bytes_change_percent"] == pytest.approx(saved, abs=0.2)  # and a count of steps
    fixed_etf.write_designs(tmp_path / "designs.csv", rows)
    with (tmp_path / "designs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["design"] for line in lines] == list(rows)
    assert [int(line["activation_bytes"]) for line in lines] == [
        row["activation_bytes"] for row in rows.values()
    ]
    assert lines[0]["test_accuracy_sd"] == ""


def test_accuracies_are_compared_seed_by_seed():
    tests = {"a": [0.5, 0.7], "b": [0.6, 0.9]}
    runs = {name: [[{"test_accuracy": v}] for v in values] for name, values in tests.items()}
    moved = fixed_etf.change(runs["b"], runs["a"])
    assert moved["mean"] == pytest.approx(0.15)
    assert moved["sd"] == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert fixed_etf.change(runs["a"], runs["a"]) == {"mean": 0.0, "sd": 0.0}


@pytest.mark.slow
def test_a_run_has_a_row_for_each_design(monkeypatch):
    config = fixed_etf.SCALES["smoke"]
    some = {name: one for name, one in fixed_etf.designs(config.body).items() if one.dim == 5}
    assert len(some) == 2  # for d < K − 1
    monkeypatch.setattr(fixed_etf, "designs", lambda body: some)
    config = replace(config, source=replace(config.source, name="digits", pool=1), seeds=1)
    config = replace(config, recipe=replace(config.recipe, epochs=1))
    rows, histories, _ = fixed_etf.results(config, None, Budget())
    assert list(rows) == list(histories) == list(some)
    for (name, row), design in zip(rows.items(), some.values(), strict=True):
        least = fixed_etf.least_nc2(10, design.feature_dim)
        assert row["nc2"]["mean"] >= least - 1e-6  # W is float32
        assert row["step_seconds"] > 0
        assert name in fixed_etf.shown(rows)
        assert name in fixed_etf.priced(rows)
