"""The state of a search in a file, so that a search that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.theorem.enclose import Boxes
from experiments.theorem.search import State, Zero
from ufm_jax.files import write_file

# What decides which boxes are excluded, and what is left of them.
DECIDE = ("intervals", "convex", "convexity", "enclose", "minimiser", "search", "setting")
COUNTS = ("evaluated", "excluded", "absorbed", "outside", "seconds")


def fingerprint() -> str:
    """Return a hash of the source that decides: what other code has excluded is not taken over."""
    digest = hashlib.sha256()
    for name in DECIDE:
        digest.update(name.encode() + b"\0" + Path(__file__).with_name(f"{name}.py").read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def save(path: Path, identity: dict[str, Any], state: State) -> None:
    """Write a state, whole or not at all."""
    facts = {
        "identity": identity,
        "zeros": [asdict(z) for z in state.zeros],
        "undecided": state.undecided,
        "counts": {name: getattr(state, name) for name in COUNTS},
    }
    drawn = np.concatenate(state.drawn) if state.drawn else np.zeros((0, 0))
    arrays = {**state.boxes._asdict(), "drawn": drawn, "facts": np.array(json.dumps(facts))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def load(path: Path, identity: dict[str, Any]) -> State | None:
    """Read the state of this very search; None if there is none, or of another or by other code."""
    if not path.exists():
        return None
    with np.load(path) as content:
        facts = json.loads(str(content["facts"]))
        if facts["identity"] != identity:
            return None
        boxes = Boxes(*(content[name] for name in Boxes._fields))
        drawn = [content["drawn"]] if content["drawn"].size else []
    zeros = [Zero(tuple(z["s"]), z["radius"], z["within"], tuple(z["loss"])) for z in facts["zeros"]]
    return State(boxes, zeros, facts["undecided"], drawn=drawn, **facts["counts"])
