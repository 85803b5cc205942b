"""A loss and its derivatives over balls, one column of logits at a time, or over series of balls."""

from typing import NamedTuple

from ufm_jax.landscape.balls import Ball, BallMatrix, flint
from ufm_jax.models.unconstrained.losses import CrossEntropy, Loss, Squared


class Scored(NamedTuple):
    """One class's loss at its logits."""

    value: Ball
    slope: list[Ball]  # K
    curvature: list[list[Ball]]  # K x K
    shares: list[Ball]  # softmax, K; of squared loss none
    weight: Ball  # that all but the shares are multiplied by


def score(loss: Loss, logits: list[Ball], label: int) -> Scored:
    """Return ℓ, ∇ℓ and ∇²ℓ of one column, without its class weight's share in the mean."""
    K, arb = len(logits), flint().arb
    if isinstance(loss, Squared):
        apart = [z - int(j == label) for j, z in enumerate(logits)]
        value = sum((a * a for a in apart), arb(0)) / 2
        return Scored(value, apart, [[arb(int(i == j)) for j in range(K)] for i in range(K)], [], arb(1))
    assert isinstance(loss, CrossEntropy)
    smoothing = arb(loss.smoothing)
    target = [smoothing / K + (1 - smoothing if j == label else 0) for j in range(K)]
    moved = [z + offset for z, offset in zip(logits, loss.offsets or [0] * K, strict=True)]
    against = [z - moved[label] for z in moved]
    powers = [arb(1) if j == label else z.exp() for j, z in enumerate(against)]
    total = sum(powers, arb(0))
    share = [power / total for power in powers]
    value = total.log() - sum((t * z for t, z in zip(target, against, strict=True)), arb(0))
    slope = [p - t for p, t in zip(share, target, strict=True)]
    curvature = [
        [share[i] * (1 - share[i]) if i == j else -share[i] * share[j] for j in range(K)] for i in range(K)
    ]
    weight = arb(1 if loss.class_weights is None else loss.class_weights[label])
    return weighted(Scored(value, slope, curvature, share, arb(1)), weight)


def weighted(one: Scored, weight: Ball) -> Scored:
    """Return a column's loss and its derivatives times a weight."""
    return Scored(
        one.value * weight,
        [a * weight for a in one.slope],
        [[a * weight for a in row] for row in one.curvature],
        one.shares,
        one.weight * weight,
    )


def bent(one: Scored, push: BallMatrix) -> BallMatrix:
    """Return the derivative of a curvature along ż: weight (diag ṗ − ṗpᵀ − pṗᵀ), ṗ = p (ż − ⟨p, ż⟩)."""
    K = push.nrows()
    if not one.shares:
        return flint().arb_mat(K, K)
    p, arb = one.shares, flint().arb
    mean = sum((a * b for a, b in zip(p, push.entries(), strict=True)), arb(0))
    dp = [a * (b - mean) for a, b in zip(p, push.entries(), strict=True)]
    entry = lambda i, j: (dp[i] if i == j else 0) - dp[i] * p[j] - p[i] * dp[j]
    return flint().arb_mat([[entry(i, j) * one.weight for j in range(K)] for i in range(K)])
