"""Files of last layers: names and number types of every framework are one point; other files say why not."""

import io
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from ufm_jax.models.unconstrained.arrays import Slices, find, read_point

RNG = np.random.default_rng(0)
W, H = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=(7, 4)).astype(np.float32)
b, LABELS = RNG.normal(size=3).astype(np.float32), np.array([0, 1, 2, 0, 1, 2, 0])


def same(found, bias=True):
    np.testing.assert_array_equal(np.asarray(found.W, np.float32), W)
    np.testing.assert_array_equal(np.asarray(found.H, np.float32), H)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.b is not None) == bias
    if bias:
        np.testing.assert_array_equal(np.asarray(found.b, np.float32), b)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ("W", "b"),
        ("weight", "bias"),
        ("fc.weight", "fc.bias"),
        ("module.fc.weight", "module.fc.bias"),
        ("state_dict.classifier.weight", "state_dict.classifier.bias"),
        ("head/weight", "head/bias"),
    ],
)
@pytest.mark.parametrize(
    ("features", "labels"), [("H", "labels"), ("features", "targets"), ("train_features", "y")]
)
def test_names_of_other_frameworks(weight, bias, features, labels, tmp_path):
    others = {"layer1.0.conv1.weight": np.zeros((3, 3)), "layer1.0.conv1.bias": np.zeros(3)}
    np.savez(tmp_path / "p.npz", **{weight: W, bias: b, features: H, labels: LABELS}, **others)
    same(read_point(tmp_path / "p.npz"))


def test_a_kernel_is_transposed_and_that_is_said():
    found = find({"Dense_0.kernel": W.T, "Dense_0.bias": b, "H": H, "labels": LABELS}, {}, "here")
    same(found)
    assert "Dense_0.kernel was transposed" in " ".join(found.notes)


def test_the_bias_is_that_of_the_same_module_or_none():
    held = {"fc.weight": W, "other.bias": b, "H": H, "labels": LABELS}
    same(find(held, {}, "here"), bias=False)
    same(find(held, {"b": "other.bias"}, "here"))


def test_where_names_leave_it_open_all_candidates_are_named():
    held = {"a.weight": W, "c.weight": W, "x": H, "labels": LABELS}
    with pytest.raises(
        ValueError, match=r"^file: here has several arrays that may be W: a\.weight, c\.weight"
    ):
        find(held | {"H": H}, {}, "here")
    with pytest.raises(
        ValueError, match=r"^file: here has no H or features; it holds .*x \(7, 4\); names say"
    ):
        find(held, {"W": "a.weight"}, "here")
    same(find(held | {"a.bias": b}, {"W": "a.weight", "H": "x"}, "here"))
    with pytest.raises(ValueError, match=r"^names: here has no 'z'"):
        find(held, {"W": "z"}, "here")
    with pytest.raises(ValueError, match=r"^names: need some of W, H, labels, b, got V"):
        find(held, {"V": "x"}, "here")


def npy_files(folder, to=lambda a: a):
    for name, array in {"weight": to(W), "features": to(H), "bias": to(b), "labels": LABELS}.items():
        np.save(folder / f"{name}.npy", array)
    return sorted(folder.glob("*.npy"))


def test_npy_files_and_their_folder_are_mapped_into_memory(tmp_path):
    files = npy_files(tmp_path)
    for given in (files, [tmp_path]):
        found = read_point(*given)
        same(found)
        assert isinstance(found.H, np.memmap)
    with pytest.raises(ValueError, match=r"^file: .*features.npy is one array, \(7, 4\), need the others"):
        read_point(files[1])
    with pytest.raises(ValueError, match=r"^file: several of .* hold 'weight'"):
        read_point(*files, files[-1])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_number_types(dtype, tmp_path):
    npy_files(tmp_path, lambda a: a.astype(dtype))
    found = read_point(tmp_path)
    assert found.H.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found.H, np.float64), H.astype(dtype).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_safetensors_are_read_by_rows_and_columns(dtype, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    weights = {"module.fc.weight": W.astype(dtype), "module.fc.bias": b.astype(dtype)}
    numpy.save_file(weights, tmp_path / "model.safetensors")
    numpy.save_file({"features": H.astype(dtype), "labels": LABELS}, tmp_path / "data.safetensors")
    found = read_point(tmp_path)
    assert isinstance(found.H, Slices)
    assert (found.H.shape, found.H.dtype) == (H.shape, dtype)
    np.testing.assert_array_equal(found.H[2:4], H.astype(dtype)[2:4])
    np.testing.assert_array_equal(found.H[:, 1:3], H.astype(dtype)[:, 1:3])
    np.testing.assert_array_equal(np.asarray(found.W), W.astype(dtype))


class Tensor:
    def __init__(self, array):
        self.array = array

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def numpy(self):
        return self.array


@pytest.mark.parametrize("first", [b"\x80\x02}q", b"PK"])
def test_of_a_file_of_pytorch_the_two_lines_that_export_it_are_given_and_run(first, tmp_path, monkeypatch):
    file = tmp_path / "it's.pt"
    if first == b"PK":
        held = io.BytesIO()
        np.savez(held, **{"archive/data.pkl": W})
        first = held.getvalue()
    file.write_bytes(first)
    with pytest.raises(ValueError, match=r"^file: .* looks like PyTorch's own") as refused:
        read_point(file)
    lines = str(refused.value).splitlines()[1:]
    assert len(lines) == 2
    tensors = {"fc.weight": W.astype(np.float64), "fc.bias": b, "features": H, "labels": LABELS}

    def load(asked, map_location, weights_only):
        assert asked == str(file)
        return {name: Tensor(a) for name, a in tensors.items()} | {"epoch": 3}

    fake = types.SimpleNamespace(load=load, is_tensor=lambda a: isinstance(a, Tensor))
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    same(read_point(tmp_path / "point.npz"))


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("p.csv", b"1,2\n3,4\n", r"is text, no npz archive.*np\.savez"),
        ("p.h5", b"\x89HDF\r\n\x1a\n", r"is HDF5, no npz archive"),
        ("p.npy", b"\x93NUMPY\x01\x00", r"cannot read .* as npy"),
        ("p.npz", b"PK\x03\x04nothing", r"is no npz archive"),
        ("p", b"", r"no npz archive"),
    ],
)
def test_files_of_other_kinds_say_what_to_do(name, content, hint, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^file: .*{hint}"):
        read_point(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^file: .* is a folder without"):
        read_point(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"^file: give one"):
        read_point()


def test_objects_are_refused_and_not_run(tmp_path):
    np.save(tmp_path / "H.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"^file: cannot read .*H\.npy as npy"):
        read_point(tmp_path)
