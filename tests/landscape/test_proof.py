"""Proofs by interval arithmetic of any landscape: what they show, and that they refuse what does not hold."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.landscape.balls import Balls, Unproved, exact, flint, nonsingular, signs
from ufm_jax.landscape.proof import alike, prove_near
from ufm_jax.models.factorisation import critical_point_of, critical_values

M, DECAY = np.diag([4.0, 3.0, 2.0, 1.0]), 0.1
LANDSCAPE = ufm.Factorisation(M=M, decay=DECAY, rank=2)
VALUES = critical_values(M, DECAY, 2)


def rotated(eigenvalues, seed=0):
    """Return a symmetric matrix with these eigenvalues, but for rounding."""
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return Q @ np.diag(eigenvalues) @ Q.T


@pytest.mark.parametrize("seed", range(3))
def test_signs_are_those_of_a_prescribed_spectrum(seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 1.0], 12) * 10.0 ** rng.uniform(-6, 6, 12)
    assert signs(exact(rotated(values, seed))) == (np.sum(values < 0), np.sum(values > 0))


def test_signs_of_a_matrix_that_float64_calls_singular():
    """[[1, 1], [1, 1 + 2^-100]] has eigenvalues of about 2 and 2^-101."""
    arb = flint().arb
    with flint().ctx.workprec(256):
        assert signs(flint().arb_mat([[1, 1], [1, arb(1) + arb(2) ** -100]])) == (0, 2)
        assert signs(flint().arb_mat([[1, 1], [1, arb(1) - arb(2) ** -100]])) == (1, 1)


def test_no_signs_where_an_eigenvalue_may_be_zero():
    arb = flint().arb
    singular = flint().arb_mat([[1, 1], [1, 1]])
    wide = flint().arb_mat([[arb(1, 0.9), 0.5], [0.5, 1]])
    for matrix in (singular, wide):
        with pytest.raises(Unproved, match="cannot be told from zero"):
            signs(matrix)
        assert not nonsingular(matrix)
    assert nonsingular(exact(rotated([1.0, -2.0, 3.0])))


def test_precision_of_the_caller_is_left_alone():
    before = flint().ctx.prec
    ufm.prove(LANDSCAPE, LANDSCAPE.zeros())
    assert flint().ctx.prec == before


def test_balls_hold_derivatives_all_over_a_box():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=LANDSCAPE.num_variables))
    point = lambda v: type(LANDSCAPE.zeros())(*(part.reshape(4, 2) for part in jnp.split(v, 2)))
    balls = LANDSCAPE.balls(point(x))
    box = flint().arb_mat(16, 1, [flint().arb(float(a), 1e-3) for a in x])
    value, grad, hess = balls.expand(box)
    for _ in range(5):
        y = point(x + jnp.asarray(rng.uniform(-1e-3, 1e-3, 16)))
        at = LANDSCAPE.evaluate(y)
        assert value.contains(float(at.value))
        assert all(a.contains(float(b)) for a, b in zip(grad.entries(), np.ravel(at.grad), strict=True))
        H = np.ravel(ufm.hessian(LANDSCAPE, y))
        assert all(
            flint().arb(0, 1e-12).overlaps(a - float(b)) for a, b in zip(hess.entries(), H, strict=True)
        )


@pytest.mark.parametrize("rank", [2, 3])
def test_every_orbit_of_a_matrix_factorisation_is_proved(rank):
    landscape, proofs = ufm.Factorisation(M=M, decay=DECAY, rank=rank), []
    for known in critical_values(M, DECAY, rank):
        proof = ufm.prove(landscape, critical_point_of(M, DECAY, rank, known.chosen))
        assert proof.proved, proof.failed
        assert (proof.index, proof.nullity) == (known.index, known.orbit_dim)
        assert proof.loss[0] <= known.value <= proof.loss[1]
        assert proof.loss[1] - proof.loss[0] < 1e-14
        assert proof.global_minimum == (known.chosen == tuple(range(rank)))
        proofs.append(proof)
    assert len(proofs) == {2: 11, 3: 15}[rank]
    assert alike(proofs) == []
    assert alike([*proofs, proofs[3]]) == [(3, len(proofs))]


def test_a_proof_tells_how_far_its_orbit_is():
    known = VALUES[1]
    x = critical_point_of(M, DECAY, 2, known.chosen)
    moved = x._replace(U=x.U.at[3, 1].add(1e-5))
    proof = ufm.prove(LANDSCAPE, moved)
    assert proof.proved
    assert 0.9e-5 < proof.distance < 3e-5
    assert proof.index == known.index


def test_where_nothing_is_critical_nothing_is_proved():
    x = critical_point_of(M, DECAY, 2, VALUES[0].chosen)
    proof = ufm.prove(LANDSCAPE, x._replace(U=x.U + 0.3))
    assert not proof.proved
    assert proof.index is proof.loss is None
    assert "away from it" in proof.failed or "does not converge" in proof.failed
    assert "nothing is proved" in proof.statement


def test_a_landscape_without_balls_is_told_what_to_implement():
    landscape = ufm.Landscape.of(lambda x: jnp.sum(x**2), like=jnp.zeros(2))
    with pytest.raises(ValueError, match="give it a method balls"):
        ufm.prove(landscape, jnp.zeros(2))


class Plane(Balls):
    """A polynomial of two variables, by its derivatives."""

    def __init__(self, start, derivatives, turns=False):
        self.start, self.derivatives, self.turns = np.array(start), derivatives, turns

    def expand(self, x):
        value, grad, hess = self.derivatives(*x.entries())
        return value, flint().arb_mat(2, 1, grad), flint().arb_mat(hess)

    def tangents(self, x):
        a, b = x.entries()
        return flint().arb_mat([[-b, a]]) if self.turns else super().tangents(x)


def saddle(x, y):
    return x * x - y * y, [2 * x, -2 * y], [[2, 0], [0, -2]]


def quartic(x, y):
    return x**4 + y * y, [4 * x**3, 2 * y], [[12 * x * x, 0], [0, 2]]


def ring(x, y):
    """(x² + y² − 1)²: critical on a circle, and at the origin, a maximum."""
    r = x * x + y * y - 1
    return r * r, [4 * r * x, 4 * r * y], [[4 * r + 8 * x * x, 8 * x * y], [8 * x * y, 4 * r + 8 * y * y]]


def test_what_is_proved_of_plane_functions():
    proof = prove_near(Plane([1e-9, -1e-9], saddle))
    assert proof.proved
    assert (proof.index, proof.nullity) == (1, 0)
    proof = prove_near(Plane([0.6, 0.8], ring, turns=True))
    assert (proof.proved, proof.index, proof.nullity) == (True, 0, 1)
    proof = prove_near(Plane([0.0, 0.0], ring, turns=True))  # a symmetry fixes it: no tangents
    assert (proof.proved, proof.index, proof.nullity) == (True, 2, 0)


@pytest.mark.parametrize(
    ("start", "f"),
    [([1e-4, 0.0], quartic), ([0.0, 0.0], quartic), ([0.6, 0.8], ring)],
    ids=["near a quartic", "quartic", "ring"],
)
def test_degenerate_points_are_not_proved(start, f):
    proof = prove_near(Plane(start, f))
    assert not proof.proved
    assert "singular" in proof.failed


def test_tangents_that_are_none_prove_nothing():
    """f of x alone with a wrong symmetry: at its minima the Hessian is singular off the claimed tangent."""

    def cylinder(x, y):
        return x * x, [2 * x, 0], [[2, 0], [0, 0]]

    class Wrong(Plane):
        def tangents(self, x):
            return flint().arb_mat([[1, 0]])

    assert not prove_near(Wrong([0.0, 0.0], cylinder)).proved


def test_a_branch_of_a_factorisation_goes_on_to_where_its_singular_value_is_the_decay():
    """Column i of a critical point is √(σ_i − λ) long: that of σ = 1 ends at λ = 1."""
    x = critical_point_of(M, DECAY, 2, (3,))
    branch = ufm.prove_branch(LANDSCAPE, x, decay=(0.1, 0.3))
    assert branch.reached
    assert (branch.low, branch.high) == (0.1, 0.3)
    assert (branch.index, branch.nullity) == (6, 1)
    for piece in branch.pieces:
        for t in (piece.low, piece.high):
            assert piece.loss[0] <= 14.5 + t - t * t / 2 <= piece.loss[1]
    assert all(a.high == b.low for a, b in zip(branch.pieces, branch.pieces[1:], strict=False))


def test_a_branch_asks_for_one_interval_around_its_own_value():
    x = LANDSCAPE.zeros()
    for fields, said in (
        ({}, "need one field"),
        ({"decay": (0.2, 0.3)}, "own 0.1"),
        ({"decay": 0.1}, "two ends"),
        ({"M": (0.0, 1.0)}, "of one number"),
        ({"rank": (0.0, 1.0)}, "need a field of numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            ufm.prove_branch(LANDSCAPE, x, **fields)


def test_proofs_print_and_compare():
    proof = ufm.prove(LANDSCAPE, LANDSCAPE.zeros())
    assert "proved        True" in str(proof)
    assert "no global minimum" in proof.statement
    assert dataclasses.replace(proof, invariants=()) == proof


def test_without_python_flint_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ValueError, match=r"pip install 'ufm-jax\[proof\]'"):
        ufm.prove(LANDSCAPE, LANDSCAPE.zeros())
