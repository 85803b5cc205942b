"""ufm_jax: a numerical landscape explorer for the unconstrained feature model of neural collapse.

Public names are imported on first use, so that `ufm --help` does not wait for JAX. Verdicts need float64:
`jax.config.update("jax_enable_x64", True)` is the caller's to say; the command line, the experiments and the
tests say it.
"""

import importlib
import os
from typing import Any

# Batched LAPACK calls of jaxlib (0.10.2 at least) hold a worker of XLA's CPU thread pool while they wait for
# other workers: with as many such calls at once as workers, all wait for ever. On machines of few cores that
# happens in any vmapped pipeline with a few eigen-solves. More workers than concurrent calls prevent it; read
# by XLA when the first computation starts, and left alone where the user has set it.
MIN_CPU_WORKERS = max(16, 8 * (os.cpu_count() or 1))  # each core may be a device with several such calls
os.environ.setdefault("PJRT_NPROC", str(MIN_CPU_WORKERS))
# The matrices here are small: a multi-threaded LAPACK under XLA's own threads made one eigen-solve of size
# 190 fifty times slower (on 2 cores). Read when SciPy's OpenBLAS is loaded; the user's setting stands.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_HOMES = {
    "interface": ("sweep", "load", "Run", "classify", "Judged", "flow_from", "Flow", "slice", "Slice"),
    "landscape.landscape": ("Landscape", "static"),
    "landscape.grid": ("grid",),
    "landscape.flat": ("hessian",),
    "landscape.search": ("search", "Newton", "LevenbergMarquardt", "EigenvectorFollowing"),
    "landscape.verdict": ("Verdict", "Reason"),
    "models.unconstrained.problem": ("Params", "Problem"),
    "models.unconstrained.model": ("problem",),
    "models.unconstrained.losses": ("CrossEntropy", "Focal", "Loss", "Squared"),
    "models.unconstrained.objective": ("objective",),
    "models.unconstrained.reduction": ("collapse", "lift", "restrict", "full_spectrum"),
    "models.unconstrained.geometry": ("simplex_etf", "collapse_metrics"),
    "models.unconstrained.theory": ("predict", "global_minimum"),
    "models.unconstrained.census": ("find_orbits",),
    "models.factorisation": ("Factorisation",),
    "models.frozen_classifier": ("FrozenClassifier",),
    "runs.orbits": ("Atlas",),
    "numerics.derivatives": ("hvp", "dense_hessian", "second_order"),
    "numerics.status": ("Status",),
    "numerics.lanczos": ("extreme_eigenpairs",),
    "numerics.density": ("spectral_density",),
    "numerics.descent": ("minimise", "lbfgs", "trust_region_newton"),
    "numerics.rootfind": ("critical_point", "follow_to_index", "levenberg_marquardt"),
    "numerics.flow": ("gradient_flow", "discrete_flow"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ufm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ufm_jax.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
