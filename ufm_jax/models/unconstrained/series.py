"""Taylor coefficients over balls of f, its gradient and its Hessian along a curve in x, while a decay moves.

As `balls`, with a list of coefficients in place of each ball or matrix, the constant one first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ufm_jax.landscape.balls import Ball, BallMatrix, column, flint

if TYPE_CHECKING:
    from ufm_jax.models.unconstrained.balls import BallModel

Matrices = list[BallMatrix]


def series(
    model: "BallModel", path: Sequence[BallMatrix], order: int
) -> tuple[list[Ball], Matrices, Matrices]:
    """Return the coefficients, 0 to `order`, along path[0] + path[1] τ + …, the decay given being λ + τ."""
    K, n, size = model.prob.num_classes, order + 1, path[0].nrows()
    xs = [*path, *[flint().arb_mat(size, 1)] * n][:n]
    W, H, b = (list(part) for part in zip(*map(model.parts, xs), strict=True))
    M, weights = product(W, H), _decays(model, n)
    value, G, biases, hess = [flint().arb(0)] * n, zeros(n, K, K), zeros(n, K, 1), zeros(n, size, size)
    for k in range(K):
        one, scale = model.scored_series(M, b, k, n)
        slopes = coefficients([[a] for a in one.slope], n)
        J = [
            model.logit_slopes(w, h, k, size, int(i == 0)) for i, (w, h) in enumerate(zip(W, H, strict=True))
        ]
        pushed = product(coefficients(one.curvature, n), J)
        bent = product([rows.transpose() for rows in J], pushed)
        for i, loss in enumerate(coefficients([[one.value]], n)):
            value[i], biases[i], hess[i] = value[i] + loss[0, 0], biases[i] + slopes[i], hess[i] + bent[i]
            for j in range(K):
                G[i][j, k] = slopes[i][j, 0] * scale
    hess = [model.with_bilinear(m, g.transpose().tolist()) for m, g in zip(hess, G, strict=True)]
    of_w, of_h = product(G, [m.transpose() for m in H]), product([m.transpose() for m in W], G)
    decayed = product(weights, xs)
    squares = product([x.transpose() for x in xs], decayed)
    grad = [
        column([*w.entries(), *h.entries(), *(c.entries() if model.prob.bias else [])]) + d
        for w, h, c, d in zip(of_w, of_h, biases, decayed, strict=True)
    ]
    value = [a + square[0, 0] / 2 for a, square in zip(value, squares, strict=True)]
    return value, grad, [a + d for a, d in zip(hess, weights, strict=True)]


def product(left: Matrices, right: Matrices) -> Matrices:
    """Return the coefficients of a product, as many as of each factor."""
    return [
        sum((left[j] * right[i - j] for j in range(1, i + 1)), left[0] * right[i]) for i in range(len(left))
    ]


def coefficients(rows: list[list[Any]], n: int) -> Matrices:
    """Return a matrix of series, or of numbers, as a series of matrices."""
    arb_series, arb_mat = flint().arb_series, flint().arb_mat
    of = lambda a, i: a[i] if isinstance(a, arb_series) else a if i == 0 else 0
    return [arb_mat([[of(a, i) for a in row] for row in rows]) for i in range(n)]


def zeros(n: int, rows: int, columns: int) -> Matrices:
    """Return n matrices of zeros."""
    return [flint().arb_mat(rows, columns) for _ in range(n)]


def _decays(model: "BallModel", n: int) -> Matrices:
    """Return the decay of each variable as a diagonal matrix: the one given grows by τ."""
    size = len(model.start)
    biases = size - 2 * model.prob.num_classes * model.rank
    found = zeros(n, size, size)
    for i, numbers in enumerate((model.decays, model.varied)[:n]):
        for j, number in enumerate(model.of_each(numbers, biases)):
            found[i][j, j] = number
    return found
