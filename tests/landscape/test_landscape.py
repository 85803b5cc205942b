"""A subclass of Landscape is a frozen dataclass and a pytree, whose leaves never compile anything again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.interface import classify, sweep
from ufm_jax.landscape.fields import at_lane, static
from ufm_jax.landscape.landscape import START_SCALES, Landscape
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import Newton, search
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.numerics.derivatives import dense_hessian

traces: list[str] = []


class Bowl(Landscape):
    """scale (‖u − centre‖² + v^power)."""

    centre: jax.Array
    scale: jax.Array = 1.0
    power: int = static(default=2)

    def zeros(self):
        return {"u": jnp.zeros(2), "v": 0.0}

    def value(self, x):
        traces.append("value")
        return self.scale * (jnp.sum((x["u"] - self.centre) ** 2) + x["v"] ** self.power)


class Checked(Landscape):
    """x²/2, and a record of how often it was checked."""

    a: jax.Array
    size: int = static()

    def __post_init__(self):
        traces.append("checked")

    def zeros(self):
        return jnp.zeros(self.size)

    def value(self, x):
        return self.a * jnp.sum(x**2) / 2


class Nothing(Landscape):
    """x⁴ − x²: no leaves."""

    def zeros(self):
        return jnp.zeros(())

    def value(self, x):
        return x**4 - x**2


def bowl(**given):
    return Bowl(**({"centre": [1.0, -2.0]} | given))


def test_a_subclass_is_a_frozen_dataclass_of_keywords():
    one = bowl()
    assert [f.name for f in dataclasses.fields(one)] == ["centre", "scale", "power"]
    assert (float(one.scale), one.power) == (1.0, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.scale = 2.0
    with pytest.raises(TypeError):
        Bowl([1.0, -2.0])
    other = dataclasses.replace(one, scale=3.0, power=4)
    assert (float(other.scale), other.power, float(one.scale)) == (3.0, 4, 1.0)
    np.testing.assert_array_equal(other.centre, one.centre)


def test_a_subclass_is_a_pytree_of_its_leaves():
    one = bowl()
    assert Bowl.leaf_names() == ("centre", "scale")
    assert [leaf.shape for leaf in jax.tree.leaves(one)] == [(2,), ()]
    twice = jax.tree.map(lambda a: 2 * a, one)
    assert isinstance(twice, Bowl)
    assert float(twice.scale) == 2.0
    assert twice.power == one.power
    assert jax.tree.structure(twice) == jax.tree.structure(one)
    assert jax.tree.structure(bowl(power=4)) != jax.tree.structure(one)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(one)[0]]
    assert names == [".centre", ".scale"]


def test_a_landscape_has_a_shape_and_maps_over_its_leaves():
    one = bowl()
    shape = jax.eval_shape(lambda a: a, one)
    assert isinstance(shape, Bowl)
    assert shape.centre == jax.ShapeDtypeStruct((2,), jnp.float64)
    x = {"u": jnp.array([3.0, 0.5]), "v": jnp.asarray(0.25)}
    many = at_lane(one, {"scale": jnp.array([1.0, 2.0, 5.0]), "centre": jnp.arange(6.0).reshape(3, 2)})
    values = jax.vmap(lambda landscape: landscape.value(x))(many)
    for i, value in enumerate(values):
        single = dataclasses.replace(one, scale=many.scale[i], centre=many.centre[i])
        np.testing.assert_allclose(value, single.value(x), rtol=1e-15)


def test_unflattening_checks_nothing():
    one = Checked(a=2.0, size=3)
    traces.clear()
    leaves, form = jax.tree.flatten(one)
    for held in ([None], ["a"], [object()], leaves):
        assert form.unflatten(held).a is held[0]
    jax.jit(lambda landscape: landscape.a)(one)
    assert jax.tree.map(lambda _: None, one).a is None
    assert not traces
    dataclasses.replace(one, a=1.0)
    assert traces == ["checked"]


@pytest.mark.parametrize("power", [[2], np.array(2), {"a": 1}])
def test_a_static_field_that_does_not_hash_is_named(power):
    with pytest.raises(ValueError, match=r"^power: a static field of Bowl must hash"):
        bowl(power=power)


@pytest.mark.parametrize("scale", ["one", True, object(), 1j])
def test_a_leaf_that_is_no_number_is_named(scale):
    with pytest.raises(ValueError, match=r"^scale: a leaf of Bowl must be numbers"):
        bowl(scale=scale)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (3.0, "float64"),
        (3, "float64"),
        (np.float32(3.0), "float64"),
        ([1.0, 2.0], "float64"),
        (((1, 2), (3, 4)), "float64"),
        (np.array([1, 2], np.int32), "int32"),
        (np.array([1.0, 2.0], np.float32), "float32"),
        (jnp.array([1, 2]), "int64"),
    ],
)
def test_leaves_are_arrays_and_keep_the_dtype_of_arrays(given, dtype):
    scale = bowl(scale=given).scale
    assert isinstance(scale, jax.Array)
    assert (scale.dtype, scale.shape) == (dtype, np.shape(given))


def test_a_leaf_may_be_a_tree_of_arrays():
    one = bowl(scale={"a": 1.0, "b": [2.0, 3.0]})
    assert {name: a.shape for name, a in one.scale.items()} == {"a": (), "b": (2,)}
    assert len(jax.tree.leaves(one)) == 3


def test_a_landscape_without_leaves():
    one = Nothing()
    assert jax.tree.leaves(one) == []
    assert one.num_variables == 1
    assert float(jax.jit(lambda landscape, x: landscape.value(x))(one, 2.0)) == 12.0
    run = sweep(one, starts=20, target="saddles")
    assert run.orbits["loss"].to_pylist() == pytest.approx([-0.25, 0.0], abs=1e-12)
    assert run.orbits["index"].to_pylist() == [0, 1]


def test_a_class_of_a_class_has_the_fields_of_both():
    class Deep(Bowl):
        floor: jax.Array = 0.0

        def value(self, x):
            return super().value(x) + self.floor

    deep = Deep(centre=[0.0, 0.0], floor=-3.0)
    assert Deep.leaf_names() == ("centre", "scale", "floor")
    assert float(deep.value(deep.zeros())) == -3.0
    assert Bowl.leaf_names() == ("centre", "scale")


@pytest.mark.parametrize("missing", ["value", "zeros"])
def test_what_a_landscape_must_have_is_named(missing):
    Half = type("Half", (Landscape,), {"zeros" if missing == "value" else "value": lambda self, *x: 0.0})
    with pytest.raises(NotImplementedError, match=f"^Half needs a method {missing}"):
        getattr(Half(), missing)(*([0.0] if missing == "value" else []))


def test_what_is_not_said_of_a_landscape_is_true():
    one = bowl()
    x = one.start(jax.random.key(0))
    assert {name: a.shape for name, a in x.items()} == {"u": (2,), "v": ()}
    assert all(a.shape[0] == 0 for a in jax.tree.leaves(one.tangents(x)))
    assert one.lower_bound(x) == -jnp.inf
    assert jnp.isnan(one.known_minimum())
    assert one.measures(x) == {}
    invariants = one.invariants(x)
    np.testing.assert_allclose(invariants[0], np.arcsinh(one.value(x)))
    np.testing.assert_allclose(invariants[1:], [2.0, 2.0, 2.0])
    point = one.evaluate(x)
    hessian = dense_hessian(one.value)(x)
    np.testing.assert_allclose(ravel(point.hv(x)), hessian @ ravel(x), rtol=1e-14)
    starts = jax.vmap(lambda key: ravel(one.start(key)))(jax.random.split(jax.random.key(1), 1000))
    sizes = np.sqrt(np.mean(starts**2, axis=1))
    assert START_SCALES[0] / 10 < sizes.min() < 10 * START_SCALES[0]
    assert START_SCALES[1] / 3 < sizes.max() < 3 * START_SCALES[1]


def test_a_function_is_a_landscape():
    def tilted(x):
        return (x["a"] - 1.0) ** 2 + jnp.sum(x["b"] ** 2)

    like = {"a": 0.0, "b": jnp.ones(2)}
    one = Landscape.of(tilted, like)
    assert one.name == "tilted"
    assert jax.tree.leaves(one) == []
    assert {name: a.shape for name, a in one.zeros().items()} == {"a": (), "b": (2,)}
    assert all(float(jnp.sum(a)) == 0.0 for a in one.zeros().values())
    assert jax.tree.structure(Landscape.of(tilted, like)) == jax.tree.structure(one)
    seen = classify(one, {"a": jnp.asarray(1.0), "b": jnp.zeros(2)})
    assert (seen.verdict, seen.index, seen.nullity) == (Verdict.LOCAL_MINIMUM, 0, 0)
    np.testing.assert_allclose(seen.lambda_min, 2.0)


@pytest.mark.parametrize(
    ("like", "named"),
    [
        (3, "like"),
        (jnp.arange(3), "like"),
        ({"a": jnp.ones(2), "b": jnp.ones(1, np.float32)}, "like"),
        ([], "like"),
    ],
)
def test_what_is_no_point_makes_no_landscape(like, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        Landscape.of(lambda x: 0.0, like)


def test_what_is_no_function_makes_no_landscape():
    with pytest.raises((ValueError, TypeError), match=r"(?s)\bf\b"):  # the tests' type hook may come first
        Landscape.of(3.0, jnp.zeros(2))


U, V = np.zeros(2), np.zeros(())


@pytest.mark.parametrize(
    ("x", "many", "message"),
    [
        ({"u": np.zeros(3), "v": V}, False, r"^u: need shape \(2,\), got \(3,\)"),
        (
            {"u": np.zeros((5, 2)), "v": V},
            False,
            r"^u: need shape \(2,\), got \(5, 2\); that is several",
        ),
        ({"u": U.astype(np.float32), "v": V}, False, r"^u: need dtype float64, got float32"),
        ({"u": np.zeros(2, int), "v": V}, False, r"^u: need dtype float64, got int64"),
        ({"u": U, "v": np.zeros(1)}, False, r"^v: need shape \(\), got \(1,\)"),
        ({"u": U}, False, r"^x: need the leaves u, v, got u"),
        ({}, False, r"^x: need the leaves .* got none"),
        ({"u": np.zeros((4, 2)), "v": np.zeros(3)}, True, r"^v: need shape \(4,\), got \(3,\)"),
        ({"u": U, "v": np.zeros(2)}, True, r"^u: need shape \(2, 2\), got \(2,\); one start needs"),
    ],
)
def test_what_is_wrong_with_a_point_is_said_of_its_leaf(x, many, message):
    with pytest.raises(ValueError, match=message):
        bowl().check(x, many=many)


def test_many_points_are_checked_as_one():
    many = bowl().check({"u": np.zeros((4, 2)), "v": np.zeros(4)}, many=True)
    assert many["u"].shape == (4, 2)


@pytest.mark.parametrize("ask", ["classify", "search", "search many", "sweep"])
def test_other_leaf_values_compile_nothing_again(ask):
    x = {"u": jnp.array([0.3, 0.1]), "v": jnp.asarray(0.2)}
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), x)

    def answer(landscape):
        if ask == "classify":
            return classify(landscape, x).loss
        if ask == "sweep":
            return sweep(landscape, starts=4, seed=3).table["loss"][0].as_py()
        return search(landscape, many if ask == "search many" else x, Newton(max_steps=77)).x["u"]

    answer(bowl())
    traces.clear()
    other = answer(bowl(centre=[5.0, 7.0], scale=0.5))
    assert traces == []
    if ask.startswith("search"):
        np.testing.assert_allclose(other, np.broadcast_to([5.0, 7.0], other.shape), atol=1e-9)
    answer(bowl(power=4))
    assert traces  # a size or choice is compiled in
