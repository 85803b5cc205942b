"""Anyone's last layer, as files hold it: npz archives, npy files, safetensors, and the names in them.

Arrays of several files are one collection; an npy file's array has the name of the file. Of npy files and of
safetensors only what is asked for is read from the disk. A name counts by its last word, so that
`module.fc.weight`, `head/kernel` and `train_features` are W, W transposed (as Flax and Keras have it) and H.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

ROLES = {
    "W": ("w", "weight", "weights", "kernel"),
    "H": ("h", "features", "feature", "embeddings", "activations", "representations"),
    "labels": ("labels", "label", "targets", "target", "y"),
    "b": ("b", "bias"),
}
# Where several arrays are called a weight, the last layer's is the one of a module called so.
HEADS = ("fc", "classifier", "head", "logits", "output", "linear", "dense", "last")
WRITE = "np.savez('point.npz', W=W, H=H, b=b, labels=labels) writes one"
# Two lines that make an npz of what torch.save wrote: a dictionary of tensors, such as a state dict.
EXPORT = """\
import numpy as np, torch; held = torch.load({file!r}, map_location="cpu", weights_only=True)
np.savez("point.npz", **{{n: (t.float() if t.is_floating_point() else t).numpy() for n, t in held.items() if torch.is_tensor(t)}})"""  # noqa: E501


class Brought(NamedTuple):
    """What was found, in the shapes and types that it has there, and what was taken for granted."""

    W: Any
    H: Any
    b: Any
    labels: Any
    notes: list[str]


class Slices:
    """A matrix in a safetensors file, of which rows or columns are read as they are asked for."""

    def __init__(self, held: Any, name: str) -> None:
        self.held, self.shape = held.get_slice(name), tuple(held.get_slice(name).get_shape())
        self.dtype = self.held[:0].dtype
        self.ndim = len(self.shape)

    def __getitem__(self, asked: Any) -> np.ndarray:
        return self.held[asked]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.held[:], dtype)


def read_point(*files: Path | str, names: Mapping[str, str] | None = None) -> Brought:
    """Read W (K, d), H (d, N) or (N, d), labels (N,) and, if there, b (K,).

    A folder stands for the files in it. `names` says which array is which where names leave that open, as
    {"W": "encoder.out.weight"}.

    Raises:
        ValueError: naming `file` and what is unreadable or missing; `names`, if there is no such array.
    """
    if not files:
        raise ValueError(f"file: give one or more; {WRITE}")
    paths = [path for file in map(Path, files) for path in _inside(file)]
    held: dict[str, Any] = {}
    for path in paths:
        for name, array in _arrays(path, alone=len(paths) == 1).items():
            if name in held:
                raise ValueError(f"file: several of {', '.join(map(str, paths))} hold {name!r}")
            held[name] = array
    return find(held, names or {}, ", ".join(map(str, files)))


def find(held: Mapping[str, Any], names: Mapping[str, str], where: str) -> Brought:
    """Return what of the arrays is W, H, b and labels.

    Raises:
        ValueError: naming `file`, if something is missing or several arrays have an equal right to a name;
            `names`, if they name no array.
    """
    if unknown := [role for role in names if role not in ROLES]:
        raise ValueError(f"names: need some of {', '.join(ROLES)}, got {unknown[0]}")
    if absent := [name for name in names.values() if name not in held]:
        raise ValueError(f"names: {where} has no {absent[0]!r}; it holds {_listed(held)}")
    chosen = {role: names.get(role) or _chosen(role, held, where) for role in ("W", "H", "labels")}
    missing = [" or ".join(_offered(role)) for role in ("W", "H", "labels") if chosen[role] is None]
    if missing:
        hint = "; names say which array is which, as W=fc.weight H=penultimate"
        raise ValueError(
            f"file: {where} has no {', no '.join(missing)}; it holds {_listed(held)}{hint if held else ''}"
        )
    weight = str(chosen["W"])
    chosen["b"] = names.get("b") or _bias_beside(weight, held)
    W = held[weight]
    said = [
        f"{role} is {name}"
        for role, name in chosen.items()
        if name is not None and name != role and name not in _offered(role) and role not in names
    ]
    notes = [f"{', '.join(said)} in {where}"] if said else []
    if _words(weight)[-1] == "kernel":
        W = np.asarray(W).T
        notes.append(f"{weight} was transposed: kernels are (d, K)")
    b = None if chosen["b"] is None else held[chosen["b"]]
    return Brought(W, held[str(chosen["H"])], b, held[str(chosen["labels"])], notes)


def _chosen(role: str, held: Mapping[str, Any], where: str) -> str | None:
    """Return the name of the one array that may play this part, None if there is none."""
    for exact in _offered(role):
        if exact in held:
            return exact
    named = [name for name in held if _words(name)[-1] in ROLES[role]]
    if role == "W":
        named = [name for name in named if held[name].ndim == 2]
        heads = [name for name in named if _words(name)[-2:-1] and _words(name)[-2] in HEADS]
        named = heads if len(named) > 1 and heads else named
    if len(named) > 1:
        many = f"file: {where} has several arrays that may be {role}: {', '.join(named)}"
        raise ValueError(f"{many}; names say which, as {role}={named[-1]}")
    return named[0] if named else None


def _offered(role: str) -> tuple[str, ...]:
    """Return the names that need no word of explanation."""
    return {"W": ("W", "weight"), "H": ("H", "features"), "labels": ("labels",), "b": ("b", "bias")}[role]


def _words(name: str) -> list[str]:
    """Return the words of a name, in small letters: of module.fc_weight, module, fc and weight."""
    return re.split("[./:_]", name.lower())


def _bias_beside(weight: str, held: Mapping[str, Any]) -> str | None:
    """Return the name of the bias of the same module as a weight."""
    if weight in _offered("W"):
        return next((name for name in _offered("b") if name in held), None)
    stem = weight[: -len(_words(weight)[-1])]
    return next((name for name in (stem + "bias", stem + "b") if name in held), None)


def _listed(held: Mapping[str, Any], most: int = 20) -> str:
    shown = [f"{name} {tuple(array.shape)}" for name, array in sorted(held.items())]
    return (
        ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "nothing"
    )


def _inside(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for kind in ("npy", "npz", "safetensors") for file in path.glob(f"*.{kind}"))
    if not found:
        raise ValueError(f"file: {path} is a folder without .npy, .npz or .safetensors files; {WRITE}")
    return found


def _arrays(path: Path, *, alone: bool) -> dict[str, Any]:
    """Return the arrays of one file by name."""
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError as error:
        raise ValueError(f"file: cannot read {path}: {error.strerror or error}; {WRITE}") from error
    if first.startswith(b"\x93NUMPY"):
        return _npy(path, alone=alone)
    if path.suffix == ".safetensors" or first[8:] == b"{":
        return _safetensors(path)
    if first.startswith(b"PK"):
        return _npz(path)
    if first.startswith(b"\x80"):  # what torch.save wrote before it wrote zip archives, and pickles
        raise _of_pytorch(path)
    kinds = {".csv": "text", ".txt": "text", ".json": "text", ".mat": "MATLAB's", ".h5": "HDF5"}
    kind = kinds.get(path.suffix, "of another kind")
    raise ValueError(f"file: {path} is {kind}, no npz archive (a zip of arrays), npy or safetensors; {WRITE}")


def _of_pytorch(path: Path) -> ValueError:
    return ValueError(
        f"file: {path} looks like PyTorch's own (tensor.detach().cpu().numpy() makes arrays of its tensors), "
        f"need npz, with features and labels; two lines of Python write one:\n{EXPORT.format(file=str(path))}"
    )


def _npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if any(name.endswith("data.pkl") or "/data/" in name for name in held.files):
                raise _of_pytorch(path)
            try:
                return {name: _typed(held[name]) for name in held.files}
            except Exception as error:
                raise ValueError(f"file: cannot read {path} as npz: {error}; {WRITE}") from error
    except ValueError as error:
        if str(error).startswith("file: "):
            raise
        raise ValueError(f"file: {path} is no npz archive (a zip of arrays); {WRITE}") from error
    except Exception as error:  # zipfile has its own
        raise ValueError(f"file: {path} is no npz archive (a zip of arrays); {WRITE}") from error


def _npy(path: Path, *, alone: bool) -> dict[str, Any]:
    try:
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # objects, a header that is cut off
        raise ValueError(f"file: cannot read {path} as npy: {error}; np.save writes one") from error
    if alone:
        raise ValueError(
            f"file: {path} is one array, {held.shape}, need the others, too: give all npy files, or their "
            f"folder; or {WRITE}"
        )
    return {path.stem: _typed(held)}


def _typed(array: np.ndarray) -> np.ndarray:
    """Return bfloat16 as such, which NumPy stores as two bytes of no type."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ValueError(
            f"file: {path} needs the package safetensors (pip install 'ufm-jax[arrays]'); or {WRITE}"
        ) from error
    try:
        held = safe_open(path, framework="numpy")
        sizes = {name: held.get_slice(name).get_shape() for name in held.keys()}  # noqa: SIM118
        return {n: Slices(held, n) if len(size) == 2 else held.get_tensor(n) for n, size in sizes.items()}
    except Exception as error:  # the library's own
        raise ValueError(f"file: cannot read {path} as safetensors: {error}") from error
