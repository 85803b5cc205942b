"""A trained network's last layer as a point of the unconstrained feature model, judged where it stands.

The classifier W, its bias b and the features H of all training images, in evaluation mode, are a point of f;
its decays are those that the network was trained with where the objective was peeled. Ordinary weight decay
gives λ_W = λ_b = λ but says nothing of λ_H: `decays` takes the one that balances λ_W‖W‖² = λ_H‖H‖², which
holds at every critical point of f, so that no other λ_H could make the point critical.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.files import write_file
from ufm_jax.landscape.evidence import examine
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, theta
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import logits
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.networks.models import Network, Weights, last_layer
from ufm_jax.networks.training import Images, Recipe, standardise
from ufm_jax.precision import require_x64, unrounded


class Standing(NamedTuple):
    """Where a point stands in the landscape of its own peeled problem; what theory predicts beside it.

    Logit gap and probability are means over samples and wrong classes. NaN where theory gives nothing:
    unequal classes, or d < K − 1.
    """

    loss: Float[Array, ""]  # f
    dual_gap: Float[Array, ""]  # f minus a lower bound on its global minimum: at least 0
    grad_norm: Float[Array, ""]  # ‖∇f‖₂
    negative_curvature: Float[Array, ""]  # lowest measured vᵀHv/vᵀv over the directions tried
    logit_gap: Float[Array, ""]  # mean of z_y − z_j, j ≠ y
    logit_gap_predicted: Float[Array, ""]  # m*
    wrong_probability: Float[Array, ""]  # mean of softmax(z)_j, j ≠ y
    wrong_probability_predicted: Float[Array, ""]  # θ
    balance: Float[Array, ""]  # λ_H‖H‖²/λ_W‖W‖²: 1 at critical points


def extract(
    net: Network, weights: Weights, images: Images, chunk: int = 500
) -> tuple[Params, Int[np.ndarray, " N"]]:
    """Return W, H, b in float64, columns sorted by class, and their labels; holds all features in memory."""
    features, scale = _evaluator(net), images._replace(pixels=images.pixels[:1])
    starts = range(0, len(images.labels), chunk)
    parts = [np.asarray(features(weights, scale, images.pixels[i : i + chunk])) for i in starts]
    order = np.argsort(np.asarray(images.labels), kind="stable")
    H = np.concatenate(parts).T[:, order]
    W, b = (None if a is None else jnp.asarray(np.asarray(a, np.float64)) for a in last_layer(weights))
    assert W is not None
    return Params(W, jnp.asarray(H.astype(np.float64)), b), np.asarray(images.labels)[order]


@functools.lru_cache(maxsize=8)  # so that a network's features compile once, not at every epoch
def _evaluator(net: Network) -> Callable[[Weights, Images, Array], Array]:
    @jax.jit
    def features(weights: Weights, images: Images, pixels: Array) -> Array:
        with unrounded():
            return net.apply(weights, standardise(pixels, images), False)[0]

    return features


def decays(recipe: Recipe, point: Params) -> dict[str, float]:
    """Return λ_W, λ_H and λ_b of the network's own peeled problem, as keyword arguments of `problem`.

    Peeled training: those of the recipe. Ordinary weight decay λ: λ_W = λ_b = λ, λ_H = λ_W‖W‖²/‖H‖².
    """
    if recipe.form == "peeled":
        values = (recipe.decay_w, recipe.decay_h, recipe.decay_b)
    else:
        balancing = recipe.decay * float(jnp.sum(point.W**2) / jnp.sum(point.H**2))
        values = (recipe.decay, balancing, recipe.decay)
    named = dict(zip(("decay_w", "decay_h", "decay_b"), values, strict=True))
    return named if point.b is not None else named | {"decay_b": 0.0}


def peeled_problem(recipe: Recipe, point: Params, labels: Int[np.ndarray, " N"]) -> Problem:
    """Return the problem whose f the point is judged by; labels are sorted."""
    counts = np.bincount(labels, minlength=len(point.W)).tolist()
    named: dict[str, Any] = {**decays(recipe, point)}
    return problem(counts=counts, dim=len(point.H), bias=point.b is not None, **named)


@jax.jit
def standing(prob: Problem, p: Params) -> Standing:
    """Measure a point of the full problem; compiles once for all decays."""
    K = prob.num_classes
    Z = logits(prob, p)
    labels = jnp.asarray(prob.labels, jnp.int32)
    right = jnp.take_along_axis(Z, labels[None], axis=0)[0]
    gaps = (right * K - jnp.sum(Z, axis=0)) / (K - 1)
    wrong = (1.0 - jnp.exp(right - jax.nn.logsumexp(Z, axis=0))) / (K - 1)
    known = prob.balanced and prob.dim >= K - 1
    unknown = jnp.full_like(prob.decay_w, jnp.nan)
    seen = examine(prob, p).evidence
    return Standing(
        loss=seen.loss,
        dual_gap=seen.dual_gap,
        grad_norm=seen.grad_norm,
        negative_curvature=seen.negative_curvature,
        logit_gap=jnp.mean(gaps),
        logit_gap_predicted=balanced_minimum(prob).alpha if known else unknown,
        wrong_probability=jnp.mean(wrong),
        wrong_probability_predicted=jnp.minimum(theta(prob), 1.0 / K) if known else unknown,
        balance=prob.decay_h * jnp.sum(p.H**2) / (prob.decay_w * jnp.sum(p.W**2)),
    )


def stand(net: Network, recipe: Recipe, weights: Weights, images: Images) -> dict[str, float]:
    """Return `standing` of a network's last layer, as numbers, with the decays that it was judged by.

    Raises:
        ValueError: if 64-bit floating point is off.
    """
    require_x64()
    point, labels = extract(net, weights, images)
    prob = peeled_problem(recipe, point, labels)
    found = {name: float(a) for name, a in standing(prob, point)._asdict().items()}
    return found | decays(recipe, point)


def export(
    path: str | Path, net: Network, recipe: Recipe, weights: Weights, images: Images
) -> dict[str, float]:
    """Write W, H, b and labels as the npz that `ufm certify` reads; return the decays to give it."""
    point, labels = extract(net, weights, images)
    arrays: dict[str, Any] = {name: np.asarray(a) for name, a in point._asdict().items() if a is not None}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda file: np.savez(file, labels=labels, **arrays))
    return decays(recipe, point)
