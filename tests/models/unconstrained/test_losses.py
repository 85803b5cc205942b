"""Losses as open values: weights, offsets, and what a loss of the user's gets from `value` alone."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, CE, IMBALANCED, SMOOTH, SQUARED, dense_batch, dual_bound, find_minimum, make
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.landscape import census
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.orbits import rows
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.certificate import _bias_reach
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Loss
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import logits, objective
from ufm_jax.models.unconstrained.reduction import collapse, full_spectrum, restrict
from ufm_jax.models.unconstrained.theory import global_minimum, predict


@dataclass(frozen=True)
class Tempered(Loss):
    """Cross-entropy at a temperature, weighted by class; `value` and a claim."""

    temperature: float = 2.0
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    convex: ClassVar[bool] = True

    def value(self, Z, T):
        weight = jnp.tensordot(jnp.asarray(self.weights, Z.dtype), T, 1)
        return -weight * jnp.sum(T * jax.nn.log_softmax(Z / self.temperature, axis=0), axis=0)


@dataclass(frozen=True)
class Half(Loss):
    """Half the squared loss: convex, and shifts matter."""

    convex: ClassVar[bool] = True

    def value(self, Z, T):
        return jnp.sum((Z - T) ** 2, axis=0) / 4


@jax.jit
def minimum(prob, seed=0):
    """Descend; return the point and its evidence."""
    params = find_minimum(prob, starts.gaussian(prob, jax.random.key(seed))).x
    return params, examine(prob, params).evidence


def test_integer_weights_are_repeated_samples():
    """ω_k of 1, 2, 3 and one sample each is 1, 2, 3 samples, where N = 6 and not 3 divides."""
    weights = (1, 2, 3)
    loss = CrossEntropy(class_weights=weights)
    weighted = make((1, 1, 1), 2, loss=loss, decay_w=0.02, decay_h=0.01, decay_b=0.04)
    repeated = make(weights, 2, decay_w=0.01, decay_h=0.005, decay_b=0.02)
    p = starts.gaussian(weighted, jax.random.key(0))
    # Twice f, in which each copy of a sample has a decay of its own.
    fit = 2 * objective(collapse(repeated))(p._replace(H=p.H * np.sqrt(weights)))
    copies = 0.01 / 2 * (jnp.sum(p.H**2 * np.array(weights, float)) - jnp.sum(p.H**2))
    np.testing.assert_allclose(objective(weighted)(p), fit - copies, rtol=1e-13)


def test_offsets_are_a_bias_that_does_not_move():
    iota = np.array([0.3, -1.0, 0.5])
    shifted = make(IMBALANCED, 2, loss=CrossEntropy(0.1, offsets=tuple(iota)), bias=False)
    plain = make(IMBALANCED, 2, loss=SMOOTH, decay_b=0.0)
    p = starts.gaussian(shifted, jax.random.key(1))
    at = p._replace(b=jnp.asarray(iota))
    np.testing.assert_allclose(objective(shifted)(p), objective(plain)(at), rtol=1e-14)
    np.testing.assert_allclose(logits(shifted, p), logits(plain, at) - iota[:, None], atol=1e-14)


@pytest.mark.parametrize("decay_b", [1e-2, 0.0])
@pytest.mark.parametrize("space", [collapse, lambda prob: prob])
def test_weighted_and_shifted_minima_are_certified(space, decay_b):
    loss = CrossEntropy(0.05, class_weights=(0.5, 1.0, 3.0), offsets=(0.0, -1.0, 0.7))
    prob = space(make(IMBALANCED, 3, loss=loss, decay_b=decay_b))
    for seed in range(2):
        params, found = minimum(prob, seed)
        assert found.verdict == Verdict.GLOBAL_MINIMUM
        away = jax.tree.map(lambda a: 1.3 * a + 0.1, params)
        assert dual_bound(prob, away) <= found.loss + 1e-12


def test_the_within_class_spectrum_carries_the_weights():
    prob = make((2, 1, 2), 2, loss=CrossEntropy(class_weights=(0.5, 1.0, 4.0)))
    params, _ = minimum(prob)
    dense = np.linalg.eigvalsh(dense_batch(prob, jax.tree.map(lambda a: a[None], params))[0])
    np.testing.assert_allclose(full_spectrum(prob, restrict(collapse(prob), params)), dense, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "kinds"),
    [
        (CE, [1, 1, 0]),
        (SQUARED, [1, 1, 0]),
        (Focal(), [1, 1, 0]),
        (CrossEntropy(class_weights=(1, 2, 1)), [1, 2, 0]),
        (CrossEntropy(offsets=(0.5, 0.5, 0.5)), [1, 1, 0]),
        (Tempered(), [1, 1, 0]),
        (Tempered(weights=(1.0, 1.0 + 1e-9, 1.0)), [1, 2, 0]),
    ],
)
def test_classes_are_of_one_kind_where_counts_and_loss_agree(loss, kinds):
    assert make((2, 2, 1), 2, loss=loss).kinds.tolist() == kinds


@pytest.mark.parametrize("K", [2, 5])
def test_kinds_that_are_found_are_those_that_are_declared(K):
    class Found(CrossEntropy):
        def value(self, Z, T):
            return super().value(Z, T)

    for values in ((1.0, 3.0, 1.0, 2.0, 3.0)[:K], (1.0,) * K):
        for name in ("class_weights", "offsets"):
            declared, found = (
                make((2,) * K, 2, loss=kind(**{name: values})).kinds for kind in (CrossEntropy, Found)
            )
            expected = np.equal.outer(values, values)
            assert np.array_equal(np.equal.outer(declared, declared), expected)
            assert np.array_equal(np.equal.outer(found, found), expected)


def test_targets_of_the_users_own_tell_classes_apart():
    class OneSmoothed(CrossEntropy):
        def targets_of(self, one_hot):
            return one_hot * 0.9 + one_hot[-1:] * 0.1 / len(one_hot) + one_hot * (one_hot[-1:] < 1) * 0.1

    assert make(BALANCED, 2, loss=OneSmoothed()).kinds.tolist() == [0, 0, 1]


def test_a_shift_that_does_not_matter_is_found():
    assert make(BALANCED, 2, loss=Tempered()).shift_invariant
    assert not make(BALANCED, 2, loss=Half()).shift_invariant


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_the_default_dual_is_a_bound_and_meets_the_loss_at_one(seed, c):
    rng, loss = np.random.default_rng(seed), Tempered(weights=(1.0, 2.0, 0.5))
    Z, other = (jnp.asarray(3.0 * rng.normal(size=(3, 6))) for _ in range(2))
    T = jnp.asarray(loss.targets(rng.integers(0, 3, 6), 3))
    slope = loss.slope(Z, T)
    lower = loss.dual(Z, T, slope, jnp.asarray(c)) + c * jnp.sum(slope * other, axis=0)
    assert np.all(lower <= loss.value(other, T) + 1e-13)
    at_point = loss.dual(Z, T, slope, jnp.asarray(1.0)) + jnp.sum(slope * Z, axis=0)
    np.testing.assert_allclose(at_point, loss.value(Z, T), atol=1e-13)


@pytest.mark.parametrize("decay_b", [1e-2, 0.0])
@pytest.mark.parametrize("loss", [Tempered(weights=(1.0, 1.0, 2.0)), Half()], ids=["tempered", "half"])
def test_value_alone_of_a_convex_loss_is_enough_for_a_certificate(loss, decay_b):
    prob = make(IMBALANCED, 3, loss=loss, decay_b=decay_b)
    params, found = minimum(prob)
    assert found.verdict == Verdict.GLOBAL_MINIMUM
    assert found.nullity == 3 + (decay_b == 0.0) * prob.shift_invariant
    assert dual_bound(prob, jax.tree.map(lambda a: 0.7 * a - 0.1, params)) <= found.loss + 1e-12


@pytest.mark.parametrize("loss", [Tempered(1.0), Half()], ids=["tempered", "half"])
@pytest.mark.parametrize("counts", [BALANCED, (9, 1, 4)])
def test_the_reach_by_convexity_bounds_the_bias_of_all_points_no_higher_than_the_origin(loss, counts):
    prob = make(counts, 3, loss=loss, decay_b=0.0)
    reach, K = float(_bias_reach(prob)), prob.num_classes
    f, rng = jax.jit(objective(collapse(prob))), np.random.default_rng(0)
    at_origin = float(f(collapse(prob).zeros()))
    largest = 0.0
    for _ in range(30):
        b = rng.normal(size=K)
        b = (b - b.mean() if prob.shift_invariant else b) / np.linalg.norm(b)
        p = starts.gaussian(collapse(prob), jax.random.key(int(rng.integers(99))), scale=3.0)
        for size in np.geomspace(0.1, 3 * reach, 12):
            if f(p._replace(b=jnp.asarray(size * b))) <= at_origin:
                largest = max(largest, size)
    assert largest <= reach
    assert reach < 1e6


def test_the_reach_of_cross_entropy_is_below_the_one_from_convexity():
    @dataclass(frozen=True)
    class Plain(Loss):
        convex: ClassVar[bool] = True

        def value(self, Z, T):
            return CE.value(Z, T)

    own, default = (float(_bias_reach(make(IMBALANCED, 2, loss=loss, decay_b=0.0))) for loss in (CE, Plain()))
    assert 0 < own < default < 1e3 * own


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(1.0, 1.0, 2.0), (2.0, 1.0, 1.0)])
@pytest.mark.parametrize("own", [False, True])
def test_classes_of_unequal_weight_are_not_interchanged(weights, own):
    """Equal counts, weights 1, 1, 2: six orbits, of 1, 2, 1, 1, 2, 1 copies, which miss nothing."""
    loss = Tempered(1.0, weights) if own else CrossEntropy(class_weights=weights)
    prob = problem(num_classes=3, per_class=5, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2, loss=loss)
    state = census.find_orbits(prob, seed=0, starts=1000)
    found = rows(prob, state)
    assert [row.copies for row in found] == [1, 2, 1, 1, 2, 1]
    assert [test.passed for test in census.completeness(prob, state)] == [True, True]
    np.testing.assert_allclose(
        [row.loss for row in found],
        [0.06528098, 0.14700115, 0.16658904, 0.50463537, 0.67992307, 1.38786447],
        atol=1e-8,
    )


@pytest.mark.parametrize("change", [{"class_weights": (2.0, 2.0, 2.0)}, {"offsets": (0.0, 0.0, 1.0)}])
def test_closed_forms_are_of_the_plain_loss_alone(change):
    prob = make(BALANCED, 2, loss=CrossEntropy(**change))
    assert np.isnan(global_minimum(prob))
    said = predict(prob)
    assert said["loss"] is None
    assert said["merge_threshold"] is None
    assert np.isfinite(global_minimum(make(BALANCED, 2)))


def test_a_subclass_of_the_squared_loss_has_not_its_closed_forms():
    class Twice(type(SQUARED)):
        def value(self, Z, T):
            return 2 * super().value(Z, T)

    assert np.isnan(global_minimum(make(BALANCED, 3, loss=Twice(), bias=False)))
    assert np.isfinite(global_minimum(make(BALANCED, 3, loss=SQUARED, bias=False)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, "class_weights: need one for each of 3 classes"),
        ({"offsets": (1.0,) * 4}, "offsets: need one for each of 3 classes"),
        ({"class_weights": (1.0, 0.0, 1.0)}, "class_weights: need finite numbers > 0"),
        ({"class_weights": (1.0, np.inf, 1.0)}, "class_weights: need finite numbers > 0"),
        ({"offsets": (0.0, np.nan, 1.0)}, "offsets: need finite numbers"),
    ],
)
def test_weights_and_offsets_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(BALANCED, 2, loss=CrossEntropy(**options))


def test_a_convex_loss_below_its_infimum_is_refused_by_name():
    @dataclass(frozen=True)
    class Lowered(Loss):
        convex: ClassVar[bool] = True
        by: float = 0.25

        def value(self, Z, T):
            return CE.value(Z, T) - self.by

    with pytest.raises(ValueError, match=r"^loss: Lowered: value goes below its infimum = 0.0"):
        make(BALANCED, 2, loss=Lowered())

    class Declared(Lowered):
        infimum = -0.25

    _, found = minimum(make(BALANCED, 2, loss=Declared()))
    assert found.verdict == Verdict.GLOBAL_MINIMUM
    np.testing.assert_allclose(found.loss, global_minimum(make(BALANCED, 2)) - 0.25, atol=1e-12)


def test_what_a_loss_raises_at_these_classes_is_said():
    with pytest.raises(ValueError, match=r"^loss: Tempered at 3 classes raised TypeError"):
        make(BALANCED, 2, loss=Tempered(weights=(1.0, 2.0)))
