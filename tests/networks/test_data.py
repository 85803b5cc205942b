"""Files are read as they are or refused with advice; subsets, labels and augmentation keep their promises."""

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.networks import data
from ufm_jax.networks.augment import crop_and_flip


def idx(array: np.ndarray) -> bytes:
    """Encode an IDX file of unsigned bytes."""
    return (
        bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    )


def place(monkeypatch, folder, name: str, contents: dict[str, bytes], url: str = "") -> None:
    """Write small files under the names of a data set, and make their checksums the right ones."""
    folder.mkdir(parents=True)
    sources = {}
    for file, content in contents.items():
        raw = content if file.endswith(".tar.gz") else gzip.compress(content)
        (folder / file).write_bytes(raw)
        sources[file] = data.Source(url, *(hashlib.md5(b).hexdigest() for b in (raw, content)))
    monkeypatch.setitem(data.SOURCES, name, sources)


@pytest.fixture
def small_mnist(monkeypatch, tmp_path):
    """An MNIST of seven images to train on and three to test on."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (n, 28, 28), np.uint8) for n in (7, 3)]
    labels = [rng.integers(0, 10, n, np.uint8) for n in (7, 3)]
    files = [(data._IDX, 0), (data._IDX_TEST, 1)]
    contents = {f: idx((images, labels)[i][s]) for names, s in files for i, f in enumerate(names)}
    place(monkeypatch, tmp_path / "mnist", "mnist", contents)
    return tmp_path, images, labels


def test_idx_files_are_read_as_they_are(small_mnist):
    folder, images, labels = small_mnist
    loaded = data.load("mnist", folder, download=False)
    for split, pixels, classes in zip((loaded.train, loaded.test), images, labels, strict=True):
        np.testing.assert_array_equal(split.images[..., 0], pixels)
        np.testing.assert_array_equal(split.labels, classes)


def test_cifar_is_read_channels_last(monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 10, (4, 3073), np.uint8) for _ in range(6)]
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, batch in zip(names, batches, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = batch.size
            archive.addfile(member, io.BytesIO(batch.tobytes()))
    place(monkeypatch, tmp_path / "cifar10", "cifar10", {data._CIFAR: stream.getvalue()})
    loaded = data.load("cifar10", tmp_path, download=False)
    assert loaded.train.images.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(loaded.test.labels, batches[5][:, 0])
    green = batches[1][2, 1 + 1024 : 1 + 2048].reshape(32, 32)
    np.testing.assert_array_equal(loaded.train.images[6, :, :, 1], green)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def alter(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1] + b"!"))


@pytest.mark.parametrize("spoil", [truncate, alter, lambda path: path.unlink()])
def test_a_bad_file_is_named_with_what_to_put_where(small_mnist, spoil):
    folder, *_ = small_mnist
    path = folder / "mnist" / "t10k-labels-idx1-ubyte.gz"
    spoil(path)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz") as caught:
        data.load("mnist", folder, download=False)
    assert f"into {path.parent}" in str(caught.value)
    assert "MD5" in str(caught.value)


def test_files_are_downloaded_with_a_checksum(monkeypatch, tmp_path, small_mnist, capsys):
    folder, images, _ = small_mnist
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder / "mnist")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        sources = {f: s._replace(url=url) for f, s in data.SOURCES["mnist"].items()}
        monkeypatch.setitem(data.SOURCES, "mnist", sources)
        loaded = data.load("mnist", tmp_path / "fresh")
        np.testing.assert_array_equal(loaded.train.images[..., 0], images[0])
        alter(folder / "mnist" / data._IDX[1])
        with pytest.raises(ValueError, match="cannot be downloaded"):
            data.load("mnist", tmp_path / "other")
        server.shutdown()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="dataset: need one of mnist"):
        data.load("imagenet")


def test_fashion_mnist_is_whole():
    try:
        loaded = data.load("fashion-mnist", download=False)
    except ValueError as error:
        pytest.skip(f"no Fashion-MNIST here: {error}")
    for split, per_class in ((loaded.train, 6000), (loaded.test, 1000)):
        np.testing.assert_array_equal(np.bincount(split.labels), [per_class] * 10)
    assert loaded.train.images.shape == (60000, 28, 28, 1)


def test_subsets_are_stratified_and_differ_by_seed():
    train = data.load("digits").train
    few, other = (data.stratified(train, 5, seed) for seed in (0, 1))
    np.testing.assert_array_equal(np.bincount(few.labels), [5] * 10)
    assert not np.array_equal(few.images, other.images)
    rows = {image.tobytes(): label for image, label in zip(*train, strict=True)}
    assert all(rows[image.tobytes()] == label for image, label in zip(*few, strict=True))
    with pytest.raises(ValueError, match="per_class: need 1 <= per_class"):
        data.stratified(train, 1000)


def test_random_labels_are_a_permutation():
    few = data.stratified(data.load("digits").train, 50)
    mixed = data.random_labels(few, 3)
    np.testing.assert_array_equal(np.bincount(mixed.labels), [50] * 10)
    np.testing.assert_array_equal(mixed.images, few.images)
    assert 0.02 < np.mean(mixed.labels == few.labels) < 0.2  # 0.1 is expected, 0.013 its deviation


def test_pooling_and_padding():
    rng = np.random.default_rng(2)
    split = data.Split(rng.integers(0, 256, (2, 28, 28, 1), np.uint8), np.zeros(2, np.int32))
    small = data.pooled(split, 2).images
    assert abs(int(small[1, 3, 4, 0]) - split.images[1, 6:8, 8:10, 0].mean()) <= 0.5
    with pytest.raises(ValueError, match="factor: need a divisor"):
        data.pooled(split, 3)
    wide = data.as_rgb32(split).images
    assert wide.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(wide[:, 2:-2, 2:-2, 2], split.images[..., 0])
    assert wide.sum() == 3 * split.images.sum(dtype=int)


def test_augmentation_shifts_and_mirrors():
    pixels = jnp.asarray(np.random.default_rng(3).integers(1, 256, (20, 6, 6, 1), np.uint8))
    changed = np.asarray(jax.jit(lambda k, x: crop_and_flip(k, x, 1))(jax.random.key(0), pixels))
    padded = np.pad(np.asarray(pixels), ((0, 0), (1, 1), (1, 1), (0, 0)))
    mirrored = 0
    for image, after in zip(padded, changed, strict=True):
        windows = [image[i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        flipped = any(np.array_equal(w[:, ::-1], after) for w in windows)
        mirrored += flipped
        assert flipped or any(np.array_equal(w, after) for w in windows)
    assert 3 <= mirrored <= 17
