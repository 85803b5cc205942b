"""One device of JAX for each CPU core: sweeps use all local devices, and XLA alone would use one core."""

import os

import jax


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return how many bytes a computation may still take: of the first accelerator, else of this machine."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return int(stats.get("bytes_limit", 2**63 - 1)) * jax.local_device_count()
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
