"""Check proofs.json of `ufm census --prove`, with Python's standard library and python-flint alone.

    python -m experiments.check_proofs DIR/proofs.json

It shares no code with what wrote the file: inertia is counted by elimination (Bunch & Parlett 1971) in balls
of twice the precision, sections are the tangents. Of each entry that says "proved": Krawczyk's test
in its box, rank, index, nullity, bounds on f, minimum; of each pair, but those listed as alike, that the
orbits differ. A line for each thing refused, and exit status 1. Mathematics: `ufm_jax/landscape/krawczyk.py`.
"""

import json
import sys
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from flint import arb, arb_mat, ctx

ZERO = arb(0)


def need(true: Any, what: str) -> None:
    if not true:
        raise ValueError(what)


def exact(text: str) -> arb:
    """Read "-0x1bp-7", or what Python's float.hex writes."""
    if "." in text:
        return arb(float.fromhex(text))
    mantissa, exponent = text.split("p")
    return arb((int(mantissa, 16), int(exponent)))


def matrix(rows: int, columns: int, entry: Any) -> arb_mat:
    return arb_mat(rows, columns, [entry(i, j) for i in range(rows) for j in range(columns)])


class Model:
    """f on class means in r coordinates: W (K,r), H (r,K), b (K), rows first; column k of H is √n_k h_k."""

    def __init__(self, problem: dict[str, Any], rank: int) -> None:
        self.counts, self.dim, self.r, self.loss = problem["counts"], problem["dim"], rank, problem["loss"]
        self.K, self.bias = len(self.counts), problem["bias"] is True
        self.decays = [exact(problem[name]) for name in ("decay_w", "decay_h", "decay_b")]
        self.softmax = self.loss["name"] == "cross-entropy"
        self.shift = self.bias and self.decays[2] == 0 and self.softmax
        need(problem["model"] == "unconstrained feature model", "problem: another model")
        need(self.softmax or self.loss["name"] == "squared", "problem: another loss")
        need(all(type(n) is int and n > 0 for n in self.counts), "problem: counts")
        need(self.decays[0] > 0 and self.decays[1] > 0 and self.decays[2] >= 0, "problem: decays")
        need(type(rank) is int and 0 <= rank <= min(self.dim, self.K), "rank: beyond d or K")

    def parts(self, x: list[arb]) -> tuple[arb_mat, arb_mat, list[arb]]:
        K, r, B = self.K, self.r, 2 * self.K * self.r
        need(len(x) == B + K * self.bias, "centre: wrong length")
        return arb_mat(K, r, x[: K * r]), arb_mat(r, K, x[K * r : B]), x[B:] if self.bias else [ZERO] * K

    def score(self, z: list[arb], y: int) -> tuple[arb, list[arb], arb_mat]:
        """Return loss, slope and curvature of class y's column of logits."""
        K, loss = self.K, self.loss
        if not self.softmax:
            slope = [a - (j == y) for j, a in enumerate(z)]
            return sum((a * a for a in slope), ZERO) / 2, slope, matrix(K, K, lambda i, j: i == j)
        alpha, weights, offsets = exact(loss["smoothing"]), loss["class_weights"], loss["offsets"]
        weight = exact(weights[y]) if weights else arb(1)
        need(0 <= alpha < 1 and weight > 0, "problem: smoothing or class_weights")
        z = [a + (exact(offsets[j]) if offsets else 0) for j, a in enumerate(z)]
        t = [alpha / K + (1 - alpha if j == y else 0) for j in range(K)]
        e = [(a - z[y].mid()).exp() for a in z]
        total = sum(e, ZERO)
        p = [a / total for a in e]
        value = total.log() + z[y].mid() - sum((a * b for a, b in zip(t, z, strict=True)), ZERO)
        curvature = matrix(K, K, lambda i, j: weight * p[i] * ((i == j) - p[j]))
        return weight * value, [weight * (a - b) for a, b in zip(p, t, strict=True)], curvature

    def expand(self, x: list[arb]) -> tuple[arb, arb_mat, arb_mat, arb_mat]:
        """Return f, its gradient, its Hessian and G̃ (K x K)."""
        K, r, (W, H, b), size = self.K, self.r, self.parts(x), len(x)
        decay = [self.decays[(i >= K * r) + (i >= 2 * K * r)] for i in range(size)]
        f = sum((c * a * a / 2 for c, a in zip(decay, x, strict=True)), ZERO)
        g, S = matrix(size, 1, lambda i, _: decay[i] * x[i]), [[ZERO] * size for _ in range(size)]
        parts, G = matrix(size, size, lambda i, j: decay[i] * (i == j)), arb_mat(K, K)
        M = W * H
        for k, n in enumerate(self.counts):
            sigma, omega = 1 / arb(n).sqrt(), arb(n) / sum(self.counts)
            value, slope, A = self.score([sigma * M[j, k] + b[j] for j in range(K)], k)
            J = [[ZERO] * size for _ in range(K)]  # derivative of the logits
            for j in range(K):
                G[j, k] = omega * sigma * slope[j]
                J[j][size - K :] = [arb(i == j) for i in range(K)] if self.bias else J[j][size - K :]
                for a in range(r):
                    w, h = j * r + a, K * r + a * K + k
                    J[j][w], J[j][h] = sigma * H[a, k], sigma * W[j, a]
                    S[w][h] = S[h][w] = G[j, k]  # the logits are bilinear
            f += omega * value
            if size:
                down = arb_mat(J).transpose() * omega
                g, parts = g + down * arb_mat(K, 1, slope), parts + down * A * arb_mat(J)
        return f, g, parts + arb_mat(size, size, list(chain(*S))), G

    def tangents(self, x: list[arb]) -> list[list[arb]]:
        """Return what turning coordinates a and c does to x, and the shift of b."""
        K, r, rows = self.K, self.r, []
        for a, c in combinations(range(r), 2):
            row = [ZERO] * len(x)
            for k in range(K):
                pairs = (k * r + a, k * r + c), (K * r + a * K + k, K * r + c * K + k)
                for i, j in pairs:
                    row[i], row[j] = -x[j], x[i]
            rows.append(row)
        return rows + ([[ZERO] * (len(x) - K) + [arb(1)] * K] if self.shift else [])


def inertia(enclosed: arb_mat, what: str) -> tuple[int, int]:
    """Count negative and positive eigenvalues of every symmetric matrix enclosed, by elimination."""
    S, negative = enclosed.tolist(), 0
    while S:
        every = range(len(S))
        d = max(every, key=lambda i: float(abs(S[i][i].mid())))
        i, j = max(combinations(every, 2), key=lambda p: float(abs(S[p[0]][p[1]].mid())), default=(d, d))
        pivots = [d] if i == j or abs(S[d][d].mid()) >= abs(S[i][j].mid()) / 2 else [i, j]
        P, rest = arb_mat([[S[a][c] for c in pivots] for a in pivots]), [a for a in every if a not in pivots]
        # A double pivot is indefinite: its diagonal is at most half of what is off it.
        need(P.det() < 0 or (len(pivots) == 1 and P.det() > 0), f"{what}: an eigenvalue may be zero")
        negative += bool(P.det() < 0)
        C = arb_mat(len(rest), len(pivots), [S[a][c] for a in rest for c in pivots])
        left = arb_mat(len(rest), len(rest), [S[a][c] for a in rest for c in rest])
        S = (left - C * P.inv() * C.transpose()).tolist() if rest else []
    return negative, enclosed.nrows() - negative


def bordered(S: arb_mat, rows: list[list[arb]]) -> arb_mat:
    n, m = S.nrows(), len(rows)
    corner = lambda i, j: ZERO if min(i, j) >= n else rows[max(i, j) - n][min(i, j)]
    return matrix(n + m, n + m, lambda i, j: S[i, j] if max(i, j) < n else corner(i, j))


def check(problem: dict[str, Any], one: dict[str, Any]) -> tuple[int, tuple[int, int, int], list[arb]]:
    """Check all that an entry says of one orbit; return its line, and rank, index, nullity and invariants."""
    need(type(one["precision"]) is int and 64 <= one["precision"] <= 4096, "precision")
    ctx.prec = 2 * one["precision"]
    model, radius, x = Model(problem, one["rank"]), exact(one["radius"]), [exact(a) for a in one["centre"]]
    box, xi = [a + arb(0, radius) for a in x], model.tangents(x)
    (_, g, S0, _), (f, _, S, G) = model.expand(x), model.expand(box)
    m, size, r, K, n = len(xi), len(x) + len(xi), model.r, model.K, model.counts
    try:
        Y = bordered(S0, xi).mid().inv().mid()
        E = matrix(size, size, lambda i, j: arb(i == j)) - Y * bordered(S, xi)
        image = E * arb_mat(size, 1, [arb(0, radius)] * size) - Y * arb_mat(size, 1, g.entries() + [ZERO] * m)
        inside = all(arb(0, radius).contains_interior(a) for a in image.entries())
        need(radius > 0 and inside, "existence: Krawczyk's operator does not map the box into its interior")
        if m:  # the Gram matrix of the tangents at the centre and all over the box
            (arb_mat(xi) * arb_mat(model.tangents(box)).transpose()).inv()
    except ZeroDivisionError:
        raise ValueError("existence: a matrix may be singular") from None
    (W, H, b), more, above = model.parts(box), model.dim - r, None
    need(inertia(W.transpose() * W, "rank")[0] == 0, "rank: not shown")
    C = G * G.transpose() - matrix(K, K, lambda i, j: model.decays[0] * model.decays[1] * (i == j))
    try:
        above = inertia(bordered(C, W.transpose().tolist()), "")[1] - r
    except ValueError:
        need(more == 0 and one["global_minimum"] is not True, "index or global_minimum: a σ may be s")
    index, nullity = inertia(bordered(S0, xi), "index")[0] - m + more * (above or 0), m + more * r
    shown = True if above == 0 else False if index > 0 else None
    need((one["index"], one["nullity"]) == (index, nullity), f"index, nullity: they are {index}, {nullity}")
    need(one["global_minimum"] in (None, shown), f"global_minimum: {shown} is shown")
    need(exact(one["lower"]) <= f and f <= exact(one["upper"]), "lower, upper: f may be outside")
    need(abs(exact(one["loss"]) - f) < 1e-6 * (1 + abs(f)), "loss: far from f")
    M, each = W * H, range(K)
    sums = [[n[k] * M[k, k] ** p for k in each] for p in (1, 2, 3)]
    sums += [[a**p for a in M.entries()] for p in (2, 3, 4)]
    sums += [[n[k] * sum((M[j, k] ** 2 for j in each), ZERO) ** 2 for k in each]]
    sums += [] if model.shift else [[n[k] * b[k] ** 2 for k in each]]
    return one["line"], (r, index, nullity), [f, *(sum(terms, ZERO) for terms in sums)]


def check_all(held: dict[str, Any]) -> list[str]:
    """Return what is refused of a whole file, a line each: nothing, if all of it holds."""
    refused, checked = [] if held["format"] == "ufm proofs 1" else ["format: unknown"], []
    for one in held["proofs"]:
        try:
            checked += [check(held["problem"], one)] if one["proved"] else []
        except (ValueError, KeyError, TypeError, IndexError) as error:
            refused.append(f"line {one.get('line')}: {error!r}")
    for (i, kind, a), (j, other, b) in combinations(checked, 2):
        apart = kind != other or any(not p.overlaps(q) for p, q in zip(a, b, strict=True))
        if i == j or not (apart or sorted((i, j)) in held["alike"]):
            refused.append(f"lines {i} and {j}: not shown to be different orbits")
    return refused


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text())
    wrong = check_all(content)
    proved = sum(one["proved"] for one in content["proofs"])
    print(*[f"refused: {line}" for line in wrong], sep="\n", end="\n" if wrong else "")
    print("REFUSED" if wrong else f"all of {proved} proofs hold, of {len(content['proofs'])} entries")
    sys.exit(bool(wrong))
