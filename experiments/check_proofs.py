"""Check proofs.json of `ufm census --prove`, with Python's standard library and python-flint alone.

    python -m experiments.check_proofs DIR/proofs.json

It shares no code with what wrote the file: inertia is counted by elimination (Bunch & Parlett 1971) in balls
of twice the precision, sections are the tangents. Of each entry Krawczyk's test, rank, index, nullity, bounds
on f, minimum, its sentence, and no more; of pairs not listed as alike, that they differ; how many there are.
"""

import json
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

from flint import arb, arb_mat, ctx

ZERO = arb(0)
matrix = lambda m, n, entry: arb_mat(m, n, [entry(i, j) for i in range(m) for j in range(n)])


def need(true: Any, what: str) -> None:
    if not true:
        raise ValueError(what)


def same(told: dict[str, Any], shown: dict[str, Any]) -> None:  # types too: true is no 1
    one, other = ({(name, json.dumps(a)) for name, a in fields.items()} for fields in (told, shown))
    need(one == other, f"not as shown: {sorted({name for name, _ in one ^ other})}")


def exact(text: str) -> arb:  # "-0x1bp-7", or what Python's float.hex writes
    mantissa, exponent = text.split("p")
    return arb(float.fromhex(text)) if "." in text else arb((int(mantissa, 16), int(exponent)))


class Model:
    """f on class means in r coordinates: W (K,r), H (r,K), b (K), rows first; column k of H is √n_k h_k."""

    def __init__(self, problem: dict[str, Any], rank: int) -> None:
        self.counts, self.dim, self.bias, self.loss = (problem[a] for a in ("counts", "dim", "bias", "loss"))
        self.r, self.K, self.decays = rank, len(self.counts), [exact(problem[f"decay_{a}"]) for a in "whb"]
        self.softmax = self.loss["name"] == "cross-entropy"
        self.shift = self.bias and self.decays[2] == 0 and self.softmax
        need(self.loss == {"name": "squared"} or (self.softmax and len(self.loss) == 4), "another loss")
        need(len(problem) == 8 and problem["model"] == "unconstrained feature model", "another model")
        need(all(n > 0 for n in self.counts) and self.bias in (True, False), "problem: counts or bias")
        need(self.decays[0] > 0 and self.decays[1] > 0 and self.decays[2] >= 0, "problem: decays")
        need(0 <= rank <= min(self.dim, self.K), "rank: beyond d or K")

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
        sizes = {len(a) for a in (weights, offsets) if a is not None}
        need(0 <= alpha < 1 and weight > 0 and sizes <= {K}, "problem: the loss")
        z = [a + (exact(offsets[j]) if offsets else 0) for j, a in enumerate(z)]
        t = [alpha / K + (1 - alpha if j == y else 0) for j in range(K)]
        e = [(a - z[y].mid()).exp() for a in z]
        p = [a / sum(e, ZERO) for a in e]
        value = -sum((a * b.log() for a, b in zip(t, p, strict=True)), ZERO)
        curvature = matrix(K, K, lambda i, j: weight * p[i] * ((i == j) - p[j]))
        return weight * value, [weight * (a - b) for a, b in zip(p, t, strict=True)], curvature

    def expand(self, x: list[arb]) -> tuple[arb, arb_mat, arb_mat, arb_mat]:
        """Return f, its gradient, its Hessian and G̃ (K x K)."""
        K, r, (W, H, b), size = self.K, self.r, self.parts(x), len(x)
        decay = [self.decays[(i >= K * r) + (i >= 2 * K * r)] for i in range(size)]
        f = sum((c * a * a / 2 for c, a in zip(decay, x, strict=True)), ZERO)
        g, S = arb_mat(size, 1, [a * c for a, c in zip(decay, x, strict=True)]), arb_mat(size, size)
        M, G = W * H, arb_mat(K, K)
        for k, n in enumerate(self.counts):
            sigma, omega = 1 / arb(n).sqrt(), arb(n) / sum(self.counts)
            J = matrix(K, size, lambda j, i: self.bias and i == size - K + j)  # derivative of the logits
            value, slope, A = self.score([sigma * M[j, k] + b[j] for j in range(K)], k)
            for j in range(K):
                G[j, k] = omega * sigma * slope[j]
                for a in range(r):
                    w, h = j * r + a, K * r + a * K + k
                    J[j, w], J[j, h] = sigma * H[a, k], sigma * W[j, a]
                    S[w, h] = S[h, w] = G[j, k]  # the logits are bilinear
            down = J.transpose() * omega
            f, g, S = f + omega * value, g + down * arb_mat(K, 1, slope), S + down * A * J
        return f, g, S + matrix(size, size, lambda i, j: decay[i] * (i == j)), G

    def tangents(self, x: list[arb]) -> list[list[arb]]:
        """Return what turning coordinates a and c does to x, and the shift of b."""
        K, r, turns = self.K, self.r, list(combinations(range(self.r), 2))
        rows = [[ZERO] * len(x) for _ in turns]
        for (row, (a, c)), k in product(zip(rows, turns, strict=True), range(K)):
            for i, j in ((k * r + a, k * r + c), (K * r + a * K + k, K * r + c * K + k)):
                row[i], row[j] = -x[j], x[i]
        return rows + ([[ZERO] * (len(x) - K) + [arb(1)] * K] if self.shift else [])


def inertia(enclosed: arb_mat, what: str) -> tuple[int, int]:
    """Count negative and positive eigenvalues of every symmetric matrix enclosed, by elimination."""
    S, negative = enclosed.tolist(), 0
    part = lambda S, a, b: arb_mat(len(a), len(b), [S[i][j] for i in a for j in b])
    while S:
        size: Any = {(i, j): a.mid() * (1 + (i == j)) for i, row in enumerate(S) for j, a in enumerate(row)}
        pivots = sorted(set(max(size, key=lambda p: abs(float(size[p])))))  # of two the diagonal is half
        rest, P = [i for i in range(len(S)) if i not in pivots], part(S, pivots, pivots)
        need(P.det() < 0 or (len(pivots) == 1 and P.det() > 0), f"{what}: an eigenvalue may be zero")
        negative += bool(P.det() < 0)
        S = (part(S, rest, rest) - part(S, rest, pivots) * P.inv() * part(S, pivots, rest)).tolist()
    return negative, enclosed.nrows() - negative


def bordered(S: arb_mat, rows: list[list[arb]]) -> arb_mat:
    n, m, row = S.nrows(), len(rows), lambda i, j: ZERO if min(i, j) >= n else rows[max(i, j) - n][min(i, j)]
    return matrix(n + m, n + m, lambda i, j: S[i, j] if max(i, j) < n else row(i, j))


def check(problem: dict[str, Any], one: dict[str, Any]) -> tuple[dict[str, Any], list[arb]]:
    """Return what is shown of a proved entry's orbit, as the entry is to have it, and its invariants."""
    ctx.prec, model, radius = 2 * one["precision"], Model(problem, one["rank"]), exact(one["radius"])
    x = [exact(a) for a in one["centre"]]
    need(64 <= one["precision"] <= 4096 and radius > 0, "precision or radius")
    box, xi = [a + arb(0, radius) for a in x], model.tangents(x)
    (_, g, S0, _), (f, _, S, G) = model.expand(x), model.expand(box)
    m, size, r, K, n = len(xi), len(x) + len(xi), model.r, model.K, model.counts
    Y = bordered(S0, xi).mid().inv().mid()
    E = matrix(size, size, lambda i, j: arb(i == j)) - Y * bordered(S, xi)
    image = E * arb_mat(size, 1, [arb(0, radius)] * size) - Y * arb_mat(size, 1, g.entries() + [ZERO] * m)
    need(all(arb(0, radius).contains_interior(a) for a in image.entries()), "existence: not shown")
    if m:  # the Gram matrix of the tangents at the centre and all over the box is regular, or flint raises
        (arb_mat(xi) * arb_mat(model.tangents(box)).transpose()).inv()
    (W, H, b), more, above, told = model.parts(box), model.dim - r, None, one["global_minimum"]
    need(inertia(W.transpose() * W, "rank")[0] == 0, "rank: not shown")
    C = G * G.transpose() - matrix(K, K, lambda i, j: model.decays[0] * model.decays[1] * (i == j))
    try:
        above = inertia(bordered(C, W.transpose().tolist()), "")[1] - r
    except ValueError:
        need(more == 0 and told is not True, "index or global_minimum: a σ may be s")
    index, nullity = inertia(bordered(S0, xi), "index")[0] - m + more * (above or 0), m + more * r
    need(told is None or told is (True if above == 0 else False if index > 0 else None), "global_minimum")
    low, high = (float.fromhex(one[name]) for name in ("lower", "upper"))
    need(arb(low) <= f and f <= arb(high), "lower, upper: f may be outside")
    need(abs(exact(one["loss"]) - f) < 1e-6 * (1 + abs(f)), "loss: far from f")
    words = f"one critical orbit meets the box: rank {r}, index {index}, nullity {nullity} (its dimension), "
    words += f"f in [{low!r}, {high!r}]" + (
        "" if told is None else f", {'a' if told else 'no'} global minimum"
    )
    M, each = W * H, range(K)
    sums = [[n[k] * M[k, k] ** p for k in each] for p in (1, 2, 3)]
    sums += [[a**p for a in M.entries()] for p in (2, 3, 4)]
    sums += [[n[k] * sum((M[j, k] ** 2 for j in each), ZERO) ** 2 for k in each]]
    sums += [] if model.shift else [[n[k] * b[k] ** 2 for k in each]]
    shown = {"rank": r, "index": index, "nullity": nullity, "global_minimum": told, "statement": words}
    numbers = [arb(r), arb(index), f, *(sum(terms, ZERO) for terms in sums)]
    return one | shown | {"proved": True, "failed": None}, numbers


def check_all(held: Any) -> list[str]:
    """Return what is refused of a whole file, a line each: nothing, if all of it holds."""
    refused, checked = [], {}
    try:  # whatever is written there, it is refused, and no more
        problem, proofs, alike = (held[name] for name in ("problem", "proofs", "alike"))
        head = {"format": "ufm proofs 2", "orbits": len(proofs), "digest": str(held["digest"])}
        same(held, head | {"problem": problem, "proofs": proofs, "alike": list(alike)})
    except Exception as error:
        return [f"the file: {error!r}"]
    for line, one in enumerate(proofs):
        try:
            shown = {name: None for name in one} | {"loss": one["loss"], "failed": str(one["failed"])}
            shown |= {"statement": f"nothing is proved: {one['failed']}", "centre": [], "proved": False}
            need(len(one) == 14 and exact(one["loss"]).is_finite(), "fields: missing, unknown, or loss")
            if one["proved"] is not False:
                shown, checked[line] = check(problem, one)
            same(one, shown | {"line": line})
        except Exception as error:
            refused.append(f"line {line}: {error!r}")
    pairs = [[i, j] for i, j in combinations(checked, 2)]
    for i, j in (pair for pair in pairs if pair not in alike):
        if all(p.overlaps(q) for p, q in zip(checked[i], checked[j], strict=True)):
            refused.append(f"lines {i} and {j}: not shown to be different orbits")
    return refused + [f"alike: {pair!r} is no pair of proved lines" for pair in alike if pair not in pairs]


if __name__ == "__main__":
    once = lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else None  # no field is given twice
    try:
        text = Path(" ".join(sys.argv[1:])).read_text("utf-8")
        wrong = check_all(content := json.loads(text, object_pairs_hook=once, parse_float=str))
    except Exception as error:
        wrong = [f"the file: {error!r}"]
    proved = "" if wrong else sum(one["proved"] for one in content["proofs"])
    print(*(f"refused: {line[:300]}" for line in wrong), sep="\n", end="\n" if wrong else "")
    print("REFUSED" if wrong else f"all of {proved} proofs hold, of {content['orbits']} entries")
    sys.exit(bool(wrong))
