"""Programs compiled once for all threads of a process, and kept on disk whole: found again, none is traced.

JAX's own cache is asked by a program's text, and to write that by tracing and lowering took more than half of
a second command's time. Here a program is asked for by what it is made of: this package's source, the
function, its sizes and choices, the kinds of its arguments, JAX's configuration. What that cannot be said of,
as of a class of the user's own, is left to JAX; so is what runs on an accelerator. The folder must belong to
one user, one processor and one version of everything (`ufm_jax.programs`): files in it are run as they are.
"""

import contextlib
import contextvars
import dataclasses
import hashlib
import os
import pickle
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable

from ufm_jax import devices

PACKAGE = __name__.split(".")[0]
# What JAX calls a compilation, and one that was read from its cache instead.
COMPILED, HIT = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"
SUFFIX = "-cache"  # as JAX's own files have it, beside which these lie

_heard = threading.local()  # how many programs JAX compiled in this thread, and had from its cache
_rehearsed: contextvars.ContextVar[bool] = contextvars.ContextVar("rehearsed", default=False)


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Have programs be there, and not run: instead of results they return ones."""
    before = _rehearsed.set(True)
    try:
        yield
    finally:
        _rehearsed.reset(before)


class Unsaid(ValueError):
    """Something of which two processes could not say whether it is the same."""


class Kept:
    """The programs of this process, and those on disk: None keeps none there."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._there: dict[Any, Future] = {}
        _listen()

    def run(
        self, jitted: Any, static: tuple[str, ...], options: Any, args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        """Call a function that `jax.jit` returned, which has these static arguments and compiler options.

        Whoever comes first loads or compiles the program; other threads wait for it.
        """
        fixed = {name: value for name, value in given.items() if name in static}
        traced = {name: value for name, value in given.items() if name not in static}
        leaves, form = jax.tree.flatten((args, traced))
        if not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves) or any(
            isinstance(leaf, jax.core.Tracer) for leaf in leaves
        ):
            return jitted(*args, **given)
        key = jitted, form, tuple(map(_kind, leaves)), tuple(sorted(fixed.items()))
        with self._lock:
            mine = key not in self._there
            found = self._there.setdefault(key, Future())
        if mine:
            try:
                found.set_result(self._made(jitted, form, (fixed, options), args, given))
            except BaseException as error:
                with self._lock:
                    del self._there[key]
                found.set_exception(error)
                raise
        program = found.result()
        return _ones(program) if _rehearsed.get() else program(*args, **traced)

    def _made(self, jitted: Any, form: Any, how: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        file = self._file(jitted, how, args, given)
        if file is not None and (program := _loaded(file, form)) is not None:
            return program
        lowered = jitted.lower(*args, **given)
        _heard.compiled = _heard.hits = 0
        program = lowered.compile()
        # XLA cannot write down again what JAX has read: a process that ran it would crash. That may also be
        # what JAX had in memory and did not compile now.
        if file is not None and _heard.compiled and not _heard.hits:
            _store(file, program)
        return program

    def _file(self, jitted: Any, how: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Path | None:
        if self.folder is None or devices.platform() != "cpu":
            return None
        name = f"{jitted.__module__}.{jitted.__qualname__}"
        try:
            text = [self._made_by, name, said((how, args, given))]
        except Unsaid:
            return None
        return self.folder / f"{jitted.__name__}-{hashlib.sha256(repr(text).encode()).hexdigest()}{SUFFIX}"

    @cached_property
    def _made_by(self) -> str:
        """Say of what source this is, and JAX's and XLA's configuration and devices."""
        chosen = sorted((name, repr(v)) for name, v in jax.config.values.items() if "cache" not in name)
        return f"{source()} {chosen} {os.environ.get('XLA_FLAGS')} {len(jax.devices())}"


@cache
def source() -> str:
    """Return a digest of this package's source."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _listen() -> None:
    def hit(event: str, **_: Any) -> None:
        _heard.hits = getattr(_heard, "hits", 0) + (event == HIT)

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        _heard.compiled = getattr(_heard, "compiled", 0) + (event == COMPILED)

    jax.monitoring.register_event_listener(hit)
    jax.monitoring.register_event_duration_secs_listener(compiled)


def _kind(leaf: Any) -> Any:
    """Return what a program depends on of an argument: JAX compiles for where it lies, if that is said."""
    aval = jax.typeof(leaf)
    place = leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
    return aval.shape, aval.dtype, aval.weak_type, place


def said(value: Any) -> str:
    """Return a text that is the same in another process, and another for what makes another program.

    Raises:
        Unsaid: for an instance of a class that is not this package's.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray):
        return repr(_kind(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{said(name)}: {said(held)}' for name, held in sorted(value.items()))}}}"
    if type(value) in (tuple, list):
        return f"{type(value).__name__}({', '.join(map(said, value))})"
    kind = type(value)
    if not kind.__module__.startswith(f"{PACKAGE}."):
        raise Unsaid(f"an instance of {kind.__module__}.{kind.__qualname__}")
    if isinstance(value, tuple):
        held = list(value)
    elif dataclasses.is_dataclass(value):
        held = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        raise Unsaid(f"an instance of {kind.__qualname__}, whose fields nobody knows")
    return f"{kind.__module__}.{kind.__qualname__}({said(held)})"


def _loaded(file: Path, form: Any) -> Callable[..., Any] | None:
    """Return a program from a file, or None where there is none, or none that can be read."""
    try:
        held, out, number = pickle.loads(zlib.decompress(file.read_bytes()))
        _ready_lapack()
        program: Callable[..., Any] = serialize_executable.deserialize_and_load(
            held, form, out, execution_devices=jax.devices()[:number]
        )
    except Exception:  # whatever is wrong with it, it is compiled and written again
        return None
    return program


@cache
def _ready_lapack() -> None:
    """Have JAX look up LAPACK's functions, which it does when a program that calls one is lowered."""
    jax.jit(jnp.linalg.eigvalsh).lower(jax.ShapeDtypeStruct((1, 1), jnp.result_type(float)))


def _ones(program: Any) -> Any:
    """Return results of a program's shapes, where it would leave them."""
    return jax.tree.map(lambda a: jax.device_put(np.ones(a.shape, a.dtype), a.sharding), program.out_info)


def _store(file: Path, program: Any) -> None:
    """Write a program, where that can be done; whoever reads the folder sees all of it or nothing."""
    try:
        held, _, out = serialize_executable.serialize(program)
        used = {d for s in jax.tree.leaves(program.output_shardings) for d in s.device_set}
        text = zlib.compress(pickle.dumps((held, out, len(used))), level=1)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        unfinished.write_bytes(text)
        unfinished.replace(file)
    except Exception:  # JAX says of some programs that they cannot be stored, in words of several kinds
        return
