"""`certify` from Python and on the command line: arrays of other frameworks, and the decays of training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.cli import main
from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.model_interface import certify
from ufm_jax.models.unconstrained import objective, own_point, sizes
from ufm_jax.models.unconstrained.arrays import read_point
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, etf_minimiser
from ufm_jax.models.unconstrained.losses import CrossEntropy, Squared
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.numerics import lanes

DECAYS = {"decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
PROB = problem(num_classes=3, per_class=4, dim=2, **DECAYS)
W, H, b = (np.asarray(a) for a in etf_minimiser(PROB))
LABELS = PROB.labels
SHUFFLED = np.random.default_rng(0).permutation(12)
BEST = float(balanced_minimum(PROB).loss)


class Tensor:
    """An array as PyTorch has it: it follows gradients and lies on a device, where NumPy may not read it."""

    def __init__(self, array, state=("grad", "cuda")):
        self.array, self.state = array, state

    def detach(self):
        return Tensor(self.array, tuple(s for s in self.state if s != "grad"))

    def cpu(self):
        assert "grad" not in self.state
        return Tensor(self.array, ())

    def __array__(self, dtype=None, copy=None):
        if self.state:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return np.asarray(self.array, dtype)


@pytest.mark.parametrize(
    ("how", "grad_tol"),
    [
        (np.asarray, 1e-9),
        (jnp.asarray, 1e-9),
        (np.ndarray.tolist, 1e-9),
        (Tensor, 1e-9),
        (lambda a: a.astype(np.float32), 1e-6),
        (lambda a: jnp.asarray(a, jnp.bfloat16), 1e-2),
    ],
)
@pytest.mark.parametrize("samples", ["columns", "rows"])
def test_arrays_of_any_framework_and_either_layout_in_any_order_are_one_point(how, grad_tol, samples):
    features = H[:, SHUFFLED] if samples == "columns" else H[:, SHUFFLED].T.copy()
    labels = LABELS[SHUFFLED]
    judged = certify(*map(how, (W, features, b)), labels, **DECAYS, grad_tol=grad_tol)
    assert judged.grad_norm < grad_tol
    assert judged.params.H.dtype == jnp.float64
    np.testing.assert_allclose(judged.params.H, H, rtol=1e-2)
    np.testing.assert_allclose(judged.loss, BEST, rtol=grad_tol)
    assert judged.accuracy == 1.0
    assert judged.decays == DECAYS
    if grad_tol == 1e-9:
        assert judged.verdict == Verdict.GLOBAL_MINIMUM
        assert judged.excess_loss == pytest.approx(0.0, abs=1e-15)
        assert judged.measures["nc1"] < 1e-20


def test_weight_decay_alone_takes_the_decay_of_features_that_balances():
    prob = problem(num_classes=3, per_class=4, dim=2, decay_w=5e-3, decay_h=1e-3, decay_b=5e-3)
    p = etf_minimiser(prob)
    judged = certify(*p, LABELS, weight_decay=5e-3)
    assert judged.decays["decay_w"] == judged.decays["decay_b"] == 5e-3
    np.testing.assert_allclose(judged.decays["decay_h"], 1e-3, rtol=1e-12)
    assert judged.verdict == Verdict.GLOBAL_MINIMUM
    assert judged.closed_form_loss == pytest.approx(judged.loss, rel=1e-12)
    (note,) = judged.notes
    assert note.startswith("decay_h balances")
    assert "note: decay_h balances" in str(judged)
    scaled = certify(p.W, 2 * p.H, p.b, LABELS, weight_decay=5e-3, decay_b=0.0)
    np.testing.assert_allclose(scaled.decays["decay_h"], 1e-3 / 4, rtol=1e-12)
    assert scaled.decays["decay_b"] == 0.0
    assert certify(p.W, p.H, None, LABELS, weight_decay=5e-3).decays["decay_b"] == 0.0
    assert certify(p.W, p.H, None, LABELS, decay_w=5e-3).notes == judged.notes
    assert not certify(p.W, p.H, None, LABELS, weight_decay=5e-3, decay_h=1e-3).notes


def test_accuracy_counts_samples_whose_own_logit_is_largest():
    wrong = LABELS.copy()
    wrong[[0, 4, 8]] = LABELS[[4, 8, 0]]
    assert certify(W, H, b, wrong, **DECAYS).accuracy == 0.75


def test_other_losses():
    smooth = problem(num_classes=3, per_class=4, dim=2, **DECAYS, loss=CrossEntropy(smoothing=0.1))
    judged = certify(*etf_minimiser(smooth), LABELS, **DECAYS, smoothing=0.1)
    assert judged.verdict == Verdict.GLOBAL_MINIMUM
    assert judged.prob.loss == smooth.loss
    assert certify(W, H, b, LABELS, **DECAYS, loss=Squared()).verdict == Verdict.NOT_CRITICAL
    with pytest.raises(ValueError, match=r"^smoothing: "):
        certify(W, H, b, LABELS, **DECAYS, loss=Squared(), smoothing=0.1)


def test_a_single_logit_is_two_of_half_its_size():
    labels, logits = np.minimum(LABELS, 1), W[0] @ H
    with pytest.raises(ValueError, match=r"^W: .*np\.vstack\(\[-W / 2, W / 2\]\)"):
        certify(W[:1], H, None, labels, weight_decay=1e-3)
    judged = certify(np.vstack([-W[:1] / 2, W[:1] / 2]), H, None, labels, weight_decay=1e-3)
    decay = judged.loss - float(np.mean(np.log1p(np.exp(np.where(labels == 1, -logits, logits)))))
    np.testing.assert_allclose(decay, 1e-3 * np.sum(W[0] ** 2) / 2, rtol=1e-12)  # H's is balanced with W's


def test_as_many_features_as_samples_must_be_told_apart():
    square = problem(num_classes=2, per_class=1, dim=2, **DECAYS)
    p = etf_minimiser(square)
    turn = jnp.asarray([[0.6, -0.8], [0.8, 0.6]])
    p = p._replace(W=p.W @ turn, H=turn.T @ p.H)
    with pytest.raises(ValueError, match=r"^H: .*samples='columns'.*samples='rows'"):
        certify(*p, square.labels, **DECAYS)
    for samples, features in (("columns", p.H), ("rows", p.H.T)):
        judged = certify(p.W, features, p.b, square.labels, **DECAYS, samples=samples)
        assert judged.verdict == Verdict.GLOBAL_MINIMUM
    with pytest.raises(ValueError, match=r"^samples: they are not the rows of H"):
        certify(W, H, b, LABELS, **DECAYS, samples="rows")


@pytest.mark.parametrize(
    ("change", "named", "hint"),
    [
        ({"labels": None}, "labels", "give the class"),
        ({"labels": LABELS + 1}, "labels", "subtract 1"),
        ({"labels": LABELS.astype(float)}, "labels", "astype"),
        ({"labels": np.eye(3)[LABELS]}, "labels", "argmax"),
        ({"labels": LABELS[:, None]}, "labels", "ravel"),
        ({"labels": LABELS[None]}, "labels", "ravel"),
        ({"labels": np.tile(LABELS, (2, 1))}, "labels", r"sequences take labels.ravel\(\) and H.reshape"),
        ({"labels": np.where(LABELS == 1, -100, LABELS)}, "labels", "keep = labels >= 0"),
        ({"labels": np.full((2, 3), "cat", dtype=object)}, "labels", "need a vector"),
        ({"labels": LABELS[:-1]}, "H", "need shape"),
        ({"W": W[:1], "b": b[:1], "labels": 0 * LABELS}, "W", "at least 2 classes"),
        ({"W": 1e160 * W, "H": 1e160 * H, "decay_h": None}, "H", "no network's"),
        ({"W": W.T}, "labels", "is W transposed"),
        ({"W": W[0]}, "W", "matrix"),
        ({"W": W + 1j}, "W", "real numbers"),
        ({"W": [[1.0, 2.0], [3.0]]}, "W", "NumPy array of list"),
        ({"H": H * np.nan}, "H", "non-finite"),
        ({"H": 0 * H, "decay_h": None}, "decay_h", "is zero"),
        ({"b": b[:2]}, "b", "need shape"),
        ({"decay_w": None}, "weight_decay", "neither"),
        ({"weight_decay": 1e-3}, "weight_decay", "both"),
        ({"decay_w": None, "weight_decay": -1.0}, "weight_decay", "finite number > 0"),
        ({"decay_w": 0.0}, "decay_w", "finite number > 0"),
        ({"grad_tol": np.inf}, "grad_tol", "finite number > 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_says_what_to_do(change, named, hint):
    given = {"W": W, "H": H, "b": b, "labels": LABELS, **DECAYS} | change
    with pytest.raises(ValueError, match=f"^{named}: .*{hint}"):
        certify(**given)


def test_float64_must_be_on():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"^jax_enable_x64: "):
        certify(W, H, b, LABELS, **DECAYS)


def command(tmp_path, arrays, *flags):
    np.savez(tmp_path / "p.npz", **arrays)
    main(["certify", str(tmp_path / "p.npz"), *flags, "--json"])


def test_the_command_says_the_same_and_what_it_took_for_granted(tmp_path, capsys):
    theirs = {"weight": W.astype(np.float32), "features": H.T, "bias": b, "labels": LABELS}
    command(tmp_path, theirs, "--weight-decay", "5e-3", "--grad-tol", "1e-6")
    said = capsys.readouterr()
    assert "ufm: decay_h balances" in said.err
    row = json.loads(said.out)
    here = certify(*theirs.values(), weight_decay=5e-3, grad_tol=1e-6)
    assert row.keys() == here.row.keys()
    for name in ("loss", "verdict", "decay_h", "accuracy", "closed_form_loss", "excess_loss", "notes"):
        assert row[name] == here.row[name]
    assert row["dual_gap"] == here.gap


def test_the_command_reads_square_features_by_column_and_says_so(tmp_path, capsys):
    square = problem(num_classes=2, per_class=1, dim=2, **DECAYS)
    p = {name: np.asarray(a) for name, a in etf_minimiser(square)._asdict().items()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in DECAYS.items()]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    p |= {"W": p["W"] @ turn, "H": turn.T @ p["H"], "labels": square.labels}
    command(tmp_path, p, *flags)
    said = capsys.readouterr()
    assert json.loads(said.out)["verdict"] == "GLOBAL_MINIMUM"
    assert "H is square" in said.err
    command(tmp_path, p | {"H": p["H"].T}, *flags, "--samples", "rows")
    said = capsys.readouterr()
    assert json.loads(said.out)["verdict"] == "GLOBAL_MINIMUM"
    assert "H is square" not in said.err


@pytest.mark.parametrize(
    ("write", "hint"),
    [
        (lambda file: file.write(b"1,2\n3,4\n"), "no npz archive.*np.savez"),
        (lambda file: file.write(b""), "no npz archive.*np.savez"),
        (lambda file: np.save(file, W), r"is one array, \(3, 2\), .*np.savez"),
        (lambda file: np.savez(file, **{"layer/data.pkl": W}), "looks like PyTorch.*detach"),
        (lambda file: np.savez(file, W=W, features=H), "has no labels; it holds"),
        (lambda file: np.savez(file, H=H), "has no W or weight, no labels"),
    ],
)
def test_files_of_other_kinds_are_named_and_say_what_to_do(tmp_path, write, hint):
    with (tmp_path / "point").open("wb") as file:
        write(file)
    with pytest.raises(ValueError, match=f"^file: .*{hint}") as refused:
        read_point(tmp_path / "point")
    assert "pickle" not in str(refused.value)
    with pytest.raises(ValueError, match=r"^file: cannot read .*No such file"):
        read_point(tmp_path / "absent.npz")


def row_of(weight, features):
    """Return what is judged of a point that is held."""
    point = own_point.own_point(weight, features, b, LABELS, **DECAYS)
    return own_point.as_row(point, own_point.examined(point, direction=False))


def test_a_point_that_is_not_critical_pays_for_no_spectrum_and_reports_the_same(monkeypatch):
    """Of all that is printed only the lowest curvature tried may be another: fewer directions are."""
    features = np.random.default_rng(1).normal(size=(5, 12))
    weight = np.random.default_rng(2).normal(size=(3, 5))
    point = own_point.own_point(weight, features, b, LABELS, **DECAYS)
    whole = own_point.as_row(point, jax.jit(examine)(point.prob, point.params))
    monkeypatch.setattr(own_point, "_examine", lambda *args, **given: pytest.fail("a spectrum was taken"))
    row = row_of(weight, features)
    assert row["verdict"] == "NOT_CRITICAL"
    assert row.keys() == whole.keys()
    assert row["negative_curvature"] >= whole["negative_curvature"] * (1 + 1e-9)
    for name in row.keys() - {"negative_curvature", "notes", "verdict", "reason"}:
        assert row[name] == (None if whole[name] is None else pytest.approx(whole[name], rel=1e-9)), name
    with pytest.raises(pytest.fail.Exception, match="a spectrum was taken"):
        row_of(W, H)


@pytest.mark.slow
@pytest.mark.parametrize("critical", [False, True])
def test_row_by_row_a_large_point_is_judged_as_a_small_one(critical, monkeypatch):
    shift = 0.0 if critical else 0.1
    small = row_of(W, H + shift)
    for module in (objective, sizes):
        monkeypatch.setattr(module, "LARGE", 1)
    jax.clear_caches()
    large = row_of(W, H + shift)
    jax.clear_caches()
    assert large["verdict"] == small["verdict"] == ("GLOBAL_MINIMUM" if critical else "NOT_CRITICAL")
    assert large["grad_norm"] == pytest.approx(small["grad_norm"], rel=1e-12, abs=1e-17)
    assert large["loss"] == pytest.approx(small["loss"], rel=1e-14)


def test_off_critical_points_no_buffer_is_as_large_as_the_features():
    """But for the features: the certificate's programs hold less than half of them beside."""
    N, d = 20_000, 256
    rng = np.random.default_rng(0)
    point = own_point.own_point(
        rng.normal(size=(3, d)), rng.normal(size=(d, N)), None, rng.integers(3, size=N), weight_decay=1e-3
    )
    for f, given in (
        (own_point.is_critical, {"grad_tol": 1e-8}),
        (own_point.examine_off_critical, {}),
    ):
        made = jax.jit(
            lambda prob, p, f=f, given=given: getattr(f(prob, p, **given), "evidence", 0),
            compiler_options=lanes.known(lanes.QUICK, "cpu"),
        )
        held = made.lower(point.prob, point.params).compile().memory_analysis().temp_size_in_bytes
        assert held < 0.5 * 8 * N * d


def test_features_are_sorted_once_and_not_copied_again():
    held = own_point._by_class(H.astype(np.float32)[:, SHUFFLED], np.argsort(SHUFFLED))
    np.testing.assert_array_equal(held, H.astype(np.float32).astype(np.float64))
    assert held.ctypes.data % 64 == 0
    assert jax.device_put(held, may_alias=True).unsafe_buffer_pointer() == held.ctypes.data
