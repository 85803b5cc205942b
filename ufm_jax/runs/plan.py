"""What a sweep does: configuration, lanes and shards. Without JAX, so that `ufm --help` is quick."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

Target = Literal["minima", "saddles", "both"]
Space = Literal["auto", "full", "collapsed"]
Spectra = Literal["all", "needed"]


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: one problem shape, a grid of decays, and `starts` searches a decay setting and target.

    Raises:
        ValueError: naming the argument and its value: starts < 1, seed < 0, an unknown target, space or
            spectra, an empty list of decays. What concerns the problem is checked by `model.problem`.
    """

    counts: tuple[int, ...]
    dim: int
    decay_w: tuple[float, ...]
    decay_h: tuple[float, ...]
    decay_b: tuple[float, ...]
    bias: bool = True
    loss: str = "cross-entropy"
    smoothing: float = 0.0
    gamma: float = 2.0
    starts: int = 1000
    seed: int = 0
    target: Target = "minima"
    space: Space = "auto"
    spectra: Spectra = "all"
    keep_points: bool = False
    shard_size: int = 4096

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("seed", 0), ("shard_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: need >= {least}, got {getattr(self, name)}")
        choices = (("target", get_args(Target)), ("space", get_args(Space)), ("spectra", get_args(Spectra)))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: need one of {allowed}, got {getattr(self, name)!r}")
        for name in ("decay_w", "decay_h", "decay_b"):
            if not getattr(self, name):
                raise ValueError(f"{name}: need at least one value, got none")

    @property
    def settings(self) -> list[tuple[float, float, float]]:
        """The grid: every (λ_W, λ_H, λ_b)."""
        return list(itertools.product(self.decay_w, self.decay_h, self.decay_b))

    @property
    def targets(self) -> tuple[Target, ...]:
        """The searches made from each start number."""
        return ("minima", "saddles") if self.target == "both" else (self.target,)

    @property
    def num_rows(self) -> int:
        """Rows of the result: one a start, decay setting and target."""
        return len(self.targets) * len(self.settings) * self.starts

    def digest(self) -> str:
        """Return a hash that two configurations share exactly if they describe the same rows."""
        return _hash(asdict(self))


@dataclass(frozen=True)
class CensusConfig:
    """A census of critical orbits of one problem; `starts` bounds it, or it ends when it has settled.

    Raises:
        ValueError: naming the argument and its value: starts < 1, seed < 0.
    """

    counts: tuple[int, ...]
    dim: int
    decay_w: float
    decay_h: float
    decay_b: float
    bias: bool = True
    loss: str = "cross-entropy"
    smoothing: float = 0.0
    gamma: float = 2.0
    seed: int = 0
    starts: int | None = None

    def __post_init__(self) -> None:
        if self.starts is not None and self.starts < 1:
            raise ValueError(f"starts: need >= 1, got {self.starts}")
        if self.seed < 0:
            raise ValueError(f"seed: need >= 0, got {self.seed}")

    def digest(self) -> str:
        """Return a hash of what makes its orbits: all but `starts`, so that a census can be taken further."""
        return _hash(asdict(self) | {"starts": None})


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Shard(NamedTuple):
    """A run of lanes with one target; lane i of a target is start i % starts of setting i // starts."""

    number: int
    target: Target
    first: int
    stop: int


def shards(config: SweepConfig) -> Iterator[Shard]:
    """Yield the shards in order; each has at most `shard_size` lanes."""
    lanes = len(config.settings) * config.starts
    runs = [(t, i) for t in config.targets for i in range(0, lanes, config.shard_size)]
    for number, (target, first) in enumerate(runs):
        yield Shard(number, target, first, min(first + config.shard_size, lanes))
