"""One device of JAX for each CPU core: sweeps use all local devices, and XLA alone would use one core."""

import os

import jax


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
