"""What cannot be a start, a time or a number of steps is refused by name, before anything is computed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.numerics.density import spectral_density
from ufm_jax.numerics.derivatives import Expansion, dense_hessian, hvp, on_vectors, second_order
from ufm_jax.numerics.descent import lbfgs, minimise, trust_region_newton
from ufm_jax.numerics.flow import discrete_flow, gradient_flow
from ufm_jax.numerics.following import follow_to_index
from ufm_jax.numerics.lanczos import extreme_eigenpairs, tridiagonalise
from ufm_jax.numerics.lockstep import bfgs
from ufm_jax.numerics.rootfind import critical_point, levenberg_marquardt
from ufm_jax.numerics.status import Status

SGD = optax.sgd(0.1)


def bowl(p):
    """Minimum 0 at a = 5, b = 1.5."""
    return jnp.sum((p["a"] - 5.0) ** 2) + jnp.sum((p["b"] - 1.5) ** 2)


def bowl_at(p):
    """What an oracle of any pytree tells of `bowl`: its Hessian is 2 I."""
    return Expansion(bowl(p), jax.grad(bowl)(p), partial(jax.tree.map, lambda v: 2 * v))


TREE_METHODS = {
    "minimise": lambda p: minimise(bowl, p),
    "lbfgs": lambda p: lbfgs(bowl, p),
    "critical_point": lambda p: critical_point(bowl, p),
    "follow_to_index": lambda p: follow_to_index(bowl, p, 0),
    "gradient_flow": lambda p: gradient_flow(bowl, p, jnp.arange(2.0)),
    "discrete_flow": lambda p: discrete_flow(bowl, p, SGD, jnp.arange(2)),
    "trust_region_newton": lambda p: trust_region_newton(bowl_at, p),
    "dense_hessian": lambda p: dense_hessian(bowl)(p),
    "on_vectors": lambda p: on_vectors(bowl, p),
    "hvp": lambda p: hvp(bowl)(p, p),
}
VECTOR_METHODS = {
    "levenberg_marquardt": partial(levenberg_marquardt, second_order(lambda x: jnp.sum(x**2))),
    "trust_region_newton": partial(trust_region_newton, second_order(lambda x: jnp.sum(x**2))),
    "tridiagonalise": lambda x: tridiagonalise(lambda v: v, x, 2),
    "minimise": partial(minimise, lambda x: jnp.sum(x**2)),
    "bfgs": lambda x: bfgs(lambda x, _: (jnp.sum(x**2, 0), 2 * x), x[:, None], None, 1, width=1, gtol=1e-6),
}
NOT_FLOATING = {
    "integers": jnp.array(3),
    "numpy integers": np.array([3, 4]),
    "a Python int": 3,
    "booleans": jnp.array(True),
    "complex numbers": jnp.array(3.0 + 0.0j),
    "a random key": jax.random.key(0),
    "text": "3.0",
}
tree_methods = pytest.mark.parametrize("method", TREE_METHODS.values(), ids=TREE_METHODS)
vector_methods = pytest.mark.parametrize("method", VECTOR_METHODS.values(), ids=VECTOR_METHODS)


@tree_methods
@pytest.mark.parametrize("leaf", NOT_FLOATING.values(), ids=NOT_FLOATING)
def test_a_leaf_that_is_not_floating_is_named_with_its_dtype(method, leaf):
    kind = str(getattr(leaf, "dtype", type(leaf).__name__))
    with pytest.raises(ValueError, match=rf"\['a'\].*floating.*got {kind};"):
        method({"a": leaf, "b": jnp.array(0.0)})


@vector_methods
@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "complex128"])
def test_a_vector_that_is_not_floating_is_refused(method, dtype):
    with pytest.raises(ValueError, match=f"starts?: .*floating.*got {dtype}"):
        method(jnp.ones(3, dtype))


@pytest.mark.parametrize("name", [name for name in TREE_METHODS if name != "hvp"])
@pytest.mark.parametrize("narrow", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_leaves_of_two_dtypes_are_both_named(name, narrow):
    start = {"a": jnp.array(3.0, narrow), "b": jnp.zeros(2, jnp.float64)}
    with pytest.raises(ValueError, match=rf"\['a'\].*{jnp.dtype(narrow)}.*\['b'\].*float64"):
        TREE_METHODS[name](start)


def test_hvp_keeps_each_leafs_own_dtype():
    p = {"a": jnp.array([3.0], jnp.float32), "b": jnp.zeros(2, jnp.float64)}
    square = lambda p: jnp.sum(p["a"] ** 2).astype(jnp.float64) + jnp.sum(p["b"] ** 2)
    product = hvp(square)(p, p)
    assert jax.tree.map(lambda a: a.dtype, product) == jax.tree.map(lambda a: a.dtype, p)
    np.testing.assert_array_equal(product["a"], 6.0)


@pytest.mark.parametrize("name", [name for name in TREE_METHODS if name != "hvp"])
@pytest.mark.parametrize("empty", [{}, (None, jnp.zeros(0)), [], None], ids=str)
def test_a_start_without_numbers_is_refused(name, empty):
    with pytest.raises(ValueError, match="at least one number"):
        TREE_METHODS[name](empty)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_python_float_takes_the_dtype_of_the_arrays_beside_it(dtype):
    found = minimise(bowl, {"a": 3.0, "b": jnp.zeros(2, dtype)}, gtol=1e-4)
    assert found.status == Status.CONVERGED
    assert {a.dtype for a in jax.tree.leaves(found.x)} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(found.x["a"], 5.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["minimise", "critical_point"])  # all have one door
def test_starts_of_python_floats_and_of_numpy_arrays_are_accepted(name):
    TREE_METHODS[name]({"a": 3.0, "b": np.zeros(2)})


def test_what_is_refused_is_also_refused_inside_jit():
    with pytest.raises(ValueError, match=r"start\['a'\].*got int64"):
        jax.jit(lambda p: minimise(bowl, p))({"a": jnp.array(3), "b": jnp.array(0.0)})


@pytest.mark.parametrize(
    ("name", "number"),
    [("minimise", np.nan), ("lbfgs", np.inf), ("critical_point", np.nan), ("follow_to_index", np.inf)],
)
def test_a_start_that_is_not_finite_is_a_status_not_an_error(name, number):
    start = {"a": jnp.array(number), "b": jnp.array(0.0)}
    assert TREE_METHODS[name](start).status == Status.NONFINITE


@pytest.mark.parametrize("dtype", [int, bool, complex])
@pytest.mark.parametrize("estimate", [extreme_eigenpairs, spectral_density])
def test_an_operator_of_numbers_that_are_not_floating_is_refused(estimate, dtype):
    with pytest.raises(ValueError, match=f"dtype: .*floating.*got {dtype.__name__}"):
        estimate(lambda v: v, 3, key=jax.random.key(0), dtype=dtype)


X0 = jnp.array([3.0, 0.0])
FLOW = partial(gradient_flow, lambda x: jnp.sum((x - 1.0) ** 2), X0)
STEPPED = partial(discrete_flow, lambda x: jnp.sum((x - 1.0) ** 2), X0, SGD)
BAD_TIMES = {
    "decreasing": ([2.0, 1.0, 0.0], "1.0 after 2.0"),
    "unsorted": ([0.0, 2.0, 1.0, 3.0], "1.0 after 2.0"),
    "nan": ([0.0, np.nan, 1.0], "nan"),
    "infinite": ([0.0, 1.0, np.inf], "inf"),
    "none": ([], r"\(0,\)"),
    "a number": (1.0, r"\(\)"),
    "a matrix": ([[0.0, 1.0]], r"\(1, 2\)"),
    "complex": ([0.0, 1.0j], "complex"),
    "booleans": ([False, True], "bool"),
    "text": (["0", "1"], "<U1"),
}
BAD_STEPS = {
    "decreasing": ([10, 1, 0], "1 after 10"),
    "unsorted": ([0, 5, 3, 9], "3 after 5"),
    "negative": ([-3, 0], "-3"),
    "fractions": ([0, 1.5, 3], "float64"),
    "floats": ([0.0, 1.0], "float64"),
    "none": ([], r"\(0,\)"),
    "a number": (3, r"\(\)"),
    "a matrix": ([[0, 1]], r"\(1, 2\)"),
    "booleans": ([False, True], "bool"),
}
AS = {"array": jnp.asarray, "numpy": np.asarray, "list": lambda values: values}


@pytest.mark.parametrize("given", AS.values(), ids=AS)
@pytest.mark.parametrize(("times", "said"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_times_that_do_not_go_forward_are_refused(times, said, given):
    if given is jnp.asarray and said == "<U1":
        pytest.skip("no JAX array of text")
    with pytest.raises(ValueError, match=f"times: .*{said}"):
        FLOW(given(times))


@pytest.mark.parametrize("given", AS.values(), ids=AS)
@pytest.mark.parametrize(("steps", "said"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_steps_that_do_not_go_forward_are_refused(steps, said, given):
    with pytest.raises(ValueError, match=f"steps: .*{said}"):
        STEPPED(given(steps))


def test_times_and_steps_may_repeat_and_be_lists_or_numpy_arrays():
    flow, stepped = FLOW([0, 1, 1, 2]), STEPPED(np.array([0, 1, 1, 2]))
    for path in (flow, stepped):
        np.testing.assert_array_equal(path.times, [0.0, 1.0, 1.0, 2.0])
        np.testing.assert_array_equal(path.points[1], path.points[2])
    # x' = −2 (x − 1), and x − 1 times 0.8 at each step.
    np.testing.assert_allclose(flow.points[:, 0], 1 + 2 * np.exp([0.0, -2.0, -2.0, -4.0]), rtol=1e-6)
    np.testing.assert_allclose(stepped.points[:, 0], 1 + 2 * 0.8 ** np.array([0, 1, 1, 2]), rtol=1e-12)


def test_shapes_and_dtypes_of_times_and_steps_are_checked_inside_jit():
    with pytest.raises(ValueError, match=r"times: .*\(1, 2\)"):
        jax.jit(FLOW)(jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"steps: .*float64"):
        jax.jit(STEPPED)(jnp.zeros(2))


def square(x):
    return jnp.sum(x**2)


STOPPED = {
    "minimise": lambda **how: minimise(square, jnp.ones(2), **how),
    "lbfgs": lambda **how: lbfgs(square, jnp.ones(2), **how),
    "critical_point": lambda **how: critical_point(square, jnp.ones(2), **how),
    "follow_to_index": lambda **how: follow_to_index(square, jnp.ones(2), 1, **how),
    "trust_region_newton": lambda **how: trust_region_newton(second_order(square), jnp.ones(2), **how),
    "levenberg_marquardt": lambda **how: levenberg_marquardt(second_order(square), jnp.ones(2), **how),
    "gradient_flow": lambda **how: gradient_flow(square, jnp.ones(2), [0.0, 1.0], **how),
}


@pytest.mark.parametrize("name", STOPPED)
@pytest.mark.parametrize(
    "how",
    [
        {"gtol": np.inf},
        {"gtol": np.nan},
        {"gtol": -1.0},
        {"gtol": "a"},
        {"max_steps": -1},
        {"max_steps": 1.5},
    ],
)
def test_a_search_is_told_when_to_stop(name, how):
    (argument,) = how
    with pytest.raises((ValueError, TypeError), match=argument):  # the tests' type hook may come first
        STOPPED[name](**how)


@pytest.mark.parametrize("index", [-1, 3, 1.5, True])
def test_an_index_is_a_number_of_eigenvalues(index):
    with pytest.raises((ValueError, TypeError), match="index"):
        follow_to_index(square, jnp.ones(2), index)
