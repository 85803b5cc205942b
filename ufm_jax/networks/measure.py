"""Neural collapse of a network's last layer, in two passes over the images, some at a time.

Evaluation mode, float32 on every device; raw features h, then in float64. With class means h̄_k, their global
mean h_G, Σ_W = N⁻¹ Σ (h − h̄_k)(h − h̄_k)ᵀ and Σ_B = K⁻¹ Σ_k (h̄_k − h_G)(h̄_k − h_G)ᵀ, as the
paper's released code:

    NC1 = tr(Σ_W Σ_B^†)/K      NC2 = ‖WWᵀ/‖WWᵀ‖ − (I − J/K)/√(K−1)‖
    NC3 = the same of W [h̄_k − h_G]      NC4 = ‖W h_G + b‖

A first pass sums what the means need, a second the distances to them. Features and logits are kept from one
to the other where they are few enough, and made again where they are not.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm_jax.models.unconstrained.geometry import distance_to_simplex, whitening
from ufm_jax.networks.models import Network, Weights, last_layer
from ufm_jax.networks.training import Images, standardise
from ufm_jax.precision import require_x64, unrounded

HELD = 2**28  # numbers that are kept between the passes at most: 1 GiB in float32


class Rows(NamedTuple):
    """Some images after the network; a row whose `counted` is 0 fills up the last chunk."""

    features: Float[Array, "m d"]
    logits: Float[Array, "m K"]
    labels: Int[Array, " m"]
    counted: Float[Array, " m"]


class Sums(NamedTuple):
    """What a first pass adds up."""

    members: Float[Array, " K"]  # n_k
    features: Float[Array, "K d"]  # Σ h over each class
    loss: Float[Array, ""]  # cross-entropy, nats
    correct: Float[Array, ""]


class Spreads(NamedTuple):
    """What a second pass adds up."""

    projected: Float[Array, ""]  # Σ ‖P (h − h̄_k)‖², PᵀP = Σ_B^†
    squares: Float[Array, " K"]  # Σ ‖h − h̄_k‖² over each class
    mismatched: Float[Array, ""]  # rows whose nearest class mean is not the network's choice


class Collapse(NamedTuple):
    """Of one split. NaN where a metric is 0/0."""

    nc1: Float[Array, ""]
    nc2: Float[Array, ""]
    nc3: Float[Array, ""]
    nc4: Float[Array, ""]
    cdnv: Float[Array, ""]  # mean over pairs j ≠ k of (v_j + v_k)/(2 ‖h̄_j − h̄_k‖²), v_k = mean ‖h − h̄_k‖²
    ncc_mismatch: Float[Array, ""]  # share of images whose nearest class mean is not the network's choice
    accuracy: Float[Array, ""]
    cross_entropy: Float[Array, ""]  # mean, nats
    feature_square: Float[Array, ""]  # mean ‖h‖²


def sums(rows: Rows) -> Sums:
    """Sum over one chunk."""
    features, logits, labels, counted = _wide(rows)
    member = _member(labels, logits.shape[1]) * counted[:, None]
    loss = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    right = (_argmax(logits) == labels).astype(jnp.float64)
    return Sums(jnp.sum(member, axis=0), member.T @ features, counted @ loss, counted @ right)


def spreads(rows: Rows, means: Float[Array, "K d"], whitener: Float[Array, "K d"]) -> Spreads:
    """Sum over one chunk, with the means and `whitening` of the first pass."""
    features, logits, labels, counted = _wide(rows)
    within = features - means[labels]
    squares = jnp.sum(within**2, axis=1) * counted
    to_means = jnp.stack([jnp.sum((features - mean) ** 2, axis=1) for mean in means], axis=1)
    mismatched = (_argmax(-to_means) != _argmax(logits)).astype(jnp.float64)
    projected = counted @ jnp.sum((within @ whitener.T) ** 2, axis=1)
    return Spreads(projected, squares @ _member(labels, len(means)), counted @ mismatched)


def streaming(
    rows_of: Callable[..., Rows], classifier: Callable[..., tuple[Any, Any]], chunk: int
) -> Callable[..., Collapse]:
    """Build (source, N) -> `Collapse`, compiled once for each shape of `source`, any pytree of arrays.

    `rows_of(source, numbers)` is what the network makes of the images of these numbers, `classifier(source)`
    is W and b. Both passes are loops in Python over `chunk` rows at a time.
    """

    @jax.jit
    def some(source: Any, start: Array, num_rows: Array) -> Rows:
        which = start + jnp.arange(chunk, dtype=jnp.int32)
        rows = rows_of(source, jnp.minimum(which, num_rows - 1))
        return rows._replace(counted=(which < num_rows).astype(jnp.float64))

    first, second = jax.jit(sums), jax.jit(spreads)

    @jax.jit
    def centred(total: Sums) -> tuple[Array, Array, Array]:
        means = total.features / total.members[:, None]
        centre = jnp.sum(total.features, axis=0) / jnp.sum(total.members)
        return means, centre, whitening((means - centre).T)

    finished = jax.jit(lambda source, *totals: finish(*classifier(source), *totals))
    add = jax.jit(lambda total, more: jax.tree.map(jnp.add, total, more))

    def collapse(source: Any, num_rows: int) -> Collapse:
        N = jnp.int32(num_rows)
        passes = lambda: (some(source, jnp.int32(start), N) for start in range(0, num_rows, chunk))
        held = list(passes()) if num_rows * sum(classifier(source)[0].shape) <= HELD else None
        total = functools.reduce(add, map(first, held or passes()))
        means, centre, whitener = centred(total)
        spread = functools.reduce(add, (second(rows, means, whitener) for rows in held or passes()))
        return finished(source, total, spread, means, centre)

    return collapse


def finish(
    W: Float[Array, "K d"],
    b: Float[Array, " K"] | None,
    total: Sums,
    spread: Spreads,
    means: Float[Array, "K d"],
    centre: Float[Array, " d"],
) -> Collapse:
    """Turn what the two passes added up into metrics."""
    W, K, N = W.astype(jnp.float64), len(means), jnp.sum(total.members)
    mean_logits = W @ centre + (0.0 if b is None else b.astype(jnp.float64))
    scatter = jnp.sum(spread.squares) + jnp.sum(total.members * jnp.sum(means**2, axis=1))
    return Collapse(
        nc1=spread.projected / (N * K),
        nc2=distance_to_simplex(W @ W.T),
        nc3=distance_to_simplex(W @ (means - centre).T),
        nc4=jnp.linalg.norm(mean_logits),
        cdnv=_cdnv(means, spread.squares / total.members),
        ncc_mismatch=spread.mismatched / N,
        accuracy=total.correct / N,
        cross_entropy=total.loss / N,
        feature_square=scatter / N,
    )


def measurer(net: Network, chunk: int = 500) -> Callable[[Weights, Images], Collapse]:
    """Build (weights, images) -> `Collapse` in evaluation mode, compiled once for each number of images.

    Raises:
        ValueError: when called, if 64-bit floating point is off.
    """

    def rows_of(source: tuple[Weights, Images], which: Int[Array, " m"]) -> Rows:
        weights, images = source
        with unrounded():
            features, logits, _ = net.apply(weights, standardise(images.pixels[which], images), False)
        return Rows(features, logits, images.labels[which], jnp.ones(len(which), jnp.float64))

    collapse = streaming(rows_of, lambda source: last_layer(source[0]), chunk)

    def measured(weights: Weights, images: Images) -> Collapse:
        require_x64()
        return collapse((weights, images), len(images.labels))

    return measured


def _wide(rows: Rows) -> Rows:
    return Rows(rows.features.astype(jnp.float64), rows.logits.astype(jnp.float64), rows.labels, rows.counted)


def _member(labels: Int[Array, " m"], K: int) -> Float[Array, "m K"]:
    return (labels[:, None] == jnp.arange(K, dtype=labels.dtype)).astype(jnp.float64)


def _argmax(scores: Float[Array, "m K"]) -> Int[Array, " m"]:
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


def _cdnv(means: Float[Array, "K d"], variances: Float[Array, " K"]) -> Float[Array, ""]:
    K = len(means)
    between = jnp.sum((means[:, None] - means[None]) ** 2, axis=2)
    others = ~jnp.eye(K, dtype=bool)
    ratio = (variances[:, None] + variances[None]) / (2.0 * jnp.where(others, between, 1.0))
    return jnp.sum(jnp.where(others, ratio, 0.0)) / (K * (K - 1))
