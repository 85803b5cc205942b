"""Deep linear classifiers: closed forms against blind descents, public numbers, and the origin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models import deep_linear_forms as forms
from ufm_jax.models.deep_linear import DeepLinear, Layers
from ufm_jax.models.deep_linear_forms import norm_bound, squared_minimum, symmetric_values
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.derivatives import dense_hessian
from ufm_jax.numerics.descent import minimise
from ufm_jax.numerics.status import Status

DECAY = 2.0**-10


@jax.jit
def descents(landscape, keys):
    return jax.lax.map(lambda key: minimise(landscape.value, landscape.start(key)), keys)


def minima(landscape, starts=16, seed=0):
    found = descents(landscape, jax.random.split(jax.random.key(seed), starts))
    return found, np.asarray(found.value)[np.asarray(found.status) == Status.CONVERGED]


@pytest.mark.parametrize(
    ("K", "L", "simplex", "pairs"),
    [
        (4, 1, 0.0232324381, None),
        (4, 2, 0.0184873930, 0.0188287388),
        (4, 3, 0.0175782099, 0.0162300174),
        (6, 2, 0.0308110870, 0.0289320944),
    ],
)
def test_public_values_of_simplex_and_pairs(K, L, simplex, pairs):
    values = DeepLinear(decay=DECAY, num_classes=K, num_layers=L).predictions()["critical_values"]
    np.testing.assert_allclose(values[f"simplex({K})"], simplex, atol=6e-11)
    if pairs is not None:
        np.testing.assert_allclose(values[f"orthoplex({K})"], pairs, atol=6e-11)
        assert (next(iter(values)) == f"simplex({K})") == (simplex < pairs)


@pytest.mark.parametrize(("K", "L"), [(4, 1), (4, 2), (4, 3), (5, 2)])
def test_blind_descents_end_at_critical_values_by_name(K, L):
    landscape = DeepLinear(decay=DECAY, num_classes=K, num_layers=L)
    found, values = minima(landscape)
    said = landscape.predictions()
    listed = said["critical_values"]
    names = {}
    for i in np.flatnonzero(np.asarray(found.status) == Status.CONVERGED):
        x = jax.tree.map(lambda a, i=i: a[i], found.x)
        names[landscape.name_of(x)] = float(found.value[i])
        assert landscape.measures(x)["imbalance"] < 1e-7
    assert said["lowest"] in names
    for name, value in names.items():
        np.testing.assert_allclose(value, listed[name], rtol=0, atol=1e-11)
    assert (len(names) == 1) == (L == 1)
    assert np.all(values >= said["lower_bound"] - 1e-13)


def test_a_polygon_wins_over_simplices_where_layers_are_many():
    """Rank 2 against rank 3 and 5, at K = 6, L = 5: descents in the plane end at it, and no descent below."""
    values = DeepLinear(decay=DECAY, num_classes=6, num_layers=5).predictions()["critical_values"]
    assert next(iter(values)) == "polygon(6)"
    _, plane = minima(DeepLinear(decay=DECAY, num_classes=6, num_layers=5, dim=2), 12)
    np.testing.assert_allclose(np.min(plane), values["polygon(6)"], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("L", "rank"), [(1, 4), (2, 2), (3, 4)])
@pytest.mark.parametrize("n", [1, 3])
def test_squared_loss_meets_its_closed_form(L, rank, n):
    landscape = DeepLinear(decay=0.02, num_classes=4, num_layers=L, per_class=n, dim=rank, loss="squared")
    known = float(landscape.known_minimum())
    _, values = minima(landscape, 24)
    np.testing.assert_allclose(np.min(values), known, rtol=0, atol=1e-11)
    # By a grid over the singular value that each of `rank` directions has.
    a = np.linspace(0, 1.2, 400001)
    term = (1 - a) ** 2 / 8 + (L + 1) * 0.01 * (n**0.5 * a) ** (2 / (L + 1))
    np.testing.assert_allclose(known, 0.5 - rank / 8 + rank * term.min(), atol=1e-9)


@pytest.mark.parametrize("decay", [1e-3, 0.1, 0.3])
@pytest.mark.parametrize("n", [1, 5])
def test_one_layer_is_the_unconstrained_feature_model(decay, n):
    prob = problem(num_classes=4, per_class=n, dim=3, decay_w=decay, decay_h=decay, bias=False)
    np.testing.assert_allclose(norm_bound(4, 1, jnp.asarray(decay), n), global_minimum(prob), rtol=1e-13)
    squared = problem(
        num_classes=4,
        per_class=n,
        dim=4,
        decay_w=decay,
        decay_h=decay,
        bias=False,
        loss=DeepLinear(decay=1.0, num_classes=4, num_layers=1, loss="squared").scored,
    )
    found = squared_minimum(4, 1, jnp.asarray(decay), n, 4)
    np.testing.assert_allclose(found, global_minimum(squared), rtol=1e-13)


@pytest.mark.parametrize("L", [2, 3, 5])
def test_the_norm_bound_is_the_least_of_its_function_and_below_all_critical_values(L):
    for decay in (1e-6, 1e-3, 0.05):
        t = np.geomspace(1e-9, 1e4, 200001)
        by_grid = np.log1p(4 * np.exp(-t / 4)) + (L + 1) * decay / 2 * t ** (2 / (L + 1))
        bound = float(norm_bound(5, L, jnp.asarray(decay), 1))
        np.testing.assert_allclose(bound, min(by_grid.min(), np.log(5)), rtol=1e-6)
        assert bound <= by_grid.min()
        assert all(value > bound for value in symmetric_values(5, L, decay, 1, 5).values())


@pytest.mark.parametrize(("L", "index"), [(1, 9), (2, 0), (4, 0)])
def test_the_origin_is_a_strict_local_minimum_of_two_layers_or_more(L, index):
    landscape = DeepLinear(decay=0.05, num_classes=4, num_layers=L, dim=3)
    value, grad = jax.value_and_grad(landscape.value)(landscape.zeros())
    np.testing.assert_allclose(value, np.log(4), rtol=1e-15)
    assert all(np.all(g == 0) for g in jax.tree.leaves(grad))
    eigenvalues = np.linalg.eigvalsh(dense_hessian(landscape.value)(landscape.zeros()))
    assert np.sum(eigenvalues < 0) == index
    if L > 1:
        np.testing.assert_allclose(eigenvalues, 0.05, rtol=1e-12)
        assert landscape.predictions()["origin_index"] == 0


@pytest.mark.parametrize("L", [1, 2, 3])
def test_rotations_at_interfaces_are_the_symmetry(L):
    landscape = DeepLinear(decay=0.1, num_classes=4, num_layers=L, dim=3)
    rng = np.random.default_rng(L)
    x = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), landscape.zeros())
    Q = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(L)]
    V = [Q[l + 1].T @ x.V[l] @ Q[l] for l in range(L - 1)]
    y = Layers(x.W @ Q[-1], jnp.stack(V) if V else x.V, Q[0].T @ x.H)
    np.testing.assert_allclose(landscape.value(y), landscape.value(x), rtol=1e-12)
    np.testing.assert_allclose(landscape.invariants(y), landscape.invariants(x), atol=1e-10)
    grad, tangents = jax.grad(landscape.value)(x), landscape.tangents(x)
    slopes = sum(jnp.tensordot(t, g, axes=g.ndim) for t, g in zip(tangents, grad, strict=True))
    assert slopes.shape == (3 * L,)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-12)
    rows = np.concatenate([np.reshape(a, (3 * L, -1)) for a in tangents if a.size], axis=1)
    assert np.linalg.matrix_rank(rows) == 3 * L


def test_starts_have_each_rank_in_turn_and_are_balanced():
    landscape = DeepLinear(decay=0.1, num_classes=4, num_layers=3, dim=5)
    ranks = []
    for number in range(8):
        x = landscape.draw(jax.random.key(number), jnp.asarray(number), "saddles")
        measures = landscape.measures(x)
        assert measures["imbalance"] < 1e-12
        ranks.append(int(measures["rank"]))
    assert ranks == [1, 2, 3, 4] * 2
    assert landscape.measures(landscape.start(jax.random.key(9)))["rank"] == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decay": 0.0}, "decay"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_classes": 1}, "num_classes"),
        ({"per_class": 0}, "per_class"),
        ({"loss": "focal"}, "loss"),
        ({"loss": "cross-entropy smoothing=1.5"}, "smoothing"),
    ],
)
def test_what_does_not_fit_is_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}:"):
        DeepLinear(**({"decay": 0.1, "num_classes": 3, "num_layers": 2} | change))


@pytest.mark.parametrize("L", [2, 3, 5])
@pytest.mark.parametrize(("K", "d"), [(5, 4), (8, 7), (8, 3), (9, 2), (12, 11), (12, 5)])
def test_the_lowest_of_all_sums_is_listed_whatever_is_left_out(K, d, L, monkeypatch):
    full = symmetric_values(K, L, 2.0**-10, 1, d)
    monkeypatch.setattr(forms, "MOST", 2)
    short = symmetric_values(K, L, 2.0**-10, 1, d)
    assert len(short) <= len(full)
    assert short.items() <= full.items()
    assert next(iter(short.items())) == next(iter(full.items()))


@pytest.mark.parametrize("K", [20, 24])
def test_no_sum_of_equal_blocks_is_below_what_is_called_the_lowest(K):
    """Of so many classes there are more sums than `MOST`, and those of the largest blocks are not lowest."""
    prob = DeepLinear(num_classes=K, num_layers=2, decay=1e-3)
    told = prob.predictions()
    lowest = told["critical_values"][told["lowest"]]
    for size in (2, 3, 5, 6):
        if K % size == 0:
            blocks = [forms._lowest(K, 2, 1e-3, 1, *kind) for kind in forms._kinds(size)]
            assert lowest <= K // size * min(blocks) * (1 + 1e-14)


def test_of_very_many_classes_nothing_is_called_the_lowest():
    told = DeepLinear(num_classes=300, num_layers=2, decay=1e-3).predictions()
    assert told["critical_values"]
    assert "lowest" not in told
