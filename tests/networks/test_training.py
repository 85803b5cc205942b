"""Steps follow the stated objective, runs resume bit for bit, nothing compiles twice."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective as landscape_objective
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.networks import run as run_module
from ufm_jax.networks.data import load, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import last_layer, network
from ufm_jax.networks.run import experiment, run
from ufm_jax.networks.training import Recipe, objective, on_device, standardise

SMALL = Design("mlp", 10, width=16, depth=2)
SHALLOW = Design("mlp", 10, width=16, depth=1, norm_momentum=0.0)  # the line search compiles it many times
TRACES: list = []  # grows whenever a network's function is traced for compilation
QUICK = Recipe(rate=0.1, epochs=8, batch=20, drop_every=5)


@pytest.fixture(scope="module")
def digits():
    """Twenty digits of each class to train on, five to test on."""
    data = load("digits")
    train, test = stratified(data.train, 20), stratified(data.test, 5)
    return on_device(train), on_device(test, train)


@pytest.fixture(scope="module")
def built(digits):
    """Build experiments on digits, measured in chunks that do not divide N; each is compiled once."""

    @functools.cache
    def build(recipe, design=SMALL):
        net = network(design, (8, 8, 1))

        def apply(weights, images, train, products=None):
            TRACES.append((design, len(images), train))
            return net.apply(weights, images, train, products)

        return experiment(net._replace(apply=apply), recipe, *digits, chunk=64, name="digits")

    return build


RECIPES = {
    "sgd": QUICK,
    "adam": dataclasses.replace(QUICK, optimiser="adam", rate=1e-2),
    "lbfgs": dataclasses.replace(QUICK, optimiser="lbfgs", rate=1.0, batch=200, epochs=12),
    "augmented": dataclasses.replace(QUICK, augment=True),
    "peeled": dataclasses.replace(QUICK, form="peeled", decay_w=5e-3, decay_h=5e-6),
}


@pytest.mark.parametrize("name", ["sgd", "adam", "lbfgs", "peeled"])
def test_training_fits_the_digits(built, name):
    exp = built(RECIPES[name], SHALLOW if name == "lbfgs" else SMALL)
    _, rows = run(exp, 0)
    assert [row["epoch"] for row in rows] == list(range(1, exp.recipe.epochs + 1))
    assert rows[-1]["objective"] < 0.7 * rows[0]["objective"]
    assert rows[-1]["train_accuracy"] > 0.75


def test_a_run_that_has_to_end_in_time_goes_on_from_there(built, tmp_path):
    exp, file = built(RECIPES["sgd"]), tmp_path / "run.npz"
    _, first = run(exp, 1, checkpoint=file, deadline=0.0)  # long past: one epoch at least
    assert [row["epoch"] for row in first] == [1]
    _, rows = run(exp, 1, checkpoint=file, epochs=3)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0] == first[0]


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 2), (1e9, 0)])
def test_epochs_that_take_long_are_kept_before_their_tenth(built, tmp_path, monkeypatch, seconds, kept):
    """A kill costs no more than `KEPT` seconds or an epoch."""
    exp, file = built(RECIPES["sgd"]), tmp_path / "run.npz"
    monkeypatch.setattr(run_module, "KEPT", seconds)

    def kill(text):
        if text.startswith("epoch   3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(exp, 1, checkpoint=file, say=kill)
    assert file.exists() == (kept > 0)
    again = []
    run(exp, 1, checkpoint=file, epochs=3, say=again.append)
    assert len(again) == 3 - kept


@pytest.mark.parametrize("name", ["sgd", "lbfgs", "augmented"])
def test_a_resumed_run_has_the_same_bits(built, tmp_path, name):
    exp = built(RECIPES[name], SHALLOW if name == "lbfgs" else SMALL)
    whole, rows = run(exp, 1, epochs=4)
    file = tmp_path / "run.npz"
    run(exp, 1, checkpoint=file, epochs=2)
    resumed, more = run(exp, 1, checkpoint=file, epochs=4)
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
    strip = lambda row: {k: v for k, v in row.items() if k != "seconds"}
    assert list(map(strip, rows)) == list(map(strip, more))
    with pytest.raises(ValueError, match="belongs to another run"):
        run(exp, 2, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot read"):
        run(exp, 1, checkpoint=file)


@pytest.mark.parametrize("name", ["sgd", "lbfgs"])
def test_every_function_is_traced_once_for_all_epochs_and_seeds(built, name):
    exp = built(RECIPES[name], SHALLOW if name == "lbfgs" else SMALL)
    run(exp, 0, epochs=1)
    before = len(TRACES)
    assert before > 0
    run(exp, 1, epochs=3)
    assert len(TRACES) == before


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        CrossEntropy(class_weights=tuple(range(1, 11))),
        CrossEntropy(offsets=tuple(float(k) for k in range(10))),
    ],
    ids=["plain", "weighted", "offset"],
)
def test_the_peeled_objective_is_that_of_the_landscape(digits, loss):
    """On all images, without batch norm: f of (W, H, b), H the network's features."""
    train, _ = digits
    design = dataclasses.replace(SMALL, batch_norm=False)
    net = network(design, (8, 8, 1))
    weights = net.init(jax.random.key(3))
    ours = {"class_weights": loss.class_weights, "offsets": loss.offsets}
    recipe = dataclasses.replace(QUICK, form="peeled", decay_w=0.3, decay_h=2e-3, decay_b=0.2, **ours)
    N = len(train.labels)
    pixels = standardise(train.pixels, train)
    value, _ = objective(net, recipe, N)(weights.params, weights, pixels, train.labels)
    features = net.apply(weights, pixels, False)[0]
    order = np.argsort(np.asarray(train.labels), kind="stable")
    decays = {"decay_w": 0.3, "decay_h": 2e-3, "decay_b": 0.2}
    prob = problem(num_classes=10, per_class=20, dim=16, **decays, loss=loss)
    W, b = last_layer(weights)
    point = Params(*(a.astype(jnp.float64) for a in (W, features[order].T, b)))
    np.testing.assert_allclose(value, landscape_objective(prob)(point), rtol=1e-5)


def test_weight_decay_is_on_all_that_is_trained(digits):
    train, _ = digits
    net = network(dataclasses.replace(SMALL, etf=True), (8, 8, 1))
    weights = net.init(jax.random.key(3))
    pixels = standardise(train.pixels, train)
    with_decay, without = (
        objective(net, dataclasses.replace(QUICK, decay=decay), 200)(
            weights.params, weights, pixels, train.labels
        )[0]
        for decay in (0.1, 0.0)
    )
    squares = sum(float(jnp.sum(a**2)) for a in jax.tree.leaves(weights.params))
    np.testing.assert_allclose(with_decay - without, 0.05 * squares, rtol=1e-4)


def test_frozen_classifiers_stay(built):
    exp = built(QUICK, dataclasses.replace(SMALL, etf=True))
    state, _ = run(exp, 0, epochs=1)
    np.testing.assert_array_equal(*(last_layer(w)[0] for w in (state.weights, exp.trainer.init(0).weights)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "lion"}, "optimiser: need sgd"),
        ({"form": "both"}, "form: need parameters or peeled"),
        ({"epochs": 0}, "epochs: need a whole number >= 1, got 0"),
        ({"rate": 0.0}, "rate: need > 0 .*got 0.0"),
        ({"decay_h": -1.0}, "decay_h: need >= 0 .*got -1.0"),
    ],
)
def test_bad_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_divergence_is_an_error(built):
    exp = built(dataclasses.replace(QUICK, rate=1e18, decay=1.0))
    with pytest.raises(FloatingPointError, match=r"rate: 1e\+18 is too high.*epoch 1.*objective"):
        run(exp, 0)


def test_features_that_die_of_too_high_a_rate_are_an_error_too(built):
    """Adam's steps of 1e6 leave finite weights and a finite objective, and no feature that is not 0."""
    exp = built(
        dataclasses.replace(QUICK, optimiser="adam", rate=1e6), dataclasses.replace(SMALL, batch_norm=False)
    )
    with pytest.raises(FloatingPointError, match=r"rate: 1000000.0 is too high.*epoch 1.*nc3, cdnv"):
        run(exp, 0)


@pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
def test_bfloat16_rounds_the_bodys_products_and_nothing_else(digits, architecture):
    """Weights, statistics and gradients stay float32; the objective moves by bfloat16's rounding, 2⁻⁸."""
    net = network(Design(architecture, 10, width=8, depth=2), digits[0].pixels.shape[1:])
    weights = net.init(jax.random.key(0))
    pixels, labels = standardise(digits[0].pixels[:32], digits[0]), digits[0].labels[:32]
    found = {}
    for precision in ("float32", "bfloat16"):
        f = objective(net, Recipe(precision=precision), 32)
        found[precision] = jax.jit(jax.value_and_grad(f, has_aux=True))(
            weights.params, weights, pixels, labels
        )
        assert {a.dtype for a in jax.tree.leaves(found[precision])} == {jnp.dtype("float32")}
        jaxpr = str(jax.make_jaxpr(f)(weights.params, weights, pixels, labels))
        products = re.findall(r":(\w+)\[[^\]]*\] = (?:conv_general_dilated|dot_general)", jaxpr)
        *body, classifier = products
        assert set(body) == {"bf16" if precision == "bfloat16" else "f32"}
        assert classifier == "f32"
    (wide, _), (narrow, _) = (value for value, _ in found.values())
    assert 0 < abs(narrow - wide) < 2.0**-8 * wide


@pytest.mark.parametrize("precision", [None, "bfloat16", "tensorfloat32", "float32"])
@pytest.mark.parametrize("etf", [False, True])
def test_the_classifier_is_float32_on_devices_that_round_by_default(digits, precision, etf):
    """The body is as the recipe says: JAX's own precision, TensorFloat-32 (HIGH) or float32 (HIGHEST)."""
    net = network(Design("mlp", 10, width=12, depth=2, etf=etf), digits[0].pixels.shape[1:])
    weights = net.init(jax.random.key(0))
    pixels, labels = standardise(digits[0].pixels[:32], digits[0]), digits[0].labels[:32]
    f = objective(net, Recipe(precision=precision), 32)
    jaxpr = str(jax.make_jaxpr(f)(weights.params, weights, pixels, labels))
    *body, classifier = re.findall(r"dot_general\[(.*?)\n *\] ", jaxpr, re.DOTALL)
    said = {None: None, "bfloat16": None, "tensorfloat32": "HIGH", "float32": "HIGHEST"}[precision]
    assert len(body) == 2
    for product, expected in ((body[0], said), (body[1], said), (classifier, "HIGHEST")):
        found = re.search(r"precision=\(Precision\.(\w+), ", product)
        assert (found.group(1) if found else None) == expected


def test_a_networks_precision_is_its_own():
    """What is measured after training in bfloat16 is measured in float32."""
    net = network(Design("mlp", 10, width=8, depth=2), (4, 4, 1))
    weights = net.init(jax.random.key(0))
    x = jnp.ones((3, 4, 4, 1), jnp.float32)
    before = net.apply(weights, x, False)[1]
    assert net.apply(weights, x, False, jnp.bfloat16)[1].dtype == jnp.float32
    np.testing.assert_array_equal(net.apply(weights, x, False)[1], before)
