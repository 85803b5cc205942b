"""Bad images, labels and recipes are refused by name; no run goes on, or is saved, after it diverged."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.networks import run as running
from ufm_jax.networks.checkpoint import restore, save
from ufm_jax.networks.data import Split, as_rgb32, pooled, random_labels, stratified
from ufm_jax.networks.design import Design
from ufm_jax.networks.measure import Collapse
from ufm_jax.networks.models import Weights, network
from ufm_jax.networks.run import experiment, identity, run
from ufm_jax.networks.training import Images, Recipe, State, Trainer, on_device

K = 3
NET = network(Design("mlp", K, width=4, depth=1), (2, 2, 1))
RECIPE = Recipe(epochs=4, batch=6)


def split(seed=0, count=6):
    """Two random images of each class in turn."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 1), np.uint8)
    return Split(pixels, np.arange(count, dtype=np.int32) % K)


TRAIN, TEST = on_device(split()), on_device(split(1, 4), split())
GOOD = split()
BAD_SPLITS = {
    "no images": (GOOD.images[:0], GOOD.labels[:0], "images: .*at least one"),
    "labels missing": (GOOD.images, GOOD.labels[:4], "labels: .*one for each of 6 images, got 4"),
    "labels too many": (GOOD.images[:4], GOOD.labels, "labels: .*one for each of 4 images, got 6"),
    "labels in a matrix": (GOOD.images, GOOD.labels[:, None], r"labels: .*vector.*got .*\(6, 1\)"),
    "labels negative": (GOOD.images, GOOD.labels - 1, "labels: .*got -1"),
    "labels fractional": (GOOD.images, GOOD.labels + 0.5, "labels: .*integers, got float64"),
    "labels in floats": (GOOD.images, GOOD.labels.astype(np.float32), "labels: .*integers, got float32"),
    "labels in booleans": (GOOD.images, GOOD.labels > 0, "labels: .*integers, got bool"),
    "pixels in floats": (GOOD.images / 255.0, GOOD.labels, "images: .*uint8, got float64"),
    "pixels in int32": (GOOD.images.astype(np.int32), GOOD.labels, "images: .*uint8, got int32"),
    "no channel axis": (GOOD.images[..., 0], GOOD.labels, r"images: .*N x h x w x c, got .*\(6, 2, 2\)"),
    "no pixels": (GOOD.images[:, :0], GOOD.labels, "images: .*at least one"),
}
READERS = {
    "on_device": on_device,
    "like": lambda bad: on_device(GOOD, bad),
    "stratified": lambda bad: stratified(bad, 1),
    "random_labels": random_labels,
    "pooled": lambda bad: pooled(bad, 1),
    "as_rgb32": as_rgb32,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("images", "labels", "said"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_a_bad_split_is_refused_by_whatever_reads_it(reader, images, labels, said):
    with pytest.raises(ValueError, match=said):
        reader(Split(images, labels))


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize(("images", "labels", "said"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_an_experiment_refuses_bad_images_made_by_hand(which, images, labels, said):
    bad = TRAIN._replace(pixels=jnp.asarray(images), labels=jnp.asarray(labels))
    pair = {"train": TRAIN, "test": TEST} | {which: bad}
    with pytest.raises(ValueError, match=f"{which}.{said.replace('images:', 'pixels:')}"):
        experiment(NET, RECIPE, **pair)


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("label", [K, 12])
def test_labels_beyond_the_networks_classes_are_refused(which, label):
    good = {"train": TRAIN, "test": TEST}
    bad = good[which]._replace(labels=good[which].labels.at[1].set(label))
    with pytest.raises(ValueError, match=rf"{which}.labels: need 0 to 2 .*got {label} \(image 1\)"):
        experiment(NET, RECIPE, **(good | {which: bad}))


def test_a_class_without_training_images_is_refused_and_one_without_test_images_is_not():
    few = lambda images: images._replace(labels=images.labels % 2)
    with pytest.raises(ValueError, match=r"train.labels: .*class 2 has none"):
        experiment(NET, RECIPE, few(TRAIN), TEST)
    experiment(NET, RECIPE, TRAIN, few(TEST))


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"std": jnp.zeros(1, jnp.float32)}, "std: .*> 0, got 0.0"),
        ({"std": jnp.full(1, jnp.nan, jnp.float32)}, "std: .*got nan"),
        ({"mean": jnp.full(1, jnp.inf, jnp.float32)}, "mean: .*got inf"),
        ({"mean": jnp.zeros(3, jnp.float32)}, r"mean: .*1 channels?, got .*\(3,\)"),
    ],
)
def test_a_bad_pixel_scale_is_refused(which, changes, said):
    pair = {"train": TRAIN, "test": TEST}
    with pytest.raises(ValueError, match=f"{which}.{said}"):
        experiment(NET, RECIPE, **(pair | {which: pair[which]._replace(**changes)}))


def test_test_images_of_another_size_are_refused():
    other = on_device(Split(np.ones((6, 3, 2, 1), np.uint8), GOOD.labels))
    with pytest.raises(ValueError, match=r"test.pixels: need images of \(2, 2, 1\).*got \(3, 2, 1\)"):
        experiment(NET, RECIPE, TRAIN, other)


def made(kind, **changes):
    """Make a record as users do, without the run-time check of types that these tests turn on."""
    record = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(record, field.name, changes.get(field.name, field.default))
    record.__post_init__()
    return record


FLOATS = [f.name for f in dataclasses.fields(Recipe) if f.type == "float" or f.type is float]
INTS = [f.name for f in dataclasses.fields(Recipe) if f.type == "int" or f.type is int]


def test_the_recipes_numbers_are_those_tested_here():
    assert FLOATS == ["rate", "momentum", "drop", "decay", "decay_w", "decay_h", "decay_b"]
    assert INTS == ["memory", "epochs", "batch", "drop_every"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1.0, "0.1", None, 1j, True])
def test_a_recipes_floats_are_finite_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: need .*got {re.escape(repr(value))}"):
        made(Recipe, **{name: value})


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, np.nan, np.inf, True, "2", None])
def test_a_recipes_counts_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: need .*got {re.escape(repr(value))}"):
        made(Recipe, **{name: value})


@pytest.mark.parametrize("name", ["num_classes", "dim", "width", "depth"])
@pytest.mark.parametrize("value", [0, 4.5, 4.0, np.nan, "4"])
def test_a_designs_sizes_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: need .*got {re.escape(repr(value))}"):
        made(Design, **({"architecture": "mlp", "num_classes": K} | {name: value}))


def test_numpy_numbers_make_the_same_recipe_and_the_same_checkpoint():
    same = made(Recipe, rate=np.float64(0.5), epochs=np.int64(4), batch=np.int32(6), augment=np.bool_(True))
    assert same == Recipe(rate=0.5, epochs=4, batch=6, augment=True)
    json.dumps(dataclasses.asdict(same))
    assert json.dumps(dataclasses.asdict(made(Recipe, rate=1))) == json.dumps(
        dataclasses.asdict(Recipe(rate=1.0))
    )


# A run whose training and measurement are replaced: nothing compiles.
FINITE = Collapse(*(jnp.asarray(0.5) for _ in Collapse._fields))
BEGIN = State(
    Weights({"w": jnp.ones(2, jnp.float32)}, {"mean": jnp.zeros(2, jnp.float32)}, {}),
    {"trace": jnp.zeros(2, jnp.float32), "count": jnp.zeros((), jnp.int32)},
    jnp.zeros((), jnp.int32),
)


def played(train=TRAIN, test=TEST, *, broken="", at=3, number=np.nan, recipe=RECIPE, net=NET):
    """Build an experiment that only counts epochs, with one number `broken` after epoch `at`."""
    state = lambda name, old: jnp.full_like(old, number) if broken == name else old

    def epoch(state_, images, key):
        weights, memory, done = state_
        if done + 1 == at:
            weights = Weights({"w": state("w", weights.params["w"])}, weights.stats, {})
            weights = weights._replace(stats={"mean": state("mean", weights.stats["mean"])})
            memory = memory | {"trace": state("trace", memory["trace"])}
        value = number if broken == "objective" and done + 1 == at else 1.0
        return State(weights, memory, done + jnp.int32(1)), jnp.asarray(value)

    calls = []

    def measure(weights, images):
        calls.append(images)
        which = "train" if images is train else "test"
        due = broken.startswith(which) and (len(calls) + 1) // 2 == at
        return FINITE._replace(**{broken.split(".")[1]: jnp.asarray(number)}) if due else FINITE

    exp = experiment(net, recipe, train, test)
    return exp._replace(trainer=Trainer(lambda seed: BEGIN, epoch), measure=measure)


BROKEN = {
    "objective": "objective",
    "w": "weights",
    "mean": "weights",
    "trace": "optimiser",
    **{f"train.{name}": name.replace("accuracy", "train_accuracy") for name in Collapse._fields},
    "test.accuracy": "test_accuracy",
    "test.cross_entropy": "test_cross_entropy",
}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("broken", "said"), BROKEN.items(), ids=BROKEN)
def test_a_run_ends_at_the_first_number_that_is_not_finite_and_keeps_what_was_before(
    tmp_path, broken, said, number
):
    file, lines = tmp_path / "run.npz", []
    exp = played(broken=broken, number=number)
    with pytest.raises(FloatingPointError, match=rf"rate: 0.05 .*epoch 3.*{said}.*not finite"):
        run(exp, 0, checkpoint=file, checkpoint_every=1, say=lines.append, also=lambda w: {"seen": 1.0})
    assert len(lines) == 2
    state, history = restore(file, BEGIN, identity(exp, 0))
    assert (int(state.epoch), len(history)) == (2, 2)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(state))


def test_what_the_caller_adds_may_be_nan():
    rows = run(played(), 0, also=lambda w: {"predicted": float("nan")})[1]
    assert len(rows) == 4


@pytest.mark.parametrize("number", [0, -1])
def test_checkpoint_every_is_a_whole_number(number):
    with pytest.raises(ValueError, match=f"checkpoint_every: need .*got {number}"):
        run(played(), 0, checkpoint_every=number)


def other(images: Images, **changes) -> Images:
    return images._replace(**{name: change(getattr(images, name)) for name, change in changes.items()})


one_pixel = lambda pixels: pixels.at[0, 0, 0, 0].add(jnp.uint8(1))
backwards = lambda labels: labels[::-1]
wider = lambda std: std * jnp.float32(1.5)
STRANGERS = {
    "images": ({"train": other(TRAIN, pixels=one_pixel)}, "training images or labels"),
    "labels": ({"train": other(TRAIN, labels=backwards)}, "training images or labels"),
    "test images": ({"test": other(TEST, pixels=one_pixel)}, "test images or labels"),
    "test labels": ({"test": other(TEST, labels=backwards)}, "test images or labels"),
    "scale": ({"train": other(TRAIN, std=wider)}, "pixel scaling"),
    "scale of the test": ({"test": other(TEST, mean=wider)}, "pixel scaling"),
    "recipe": ({"recipe": dataclasses.replace(RECIPE, decay=0.5)}, r"recipe.decay \(0.0005, here 0.5\)"),
    "design": (
        {"net": network(Design("mlp", K, width=5, depth=1), (2, 2, 1))},
        r"design.width \(4, here 5\)",
    ),
}


@pytest.mark.parametrize(("changes", "said"), STRANGERS.values(), ids=STRANGERS)
def test_a_checkpoint_of_another_run_says_what_differs(tmp_path, changes, said):
    file = tmp_path / "run.npz"
    run(played(), 0, checkpoint=file, epochs=2)
    run(played(), 0, checkpoint=file, epochs=3)
    with pytest.raises(ValueError, match=rf"run.npz belongs to another run: .*{said}") as refused:
        run(played(**changes), 0, checkpoint=file)
    assert "seed" not in str(refused.value)
    with pytest.raises(ValueError, match=r"seed \(0, here 1\)"):
        run(played(), 1, checkpoint=file)


def test_images_exchanged_in_an_experiment_are_other_images(tmp_path):
    file = tmp_path / "run.npz"
    run(played(), 0, checkpoint=file, epochs=2)
    exchanged = played()._replace(train=other(TRAIN, labels=backwards))
    with pytest.raises(ValueError, match="training images or labels"):
        run(exchanged, 0, checkpoint=file)


def test_a_checkpoint_that_does_not_say_its_images_is_refused(tmp_path):
    file = tmp_path / "run.npz"
    exp = played()
    old = {k: identity(exp, 0)[k] for k in ("design", "recipe", "seed", "images", "data")}
    save(file, BEGIN, [], old)
    with pytest.raises(ValueError, match=r"does not say its .*training images or labels.*remove it"):
        run(exp, 0, checkpoint=file)


def test_images_are_hashed_once_a_run(tmp_path, monkeypatch):
    hashed = []
    digest = running.digest
    monkeypatch.setattr(running, "digest", lambda *arrays: hashed.append(0) or digest(*arrays))
    run(played(), 0, checkpoint=tmp_path / "run.npz", checkpoint_every=1)
    assert len(hashed) == 3
    run(played(), 0)
    assert len(hashed) == 3
