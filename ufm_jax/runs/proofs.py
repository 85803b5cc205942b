"""Proofs of a census's orbits, DIR/proofs.json: all that another program needs to check every one of them.

    problem   the landscape in numbers (of f: counts, dim, bias, loss, decays), exactly: "0x1.8p-9"
    orbits    how many entries there are
    proofs    one entry a row of orbits.csv, numbered by `line` from 0. `centre` ± `radius` is the box, in the
              coordinates of the proof (of f, of a point of rank r: W (K,r), H (r,K), whose column k is √n_k
              times the feature of class k, and b (K), rows first); entries "mantissa p exponent" are exact:
              "-0x1bp-7" is −27/128. lower and upper hold the critical value; index, nullity and
              global_minimum are those in all coordinates, `statement` says the same in words; failed says
              what could not be shown of a row that is not proved
    alike     pairs of lines of which it was not shown that they are different orbits, up to all symmetries

Sets of numbers that `landscape.proof` and `landscape.balls` explain. `python -m experiments.check_proofs`
checks the file and shares no code with what wrote it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufm_jax.files import write_json
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proof import PRECISIONS, Proof, alike, prove_row

FILE = "proofs.json"
Listen = Callable[[int, int, str], None]  # steps done, of how many, what to say


@dataclass(frozen=True)
class Proved:
    """Proofs of the rows of a census, in their order, and pairs not shown to be different orbits."""

    proofs: list[Proof]
    alike: list[tuple[int, int]]

    def __str__(self) -> str:
        return _told([proof.failed for proof in self.proofs], self.alike)


def told(out: Path) -> str:
    """Return how many orbits DIR/proofs.json proves, and what was not shown."""
    held = json.loads((out / FILE).read_text())
    return _told([one["failed"] for one in held["proofs"]], held["alike"])


def _told(failed: list[str | None], alike: Sequence[Sequence[int]]) -> str:
    proved = failed.count(None)
    different = ", pairwise different" if proved > 1 and not alike else ""
    lines = [f"{proved} of {len(failed)} orbits are proved{different}"]
    lines += [f"orbit {line} is not proved: {why}" for line, why in enumerate(failed) if why is not None]
    return "\n".join([*lines, *(f"orbits {i} and {j} are not shown to be different" for i, j in alike)])


def prove_rows(
    landscape: Landscape,
    points: Sequence[Any],
    rows: Sequence[Any],
    listen: Listen | None = None,
    precisions: Sequence[int] = PRECISIONS,
) -> Proved:
    """Prove each row of a census at its point, in so many bits; `listen` hears of every one.

    Raises:
        ValueError: naming the landscape or its loss, if it cannot be evaluated over balls.
    """
    proofs: list[Proof] = []
    for x, row in zip(points, rows, strict=True):
        if listen is not None:
            listen(len(proofs), len(rows), f"{sum(proof.proved for proof in proofs)} proved")
        proofs.append(prove_row(landscape.balls(x), row, precisions))
    if listen is not None:
        listen(len(rows), len(rows), f"{sum(proof.proved for proof in proofs)} proved")
    return Proved(proofs, alike(proofs))


def write(out: Path, digest: str, landscape: Landscape, rows: Sequence[Any], proved: Proved) -> None:
    """Write DIR/proofs.json."""
    entries = [
        {"line": line, "loss": float(row.loss).hex(), **proof.record()}
        for line, (row, proof) in enumerate(zip(rows, proved.proofs, strict=True))
    ]
    content = {
        "format": "ufm proofs 2",
        "digest": digest,
        "problem": landscape.balls(landscape.zeros()).problem(),
        "orbits": len(entries),
        "alike": proved.alike,
        "proofs": entries,
    }
    write_json(out / FILE, content)


def marked(out: Path, digest: str, rows: list[Any]) -> list[Any]:
    """Return rows with what DIR/proofs.json says of each, if it is of this census; else as they are."""
    try:
        held = json.loads((out / FILE).read_text())
        if held["digest"] != digest:
            return rows
        known: dict[str, list[bool]] = {}
        for one in held["proofs"]:
            known.setdefault(one["loss"], []).append(one["proved"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or no file of ours
        return rows
    told = [known.get(float(row.loss).hex(), []) for row in rows]
    return [row._replace(proved=left.pop(0)) if left else row for row, left in zip(rows, told, strict=True)]
