"""Names of critical points: how the classes lie, up to rotation and permutation of classes.

With L = W [h_1 … h_K], the logits at class means before the bias (K x K), classes whose rows and columns of L
agree are *merged*: they share w and h (at critical points of softmax losses one implies the other). Points
with no logits between them are orthogonal: L is then a direct sum, written with `+`.

| name | meaning |
|---|---|
| `origin` | L = 0; `origin(2)` in a sum: two classes lie at 0 |
| `simplex(4)` | four classes, a regular simplex: L = α (I − J/4); of all classes, the simplex ETF |
| `simplex[2,1,1]` | three points in two dimensions, of weighted sum 0, that carry 2, 1 and 1 merged classes |
| `simplices[3,2]` | orthogonal regular simplices of 3 and of 2 classes: L = ⊕ α_i (I − J/m_i) |
| `orthoplex(6)` | three orthogonal pairs ± of equal length: `simplices[2,2,2]` |
| `ordered[1|2|1]` | on a line, in this order (or its reverse): one class, two merged ones, one |
| `polygon(5)` | five classes, regular, in a plane; `polygon(5)x2`: each vertex carries two merged classes |
| `icosahedron`, `24-cell`, `E8` | 12, 24, 240 classes at its vertices or roots; `x2` as above |
| `frame(3)` | three classes alone in orthogonal directions, equal lengths; `frame[2,1]`: merged or unequal |
| `ordered[orthoplex(6)|1]` | nested: six classes in one place of a line, apart in other directions |
| `partition[2,1,1]` | none of these: how many classes each point carries |

Numbers within brackets descend; 1^4 is 1,1,1,1. Where classes are of several kinds (`Problem.kinds`), letters
say which, a the kind of most samples: `simplex[3b,a,a]` has three minority classes merged.

What a name says holds to `MATCH_TOL`, relative to the largest logit, as orbits are told apart. Of softmax
losses `simplex[...]` and `simplices[...]` have one critical value each: their L minimises a convex function.
(Merged classes are a smaller problem, in which rank B − 1 of B points means ‖G‖₂ = s: a global minimum. At
orthogonal simplices it is f in α_i > 0 and b: `candidates`.)
"""

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from string import ascii_lowercase
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ufm_jax.models.unconstrained.permutations import MATCH_TOL, Shape, matching
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import collapse, restrict, within_class_deviation

Matrix = Float[np.ndarray, "m m"]
Part = tuple[np.ndarray, list[str]]  # logits between points, and what classes each carries, as letters

# Spherical codes by number of points and dimension: the inner products of a unit vector with all, and how
# often each occurs; the products determine the code. Six lines at equal angles in R³ are the icosahedron's
# diagonals (Haantjes 1948). Vectors of inner products 0, ±1/2, ±1 are roots of a simply laced system: of 24
# in R⁴ and of 240 in R⁸ there is one, D4 and E8 (Conway & Sloane 1999, ch. 4).
CODES = {
    (12, 3): ("icosahedron", {1.0: 1, 5**-0.5: 5, -(5**-0.5): 5, -1.0: 1}),
    (24, 4): ("24-cell", {1.0: 1, 0.5: 8, 0.0: 6, -0.5: 8, -1.0: 1}),
    (240, 8): ("E8", {1.0: 1, 0.5: 56, 0.0: 126, -0.5: 56, -1.0: 1}),
}
UNKNOWN = "partition"
MOST_POINTS = 32  # whose permutations are looked at: seconds
REPEATED = 3  # an entry that occurs more often is written as a power
ALIKE = "."  # the letter of classes that are all of one kind


def name_at(prob: Problem, p: Params) -> str:
    """Return the name of a critical point of the problem, full or not; nothing, if it is none.

    M = W H̃ says what it is where the features of each class are one and √(λ_W/λ_H) WᵀW = √(λ_H/λ_W) H̃H̃ᵀ, as
    at every critical point.
    """
    q = restrict(collapse(prob), p)
    shape = Shape(np.asarray(q.W @ q.H), np.zeros(prob.num_classes), prob.kinds)
    tilt = jnp.sqrt(prob.decay_w / prob.decay_h)
    unbalanced = jnp.max(jnp.abs(tilt * q.W.T @ q.W - q.H @ q.H.T / tilt))
    apart = within_class_deviation(prob, p) / (1.0 + jnp.linalg.norm(p.H))
    return name_of(prob, shape) if max(float(unbalanced), float(apart)) <= shape.tolerance else ""


def logits_at(prob: Problem, p: Params) -> Matrix:
    """Return the logits at class means, bias included: row j, column k is logit j of class k."""
    q = restrict(collapse(prob), p)
    L = np.asarray(q.W @ q.H) / np.sqrt(np.array(prob.counts, float))
    return L if q.b is None else L + np.asarray(q.b)[:, None]


def name_of(prob: Problem, shape: Shape) -> str:
    """Return the name of a critical point modulo rotations, as the module's table has it."""
    return name_of_logits(shape.M / np.sqrt(np.array(prob.counts, float)), prob.kinds)


def name_of_logits(L: Float[np.ndarray, "K K"], kinds: Int[np.ndarray, " K"] | None = None) -> str:
    """Return the name of logits L at class means, before the bias; `kinds`: of classes, by default alike."""
    size = float(np.abs(L).max())
    if size <= MATCH_TOL:  # as two orbits are told apart near M = 0
        return "origin"
    points = merged(L)
    L, letters = L / size, _letters(np.zeros(len(L), int) if kinds is None else kinds)
    first = [point[0] for point in points]
    Q, carried = L[np.ix_(first, first)], ["".join(sorted(letters[k] for k in point)) for point in points]
    return _whole(Q, carried)


def merged(L: Float[np.ndarray, "K K"]) -> list[np.ndarray]:
    """Return the points of logits L: classes, in ascending order, whose rows and columns of L agree."""
    return _connected(_alike(L / max(float(np.abs(L).max()), MATCH_TOL)))


def _whole(Q: Matrix, carried: list[str]) -> str:
    """Name points that are not all at 0."""
    if _rank(Q) == 1 and sum(map(len, carried)) > 2:
        return _along_a_line(Q, carried)
    parts = _connected(np.maximum(np.abs(Q), np.abs(Q.T)) > MATCH_TOL)
    return _joined([(Q[np.ix_(part, part)], [carried[i] for i in part]) for part in parts])


def _letters(kinds: Int[np.ndarray, " K"]) -> list[str]:
    """Return a letter of each class, a for the last kind: kinds are numbered from the least count."""
    place = len(set(kinds.tolist())) - 1 - np.unique(kinds, return_inverse=True)[1]
    if not 0 < place.max() < len(ascii_lowercase):
        return [ALIKE] * len(kinds)
    return [ascii_lowercase[i] for i in place]


def _alike(L: Matrix) -> np.ndarray:
    """Say which classes have the same row and the same column."""
    both = np.concatenate([L, L.T], axis=1)
    return np.array([np.abs(both - row).max(axis=1) <= MATCH_TOL for row in both])


def _connected(related: np.ndarray) -> list[np.ndarray]:
    """Return the connected components of a graph, each by its members in ascending order."""
    left, found = set(range(len(related))), []
    while left:
        reached, front = set(), {min(left)}
        while front:
            reached |= front
            front = {int(j) for i in front for j in np.flatnonzero(related[i])} - reached
        left -= reached
        found.append(np.array(sorted(reached)))
    return found


def _rank(A: Matrix) -> int:
    """Count singular values that entries changed by `MATCH_TOL` cannot make."""
    return int(np.sum(np.linalg.svd(A, compute_uv=False) > len(A) * MATCH_TOL))


def _along_a_line(Q: Matrix, carried: list[str]) -> str:
    """Name points on a line in their order, of the two directions the one that comes last."""
    order = [carried[i] for i in np.argsort(np.linalg.svd(Q)[0][:, 0])]
    chosen = max(order, order[::-1], key=lambda words: [(len(word), word) for word in words])
    return f"ordered[{'|'.join(map(_number, chosen))}]"


def _joined(parts: list[Part]) -> str:
    """Name a direct sum: regular simplices together, points without company together, what is at 0 last."""
    simplices, alone, others, at_zero = [], [], [], ""
    for Q, carried in parts:
        if len(Q) == 1 and abs(Q[0, 0]) <= MATCH_TOL:
            at_zero += carried[0]
        elif len(Q) == 1:
            alone.append((carried[0], float(Q[0, 0])))
        elif (alpha := _simplex_scale(Q, carried)) is not None:
            simplices.append(("".join(carried), alpha))
        else:
            others.append(_part(Q, carried))
    names = [*_simplices(simplices), *sorted(others), *_frame(alone)]
    return "+".join([*names, f"origin({_number(at_zero)})"] if at_zero else names)


def _simplex_scale(Q: Matrix, carried: list[str]) -> float | None:
    """Return α where Q = α (I − J/m) of unmerged classes, else None."""
    m = len(Q)
    alpha = float(np.trace(Q)) / (m - 1)
    regular = np.abs(Q - alpha * (np.eye(m) - 1.0 / m)).max() <= MATCH_TOL < alpha
    return alpha if regular and max(map(len, carried)) == 1 else None


def _simplices(found: list[tuple[str, float]]) -> list[str]:
    """Name orthogonal regular simplices, given by their classes and scales."""
    classes, scales = [each for each, _ in found], [alpha for _, alpha in found]
    if len(found) < 2:
        return [f"simplex({_number(each)})" for each in classes]
    if set(map(len, classes)) == {2} and max(scales) - min(scales) <= MATCH_TOL:
        return [f"orthoplex({_number(''.join(classes))})"]
    return [f"simplices{_listed(classes)}"]


def _frame(found: list[tuple[str, float]]) -> list[str]:
    """Name points that are alone in their direction, given by their classes and logits."""
    if not found:
        return []
    carried, logits = [each for each, _ in found], [z for _, z in found]
    equal = max(map(len, carried)) == 1 and max(logits) - min(logits) <= MATCH_TOL
    return [f"frame({_number(''.join(carried))})" if equal else f"frame{_listed(carried)}"]


def _part(Q: Matrix, carried: list[str]) -> str:
    """Name one part of a direct sum that is no regular simplex of single classes."""
    m, rank, weights = len(Q), _rank(Q), np.array([len(each) for each in carried])
    centred = np.abs(weights @ Q).max() <= weights.sum() * MATCH_TOL
    if rank == m - 1 and centred:
        return f"simplex{_listed(carried)}"
    if rank == 1:
        return _along_a_line(Q, carried)
    if len(set(carried)) == 1 and (code := _code(Q, rank)):
        return code.format(_number(carried[0][0] * m)) + (f"x{weights[0]}" if weights[0] > 1 else "")
    nested = _nested(Q, carried, fine=True) or _nested(Q, carried, fine=False)
    return nested or f"{UNKNOWN}{_listed(carried)}"


def _nested(Q: Matrix, carried: list[str], *, fine: bool) -> str | None:
    """Name points some of which, seen from all others, are one: within themselves they differ elsewhere.

    Such sets are sought among the orbits of the permutations that leave Q alone. `fine`: regular simplices
    are left as they are, since a simplex may hold their corners one by one.
    """
    which, shown = np.arange(len(Q)), {}
    for orbit in _orbits(Q, carried):
        others = np.setdiff1d(np.arange(len(Q)), orbit)
        seen = np.concatenate([Q[np.ix_(orbit, others)], Q[np.ix_(others, orbit)].T], axis=1)
        if len(others) == 0 or len(orbit) == 1 or np.ptp(seen, axis=0).max() > MATCH_TOL:
            continue
        inside = Q[np.ix_(orbit, orbit)]
        inner = _whole(inside - inside.mean(), words := [carried[i] for i in orbit])
        if UNKNOWN in inner or (fine and inner.startswith("simplex(")):
            continue
        which[orbit] = orbit[0]
        shown[int(orbit[0])] = _Nested("".join(words)).called(inner)
    points, place = np.unique(which, return_inverse=True)
    if len(points) in (1, len(Q)):
        return None
    mean = (place == np.arange(len(points))[:, None]) / np.bincount(place)[:, None]
    outer = _whole(mean @ Q @ mean.T, [shown.get(int(i), carried[i]) for i in points])
    return None if UNKNOWN in outer else outer


class _Nested(str):
    """Classes, as letters, that are shown by a name."""

    shown: str

    def called(self, name: str) -> "_Nested":
        self.shown = name
        return self


def _orbits(Q: Matrix, carried: list[str]) -> list[np.ndarray]:
    """Return the orbits of points under permutations that leave Q and what points carry alone."""
    kinds = np.unique(carried, return_inverse=True)[1]

    def first(i: int) -> Shape:
        order = np.r_[i, np.delete(np.arange(len(Q)), i)]
        return Shape(Q[np.ix_(order, order)], np.zeros(len(Q)), kinds[order])

    if len(Q) > MOST_POINTS:
        return []
    shapes = [first(i) for i in range(len(Q))]
    return _connected(np.array([[matching(a, b, (0,)) is not None for b in shapes] for a in shapes]))


def _code(Q: Matrix, rank: int) -> str | None:
    """Return the name of a spherical code, if Q is a multiple of its Gram matrix; {} for how many classes."""
    m, square = len(Q), float(Q[0, 0])
    if square <= MATCH_TOL:
        return None
    gram, tol = Q / square, MATCH_TOL / square
    even = abs(np.sum(gram**2) * rank - m**2) <= m**2 * tol  # all eigenvalues are m/rank, given their sum m
    if not even or max(np.abs(np.diag(gram) - 1.0).max(), np.abs(gram - gram.T).max()) > tol:
        return None
    if rank == 2:  # distinct points of a circle that all see the others at the same angles
        products = np.sort(np.cos(2 * np.pi * np.arange(m) / m))
        return "polygon({})" if np.abs(np.sort(gram, axis=1) - products).max() <= tol else None
    name, apart = None, np.inf
    if (m, rank) in CODES:
        name, known = CODES[m, rank]
        apart = np.abs(gram[..., None] - np.array([*known])).min(axis=-1).max()
    return name if apart <= tol else None


def _number(classes: str) -> str:
    """Write how many classes, of each kind if there are several: 2, a, 2b, a2b."""
    if isinstance(classes, _Nested):
        return classes.shown
    counted = sorted(Counter(classes).items())
    if counted[0][0] == ALIKE:
        return str(len(classes))
    return "".join(f"{n if n > 1 else ''}{letter}" for letter, n in counted)


def _listed(words: Iterable[str]) -> str:
    return listed(_number(word) for word in sorted(words, key=lambda word: (-len(word), sorted(word))))


def listed(entries: Iterable[Any]) -> str:
    """Write entries within brackets, those that occur often as powers: [3,1^4]."""
    runs = [(str(entry), len(list(run))) for entry, run in groupby(entries)]
    told = (f"{entry}^{n}" if n > REPEATED else ",".join([entry] * n) for entry, n in runs)
    return f"[{','.join(told)}]"
