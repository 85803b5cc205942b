"""What a sweep does: configuration, lanes and shards. Without JAX, so that `ufm --help` is quick."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

NAMED_TARGETS = ("minima", "saddles", "both")
Target = str | int  # one of `NAMED_TARGETS`, or the index of saddles
Space = Literal["auto", "full", "collapsed"]
Spectra = Literal["all", "needed"]

LARGEST = 2**63 - 1  # of int64: rows are numbered by it, and a key is made of such a seed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Searches on one landscape: `starts` of them for each of its settings and targets.

    Raises:
        ValueError: naming the argument and its value: starts < 1, a seed that is no int64, an unknown target
            or spectra, more rows than int64 counts.
    """

    starts: int = 1000
    seed: int = 0
    target: Target = "minima"
    spectra: Spectra = "all"
    keep_points: bool = False
    shard_size: int = 4096

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("seed", 0), ("shard_size", 1)):
            _check_integer(name, getattr(self, name), least)
        _check_choice("spectra", self.spectra, get_args(Spectra))
        if isinstance(self.target, str):
            _check_choice("target", self.target, (*NAMED_TARGETS, "an index"))
        else:
            _check_integer("target", self.target, 0)
        _check_flags(self)
        if self.num_rows > LARGEST:
            raise ValueError(f"starts: need at most {LARGEST} rows in all, got {self.num_rows}")

    @property
    def num_settings(self) -> int:
        """How many settings of the landscape's fields there are."""
        return 1

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The settings: names and values of fields, one entry a setting."""
        return {}

    @property
    def targets(self) -> tuple[Target, ...]:
        """The searches made from each start number."""
        return ("minima", "saddles") if self.target == "both" else (self.target,)

    @property
    def num_rows(self) -> int:
        """Rows of the result: one a start, setting and target."""
        return len(self.targets) * self.num_settings * self.starts

    def digest(self) -> str:
        """Return a hash that two configurations share exactly if they describe the same rows."""
        return _hash(asdict(self))


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Plan):
    """A sweep of one unconstrained feature model over a grid of decays.

    Raises:
        ValueError: as `Plan`, and for an unknown space or an empty list of decays. What concerns the problem
            is checked by `unconstrained.model`.
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
    space: Space = "auto"

    def __post_init__(self) -> None:
        _check_choice("space", self.space, get_args(Space))
        for name in ("counts", "decay_w", "decay_h", "decay_b"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise ValueError(f"{name}: need a tuple of at least one number, got {values!r}")
        super().__post_init__()

    @property
    def num_settings(self) -> int:
        return math.prod(map(len, (self.decay_w, self.decay_h, self.decay_b)))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        grid = itertools.product(self.decay_w, self.decay_h, self.decay_b)
        each = map(np.array, zip(*grid, strict=True))
        return dict(zip(("decay_w", "decay_h", "decay_b"), each, strict=True))


@dataclass(frozen=True)
class CensusConfig:
    """A census of critical orbits of one problem; `starts` bounds it, or it ends when it has settled.

    Raises:
        ValueError: naming the argument and its value: starts < 1, a seed that is no int64.
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
        if self.starts is not None:
            _check_integer("starts", self.starts, 1)
        _check_integer("seed", self.seed, 0)
        if not isinstance(self.counts, tuple):
            raise ValueError(f"counts: need a tuple of numbers, got {self.counts!r}")
        _check_flags(self)

    def digest(self) -> str:
        """Return a hash of what makes its orbits: all but `starts`, so that a census can be taken further."""
        return _hash(asdict(self) | {"starts": None})


def digest_of(config: dict[str, Any]) -> tuple[str, str]:
    """Return what `digest` would be of a manifest's configuration: of a sweep, of a census."""
    return _hash(config), _hash(config | {"starts": None})


def _check_flags(config: "Plan | CensusConfig") -> None:
    for name in ("bias", "keep_points"):
        if not isinstance(value := getattr(config, name, False), bool):
            raise ValueError(f"{name}: need True or False, got {value!r}")
    for name in ("smoothing", "gamma"):
        if isinstance(value := getattr(config, name, 0.0), bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: need a number, got {value!r}")


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: need one of {allowed}, got {value!r}")


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}: need an integer, got {value!r}")
    if not least <= value <= LARGEST:
        raise ValueError(f"{name}: need between {least} and {LARGEST}, got {value}")


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Shard(NamedTuple):
    """A run of lanes with one target; lane i of a target is start i % starts of setting i // starts."""

    number: int
    target: Target
    first: int
    stop: int


def num_shards(config: Plan) -> int:
    """Return how many shards there are; each has at most `shard_size` lanes, all of one target."""
    return len(config.targets) * -(-_lanes(config) // config.shard_size)


def shard(config: Plan, number: int) -> Shard:
    """Return one of the shards, counted from 0."""
    turn, place = divmod(number, num_shards(config) // len(config.targets))
    first = place * config.shard_size
    return Shard(number, config.targets[turn], first, min(first + config.shard_size, _lanes(config)))


def shards(config: Plan) -> Iterator[Shard]:
    """Yield the shards in order."""
    return (shard(config, number) for number in range(num_shards(config)))


def lanes_of(config: Plan, lanes: Any) -> tuple[Any, Any]:
    """Return the starts and the settings of lanes of a target."""
    return lanes % config.starts, lanes // config.starts


def settings_of(config: Plan, setting: Any) -> dict[str, Any]:
    """Return the columns of the fields of lanes with these settings (an integer array)."""
    return {name: values[setting] for name, values in config.columns.items()}


def _lanes(config: Plan) -> int:
    return config.num_rows // len(config.targets)
