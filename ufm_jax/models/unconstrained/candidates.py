"""Symmetric critical points for d < K − 1, where no minimum is known: candidates for the lowest value.

Balanced cross-entropy, with or without label smoothing α. At class means f is at least (at best factors)

    (1/K) Σ_k [log Σ_j e^{z_jk} − ⟨t_k, z_k⟩] + θ ‖L‖_* + λ_b/2 ‖b‖²,    z_k = L_k + b,

and ‖L‖_* is tr L for the first two families below. Within a family f is convex.

* Orthogonal simplices for K/2 ≤ d < K − 1 (the "orthoplex regime"): K − d blocks of m_i ≥ 2 classes,
  L = ⊕ α_i (I − J/m_i), one bias a block. One block is the ETF.
* Spherical codes fixed by a transitive group: L = q VVᵀ, rows of V of unit length. The regular polygon in
  d = 2, `names.CODES`, and the orthoplex of K = 2d, each also with one class more, at 0; for K = 2d + 1 a
  pentagon with pairs orthogonal to it.
* Pyramids for K/2 ≤ d < K − 1: c = K − d equal orthogonal simplices of a classes in all, and k = K − a ≥ 1
  points, a regular simplex, apart along one more axis: L = ⊕ α (I − J/m) ⊕ γ (I − J/k) + u hᵀ with u of unit
  length and sum 0, u and h constant on the a classes and on the k; ‖L‖_* = α (a − c) + γ (k − 1) + ‖h‖.

By symmetry each is a critical point of f; none was proven to be the global minimum.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, islice, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.losses import CrossEntropy
from ufm_jax.models.unconstrained.names import CODES, listed
from ufm_jax.models.unconstrained.problem import Problem

MOST = 100  # block structures that are listed
STEPS = 200  # of Newton: from 0 to logits of log(1/θ) it takes about as many as those have units
SIGNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))


class Candidate(NamedTuple):
    """A symmetric critical point: a direct sum of parts, in each of which all classes are alike."""

    name: str  # as `names` has it
    loss: float
    scales: tuple[float, ...]  # of each distinct part, the largest first: the diagonal of L
    biases: tuple[float, ...]


class _Part(NamedTuple):
    """A part of a direct sum: inner products of one unit vector with all, itself first; and how many such."""

    products: Float[np.ndarray, " l"]
    times: Int[np.ndarray, " l"]
    many: int = 1

    @property
    def size(self) -> int:
        return int(self.times.sum())


POINT = _Part(np.zeros(1), np.ones(1, int))  # a class at 0


class _Sample(NamedTuple):
    """Samples that are alike: their share, and logits less that of their class, as rows linear in x."""

    share: float
    rows: Float[np.ndarray, "l v"]
    times: Int[np.ndarray, " l"]  # how many classes have these logits
    target: Float[np.ndarray, " v"]  # mean over the targets of the logits less that of the class


def candidates(prob: Problem) -> list[Candidate]:
    """Return the candidates of a problem, the lowest first; none where Kθ is so large that they fall to 0.

    Of many block structures `some_structures`.

    Raises:
        ValueError: for unequal counts or another loss.
    """
    if not (isinstance(prob.loss, CrossEntropy) and prob.loss.plain and prob.balanced):
        raise ValueError(
            f"loss, counts: need balanced cross-entropy without weights, got {prob.loss}, {prob.counts}"
        )
    K, d = prob.num_classes, prob.dim
    sums = _simplices(K, d) if 2 * d >= K else _codes(K, d)
    found = [_minimised(prob, name, parts) for name, parts in sums]
    if K <= 2 * d < 2 * (K - 1):
        found += [_pyramid(prob, m) for m in range(2, (K - 1) // (K - d) + 1)]
    return sorted((c for c in found if c is not None), key=lambda c: c.loss)


Sums = Iterator[tuple[str, list[_Part]]]


def _simplices(K: int, d: int) -> Sums:
    """Yield the names and parts of some K − d orthogonal simplices; of the ETF for d ≥ K − 1."""
    for sizes in some_structures(K, max(K - d, 1)):
        name = f"simplices{listed(sizes)}" if len(sizes) > 1 else f"simplex({K})"
        if len(sizes) > 1 and set(sizes) == {2}:
            name = f"orthoplex({K})"
        # Parts of one size share α and b, as the minimiser of a convex function is unique.
        yield name, [_simplex(m)._replace(many=n) for m, n in sorted(Counter(sizes).items(), reverse=True)]


def _codes(K: int, d: int) -> Sums:
    """Yield the names and parts of the codes of K classes, and of K − 1 with one class at 0."""
    if 2 * d + 1 == K > 5:  # a pentagon and pairs
        pairs = f"orthoplex({2 * d - 4})" if d > 3 else "simplex(2)"
        yield f"{pairs}+polygon(5)", [_polygon(5), _simplex(2)._replace(many=d - 2)]
    for m, rest, more in ((K, [], ""), (K - 1, [POINT], "+origin(1)")):
        if m == 2 * d:
            name = f"orthoplex({m}){more}" if d > 1 else "ordered[1|1|1]"
            yield name, [_simplex(2)._replace(many=d), *rest]
        elif d == 2:
            yield f"polygon({m}){more}", [_polygon(m), *rest]
        elif (m, d) in CODES:
            name, products = CODES[m, d]
            yield name + more, [_Part(np.array([*products]), np.array([*products.values()])), *rest]


def _polygon(m: int) -> _Part:
    return _Part(np.cos(2 * np.pi * np.arange(m) / m), np.ones(m, int))


def _simplex(m: int) -> _Part:
    return _Part(np.array([1.0, -1.0 / (m - 1)]), np.array([1, m - 1]))


def structures(total: int, blocks: int, most: int | None = None) -> Iterator[tuple[int, ...]]:
    """Yield the ways to write `total` as `blocks` numbers from `most` down to 2, in descending order."""
    most = total if most is None else most
    if blocks == 0:
        if total == 0:
            yield ()
        return
    for first in range(min(most, total - 2 * (blocks - 1)), 1, -1):
        if first * blocks >= total:
            for rest in structures(total - first, blocks - 1, first):
                yield (first, *rest)


def some_structures(total: int, blocks: int) -> Iterator[tuple[int, ...]]:
    """Yield the `MOST` most unequal of `structures`, and the most equal, the lowest for small logits."""
    size, larger = divmod(total, blocks)
    equal = (size + 1,) * larger + (size,) * (blocks - larger)
    unequal = list(islice(structures(total, blocks), MOST))
    yield from unequal
    if unequal and equal not in unequal:
        yield equal


def _minimised(prob: Problem, name: str, parts: list[_Part]) -> Candidate | None:
    """Return the critical point with parts of these shapes; None if one of them falls to 0."""
    K, G = prob.num_classes, len(parts)
    scale, bias = np.eye(2 * G)[:G], np.eye(2 * G)[G:] * prob.bias
    m, many = (np.array([getattr(part, name) for part in parts]) for name in ("size", "many"))
    samples = []
    for g, part in enumerate(parts):
        inside = part.products[:, None] * scale[g] + bias[g]
        rows = np.concatenate([inside[1:], bias]) - inside[0]
        times = np.concatenate([part.times[1:], m * many - m[g] * (np.arange(G) == g)])
        samples.append(_Sample(m[g] * many[g] / K, rows, times, times @ rows * (_smoothing(prob) / K)))
    zero = np.zeros(G)
    trace = float(theta(prob)) * many * m * [bool(part.products[0]) for part in parts]
    x, loss = convex_minimum(samples, np.r_[trace, zero], np.r_[zero, float(prob.decay_b) * many * m])
    if x[:G][trace > 0].min() <= 0:
        return None
    return Candidate(name, loss, tuple(x[:G].tolist()), tuple(x[G:].tolist()))


def pyramid_samples(K: int, c: int, m: int, smoothing: float, *, bias: bool) -> list[_Sample]:
    """Return the loss of c orthogonal simplices of m classes and the k = K − c m others apart.

    Variables: scales α and γ, features h along the common axis, and biases, of the simplices and the points.
    """
    a, k = c * m, K - c * m
    alpha, gamma, *h = np.eye(6)[:4]
    b = np.eye(6)[4:] * bias
    u = np.array([(k / (a * K)) ** 0.5, -((a / (k * K)) ** 0.5)])
    # Logits of the classes of its own simplex (itself first), of the other simplices, and of the points.
    base = [alpha * x + u[0] * h[0] + b[0] for x in (1.0 - 1.0 / m, -1.0 / m, 0.0)]
    seen = np.array([*base, u[1] * h[0] + b[1]])
    ends = [gamma * x + u[1] * h[1] + b[1] for x in (1.0 - 1.0 / k, -1.0 / k)]
    tops = np.array([*ends, u[0] * h[1] + b[0]])
    samples = []
    for share, logits, times in ((a, seen, [m - 1, a - m, k]), (k, tops, [k - 1, a])):
        rows = logits[1:] - logits[0]
        target = np.array(times) @ rows * (smoothing / K)
        samples.append(_Sample(share / K, rows, np.array(times), target))
    return samples


def pyramid_name(K: int, c: int, m: int) -> str:
    """Return its name, as `names` has it."""
    a, k = c * m, K - c * m
    inner = f"orthoplex({a})" if m == 2 else f"simplices{listed([m] * c)}"
    return f"ordered[{inner}|1]" if k == 1 else f"simplex{listed([inner, *[1] * k])}"


def _pyramid(prob: Problem, m: int) -> Candidate | None:
    """Return the critical point of K − d orthogonal simplices of m classes and the other classes apart."""
    K, c = prob.num_classes, prob.num_classes - prob.dim
    a, k = c * m, K - c * m
    alpha, gamma = np.eye(6)[:2]
    samples = pyramid_samples(K, c, m, _smoothing(prob), bias=prob.bias)
    strength = float(theta(prob))
    linear = strength * ((a - c) * alpha + (k - 1) * gamma)
    square = float(prob.decay_b) * np.array([0, 0, 0, 0, a, k])
    norm = strength * np.array([0, 0, a**0.5, k**0.5, 0, 0])
    x, loss = convex_minimum(samples, linear, square, norm)
    if x[0] <= 0 or (k > 1 and x[1] <= 0) or np.abs(x[2:4]).min() < 1e-6:
        return None
    return Candidate(pyramid_name(K, c, m), loss, tuple(x[:4].tolist()), tuple(x[4:].tolist()))


def _smoothing(prob: Problem) -> float:
    assert isinstance(prob.loss, CrossEntropy)
    return prob.loss.smoothing


def convex_minimum(
    samples: list[_Sample], linear: np.ndarray, square: np.ndarray, norm: np.ndarray | None = None
) -> tuple[Float[np.ndarray, " v"], float]:
    """Minimise Σ share [log(1 + Σ times e^{rows x}) − target x] + linear x + square x²/2 + ‖norm x‖.

    Convex, by Newton's method; where it is flat (the shift of an undecayed bias) the least step is taken.
    """

    def at(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, slope, curve = linear @ x + square @ x**2 / 2, linear + square * x, np.diag(square)
        if norm is not None:
            length, pull = np.linalg.norm(norm * x), norm**2 * x
            value, slope = value + length, slope + pull / length
            curve = curve + (np.diag(norm**2) - np.outer(pull, pull) / length**2) / length
        for share, rows, times, target in samples:
            z = rows @ x
            top = max(z.max(), 0.0)
            weights = times * np.exp(z - top)
            # log1p keeps a small loss, which is all that remains at small decays.
            lse = np.log1p(weights.sum()) if top == 0.0 else top + np.log(np.exp(-top) + weights.sum())
            p = weights / (np.exp(-top) + weights.sum())
            mean = p @ rows
            value = value + share * (lse - target @ x)
            slope = slope + share * (mean - target)
            curve = curve + share * (rows.T @ (p[:, None] * rows) - np.outer(mean, mean))
        return float(value), slope, curve

    x = np.zeros(len(linear)) if norm is None else np.sign(norm)
    value, slope, curve = at(x)
    for _ in range(STEPS):
        step = -np.linalg.lstsq(curve, slope, rcond=1e-14)[0]
        size = 1.0 / max(1.0, np.abs(step).max() / 2.0)  # logits change by a few units at a time
        while (later := at(x + size * step))[0] > value and size > 1e-9:
            size /= 2
        if later[0] >= value:
            break
        x, (value, slope, curve) = x + size * step, later
    return x, value


def icosahedron() -> Float[np.ndarray, "12 3"]:
    """Return the corners of a regular icosahedron, unit vectors."""
    golden = (1 + 5**0.5) / 2
    corners = [np.roll((0.0, i, j * golden), k) for i in (1, -1) for j in (1, -1) for k in range(3)]
    return np.array(corners) / np.linalg.norm(corners[0])


def roots(dim: int) -> Float[np.ndarray, "m d"]:
    """Return the roots of D_d as unit vectors, of E8 for d = 8; those of D4 are a 24-cell's corners."""
    e = np.eye(dim)
    pairs = [a * e[i] + b * e[j] for i, j in combinations(range(dim), 2) for a, b in SIGNS]
    halves = [np.array(s) / 2 for s in product((1.0, -1.0), repeat=8) if np.prod(s) > 0] if dim == 8 else []
    return np.array(pairs + halves) / 2**0.5
