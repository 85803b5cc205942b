"""The public door: every exported name is what it says, whatever was imported before."""

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ufm_jax as ufm


def test_no_public_name_is_a_module():
    modules = {module.name for module in pkgutil.iter_modules(ufm.__path__)}
    assert not modules & set(ufm.__all__)


@pytest.mark.parametrize(
    "before", ["", "ufm.load", "import ufm_jax.runs.store", "import ufm_jax.models.unconstrained.census"]
)
def test_public_names_stay_what_they_are_after_imports(before):
    code = f"""
import types, ufm_jax as ufm
{before}
for name in ufm.__all__:
    assert not isinstance(getattr(ufm, name), types.ModuleType), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_lives_where_it_is_said_to():
    for name in ufm.__all__:
        home = importlib.import_module(f"ufm_jax.{ufm._HOME_OF[name]}")
        assert getattr(ufm, name) is getattr(home, name)


def test_type_checkers_are_told_the_same_names():
    """`__getattr__` tells them nothing: the names stand in the file a second time."""
    text = Path(ufm.__file__).read_text()
    told = re.findall(r"\b(\w+) as \1\b", text)
    assert sorted(told) == ufm.__all__
