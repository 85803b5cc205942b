"""f at every decay that can be typed: verdicts are true where all of f, gradient and curvature are tiny."""

from dataclasses import replace

import flint
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CE, gaussians

import ufm_jax as ufm
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.point import curvature_along
from ufm_jax.landscape.units import even_curvature, even_norm
from ufm_jax.landscape.verdict import Reason, Verdict
from ufm_jax.models.unconstrained import closed_forms, sizes
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import reduced

DECAYS = (1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-13)


def even_problem(decay, **options):
    sizes = {"num_classes": 4, "per_class": 5, "dim": 6} | options
    return ufm.problem(**sizes, decay_w=decay, decay_h=decay, decay_b=decay)


@pytest.fixture(scope="module")
def minima():
    return {lam: ufm.sweep(even_problem(lam), starts=64, seed=1, spectra="needed") for lam in DECAYS}


@pytest.mark.parametrize("decay", DECAYS)
def test_descents_end_at_the_closed_form(minima, decay):
    table, best = minima[decay].table, float(closed_forms.balanced_minimum(even_problem(decay)).loss)
    assert set(table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
    np.testing.assert_allclose(table["loss"].to_numpy(), best, rtol=1e-13)
    assert np.max(table["rel_dual_gap"].to_numpy()) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_saddles_are_strict_and_nothing_is_said_that_is_not_so(decay):
    """Index and nullity are those at λ = 1e-3, where the census of the same problem has these orbits."""
    run = ufm.sweep(even_problem(decay), starts=64, target="saddles", seed=2)
    rows = run.table.to_pylist()
    assert {row["verdict"] for row in rows} <= {"GLOBAL_MINIMUM", "STRICT_SADDLE", "NOT_CRITICAL"}
    judged = [row for row in rows if row["verdict"] != "NOT_CRITICAL"]
    assert len(judged) >= (64 if decay >= 1e-7 else 54)
    counts = {(row["rank"], row["index"]) for row in judged if row["index"] is not None}
    assert counts <= {(3, 0), (2, 4), (2, 5), (2, 6), (1, 10), (1, 11), (1, 12), (0, 18), (0, 0)}
    assert all(row["nullity"] in (None, {0: 0, 1: 5, 2: 9, 3: 12}[row["rank"]]) for row in judged)
    best = float(closed_forms.balanced_minimum(even_problem(decay)).loss)
    lowest = [row["loss"] for row in judged if row["verdict"] == "GLOBAL_MINIMUM"]
    np.testing.assert_allclose(lowest, best, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1e-3, 1e-7])
def test_a_bias_that_hardly_decays_is_counted_as_what_it_is(decay):
    """A shift of all logits has the eigenvalue λ_b exactly: no zero, however small beside the others.

    Every orbit that a sweep names is proved, and has the index and nullity that the row says.
    """
    prob = ufm.problem(num_classes=3, per_class=2, dim=3, decay_w=decay, decay_h=2 * decay, decay_b=decay)
    for ratio in (1e-14, 1e-12, 1e-10, 1e-9, 1e-8, 1e-6, 1e-3, 1.0):
        own = replace(prob, decay_b=jnp.asarray(decay * ratio))
        run, counted = ufm.sweep(own, starts=24, target="both", seed=1), 0
        seen: dict[tuple, int] = {}
        for i, row in enumerate(run.table.to_pylist()):
            if row["verdict"] != "NOT_CRITICAL":
                seen.setdefault(tuple(row[name] for name in ("verdict", "rank", "index", "nullity")), i)
        for (verdict, rank, index, nullity), i in seen.items():
            x = run.point(i).x
            proof = ufm.prove(
                own, x._replace(b=x.b - jnp.mean(x.b))
            )  # where the shift of a critical point is
            assert proof.proved, proof.failed
            assert verdict == ("GLOBAL_MINIMUM" if proof.global_minimum else "STRICT_SADDLE")
            assert rank == proof.rank
            assert index in (None, proof.index)
            assert nullity in (None, proof.nullity)
            counted += nullity is not None
        assert counted >= 3


@pytest.mark.parametrize("decay", [1e-9, 1e-11, 1e-13])
def test_a_point_far_above_the_minimum_is_not_critical(decay):
    # Logits of 40 with no simplex in them: 3.7 times f* at 1e-13, and a gradient far below 1e-9.
    prob = even_problem(decay)
    W = np.zeros((4, 6))
    W[:, :4] = np.diag([1.0, 2.0, 3.0, 4.0]) * 40**0.5
    H = np.repeat(np.linalg.pinv(W) * 40, 5, axis=1)
    judged = ufm.classify(prob, Params(jnp.asarray(W), jnp.asarray(H), jnp.zeros(4)))
    assert judged.verdict == Verdict.NOT_CRITICAL
    assert judged.grad_norm < 1e-7
    assert (judged.index, judged.nullity) == (None, None)
    assert ufm.classify(prob, closed_forms.etf_minimiser(prob)).verdict == Verdict.GLOBAL_MINIMUM
    origin = ufm.classify(prob, prob.zeros())
    assert (origin.verdict, origin.index) == (Verdict.STRICT_SADDLE, 18)
    # The lowest positive eigenvalue, λ, is at 1e-11 below what the gradient's rounding leaves in doubt.
    assert origin.nullity in ((0,) if decay > 1e-11 else (0, None))


@pytest.mark.parametrize("ratio", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("strength", [1e-3, 1e-9])
def test_unequal_decays_are_judged_as_equal_ones_are(ratio, strength):
    """W and H exchange their scales, and no count, rank or relative size knows it."""
    equal = even_problem(strength)
    uneven = replace(equal, decay_w=equal.decay_w * ratio, decay_h=equal.decay_h / ratio)
    tilt = ratio**-0.5
    for at in (closed_forms.etf_minimiser(equal), equal.zeros()):
        there = at._replace(W=at.W * tilt, H=at.H / tilt)
        a, b = ufm.classify(equal, at), ufm.classify(uneven, there)
        assert (a.verdict, a.index, a.nullity, a.measures["rank"]) == (
            b.verdict,
            b.index,
            b.nullity,
            b.measures["rank"],
        )
        assert b.rel_grad_norm == pytest.approx(a.rel_grad_norm, abs=1e-11)


def test_random_points_are_never_called_critical_at_any_decay():
    prob = even_problem(np.exp(np.linspace(np.log(1e-13), np.log(1e2), 400)), per_class=2, dim=3)
    points = gaussians(even_problem(1.0, per_class=2, dim=3), 5, 400)
    seen = jax.jit(jax.vmap(lambda at, p: examine(at, p, "escape").evidence))(prob, points)
    assert np.all(seen.verdict == Verdict.NOT_CRITICAL)
    assert np.all(seen.reason == Reason.NONE)


def exact(Z, y, K):
    """Return loss and gradient of one column in 300 bits."""
    flint.ctx.prec = 300
    z = [flint.arb(float(a)) for a in Z]
    rest = sum((z[j] - z[y]).exp() for j in range(K) if j != y)
    others = [(z[j] - z[y]).exp() / (1 + rest) if j != y else -rest / (1 + rest) for j in range(K)]
    return (1 + rest).log(), others


def off(measured, true):
    return abs(float((flint.arb(float(measured)) - true) / true))


def test_the_loss_and_its_slope_are_good_relative_to_themselves():
    rng = np.random.default_rng(7)
    for _ in range(40):
        K = int(rng.integers(2, 7))
        Z, y = rng.normal(size=K) * np.exp(rng.uniform(-8, 2)), int(rng.integers(K))
        Z[y] += rng.uniform(0, 60)
        T = jnp.asarray(CE.targets(np.array([y]), K))
        loss, slope = exact(Z, y, K)
        column = jnp.asarray(Z)[:, None]
        for value, gradient in (
            (CE.value(column, T), CE.slope(column, T)),
            CE.value_and_slope(column, T),
        ):
            assert off(value[0], loss) < 1e-13
            assert max(off(g, s) for g, s in zip(gradient[:, 0], slope, strict=True)) < 1e-13


@pytest.mark.parametrize("c", [1e-3, 0.5, 1.0])
def test_the_dual_is_good_relative_to_itself(c):
    flint.ctx.prec = 300
    Z = jnp.array([40.0, 1.0, -2.0, 0.5])[:, None]
    T = jnp.asarray(CE.targets(np.array([0]), 4))
    push = [flint.arb(c) * g for g in exact(Z[:, 0], 0, 4)[1]]
    q = [push[0] + 1, *push[1:]]
    entropy = -sum(a * a.log() for a in q)
    assert off(CE.dual(Z, T, CE.slope(Z, T), jnp.asarray(c))[0], entropy) < 1e-13


@pytest.mark.parametrize("decays", [(5e-3, 1e-3, 1e-2), (1e-9, 1e-3, 1e-6)])
def test_even_coordinates_are_those_of_equal_decays(decays):
    prob = ufm.problem(counts=(3, 2, 1), dim=2, decay_w=decays[0], decay_h=decays[1], decay_b=decays[2])
    small = reduced(prob)
    p = jax.tree.map(lambda a: a[0], gaussians(small, 3, 1))
    point = small.evaluate(p)
    balanced, there = small.in_even_coordinates(point)
    factors = sizes.scale(small)
    assert float(balanced.decay_w) == float(balanced.decay_h) == pytest.approx(float(prob.strength))
    np.testing.assert_allclose(there.value, point.value, rtol=1e-14)
    without_b = there._replace(grad=there.grad._replace(b=factors.b * there.grad.b))
    np.testing.assert_allclose(even_norm(point.grad, factors), without_b.grad_norm, rtol=1e-12)
    v = jax.tree.map(lambda a: a[0], gaussians(small, 4, 1))._replace(b=jnp.zeros(3))
    v_even = Params(v.W / factors.W, v.H / factors.H, v.b)
    curvature = curvature_along(point, v)
    direct = curvature_along(expand(balanced, there.x), v_even)
    np.testing.assert_allclose(even_curvature(curvature, factors), direct.value, rtol=1e-11)
