"""The closed-form spectrum against dense Hessians at the closed-form minimiser."""

import itertools

import jax
import numpy as np
import pytest
from conftest import BALANCED, CE, IMBALANCED, SMOOTH, SQUARED, dense_batch, make

from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, etf_minimiser
from ufm_jax.models.unconstrained.etf_spectrum import etf_spectrum
from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.models.unconstrained.reduction import collapse

BIASES = {"decayed": (True, 1e-2), "undecayed": (True, 0.0), "absent": (False, 0.0)}


def at(kt, K, n, d, *, mode="decayed", loss=CE, tilt=5.0):
    """Return a balanced problem with Kθ = kt and λ_W = tilt · λ_H."""
    s = kt / (K * np.sqrt(n))
    bias, decay_b = BIASES[mode]
    return problem(
        num_classes=K,
        per_class=n,
        dim=d,
        decay_w=s * np.sqrt(tilt),
        decay_h=s / np.sqrt(tilt),
        decay_b=decay_b,
        bias=bias,
        loss=loss,
    )


def listed(prob):
    """Return every eigenvalue of the closed form as often as it occurs, ascending."""
    found = etf_spectrum(prob)
    return np.sort(np.repeat([e.value for e in found], [e.multiplicity for e in found]))


def minimiser(prob):
    """Return `etf_minimiser` by NumPy, which compiles nothing for each of hundreds of shapes."""
    K, n, m = prob.num_classes, prob.counts[0], float(balanced_minimum(prob).alpha)
    tilt = float(np.sqrt(n * prob.decay_h / prob.decay_w))
    W = np.sqrt((K - 1) / K * tilt * m) * simplex_etf(K, prob.dim)
    return Params(W, (W / tilt).T[:, prob.labels] / prob.scales, np.zeros(K) if prob.bias else None)


def softmax_hessian(prob, p: Params):
    """Return the dense Hessian of a softmax loss by NumPy, in the order of `ravel`: JᵀAJ + bilinear part."""
    W, H = np.asarray(p.W), np.asarray(p.H)
    (K, d), C = W.shape, H.shape[1]
    Z = (W @ H) * prob.scales  # b = 0 or constant
    P = np.exp(Z - Z.max(axis=0)) / np.exp(Z - Z.max(axis=0)).sum(axis=0)
    G = (P - prob.targets) * prob.weights * prob.scales
    # Logits of column c, by W[k, a], H[a, c] and b[k].
    by_w = np.einsum("jk,ac,c->cjka", np.eye(K), H, prob.scales).reshape(C, K, K * d)
    by_h = np.einsum("ja,ce,c->cjae", W, np.eye(C), prob.scales).reshape(C, K, d * C)
    by_b = np.broadcast_to(np.eye(K), (C, K, K)) if prob.bias else np.zeros((C, K, 0))
    J = np.concatenate([by_w, by_h, by_b], axis=2)
    A = (np.einsum("kc,kl->ckl", P, np.eye(K)) - np.einsum("kc,lc->ckl", P, P)) * prob.weights[:, None, None]
    hessian = np.einsum("cjx,cjy->xy", J, A @ J, optimize=True)
    mixed = np.einsum("kc,ab->kabc", G, np.eye(d)).reshape(K * d, d * C)
    hessian[: K * d, K * d : K * d + d * C] += mixed
    hessian[K * d : K * d + d * C, : K * d] += mixed.T
    decays = [(prob.decay_w, K * d), (prob.decay_h, d * C), (prob.decay_b, K if prob.bias else 0)]
    return hessian + np.diag(np.concatenate([np.full(size, float(decay)) for decay, size in decays]))


@pytest.mark.parametrize("mode", BIASES)
@pytest.mark.parametrize("K", range(2, 9))
def test_every_eigenvalue_and_multiplicity(K, mode):
    """Full and collapsed, K − 1 <= d <= K + 3, both sides of Kθ = 1 − α, λ_W above and below λ_H."""
    settings = [(0.03, 5.0, CE), (0.5, 0.2, SMOOTH), (0.97, 5.0, CE), (1.02, 5.0, SMOOTH), (3.0, 0.2, CE)]
    for d, n in itertools.product(range(K - 1, K + 4), (1, 3)):
        # Each d with one setting, in turn: all five for every K, n and bias mode.
        kt, tilt, loss = settings[(d + n + len(mode)) % 5]
        prob = at(kt * (1.0 - loss.smoothing), K, n, d, mode=mode, loss=loss, tilt=tilt)
        for same in (prob, collapse(prob)) if n > 1 else (prob,):
            values = listed(same)
            assert len(values) == same.num_variables
            dense = np.linalg.eigvalsh(softmax_hessian(same, minimiser(same)))
            np.testing.assert_allclose(values, dense, atol=1e-13)


@pytest.mark.parametrize(("K", "n", "d", "mode"), [(2, 2, 3, "absent"), (4, 2, 4, "decayed")])
def test_the_dense_hessian_above_is_that_of_automatic_differentiation(K, n, d, mode):
    prob = at(0.4, K, n, d, mode=mode, loss=SMOOTH)
    p = etf_minimiser(prob)
    reference = dense_batch(prob, jax.tree.map(lambda a: a[None], p))[0]
    np.testing.assert_allclose(softmax_hessian(prob, p), reference, atol=1e-15)
    np.testing.assert_allclose(listed(prob), np.linalg.eigvalsh(reference), atol=1e-14)
    for a, b in zip(jax.tree.leaves(minimiser(prob)), jax.tree.leaves(p), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-15)


@pytest.mark.parametrize("mode", BIASES)
@pytest.mark.parametrize(("K", "d"), [(2, 1), (3, 2), (3, 5), (5, 4), (100, 2048)])
def test_exact_zeros_are_rotations_and_the_shift_and_nothing_is_negative(K, d, mode):
    prob = at(0.1, K, 500, d, mode=mode)
    found = etf_spectrum(prob)
    null = sum(e.multiplicity for e in found if e.value == 0.0)
    assert null == (K - 1) * (2 * d - K) // 2 + (mode == "undecayed")
    assert sum(e.multiplicity for e in found) == prob.num_variables
    assert all(e.multiplicity > 0 and e.value >= 0.0 for e in found)
    assert [e.value for e in found] == sorted(e.value for e in found)
    assert {e.mode for e in found if e.value == 0.0} <= {"rotation", "bias shift"}


@pytest.mark.parametrize("mode", BIASES)
def test_the_spectrum_is_continuous_at_the_threshold(mode):
    below, above = (listed(at(kt, 4, 2, 5, mode=mode)) for kt in (1 - 1e-13, 1.0))
    np.testing.assert_allclose(below, above, atol=1e-12)


def test_small_eigenvalues_keep_their_relative_accuracy():
    # The overall scale: det/λ_max, both in closed form, where λ_min is lost in a dense solve.
    prob = at(1e-9, 3, 1, 2, tilt=1e12)
    scale = [e for e in etf_spectrum(prob) if e.mode == "overall scale"]
    q, s, m = 1e-9 / 3, float(prob.strength), np.log(3e9 - 2.0)
    determinant = 4 * (1 - 2 * q) * q * s * m
    np.testing.assert_allclose(scale[0].value * scale[1].value, determinant, rtol=1e-12)


@pytest.mark.parametrize(
    ("counts", "dim", "loss"), [(BALANCED, 1, CE), (IMBALANCED, 3, SMOOTH), (BALANCED, 4, SQUARED)]
)
def test_no_closed_form_is_said_so(counts, dim, loss):
    with pytest.raises(ValueError, match=rf"no closed form.*loss={loss.name}.*dim={dim}"):
        etf_spectrum(make(counts, dim, loss=loss))
