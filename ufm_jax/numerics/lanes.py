"""Many independent problems in one compiled call."""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ufm_jax import devices
from ufm_jax.numerics.kept import Kept


def each_lane(f: Callable[..., Any], count: Any = None) -> Callable[..., Any]:
    """Build the map of f over the leading axis of all its arguments, for iterative f.

    One after another on a CPU: every lane then ends when it is done, and XLA's plain matrix products beat its
    batched ones (3x at K = 4, over 10x in the full space at K = 10). Accelerators want the batch. Where only
    the first `count` lanes are wanted, the others may hold anything: on a CPU zeros, which cost no time.
    """

    def apply(*args: Any) -> Any:
        if devices.platform() != "cpu":
            return jax.vmap(f)(*args)
        if count is None:
            return jax.lax.map(lambda lane: f(*lane), args)
        return _first_lanes(f, count, args)

    return apply


def _first_lanes(f: Callable[..., Any], count: Any, args: tuple[Any, ...]) -> Any:
    total, once = len(jax.tree.leaves(args)[0]), jax.jit(f)  # f is traced once, for both its uses
    at = lambda i: jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), args)
    like = jax.eval_shape(once, *jax.tree.map(lambda a: jax.typeof(a).update(shape=a.shape[1:]), args))
    nothing = jax.tree.map(lambda a: jnp.zeros((total, *a.shape), a.dtype), like)

    def body(i: Any, done: Any) -> Any:
        put = lambda a, new: jax.lax.dynamic_update_index_in_dim(a, new, i, 0)
        return jax.tree.map(put, done, once(*at(i)))

    return jax.lax.fori_loop(0, count, body, nothing)


def in_batches(f: Callable[..., Any], size: int, *args: np.ndarray) -> Any:
    """Apply f, which maps `size` lanes in one compiled call, to the leading axis of any length >= 1.

    The last batch repeats lanes, so that f compiles once. The results are on the host.
    """
    total, parts = len(args[0]), []
    for first in range(0, total, size):
        lanes = np.arange(first, min(first + size, total))
        out = jax.device_get(f(*(a[np.resize(lanes, size)] for a in args)))
        parts.append(jax.tree.map(itemgetter(slice(len(lanes))), out))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def in_shares(f: Callable[..., Any], size: int, *args: Any) -> Any:
    """Apply f, compiled by `over_devices` for `size` lanes a device, to the leading axis of any length >= 1.

    f gets the arguments (pytrees) and an array of counts, one a device: how many of its lanes are wanted; the
    others repeat one. Every device gets as many as the others, or one less. The results are on the host.
    """
    total, number_of, parts = len(jax.tree.leaves(args)[0]), len(devices.local()), []
    place = functools.partial(jax.device_put, device=NamedSharding(_mesh(), SPLIT))
    for first in range(0, total, size * number_of):
        number = min(total - first, size * number_of)
        share = -(-number // number_of)
        begin = np.minimum(share * np.arange(number_of), number)
        counts = np.minimum(begin + share, number) - begin
        lanes = np.minimum(first + begin[:, None] + np.arange(size), total - 1)
        # Taken by NumPy, which copies rows; on a device it would be a gather of single numbers. And put where
        # they belong, or JAX compiles a program for each shape to cut it.
        share_of_each = jax.tree.map(lambda a: place(np.asarray(a)[lanes.ravel()]), args)  # noqa: B023
        out = jax.device_get(f(*share_of_each, place(counts.astype(np.int32))))
        wanted = (np.arange(size) < counts[:, None]).ravel()
        parts.append(jax.tree.map(itemgetter(wanted), out))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def take(lanes: np.ndarray, *trees: Any) -> Any:
    """Return some rows, of the first axis of every leaf."""
    return jax.tree.map(lambda a: np.asarray(a)[lanes], trees)


def put(lanes: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return a copy of `old` with these rows new."""
    out = np.array(old)
    out[lanes] = new
    return out


# Of XLA's CPU compiler. Without the first, kernels of a microsecond are handed from thread to thread, and two
# devices on two cores wait for each other a third of the time; without the second, a kernel of five is cut
# into one piece a worker and takes fifty. The third uses AVX-512 where it exists. The last is XLA's default,
# said for tests, which leave it out where it is not said.
CPU_OPTIONS = {
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_use_fusion_emitters": True,
}
SHORT_SUMS = CPU_OPTIONS | {"xla_cpu_experimental_ynn_fusion_type": ""}  # for `Landscape.short_sums`
# Leave out XLA's newer code generator for fusions, a third of what compilation takes, and a library of matrix
# products whose workspace is as large as a large factor, and no buffer that XLA counts. Searches toward
# saddles run no slower so, descents at 0.6 of their rate (K = 4 and 10).
QUICK = CPU_OPTIONS | {"xla_cpu_use_fusion_emitters": False, "xla_cpu_experimental_ynn_fusion_type": ""}
# For random numbers: normal ones take a second each to compile otherwise, and are as fast so, the same bits.
QUICKEST = QUICK | {"xla_backend_optimization_level": 1}
# For programs that few lanes run: LLVM does as little as it can. A third of the time to compile, and up to
# ten times that to run.
HASTY = QUICK | {"xla_backend_optimization_level": 0}

_asking = threading.Lock()
_few: contextvars.ContextVar[bool] = contextvars.ContextVar("few", default=False)
_kept: Kept | None = None


@contextlib.contextmanager
def for_few(wanted: bool) -> Iterator[None]:
    """Have `jit_small` compile in haste here, if `wanted`: where there are so few lanes that it pays."""
    before = _few.set(wanted)
    try:
        yield
    finally:
        _few.reset(before)


def are_few() -> bool:
    """Whether the programs called here are compiled in haste."""
    return _few.get()


def keep(kept: Kept | None) -> None:
    """Have all programs of `jit_small` kept so; for a command line to say."""
    global _kept
    _kept = kept


def keeps() -> bool:
    """Whether a program that one thread has compiled is all threads'."""
    return _kept is not None


def jit_small(
    f: Callable[..., Any], static_argnames: tuple[str, ...] = (), *, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Return `jax.jit(f)` for programs of many small kernels; compiled for the backend at its first call.

    `options` of XLA are for a CPU: `CPU_OPTIONS` by default, `HASTY` where lanes are few.
    """

    @functools.cache
    def compiled(platform: str, few: bool) -> tuple[Any, dict[str, Any]]:
        chosen = known(HASTY if few else CPU_OPTIONS if options is None else options, platform)
        return jax.jit(f, static_argnames=static_argnames, compiler_options=chosen), chosen

    def call(*args: Any, **kwargs: Any) -> Any:
        jitted, chosen = compiled(devices.platform(), are_few())
        if _kept is None:
            return jitted(*args, **kwargs)
        return _kept.run(jitted, static_argnames, chosen, args, kwargs)

    return functools.wraps(f)(lambda *args, **kwargs: call(*args, **kwargs))


def known(options: dict[str, Any], platform: str) -> dict[str, Any]:
    """Return those options of a CPU that XLA knows here: their names belong to a version of it."""
    wanted = options if platform == "cpu" else {}
    with _asking:
        together = tuple(wanted.items())
        return wanted if _are_known(together) else {n: v for n, v in together if _are_known(((n, v),))}


@functools.cache
def _are_known(options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        with jax.default_device(devices.local()[0]):
            jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def over_devices(f: Callable[..., Any]) -> Callable[..., Any]:
    """Build f on all local devices at once: each gets all of its first argument and its share of the others.

    The shares, of their leading axes, are equal, so these must be multiples of the number of `devices.local`.
    f returns arrays with the same leading axis; nothing is exchanged, so no device waits for another.
    """

    def apply(common: Any, *args: Any) -> Any:
        specs = (PartitionSpec(), *(SPLIT for _ in args))
        return jax.shard_map(f, mesh=_mesh(), in_specs=specs, out_specs=SPLIT, check_vma=False)(common, *args)

    return apply


SPLIT = PartitionSpec("lanes")  # equal shares of a leading axis


def _mesh() -> Mesh:
    return Mesh(np.array(devices.local()), ("lanes",))
