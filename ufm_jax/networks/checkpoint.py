"""A run's state on disk: written whole or not at all, and read back bit for bit by the same run only."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.files import write_file


def save(path: Path, state: Any, history: list[dict[str, Any]], identity: dict[str, Any]) -> None:
    """Write the state (any pytree of arrays), its history and what run it belongs to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"leaf{i}": np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))}
    arrays |= {"history": np.array(json.dumps(history)), "identity": np.array(_text(identity))}
    write_file(path, lambda file: np.savez(file, **arrays))


def restore(path: Path, like: Any, identity: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Return the state and history in `path`; `like` is a state of the same structure.

    Raises:
        ValueError: naming the file, if it cannot be read, has other arrays, or belongs to another run: what
            differs is said.
    """
    expected, structure = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        history, belongs = (json.loads(str(found.pop(name))) for name in ("history", "identity"))
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        raise ValueError(f"checkpoint: cannot read {path} ({error}); remove it to start again") from error
    here, there = _flat(json.loads(_text(identity))), _flat(belongs)
    unsaid = [name for name in here if name not in there]
    if unsaid:
        raise ValueError(
            f"checkpoint: {path} does not say its {', '.join(unsaid)}, as older versions wrote it: it may be "
            "of another run; remove it to start again, or choose another file"
        )
    if here != there:
        names = [name for name in there if there[name] != here.get(name)]
        said = ", ".join(f"{name} ({there[name]}, here {here.get(name)})" for name in names)
        raise ValueError(
            f"checkpoint: {path} belongs to another run: it differs in {said}; choose another file, or "
            "remove it to start again"
        )
    leaves = [found.get(f"leaf{i}") for i in range(len(found))]
    shapes = [(a.shape, str(a.dtype)) for a in expected]
    if shapes != [None if a is None else (a.shape, str(a.dtype)) for a in leaves]:
        raise ValueError(f"checkpoint: {path} holds other arrays than this network; remove it to start again")
    return jax.tree.unflatten(structure, [jnp.asarray(a) for a in leaves]), history


def _flat(identity: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _text(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
