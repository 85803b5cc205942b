"""Images and labels: MNIST, Fashion-MNIST, CIFAR10 and scikit-learn's digits, checked before they are used.

Files are searched for in a data directory and downloaded into it where they are not there. A checksum is that
of what a file holds once decompressed (archives: of the archive), so that a repacked file is as good as the
original. Images are uint8, N x h x w x c; labels int32.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ufm_jax.networks.arguments import labelled

# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class Split(NamedTuple):
    """Labelled images."""

    images: UInt8[np.ndarray, "N h w c"]
    labels: Int[np.ndarray, " N"]


class Dataset(NamedTuple):
    """What a network is trained on and what it is tested on."""

    name: str
    num_classes: int
    train: Split
    test: Split


class Source(NamedTuple):
    """One file: where it comes from, the MD5 of it (as published) and of what it holds decompressed."""

    url: str
    md5: str
    content_md5: str


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_IDX = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_IDX_TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
_CIFAR = "cifar-10-binary.tar.gz"
SOURCES: dict[str, dict[str, Source]] = {
    "mnist": {
        _IDX[0]: Source(_MNIST, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        _IDX[1]: Source(_MNIST, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        _IDX_TEST[0]: Source(_MNIST, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        _IDX_TEST[1]: Source(_MNIST, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    },
    "fashion-mnist": {
        _IDX[0]: Source(_FASHION, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        _IDX[1]: Source(_FASHION, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        _IDX_TEST[0]: Source(
            _FASHION, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"
        ),
        _IDX_TEST[1]: Source(
            _FASHION, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"
        ),
    },
    "cifar10": {
        _CIFAR: Source(
            "https://www.cs.toronto.edu/~kriz/",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "c32a1d4ab5d03f1284b67883e8d87530",
        )
    },
}
NAMES = (*SOURCES, "digits")


def load(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Return a data set by name: mnist, fashion-mnist, cifar10 or digits (8 x 8, needs scikit-learn).

    Files lie in DATA_DIR/NAME; by default in the user's cache, or Debian's folder for Fashion-MNIST.

    Raises:
        ValueError: for an unknown name; for a file that is missing and cannot be downloaded, truncated or
            altered: it says which file to put where, and where it is to be had.
    """
    if name not in NAMES:
        raise ValueError(f"dataset: need one of {', '.join(NAMES)}, got {name!r}")
    if name == "digits":
        return _digits()
    folder = _folder(name, data_dir)
    held = {file: _content(name, file, folder, download) for file in SOURCES[name]}
    if name == "cifar10":
        train, test = _read_cifar(held[_CIFAR], folder / _CIFAR)
    else:
        train, test = (
            Split(
                _read_idx(held[images], 3, folder / images)[..., None],
                _read_idx(held[labels], 1, folder / labels).astype(np.int32),
            )
            for images, labels in (_IDX, _IDX_TEST)
        )
    return Dataset(name, 10, train, test)


def _folder(name: str, data_dir: Path | None) -> Path:
    if data_dir is not None:
        return Path(data_dir) / name
    if name == "fashion-mnist" and DEBIAN.is_dir():
        return DEBIAN
    import pooch  # type: ignore[import-untyped]

    return Path(pooch.os_cache("ufm_jax")) / name


def _content(name: str, file: str, folder: Path, download: bool) -> bytes:
    """Return what a file holds (an archive as it is), downloaded if it is not there; checksum checked."""
    path, source = folder / file, SOURCES[name][file]
    advice = f"put {file} from {source.url}{file} (MD5 {source.md5}) into {folder}"
    if name == "fashion-mnist":
        advice += ", or install Debian's package dataset-fashion-mnist and give no data_dir"
    if not path.exists():
        why = _fetch(file, folder, source) if download else "it is not there"
        if why:
            raise ValueError(f"data_dir: {path}: {why}; {advice}")
    raw = path.read_bytes()
    try:
        content = raw if file.endswith(".tar.gz") else gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"data_dir: {path} is truncated or altered ({error}); remove it, then {advice}"
        ) from error
    found = hashlib.md5(content).hexdigest()
    if found != source.content_md5:
        raise ValueError(
            f"data_dir: {path} is truncated or altered: the MD5 of its content is {found}, "
            f"need {source.content_md5}; remove it, then {advice}"
        )
    return content


def _fetch(file: str, folder: Path, source: Source) -> str:
    """Download a file into the folder; return why it could not be done, or nothing."""
    import pooch

    print(f"downloading {source.url}{file} to {folder}", flush=True)
    try:
        pooch.retrieve(source.url + file, known_hash=f"md5:{source.md5}", fname=file, path=folder)
    except (OSError, ValueError) as error:  # no network, no room, a wrong checksum
        return f"it is not there and cannot be downloaded ({str(error).splitlines()[0]})"
    return ""


def _read_idx(content: bytes, num_axes: int, path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic 0, 0, 8, number of axes; their lengths; the bytes."""
    start = 4 + 4 * num_axes
    lengths = np.frombuffer(content[4:start], ">u4").tolist()
    if content[:4] != bytes([0, 0, 8, num_axes]) or len(content) != start + int(np.prod(lengths)):
        raise ValueError(f"data_dir: {path} is no IDX file of unsigned bytes with {num_axes} axes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)


def _read_cifar(content: bytes, path: Path) -> tuple[Split, Split]:
    """Read CIFAR10's binary version: records of one label and 3 x 32 x 32 bytes."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            files = [archive.extractfile(members[name]) for name in names]
            records = [np.frombuffer(f.read(), np.uint8).reshape(-1, 3073) for f in files if f]
    except (KeyError, tarfile.TarError, ValueError) as error:
        raise ValueError(f"data_dir: {path} is not CIFAR10's binary version: {error}") from error

    def split(rows: np.ndarray) -> Split:
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), rows[:, 0].astype(np.int32))

    return split(np.concatenate(records[:5])), split(records[5])


def _digits() -> Dataset:
    """Scikit-learn's digits; of each class every fifth is for testing."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    labels = bunch.target.astype(np.int32)
    everything = Split(np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None], labels)
    rank = np.zeros_like(labels)
    for k in range(10):
        rank[labels == k] = np.arange(np.sum(labels == k))
    held_out = rank % 5 == 4
    return Dataset("digits", 10, *(Split(*(a[which] for a in everything)) for which in (~held_out, held_out)))


def stratified(split: Split, per_class: int, seed: int = 0) -> Split:
    """Return `per_class` random images of each class, in random order.

    Raises:
        ValueError: if a class has fewer, or `per_class` is below 1; naming images or labels that are no
            split, as all functions of this module that take one.
    """
    labelled(*split)
    least = int(np.bincount(split.labels).min())
    if not 1 <= per_class <= least:
        raise ValueError(f"per_class: need 1 <= per_class <= {least} (smallest class), got {per_class}")
    rng = np.random.default_rng(seed)
    classes = range(int(split.labels.max()) + 1)
    chosen = [rng.permutation(np.flatnonzero(split.labels == k))[:per_class] for k in classes]
    order = rng.permutation(np.concatenate(chosen))
    return Split(split.images[order], split.labels[order])


def random_labels(split: Split, seed: int = 0) -> Split:
    """Return the same images with their labels permuted: random, and each class as large as before."""
    labelled(*split)
    return split._replace(labels=np.random.default_rng(seed).permutation(split.labels))


def pooled(split: Split, factor: int) -> Split:
    """Average the images over squares of `factor` x `factor` pixels.

    Raises:
        ValueError: if `factor` does not divide the images' height and width.
    """
    labelled(*split)
    N, h, w, c = split.images.shape
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"factor: need a divisor of the image size {h} x {w}, got {factor}")
    blocks = split.images.reshape(N, h // factor, factor, w // factor, factor, c)
    return split._replace(images=np.rint(blocks.mean((2, 4))).astype(np.uint8))


def as_rgb32(split: Split) -> Split:
    """Pad images with black to 32 x 32 and repeat one channel thrice, as the paper feeds MNIST to a ResNet.

    Raises:
        ValueError: for images larger than 32 x 32, or of other than 1 or 3 channels.
    """
    labelled(*split)
    _, h, w, c = split.images.shape
    if h > 32 or w > 32 or c not in (1, 3):
        raise ValueError(f"images: need at most 32 x 32 with 1 or 3 channels, got {h} x {w} x {c}")
    top, left = (32 - h) // 2, (32 - w) // 2
    margins = ((0, 0), (top, 32 - h - top), (left, 32 - w - left), (0, 0))
    return split._replace(images=np.repeat(np.pad(split.images, margins), 3 // c, axis=-1))


def prepared(data: Dataset, *steps: Callable[[Split], Split]) -> Dataset:
    """Apply the steps to both splits in turn."""
    for step in steps:
        data = data._replace(train=step(data.train), test=step(data.test))
    return data
