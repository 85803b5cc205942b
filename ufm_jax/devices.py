"""Where lanes are computed: JAX's local devices, one a CPU core, or the host's where those lack float64."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import numpy as np

_chosen: ContextVar[tuple[jax.Device, ...] | None] = ContextVar("_chosen", default=None)


def local() -> tuple[jax.Device, ...]:
    """Return the devices that lanes are spread over.

    Those of `on`; else all local ones, if they compute in float64, as verdicts need; else the host's.
    """
    if (chosen := _chosen.get()) is not None:
        return chosen
    accelerators = jax.local_devices()
    return tuple(accelerators if has_float64(accelerators[0]) else jax.local_devices(backend="cpu"))


def platform() -> str:
    """Return what `local` devices are: "cpu", "gpu", "tpu", ..."""
    return local()[0].platform


@contextmanager
def on(devices: tuple[jax.Device, ...]) -> Iterator[None]:
    """Spread lanes over other devices for a while."""
    token = _chosen.set(devices)
    try:
        yield
    finally:
        _chosen.reset(token)


@functools.cache
def has_float64(device: jax.Device) -> bool:
    """Return whether a device rounds as float64 and holds 1e-300: two float32 in its place do neither."""
    if device.platform == "cpu":
        return True
    divide = jax.jit(lambda a: a / 7.0)
    with jax.enable_x64(True):
        try:
            given = [float(divide(jax.device_put(np.float64(a), device))) for a in (1.0, 1e-300)]
        except jax.errors.JaxRuntimeError:
            return False
    return given == [1.0 / 7.0, 1e-300 / 7.0]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return how many bytes a computation may still take: of the first accelerator, else of this machine."""
    device = local()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return int(stats.get("bytes_limit", 2**63 - 1)) * len(local())
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def judge_on_host() -> None:
    """Compute on the host by default where the accelerators have no float64; for the command line to call."""
    if not has_float64(jax.local_devices()[0]):
        jax.config.update("jax_default_device", jax.local_devices(backend="cpu")[0])


def use_all_cores(count: int | None = None) -> None:
    """Make `count` devices of the CPU, by default one a core; for the command line and experiments to call.

    Does nothing where the user has chosen a number, or where JAX has begun to compute.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.values["jax_num_cpu_devices"] > 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count or cores())
    except RuntimeError:  # the devices are there already
        return
