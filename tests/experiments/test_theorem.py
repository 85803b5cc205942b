"""Proofs by intervals: nothing true is ever excluded, small theorems are proved, and false ones are not."""

import json
from fractions import Fraction

import flint
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import ufm_jax as ufm
from experiments.theorem import __main__ as command
from experiments.theorem import convex, intervals, store
from experiments.theorem import enclose as parts
from experiments.theorem.__main__ import Config
from experiments.theorem.convexity import _squares, convexity, positive_definite
from experiments.theorem.enclose import Boxes, enclose
from experiments.theorem.figure import draw
from experiments.theorem.intervals import Interval, interval
from experiments.theorem.minimiser import derivatives, solve, solve_afresh
from experiments.theorem.proof import Proof, agrees, prove
from experiments.theorem.ranges import prove_range
from experiments.theorem.search import begin, beyond, certify, chamber, direction, search
from experiments.theorem.setting import Orbit, Setting

PUBLIC = Setting(3, 5, 5e-3, 1e-3, 1e-2)
NEAR_ONE = Setting(3, 1, 0.9 / 3, 0.9 / 3, 1e-2)
NO_BIAS = Setting(3, 5, 5e-3, 1e-3, None)
FREE_BIAS = Setting(3, 5, 5e-3, 1e-3, 0.0)
SPLIT = Setting(3, 1, 5e-4, 5e-4, 1e-2)  # Kθ = 0.0015: a third line, off the walls
FOUR = Setting(4, 5, 5e-3, 1e-3, 1e-2)
FOUR_STRONG = Setting(4, 1, 0.075, 0.075, 1e-2)
SETTINGS = [(PUBLIC, 1), (NEAR_ONE, 1), (NO_BIAS, 1), (FREE_BIAS, 1), (FOUR, 1), (FOUR, 2)]
# s of critical lines and planes of FOUR, fixed by symmetry
SHAPES = {1: [(0.0, 0.0), (0.0, 0.5)], 2: [(1.0, 0.0), (0.0, 0.5)]}


def exactly(x):
    return [Fraction(float(v)) for v in np.ravel(x)]


def encloses(result, exact):
    low, high = exactly(result.lo), exactly(result.hi)
    return all(a <= e <= b for a, e, b in zip(low, exact, high, strict=True))


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 2000)) * 10.0 ** rng.integers(-30, 30, (2, 2000))
    return x, np.where(rng.random(2000) < 0.2, x * (1 + 2.0**-50), y)  # cancellation among them


@pytest.mark.parametrize("name", ["__add__", "__sub__", "__mul__"])
def test_ring_operations_hold_exact_results(operands, name):
    x, y = operands
    exact = [getattr(a, name)(b) for a, b in zip(exactly(x), exactly(y), strict=True)]
    assert encloses(getattr(interval(x), name)(y), exact)


def test_reciprocals_and_roots_hold_exact_results(operands):
    x = np.abs(operands[0])
    assert encloses(intervals.reciprocal(interval(x)), [1 / a for a in exactly(x)])
    roots = intervals.root(interval(x))
    squares = zip(exactly(roots.lo), exactly(x), exactly(roots.hi), strict=True)
    assert all(a * a <= e <= b * b for a, e, b in squares)


def test_operations_hold_results_of_points_inside():
    rng = np.random.default_rng(2)
    (a, c), (b, d) = np.sort(rng.normal(size=(2, 2, 500)), axis=1)
    x, y = Interval(a, c), Interval(b, d)
    p, q = a + (c - a) * rng.random(500), b + (d - b) * rng.random(500)
    for result, exact in ((x + y, p + q), (x - y, p - q), (x * y, p * q), (-x, -p)):
        assert np.all(result.lo <= exact)
        assert np.all(exact <= result.hi)


def test_products_of_matrices_and_sums_hold_exact_results():
    rng = np.random.default_rng(3)
    A, B = (rng.normal(size=(7, 9)) * 10.0 ** rng.integers(-8, 8, (7, 9)) for _ in range(2))
    rows, columns = [exactly(row) for row in A], [exactly(row) for row in B]
    exact = [sum((a * b for a, b in zip(r, c, strict=True)), Fraction(0)) for r in rows for c in columns]
    assert encloses(interval(A) @ B.T, exact)
    assert encloses(interval(A).sum(1), [sum(r, Fraction(0)) for r in rows])
    wide = Interval(A - 1e-3, A + 1e-3) @ Interval(B.T - 1e-3, B.T + 1e-3)
    for _ in range(100):
        inside = (A + 1e-3 * rng.uniform(-1, 1, A.shape)) @ (B + 1e-3 * rng.uniform(-1, 1, B.shape)).T
        assert np.all(wide.holds(inside))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 700.0])
def test_exp_is_as_proved(scale):
    x = np.random.default_rng(4).uniform(-scale, scale, 20_000)
    own = intervals._exp(x)
    for value, at in zip(own.tolist(), x.tolist(), strict=True):
        true = flint.arb(at).exp()
        assert abs(flint.arb(value) / true - 1) < intervals.EXP_ERROR / 2
    enclosed = intervals.exp(interval(x))
    assert np.all((enclosed.lo < own) & (own < enclosed.hi))
    back = intervals.log(enclosed)
    assert np.all((back.lo <= x) & (x <= back.hi))
    assert np.all(back.hi - back.lo < 1e-12 * (1 + np.abs(x)))


def test_exp_and_log_beyond_their_range():
    enclosed = intervals.exp(Interval(np.array([-800.0, 699.0]), np.array([-750.0, 710.0])))
    assert enclosed.lo[0] == 0
    assert 0 < enclosed.hi[0] < 1e-303
    assert np.isfinite(enclosed.lo[1])
    assert enclosed.hi[1] == np.inf
    assert np.isnan(intervals.exp(interval(np.array([np.nan]))).lo[0])
    assert not np.isfinite(intervals.log(interval(np.array([0.0]))).lo[0])


def phi(chart, F, y, x):
    """φ as it is written down, of one y and x in the frame F."""
    M, X, c = convex.unpack(chart, y)
    eps, gamma = x[-2:]
    V = (chart.V[0] + np.tensordot(x[:-2], chart.V[1:], 1)) @ F
    Z = V @ X + gamma * c[:, None]
    loss = np.sum(np.log(np.exp(Z).sum(0)) - np.diag(Z))
    decay = eps / 2 * (np.trace(V.T @ V @ M) + np.trace(X.T @ np.linalg.inv(M) @ X))
    return loss + decay + (1 - gamma**2) / 2 * c @ c + np.sum(c) ** 2 / 2


@pytest.mark.parametrize(("K", "rank"), [(3, 1), (4, 1), (4, 2), (5, 3)])
def test_derivatives_are_those_of_the_function(K, rank):
    """By central differences, each of the one before, in any frame and along any straight directions."""
    chart = chamber(K, rank)
    D, m, h = chart.unknowns, chart.dim, 1e-5
    rng = np.random.default_rng(5)
    A, F = rng.normal(size=(2, 1, rank, rank))
    y, x = rng.normal(size=(1, D)), rng.uniform(size=(1, m + 2))
    y[:, : len(chart.pairs[0])] = (A @ A.swapaxes(1, 2) + np.eye(rank))[:, *chart.pairs]
    frame = convex.frame(chart, F, y)

    def slopes(y, x):
        a = convex.at(chart, frame, y, x)
        return np.concatenate([convex.gradient(chart, a), convex.tilt(chart, a)], axis=1)[0]

    def differences(function, dy, dx):
        return (function(y + h * dy, x + h * dx) - function(y - h * dy, x - h * dx)) / (2 * h)

    units = np.eye(D + m + 2)
    numerical = [differences(lambda y, x: phi(chart, F[0], y[0], x[0]), u[:D], u[D:]) for u in units[: D + m]]
    np.testing.assert_allclose(slopes(y, x), numerical, atol=1e-8, rtol=1e-8)
    a, dg, dR = derivatives(chart, y, x, frame)
    numerical = [differences(slopes, u[:D], u[D:]) for u in units]
    np.testing.assert_allclose(np.concatenate([dg, dR], axis=2)[0], numerical, atol=1e-7, rtol=1e-7)
    P, dx = rng.normal(size=(1, m + 2, D)), np.eye(m + 2)
    i, j = np.triu_indices(m + 2)
    g2, R2 = convex.bend(chart, a, convex.motion(chart, a, P, dx), i, j)

    def along(y, x, k):
        at = convex.at(chart, frame, y, x)
        return np.concatenate(convex.slope(chart, at, convex.motion(chart, at, P, dx)), axis=2)[0, k]

    numerical = [
        differences(lambda y, x, l=l: along(y, x, l), P[0, k], dx[k]) for k, l in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(np.concatenate([g2, R2], axis=2)[0], numerical, atol=1e-5, rtol=1e-6)


def some_boxes(chart, setting, count, seed):
    """Boxes of random centres and sizes over the chamber, guesses solved for."""
    rng = np.random.default_rng(seed)
    middle, narrow = setting.strengths().halves()
    s = rng.dirichlet(np.ones(chart.dim + 1), count)[:, 1:]
    radius = 10.0 ** rng.uniform(-5, -1.5, (count, chart.dim))
    centre = np.concatenate([s, np.tile(middle, (count, 1))], axis=1)
    guess = np.array([solve_afresh(chart, x) for x in centre])
    return Boxes(
        centre, np.concatenate([radius, np.tile(narrow, (count, 1))], axis=1), guess, np.zeros(count)
    )


@pytest.mark.parametrize(("setting", "rank"), SETTINGS)
def test_enclosures_hold_minimisers_and_tilts_of_points_inside(setting, rank):
    chart, rng = chamber(setting.num_classes, rank), np.random.default_rng(6)
    boxes = some_boxes(chart, setting, 150, seed=7)
    shown = enclose(chart, boxes)
    assert np.sum(shown.solved) > 20
    held = 0
    for _ in range(5):
        x = boxes.centre + boxes.radius * rng.uniform(-1, 1, boxes.radius.shape)
        y, good = solve(chart, x, shown.guess + (shown.follow @ (x - boxes.centre)[:, :, None])[:, :, 0])
        own = convex.change_basis(chart, y, np.linalg.inv(shown.frame.F))
        a = convex.at(chart, convex.frame(chart, shown.frame.F, own), own, x)
        R = convex.tilt(chart, a)
        rounding = 1e-9 * (1 + np.abs(own))  # of the approximate minimiser
        inside = np.all((shown.y.lo <= own + rounding) & (own - rounding <= shown.y.hi), axis=1)
        inside &= np.all((shown.R.lo <= R + 1e-9) & (shown.R.hi >= R - 1e-9), axis=1)
        assert np.all(inside[shown.solved & good])
        held += np.sum(shown.solved & good)
    assert held > 100


@pytest.mark.parametrize(("setting", "rank"), [(PUBLIC, 1), (FOUR, 1), (FOUR, 2)])
def test_taylors_formula_and_probabilities_hold_those_of_points_inside(setting, rank):
    """Each part by itself: in `enclose` the slack of one would hide what another lacks."""
    chart, rng = chamber(setting.num_classes, rank), np.random.default_rng(13)
    boxes = some_boxes(chart, setting, 100, seed=14)
    dx = np.eye(chart.dim + 2)[: chart.dim]
    centre = parts._centre(chart, boxes, dx)
    h = np.full(100, 1e-3)
    over = parts._over(chart, boxes, centre, dx, h)
    rho = boxes.radius[:, : chart.dim]
    g = parts._taylor(centre.g, centre.dg, over.g2, rho)
    R = parts._taylor(centre.R, centre.dR, over.R2, rho)
    for _ in range(20):
        delta = rho * rng.choice([-1.0, 1.0, 0.3], rho.shape)
        x = boxes.centre.copy()
        x[:, : chart.dim] += delta
        y = centre.y + (centre.P @ delta[:, :, None])[:, :, 0]
        frame = convex.frame(chart, centre.frame.F, y)
        a = convex.at(chart, frame, y, x)
        for enclosure, value in ((g, convex.gradient(chart, a)), (R, convex.tilt(chart, a)), (over.a.p, a.p)):
            assert np.all((enclosure.lo <= value + 1e-12) & (value - 1e-12 <= enclosure.hi))
        w = rng.normal(size=y.shape)
        w *= (h / np.linalg.norm(w, axis=1))[:, None]
        y = y + (centre.C @ w[:, :, None])[:, :, 0]
        a = convex.at(chart, frame, y, x)
        pairs = ((over.y, y), (over.a.p, a.p), (over.a.Q, a.Q), (over.a.M, a.M))
        for enclosure, value in pairs:
            assert np.all((enclosure.lo <= value + 1e-12) & (value - 1e-12 <= enclosure.hi))


@pytest.mark.parametrize(("setting", "rank"), SETTINGS)
def test_boxes_around_a_critical_space_are_never_excluded(setting, rank):
    """2,000 random boxes around each: this is what an unsound contractor fails."""
    chart, rng = chamber(setting.num_classes, rank), np.random.default_rng(8)
    strengths = setting.strengths()
    middle, narrow = strengths.halves()
    shapes = SHAPES[rank] if setting.num_classes == 4 else [(0.0,), (0.5,)]
    for s in shapes:
        x = np.r_[s, middle]
        zero = certify(chart, x, solve_afresh(chart, x), strengths)
        assert zero is not None
        count = 1000
        radius = 10.0 ** rng.uniform(-6, -1.5, (count, 1)) * rng.uniform(0.1, 1, (count, chart.dim))
        # The zero lies within `within` of s: boxes hold that much more.
        centre = np.array(zero.s) + (radius - 2 * zero.within) * rng.uniform(-1, 1, radius.shape)
        edge = rng.random(radius.shape) < 0.2
        centre = np.where(edge, np.array(zero.s) + (radius - 2 * zero.within) * np.sign(centre), centre)
        boxes = Boxes(
            np.concatenate([centre, np.tile(middle, (count, 1))], axis=1),
            np.concatenate([radius, np.tile(narrow, (count, 1))], axis=1),
            np.tile(solve_afresh(chart, np.r_[zero.s, middle]), (count, 1)),
            np.zeros(count),
        )
        shown = enclose(chart, boxes)
        assert np.sum(shown.solved) > 100
        assert not np.any(shown.excluded)


@pytest.mark.parametrize(("setting", "rank"), [(PUBLIC, 1), (FOUR, 2)])
def test_convexity_is_a_lower_bound(setting, rank):
    chart, rng = chamber(setting.num_classes, rank), np.random.default_rng(9)
    boxes = some_boxes(chart, setting, 20, seed=10)
    y, good = solve(chart, boxes.centre, boxes.guess)
    assert np.all(good)
    F = np.linalg.cholesky(convex.unpack(chart, y)[0])
    own = convex.change_basis(chart, y, np.linalg.inv(F))
    width = 1e-3 * (1 + np.abs(own))
    box, x = Interval(own - width, own + width), interval(boxes.centre)
    C = np.broadcast_to(np.eye(chart.unknowns), (20, chart.unknowns, chart.unknowns))
    mu = convexity(chart, C, convex.at(chart, convex.frame(chart, F, box), box, x))
    found = 0
    for _ in range(20):
        z = own + width * rng.uniform(-1, 1, own.shape)
        H = derivatives(chart, z, boxes.centre, convex.frame(chart, F, z))[1][:, : chart.unknowns]
        smallest = np.linalg.eigvalsh(H)[:, 0]
        assert not np.any(mu > smallest + 1e-12)
        found += np.sum(mu > 0.1 * smallest)
    assert found


def test_convexity_is_below_that_of_the_worst_matrix_inside():
    """The end of each interval that lowers the smallest singular value most, to first order."""
    chart, width = chamber(4, 2), 1e-3
    boxes = some_boxes(chart, FOUR, 20, seed=15)
    F = np.linalg.cholesky(convex.unpack(chart, boxes.guess)[0])
    own = convex.change_basis(chart, boxes.guess, np.linalg.inv(F))
    box = Interval(own - width, own + width)
    a = convex.at(chart, convex.frame(chart, F, box), box, interval(boxes.centre))
    C = np.broadcast_to(np.eye(chart.unknowns), (20, chart.unknowns, chart.unknowns))
    middle, radius = _squares(chart, a).halves()
    U, _, Vt = np.linalg.svd(middle, full_matrices=False)
    worst = middle - radius * np.sign(U[:, :, -1:] * Vt[:, -1:])
    smallest = np.linalg.svd(worst)[1][:, -1]
    mu = convexity(chart, C, a)
    assert np.any(smallest**2 < 0.999 * np.linalg.svd(middle)[1][:, -1] ** 2)
    assert not np.any(mu > smallest**2)


def test_positive_definite_is_not_claimed_of_others():
    good, bad = np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.1], [1.1, 1.0]])
    assert positive_definite(interval(np.stack([good, bad, -good]))).tolist() == [True, False, False]


@pytest.mark.parametrize("K", [3, 4, 5])
def test_every_direction_is_one_of_the_half_chamber(K):
    """v sorted is Σ a_i ω_i, a ≥ 0; then s = a / Σ a, or that of −v reversed, lies in what is covered."""
    corners = np.stack([direction(chamber(K, 1), s) for s in np.vstack([np.zeros(K - 2), np.eye(K - 2)])])
    for v in np.random.default_rng(11).normal(size=(200, K)):
        v = np.sort(v - v.mean())[::-1]
        a = np.linalg.lstsq(corners.T, v, rcond=None)[0]
        assert np.all(a >= -1e-12)
        s = a / a.sum()
        mirrored = np.linalg.lstsq(corners.T, -v[::-1], rcond=None)[0] / a.sum()
        np.testing.assert_allclose(mirrored, s[::-1], atol=1e-12)
        covered = [not beyond(one[None, 1:], one[None, 1:])[0] for one in (s, mirrored)]
        assert any(covered)


def test_complements_are_orthogonal_to_their_normals():
    for K in (4, 5):
        plane, rng = chamber(K, K - 2), np.random.default_rng(12)
        s = rng.uniform(size=(5, K - 2))
        V = convex.subspace(convex.frame(plane, np.broadcast_to(np.eye(K - 2), (5, K - 2, K - 2)), s), s)
        normals = np.array([direction(plane, one) for one in s])
        assert np.allclose(np.einsum("nk,nkr->nr", normals, V), 0, atol=1e-13)
        assert np.allclose(V.sum(1), 0)
    with pytest.raises(ValueError, match="rank"):
        chamber(5, 2)


@pytest.fixture(scope="module")
def proofs() -> dict[str, Proof]:
    settings = {"public": PUBLIC, "near one": NEAR_ONE, "no bias": NO_BIAS, "split": SPLIT}
    return {name: prove(setting) for name, setting in settings.items()}


@pytest.mark.parametrize(("name", "lines"), [("public", 2), ("near one", 2), ("no bias", 3), ("split", 3)])
def test_small_theorems_are_proved(proofs, name, lines):
    proof = proofs[name]
    assert proof.complete(2)
    assert sorted(o.rank for o in proof.orbits) == [0, *[1] * lines, 2]


@pytest.mark.parametrize("name", ["public", "near one", "no bias", "split"])
def test_what_was_proved_is_critical_by_the_librarys_own_verdict(proofs, name):
    """Lift each zero to (W, H, b) in d = 2 and let the library judge it."""
    proof = proofs[name]
    s = proof.setting
    bias = s.decay_b is not None
    decays = {"decay_w": s.decay_w, "decay_h": s.decay_h, "decay_b": s.decay_b or 0.0}
    prob = ufm.problem(num_classes=3, per_class=s.per_class, dim=2, bias=bias, **decays)
    chart, middle = chamber(3, 1), s.strengths().halves()[0]
    for zero in proof.searches[1].zeros:
        x = np.r_[zero.s, middle]
        M, X, c = convex.unpack(chart, solve_afresh(chart, x))
        V = chart.V[0] + np.tensordot(zero.s, chart.V[1:], 1)
        factor = np.sqrt(M[0, 0])
        scale = (s.per_class * s.decay_h / s.decay_w) ** 0.25
        W = np.concatenate([V * factor * scale, np.zeros((3, 1))], axis=1)
        H = np.concatenate([X / factor / scale, np.zeros((1, 3))])
        W, H = jnp.asarray(W), jnp.asarray(np.repeat(H, s.per_class, axis=1))
        params = ufm.Params(W, H, jnp.asarray(middle[1] * c) if bias else None)
        judged = ufm.classify(prob, params)
        assert judged.verdict.name == "STRICT_SADDLE"
        assert zero.loss[0] - 1e-12 <= float(judged.loss) <= zero.loss[1] + 1e-12
    predicted = float(ufm.predict(prob)["loss"])
    low, high = proof.orbits[0].loss
    assert low - 1e-13 <= predicted <= high + 1e-13


def test_a_list_that_lacks_a_zero_is_not_proved():
    lines = {1: [(0.0,), (0.5,)]}
    assert prove(PUBLIC, claimed=lines).complete(2)
    for kept in lines[1]:
        proof = prove(PUBLIC, claimed={1: [kept]}, most=5000)
        assert not proof.complete(1)
        lost = next(s for s in lines[1] if s != kept)
        state = proof.searches[1]
        left = np.concatenate([state.boxes.centre[:, :1], np.array(state.undecided).reshape(-1, 2)[:, :1]])
        assert len(left)
        assert np.all(np.abs(left - lost) < 1e-3)


def test_zeros_of_other_decays_are_not_taken(proofs):
    other = [z.s for z in proofs["split"].searches[1].zeros]
    assert len(other) == 3
    weaker = Setting(3, 1, 6e-4, 6e-4, 1e-2)
    proof = prove(weaker, claimed={1: other}, most=3000)
    assert len(proof.searches[1].zeros) == 2  # the walls, which are critical at all decays
    assert not proof.complete(1)


def test_a_census_must_list_the_same_orbits(proofs):
    proof = proofs["public"]
    table = [
        (2, 0.06293301),
        (1, 0.14356253),
        (1, 0.50262885),
        (0, 1.09861229),
    ]  # the public table, 8 decimals
    found = [(o.rank, sum(o.loss) / 2) for o in proof.orbits]
    assert np.allclose([f for _, f in found], [f for _, f in table], atol=1e-8)
    assert [r for r, _ in found] == [r for r, _ in table]
    assert agrees(proof, sorted(found), 2)
    assert not agrees(proof, sorted(found[1:]), 2)
    assert not agrees(proof, sorted([*found[1:], (2, found[0][1] + 1e-6)]), 2)
    assert agrees(proof, sorted(found[1:]), 1)


def test_the_global_minimum_in_few_dimensions_is_the_lowest_of_low_rank(proofs):
    """In d = 1, where no duality gap closes, descents find no lower point."""
    proof = proofs["public"]
    low, high = proof.minimum(1).loss
    prob = ufm.problem(num_classes=3, per_class=5, dim=1, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    reached = ufm.sweep(prob, starts=20, target="minima").table["loss"].to_numpy()
    assert low - 1e-12 <= reached.min() <= high + 1e-9
    assert proof.minimum(2) == proof.orbits[0]
    assert prove(PUBLIC, claimed={1: []}, most=100).minimum(1) is None


def test_mirror_images_are_one_orbit():
    """At K = 5 ω_2 and ω_3, both in the half chamber, are exchanged by v ↦ −v reversed."""
    setting = Setting(5, 1, 0.06, 0.06, 1e-2)
    claimed = {1: [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)]}
    proof = prove(setting, ranks=(1,), claimed=claimed, most=1)
    assert len(proof.searches[1].zeros) == 3
    assert [o.rank for o in proof.orbits] == [4, 1, 1, 0]
    assert proof.distinct
    assert not proof.complete(1)
    assert not proof.complete(4)
    with pytest.raises(ValueError, match="rank"):
        prove(setting)


def test_orbits_of_equal_loss_are_told_apart_by_their_shape():
    loss, tied = (0.5, 0.6), (0.55, 0.65)
    pairs = Orbit(1, loss, (1.0, 1.0, -1.0, -1.0), 1e-9)
    assert pairs.differs(Orbit(1, tied, (2.0, 0.0, 0.0, -2.0), 1e-9))
    assert not pairs.differs(Orbit(1, tied, (-3.0, 3.0, 3.0, -3.0), 1e-9))
    assert not pairs.differs(Orbit(1, tied, (2.0, 0.0, 0.0, -2.0), 1.5))
    skew = Orbit(1, loss, (3.0, -1.0, -1.0, -1.0), 1e-9)
    assert not skew.differs(Orbit(1, tied, (1.0, 1.0, 1.0, -3.0), 1e-9))  # v ↦ −v
    assert pairs.differs(Orbit(2, loss))
    assert pairs.differs(Orbit(1, (0.7, 0.8)))
    assert not pairs.differs(Orbit(1, tied))


def test_strong_decays_are_refused():
    with pytest.raises(ValueError, match="decays"):
        prove(Setting(3, 1, 0.4, 0.4, None))


@pytest.fixture(scope="module")
def four() -> Proof:
    return prove(FOUR_STRONG, draw=True)


def test_four_classes_at_strong_decay_have_ten_orbits(four):
    assert four.complete(3)
    assert sorted(o.rank for o in four.orbits) == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("rank", [1, 2])
def test_a_list_for_four_classes_that_lacks_a_zero_is_not_proved(four, rank):
    chart, strengths, state = chamber(4, rank), FOUR_STRONG.strengths(), four.searches[rank]
    fewer = begin(chart, strengths, [z.s for z in state.zeros[1:]])
    assert len(fewer.zeros) == 3
    search(chart, strengths, fewer, discover=False, most=state.evaluated)
    assert not fewer.complete


def test_pictures_and_descriptions_come_of_every_proof(proofs, four):
    ((line,), facts) = command.run(Config((NEAR_ONE,), census=False), None)
    assert facts[0]["complete"]
    assert len(json.loads(json.dumps(facts, allow_nan=False))[0]["orbits"]) == 4
    assert "exactly 4 critical orbits" in command.theorem(line, facts[0], 2)
    assert "NOT PROVED" in command.theorem(prove(PUBLIC, claimed={1: []}, most=10), {}, 2)
    figure = draw([line, four])
    assert sum(ax.get_title() != "" for ax in figure.axes) == 3
    figure.canvas.draw()
    plt.close(figure)


def test_a_search_goes_on_where_it_was(tmp_path, proofs):
    first = prove(PUBLIC, tmp_path, most=50)
    assert not first.complete(1)
    second = prove(PUBLIC, tmp_path)
    assert second.complete(1)
    assert second.searches[1].evaluated == proofs["public"].searches[1].evaluated
    assert [z.s for z in second.searches[1].zeros] == [z.s for z in proofs["public"].searches[1].zeros]
    (file,) = tmp_path.glob("*.npz")
    assert store.load(file, {"another": "search"}) is None


def test_a_range_of_decays_is_proved_and_one_across_a_bifurcation_is_not():
    assert prove_range((0.25, 0.5), (0.0, 0.0)).complete
    split = prove_range(
        (0.03125, 0.0625), (0.0, 0.0), most=6000
    )  # a third line from between Kθ = 0.05 and 0.04 down
    assert not split.complete
