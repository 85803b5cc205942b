"""Proofs of critical orbits of the unconstrained feature model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from tests.conftest import BALANCED, IMBALANCED, PROBLEMS, keys, make, saddles, take, zoo
from ufm_jax.landscape.balls import column, flint
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.point import ravel
from ufm_jax.models.unconstrained.balls import model_balls
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.reduction import reduced

WEIGHTED = CrossEntropy(class_weights=(1.0, 2.0, 0.5), offsets=(0.0, 0.3, -0.2))
PUBLIC = problem(num_classes=3, per_class=5, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_balls_hold_f_and_its_derivatives(name):
    """In the coordinates of the rank, against automatic differentiation of the same numbers."""
    check_derivatives(PROBLEMS[name])


def test_balls_hold_a_weighted_and_shifted_loss():
    check_derivatives(make(IMBALANCED, 2, loss=WEIGHTED))


def check_derivatives(prob):
    small = reduced(prob)
    x = jnp.asarray(np.random.default_rng(1).normal(size=small.num_variables))
    balls = model_balls(small, unravel(small, x), {})
    assert balls.rank == small.dim
    at = unravel(small, jnp.asarray(balls.start))  # turned
    value, grad, hess = balls.expand(flint().arb_mat(x.size, 1, [float(a) for a in balls.start]))
    point = small.evaluate(at)
    assert abs(float(value) - float(point.value)) < 1e-13
    np.testing.assert_allclose([float(a) for a in grad.entries()], ravel(point.grad), atol=1e-13)
    H = ufm.hessian(small, at)
    np.testing.assert_allclose(np.reshape([float(a) for a in hess.entries()], H.shape), H, atol=1e-13)
    rows = small.tangents(at)
    for row, length in zip(balls.tangents(exact_column(balls.start)).tolist(), jnp.ones(99), strict=False):
        along = np.array([float(a) for a in row])
        assert abs(along @ ravel(point.grad)) < 1e-12 * length
    assert len(jax.tree.leaves(rows)[0]) >= balls.tangents(exact_column(balls.start)).nrows()


def exact_column(numbers):
    return flint().arb_mat(len(numbers), 1, [float(a) for a in numbers])


@pytest.mark.parametrize("dim", [2, 5])
def test_the_public_table_is_proved(dim):
    """Four orbits; in more coordinates index and nullity grow as f's do."""
    prob = problem(num_classes=3, per_class=5, dim=dim, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    found = saddles(PUBLIC, keys(0, 60))
    table = {0.06293301: (2, 0), 0.14356253: (1, 1), 0.50262885: (1, 2), 1.09861229: (0, 4)}
    growth = {0.06293301: 0, 0.14356253: 1, 0.50262885: 1, 1.09861229: 2}
    for value, (rank, index) in table.items():
        values = np.asarray(jax.vmap(PUBLIC.value)(found.x))
        x = prob.lift(take(found.x, int(np.argmin(np.abs(values - value)))))
        proof = ufm.prove(prob, x)
        assert proof.proved, proof.failed
        assert (proof.rank, proof.index) == (rank, index + (dim - 2) * growth[value])
        assert proof.nullity == dim * rank - rank * (rank + 1) // 2
        assert round(proof.loss[0], 8) == round(proof.loss[1], 8) == value
        assert proof.global_minimum == (rank == 2)
        assert proof.distance < 1e-8


@pytest.mark.parametrize("name", [name for name in PROBLEMS if "squared" not in name and "below" not in name])
def test_index_and_nullity_are_those_of_dense_hessians(name):
    points = zoo(name)
    for i in range(0, len(points.values), 4):
        proof = ufm.prove(points.prob, take(points.points, i))
        assert proof.proved, proof.failed
        eigenvalues = np.linalg.eigvalsh(points.hessians[i])
        assert proof.index == np.sum(eigenvalues < -1e-9)
        assert proof.nullity == np.sum(np.abs(eigenvalues) < 1e-9)
        assert proof.rank == points.ranks[i]
        assert abs(proof.loss[0] - points.values[i]) < 1e-12


def test_a_continuum_of_squared_loss_is_not_proved():
    """Balanced squared loss: any r orthonormal directions of the classes do, a Grassmannian of orbits."""
    prob = make(BALANCED, 3, loss=ufm.Squared(), bias=False)
    small, s = reduced(prob), float(prob.strength)
    size = 1 - 3 * np.sqrt(2) * s  # of W H at rank 1, along any unit vector of the classes
    v = np.array([0.8, 0.6, 0.0])
    ratio = (float(prob.decay_h) / float(prob.decay_w)) ** 0.25
    w = np.sqrt(size * np.sqrt(2)) * v
    W, H = np.zeros((3, 3)), np.zeros((3, 3))
    W[:, 0], H[0] = w * ratio, w / ratio
    x = type(small.zeros())(jnp.asarray(W), jnp.asarray(H), None)
    assert float(small.evaluate(x).grad_norm) < 1e-12
    proof = ufm.prove(prob, prob.lift(x))
    assert not proof.proved
    assert "nullity above the orbit's" in proof.failed


def test_at_a_threshold_the_proof_names_the_singular_value():
    """K = 4, n = 1: all non-zero singular values at the origin are 1/4, and so is s."""
    threshold = problem(num_classes=4, per_class=1, dim=3, decay_w=0.25, decay_h=0.25, decay_b=1e-2)
    proof = ufm.prove(threshold, threshold.zeros())
    assert not proof.proved
    assert "0.25" in proof.failed
    assert "cannot be told from s" in proof.failed
    beside = problem(num_classes=4, per_class=1, dim=3, decay_w=0.25 - 1e-12, decay_h=0.25, decay_b=1e-2)
    proof = ufm.prove(beside, beside.zeros())
    assert (proof.proved, proof.index) == (True, 9)
    above = problem(num_classes=4, per_class=1, dim=3, decay_w=0.25 + 1e-12, decay_h=0.25, decay_b=1e-2)
    proof = ufm.prove(above, above.zeros())
    assert (proof.proved, proof.index, proof.global_minimum) == (True, 0, True)


def test_without_bias_the_origin_has_no_variables():
    prob = problem(num_classes=3, per_class=2, dim=2, decay_w=5e-3, decay_h=1e-3, bias=False)
    proof = ufm.prove(prob, prob.zeros())
    assert (proof.proved, proof.rank, proof.index, proof.nullity) == (True, 0, 4, 0)
    assert proof.loss[0] <= np.log(3) <= proof.loss[1]


def test_other_losses_are_refused():
    prob = make(BALANCED, 2, loss=Focal())
    with pytest.raises(ValueError, match="loss: proofs are made of"):
        ufm.prove(prob, prob.zeros())


def test_a_branch_is_proved_up_to_its_bifurcation_and_not_beyond():
    """The origin has index (K−1)d while Kθ < 1 and is a minimum beyond: θ = √n s, here λ_W = 1/45."""
    prob = problem(num_classes=3, per_class=5, dim=2, decay_w=2e-2, decay_h=1.0, decay_b=1e-2)
    ends = 1 / 45
    branch = ufm.prove_branch(prob, prob.zeros(), decay_w=(1e-2, 3e-2))
    assert not branch.reached
    assert branch.below is None
    assert branch.low == 1e-2
    assert ends * (1 - 1e-5) < branch.high < ends
    assert (branch.index, branch.rank) == (4, 0)
    assert "cannot be told from s" in branch.above


def test_a_branch_of_minima_over_an_interval():
    x = ufm.search(PUBLIC, PUBLIC.start(jax.random.key(0))).x
    branch = ufm.prove_branch(PUBLIC, x, decay_w=(4.8e-3, 5.1e-3))
    assert branch.reached
    assert (branch.index, branch.nullity, branch.rank, branch.global_minimum) == (0, 1, 2, True)
    for piece in branch.pieces[::5]:
        for decay in (piece.low, piece.high):
            known = float(ufm.global_minimum(problem(**{**SIZES, "decay_w": decay})))
            assert piece.loss[0] - 1e-12 <= known <= piece.loss[1] + 1e-12
    assert "proved for all decay_w in [0.0048, 0.0051]" in str(branch)


MODELS = {
    "plain": {},
    "no bias": {"decay_b": 0.0, "bias": False},
    "weighted": {"loss": CrossEntropy(smoothing=0.1, class_weights=(1, 2, 0.5), offsets=(0, 0.5, -0.2))},
    "squared": {"loss": Squared()},
}


def balls_of(name, field):
    """A model, evaluated in 200 bits with one decay given, and a random point of it."""
    given = {"counts": (3, 2, 1), "dim": 2, "decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2} | MODELS[name]
    prob = problem(**given)
    p = prob.start(jax.random.key(3))
    at = lambda moved: prob.balls(p, **{field: flint().arb(float(getattr(prob, field))) + moved})
    draw = lambda key, like: column([float(a) for a in jax.random.normal(jax.random.key(key), like.shape)])
    return at, column([float(a) for a in at(0).start]), draw


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("field", ["decay_w", "decay_h"])
def test_series_are_those_of_f_along_a_curve(name, field):
    with flint().ctx.workprec(200):
        at, x, draw = balls_of(name, field)
        path = [x, *(draw(key, at(0).start) for key in range(2))]
        found = at(0).series(path, 8)
        for sign in (1, -1):
            tau = flint().arb(sign) / 1024
            there = at(tau).expand(path[0] + path[1] * tau + path[2] * tau**2)
            for coefficients, value in zip(found, there, strict=True):
                summed = sum((c * tau**k for k, c in enumerate(coefficients)), coefficients[0] * 0)
                apart = summed - value
                entries = apart.entries() if hasattr(apart, "entries") else [apart]
                assert max(abs(float(a)) for a in entries) < 1e-20


@pytest.mark.parametrize("name", list(MODELS))
def test_the_third_derivative_is_that_of_the_hessian(name):
    with flint().ctx.workprec(200):
        at, x, draw = balls_of(name, "decay_w")
        balls, v, h = at(0), draw(5, at(0).start), flint().arb(2) ** -40
        apart = (balls.expand(x + v * h)[2] - balls.expand(x - v * h)[2]) * (1 / (2 * h))
        assert max(abs(float(a)) for a in (apart - balls.third(x, v)).entries()) < 1e-20


def test_long_intervals_take_few_pieces():
    """All orbits over a factor of three in Kθ; one of them took 19,470 pieces of first order."""
    atlas = ufm.census(PUBLIC, starts=600)
    here = 3 * np.sqrt(5 * 5e-6)
    ends = tuple(5e-3 * (k / here) ** 2 for k in (0.01, 0.03))
    for orbit in atlas:
        branch = ufm.prove_branch(PUBLIC, orbit.x, decay_w=ends)
        assert branch.reached
        assert len(branch.pieces) < 60
        assert (branch.index, branch.rank) == (orbit.row.index, orbit.row.rank)
        assert branch.global_minimum is (orbit.row.index == 0)


@pytest.mark.parametrize(
    ("field", "ends"), [("decay_w", (0.0, 1e-2)), ("decay_h", (-1.0, 1.0)), ("decay_b", (-1e-3, 1.0))]
)
def test_an_interval_that_reaches_where_there_is_no_landscape_is_refused(field, ends):
    with pytest.raises(ValueError, match=rf"^{field}: the interval .* reaches too far: {field}: need"):
        ufm.prove_branch(PUBLIC, PUBLIC.zeros(), **{field: ends})


def test_an_interval_of_another_landscape_is_checked_by_it_and_ends_come_in_order():
    other = ufm.Factorisation(M=jnp.eye(2), decay=0.1, rank=1)
    with pytest.raises(ValueError, match=r"^decay: the interval .* reaches too far: decay: need"):
        ufm.prove_branch(other, other.zeros(), decay=(-0.1, 0.2))
    with pytest.raises(ValueError, match=r"^decay_w: need the lower end first, got \(0.006, 0.004\)"):
        ufm.prove_branch(PUBLIC, PUBLIC.zeros(), decay_w=(6e-3, 4e-3))


def test_progress_is_told_where_it_is_asked_for(capsys):
    ufm.prove_branch(PUBLIC, PUBLIC.zeros(), decay_w=(5e-3, 6e-3))
    assert capsys.readouterr().err == ""
    ufm.prove_branch(PUBLIC, PUBLIC.zeros(), decay_w=(5e-3, 6e-3), progress=True)
    assert "prove_branch: 100/100 % up, at decay_w = 0.006" in capsys.readouterr().err


SIZES = {"num_classes": 3, "per_class": 5, "dim": 2, "decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
