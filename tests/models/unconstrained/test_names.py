"""Names of critical points: closed forms, invariance, near misses, several kinds of classes."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make
from hypothesis import given
from hypothesis import strategies as st

import ufm_jax as ufm
from ufm_jax.landscape import census
from ufm_jax.landscape.flat import unravel
from ufm_jax.landscape.orbits import rows
from ufm_jax.models.unconstrained.candidates import icosahedron, roots
from ufm_jax.models.unconstrained.names import listed, name_of_logits
from ufm_jax.models.unconstrained.permutations import MATCH_TOL
from ufm_jax.models.unconstrained.reduction import collapse, lift


def simplex(m, alpha=1.0):
    return alpha * (np.eye(m) - 1.0 / m)


def direct_sum(*parts):
    L, at = np.zeros((sum(map(len, parts)),) * 2), 0
    for part in parts:
        L[at : at + len(part), at : at + len(part)] = part
        at += len(part)
    return L


def merged(L, weights):
    """Let point i carry weights[i] classes."""
    which = np.repeat(np.arange(len(L)), weights)
    return L[np.ix_(which, which)]


def gram(points):
    return points @ points.T


def on_a_line(places, weights):
    """Points of weighted sum 0 on a line."""
    x = np.array(places, float)
    x -= np.dot(x, weights) / np.sum(weights)
    return merged(np.outer(x, x), weights)


def polygon(m):
    return np.cos(2 * np.pi * np.subtract.outer(np.arange(m), np.arange(m)) / m)


def irregular(weights, seed=0):
    """A simplex of no symmetry whose points have weighted sum 0 and carry merged classes."""
    points = np.random.default_rng(seed).normal(size=(len(weights), len(weights) - 1))
    points -= np.average(points, axis=0, weights=weights)
    return merged(gram(points), weights)


def orthoplex(K):
    return direct_sum(*[simplex(2)] * (K // 2))


def nested(weights, inner):
    """A simplex whose first points, `inner` as seen from there, are one to all others."""
    return irregular(weights) + direct_sum(inner, np.zeros((sum(weights[1:]),) * 2))


NAMED = {
    "origin": np.zeros((5, 5)),
    "simplex(2)": simplex(2),
    "simplex(7)": simplex(7, 30.0),
    "simplices[3,2]": direct_sum(simplex(3, 4.0), simplex(2, 3.0)),
    "simplices[2,2]": direct_sum(simplex(2, 4.0), simplex(2, 3.0)),
    "orthoplex(4)": direct_sum(simplex(2), simplex(2)),
    "orthoplex(8)": direct_sum(*[simplex(2, 7.0)] * 4),
    "simplex(3)+origin(1)": direct_sum(simplex(3), np.zeros((1, 1))),
    "simplices[3,2]+origin(2)": direct_sum(simplex(3), np.zeros((2, 2)), simplex(2)),
    "simplex[2,1,1]": irregular((2, 1, 1)),
    "simplex[3,1,1,1]": irregular((1, 1, 3, 1)),
    "simplex[1^4]": irregular((1, 1, 1, 1)),
    "simplex(2)+simplex[2,2]": direct_sum(merged(simplex(2), (2, 2)), simplex(2)),
    "ordered[1|1|1]": on_a_line((0, 1, 2), (1, 1, 1)),
    "ordered[2|1]": on_a_line((0, 1), (1, 2)),
    "ordered[2|1|3|1]": on_a_line((0, 1, 5, 6), (1, 3, 1, 2)),
    "simplex(3)+ordered[1|1|1|1]": direct_sum(on_a_line((0, 1, 5, 6), (1, 1, 1, 1)), simplex(3)),
    "polygon(5)": 3.0 * polygon(5),
    "polygon(6)": polygon(6),
    "polygon(5)x2": merged(polygon(5), (2,) * 5),
    "polygon(5)+origin(1)": direct_sum(polygon(5), np.zeros((1, 1))),
    "icosahedron": 9.0 * gram(icosahedron()),
    "24-cell": gram(roots(4)),
    "E8": 2.0 * gram(roots(8)),
    "frame(3)": 0.9 * np.eye(3),
    "frame[1,1]": np.diag([2.0, 1.0]),
    "ordered[orthoplex(6)|1]": nested((6, 1), orthoplex(6)),
    "ordered[2|simplex(3)|1]": on_a_line((1, 0, 3), (3, 1, 2)) + direct_sum(simplex(3), np.zeros((3, 3))),
    "simplex[orthoplex(4),1,1]": nested((4, 1, 1), orthoplex(4)),
    "partition[1^4]": on_a_line((0, 1, 3, 5), (1, 1, 1, 1)) + 0.3 * on_a_line((5, 0, 2, 1), (1, 1, 1, 1)),
    "partition[2,1,1,1]": merged(polygon(5)[:4, :4], (2, 1, 1, 1)),
}


def permuted(L, rng):
    order = rng.permutation(len(L))
    return L[np.ix_(order, order)]


@pytest.mark.parametrize("name", NAMED)
def test_closed_forms_have_their_names_whatever_the_order_of_classes(name):
    rng = np.random.default_rng(0)
    assert name_of_logits(NAMED[name]) == name
    for _ in range(3):
        assert name_of_logits(permuted(NAMED[name], rng)) == name


@pytest.mark.parametrize("name", [name for name in NAMED if name not in ("origin", "E8")])
@given(seed=st.integers(0, 10**6))
def test_a_name_stands_up_to_noise_below_the_tolerance_and_falls_to_noise_above(name, seed):
    L, rng = NAMED[name], np.random.default_rng(seed)
    L = L / np.abs(L).max()
    noise = rng.uniform(-1, 1, size=L.shape)
    assert name_of_logits(L + 0.01 * MATCH_TOL * noise) == name
    if L.shape != (2, 2):
        partition = f"partition{listed([1] * len(L))}"
        assert name_of_logits(L + 1e3 * MATCH_TOL * noise) == partition


@pytest.mark.parametrize("eps", [1e-3, -1e-3])
def test_near_misses_are_not_misnamed(eps):
    stretched = direct_sum(simplex(2, 1.0), simplex(2, 1.0 + eps))
    assert name_of_logits(stretched) == "simplices[2,2]"  # no orthoplex
    bent = gram(np.array([[1, 0], [-1, 0], [eps, 1], [-eps, -1]]))
    assert name_of_logits(bent) == "partition[1^4]"  # pairs that are not orthogonal
    thin = on_a_line((0, 1, 2), (1, 1, 1)) + abs(eps) * on_a_line((1, 0, 1), (1, 1, 1))
    assert name_of_logits(thin) == "simplex[1,1,1]"  # no line
    assert name_of_logits(on_a_line((0, 1, 1 + abs(eps)), (1, 1, 1))) == "ordered[1|1|1]"  # not merged
    turned = np.array([[np.cos(t), np.sin(t)] for t in 2 * np.pi * np.arange(5) / 5 + eps * np.arange(5)])
    assert not name_of_logits(gram(turned)).startswith("polygon")
    points = icosahedron()
    points[0] *= 1 + eps
    assert name_of_logits(gram(points)) == "partition[1^12]"


def test_the_cuboctahedron_and_other_codes_of_known_size_are_not_taken_for_known_ones():
    rng = np.random.default_rng(0)
    for points in (roots(3), rng.normal(size=(12, 3)), rng.normal(size=(24, 4))):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        assert name_of_logits(gram(unit)).startswith("partition[1^")
    indefinite = direct_sum(polygon(3), -polygon(3))
    assert "polygon" not in name_of_logits(indefinite)


@pytest.mark.parametrize(
    ("L", "kinds", "name"),
    [
        (irregular((1, 1, 3)), (1, 1, 0, 0, 0), "simplex[3b,a,a]"),
        (simplex(4), (0, 0, 0, 0), "simplex(4)"),
        (simplex(4), (0, 1, 2, 2), "simplex(2abc)"),
        (direct_sum(simplex(2), simplex(2, 2.0)), (1, 1, 0, 0), "simplices[2a,2b]"),
        (on_a_line((0, 1, 2), (1, 2, 1)), (0, 0, 1, 1), "ordered[b|ab|a]"),
        (direct_sum(simplex(3), np.zeros((2, 2))), (1, 1, 0, 0, 0), "simplex(2ab)+origin(2b)"),
    ],
)
def test_kinds_of_classes_are_letters(L, kinds, name):
    assert name_of_logits(L, np.array(kinds)) == name


@pytest.mark.slow
def test_a_census_names_its_orbits():
    prob = make((5, 5, 5), 2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    found = rows(prob, census.find_orbits(prob, starts=1000))
    assert [(row.name, row.stabiliser) for row in found] == [
        ("simplex(3)", 6),
        ("ordered[1|1|1]", 2),
        ("ordered[2|1]", 2),
        ("origin", 6),
    ]
    prob = make((8, 2, 2), 2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    found = rows(prob, census.find_orbits(prob, starts=1000))
    assert found[0].name == "simplex[a,b,b]"
    assert found[-1].name == "origin"
    assert {"ordered[2b|a]", "ordered[a|2b]"} & {row.name for row in found}
    assert all(row.copies * row.stabiliser == 2 for row in found)


def test_names_do_not_depend_on_rotations_and_permutations_of_a_point():
    prob = make((3, 3, 3, 3), 3, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    state = census.find_orbits(prob, starts=1000)
    rng = np.random.default_rng(0)
    for row, x in zip(rows(prob, state), state.points, strict=True):
        p = collapse(prob).lift(unravel(census.space_of(prob), jnp.asarray(x)))
        order, turn = rng.permutation(4), np.linalg.qr(rng.normal(size=(3, 3)))[0]
        q = p._replace(W=(p.W @ turn)[order], H=(turn.T @ p.H)[:, order], b=p.b[order])
        assert collapse(prob).name_of(q) == prob.name_of(lift(prob, q)) == row.name
        unbalanced = lift(prob, q._replace(W=2.0 * q.W))  # not critical: it may be anything
        assert prob.name_of(unbalanced) == ("origin" if row.rank == 0 else "")


@pytest.mark.slow
def test_a_sweep_names_its_orbits_where_it_kept_points():
    prob = make((2, 2, 2), 2, decay_w=5e-3, decay_h=1e-3, decay_b=1e-2)
    run = ufm.sweep(prob, starts=20, target="both")
    named = dict(zip(run.orbits["loss"].to_pylist(), run.orbits["name"].to_pylist(), strict=True))
    assert named[min(named)] == "simplex(3)"
    assert named[max(named)] == "origin"
    assert "simplex(3)" in str(run)
    assert "name" not in ufm.sweep(prob, starts=20, target="both", keep_points=False).orbits.column_names


def test_other_landscapes_have_no_names():
    landscape = ufm.Landscape.of(lambda x: jnp.sum((x**2 - 1.0) ** 2), like=jnp.zeros(1))
    assert landscape.name_of(jnp.ones(1)) == ""
    assert "name" not in ufm.sweep(landscape, starts=4).orbits.column_names
