"""Codes below the simplex's dimension: what is measured of them, the references, and the figure."""

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import ufm_jax as ufm
from experiments import codes

matplotlib.use("Agg")


def polygon(K):
    angles = 2 * np.pi * np.arange(K) / K
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("K", [4, 5, 7])
def test_a_polygon_is_measured_as_its_own_code(K):
    W = polygon(K)
    found = codes.geometry(3.0 * W, 0.2 * W.T)
    assert found["cosine"] == pytest.approx(codes.code_cosine(K, 2))
    assert found["margin"] == pytest.approx(1 - codes.code_cosine(K, 2))
    assert found["w_and_h"] < 1e-12


def test_references_are_those_of_solids():
    assert codes.code_cosine(12, 3) == pytest.approx(5**-0.5)  # icosahedron
    assert codes.code_cosine(9, 3) == pytest.approx(1 / 3)
    assert codes.code_cosine(6, 3) == codes.code_cosine(5, 3) == 0.0
    assert codes.code_cosine(8, 3) == pytest.approx((8**0.5 - 1) / 7)  # square antiprism
    assert codes.code_cosine(9, 4) is None


@pytest.mark.parametrize(("K", "d"), [(7, 3), (8, 3), (10, 3)])
def test_no_random_vectors_beat_the_reference(K, d):
    V = np.random.default_rng(0).normal(size=(2000, K, d))
    V /= np.linalg.norm(V, axis=2, keepdims=True)
    greatest = (V @ V.transpose(0, 2, 1) - 3 * np.eye(K)).max(axis=(1, 2))
    assert greatest.min() > codes.code_cosine(K, d)


def test_a_page_shows_found_and_known_codes():
    one = {"temperature": 2.0, "decay": 1e-3, "cosine": 0.1, "margin": 0.9}
    table = [
        {"K": 4, "d": 2, "code": 0.0, "unit": [one], "free": [one]},
        {"K": 9, "d": 4, "code": None, "unit": [one]},
    ]
    figure = codes.plot(table)
    assert [len(axis.lines) for axis in figure.axes] == [4, 4, 1, 1]
    plt.close(figure)


def test_the_hot_landscape_is_the_logarithm_of_unit_norms():
    fields = {"temperature": jnp.asarray(4.0), "num_classes": 5, "dim": 3}
    unit, hot = ufm.UnitNorm(**fields), codes.Hot(**fields)
    x = unit.start(jax.random.key(0))  # of unit lengths
    assert float(hot.value(x)) == pytest.approx(float(jnp.log(unit.value(x)) / 4.0), rel=1e-12)
