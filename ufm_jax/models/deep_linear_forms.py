"""Values in closed form of deep linear classifiers: critical by symmetry, minima and bounds.

With q = 2/(L + 1), and singular values σ of M = √n Z (Z the logits at class means), f at balanced factors is
g + (L + 1) λ/2 Σ σ^q. Cross-entropy; take Z = ⊕ ρ_i V_i V_iᵀ, V_i the m_i unit vectors of a code in r_i
dimensions of its own, tight, of sum 0, alike for each of them: a regular simplex (r = m − 1), a polygon (r =
2), one of `names.CODES`, or a single class at 0 (r = 0). A block has r_i singular values ρ_i m_i/r_i, and
since classes of other blocks have logits 0, blocks know nothing of each other:

    f = Σ_i [(m_i/K) log(Σ_j e^{ρ_i (v_1·v_j − 1)} + (K − m_i) e^{−ρ_i}) + (L+1) λ/2 r_i (√n ρ_i m_i/r_i)^q],

each ρ_i at the last minimum of its term (none, if λ is too large). One simplex of all classes is the ETF,
blocks of two are pairs, an orthoplex. Pyramids (`candidates`) set orthogonal simplices of equal size
apart from the other classes along one more axis.

All are critical by symmetry (derived for this project); none was proven to be the global minimum, and points
that merge classes are not among them.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.models.unconstrained.candidates import convex_minimum, pyramid_name, pyramid_samples
from ufm_jax.models.unconstrained.names import CODES, listed
from ufm_jax.numerics.bisection import HALVINGS, last_true

MOST = 1000  # structures that are listed: with all of 12 classes
MOST_CLASSES = 32  # up to which the lowest is looked for, and pyramids: those of 40 classes take seconds
SCALES = np.geomspace(1e-6, 2e3, 4000)  # where a slope's sign is looked at before its root is bisected
FIRST, SMALLEST, TANGENTS = 10.0, 1e-6, 300  # of a pyramid: scales to begin at, none, most steps
RANGE = (1e-12, 1e6)  # of ‖M‖_* in a bound


def norm_bound(
    num_classes: int, num_layers: int, decay: Float[Array, "..."], per_class: int
) -> Float[Array, "..."]:
    """Return min_t log(1 + (K−1) e^{−t/((K−1)√n)}) + (L+1) λ/2 t^q, a bound for cross-entropy at any d.

    The first term is the least g with ‖M‖_* = t, that of the simplex, and Σ σ^q ≥ (Σ σ)^q for q ≤ 1. For L =
    1 it is f* for d ≥ K − 1; for L ≥ 2 it is not met. The slopes' ratio has a logarithm concave in t, and so
    one maximum, behind which the root is bisected (derived for this project).
    """
    K, q, unit = num_classes, 2.0 / (num_layers + 1), (num_classes - 1) * per_class**0.5
    price = (num_layers + 1) * decay / 2
    low, high = (jnp.full_like(price, np.log(end)) for end in RANGE)
    odds = lambda t: jnp.exp(-t / unit) * (K - 1) / (1.0 + (K - 1) * jnp.exp(-t / unit))
    rising = lambda u: (1.0 - q) / jnp.exp(u) >= (1.0 - odds(jnp.exp(u))) / unit
    steep = lambda u: odds(jnp.exp(u)) / unit >= price * q * jnp.exp((q - 1.0) * u)
    root = jnp.exp(last_true(steep, last_true(rising, low, high), high))
    inside = jnp.log1p((K - 1) * jnp.exp(-root / unit)) + price * root**q
    return jnp.minimum(inside, jnp.log(jnp.full_like(price, K)))


def squared_minimum(
    num_classes: int, num_layers: int, decay: Float[Array, "..."], per_class: int, rank: int
) -> Float[Array, "..."]:
    """Return f* of squared loss: ½ + r (min_a (1 − a)²/(2K) + (L+1) λ/2 (√n a)^q − 1/(2K)), or ½ if lower.

    Each of at most r = `rank` singular values of M is fitted by itself, von Neumann's inequality (Dang et al.
    2023). The slope's zero is the larger root of a q-th power, bisected behind the maximum of (1−a) a^{1−q}.
    """
    K, q = num_classes, 2.0 / (num_layers + 1)
    price = (num_layers + 1) * decay / 2 * per_class ** (q / 2)
    top = jnp.full_like(price, (1.0 - q) / (2.0 - q))
    root = last_true(lambda a: (1.0 - a) * a ** (1.0 - q) >= K * price * q, top, jnp.ones_like(price))
    fitted = (1.0 - root) ** 2 / (2 * K) + price * root**q
    return 0.5 + rank * jnp.minimum(fitted - 0.5 / K, 0.0)


class _Block(NamedTuple):
    """Classes that are alike, with a code of their own."""

    name: str  # of its kind
    size: int  # m
    rank: int  # r
    products: Float[np.ndarray, " l"]  # of one unit vector with the others
    times: Float[np.ndarray, " l"]  # how often each occurs


def symmetric_values(
    num_classes: int, num_layers: int, decay: float, per_class: int, dim: int
) -> dict[str, float]:
    """Return f at the module's critical points that fit into d dimensions, by name, the lowest first.

    Of direct sums at most `MOST`, those with the largest blocks, and the lowest of all. Beyond `MOST_CLASSES`
    neither that nor pyramids, so that the first need not be the lowest.
    """
    K, values = num_classes, {}
    term = functools.lru_cache(functools.partial(_lowest, K, num_layers, decay, per_class))
    sums = (sum_ for sizes in _partitions(K, K) for sum_ in itertools.product(*map(_kinds, sizes)))
    for kinds in itertools.islice(sums, MOST):
        blocks = [_block(*kind) for kind in kinds]
        terms = [term(*kind) for kind in kinds]
        if 0 < sum(block.rank for block in blocks) <= dim and not any(map(np.isnan, terms)):
            values[_name(blocks)] = float(sum(terms))
    if K > MOST_CLASSES:
        return dict(sorted(values.items(), key=lambda one: one[1]))
    if best := _lowest_sum(K, dim, term):
        values.setdefault(_name([_block(*kind) for kind in best]), float(sum(term(*kind) for kind in best)))
    for m, c in itertools.product(range(2, K), range(2, K)):
        fits = c * m < K and K - c <= dim
        if fits and (value := _pyramid(K, num_layers, decay, per_class, c, m)) is not None:
            values[pyramid_name(K, c, m)] = value
    return dict(sorted(values.items(), key=lambda one: one[1]))


def _lowest_sum(K: int, dim: int, term: Callable[[str, int], float]) -> list[tuple[str, int]]:
    """Return the blocks of the lowest direct sum that fits into d dimensions, by dynamic programming.

    Of k classes in r dimensions the lowest sum is a block and the lowest of the others; empty if it is 0.
    """
    blocks = [(kind, _block(*kind).rank) for m in range(1, K + 1) for kind in _kinds(m)]
    least, last = np.full((K + 1, dim + 1), np.inf), np.full((K + 1, dim + 1), -1)
    least[0] = 0.0
    for k in range(1, K + 1):
        for number, (kind, rank) in enumerate(blocks):
            if kind[1] <= k and rank <= dim and not np.isnan(own := term(*kind)):
                new = own + least[k - kind[1], : dim + 1 - rank]
                better = new < least[k, rank:]
                least[k, rank:][better], last[k, rank:][better] = new[better], number
    found, k, r = [], K, dim
    while k:
        kind, rank = blocks[last[k, r]]
        found.append(kind)
        k, r = k - kind[1], r - rank
    found.sort(key=lambda kind: (-kind[1], kind[0]))
    return found if found[0] != ("point", 1) else []


def _pyramid(K: int, num_layers: int, decay: float, per_class: int, c: int, m: int) -> float | None:
    """Return f at c orthogonal simplices of m classes and the k others apart; None if a scale falls to 0.

    A local minimum in its scales. σ^q is concave, so f is at most what tangents at the last scales make of
    it, a convex function: to its minimum f goes down, until it no longer does.
    """
    q, k = 2.0 / (num_layers + 1), K - c * m
    samples = pyramid_samples(K, c, m, 0.0, bias=False)
    price = (num_layers + 1) * decay / 2 * per_class ** (q / 2)
    many = np.array([c * m - c, k - 1, 1.0])  # singular values of each size
    axis = np.array([0, 0, (c * m) ** 0.5, k**0.5, 0, 0])
    sizes, value = np.full(3, FIRST), np.inf
    for _ in range(TANGENTS):
        slopes = price * q * sizes ** (q - 1.0)
        linear = np.r_[(slopes * many)[:2], np.zeros(4)]
        x, convex = convex_minimum(samples, linear, np.zeros(6), slopes[2] * axis)
        used = np.where(many > 0, np.r_[x[:2], np.linalg.norm(axis * x)], sizes)
        if used.min() <= SMALLEST:
            return None
        fit = convex - slopes * many @ np.where(many > 0, used, 0.0)
        last, value, sizes = value, float(fit + price * many @ used**q), used
        if last - value <= 1e-16:
            break
    return value


def _partitions(total: int, most: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways to write a number as a sum of numbers up to `most`, in descending order."""
    if total == 0:
        yield ()
    for first in range(min(most, total), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def _kinds(size: int) -> list[tuple[str, int]]:
    """Return the kinds of a block of this size; a polygon of three is a simplex, of four two pairs."""
    if size == 1:
        return [("point", 1)]
    codes = [name for (m, _), (name, _) in CODES.items() if m == size]
    return [(kind, size) for kind in ("simplex", *(["polygon"] if size > 4 else []), *codes)]


def _block(kind: str, m: int) -> _Block:
    if kind == "point":
        return _Block(kind, 1, 0, np.zeros(0), np.zeros(0))
    if kind == "simplex":
        return _Block(kind, m, m - 1, np.array([-1.0 / (m - 1)]), np.array([m - 1.0]))
    if kind == "polygon":
        return _Block(kind, m, 2, np.cos(2 * np.pi * np.arange(1, m) / m), np.ones(m - 1))
    (rank, products) = next((r, p) for (_, r), (name, p) in CODES.items() if name == kind)
    others = {product: times for product, times in products.items() if product < 1.0}
    return _Block(kind, m, rank, np.array([*others]), np.array([*others.values()], float))


def _lowest(num_classes: int, num_layers: int, decay: float, per_class: int, kind: str, size: int) -> float:
    """Return a block's term at its last minimum in ρ; NaN if there is none."""
    block, K, q = _block(kind, size), num_classes, 2.0 / (num_layers + 1)
    if block.rank == 0:
        return float(np.log(K) / K)
    rates = np.append(1.0 - block.products, 1.0)
    times = np.append(block.times, K - size)
    unit = (num_layers + 1) * decay / 2 * block.rank * (per_class**0.5 * size / block.rank) ** q

    def slope(rho: Any) -> Any:
        falls = times * np.exp(-np.multiply.outer(rho, rates))
        return unit * q * rho ** (q - 1.0) - size / K * (falls @ rates) / (1.0 + falls.sum(axis=-1))

    at = np.flatnonzero((slope(SCALES)[:-1] < 0) & (slope(SCALES)[1:] >= 0))
    if not at.size:
        return np.nan
    low, high = SCALES[at[-1]], SCALES[at[-1] + 1]
    for _ in range(HALVINGS):
        mid = (low + high) / 2
        low, high = (mid, high) if slope(mid) < 0 else (low, mid)
    return float(size / K * np.log1p(times @ np.exp(-low * rates)) + unit * low**q)


def _name(blocks: list[_Block]) -> str:
    """Return the name of a direct sum, as `names` has it."""
    simplices = [block.size for block in blocks if block.name == "simplex"]
    others = [f"polygon({b.size})" if b.name == "polygon" else b.name for b in blocks if b.size > 1]
    parts = sorted(other for other in others if other != "simplex")
    if len(simplices) > 1 and set(simplices) == {2}:
        parts.insert(0, f"orthoplex({sum(simplices)})")
    elif simplices:
        one = len(simplices) == 1
        parts.insert(0, f"simplex({simplices[0]})" if one else f"simplices{listed(simplices)}")
    at_zero = sum(block.rank == 0 for block in blocks)
    return "+".join([*parts, f"origin({at_zero})"] if at_zero else parts)
