"""What a run's folder says of how it was made, and the command that makes it again."""

import shlex
from dataclasses import fields
from pathlib import Path

from ufm_jax.objects import assignments
from ufm_jax.runs.folder import Config
from ufm_jax.runs.plan import (
    CensusConfig,
    CensusPlan,
    LandscapeCensusConfig,
    LandscapeConfig,
    SweepConfig,
    loss_of,
    short_name,
)

ELSEWHERE = ("counts", "landscape", "grid")  # flags that are made of more than one field
ALWAYS = ("starts", "seed", "target")  # flags that a command shows though they have their default values


def command(config: Config, out: Path) -> str:
    """Return the command line that makes this run in the folder `out`."""
    words = ["ufm", "census" if isinstance(config, CensusPlan) else "sweep"]
    if isinstance(config, LandscapeConfig | LandscapeCensusConfig):
        words += _landscape_flags(config)
    elif len(set(config.counts)) == 1:
        words += ["--num-classes", str(len(config.counts)), "--per-class", str(config.counts[0])]
    else:
        words += ["--counts", ",".join(map(str, config.counts))]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ELSEWHERE or (value == field.default and field.name not in ALWAYS):
            continue
        if field.name == "loss":
            words += _loss_flags(config)  # type: ignore[arg-type]
        elif field.name == "bias":
            words.append("--no-bias")
        elif value is True:
            words.append(_flag(field.name))
        elif value is not None:
            values = value if isinstance(value, tuple) else (value,)
            words += [_flag(field.name), *map(str, values)]
    return shlex.join([*words, "--out", str(out)])


def _landscape_flags(config: LandscapeConfig | LandscapeCensusConfig) -> list[str]:
    varied = config.grid if isinstance(config, LandscapeConfig) else ()
    grid = [(name, value) for name, values in varied for value in values]
    settings = assignments([*config.landscape.settings, *grid])
    return ["--landscape", config.landscape.name, *(["--set", *settings] if settings else [])]


def _loss_flags(config: SweepConfig | CensusConfig) -> list[str]:
    loss = loss_of(config)
    name, settings = short_name(loss), assignments(loss.settings)
    chosen = [] if name == "cross-entropy" else ["--loss", name]
    return [*chosen, *(["--loss-set", *settings] if settings else [])]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
