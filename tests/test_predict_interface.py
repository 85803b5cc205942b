"""The door to predictions: of any landscape, in Python and by command, and beside what a sweep found."""

import json

import numpy as np
import pytest

import ufm_jax as ufm
from ufm_jax.cli import main
from ufm_jax.models.factorisation import critical_values, factorisation
from ufm_jax.models.frozen_classifier import frozen_simplex
from ufm_jax.report.predicted import predicted
from ufm_jax.runs.engine import sweep
from ufm_jax.runs.plan import SweepConfig

DEEP = "--landscape ufm_jax.models.deep_linear:DeepLinear --set num_classes=4 --set num_layers=2 decay=0.001"


def said(capsys, args):
    main(args.split())
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("landscape", "known"),
    [
        (
            "unit_norm:UnitNorm --set num_classes=4 temperature=5",
            {"regime": "simplex ETF", "loss": np.log1p(3 * np.exp(-20 / 3))},
        ),
        ("relu_features:ReLUFeatures --set counts=4,2,1 decay_w=0.1 --set decay_h=10", {"regime": "origin"}),
        ("deep_linear:DeepLinear --set num_classes=4 num_layers=2 decay=0.001", {"lowest": "simplex(4)"}),
        (
            "frozen_classifier:frozen_simplex --set num_classes=3 decay_h=0.01",
            {"regime": "features along a frozen simplex"},
        ),
        (
            "factorisation:factorisation --set singular_values=4,3,2,1 decay=0.1 rank=2",
            {"critical_orbits": 11},
        ),
        ("lennard_jones:LennardJones --set num_atoms=8", {"minima": 8, "transition_states": 42}),
    ],
)
def test_the_command_line_prints_predictions_of_every_landscape_of_the_package(landscape, known, capsys):
    found = json.loads(said(capsys, f"predict --landscape ufm_jax.models.{landscape} --json"))
    for name, value in known.items():
        assert found[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    text = said(capsys, f"predict --landscape ufm_jax.models.{landscape}")
    assert all(name in text for name in found)


def test_flags_of_assignments_may_be_repeated_or_hold_several(capsys):
    apart = said(capsys, f"predict {DEEP} --json")
    together = said(capsys, f"predict {DEEP.replace(' --set num_layers', ' num_layers')} --json")
    assert apart == together


def test_python_and_the_command_line_say_the_same(capsys):
    found = ufm.predict(ufm.DeepLinear(num_classes=4, num_layers=2, decay=0.001))
    assert json.loads(said(capsys, f"predict {DEEP} --json")) == found
    prob = ufm.problem(num_classes=3, per_class=2, dim=2, decay_w=0.01, decay_h=0.01)
    same = json.loads(
        said(capsys, "predict --num-classes 3 --per-class 2 --dim 2 --decay-w 0.01 --decay-h 0.01 --json")
    )
    assert ufm.predict(prob) == same


def test_a_sweep_prints_what_was_predicted_beside_what_it_found_and_resumes(tmp_path, capsys):
    command = f"sweep {DEEP} --starts 12 --out {tmp_path}"
    first = said(capsys, command)
    assert said(capsys, command) == first
    listed = ufm.predict(ufm.DeepLinear(num_classes=4, num_layers=2, decay=0.001))["critical_values"]
    met = [int(line.split(": met by ")[1].split()[0]) for line in first.splitlines() if "met by" in line]
    assert len(met) == len(listed)
    assert sum(met) == 12
    assert list((tmp_path / "points").iterdir())
    main(["report", str(tmp_path)])
    assert (tmp_path / "report.html").exists()


def test_a_known_minimum_stands_beside_the_lowest_found(tmp_path, capsys):
    text = said(
        capsys,
        "sweep --landscape ufm_jax.models.unit_norm:UnitNorm --set num_classes=3 temperature=2 temperature=4 "
        f"--starts 4 --out {tmp_path}",
    )
    assert "closed form f* = " in text
    assert "met by 8 rows" in text


@pytest.mark.slow
def test_of_a_frozen_simplex_the_minimum_is_known_and_of_others_it_is_not():
    for loss, bias in (("cross-entropy", True), ("squared", True), ("cross-entropy", False)):
        landscape = frozen_simplex(
            num_classes=3, per_class=2, decay_h=0.02, decay_b=0.01, loss=loss, bias=bias
        )
        run = ufm.sweep(landscape, starts=2)
        assert set(run.table["verdict"].to_pylist()) == {"GLOBAL_MINIMUM"}
        np.testing.assert_allclose(run.table["loss"], ufm.predict(landscape)["loss"], rtol=0, atol=1e-12)
    other = ufm.FrozenClassifier(W=np.eye(3), decay_h=0.1, decay_b=0.1, counts=(1, 1, 1))
    assert ufm.predict(other)["loss"] is None


def test_a_factorisation_of_plain_numbers_predicts_its_critical_values():
    landscape = factorisation(singular_values=(3.0, 2.0), decay=0.1, rank=1)
    values = list(ufm.predict(landscape)["critical_values"].values())
    assert values == [one.value for one in critical_values(landscape.M, 0.1, 1)]
    with pytest.raises(ValueError, match=r"^singular_values:"):
        factorisation(singular_values=(3.0, -1.0), decay=0.1, rank=1)


@pytest.mark.slow
def test_a_folder_holds_a_landscape_of_plain_numbers_made_in_python(tmp_path):
    landscape = ufm.UnitNorm(temperature=2.0, num_classes=3, loss="cross-entropy smoothing=0.1")
    run = ufm.sweep(landscape, starts=2, out=tmp_path)
    again = ufm.load(tmp_path)
    assert again.table["loss"].to_pylist() == run.table["loss"].to_pylist()
    np.testing.assert_allclose(landscape.value(again.point(0).x), run.table["loss"][0].as_py(), rtol=1e-12)


def test_a_sweep_out_of_reach_of_theory_ends_well(tmp_path, capsys):
    equal = "factorisation:factorisation --set singular_values=2,2 decay=0.1 rank=1"
    text = said(capsys, f"sweep --landscape ufm_jax.models.{equal} --starts 2 --out {tmp_path}")
    assert "predicted" not in text
    with pytest.raises(SystemExit):
        main(f"predict --landscape ufm_jax.models.{equal}".split())


class Silent(ufm.Landscape):
    """A landscape of which nothing is known."""

    def zeros(self):
        return 0.0

    def value(self, x):
        return x**2


@pytest.mark.parametrize("what", [Silent()])
def test_what_predicts_nothing_is_said(what):
    with pytest.raises(ValueError, match=r"^landscape:"):
        ufm.predict(what)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (
            f"{DEEP} decay=2",
            "set",
        ),
        ("--landscape ufm_jax.models.unit_norm:UnitNorm --set temperature=-1 num_classes=3", "temperature"),
        ("--landscape ufm_jax.models.unit_norm:UnitNorm --dim 3", "dim"),
        ("--set decay=1", "set"),
    ],
)
def test_bad_input_ends_with_one_line(args, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(f"predict {args}".split())
    assert stop.value.code == 2
    assert f"error: {named}: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1e-3, 1e-11])
def test_rows_that_meet_a_closed_form_are_the_global_minima_however_small_it_is(decay):
    """At 1e-11 saddles are within 1e-9 of f*, which is 2e-9."""
    config = SweepConfig(
        counts=(5,) * 4, dim=4, starts=48, target="saddles",
        decay_w=(decay,), decay_h=(decay,), decay_b=(decay,),
    )  # fmt: skip
    table = sweep(config)
    best = sum(v == "GLOBAL_MINIMUM" for v in table["verdict"].to_pylist())
    assert np.min(np.abs(table["loss"].to_numpy() - table["closed_form_loss"].to_numpy())) < 1e-9
    assert f"met by {best} rows" in predicted(config, table)
