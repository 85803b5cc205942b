"""What a run's folder says of how it was made, and the command that makes it again."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from ufm_jax.runs.plan import CensusConfig, SweepConfig
from ufm_jax.runs.store import manifest

ALWAYS = ("starts", "seed", "target")  # flags that a command shows though they have their default values


def manifest_of(out: Path) -> dict[str, Any]:
    """Return the manifest of a run.

    Raises:
        ValueError: naming `out`, if it holds no run or the manifest cannot be read.
    """
    path = out / "manifest.json"
    if not path.is_file():
        raise ValueError(
            f"out: {out} holds no run: there is no {path}; need a folder that ufm sweep or census made"
        )
    content = manifest(out)
    if not isinstance(content.get("config"), dict):
        raise ValueError(f"out: cannot read {path}: config is no object")
    return content


def config_of(out: Path, held: dict[str, Any]) -> SweepConfig | CensusConfig:
    """Return the configuration of a manifest, of an older version with today's defaults for what is new.

    Raises:
        ValueError: naming `out`, if it lacks what has no default.
    """
    kind: type[Any] = SweepConfig if "target" in held["config"] else CensusConfig
    known = {field.name for field in fields(kind)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in held["config"].items() if k in known}
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"out: cannot read the configuration in {out / 'manifest.json'}: {error}") from error


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
        if field.name == "bias":
            words.append("--no-bias")
        elif value is True:
            words.append(_flag(field.name))
        elif value is not None:
            values = value if isinstance(value, tuple) else (value,)
            words += [_flag(field.name), *map(str, values)]
    return shlex.join([*words, "--out", str(out)])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
