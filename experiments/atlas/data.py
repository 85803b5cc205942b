"""The atlas as data: a folder a setting, written once and read back with everything checked.

    atlas/K3_d2/orbits.json     all there is to say of each orbit (`schema`), coordinates included
    atlas/K3_d2/orbits.npz      W (m,K,d), H (m,d,K), b (m,K) and the numbers of the table, one entry an orbit
    atlas/K3_d2/orbits.parquet  the same as a table, with the setting in columns; matrices rows first
    atlas/K3_d2/proofs.json     `runs.proofs`: python -m experiments.check_proofs atlas/K3_d2/proofs.json
    atlas/atlas.schema.json, LICENSE.txt, VERSION, and SHA256SUMS of all these (sha256sum -c SHA256SUMS)

Order is the same everywhere: orbits by loss, the lowest first; classes as in W's rows; matrices rows first.
Losses have 32 digits, of which the last may be off by what `loss_radius` says; that much is proved.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.atlas.branches import branches_of
from experiments.atlas.flows import Edge
from experiments.atlas.schema import BRANCHES, SCHEMA
from experiments.atlas.theorem import proved_complete
from ufm_jax.files import provenance, write_file, write_json
from ufm_jax.landscape.census import point_of
from ufm_jax.landscape.orbits import Census, OrbitRow, rows
from ufm_jax.landscape.proof import Proof
from ufm_jax.models.unconstrained.closed_forms import theta
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.names import merged
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.runs import proofs
from ufm_jax.runs.orbits import proved_rows, summarise

VERSION = "1.1.0"  # of the data: the first number says that readers must change, the second that data do
DIGITS = 32
BITS = (256, 512)  # of proofs: a box of 2^-128, so that a loss has 36 digits
LICENSE = (
    "The data in this folder are licensed under the Creative Commons Attribution 4.0 International License\n"
    "(CC BY 4.0), https://creativecommons.org/licenses/by/4.0/. Cite the software, ufm_jax, and the version\n"
    "of the data (VERSION). The code that made them is under the licence of its repository (Apache 2.0).\n"
)
SUMS, SCHEMA_FILE = "SHA256SUMS", "atlas.schema.json"
FLAT = ("W", "H", "b", "logits", "singular_values")  # arrays of an orbit's record
NESTED = ("flows", "merged")  # in the JSON alone


class Surveyed(NamedTuple):
    """What an experiment found of one setting: its census, and where asked for flows and branches."""

    problem: Problem
    state: Census
    flows: tuple[list[Edge], int] | None = None
    branches: dict[str, Any] | None = None  # `branches.recorded`


class Setting(NamedTuple):
    """A setting read back: the function, the content of orbits.json, and a point of each orbit."""

    problem: Problem
    content: dict[str, Any]
    points: list[Params]  # in the problem: W (K,d), H (d,N), b (K)


def name_of(prob: Problem) -> str:
    """Return the name of a setting's folder."""
    return f"K{prob.num_classes}_d{prob.dim}"


def write(atlas: Path, surveyed: Surveyed) -> Path:
    """Write the data of one setting and bring the checksums up to date; return its folder."""
    prob, state = surveyed.problem, surveyed.state
    found, proved = rows(prob, state), proved_rows(prob, state, precisions=BITS)
    out = atlas / name_of(prob)
    out.mkdir(parents=True, exist_ok=True)
    content = content_of(surveyed, found, proved.proofs, proved.alike)
    write_json(out / "orbits.json", content)
    proofs.write(out, f"atlas {VERSION}", prob, found, proved)
    columns: dict[str, Any] = _columns(content["orbits"])
    write_file(out / "orbits.npz", lambda file: np.savez_compressed(file, **columns))
    table = io.BytesIO()
    pq.write_table(_table(content), table, compression="zstd")
    write_file(out / "orbits.parquet", lambda file: file.write(table.getvalue()))
    write_json(atlas / SCHEMA_FILE, SCHEMA)
    write_text(atlas / "LICENSE.txt", LICENSE)
    write_text(atlas / "VERSION", f"{VERSION}\n")
    _write_sums(atlas)
    return out


def content_of(
    surveyed: Surveyed, found: list[OrbitRow], proved: list[Proof], alike: list[tuple[int, int]]
) -> dict[str, Any]:
    """Return orbits.json."""
    prob, summary = surveyed.problem, summarise(surveyed.problem, surveyed.state)
    held = surveyed.branches
    on = branches_of(prob, held, surveyed.state.points) if held else [None] * len(found)
    edges = None if surveyed.flows is None else surveyed.flows[0]
    orbits = [
        {
            "line": line,
            **_of_orbit(prob, row, proof, point_of(prob, surveyed.state, line)),
            "flows": None if edges is None else [_flow(edge) for edge in edges if edge.saddle == line],
            "branch": branch,
        }
        for line, (row, proof, branch) in enumerate(zip(found, proved, on, strict=True))
    ]
    return {
        "format": "ufm atlas 1",
        "version": VERSION,
        "license": "CC-BY-4.0",
        "made_by": provenance(),
        "setting": _setting(prob),
        **{name: summary[name] for name in ("settled", "complete_as_tested", "num_starts")},
        "complete_as_proved": proved_complete(prob, found),
        "alike": [list(pair) for pair in alike],
        "unknown_flows": None if surveyed.flows is None else surveyed.flows[1],
        "branches": None if held is None else {name: held[name] for name in BRANCHES},
        "orbits": orbits,
    }


def read(folder: Path) -> Setting:
    """Return a setting, after a look at its checksums, that its files agree, and what each point's f is.

    Raises:
        ValueError: naming the file that is missing, changed, or does not agree with the others.
    """
    check_sums(folder.parent, folder.name)
    content = json.loads((folder / "orbits.json").read_text())
    if content["format"] != SCHEMA["properties"]["format"]["const"]:
        raise ValueError(f"folder: {folder} is of another format, {content['format']!r}")
    told = _columns(content["orbits"])
    with np.load(folder / "orbits.npz", allow_pickle=False) as held:
        same = lambda a, b: a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        if set(held) != set(told) or not all(same(held[name], told[name]) for name in told):
            raise ValueError(f"folder: {folder / 'orbits.npz'} and orbits.json do not agree")
    if not pq.read_table(folder / "orbits.parquet").equals(_table(content)):
        raise ValueError(f"folder: {folder / 'orbits.parquet'} and orbits.json do not agree")
    setting = content["setting"]
    names = ("counts", "dim", "decay_w", "decay_h", "decay_b", "bias")
    prob = problem(**{name: setting[name] for name in names})
    return Setting(prob, content, [_point(prob, orbit) for orbit in content["orbits"]])


def check_sums(atlas: Path, folder: str = "") -> None:
    """Raise ValueError naming a file, if it is not as SHA256SUMS says: those in `folder`, or all."""
    lines = [line.split("  ", 1) for line in (atlas / SUMS).read_text().splitlines()]
    chosen = {name: told for told, name in lines if name.startswith(folder)}
    if not chosen:
        raise ValueError(f"folder: {atlas / SUMS} names no file of {folder!r}")
    for name, told in chosen.items():
        if not (atlas / name).exists() or _sum(atlas / name) != told:
            raise ValueError(f"folder: {atlas / name} is missing or is not what {SUMS} says")


def write_text(path: Path, text: str) -> None:
    """Write a text as a file, whole or not at all."""
    write_file(path, lambda file: file.write(text.encode()))


def folders(atlas: Path) -> list[Path]:
    """Return the folders of the settings, in order of K and d."""
    sizes = lambda path: tuple(int(part[1:]) for part in path.name.split("_"))
    return sorted((path.parent for path in atlas.glob("K*_d*/orbits.json")), key=sizes)


def _of_orbit(prob: Problem, row: OrbitRow, proof: Proof, point: Params) -> dict[str, Any]:
    W, H = np.asarray(point.W), np.asarray(point.H)
    H = H[:, np.cumsum((0, *prob.counts[:-1]))]  # the first sample of each class: all have its feature
    b = np.zeros(prob.num_classes) if point.b is None else np.asarray(point.b)
    digits, radius = proof.digits(DIGITS) or (None, None)
    told = row._asdict()
    names = ("rank", "index", "nullity", "orbit_dim", "copies", "stabiliser", "hits")
    return {
        "name": row.name,
        "loss": row.loss,
        "loss_digits": digits,
        "loss_radius": radius,
        "verdict": row.verdict,
        "proved": proof.proved,
        "statement": proof.record()["statement"],
        "global_minimum": proof.global_minimum,
        **{name: told[name] for name in names},
        "merged": [[int(k) for k in classes] for classes in merged(W @ H)],
        "singular_values": np.linalg.svd(W @ H, compute_uv=False).tolist(),
        **{"W": W.tolist(), "H": H.tolist(), "b": b.tolist(), "logits": (W @ H + b[:, None]).tolist()},
    }


def _flow(edge: Edge) -> dict[str, Any]:
    return {"to": edge.reached, "generic": edge.generic, "other": edge.other, "flows": edge.flows}


def _setting(prob: Problem) -> dict[str, Any]:
    return {
        "model": "unconstrained feature model",
        "num_classes": prob.num_classes,
        "dim": prob.dim,
        "counts": list(prob.counts),
        "loss": prob.loss.name,
        "bias": prob.bias,
        **{name: float(getattr(prob, name)) for name in ("decay_w", "decay_h", "decay_b")},
        "kt": prob.num_classes * float(theta(prob)),
    }


def _columns(orbits: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return what an npz holds: NaN for numbers that are null, "" for texts."""
    names = [name for name in orbits[0] if name not in (*NESTED, "statement")]
    return {name: _array([orbit[name] for orbit in orbits]) for name in names}


def _array(values: list[Any]) -> np.ndarray:
    if all(isinstance(v, str | None) for v in values) and any(isinstance(v, str) for v in values):
        return np.array(["" if v is None else v for v in values])
    return np.array([np.nan if v is None else v for v in values])


def _table(content: dict[str, Any]) -> pa.Table:
    """Return the orbits as a table, with the setting in its first columns."""
    setting, orbits = content["setting"], content["orbits"]
    own = {name: setting[name] for name in ("num_classes", "dim", "decay_w", "decay_h", "decay_b")}
    columns = {name: [value] * len(orbits) for name, value in own.items()}
    columns |= {name: [orbit[name] for orbit in orbits] for name in orbits[0] if name not in NESTED}
    flat = lambda values: np.ravel(values).tolist()
    columns |= {name: [flat(orbit[name]) for orbit in orbits] for name in FLAT}
    columns |= {"merged": [json.dumps(orbit["merged"]) for orbit in orbits]}
    kinds = {"global_minimum": pa.bool_(), "branch": pa.int64()}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
    told = {"format": content["format"], "version": content["version"], "license": content["license"]}
    return pa.table(arrays).replace_schema_metadata(told)


def _point(prob: Problem, orbit: dict[str, Any]) -> Params:
    H = np.repeat(np.array(orbit["H"]), prob.counts, axis=1)
    b = jnp.array(orbit["b"]) if prob.bias else None
    return Params(jnp.array(orbit["W"]), jnp.array(H), b)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_sums(atlas: Path) -> None:
    files = sorted(
        path for path in atlas.rglob("*") if path.is_file() and path.suffix != ".html" and path.name != SUMS
    )
    text = "".join(f"{_sum(path)}  {path.relative_to(atlas)}\n" for path in files)
    write_text(atlas / SUMS, text)
