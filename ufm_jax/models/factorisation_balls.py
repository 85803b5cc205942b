"""The matrix factorisation landscape over balls, as `landscape.proof` wants it.

With R = U Vᵀ − M, ∇f = (R V + λ U, Rᵀ U + λ V), and the Hessian is VᵀV + λ for each row of U, UᵀU + λ for
each row of V, and R_ij δ_ab + U_ib V_ja between U_ia and V_jb.
"""

from typing import Any

import numpy as np

from ufm_jax.landscape.balls import Ball, BallMatrix, Balls, Beyond, exact, flint, hexed


class FactorisationBalls(Balls):
    """½ ‖U Vᵀ − M‖² + λ/2 (‖U‖² + ‖V‖²) near one point, flat as `ravel` has it."""

    affine = True

    def __init__(self, M: np.ndarray, decay: Any, U: np.ndarray, V: np.ndarray) -> None:
        self.M, self.decay, self.shapes = exact(M), decay, (U.shape, V.shape)
        self.start = np.concatenate([U.ravel(), V.ravel()])

    def _parts(self, x: BallMatrix) -> tuple[BallMatrix, BallMatrix]:
        (m, r), (n, _) = self.shapes
        entries = x.entries()
        return flint().arb_mat(m, r, entries[: m * r]), flint().arb_mat(n, r, entries[m * r :])

    def expand(self, x: BallMatrix) -> tuple[Ball, BallMatrix, BallMatrix]:
        (U, V), (m, r), (n, _) = self._parts(x), *self.shapes
        R = U * V.transpose() - self.M
        squares = [sum((a * a for a in part), flint().arb(0)) for part in (R.entries(), x.entries())]
        grad = [*(R * V + U * self.decay).entries(), *(R.transpose() * U + V * self.decay).entries()]
        size = len(grad)
        hess = [[flint().arb(0)] * size for _ in range(size)]
        for first, rows, gram in ((0, m, V.transpose() * V), (m * r, n, U.transpose() * U)):
            for i in range(rows):
                for a in range(r):
                    for b in range(r):
                        place = first + i * r + a, first + i * r + b
                        hess[place[0]][place[1]] = gram[a, b] + (self.decay if a == b else 0)
        for i, j in np.ndindex(m, n):
            for a, b in np.ndindex(r, r):
                u, v = i * r + a, m * r + j * r + b
                hess[u][v] = hess[v][u] = U[i, b] * V[j, a] + (R[i, j] if a == b else 0)
        return (
            (squares[0] + self.decay * squares[1]) / 2,
            flint().arb_mat(size, 1, grad),
            flint().arb_mat(hess),
        )

    def tangents(self, x: BallMatrix) -> BallMatrix:
        """Return (U A, V A) for a basis of the skew matrices A."""
        r, rows = self.shapes[0][1], []
        entries = x.entries()
        for a in range(r):
            for b in range(a + 1, r):
                row = [flint().arb(0)] * len(entries)
                row[b::r], row[a::r] = entries[a::r], [-value for value in entries[b::r]]
                rows.append(row)
        return flint().arb_mat(rows) if rows else flint().arb_mat(0, len(entries))

    def problem(self) -> dict[str, Any]:
        M = [[float(entry) for entry in row] for row in self.M.tolist()]
        decay = float(self.decay)
        return {"model": "factorisation", "M": hexed(M), "decay": hexed(decay), "rank": self.shapes[0][1]}

    def beyond(self, x: BallMatrix, index: int) -> Beyond:
        """Say what is global: every critical point of index 0, and no other (`factorisation`)."""
        return Beyond(global_minimum=index == 0)
