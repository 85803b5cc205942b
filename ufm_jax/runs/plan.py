"""What a sweep does: configuration, lanes and shards. Without JAX, so that `ufm --help` is quick."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ufm_jax import objects
from ufm_jax.models.unconstrained.loss_names import LOSSES
from ufm_jax.objects import Spec

NAMED_TARGETS = ("minima", "saddles", "both")
Target = str | int  # one of `NAMED_TARGETS`, or the index of saddles
Space = Literal["auto", "full", "collapsed"]
Spectra = Literal["all", "needed"]
SearchDtype = Literal["auto", "float32", "float64"]

NEUTRAL = {"smoothing": 0.0, "gamma": 2.0}  # what manifests have said of every built-in loss

LARGEST = 2**63 - 1  # of int64: rows are numbered by it, and a key is made of such a seed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Searches on one landscape: `starts` of them for each of its settings and targets.

    Raises:
        ValueError: naming the argument and its value: starts < 1, a seed that is no int64, an unknown target,
            spectra or search_dtype, more rows than int64 counts.
    """

    starts: int = 1000
    seed: int = 0
    target: Target = "minima"
    spectra: Spectra = "all"
    search_dtype: SearchDtype = "auto"
    keep_points: bool = False
    shard_size: int = 4096

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("seed", 0), ("shard_size", 1)):
            _check_integer(name, getattr(self, name), least)
        _check_choice("spectra", self.spectra, get_args(Spectra))
        _check_choice("search_dtype", self.search_dtype, get_args(SearchDtype))
        if isinstance(self.target, str) and self.target.isdecimal():
            object.__setattr__(self, "target", int(self.target))
        if isinstance(self.target, str):
            _check_choice("target", self.target, (*NAMED_TARGETS, "an index"))
        else:
            _check_integer("target", self.target, 0)
            object.__setattr__(self, "target", int(self.target))
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

    @cached_property
    def content(self) -> dict[str, Any]:
        """What a manifest holds of it."""
        return _content(self)

    def digest(self) -> str:
        """Return a hash that two configurations share exactly if they describe the same rows."""
        return _hash(self.content)


@dataclass(frozen=True, kw_only=True)
class LandscapeConfig(Plan):
    """A sweep of any landscape, made by its name; `grid` holds settings with several values each.

    Raises:
        ValueError: as `Plan`. What concerns the landscape is checked when it is made (`recipe.grid_of`).
    """

    landscape: Spec
    grid: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values, the last setting fastest."""
        names = [name for name, _ in self.grid]
        return [dict(zip(names, c, strict=True)) for c in itertools.product(*(v for _, v in self.grid))]

    @property
    def num_settings(self) -> int:
        return math.prod(len(values) for _, values in self.grid)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        real = {name for name, values in self.grid if all(isinstance(v, int | float) for v in values)}
        return {
            name: np.array([float(c[name]) for c in self.combinations])
            for name, _ in self.grid
            if name in real
        }


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Plan):
    """A sweep of one unconstrained feature model over a grid of decays.

    `loss` is a name as `chosen_loss` takes it, what that returns, or an instance of `Loss`, which a folder
    can hold if its class is at the top of a file or module.

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
    loss: Any = "cross-entropy"
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


Sweep = SweepConfig | LandscapeConfig  # what a folder can hold


class CensusPlan:
    """A census of one landscape; `starts` bounds it, or it ends when it has settled."""

    seed: int
    starts: int | None

    def __post_init__(self) -> None:
        if self.starts is not None:
            _check_integer("starts", self.starts, 1)
        _check_integer("seed", self.seed, 0)
        _check_flags(self)

    @cached_property
    def content(self) -> dict[str, Any]:
        """What a manifest holds of it."""
        return _content(self)

    def digest(self) -> str:
        """Return a hash of what makes its orbits: all but `starts`, so that a census can be taken further."""
        return _hash(self.content | {"starts": None})


@dataclass(frozen=True)
class CensusConfig(CensusPlan):
    """A census of critical orbits of one unconstrained feature model.

    `loss` as of a `SweepConfig`.

    Raises:
        ValueError: naming the argument and its value: starts < 1, a seed that is no int64.
    """

    counts: tuple[int, ...]
    dim: int
    decay_w: float
    decay_h: float
    decay_b: float
    bias: bool = True
    loss: Any = "cross-entropy"
    seed: int = 0
    starts: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.counts, tuple):
            raise ValueError(f"counts: need a tuple of numbers, got {self.counts!r}")


@dataclass(frozen=True)
class LandscapeCensusConfig(CensusPlan):
    """A census of any landscape, made by its name.

    Raises:
        ValueError: as `CensusConfig`. What concerns the landscape is checked when it is made (`recipe`).
    """

    landscape: Spec
    seed: int = 0
    starts: int | None = None


def digest_of(config: dict[str, Any]) -> tuple[str, str]:
    """Return what `digest` would be of a manifest's configuration: of a sweep, of a census."""
    return _hash(config), _hash(config | {"starts": None})


def chosen_loss(name: str, settings: Mapping[str, Any] | None = None) -> Spec:
    """Return the specification of a loss: a name in `LOSSES`, module:Class or file.py:Class.

    Raises:
        ValueError: naming the loss, as `objects.spec`; nothing is imported yet.
    """
    if ":" not in name and name not in LOSSES:
        raise ValueError(f"loss: need {', '.join(LOSSES)}, module:Class or file.py:Class, got {name!r}")
    path, given = LOSSES.get(name, name), dict(settings or {})
    if path in LOSSES.values():
        given = {n: _real(v) for n, v in given.items() if v is not None and v != NEUTRAL.get(n)}
    return objects.spec("loss", path, given)


def _real(value: Any) -> Any:
    """Return integers as real numbers, so that 1 and 1.0 are one run."""
    if isinstance(value, tuple | list):
        return tuple(map(_real, value))
    return float(value) if type(value) is int else value


def held_landscape(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields `landscape` and `grid` that a manifest holds."""
    settings = objects.held(content.get("landscape_set", {}))
    grid = tuple((str(name), tuple(values)) for name, values in content.get("grid", ()))
    return {"landscape": Spec(content["landscape"], settings, content.get("landscape_source")), "grid": grid}


def chosen_landscape(name: str, assigned: Iterable[str]) -> dict[str, Any]:
    """Return the fields `landscape` and `grid` of texts as name=value; a name given twice has two values.

    Raises:
        ValueError: naming the landscape or the text, as `objects.spec`; nothing is imported yet.
    """
    values: dict[str, list[Any]] = {}
    for text in assigned:
        for setting, value in objects.parsed("set", [text]).items():
            values.setdefault(setting, []).append(value)
    single = {setting: given[0] for setting, given in values.items() if len(given) == 1}
    grid = {setting: tuple(given) for setting, given in values.items() if len(given) > 1}
    made = objects.spec("landscape", name, single)
    return {"landscape": made, "grid": objects.held(grid)}


def built_loss(config: "SweepConfig | CensusConfig") -> Any:
    """Return the loss itself.

    Raises:
        ValueError: naming the loss, as `objects.make`.
    """
    return objects.make("loss", config.loss) if isinstance(config.loss, Spec) else config.loss


def loss_of(config: "SweepConfig | CensusConfig") -> Spec:
    """Return the specification of the loss, which is not imported.

    Raises:
        ValueError: naming the loss, if a folder cannot hold it: as `objects.spec_of`.
    """
    return config.loss if isinstance(config.loss, Spec) else objects.spec_of("loss", config.loss)


def short_name(loss: Spec) -> str:
    """Return the name by which a command line finds the loss."""
    return next((name for name, path in LOSSES.items() if path == loss.name), loss.name)


def held_loss(content: Mapping[str, Any]) -> Spec:
    """Return the specification that a manifest holds."""
    name = str(content.get("loss", "cross-entropy"))
    given = dict(content.get("loss_set", {}))
    if name in LOSSES:
        return chosen_loss(name, {n: content[n] for n in NEUTRAL if n in content} | given)
    return Spec(name, objects.held(given), content.get("loss_source"))


def _content(config: Plan | CensusPlan) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]
        if field.name == "loss":
            content |= _held(loss_of(config))  # type: ignore[arg-type]
        elif field.name == "landscape":
            made: Spec = getattr(config, "landscape")  # noqa: B009
            content["landscape"], content["landscape_source"] = made.name, made.source
            content["landscape_set"] = dict(made.settings)
        elif (field.name, getattr(config, field.name)) == ("search_dtype", "auto"):
            continue  # older manifests do not hold it
        else:
            content[field.name] = getattr(config, field.name)
    return content


def _held(loss: Spec) -> dict[str, Any]:
    """Return what a manifest holds of a loss: of a built-in one, what it has always held, if that says it."""
    name, settings = short_name(loss), dict(loss.settings)
    if name not in LOSSES:
        return {"loss": name, "loss_set": settings, "loss_source": loss.source}
    always = {n: settings.pop(n, neutral) for n, neutral in NEUTRAL.items()}
    return {"loss": name, **always, **({"loss_set": settings} if settings else {})}


def _check_flags(config: Plan | CensusPlan) -> None:
    if isinstance(name := getattr(config, "loss", None), str):
        object.__setattr__(config, "loss", chosen_loss(name))
    for name in ("bias", "keep_points"):
        if not isinstance(value := getattr(config, name, False), bool):
            raise ValueError(f"{name}: need True or False, got {value!r}")


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: need one of {allowed}, got {value!r}")


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}: need an integer, got {value!r}")
    if not least <= value <= LARGEST:
        raise ValueError(f"{name}: need between {least} and {LARGEST}, got {value}")


def _hash(content: dict[str, Any]) -> str:
    if "loss_set" in content:  # 1 on a command line is 1.0 in Python
        content = content | {"loss_set": {name: _real(v) for name, v in content["loss_set"].items()}}
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
