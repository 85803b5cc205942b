"""Several labels a sample: the closed form against blind descents, the bound, the paper's case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.models.multi_label import Factors, MultiLabel

CASES = [(4, (1, 1), None, 5e-3), (4, (2, 1, 1), 5, 2e-3), (3, (0, 2), 2, 4e-3), (5, (1, 1), 4, 1e-2)]


def model(K, per_set, dim=None, decay=5e-3):
    return MultiLabel(decay_w=decay, decay_h=decay / 3, num_classes=K, per_set=per_set, dim=dim)


@pytest.mark.slow
@pytest.mark.parametrize(("K", "per_set", "dim", "decay"), CASES)
def test_all_descents_end_at_the_closed_form_and_certify_it(K, per_set, dim, decay):
    landscape = model(K, per_set, dim, decay)
    run = ufm.sweep(landscape, starts=16, seed=3)
    assert set(run.table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    known = landscape.predictions()["loss"]
    np.testing.assert_allclose(run.table["loss"].to_numpy(), known, rtol=1e-10)
    Z = np.asarray(run.point(0).x.W @ run.point(0).x.H)
    T, (gaps, m) = landscape.labels(), (landscape.gaps(), np.arange(1, len(per_set) + 1))
    sizes = T.sum(axis=0).astype(int)
    np.testing.assert_allclose(Z, np.asarray(gaps)[sizes - 1] * (T - sizes / K), atol=1e-5)
    assert np.all(np.asarray(gaps)[np.array(per_set) > 0][m[np.array(per_set) > 0] < K] > 0)


def test_features_of_several_labels_are_sums_of_those_of_one():
    landscape = model(4, (1, 1), decay=2e-3)
    x = ufm.search(landscape, landscape.start(jax.random.key(0))).x
    pairs, singles = np.asarray(x.H)[:, 4:], np.asarray(x.H)[:, :4]
    summed = singles @ landscape.labels()[:, 4:]
    cosines = np.sum(pairs * summed, axis=0) / np.linalg.norm(pairs, axis=0) / np.linalg.norm(summed, axis=0)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 3])
def test_one_label_a_sample_is_the_papers_problem(n):
    landscape = model(4, (n,))
    prob = ufm.problem(num_classes=4, per_class=n, dim=3, decay_w=5e-3, decay_h=5e-3 / 3, bias=False)
    x = landscape.start(jax.random.key(1))
    np.testing.assert_allclose(landscape.value(x), prob.value(ufm.Params(x.W, x.H, None)), rtol=1e-13)
    np.testing.assert_allclose(landscape.known_minimum(), ufm.predict(prob)["loss"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("side", [0.99, 1.01])
def test_the_origin_is_the_minimum_from_the_threshold_on(side):
    K, per_set = 4, (2, 1)
    N, gamma = 2 * 4 + 1 * 6, 2 * 1 + 1 * 2
    s = side * gamma**0.5 / N
    landscape = MultiLabel(decay_w=s, decay_h=s, num_classes=K, per_set=per_set)
    run = ufm.sweep(landscape, starts=8)
    np.testing.assert_allclose(run.table["loss"].to_numpy(), landscape.known_minimum(), rtol=1e-9)
    assert (landscape.predictions()["regime"] == "origin") == (side > 1)
    origin = float(landscape.value(landscape.zeros()))
    assert (float(landscape.known_minimum()) < origin - 1e-9) == (side < 1)


def test_the_bound_is_below_every_value():
    landscape = model(4, (1, 2, 1), decay=0.03)
    starts = jax.vmap(landscape.start)(jax.random.split(jax.random.key(2), 200))
    bounds, values = jax.vmap(landscape.lower_bound)(starts), jax.vmap(landscape.value)(starts)
    known = float(landscape.known_minimum())
    assert np.all(bounds <= known + 1e-13)
    assert np.all(values >= known - 1e-13)


@pytest.mark.slow
def test_saddles_are_strict_and_the_logits_of_all_labels_do_not_count():
    run = ufm.sweep(model(3, (1, 1), 2, 1e-2), starts=300, target="saddles")
    assert set(run.table["verdict"].to_pylist()) <= {"GLOBAL_MINIMUM", "STRICT_SADDLE"}
    assert "STRICT_SADDLE" in run.table["verdict"].to_pylist()
    full = model(3, (1, 1, 2), 2, 1e-2)  # all three labels: their loss is the same wherever logits are equal
    assert float(full.gaps()[2]) == 0.0
    assert set(ufm.sweep(full, starts=8).table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"per_set": (0, 0)}, "per_set"),
        ({"per_set": (1, 1, 1, 1, 1)}, "per_set"),
        ({"per_set": (1.5,)}, "per_set"),
        ({"num_classes": 30, "per_set": (1, 1, 1, 1)}, "per_set"),
        ({"decay_w": -1.0}, "decay_w"),
        ({"dim": 0}, "dim"),
    ],
)
def test_what_is_wrong_is_named(given, named):
    with pytest.raises(ValueError, match=f"{named}: need"):
        MultiLabel(**({"decay_w": 0.1, "decay_h": 0.1, "num_classes": 4} | given))


def test_below_k_minus_1_nothing_is_predicted():
    said = model(5, (1, 1), 2).predictions()
    assert said["loss"] is None
    assert isinstance(model(5, (1, 1), 2).zeros(), Factors)
    assert jnp.isnan(model(5, (1, 1), 2).known_minimum())
