"""Operations and bytes that a start needs, counted from the formulas, for `experiments.limits`."""

from typing import NamedTuple

from ufm_jax.models.unconstrained.problem import Problem

WORD = 8


class Cost(NamedTuple):
    """What one application needs, for one start."""

    operations: float
    bytes: float


def gradient_cost(prob: Problem) -> Cost:
    """Three products of K x d by d x C, the softmax, the decays; x is read, the gradient written."""
    K, d, C, D = prob.num_classes, prob.dim, prob.num_columns, prob.num_variables
    return Cost(6 * K * d * C + 10 * K * C + 5 * D, 2 * D * WORD)


def product_cost(prob: Problem) -> Cost:
    """Six products, the curvature of the softmax, the decays; x, v are read, the product written."""
    K, d, C, D = prob.num_classes, prob.dim, prob.num_columns, prob.num_variables
    return Cost(12 * K * d * C + 6 * K * C + 2 * D, 3 * D * WORD)


def lanczos_cost(prob: Problem, basis: int) -> Cost:
    """A Hessian product, and two passes of orthogonalisation against half of the basis on average."""
    D = prob.num_variables
    return Cost(
        product_cost(prob).operations + 4 * D * basis, product_cost(prob).bytes + 2 * D * basis * WORD
    )


def solve_cost(prob: Problem, evaluations: float) -> Cost:
    """`evaluations` gradients, and for each the four inner products and three updates of memoryless BFGS."""
    one, D = gradient_cost(prob), prob.num_variables
    return Cost(evaluations * (one.operations + 15 * D), 2 * D * WORD)


def step_cost(prob: Problem) -> Cost:
    """A step toward any critical point, by the formulas of `models.unconstrained.shifted`.

    The gradient; the curvature of each class in its logits and in its feature, r x r; there, the solution of
    the shifted system for K + r columns; the Schur complement, re and im, of order (K − 1)(r + 1); its
    solution; and back. A complex multiplication with addition is eight operations; no use is made of
    symmetry. x and ∇f are read and written.
    """
    K, r = prob.num_classes, prob.dim
    q, c = K - prob.shift_invariant, r + prob.bias
    order = q * c
    gradient = 4 * q * c * K + 4 * q * K**2 + 2 * r * q * K + 10 * K**2
    logits = 2 * q * c * K + 4 * q * K**2 + 10 * K**2
    curvature = q * K * (4 * K + 2 * q * K) + 2 * r * q**2 * K + 2 * r**2 * q * K + 2 * c * K * (q + r)
    of_features = 8 * K * (r**3 / 3 + r**2 * (q + r + 1))
    schur = 2 * (2 * r * q**2 * K + q**2 * c * K * (4 + 2 * c) + r * q * c * K * (3 + 2 * q))
    solution = 8 * (order**3 / 3 + order**2)
    back = 4 * (2 * q * c * K + 4 * r * q * K + 2 * r**2 * K) + 2 * (4 * q * r * K + 2 * q * c * K)
    D = order + r * K
    total = gradient + logits + curvature + of_features + schur + solution + back
    return Cost(total + 20 * D, 4 * D * WORD)


def approach_cost(prob: Problem, steps: float) -> Cost:
    """`steps` steps; the start is read, its end written."""
    return Cost(steps * step_cost(prob).operations, 2 * prob.num_variables * WORD)
