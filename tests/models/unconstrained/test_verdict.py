"""A verdict claims only what was shown: on real points, and in a table of made-up evidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, CE, SQUARED, find_minimum, gaussians, keys, make, take, zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.point import ravel
from ufm_jax.landscape.search import LevenbergMarquardt
from ufm_jax.landscape.spectrum import NOT_COUNTED, Spectrum
from ufm_jax.landscape.units import GRAD_TOL, Units, doubt_if_even
from ufm_jax.landscape.verdict import Reason, Size, Verdict, judge, judge_by_certificates
from ufm_jax.models.unconstrained import starts
from ufm_jax.models.unconstrained.objective import expand
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.numerics.status import Status

judged, judged_quickly = jax.jit(judge), jax.jit(judge_by_certificates)
examined = jax.jit(jax.vmap(lambda prob, p: examine(prob, p), in_axes=(None, 0)))


@jax.jit
def descend_and_examine(prob, keys):
    def one(key):
        found = find_minimum(prob, starts.balanced(prob, key, prob.dim))
        return found, examine(prob, found.params)

    return jax.vmap(one)(keys)


def at_threshold(kt, decay_b=1e-2):
    """K = 3, n = 2 with Kθ = kt and λ_W = 5 λ_H."""
    s = kt / (3 * np.sqrt(2.0))
    return make(BALANCED, 2, decay_w=s * np.sqrt(5.0), decay_h=s / np.sqrt(5.0), decay_b=decay_b)


@functools.cache
def examined_zoo(name):
    """Examine the zoo's critical points and 300 Gaussian ones, in one call."""
    z = zoo(name)
    points = jax.tree.map(lambda *a: jnp.concatenate(a), z.points, gaussians(z.prob, 21, 300))
    return jax.tree.map(np.asarray, examined(z.prob, points))


ZOO = ["at-ce-undecayed", "above-squared-undecayed", "below-ce-decayed"]


@pytest.mark.parametrize("name", ZOO)
def test_random_points_are_not_critical(name):
    evidence = take(examined_zoo(name).evidence, np.arange(-300, 0))
    assert np.all(evidence.verdict == Verdict.NOT_CRITICAL)
    assert np.all(evidence.reason == Reason.NONE)
    assert np.all(evidence.rel_grad_norm > GRAD_TOL)
    assert np.all((evidence.index == NOT_COUNTED) & (evidence.nullity == NOT_COUNTED))
    assert np.all(np.isnan(evidence.lambda_min) & np.isnan(evidence.lambda_min_residual))


@pytest.mark.parametrize("kt", [0.05, 0.5, 1 - 1e-3, 1 + 1e-3, 1.5])
@pytest.mark.parametrize("decay_b", [1e-2, 0.0])
def test_the_minimiser_is_certified_on_both_sides_of_the_threshold(kt, decay_b):
    prob = at_threshold(kt, decay_b)
    found, seen = descend_and_examine(prob, keys(22, 6))
    evidence = seen.evidence
    assert np.all(found.status == Status.CONVERGED)
    assert np.all(evidence.verdict == Verdict.GLOBAL_MINIMUM)
    np.testing.assert_allclose(evidence.loss, global_minimum(prob), atol=1e-11)
    assert np.all(evidence.columns()["rank"] == (2 if kt < 1 else 0))
    assert np.all(evidence.index == 0)
    assert np.all(evidence.nullity == (1 if kt < 1 else 0) + (decay_b == 0))


@pytest.mark.parametrize("name", ["at-ce-undecayed", "above-squared-undecayed", "below-ce-decayed"])
def test_verdicts_agree_with_the_dense_hessian(name):
    z = zoo(name)
    seen = examined_zoo(name)
    for i in range(len(z.values)):
        lowest = np.linalg.eigvalsh(z.hessians[i])[0]
        verdict = seen.evidence.verdict[i]
        if lowest < -1e-7:
            assert verdict == Verdict.STRICT_SADDLE
            v = np.asarray(ravel(take(seen.direction, i)))
            assert v @ z.hessians[i] @ v < -1e-7
            np.testing.assert_allclose(v @ z.hessians[i] @ v, seen.evidence.negative_curvature[i], atol=1e-12)
        elif z.prob.dim >= z.prob.num_classes - 1:
            assert verdict == Verdict.GLOBAL_MINIMUM
        else:  # d < K − 1: the relaxation is not tight, and no more than a local minimum can be shown
            assert verdict == Verdict.LOCAL_MINIMUM
            assert seen.evidence.dual_gap[i] > 1e-6
        np.testing.assert_allclose(
            seen.evidence.grad_norm[i],
            jnp.linalg.norm(ravel(expand(z.prob, take(z.points, i)).grad)),
            atol=1e-15,
        )


def test_a_family_larger_than_the_orbit_is_called_degenerate():
    # Squared loss, balanced, d = 1 < K: any unit vector of a K-dimensional eigenspace does equally well.
    prob = make(BALANCED, 1, loss=SQUARED, bias=False)
    found, _ = descend_and_examine(prob, keys(23, 4))
    assert np.all(found.status == Status.CONVERGED)
    there = jax.jit(jax.vmap(lambda p: LevenbergMarquardt(gtol=1e-15).run(prob, p).x))(found.params)
    evidence = examined(prob, there).evidence
    assert np.all(evidence.verdict == Verdict.DEGENERATE)
    assert np.all(evidence.nullity == 2)
    # Farther off, a zero is not told from a small number.
    moved = jax.tree.map(lambda a: a * (1 + 1e-10), there)
    evidence = examined(prob, moved).evidence
    assert np.all(evidence.verdict == Verdict.UNDECIDED)
    assert np.all(evidence.reason == Reason.SPECTRUM_UNRESOLVED)
    assert np.all(evidence.nullity == NOT_COUNTED)


def assert_consistent(verdict, index, nullity, orbit_dim):
    """Counts were made at critical points alone, and are those of their verdict."""
    if verdict in (Verdict.NOT_CRITICAL, Verdict.UNDECIDED):
        assert (index, nullity) == (NOT_COUNTED, NOT_COUNTED)
    elif verdict == Verdict.STRICT_SADDLE:
        assert index >= 1 or index == NOT_COUNTED
    else:
        assert index in (0, NOT_COUNTED)
    assert nullity == NOT_COUNTED or nullity >= orbit_dim


@given(
    st.sampled_from([0.0, 1e-16, 1e-12, 1e-9, 1e-3, np.nan]),
    st.sampled_from([-1.0, -1e-8, -1e-12, 0.0, 1e-12, 0.1, np.nan]),
    st.sampled_from([-0.1, -1e-7, -1e-9, 0.0, 1e-9, 0.1, np.nan]),
    st.sampled_from([-1, 0, 1, 6]),
    st.sampled_from([-1, 1, 2]),
    st.sampled_from([-0.1, -1e-9, 0.0, 0.1]),
    st.booleans(),
    st.sampled_from([1e-12, 1.0, np.nan]),
    st.sampled_from([-np.inf, -1e-3, -1e-9, 0.0]),
)
@settings(max_examples=200)
def test_no_evidence_whatever_makes_a_row_that_contradicts_itself(
    grad_norm, gap, curvature, index, nullity, lambda_min, resolved, residual, floor
):
    spec = made_up(
        index=index, nullity=nullity, lambda_min=lambda_min, resolved=resolved, sound=residual < 1e-7
    )
    numbers = sized(grad_norm, gap), jnp.asarray(curvature)
    found = judged(*numbers, spec, jnp.asarray(floor))
    assert_consistent(found.verdict, found.index, found.nullity, 1)
    quick = judged_quickly(*numbers, spec.tolerance, spec.doubt, jnp.asarray(floor))
    assert_consistent(quick.verdict, quick.index, quick.nullity, 1)
    for one in (found, quick):
        if gap < -1e-9:
            assert one.reason == Reason.BOUND_ABOVE_VALUE
            assert one.verdict in (Verdict.UNDECIDED, Verdict.NOT_CRITICAL)


def sized(slope, gap, noise=0.0):
    """What is judged of a point whose units are all 1."""
    return Size(*(jnp.asarray(a) for a in (slope, noise, gap, 1.0)))


def made_up(**change):
    """Evidence of a clean local minimum, with tolerance 1e-8, changed as asked."""
    scalars = {
        "lambda_min": 0.1,
        "residual": 1e-12,
        "orbit_residual": 1e-12,
        "tolerance": 1e-8,
        "doubt": 1e-7,
        "null": 5e-9,
        "resolved": True,
        "sound": True,
    }
    change = {"lowest": change.get("lambda_min", 0.1), **change}
    scalars["lowest"] = change["lowest"]
    counts = {"index": 0, "nullity": 1, "orbit_dim": 1}
    scalars["clear"] = change.get("resolved", True)
    values = {k: jnp.asarray(change.get(k, v)) for k, v in scalars.items()}
    values |= {k: jnp.asarray(change.get(k, v), jnp.int32) for k, v in counts.items()}
    return Spectrum(direction=PLAIN.zeros(), **values)


PLAIN = make((1, 1), 1, loss=CE)
NAN, OPEN, SHUT = np.nan, 0.3, 1e-12
TABLE = [
    ("local minimum", 1e-12, OPEN, 0.1, {}, Verdict.LOCAL_MINIMUM, Reason.NONE),
    ("no certificate", 1e-12, NAN, 0.1, {}, Verdict.LOCAL_MINIMUM, Reason.NONE),
    ("global minimum", 1e-12, SHUT, 0.1, {}, Verdict.GLOBAL_MINIMUM, Reason.NONE),
    ("gap of rounding below zero", 1e-12, -1e-15, 0.1, {}, Verdict.GLOBAL_MINIMUM, Reason.NONE),
    (
        "global whatever the spectrum",
        1e-12,
        SHUT,
        0.0,
        {"resolved": False},
        Verdict.GLOBAL_MINIMUM,
        Reason.NONE,
    ),
    ("saddle", 1e-12, OPEN, -0.1, {"index": 2}, Verdict.STRICT_SADDLE, Reason.NONE),
    ("saddle near the minimum in f", 1e-12, SHUT, -0.1, {"index": 1}, Verdict.STRICT_SADDLE, Reason.NONE),
    ("saddle without certificate", 1e-12, NAN, -0.1, {"resolved": False}, Verdict.STRICT_SADDLE, Reason.NONE),
    ("curvature of rounding", 1e-12, OPEN, -1e-9, {}, Verdict.LOCAL_MINIMUM, Reason.NONE),
    ("degenerate", 1e-12, OPEN, 0.0, {"nullity": 3, "lambda_min": 0.0}, Verdict.DEGENERATE, Reason.NONE),
    (
        "degenerate without certificate",
        1e-12,
        NAN,
        0.0,
        {"nullity": 2, "lambda_min": -1e-9},
        Verdict.DEGENERATE,
        Reason.NONE,
    ),
    ("unresolved", 1e-12, OPEN, 0.0, {"resolved": False}, Verdict.UNDECIDED, Reason.SPECTRUM_UNRESOLVED),
    (
        "unresolved, no certificate",
        1e-12,
        NAN,
        0.0,
        {"resolved": False},
        Verdict.UNDECIDED,
        Reason.SPECTRUM_UNRESOLVED,
    ),
    (
        "index without curvature",
        1e-12,
        OPEN,
        0.0,
        {"index": 1},
        Verdict.UNDECIDED,
        Reason.SPECTRUM_UNRESOLVED,
    ),
    ("bad eigenvector", 1e-12, OPEN, 0.1, {"sound": False}, Verdict.UNDECIDED, Reason.RESIDUAL_TOO_LARGE),
    ("NaN eigenvector", 1e-12, OPEN, NAN, {"sound": False}, Verdict.UNDECIDED, Reason.RESIDUAL_TOO_LARGE),
    ("gradient", 1e-6, SHUT, 0.1, {}, Verdict.NOT_CRITICAL, Reason.NONE),
    ("gradient and curvature", 1e-6, OPEN, -5.0, {}, Verdict.NOT_CRITICAL, Reason.NONE),
    ("NaN gradient", NAN, SHUT, 0.1, {}, Verdict.NOT_CRITICAL, Reason.NONE),
    (
        "null, uncounted",
        1e-12,
        OPEN,
        0.0,
        {"nullity": -1, "lambda_min": 0.0},
        Verdict.DEGENERATE,
        Reason.NONE,
    ),
    ("no zero", 1e-12, OPEN, 0.1, {"lambda_min": 7e-9}, Verdict.UNDECIDED, Reason.SPECTRUM_UNRESOLVED),
    ("no sign", 1e-12, OPEN, 0.1, {"lambda_min": 5e-8}, Verdict.UNDECIDED, Reason.SPECTRUM_UNRESOLVED),
    ("bound above", 1e-12, -1e-3, 0.1, {}, Verdict.UNDECIDED, Reason.BOUND_ABOVE_VALUE),
    ("bound above, saddle", 1e-12, -1e-3, -0.1, {"index": 1}, Verdict.UNDECIDED, Reason.BOUND_ABOVE_VALUE),
    ("bound above, gradient", 1e-6, -1e-3, 0.1, {}, Verdict.NOT_CRITICAL, Reason.BOUND_ABOVE_VALUE),
    (
        "curvature less than ‖∇f‖ allows",
        1e-12,
        OPEN,
        -5e-8,
        {"index": 1, "resolved": False},
        Verdict.UNDECIDED,
        Reason.SPECTRUM_UNRESOLVED,
    ),
    (
        "the same, gap shut",
        1e-12,
        SHUT,
        -5e-8,
        {"index": 1, "resolved": False},
        Verdict.UNDECIDED,
        Reason.INDEX_AT_CLOSED_GAP,
    ),
    ("the same, nearer", 1e-16, SHUT, -5e-8, {"index": 1}, Verdict.STRICT_SADDLE, Reason.NONE),
    ("index at a closed gap", 1e-12, SHUT, 0.1, {"index": 6}, Verdict.UNDECIDED, Reason.INDEX_AT_CLOSED_GAP),
]


@pytest.mark.parametrize(
    ("grad_norm", "gap", "curvature", "change", "verdict", "reason"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_judge(grad_norm, gap, curvature, change, verdict, reason):
    ones = Units(jnp.ones(()), jnp.ones(()))
    spec = made_up(**{"doubt": float(doubt_if_even(ones, jnp.asarray(grad_norm)))} | change)
    found = judge(sized(grad_norm, gap), jnp.asarray(curvature), spec)
    assert (Verdict(int(found.verdict)), Reason(int(found.reason))) == (verdict, reason)
    assert_consistent(found.verdict, found.index, found.nullity, spec.orbit_dim)


def test_tolerances_are_the_callers():
    spec = made_up()
    arguments = sized(1e-6, 1e-5), jnp.asarray(0.1), spec
    assert judge(*arguments, grad_tol=1e-5).verdict == Verdict.LOCAL_MINIMUM
    assert judge(*arguments, grad_tol=1e-5, gap_tol=1e-4).verdict == Verdict.GLOBAL_MINIMUM


@pytest.mark.parametrize("name", ZOO)
def test_certificates_alone_never_contradict_the_spectrum(name):
    prob, slow = zoo(name).prob, examined_zoo(name).evidence
    points = jax.tree.map(lambda *a: jnp.concatenate(a), zoo(name).points, gaussians(prob, 21, 300))
    quick, first = (
        jax.jit(jax.vmap(lambda p, effort=effort: examine(prob, p, effort).evidence))(points)
        for effort in ("escape", "certificate")
    )
    decided = quick.verdict != Verdict.UNDECIDED
    np.testing.assert_array_equal(quick.verdict[decided], slow.verdict[decided])
    assert np.all(quick.index[quick.verdict == Verdict.GLOBAL_MINIMUM] == 0)
    settled = first.verdict != Verdict.UNDECIDED
    np.testing.assert_array_equal(first.verdict[settled], quick.verdict[settled])
    assert not np.any(first.verdict == Verdict.STRICT_SADDLE)
    for field in ("loss", "grad_norm", "dual_bound", "dual_gap", "nc2", "nc3", "nc4", "rank"):
        seen = decided & (slow.verdict != Verdict.NOT_CRITICAL)
        np.testing.assert_allclose(
            quick.columns()[field][seen], slow.columns()[field][seen], atol=1e-9, err_msg=field
        )
    if prob.dim >= prob.num_classes:  # a direction leads out of every saddle of lower rank
        saddles = slow.verdict == Verdict.STRICT_SADDLE
        np.testing.assert_array_equal(quick.verdict[saddles], Verdict.STRICT_SADDLE)
