"""A last layer held or gone through in passes is one point; what it could still gain is what solvers find."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from ufm_jax.cli import main
from ufm_jax.model_interface import certify
from ufm_jax.models.relu_features import ReLUFeatures
from ufm_jax.models.unconstrained import class_geometry, gains, passes
from ufm_jax.models.unconstrained.closed_forms import etf_minimiser
from ufm_jax.models.unconstrained.geometry import collapse_metrics
from ufm_jax.models.unconstrained.last_layer import judge
from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import objective
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.networks.measure import _cdnv
from ufm_jax.report.last_layer import COLLAPSE, page

DECAYS = {"decay_w": 5e-3, "decay_h": 1e-3, "decay_b": 1e-2}
K, d = 3, 5
LABELS = np.array([0, 2, 1, 0, 2, 1, 1, 0, 0, 2, 0])  # 5, 3, 3 samples
RNG = np.random.default_rng(0)
W, b = RNG.normal(size=(K, d)), RNG.normal(size=K)
H = W[LABELS] + 0.4 * RNG.normal(size=(11, d))
PROB = problem(counts=np.bincount(LABELS).tolist(), dim=d, **DECAYS)
ETF = problem(num_classes=3, per_class=4, dim=5, **DECAYS)

SAME = ("loss", "grad_norm", "rel_grad_norm", "negative_curvature", "accuracy", "nc1", "nc2", "nc3", "nc4")
ALSO = ("cdnv", "ncc_mismatch", "equinorm_h", "balance", "imbalance", "logit_gap", "global_minimum", "rank")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(passes, "NUMBERS", 4 * d)
    monkeypatch.setattr(class_geometry, "ROWS", K)
    jax.clear_caches()


@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a.T.copy()])
def test_passes_say_what_is_said_of_a_held_point(layout, small_blocks):
    held = certify(W, H, b, LABELS, **DECAYS).row
    gone = certify(W, layout(H), b, LABELS, **DECAYS, stream=True).row
    assert gone.keys() == held.keys()
    assert (gone["streamed"], held["streamed"]) == (True, False)
    assert gone["verdict"] == held["verdict"] == "NOT_CRITICAL"
    for name in (*SAME, *ALSO):
        assert gone[name] == pytest.approx(held[name], rel=1e-9, abs=1e-14), name
    for name in ("gain_last_layer", "gain_features", "gain_both"):
        assert gone[name] == pytest.approx(held[name], rel=1e-4), name
    assert gone["dual_bound"] >= held["dual_bound"]  # f*'s own, at no cost
    missing = {name for name, value in gone.items() if value is None}
    assert {"index", "nullity", "lambda_min"} <= missing
    for name in ("index", "nullity", "lambda_min"):
        assert "all features at once" in gone["unknown"][name]


@pytest.mark.parametrize("stream", [False, True])
def test_at_the_global_minimum_nothing_is_to_be_gained(stream):
    p = etf_minimiser(ETF)
    found = certify(*p, ETF.labels, **DECAYS, stream=stream)
    assert found.verdict.name == "GLOBAL_MINIMUM"
    assert found.global_minimum == found.closed_form_loss == pytest.approx(found.loss, rel=1e-12)
    for name in ("gain_last_layer", "gain_features", "gain_both"):
        assert found.row[name] == pytest.approx(0.0, abs=1e-10), name
    assert found.row["imbalance"] == pytest.approx(0.0, abs=1e-12)
    assert found.row["logit_gap"] == pytest.approx(found.row["logit_gap_predicted"], rel=1e-10)
    for name in ("equinorm_w", "equinorm_h", "equiangle_w", "equiangle_h", "cdnv"):
        assert found.row[name] == pytest.approx(0.0, abs=1e-10), name


def test_a_strict_saddle_is_one_in_passes():
    K2 = problem(num_classes=3, per_class=4, dim=5, **DECAYS)
    origin = Params(np.zeros((3, 5)), np.zeros((5, 12)), np.zeros(3))
    found = certify(*origin, K2.labels, **DECAYS, stream=True)
    assert found.verdict.name == "STRICT_SADDLE"
    assert found.curvature == pytest.approx(certify(*origin, K2.labels, **DECAYS).curvature, rel=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(smoothing=0.1), Squared()])
def test_gains_are_those_of_another_solver(bias, loss):
    decays = DECAYS if bias else DECAYS | {"decay_b": 0.0}
    row = certify(W, H, b if bias else None, LABELS, **decays, loss=loss).row
    prob = replace(PROB, loss=loss, bias=bias, decay_b=jnp.asarray(decays["decay_b"]))
    order = np.argsort(LABELS, kind="stable")
    point = Params(jnp.asarray(W), jnp.asarray(H[order].T), jnp.asarray(b) if bias else None)
    f = jax.jit(objective(prob))
    assert row["loss"] == pytest.approx(float(f(point)), rel=1e-12)
    moved = {"gain_last_layer": ("W", "b") if bias else ("W",), "gain_features": ("H",)}
    for name, parts in moved.items():
        flat, back = jax.flatten_util.ravel_pytree({part: getattr(point, part) for part in parts})
        part = jax.jit(jax.value_and_grad(lambda x, back=back: f(point._replace(**back(x)))))
        least = scipy.optimize.minimize(
            part, flat, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-10, "maxiter": 5000}
        )
        assert row[name] == pytest.approx(row["loss"] - least.fun, rel=1e-7), name
        assert 0 <= row[f"{name}_error"] < 1e-6 * row[name]
    assert row["gain_both"] >= max(row["gain_last_layer"], row["gain_features"])
    assert row["global_minimum"] == pytest.approx(row["loss"] - row["gain_both"])


def test_what_is_not_certified_is_not_called_the_minimum():
    """In d < K − 1 the bound of d = K − 1 stays below."""
    labels = np.repeat(np.arange(4), 2)
    narrow = RNG.normal(size=(4, 2)), RNG.normal(size=(8, 2))
    row = certify(narrow[0], narrow[1], None, labels, decay_w=1e-2, decay_h=1e-2).row
    assert row["global_minimum"] is row["excess_loss"] is None
    assert row["global_minimum_bound"] < row["lowest_found"] < row["loss"]
    wide = problem(num_classes=4, per_class=2, dim=3, decay_w=1e-2, decay_h=1e-2, bias=False)
    assert row["global_minimum_bound"] == pytest.approx(float(gains.global_minimum(wide)), rel=1e-8)
    assert "not certified" in page(row)
    focal = certify(W, H, b, LABELS, **DECAYS, loss=Focal()).row
    assert focal["lowest_found"] is focal["gain_last_layer"] is None
    assert "not convex" in focal["unknown"]["gain_last_layer"]


def test_a_class_without_samples_is_left_out_of_the_metrics_and_that_is_said():
    more = np.vstack([W[:1], RNG.normal(size=(1, d)), W[1:]])
    bias = np.insert(b, 1, -50.0)  # whose logit is never chosen, and adds nothing to the loss
    shifted = LABELS + (LABELS > 0)
    row, whole = certify(more, H, bias, shifted, **DECAYS).row, certify(W, H, b, LABELS, **DECAYS).row
    for name in ("nc1", "nc2", "nc3", "cdnv", "ncc_mismatch", "accuracy", "equiangle_w"):
        assert row[name] == pytest.approx(whole[name], rel=1e-9), name
    assert row["mean_loss"] == pytest.approx(whole["mean_loss"], rel=1e-12)
    assert row["classes_present"] == 3
    assert row["global_minimum"] is None
    assert "1 of 4 classes have no sample (1)" in row["warnings"][0]
    with pytest.raises(ValueError, match=r"^stream: .*class without samples"):
        certify(more, H, bias, shifted, **DECAYS, stream=False)
    with pytest.raises(ValueError, match=r"^prove: "):
        certify(more, H, bias, shifted, **DECAYS, prove=True)


def test_what_looks_wrong_is_warned_of():
    said = lambda labels, **more: " ".join(certify(W, H, b, labels, **DECAYS, **more).warnings)
    assert not said(LABELS)
    assert "do labels count from 1?" in " ".join(
        certify(np.vstack([W, W[:1]]), H, None, LABELS + 1, weight_decay=1e-3).warnings
    )
    single = np.array([0, 1, 1, 0, 0, 1, 1, 0, 0, 2, 0])
    assert "1 of 3 classes have one sample" in said(single)
    assert "that of a guess (0.455 ± 0.300)" in said((LABELS + 1) % 3)


def test_no_block_is_larger_than_asked_for_and_all_is_read_in_order(small_blocks, monkeypatch):
    asked, taken = [], passes.Samples.taken

    def told(self, first, last):
        asked.append((first, last))
        return taken(self, first, last)

    monkeypatch.setattr(passes.Samples, "taken", told)
    said = []
    monkeypatch.setattr(passes, "SAY_EVERY", 0.0)
    judge(W, H, b, LABELS, **DECAYS, stream=True, say=said.append)
    assert asked[:6] == 2 * [(0, 4), (4, 8), (8, 11)]
    assert all(last - first <= 4 for first, last in asked)
    assert said[:3] == [f"class means: {done} of 11 samples" for done in (4, 8, 11)]


@pytest.mark.parametrize(("classes", "dim"), [(3, 7), (7, 3), (4, 4)])
@pytest.mark.parametrize("rows", [1, 10**6])
def test_class_metrics_are_those_of_the_definitions(classes, dim, rows, monkeypatch):
    monkeypatch.setattr(class_geometry, "ROWS", rows)
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), rng.integers(2, 5, classes))
    W, H, b = rng.normal(size=(classes, dim)), rng.normal(size=(dim, labels.size)), rng.normal(size=classes)
    prob = problem(counts=np.bincount(labels).tolist(), dim=dim, decay_w=1.0, decay_h=1.0)
    member = np.eye(classes)[labels]
    counts = member.sum(axis=0)
    means = (H @ member / counts).T
    away = H - means[labels].T
    spreads = np.sum(away**2, axis=0) @ member
    found = class_geometry.class_geometry(W, b, means, counts, spreads, away @ away.T)
    metrics = collapse_metrics(prob, Params(*map(jnp.asarray, (W, H, b))))
    for name, value in metrics._asdict().items():
        assert found[name] == pytest.approx(float(value), rel=1e-10), name
    assert found["cdnv"] == pytest.approx(
        float(_cdnv(jnp.asarray(means), jnp.asarray(spreads / counts))), rel=1e-10
    )
    arms = means - counts @ means / counts.sum()
    others = ~np.eye(classes, dtype=bool)
    for name, A in (("w", W), ("h", arms)):
        lengths = np.linalg.norm(A, axis=1)
        assert found[f"equinorm_{name}"] == pytest.approx(lengths.std() / lengths.mean())
        cosines = (A @ A.T / np.outer(lengths, lengths))[others]
        assert found[f"equiangle_{name}"] == pytest.approx(cosines.std())


def test_the_command_prints_one_page_of_files_of_several_kinds(tmp_path, capsys):
    np.savez(tmp_path / "model.npz", **{"module.fc.weight": W.astype(np.float32), "module.fc.bias": b})
    np.save(tmp_path / "features.npy", H.astype(np.float16))
    np.save(tmp_path / "labels.npy", LABELS)
    files = [str(tmp_path / name) for name in ("model.npz", "features.npy", "labels.npy")]
    main(["certify", *files, "--weight-decay", "5e-3", "--stream"])
    said = capsys.readouterr().out
    for text in ("NC1", "equiangle H", "f − f*", "last layer alone", "balance", "gone through in passes"):
        assert text in said
    assert "note: W is module.fc.weight, b is module.fc.bias" in said.replace(
        "b is module.fc.bias, W is", "W is"
    )
    assert len(said.splitlines()) < 60
    main(["certify", str(tmp_path), "--weight-decay", "5e-3", "--json", "--names", "W=module.fc.weight"])
    row = json.loads(capsys.readouterr().out)
    assert row["num_samples"] == 11
    with pytest.raises(SystemExit):
        main(["certify", *files, "--weight-decay", "5e-3", "--names", "W"])
    assert "names: need NAME=ARRAY" in capsys.readouterr().err


def test_a_square_h_says_which_reading_fits_better(tmp_path, capsys):
    square = RNG.permutation(np.repeat(np.arange(3), 2))[:5]
    features = 3 * W[square] + 0.1 * RNG.normal(size=(5, d))
    np.savez(tmp_path / "p.npz", W=W, H=features, labels=square)
    main(["certify", str(tmp_path / "p.npz"), "--weight-decay", "5e-3"])
    said = capsys.readouterr().out
    assert "H is square" in said
    assert "speaks for rows" in said


def test_of_features_after_a_relu_it_is_said_what_they_can_come_to():
    """The lowest point of f with H ≥ 0: its features alone have nothing to gain there that keeps the sign."""
    prob = ReLUFeatures(
        decay_w=jnp.asarray(5e-3), decay_h=jnp.asarray(1e-3), num_classes=3, per_class=4, dim=3
    )
    told = prob.predictions()
    gap, height, width = (np.array(told[name]) for name in ("logit_gaps", "h_norms", "w_norms"))
    features = np.repeat(np.diag(height), 4, axis=1)
    weight = (np.eye(3) - 1 / 3) * gap / height
    np.testing.assert_allclose(np.linalg.norm(weight, axis=0), width)
    row = certify(weight, features, None, np.repeat(np.arange(3), 4), decay_w=5e-3, decay_h=1e-3).row
    assert row["nonnegative"]
    assert row["loss"] == pytest.approx(row["nonnegative_minimum"], rel=1e-12)
    assert row["global_minimum"] < row["nonnegative_minimum"]
    assert "f* of ReLU features" in page(row)
    assert certify(W, H, b, LABELS, **DECAYS).row["nonnegative_minimum"] is None


def _at_scale(size, seed=4):
    """Return a last layer of five classes whose features are of this size; logits are of size 1."""
    rng, labels = np.random.default_rng(seed), np.arange(60) % 5
    V, c = rng.normal(size=(5, 9)), rng.normal(size=5)
    return V / size, size * (V[labels] + 0.4 * rng.normal(size=(60, 9))), c, labels


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1.0, 1e12, 1e25])
@pytest.mark.parametrize("stored", [np.float64, np.float32])
@pytest.mark.parametrize("heavy", [False, True])
def test_passes_are_a_dense_computation_at_any_scale(size, stored, heavy, monkeypatch):
    """Products in float32, where there are many, keep loss, gradient and the nearest class mean."""
    monkeypatch.setattr(passes, "HEAVY", 0.0 if heavy else 1e12)
    V, X, c, labels = _at_scale(size)
    X = X.astype(stored)
    decays = {"decay_w": 1e-3 * size**2, "decay_h": 1e-3 / size**2, "decay_b": 1e-2}
    row = certify(V, X, c, labels, **decays, stream=True).row
    X = X.astype(np.float64)
    Z, T = V @ X.T + c[:, None], np.eye(5)[:, labels]
    total = scipy.special.logsumexp(Z, axis=0)
    G = (np.exp(Z - total) - T) / 60
    slopes = G @ X + decays["decay_w"] * V, V.T @ G + decays["decay_h"] * X.T, G.sum(axis=1) + 1e-2 * c
    means = np.stack([X[labels == k].mean(axis=0) for k in range(5)])
    nearest = np.argmin(((X[:, None] - means) / size) ** 2 @ np.ones(9), axis=1)
    expected = {
        "mean_loss": np.mean(total - Z[labels, np.arange(60)]),
        "grad_norm": np.sqrt(sum(np.sum(slope**2) for slope in slopes)),
        "ncc_mismatch": np.mean(nearest != np.argmax(Z, axis=0)),
    }
    assert 0 < expected["ncc_mismatch"] < 0.2
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-6 if heavy else 1e-10), name


def test_what_float32_rounds_is_in_the_errors_and_in_no_verdict(monkeypatch):
    """At the global minimum gains are 0: what is found is rounding, and no gap below that is shown."""
    p, tolerances = etf_minimiser(ETF), {"grad_tol": 1e-5, "gap_tol": 1e-8}
    tight = certify(*p, ETF.labels, **DECAYS, stream=True, **tolerances)
    assert tight.verdict.name == "GLOBAL_MINIMUM"
    monkeypatch.setattr(passes, "HEAVY", 0.0)
    found = certify(*p, ETF.labels, **DECAYS, stream=True, **tolerances)
    for name in ("gain_last_layer", "gain_features"):
        assert found.row[name] <= found.row[f"{name}_error"] <= 2e-6 * found.row["mean_loss"], name
    assert found.verdict.name != "GLOBAL_MINIMUM"
    wide = certify(*p, ETF.labels, **DECAYS, stream=True, **tolerances | {"gap_tol": 1e-5})
    assert wide.verdict.name == "GLOBAL_MINIMUM"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("weight", "features", "labels"),
    [
        (W, np.zeros_like(H), LABELS),
        (np.zeros_like(W), H, LABELS),
        (np.zeros_like(W), np.zeros_like(H), LABELS),
        (W, H, np.zeros_like(LABELS)),  # one class alone
        (W, H, np.minimum(LABELS, 1)),  # the last has no sample
        (W[:, :1], H[:, :1], LABELS),  # d < K − 1
    ],
)
def test_every_dash_of_the_page_has_its_reason(weight, features, labels, stream):
    stream = stream or len(np.unique(labels)) < K
    row = certify(weight, features, b, labels, **DECAYS, stream=stream).row
    shown = {*COLLAPSE, "balance", "imbalance", "global_minimum", "excess_loss", "gain_both"}
    shown |= {"gain_last_layer", "gain_features", "dual_bound", "negative_curvature", "index", "nullity"}
    assert {name for name in shown if row[name] is None and name not in row["unknown"]} == set()
    assert set(row["unknown"]) <= {name for name in row if row[name] is None}
    for why in row["unknown"].values():
        assert why in page(row)
