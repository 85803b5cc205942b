"""Symmetric critical points for d < K − 1: critical, of the value and name said, found by descents."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CE, SMOOTH, make

from ufm_jax.landscape.search import Newton, search
from ufm_jax.models.unconstrained import candidates as module
from ufm_jax.models.unconstrained.candidates import candidates, icosahedron, roots, structures
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.names import CODES, name_of_logits
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.theory import predict


def at_strength(K, dim, k_theta, *, n=1, loss=CE, decay_b=1e-2, bias=True):
    s = k_theta / K / n**0.5
    return make(
        (n,) * K, dim, decay_w=3 * s, decay_h=s / 3, decay_b=decay_b if bias else 0.0, bias=bias, loss=loss
    )


# Printed to ten digits where local minima were found by blind descents, before this module was written.
PUBLISHED = [
    (4, 2, "orthoplex(4)", 0.3970304867, 0.0629581319),
    (5, 3, "simplices[3,2]", 0.4217017128, 0.0648723173),
    (6, 3, "orthoplex(6)", 0.4643971724, 0.0698707831),
    (6, 4, "simplices[4,2]", 0.4434978736, 0.0665623489),
    (6, 4, "simplices[3,3]", 0.4462364913, 0.0673586987),
    (7, 5, "simplices[5,2]", 0.4628807392, 0.0682649847),
    (7, 5, "simplices[4,3]", 0.4655049317, 0.0690737059),
    (7, 4, "simplices[3,2,2]", 0.4797347418, 0.0712333144),
    (7, 4, "ordered[orthoplex(6)|1]", 0.4799438782, 0.0710535649),
    (9, 5, "ordered[orthoplex(8)|1]", 0.5157354086, 0.0748086245),
]


@pytest.mark.parametrize(("K", "dim", "name", "strong", "weak"), PUBLISHED)
def test_values_are_those_of_minima_found_by_descents(K, dim, name, strong, weak):
    for k_theta, known in ((0.1, strong), (0.01, weak)):
        found = {c.name: c.loss for c in candidates(at_strength(K, dim, k_theta))}
        assert f"{found[name]:.10f}" == f"{known:.10f}"


def point_of(prob, V, scale, bias):
    """The critical point with L = scale VVᵀ and this bias."""
    tilt = float(prob.decay_h / prob.decay_w * prob.counts[0]) ** 0.25
    W = np.pad(scale**0.5 * V, ((0, 0), (0, prob.dim - V.shape[1])))
    H = np.repeat(W.T / tilt, prob.counts[0], axis=1)
    return Params(jnp.asarray(W * tilt), jnp.asarray(H), jnp.asarray(bias) if prob.bias else None)


def circle(m):
    angles = 2 * np.pi * np.arange(m) / m
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("k_theta", [0.3, 0.01, 1e-4])
@pytest.mark.parametrize(
    ("V", "name"),
    [
        (circle(5), "polygon(5)"),
        (circle(8), "polygon(8)"),
        (np.vstack([circle(6), [[0.0, 0.0]]]), "polygon(6)+origin(1)"),
        (icosahedron(), "icosahedron"),
        (roots(4), "24-cell"),
    ],
)
@pytest.mark.parametrize("loss", [CE, SMOOTH])
def test_codes_are_critical_points_of_their_name_and_value(V, name, k_theta, loss):
    prob = at_strength(len(V), V.shape[1], k_theta, n=2, loss=loss)
    (found,) = [c for c in candidates(prob) if c.name == name]
    zero = np.linalg.norm(V, axis=1) == 0
    bias = np.where(zero, found.biases[-1], found.biases[0])
    p = point_of(prob, V, found.scales[0], bias)
    point = prob.evaluate(p)
    assert abs(float(point.value) - found.loss) < 1e-12
    assert float(point.grad_norm) < 1e-7  # scale is good to the root of the value's rounding
    assert prob.name_of(p) == name


def test_e8_is_the_code_that_its_inner_products_say():
    for V, (K, d) in ((icosahedron(), (12, 3)), (roots(4), (24, 4)), (roots(8), (240, 8))):
        assert V.shape == (K, d)
        products = V @ V.T
        for product, times in CODES[K, d][1].items():
            assert np.all(np.sum(np.abs(products - product) < 1e-12, axis=1) == times)


@pytest.mark.parametrize(("K", "dim"), [(4, 2), (5, 3), (7, 4), (5, 2), (7, 3)])
def test_searches_begun_at_random_find_no_other_value_at_a_candidate_of_their_name(K, dim):
    prob = at_strength(K, dim, 0.1)
    known = {c.name: c.loss for c in candidates(prob)}
    seen = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        start = Params(*(jnp.asarray(rng.normal(size=a.shape)) for a in prob.zeros()))
        end = search(prob, start, Newton())
        name = prob.name_of(end.x)
        if name in known:
            seen.add(name)
            assert abs(float(prob.value(end.x)) - known[name]) < 1e-11
    assert seen


@pytest.mark.parametrize("loss", [CE, SMOOTH])
@pytest.mark.parametrize(("bias", "decay_b"), [(True, 1e-2), (True, 0.0), (False, 0.0)])
@pytest.mark.parametrize("k_theta", [0.5, 0.01, 1e-9])
def test_one_block_is_the_simplex(loss, bias, decay_b, k_theta):
    prob = at_strength(5, 4, k_theta, n=3, loss=loss, bias=bias, decay_b=decay_b)
    (only,) = candidates(prob)
    best = balanced_minimum(prob)
    assert only.name == "simplex(5)"
    np.testing.assert_allclose(only.loss, best.loss, rtol=1e-12)
    np.testing.assert_allclose(only.scales[0], best.alpha * 4 / 5, rtol=1e-5)


@pytest.mark.parametrize(("K", "dim"), [(5, 3), (7, 5), (8, 5)])
@pytest.mark.parametrize("n", [1, 4])
def test_pyramids_are_critical_points_of_their_name_and_value(K, dim, n):
    prob = at_strength(K, dim, 0.03, n=n)
    pyramids = [c for c in candidates(prob) if c.name.startswith(("ordered", "simplex["))]
    assert pyramids
    for found in pyramids:
        c, k = K - dim, found.name.count("1") if "simplex[" in found.name else 1
        a = K - k
        m = a // c
        alpha, gamma, *h = found.scales
        within = np.kron(np.eye(c), alpha * (np.eye(m) - 1 / m))
        L = np.zeros((K, K))
        L[:a, :a], L[a:, a:] = within, gamma * (np.eye(k) - 1 / k)
        u = np.r_[np.full(a, (k / (a * K)) ** 0.5), np.full(k, -((a / (k * K)) ** 0.5))]
        L += np.outer(u, np.r_[np.full(a, h[0]), np.full(k, h[1])])
        U, singular, Vt = np.linalg.svd(L)
        root, tilt = np.sqrt(singular[:dim]), float(n * prob.decay_h / prob.decay_w) ** 0.25
        W, means = U[:, :dim] * root * tilt, (root / tilt)[:, None] * Vt[:dim]
        b = np.r_[np.full(a, found.biases[0]), np.full(k, found.biases[1])]
        p = Params(jnp.asarray(W), jnp.asarray(np.repeat(means, n, axis=1)), jnp.asarray(b))
        point = prob.evaluate(p)
        assert abs(float(point.value) - found.loss) < 1e-12
        assert float(point.grad_norm) < 1e-7
        assert prob.name_of(p) == found.name


def test_structures_are_all_partitions_into_so_many_parts():
    assert list(structures(9, 3)) == [(5, 2, 2), (4, 3, 2), (3, 3, 3)]
    assert list(structures(5, 3)) == []
    assert list(structures(6, 3)) == [(2, 2, 2)]
    assert all(sum(s) == 20 and min(s) >= 2 and list(s) == sorted(s)[::-1] for s in structures(20, 6))


def test_more_dimensions_never_hurt_and_the_simplex_bounds_from_below():
    losses = [candidates(at_strength(8, d, 0.05))[0].loss for d in (4, 5, 6, 7)]
    assert losses == sorted(losses, reverse=True)
    for d in (2, 4, 6):
        told = predict(at_strength(8, d, 0.05))
        assert told["loss"] is None
        assert told["lower_bound"] == pytest.approx(losses[-1], abs=1e-13)
        assert told["candidate_loss"] == min(told["candidates"].values()) > told["lower_bound"]
        assert told["candidates"][told["candidate"]] == told["candidate_loss"]


def test_where_the_origin_is_best_it_is_said_so_in_every_dimension():
    for d in (1, 2, 4):
        prob = at_strength(6, d, 1.1)
        told = predict(prob)
        assert (told["regime"], told["candidates"]) == ("origin", None)
        assert told["loss"] == pytest.approx(np.log(6), abs=1e-14)
        assert candidates(prob) == []
    assert predict(at_strength(9, 4, 0.1))["candidate"] is not None
    assert predict(at_strength(9, 3, 0.1))["candidates"] == {}


def test_only_balanced_cross_entropy_has_candidates():
    with pytest.raises(ValueError, match=r"^loss, counts: need balanced cross-entropy"):
        candidates(make((2, 1, 1, 1), 2))
    weighted = replace(CE, class_weights=(1.0, 2.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"^loss, counts: need balanced cross-entropy"):
        candidates(make((2,) * 4, 2, loss=weighted))


@pytest.mark.parametrize(("K", "dim"), [(3, 1), (5, 2), (6, 2), (7, 3), (9, 4), (7, 5), (8, 6), (12, 3)])
def test_names_are_those_of_the_logits(K, dim):
    prob = at_strength(K, dim, 0.02)
    for found in candidates(prob):
        if found.name.startswith(("ordered[simplices", "ordered[orth", "simplex[")):
            continue  # pyramids have their own test
        L, at = np.zeros((K, K)), 0
        for V in (code for part in found.name.split("+") for code in vectors(part)):
            L[at : at + len(V), at : at + len(V)] = V @ V.T
            at += len(V)
        assert at == K
        order = np.random.default_rng(0).permutation(K)
        assert name_of_logits(L[np.ix_(order, order)]) == found.name


def vectors(part):
    """Unit vectors of each orthogonal part of a name without nesting."""
    kind, _, rest = part.partition("(" if "(" in part else "[")
    if kind == "ordered":
        return [np.array([[1.0], [0.0], [-1.0]])]
    if kind == "simplices":
        words = [word.split("^") for word in rest.rstrip("]").split(",")]
        sizes = [int(w[0]) for w in words for _ in range(int(w[1]) if len(w) > 1 else 1)]
        return [simplex_etf(m, m - 1) for m in sizes]
    size = int(rest.rstrip(")")) if rest else 0
    if kind == "orthoplex":
        return [np.array([[1.0], [-1.0]])] * (size // 2)
    return [
        {
            "simplex": lambda: simplex_etf(size, size - 1),
            "origin": lambda: np.zeros((size, 1)),
            "polygon": lambda: circle(size),
            "icosahedron": icosahedron,
        }[kind]()
    ]


@pytest.mark.parametrize(("K", "d"), [(12, 9), (14, 10), (16, 12)])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.97])
def test_the_lowest_is_listed_at_both_ends_whatever_is_left_out(K, d, strength, monkeypatch):
    prob = at_strength(K, d, strength)
    whole = module.candidates(prob)
    monkeypatch.setattr(module, "MOST", 1)
    some = module.candidates(prob)
    assert len(some) < len(whole)
    assert some[0] == whole[0]
