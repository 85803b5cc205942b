"""A run's state on disk: written whole or not at all, and read back bit for bit by the same run only."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.runs.durable import write_file


def save(path: Path, state: Any, history: list[dict[str, Any]], identity: dict[str, Any]) -> None:
    """Write the state (any pytree of arrays), its history and what run it belongs to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"leaf{i}": np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))}
    arrays |= {"history": np.array(json.dumps(history)), "identity": np.array(_text(identity))}
    write_file(path, lambda file: np.savez(file, **arrays))


def restore(path: Path, like: Any, identity: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Return the state and history in `path`; `like` is a state of the same structure.

    Raises:
        ValueError: naming the file, if it cannot be read, belongs to another run or has other arrays.
    """
    expected, structure = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        history, belongs = json.loads(str(found.pop("history"))), str(found.pop("identity"))
    except Exception as error:  # zipfile, NumPy and the OS each raise their own
        raise ValueError(f"checkpoint: cannot read {path} ({error}); remove it to start again") from error
    if belongs != _text(identity):
        raise ValueError(f"checkpoint: {path} belongs to another run: {belongs}; choose another file")
    leaves = [found.get(f"leaf{i}") for i in range(len(found))]
    shapes = [(a.shape, str(a.dtype)) for a in expected]
    if shapes != [None if a is None else (a.shape, str(a.dtype)) for a in leaves]:
        raise ValueError(f"checkpoint: {path} holds other arrays than this network; remove it to start again")
    return jax.tree.unflatten(structure, [jnp.asarray(a) for a in leaves]), history


def _text(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
