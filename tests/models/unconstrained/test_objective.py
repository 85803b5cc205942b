"""The closed-form derivatives against automatic ones; losses against their defaults and conjugates."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, CE, IMBALANCED, SMOOTH, SQUARED, dense, dual_bound, keys, make
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.landscape.flat import hessian, oracle, unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained import loss_checks, starts
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Loss, Squared
from ufm_jax.models.unconstrained.objective import expand, logit_gradient, objective
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.numerics.derivatives import hvp

WEIGHTED = CrossEntropy(0.1, class_weights=(0.5, 1.0, 3.0), offsets=(0.0, -1.0, 0.7))
LOSSES = {"ce": CE, "smoothed": SMOOTH, "weighted": WEIGHTED, "squared": SQUARED, "focal": Focal(2.0)}
CERTIFIED = sorted(name for name, loss in LOSSES.items() if loss.convex)
SHAPES = [
    (loss, bias, collapsed, BALANCED if (bias + collapsed) % 2 else IMBALANCED)
    for loss in LOSSES
    for bias in (True, False)
    for collapsed in (True, False)
]


@jax.jit
def both(prob, p, v):
    """Value, gradient and H v: fused, and by forward over reverse mode."""
    e, f = expand(prob, p), objective(prob)
    fused = e.value, ravel(e.grad), ravel(e.hv(v))
    return fused, (f(p), ravel(jax.grad(f)(p)), ravel(hvp(f)(p, v)))


@jax.jit
def everything(prob, p, v):
    """What `both` are, H v by the dense Hessian, and the dense Hessian by both ways."""
    H = dense(prob, p)
    return *both(prob, p, v), H @ ravel(v), hessian(prob, p), H


@jax.jit
def along(prob, p, v, t):
    return objective(prob)(jax.tree.map(lambda a, b: a + t * b, p, v))


def close(a, b, rtol=1e-12):
    assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= rtol * max(np.linalg.norm(b), 1e-3)


@pytest.mark.parametrize(("loss", "bias", "collapsed", "counts"), SHAPES)
def test_fused_derivatives_are_exact_and_the_taylor_remainder_is_cubic(loss, bias, collapsed, counts):
    prob = make(counts, 2, loss=LOSSES[loss], bias=bias, decay_w=0.03, decay_h=0.02, decay_b=0.05)
    prob = collapse(prob) if collapsed else prob
    steps, remainder = np.geomspace(1e-3, 1e-2, 6), np.zeros(6)
    for key in keys(7, 4):
        p, v = (starts.gaussian(prob, k) for k in jax.random.split(key))
        fused, automatic, Hv, H, reference = everything(prob, p, v)
        for a, b in zip(fused, automatic, strict=True):
            close(a, b)
        close(fused[2], Hv)
        close(H, reference)
        value, grad, product = fused
        model = [value + t * grad @ ravel(v) + t**2 / 2 * product @ ravel(v) for t in steps]
        remainder += [abs(float(along(prob, p, v, t) - m)) for t, m in zip(steps, model, strict=True)]
    # Summed over directions: along one of them the third derivative may be almost zero.
    assert 2.9 < np.polyfit(np.log(steps), np.log(remainder), 1)[0] < 3.1


def test_oracle_is_expand_on_vectors():
    prob = make(IMBALANCED, 2)
    p, v = starts.gaussian(prob, jax.random.key(0)), starts.gaussian(prob, jax.random.key(1))
    flat, tree = oracle(prob)(ravel(p)), expand(prob, p)
    assert flat.value == tree.value
    assert np.array_equal(flat.grad, ravel(tree.grad))
    assert np.array_equal(flat.hv(ravel(v)), ravel(tree.hv(v)))
    assert unravel(prob, ravel(p)).b.shape == (3,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logits_of_ten_thousand_are_harmless(loss, sign):
    prob = make(BALANCED, 3, loss=LOSSES[loss])
    H = np.eye(3)[:, prob.labels] * 100.0
    p = Params(jnp.eye(3) * 100.0 * sign, jnp.asarray(H), jnp.zeros(3))
    np.testing.assert_allclose(np.abs(p.W @ p.H).max(), 1e4)
    (value, *fused), (_, *automatic) = both(prob, p, p)
    assert all(np.all(np.isfinite(a)) for a in (value, *fused, *automatic))
    for a, b in zip(fused, automatic, strict=True):
        close(a, b)
    fit = value - (prob.decay_w * 3e4 + prob.decay_h * 6e4) / 2
    smoothing = SMOOTH.smoothing if loss == "smoothed" else 0.0
    if loss not in (
        "squared",
        "weighted",
    ):  # right: α(K−1)/K · 1e4; wrong: log 2 + the rest of the targets' weight · 1e4
        off = smoothing * 2 / 3
        expected = off * 1e4 if sign > 0 else (1 - off) * 1e4 + np.log(2.0)
        np.testing.assert_allclose(fit, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rotations_and_class_permutations_leave_f_unchanged(seed):
    prob = make(BALANCED, 3)
    p = starts.gaussian(prob, jax.random.key(seed))
    Q = jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0])
    np.testing.assert_allclose(
        objective(prob)(Params(p.W @ Q, Q.T @ p.H, p.b)), objective(prob)(p), rtol=1e-13
    )
    classes, samples = np.array([2, 0, 1]), np.array([4, 5, 0, 1, 2, 3])
    moved = Params(p.W[classes], p.H[:, samples], p.b[classes])
    np.testing.assert_allclose(objective(prob)(moved), objective(prob)(p), rtol=1e-13)


@pytest.mark.parametrize("loss", [CE, SMOOTH], ids=["ce", "smoothed"])
def test_columns_of_the_logit_gradient_sum_to_zero(loss):
    prob = make(IMBALANCED, 2, loss=loss)
    G = logit_gradient(prob, starts.gaussian(prob, jax.random.key(4)))
    np.testing.assert_allclose(jnp.sum(G, axis=0), 0.0, atol=1e-16)
    assert np.linalg.matrix_rank(G) <= 2


class Default(Loss):
    """A loss that gives `value` alone."""

    def __init__(self, of: Loss):
        object.__setattr__(self, "of", of)

    def value(self, Z, T):
        return self.of.value(Z, T)


@functools.cache
def derivatives_of(name):
    """Slope and curvature, by hand and as the defaults have them."""
    both = LOSSES[name], Default(LOSSES[name])
    return jax.jit(lambda Z, T, V: [(loss.slope(Z, T), loss.curvature(Z, T)(V)) for loss in both])


@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 10**6), st.floats(0.1, 30.0))
def test_handwritten_slope_and_curvature_equal_the_defaults(name, seed, scale):
    loss, rng = LOSSES[name], np.random.default_rng(seed)
    Z, V = jnp.asarray(scale * rng.normal(size=(3, 5))), jnp.asarray(rng.normal(size=(3, 5)))
    T = jnp.asarray(loss.targets(rng.integers(0, 3, 5), 3))
    (slope, curvature), (default_slope, default_curvature) = derivatives_of(name)(Z, T, V)
    np.testing.assert_allclose(slope, default_slope, atol=1e-14 * max(1.0, scale))
    np.testing.assert_allclose(curvature, default_curvature, atol=1e-13)


@given(st.sampled_from(CERTIFIED), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_dual_obeys_fenchel_and_young(name, seed, c):
    loss, rng = LOSSES[name], np.random.default_rng(seed)
    Z, other = (jnp.asarray(3.0 * rng.normal(size=(3, 5))) for _ in range(2))
    T = jnp.asarray(loss.targets(rng.integers(0, 3, 5), 3))
    slope = loss.slope(Z, T)
    lower = loss.dual(Z, T, slope, jnp.asarray(c)) + c * jnp.sum(slope * other, axis=0)
    assert np.all(lower <= loss.value(other, T) + 1e-13)
    by_convexity = Default(loss).dual(Z, T, slope, jnp.asarray(c)) + c * jnp.sum(slope * other, axis=0)
    assert np.all(by_convexity <= lower + 1e-12)
    at_point = loss.dual(Z, T, slope, jnp.asarray(1.0)) + jnp.sum(slope * Z, axis=0)
    np.testing.assert_allclose(at_point, loss.value(Z, T), atol=1e-12)


@given(st.sampled_from(CERTIFIED), st.integers(0, 10**6), st.floats(0.1, 10.0))
def test_reach_bounds_logits_of_small_loss(name, seed, scale):
    loss = LOSSES[name]
    z = scale * np.random.default_rng(seed).normal(size=(3, 1))
    for y in range(3):
        cap = float(loss.value(jnp.asarray(z), jnp.asarray(loss.targets(np.array([y]), 3)))[0])
        furthest = np.max(np.abs(z)) if name == "squared" else np.max(z - z[y])
        assert furthest <= loss.reach(cap) + 1e-12


@given(st.integers(0, 10**6), st.floats(0.1, 1e4))
def test_focal_loss_without_focus_is_cross_entropy(seed, scale):
    rng = np.random.default_rng(seed)
    Z, V = jnp.asarray(scale * rng.normal(size=(3, 5))), jnp.asarray(rng.normal(size=(3, 5)))
    T, atol = jnp.asarray(CE.targets(rng.integers(0, 3, 5), 3)), 1e-14 * max(1.0, scale)
    np.testing.assert_allclose(Focal(0.0).value(Z, T), CE.value(Z, T), rtol=1e-14, atol=atol)
    np.testing.assert_allclose(Focal(0.0).slope(Z, T), CE.slope(Z, T), atol=atol)
    np.testing.assert_allclose(Focal(0.0).curvature(Z, T)(V), CE.curvature(Z, T)(V), atol=atol)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_its_definition_and_finite_with_its_derivatives_at_any_margin(gamma):
    loss = Focal(gamma)
    u = jnp.asarray([-1e4, -800.0, -30.0, -8.0, -1.0, 0.0, 1.0, 8.0, 30.0, 800.0, 1e4])
    p = 1 / (1 + np.exp(np.asarray(u)[3:9]))  # rounds beyond: 1 − p loses what it is at u = −30
    np.testing.assert_allclose(loss.of_margin(u)[3:9], -((1 - p) ** gamma) * np.log(p), rtol=1e-11)
    first, second = (jax.vmap(jax.grad(f)) for f in (loss.of_margin, loss.margin_slope))
    np.testing.assert_allclose(loss.margin_slope(u), first(u), atol=1e-13)
    np.testing.assert_allclose(loss.margin_curvature(u), second(u), atol=1e-13)


@dataclass(frozen=True)
class Shifted(CrossEntropy):
    """Logits shifted by class: `value` alone is overridden, and f's gradient is not cross-entropy's."""

    def value(self, Z, T):
        shift = jnp.arange(Z.shape[0], dtype=Z.dtype).reshape(-1, *[1] * (Z.ndim - 1))
        return super().value(Z + shift, T)


@dataclass(frozen=True)
class Doubled(Squared):
    """Twice the squared loss, with the slope that belongs to it and a curvature that does not."""

    def value(self, Z, T):
        return 2 * super().value(Z, T)

    def slope(self, Z, T):
        return 2 * (Z - T)

    def curvature(self, Z, T):
        return lambda V: V


@dataclass(frozen=True)
class Convex(Focal):
    """Says that it is convex."""

    convex = True
    dual = Squared.dual


def test_a_loss_that_overrides_value_alone_inherits_nothing_of_the_old_value():
    loss = Shifted()
    assert loss.name == "Shifted"
    assert not loss.convex
    assert loss.shift_invariant is None
    prob = make(IMBALANCED, 2, loss=loss)
    p, v = starts.gaussian(prob, jax.random.key(0)), starts.gaussian(prob, jax.random.key(1))
    fused, automatic, Hv, H, reference = everything(prob, p, v)
    for a, b in zip(fused, automatic, strict=True):
        close(a, b)
    close(fused[2], Hv)
    close(H, reference)
    assert np.linalg.norm(fused[1] - everything(make(IMBALANCED, 2), p, v)[0][1]) > 1e-3
    assert np.isnan(dual_bound(prob, p))
    assert Shifted.dual is Loss.dual
    assert Shifted.class_kinds is Loss.class_kinds


def broken(parent, **changes):
    """A loss that keeps all of its parent's methods but those changed: what no reset has mended."""
    inherited = {n: vars(parent)[n] for n in vars(parent) if not n.startswith("__")}
    return dataclass(frozen=True)(type("Broken", (Loss,), inherited | changes))()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Doubled(), "curvature is not the second derivative"),
        (broken(CrossEntropy, slope=lambda self, Z, T: Z - T), "slope is not the gradient"),
        (broken(Squared, dual=lambda self, Z, T, g, c: jnp.zeros_like(g[0])), "dual is not that of value"),
        (broken(Squared, shift_invariant=True), "shift invariant"),
        (Convex(), "convex"),
        (
            broken(
                CrossEntropy,
                dual=lambda s, Z, T, g, c: 0.1 * (1 - c) + CrossEntropy.dual(s, Z, T, g, c),
            ),
            "dual at c = 0.0 is above",
        ),
        (broken(Squared, value=lambda self, Z, T: jnp.sum((Z - T) ** 2) / 2), "need one entry a column"),
        (broken(Squared, value_and_slope=lambda self, Z, T: (Z[0], Z - T)), "value_and_slope is not value"),
    ],
)
def test_a_loss_that_contradicts_itself_is_refused(loss, message):
    with pytest.raises(ValueError, match=f"^loss: .*{message}"):
        make(IMBALANCED, 2, loss=loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("K", [3])
def test_the_losses_of_the_package_pass_the_check_of_users_losses(loss, K, monkeypatch):
    monkeypatch.setattr(loss_checks, "OWN", "nobody's")
    loss_checks.check_loss(LOSSES[loss], K)


def test_a_loss_that_does_not_hash_is_refused():
    @dataclass(frozen=True)
    class Weighted(CrossEntropy):
        weights: np.ndarray = None

        def value(self, Z, T):
            return super().value(Z, T)

    with pytest.raises(ValueError, match=r"^loss: Weighted must hash"):
        make(BALANCED, 2, loss=Weighted(weights=np.ones(3)))


def test_a_class_is_no_loss():
    with pytest.raises((ValueError, TypeError), match="loss"):  # the tests' type hook comes first
        make(BALANCED, 2, loss=CrossEntropy)


def test_a_convex_loss_of_the_users_is_certified():
    convex = broken(Squared, value=lambda self, Z, T: jnp.sum((Z - T) ** 2, axis=0) / 2)
    prob = make(IMBALANCED, 3, loss=convex)
    p = starts.gaussian(prob, jax.random.key(0))
    assert dual_bound(prob, p) == dual_bound(make(IMBALANCED, 3, loss=SQUARED), p)
