"""One point measured in passes over its samples, a block at a time: features need not fit in memory.

Blocks are read in the order and type in which features are stored, a memory map's from the disk, and become
float64 in compiled code. Nothing is as large as all features or all logits. `centres` sums what class means
need, `survey` what depends on them and on the decays; `linear` and `bent` are the first and second
derivatives with respect to the last layer alone, for `gains`.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ufm_jax.models.unconstrained.losses import Loss
from ufm_jax.precision import unrounded

# Of a block's features, or logits: 32 MiB in float64, a few of which are held at once. A block whose logits
# are fewer than the entries of W would spend its time on going through W, and on sums as large.
NUMBERS = 2**22
# Multiplications of a pass beyond which products with all classes are taken in float32, four times as fast: a
# quarter of an hour of two cores in float64. Their sums are float64 all the same.
HEAVY = 1e12
ROUNDED = 1e-6  # the loss's error there, relative to it: float32's rounding of logits near 10
MOST_SQUARE = 8192  # rows of a square matrix that is summed up: 512 MiB
RUNS = 256  # of samples, each read at once
SAY_EVERY = 5.0  # seconds

Say = Callable[[str], None]


class Block(NamedTuple):
    """Some samples; a row whose `counted` is 0 fills up the last block."""

    features: Array  # (m, d), as stored
    labels: Int[Array, " m"]
    counted: Float[Array, " m"]


class Layer(NamedTuple):
    """A classifier and its bias (zeros where there is none)."""

    W: Float[Array, "K d"]
    b: Float[Array, " K"]


class Samples:
    """Features (N, d) or (d, N) with their labels, read in blocks; `held` once, for all passes."""

    def __init__(
        self, features: Any, labels: np.ndarray, num_classes: int, *, rows: bool, held: bool = False
    ) -> None:
        self.features, self.labels, self.rows = features, labels.astype(np.int32), rows
        self._held: list[Block] | None = [] if held else None
        self.dim = features.shape[1 if rows else 0]
        self.counts = np.bincount(labels, minlength=num_classes)
        numbers = max(NUMBERS, self.dim * num_classes)
        self.size = max(1, min(len(labels), numbers // max(self.dim, num_classes)))

    @property
    def number(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def heavy(self) -> bool:
        """True if products with all classes are taken in float32."""
        return float(self.number) * self.dim * len(self.counts) > HEAVY

    @property
    def rounded(self) -> float:
        """About how far the mean loss may be from that of float64, relative to it."""
        return ROUNDED if self.heavy else 0.0

    def taken(self, first: int, last: int) -> np.ndarray:
        """Return features of samples `first` to `last`, (m, d)."""
        if self.rows:
            return np.asarray(self.features[first:last])
        return np.asarray(self.features[:, first:last]).T

    def steps(self, say: Say | None = None, what: str = "") -> Iterator[tuple[int, int]]:
        """Go through all samples; `say` is told how far, every few seconds."""
        said = time.monotonic()
        for first in range(0, self.number, self.size):
            last = min(first + self.size, self.number)
            yield first, last
            if say is not None and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                say(f"{what}: {last:,} of {self.number:,} samples")

    def blocks(self, say: Say | None = None, what: str = "") -> Iterator[Block]:
        """Go through all samples in blocks of one shape, so that what takes them compiles once."""
        if self._held is None:
            yield from self._read(say, what)
            return
        if not self._held:
            self._held = list(self._read(say, what))
        yield from self._held

    def _read(self, say: Say | None, what: str) -> Iterator[Block]:
        for first, last in self.steps(say, what):
            rows, missing = self.taken(first, last), self.size - (last - first)
            rows = np.pad(rows, ((0, missing), (0, 0))) if missing else rows
            counted = (np.arange(self.size) < last - first).astype(np.float64)
            labels = np.pad(self.labels[first:last], (0, missing))
            yield Block(jnp.asarray(rows), jnp.asarray(labels), jnp.asarray(counted))

    def some(self, most: int) -> Block:
        """Return about so many samples, in up to `RUNS` runs that are evenly spread."""
        most = max(1, min(most, self.number))
        length = -(-most // RUNS)
        starts = np.unique(np.linspace(0, self.number - length, most // length).astype(int)).tolist()
        rows = np.concatenate([self.taken(i, i + length) for i in starts])
        labels = np.concatenate([self.labels[i : i + length] for i in starts])
        return Block(jnp.asarray(rows), jnp.asarray(labels), jnp.ones(len(labels)))


class Centres(NamedTuple):
    """What a first pass adds up."""

    sums: Float[Array, "K d"]  # Σ h over each class
    square: Float[Array, ""]  # Σ ‖h‖²
    least: Float[Array, ""]  # smallest entry


class Nearest(NamedTuple):
    """Class means as the nearest of them is looked for.

    It has the largest ⟨m − c, h − c⟩ − ‖m − c‖²/2, c any point: the mean of means here. All three differences
    are in units of the largest entry of m − c, whose square may be beyond float32.
    """

    arms: Float[Array, "K d"]  # m − c, 0 for a class without samples
    halves: Float[Array, " K"]  # ‖m − c‖²/2, ∞ there
    middle: Float[Array, " d"]  # c
    unit: Float[Array, ""]


class Survey(NamedTuple):
    """What a second pass adds up. G = ∇_Z of the mean loss g, K x N."""

    loss: Float[Array, ""]  # g
    correct: Float[Array, ""]  # samples whose own logit is the largest
    margin: Float[Array, ""]  # Σ of z_y minus the mean of the other logits
    mismatched: Float[Array, ""]  # samples whose nearest class mean is not the choice of the logits
    slope: Layer  # G Hᵀ and G 1
    features: Float[Array, ""]  # ‖Wᵀ G + λ_H H‖²
    outer: Float[Array, "K K"]  # G Gᵀ, where K is small enough
    spreads: Float[Array, " K"]  # Σ ‖h − h̄_k‖² over each class
    within: Float[Array, "d d"]  # Σ (h − h̄_k)(h − h̄_k)ᵀ, where d is small enough


def centres(samples: Samples, say: Say | None = None) -> Centres:
    """Sum up what class means need: in NumPy, as XLA adds rows to rows of their class fifty times slower."""
    sums, square, least = np.zeros((len(samples.counts), samples.dim)), 0.0, np.inf
    for first, last in samples.steps(say, "class means"):
        order = np.argsort(samples.labels[first:last], kind="stable")
        F = samples.taken(first, last)[order].astype(np.float64)
        there, starts = np.unique(samples.labels[first:last][order], return_index=True)
        sums[there] += np.add.reduceat(F, starts, axis=0)
        square += float(np.vdot(F, F))
        least = min(least, float(np.min(F)))
    return Centres(jnp.asarray(sums), jnp.asarray(square), jnp.asarray(least))


def survey(
    samples: Samples,
    layer: Layer,
    means: Float[Array, "K d"],
    decay_h: Float[Array, ""] | float,
    loss: Loss,
    say: Say | None = None,
) -> Survey:
    """Sum up what logits and distances to class means say; rows of `means` without samples are NaN."""
    K, d = layer.W.shape
    rows, columns = (size if size <= MOST_SQUARE else 0 for size in (K, d))
    zero = jnp.zeros(())
    like = Layer(jnp.zeros((K, d)), jnp.zeros(K))
    squares = jnp.zeros((rows, rows)), jnp.zeros(K), jnp.zeros((columns, columns))
    total = Survey(zero, zero, zero, zero, like, jnp.zeros(()), *squares)
    total = jax.tree.map(jnp.copy, total)  # one buffer each, to be given away
    dtype = jnp.float32 if samples.heavy else jnp.float64
    narrow, nearest = _narrow(layer, dtype), _nearest(means, dtype)
    with unrounded():
        for block in samples.blocks(say, "logits"):
            total = _survey(total, block, narrow, means, nearest, decay_h, float(samples.number), loss)
    return total


@partial(jax.jit, static_argnames="dtype")
def _narrow(layer: Layer, dtype: Any) -> Layer:
    return Layer(*(a.astype(dtype) for a in layer))


@partial(jax.jit, static_argnames="dtype")
def _nearest(means: Float[Array, "K d"], dtype: Any) -> Nearest:
    there, middle = ~jnp.isnan(means[:, :1]), jnp.nanmean(means, axis=0)
    arms = jnp.where(there, means - middle, 0.0)
    largest = jnp.max(jnp.abs(arms))
    unit = jnp.where(largest > 0, largest, 1.0)
    arms = arms / unit
    halves = jnp.where(there[:, 0], jnp.sum(arms**2, axis=1) / 2, jnp.inf)
    return Nearest(arms.astype(dtype), halves.astype(dtype), middle, unit)


@partial(jax.jit, static_argnames="loss", donate_argnums=0)
def _survey(
    total: Survey,
    block: Block,
    layer: Layer,
    means: Array,
    near: Nearest,
    decay_h: Array,
    N: Array,
    loss: Loss,
) -> Survey:
    """Add a block: products with all classes in the dtype of `layer` and `near`, sums in float64."""
    W, b = layer
    labels, K, wide, dtype = block.labels, len(W), _wide(block), W.dtype
    F, counted = wide.astype(dtype), block.counted.astype(dtype)
    Z = W @ F.T + b[:, None]
    T = _targets(loss, labels, K).astype(dtype)
    G = loss.slope(Z, T) * (counted / jnp.asarray(N, dtype))
    own = jnp.take_along_axis(Z, labels[None], axis=0)[0]
    choice = jnp.argmax(Z, axis=0).astype(jnp.int32)
    margin = own - (jnp.sum(Z, axis=0) - own) / (K - 1)
    away = (wide - means[labels]) * block.counted[:, None]
    closeness = near.arms @ ((wide - near.middle) / near.unit).astype(dtype).T - near.halves[:, None]
    nearest = jnp.argmax(closeness, axis=0).astype(jnp.int32)
    pulled = (W.T @ G).astype(jnp.float64) + decay_h * wide.T
    add = lambda old, new: old + new.astype(jnp.float64)
    return Survey(
        add(total.loss, jnp.dot(counted, loss.value(Z, T)) / jnp.asarray(N, dtype)),
        add(total.correct, jnp.dot(block.counted, (choice == labels).astype(jnp.float64))),
        add(total.margin, jnp.dot(counted, margin)),
        add(total.mismatched, jnp.dot(block.counted, (nearest != choice).astype(jnp.float64))),
        Layer(add(total.slope.W, G @ F), add(total.slope.b, jnp.sum(G, axis=1))),
        total.features + jnp.sum(pulled**2 * block.counted),
        add(total.outer, G @ G.T) if total.outer.size else total.outer,
        total.spreads.at[labels].add(jnp.sum(away**2, axis=1)),
        total.within + away.T @ away if total.within.size else total.within,
    )


def linear(
    samples: Samples, layer: Layer, loss: Loss, say: Say | None = None, what: str = ""
) -> tuple[Float[Array, ""], Layer]:
    """Return the mean loss g at a last layer, and its gradient there."""
    total = jax.tree.map(jnp.zeros_like, (layer.b[0], layer))
    for block in samples.blocks(say, what):
        total = _linear(total, block, layer, float(samples.number), loss)
    return total


@partial(jax.jit, static_argnames=("loss",), donate_argnums=0)
def _linear(total: Any, block: Block, layer: Layer, N: Array, loss: Loss) -> tuple[Array, Layer]:
    value, slope = total
    F = _wide(block)
    Z, T = layer.W @ F.T + layer.b[:, None], _targets(loss, block.labels, len(layer.W))
    G = loss.slope(Z, T) * (block.counted / N)
    value += jnp.dot(block.counted, loss.value(Z, T)) / N
    return value, Layer(slope.W + G @ F, slope.b + jnp.sum(G, axis=1))


def bent(
    samples: Samples, layer: Layer, along: Layer, loss: Loss, say: Say | None = None, what: str = ""
) -> Layer:
    """Return the Hessian of the mean loss with respect to the last layer, times a direction."""
    total = jax.tree.map(jnp.zeros_like, layer)
    for block in samples.blocks(say, what):
        total = _bent(total, block, layer, along, float(samples.number), loss)
    return total


@partial(jax.jit, static_argnames=("loss",), donate_argnums=0)
def _bent(total: Layer, block: Block, layer: Layer, along: Layer, N: Array, loss: Loss) -> Layer:
    F = _wide(block)
    Z, T = layer.W @ F.T + layer.b[:, None], _targets(loss, block.labels, len(layer.W))
    dG = loss.curvature(Z, T)(along.W @ F.T + along.b[:, None]) * (block.counted / N)
    return Layer(total.W + dG @ F, total.b + jnp.sum(dG, axis=1))


@partial(jax.jit, static_argnames=("loss",))
def mean_curvature(block: Block, layer: Layer, loss: Loss) -> Float[Array, "K K"]:
    """Return the mean of ∇²_z ℓ over a block's samples."""
    F, K = _wide(block), len(layer.W)
    Z, T = layer.W @ F.T + layer.b[:, None], _targets(loss, block.labels, K)
    apply = loss.curvature(Z, T)
    rows = jax.lax.map(lambda e: jnp.mean(apply(jnp.broadcast_to(e[:, None], Z.shape)), axis=1), jnp.eye(K))
    return (rows + rows.T) / 2


@partial(jax.jit, static_argnames=("loss",), donate_argnums=0)
def _along_null(
    total: Array, block: Block, layer: Layer, u: Array, a: Array, x: Array, y: Array, N: Array, loss: Loss
) -> Float[Array, " two"]:
    """Add ‖Gᵀu‖² and the loss's part of vᵀHv along (x u aᵀ, −y a vᵀ), v = Gᵀu/‖Gᵀu‖ scaled by y's size."""
    F = _wide(block)
    Z, T = layer.W @ F.T + layer.b[:, None], _targets(loss, block.labels, len(layer.W))
    G = loss.slope(Z, T) * (block.counted / N)
    image = G.T @ u
    dZ = x * jnp.outer(u, F @ a) - y * jnp.outer(layer.W @ a, image)
    bend = jnp.sum(dZ * loss.curvature(Z, T)(dZ) * (block.counted / N))
    return total + jnp.stack([jnp.sum(image**2), bend])


def along_null(
    samples: Samples, layer: Layer, u: Array, a: Array, x: float, y: float, loss: Loss, say: Say | None = None
) -> tuple[float, float]:
    """Return ‖Gᵀu‖² and Σ ⟨dZ, ∇²ℓ dZ⟩/N, dZ of the direction (x u aᵀ, −y a (Gᵀu)ᵀ) in (W, H)."""
    total, N = jnp.zeros(2), float(samples.number)
    for block in samples.blocks(say, "curvature"):
        total = _along_null(total, block, layer, u, a, x, y, N, loss)
    square, bend = (float(value) for value in total)
    return square, bend


def _wide(block: Block) -> Float[Array, "m d"]:
    return block.features.astype(jnp.float64) * block.counted[:, None]


def _targets(loss: Loss, labels: Int[Array, " m"], K: int) -> Float[Array, "K m"]:
    one_hot = (jnp.arange(K, dtype=labels.dtype)[:, None] == labels[None]).astype(jnp.float64)
    return loss.targets_of(one_hot)
