"""Strongly convex functions are minimised to the error that is asked for, at few evaluations."""

import numpy as np
import pytest
from scipy.special import expit

from ufm_jax.numerics.convex import minimise_convex

RNG = np.random.default_rng(0)
A, y = RNG.normal(size=(30, 6)) * np.geomspace(1, 100, 6), RNG.normal(size=30) > 0


def logistic(lam):
    """Ridge logistic regression: f and gradient, Hessian products, the exact Hessian's inverse."""
    sign = np.where(y, 1.0, -1.0)

    def whole(x):
        m = sign * (A @ x)
        return float(np.sum(np.logaddexp(0, -m)) + lam * x @ x / 2), A.T @ (-sign * expit(-m)) + lam * x

    def hessian(x):
        p = expit(A @ x)
        return (A.T * (p * (1 - p))) @ A + lam * np.eye(6)

    return whole, hessian


@pytest.mark.parametrize("lam", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("exact", [True, False])
def test_the_minimum_is_met_to_the_error_that_is_said(lam, exact):
    whole, hessian = logistic(lam)
    inverse = lambda x: (lambda v: np.linalg.solve(hessian(x), v)) if exact else (lambda v: v)
    bound = lambda grad: float(grad @ grad) / (2 * lam)
    x, value, left = minimise_convex(whole, lambda x, v: hessian(x) @ v, inverse, np.zeros(6), bound, 1e-8)
    assert left <= 1e-8 * value
    np.testing.assert_allclose(value, whole(x)[0])
    best = x
    for _ in range(50):  # Newton's own end
        best = best - np.linalg.solve(hessian(best), whole(best)[1])
    least = whole(best)[0]
    assert least <= value * (1 + 1e-14)
    assert value - least <= left + 1e-13 * value


def test_it_ends_after_so_many_calls_or_where_nothing_is_to_be_gained():
    calls = []
    whole, hessian = logistic(1e-3)

    def counted(x):
        calls.append(1)
        return whole(x)

    def product(x, v):
        calls.append(1)
        return hessian(x) @ v

    bound = lambda grad: float(grad @ grad) / 2e-3
    minimise_convex(counted, product, lambda x: lambda v: v, np.zeros(6), bound, 1e-12, most=7)
    assert len(calls) <= 7
    x, value, _ = minimise_convex(counted, product, lambda x: lambda v: v, np.zeros(6), bound, 0.0)
    assert np.linalg.norm(whole(x)[1]) < 1e-10
    assert value <= whole(np.zeros(6))[0]


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-20, 1.0, 1e20])
def test_a_preconditioner_of_any_scale_leaves_f_where_it_was_or_lower(scale):
    whole = lambda x: (float(x @ x) / 2, x)
    start, error = np.arange(1.0, 4.0), lambda grad: float(grad @ grad) / 2
    x, value, left = minimise_convex(whole, lambda x, v: v, lambda x: lambda v: scale * v, start, error, 1e-8)
    assert value == whole(x)[0] <= whole(start)[0]
    assert left == error(x)
    if scale >= 1e-20:
        assert value < 1e-16
