"""Objects by name: what a specification holds is what is made, here and in another process."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from ufm_jax.models.unconstrained.losses import CrossEntropy, Focal, Squared
from ufm_jax.objects import Spec, assignments, make, parsed, spec, spec_of

SOURCE = """
from dataclasses import dataclass
from helper import FACTOR

@dataclass(frozen=True)
class Thing:
    size: float = 2.0
    shape: tuple = (1, 1)
    def area(self):
        return FACTOR * self.size

class Inner:
    @dataclass(frozen=True)
    class Thing:
        pass

class Angry:
    def __init__(self):
        raise RuntimeError("no")

made = Thing(5.0)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text("FACTOR = 3\n")
    (tmp_path / "things.py").write_text(SOURCE)
    return tmp_path / "things.py"


def test_an_object_of_a_file_is_made_and_named_again(file):
    named = spec("thing", f"{file}:Thing", {"size": 4.0, "shape": [1, (2, 3)]})
    made = make("thing", named)
    assert (made.area(), made.shape) == (12.0, (1, (2, 3)))
    assert spec_of("thing", made) == named
    assert make("thing", spec_of("thing", made)) == made  # of the same class: the file was executed once
    assert make("thing", spec("thing", f"{file}:Inner.Thing")) != made
    assert make("thing", spec("thing", f"{file}:made")).size == 5.0


def test_what_is_at_its_default_is_not_held(file):
    assert spec_of("thing", make("thing", spec("thing", f"{file}:Thing", {"size": 2.0}))).settings == ()


def test_a_relative_path_and_a_module_in_the_working_directory_are_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert spec("thing", "things.py:Thing") == spec("thing", f"{file}:Thing")
    by_module = spec("thing", "things:Thing")
    assert by_module.name == "things:Thing"
    assert by_module.source == spec("thing", "things.py:Thing").source
    assert make("thing", by_module).area() == 6.0
    assert spec_of("thing", make("thing", by_module)) == by_module
    del sys.modules["things"]


def test_a_class_of_a_script_is_named_by_its_file(file):
    code = 'from ufm_jax.objects import spec_of\nprint(spec_of("thing", Thing(7.0)))\n'
    file.write_text(SOURCE + code)
    said = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(spec("thing", f"{file}:Thing", {"size": 7.0}))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Thing", {}, "thing: need module:Name or file.py:Name, got 'Thing'"),
        ("{folder}/none.py:Thing", {}, "thing: cannot read .*none.py: No such file"),
        ("no.such.module:Thing", {}, "thing: cannot find no.such.module"),
        ("nosuchmodule:Thing", {}, "thing: there is no module nosuchmodule"),
        ("{file}:Nothing", {}, "thing: .*things.py has no Nothing"),
        ("{file}:Thing", {"width": 1}, "width: Thing has no such parameter; it has size, shape"),
        ("{file}:Thing", {"size": object()}, "size: a manifest holds numbers"),
        ("{file}:Angry", {}, "thing: .*:Angry raised RuntimeError: no"),
        ("ufm_jax.models.deep_linear:DeepLinear", {"num_classes": 4}, "decay: .*DeepLinear needs it"),
        ("ufm_jax.models.factorisation:factorisation", {"decoy": 1}, "decoy: factorisation has no such"),
        ("{file}:made", {"size": 1}, "thing: .*:made takes no parameters, got size"),
        ("{folder}/broken.py:Thing", {}, "thing: importing .*broken.py raised SyntaxError"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(name, settings, message, file):
    (file.parent / "broken.py").write_text("def\n")
    with pytest.raises(ValueError, match=f"^{message}") as error:
        make("thing", spec("thing", name.format(file=file, folder=file.parent), settings))
    assert "\n" not in str(error.value)


def test_a_source_that_has_changed_since_is_refused(file):
    before = spec("thing", f"{file}:Thing")
    file.write_text(SOURCE.replace("2.0", "3.0"))
    with pytest.raises(ValueError, match=r"^thing: .*things.py is not what it was"):
        make("thing", before)
    now = spec("thing", f"{file}:Thing")
    assert (now.name, now.settings) == (before.name, before.settings)
    assert make("thing", now).size == 3.0


def test_a_class_that_no_other_process_could_find_has_no_name():
    @dataclass(frozen=True)
    class Here:
        pass

    with pytest.raises(ValueError, match=r"^thing: .*Here.* inside a function"):
        spec_of("thing", Here())


@pytest.mark.parametrize("made", [CrossEntropy(0.1, (1.0, 2.0), (0.0, -1e-3)), Squared(), Focal(3.0)])
def test_the_losses_of_the_package_need_no_source(made):
    named = spec_of("loss", made)
    assert named.source is None
    assert make("loss", named) == made


def test_settings_are_read_as_they_are_written():
    settings = {
        "a": 1,
        "b": (1, 1, 2.5),
        "c": True,
        "d": None,
        "e": "sum",
        "f": (1,),
        "g": ((1, 2), "x"),
        "h": -1e-3,
    }
    assert parsed("set", assignments(settings.items())) == settings
    assert parsed("set", ["a=true", "b=FALSE", "c=1,1,2", "d=none", "e=mean", "f="]) == {
        "a": True, "b": False, "c": (1, 1, 2), "d": None, "e": "mean", "f": ""
    }  # fmt: skip
    for wrong in (["a"], ["=1"], ["a-b=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match=r"^set: "):
            parsed("set", wrong)


def test_specifications_are_values():
    assert hash(Spec("a:B", (("c", (1, 2)),))) == hash(Spec("a:B", (("c", (1, 2)),)))
