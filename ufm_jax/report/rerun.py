"""What a run's folder says of how it was made, and the command that makes it again."""

import shlex
from dataclasses import fields
from pathlib import Path

from ufm_jax.objects import assignments
from ufm_jax.runs.plan import CensusConfig, SweepConfig, loss_of, short_name

ALWAYS = ("starts", "seed", "target")  # flags that a command shows though they have their default values


def command(config: SweepConfig | CensusConfig, out: Path) -> str:
    """Return the command line that makes this run in the folder `out`."""
    words = ["ufm", "sweep" if isinstance(config, SweepConfig) else "census"]
    if len(set(config.counts)) == 1:
        words += ["--num-classes", str(len(config.counts)), "--per-class", str(config.counts[0])]
    else:
        words += ["--counts", ",".join(map(str, config.counts))]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "counts" or (value == field.default and field.name not in ALWAYS):
            continue
        if field.name == "loss":
            words += _loss_flags(config)
        elif field.name == "bias":
            words.append("--no-bias")
        elif value is True:
            words.append(_flag(field.name))
        elif value is not None:
            values = value if isinstance(value, tuple) else (value,)
            words += [_flag(field.name), *map(str, values)]
    return shlex.join([*words, "--out", str(out)])


def _loss_flags(config: SweepConfig | CensusConfig) -> list[str]:
    loss = loss_of(config)
    name, settings = short_name(loss), assignments(loss.settings)
    chosen = [] if name == "cross-entropy" else ["--loss", name]
    return [*chosen, *(["--loss-set", *settings] if settings else [])]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
