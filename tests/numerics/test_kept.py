"""Programs are compiled once for all threads, found again on disk, and known by what they are made of."""

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import BALANCED, make
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from ufm_jax.landscape.search import LevenbergMarquardt
from ufm_jax.numerics import kept, lanes
from ufm_jax.numerics.kept import Kept, Unsaid, said


class Traced:
    """A function of `jit_small` that counts how often it is traced."""

    def __init__(self, slow=0.0):
        self.times = 0

        def sums(x, y, *, power=1):
            self.times += 1
            time.sleep(slow)
            return {"sum": x**power + y, "eigenvalue": jnp.linalg.eigvalsh(jnp.diag(x))[0]}

        self.call = lanes.jit_small(sums, static_argnames=("power",), options=lanes.QUICK)


@pytest.fixture
def keep():
    """What sets the keeper; JAX's own cache is off, as what it has read is not written again."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    yield lanes.keep
    lanes.keep(None)
    jax.config.update("jax_enable_compilation_cache", before)
    reset_cache()


X, Y = np.array([3.0, 1.0, 2.0]), jnp.ones(3)


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_program_is_found_again_and_gives_the_same_bits(tmp_path, keep):
    f = Traced()
    expected = Traced().call(X, Y, power=2)
    keep(Kept(tmp_path))
    first = f.call(X, Y, power=2)
    made = f.times
    (name,) = files(tmp_path)
    assert name.startswith("sums-")
    assert name.endswith("-cache")
    keep(Kept(tmp_path))  # as another process would
    second = f.call(2 * X, Y, power=2)
    assert f.times == made
    assert files(tmp_path) == [name]
    np.testing.assert_array_equal(second["sum"], 4 * X**2 + 1)
    assert second["eigenvalue"] == 2.0
    jax.tree.map(np.testing.assert_array_equal, first, expected)
    jax.tree.map(np.testing.assert_array_equal, f.call(X, Y, power=2), expected)


def test_what_makes_another_program_is_asked_for_by_another_name(tmp_path, keep):
    f = Traced()
    keep(Kept(tmp_path))
    calls = [
        lambda: f.call(X, Y),
        lambda: f.call(X, Y, power=2),
        lambda: f.call(X[:2], Y[:2]),
        lambda: f.call(X.astype(np.float32), Y.astype(jnp.float32)),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert len(files(tmp_path)) == number
    with lanes.for_few(True):
        f.call(X, Y)
    assert len(files(tmp_path)) == 5
    before = Kept(tmp_path)._made_by
    jax.config.update("jax_default_matmul_precision", "float32")
    try:
        assert Kept(tmp_path)._made_by != before
    finally:
        jax.config.update("jax_default_matmul_precision", None)


@pytest.mark.parametrize("broken", [b"", b"no program", None])
def test_what_cannot_be_read_is_written_again(tmp_path, keep, broken):
    f = Traced()
    keep(Kept(tmp_path))
    f.call(X, Y)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    jax.clear_caches()  # as in another process
    keep(Kept(tmp_path))
    np.testing.assert_array_equal(f.call(X, Y)["sum"], X + 1)
    assert len(file.read_bytes()) > len(whole) // 2
    made = f.times
    keep(Kept(tmp_path))
    f.call(X, Y)
    assert f.times == made


def test_what_jax_has_read_from_its_own_cache_is_not_written_again(tmp_path, keep):
    """Of another source, say; and not where JAX has it in memory from there."""
    jax.config.update("jax_enable_compilation_cache", True)
    chosen = {
        "jax_compilation_cache_dir": str(tmp_path / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in chosen}
    for name, value in chosen.items():
        jax.config.update(name, value)
    reset_cache()
    try:
        f = Traced()
        f.call(X, Y)
        assert files(tmp_path / "jax")
        jax.clear_caches()
        for name in ("read", "in memory"):
            (tmp_path / name).mkdir()
            keep(Kept(tmp_path / name))
            np.testing.assert_array_equal(f.call(X, Y)["sum"], X + 1)
            assert files(tmp_path / name) == []
        (tmp_path / "compiled").mkdir()
        keep(Kept(tmp_path / "compiled"))
        f.call(X[:2], Y[:2])
        assert len(files(tmp_path / "compiled")) == 1
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_folder_that_is_gone_keeps_nothing_and_hurts_nobody(tmp_path, keep):
    keep(Kept(tmp_path / "gone"))
    np.testing.assert_array_equal(Traced().call(X, Y)["sum"], X + 1)


def test_threads_wait_for_one_program(keep):
    f = Traced(slow=0.3)
    keep(Kept(None))
    found = []
    threads = [threading.Thread(target=lambda: found.append(f.call(X, Y)["sum"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert f.times == 1
    np.testing.assert_array_equal(found, [X + 1] * 4)


def test_a_program_that_fails_fails_every_time(keep):
    keep(Kept(None))
    wrong = lanes.jit_small(lambda x: jnp.reshape(x, 7))
    for _ in range(2):
        with pytest.raises(TypeError, match="reshape"):
            wrong(X)


def test_a_rehearsal_leaves_a_program_and_runs_none(keep):
    f = Traced()
    keep(Kept(None))
    with kept.rehearsal():
        ones = f.call(X, Y)
    np.testing.assert_array_equal(ones["sum"], np.ones(3))
    assert ones["eigenvalue"] == 1.0
    np.testing.assert_array_equal(f.call(X, Y)["sum"], X + 1)
    assert f.times == 1


@dataclass(frozen=True)
class Own:
    """A class of nobody's package."""

    size: int


class Pair(NamedTuple):
    """Another."""

    size: int


@pytest.mark.parametrize("value", [Own(3), Pair(3), object(), len, partial(len), {"deep": [Own(3)]}])
def test_nothing_is_said_of_what_others_may_change(value):
    with pytest.raises(Unsaid):
        said(value)


def test_landscapes_are_told_apart_by_sizes_and_choices_not_by_numbers():
    prob = make(BALANCED, 3)
    same = [prob, make(BALANCED, 3, decay_w=0.123)]
    others = [make(BALANCED, 4), make(BALANCED, 3, bias=False), prob.space("rows"), LevenbergMarquardt()]
    assert len({said(one) for one in same}) == 1
    assert len({said(one) for one in [prob, *others]}) == 1 + len(others)
    assert said(LevenbergMarquardt()) != said(LevenbergMarquardt(max_steps=7))


def test_what_xla_is_told_makes_another_program(tmp_path, keep, monkeypatch):
    for flags in ("", "--xla_cpu_max_isa=AVX2"):  # read when XLA starts: here it changes the name alone
        monkeypatch.setenv("XLA_FLAGS", flags)
        keep(Kept(tmp_path))
        Traced().call(X, Y)
    assert len(files(tmp_path)) == 2
