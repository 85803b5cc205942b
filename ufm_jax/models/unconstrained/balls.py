"""f over balls, in the coordinates of a critical point's own rank.

A critical point of rank r is one of the problem on class means in r feature coordinates (`reduction`):
D = 2Kr + K variables, whatever N and d. There W has rank r exactly (`beyond` shows it over the box), and

*the other d − r coordinates* each add the Hessian [[λ_W I, G̃], [G̃ᵀ, λ_H I]], with as many negative
eigenvalues as G̃ has singular values above s = √(λ_W λ_H), and zero ones where σ = s. At a critical point
G̃H̃ᵀ = −λ_W W and WᵀG̃ = −λ_H H̃, so G̃G̃ᵀW = s²W: r of the σ are s exactly, and those of the others above s
are the positive eigenvalues of G̃G̃ᵀ − s² on the complement of W's columns. They are counted as in `proof`: if

    C = [[G̃G̃ᵀ − s² I, W], [Wᵀ, 0]]

is regular, then no other σ is s, and C has r positive eigenvalues more than that. Of softmax losses 1ᵀG̃ = 0
and so 1ᵀW = 0: the direction 1 adds an eigenvalue −s² and no other, and is left out, which over a box is what
would be known least.
*Global minimum.* If no σ is above s, then Θ = G̃ is feasible for the dual problem, and its value is f exactly
(`certificate`; the gap closes by the identities above): the point is a global minimum in every d.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.landscape.balls import (
    Ball,
    BallMatrix,
    Balls,
    Beyond,
    Unproved,
    bordered,
    centres,
    exact,
    flint,
    hexed,
    signs,
)
from ufm_jax.models.unconstrained.ball_losses import Scored, bent, score, weighted
from ufm_jax.models.unconstrained.losses import CrossEntropy, Squared
from ufm_jax.models.unconstrained.problem import Params, Problem, check_single
from ufm_jax.models.unconstrained.reduction import (
    collapse,
    feature_frame,
    lift,
    rank_bound,
    restrict,
    turned,
)
from ufm_jax.models.unconstrained.series import series
from ufm_jax.models.unconstrained.symmetry import rank as rank_of

DECAYS = ("decay_w", "decay_h", "decay_b")


class Evaluated(NamedTuple):
    """What f and its derivatives are made of."""

    W: BallMatrix
    H: BallMatrix
    b: list[Ball]
    scored: list[Scored]  # of each class, times its weight
    G: BallMatrix  # G̃


class BallModel(Balls):
    """f on class means in r coordinates, flat as `ravel` has it: W (K, r), H̃ (r, K), b."""

    affine = True
    bends = True

    def __init__(self, prob: Problem, start: Params, dropped: float, fields: dict[str, Any]) -> None:
        self.prob, self.dropped = prob, dropped
        self.rank, self.dim = start.W.shape[1], prob.dim + prob.unused
        self.start = np.concatenate([np.asarray(a, float).ravel() for a in start if a is not None])
        self._give(fields)

    def _give(self, fields: dict[str, Any]) -> None:
        self.decays = [fields.get(name, float(getattr(self.prob, name))) for name in DECAYS]
        self.varied = [int(name in fields) for name in DECAYS]
        for name, decay, need in zip(DECAYS, self.decays, ("> 0", "> 0", ">= 0"), strict=True):
            if not (decay > 0 or (need == ">= 0" and decay >= 0)):
                raise ValueError(f"{name}: need {need}, got {decay}")
        self.shifted = self.prob.bias and self.prob.shift_invariant and bool(self.decays[2] == 0)

    def given(self, **fields: Any) -> "BallModel":
        other = copy(self)
        other._give(fields)
        return other

    def expand(self, x: BallMatrix) -> tuple[Ball, BallMatrix, BallMatrix]:
        at = self._evaluate(x)
        w, h, b = self.decays
        parts = at.W.entries(), at.H.entries(), at.b
        squares = [sum((a * a for a in part), flint().arb(0)) for part in parts]
        value = sum((one.value for one in at.scored), flint().arb(0))
        value += (w * squares[0] + h * squares[1] + b * squares[2]) / 2
        grad_w = at.G * at.H.transpose() + at.W * w
        grad_h = at.W.transpose() * at.G + at.H * h
        grad_b = [
            sum((one.slope[j] for one in at.scored), flint().arb(0)) + b * bias for j, bias in enumerate(at.b)
        ]
        grad = [*grad_w.entries(), *grad_h.entries(), *grad_b]
        return value, flint().arb_mat(len(grad), 1, grad), self._hessian(at)

    def series(
        self, path: Sequence[BallMatrix], order: int
    ) -> tuple[list[Ball], list[BallMatrix], list[BallMatrix]]:
        return series(self, path, order)

    def third(self, x: BallMatrix, v: BallMatrix) -> BallMatrix:
        """Return Σ_k J̇ᵀAJ + JᵀAJ̇ + JᵀȦJ and the bilinear part with Ġ: J is linear in x, and ż = J v."""
        at, pushed, size = self._evaluate(x), self.parts(v), x.nrows()
        whole, slopes = flint().arb_mat(size, size), []
        for k, (one, count) in enumerate(zip(at.scored, self.prob.counts, strict=True)):
            scale = 1 / flint().arb(count).sqrt()
            J, moved = self.logit_slopes(at.W, at.H, k, size), self.logit_slopes(*pushed[:2], k, size, 0)
            push, A = J * v, flint().arb_mat(one.curvature)
            slopes.append((A * push * scale).entries())
            half = J.transpose() * A * moved
            whole += half + half.transpose() + J.transpose() * bent(one, push) * J
        return self.with_bilinear(whole, slopes)

    def tangents(self, x: BallMatrix) -> BallMatrix:
        """Return (W A, −A H̃) for A = e_a e_bᵀ − e_b e_aᵀ, a < b, and the shift of b if it is a symmetry."""
        W, H, _ = self.parts(x)
        K, r, size = self.prob.num_classes, self.rank, x.nrows()
        rows = []
        for a in range(r):
            for b in range(a + 1, r):
                row = [0] * size
                for k in range(K):
                    row[k * r + b], row[k * r + a] = W[k, a], -W[k, b]
                    row[K * r + a * K + k], row[K * r + b * K + k] = -H[b, k], H[a, k]
                rows.append(row)
        if self.shifted:
            rows.append([0] * (2 * K * r) + [1] * K)
        return flint().arb_mat(rows) if rows else flint().arb_mat(0, size)

    def beyond(self, x: BallMatrix, index: int) -> Beyond:
        """Show the rank, count what d − r unused coordinates add, say if a global minimum is shown."""
        at, r = self._evaluate(x), self.rank
        try:
            signs(at.W.transpose() * at.W)
        except Unproved:
            raise Unproved(
                f"that W has {r} independent columns is not shown: the rank may be lower"
            ) from None
        more = self.dim - r
        above = self._above(at, needed=more > 0)
        total = index + more * (above or 0)
        return Beyond(
            index=more * (above or 0),
            nullity=more * r,
            rank=r,
            global_minimum=True if above == 0 else False if total > 0 else None,
        )

    def problem(self) -> dict[str, Any]:
        prob, loss = self.prob, self.prob.loss
        parameters = {name: hexed(value) for name, value in vars(loss).items()}
        return {
            "model": "unconstrained feature model",
            "counts": list(prob.counts),
            "dim": self.dim,
            "bias": prob.bias,
            "loss": {"name": loss.name, **parameters},
            **{name: hexed(float(getattr(prob, name))) for name in DECAYS},
        }

    def invariants(self, x: BallMatrix) -> list[Ball]:
        """Return sums of W H̃ and b that rotations and permutations of like classes leave alone."""
        W, H, b = self.parts(x)
        K, M, arb = self.prob.num_classes, W * H, flint().arb
        counts = self.prob.counts  # classes that permutations exchange have the same
        diagonal = [M[k, k] for k in range(K)]
        every = M.entries()
        lengths = [sum((M[j, k] ** 2 for j in range(K)), arb(0)) for k in range(K)]
        sums = [[a**power * n for a, n in zip(diagonal, counts, strict=True)] for power in (1, 2, 3)]
        sums += [[a**power for a in every] for power in (2, 3, 4)]
        sums += [[a * a * n for a, n in zip(lengths, counts, strict=True)]]
        if not self.shifted:
            sums += [[a * a * n for a, n in zip(b, counts, strict=True)]] if b else []
        return [sum(terms, arb(0)) for terms in sums]

    def parts(self, x: BallMatrix) -> tuple[BallMatrix, BallMatrix, list[Ball]]:
        K, r, entries = self.prob.num_classes, self.rank, x.entries()
        W = flint().arb_mat(K, r, entries[: K * r])
        return W, flint().arb_mat(r, K, entries[K * r : 2 * K * r]), entries[2 * K * r :]

    def _evaluate(self, x: BallMatrix) -> Evaluated:
        W, H, b = self.parts(x)
        K, arb, counts = self.prob.num_classes, flint().arb, self.prob.counts
        M = W * H
        scored = []
        for k, count in enumerate(counts):
            scale = 1 / arb(count).sqrt()
            logits = [M[j, k] * scale + (b[j] if b else 0) for j in range(K)]
            scored.append(weighted(score(self.prob.loss, logits, k), arb(count) / self.prob.num_samples))
        G = flint().arb_mat(
            [[one.slope[j] / arb(n).sqrt() for one, n in zip(scored, counts, strict=True)] for j in range(K)]
        )
        return Evaluated(W, H, b, scored, G)

    def _hessian(self, at: Evaluated) -> BallMatrix:
        """Return Σ_k J_kᵀ A_k J_k, J_k the derivative of class k's logits, and their second derivative's."""
        K, r = self.prob.num_classes, self.rank
        size = 2 * K * r + len(at.b)
        slopes: list[list[Any]] = []
        pushed: list[list[Any]] = []
        for k, one in enumerate(at.scored):
            J = self.logit_slopes(at.W, at.H, k, size)
            slopes += J.tolist()
            pushed += (flint().arb_mat(one.curvature) * J).tolist() if size else []
        if not size:
            return flint().arb_mat(0, 0)
        whole = flint().arb_mat(slopes).transpose() * flint().arb_mat(pushed)
        for i, decay in enumerate(self.of_each(self.decays, len(at.b))):
            whole[i, i] += decay
        return self.with_bilinear(whole, at.G.transpose().tolist())

    def logit_slopes(self, W: BallMatrix, H: BallMatrix, k: int, size: int, bias: int = 1) -> BallMatrix:
        """Return the derivative of class k's logits (K x D), or with `bias` = 0 its linear part in x."""
        K, r = self.prob.num_classes, self.rank
        scale = 1 / flint().arb(self.prob.counts[k]).sqrt()
        J = flint().arb_mat(K, size)
        for j in range(K):
            for a in range(r):
                J[j, j * r + a], J[j, K * r + a * K + k] = H[a, k] * scale, W[j, a] * scale
            if size > 2 * K * r:
                J[j, 2 * K * r + j] = bias
        return J

    def scored_series(self, M: list[BallMatrix], b: list[list[Ball]], k: int, n: int) -> tuple[Scored, Ball]:
        """Return class k's loss, logits before the bias being the series M, and what scales its features."""
        scale, K = 1 / flint().arb(self.prob.counts[k]).sqrt(), self.prob.num_classes
        of = lambda i, j: M[i][j, k] * scale + (b[i][j] if b[i] else 0)
        logits = [flint().arb_series([of(i, j) for i in range(n)], n) for j in range(K)]
        weight = flint().arb(self.prob.counts[k]) / self.prob.num_samples
        return weighted(score(self.prob.loss, logits, k), weight), scale

    def with_bilinear(self, whole: BallMatrix, columns: list[list[Ball]]) -> BallMatrix:
        """Add the part of the logits' second derivative, with columns of G̃ or of its derivative."""
        K, r = self.prob.num_classes, self.rank
        for k, slopes in enumerate(columns):
            for j, slope in enumerate(slopes):
                for a in range(r):
                    w, h = j * r + a, K * r + a * K + k
                    whole[w, h] += slope
                    whole[h, w] += slope
        return whole

    def of_each(self, numbers: list[Any], biases: int) -> list[Any]:
        """Return one of three numbers for each variable: of W, of H and of b."""
        each = self.prob.num_classes * self.rank
        w, h, b = numbers
        return [w] * each + [h] * each + [b] * biases

    def _above(self, at: Evaluated, needed: bool) -> int | None:
        """Count the singular values of G̃ above s; where another may be s, None, or an error if `needed`."""
        if self.rank == rank_bound(replace(self.prob, dim=self.prob.num_classes)):
            return 0  # all that there are equal s; of a softmax loss the one left over is 0, as 1ᵀG̃ = 0
        arb = flint().arb
        square = arb(self.decays[0]) * arb(self.decays[1])
        B = exact(_basis(self.prob.num_classes, self.prob.shift_invariant))
        image = B.transpose() * at.G
        C = image * image.transpose() - B.transpose() * B * square
        try:
            return signs(bordered(C, at.W.transpose() * B) if self.rank else C)[1] - self.rank
        except Unproved:
            if not needed:
                return None
            s = float(square.sqrt())
            sigma = np.linalg.svd(centres(at.G), compute_uv=False)
            nearest = sigma[np.argsort(np.abs(sigma - s))[self.rank]]
            raise Unproved(
                f"a singular value of the class gradients, {nearest:.15g}, cannot be told from s = {s:.15g} "
                f"(beside the {self.rank} that equal it): an unused coordinate's Hessian may be singular"
            ) from None


def _basis(num_classes: int, centred: bool) -> np.ndarray:
    """Return a basis of R^K, or of the vectors of zero sum, in whole numbers, as columns."""
    whole = np.eye(num_classes)
    return whole[:, :-1] - whole[:, 1:] if centred else whole


def model_balls(prob: Problem, p: Params, fields: dict[str, Any]) -> BallModel:
    """Return f over balls in the coordinates of p's own rank.

    Raises:
        ValueError: naming the loss, if it is neither cross-entropy nor squared loss; a decay that is not a
            single number, or a field that is no decay.
    """
    check_single(prob)
    if type(prob.loss) not in (CrossEntropy, Squared):
        raise ValueError(
            f"loss: proofs are made of ufm.CrossEntropy and ufm.Squared themselves, got {prob.loss!r}; "
            "another would need its derivatives over balls, in models/unconstrained/balls.py"
        )
    if unknown := set(fields) - set(DECAYS):
        raise ValueError(f"{min(unknown)}: need one of {DECAYS}")
    q, rank, dropped = _own_coordinates(prob, p)
    r = int(rank)
    return BallModel(prob, q._replace(W=q.W[:, :r], H=q.H[:r]), float(dropped), fields)


@jax.jit
def _own_coordinates(prob: Problem, p: Params) -> Any:
    """Return p on class means, turned so that its strongest feature directions come first, and its rank."""
    small = collapse(prob)
    q = restrict(small, p)
    rank = rank_of(prob, p)
    turned_q = turned(q, feature_frame(small, q))
    used = jnp.arange(prob.dim, dtype=rank.dtype) < rank
    left_out = [
        p.H - lift(prob, q).H,
        jnp.where(used, 0.0, turned_q.W),
        jnp.where(used[:, None], 0.0, turned_q.H),
    ]
    return turned_q, rank, jnp.sqrt(sum(jnp.sum(a**2) for a in left_out))
