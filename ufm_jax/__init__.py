"""ufm_jax: a numerical landscape explorer for the unconstrained feature model of neural collapse.

Public names are imported on first use, so that `ufm --help` does not wait for JAX. Verdicts need float64:
`jax.config.update("jax_enable_x64", True)` is the caller's to say; the command line, the experiments and the
tests say it.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Batched LAPACK calls of jaxlib (0.10.2 at least) hold a worker of XLA's CPU thread pool while they wait for
# other workers: with as many such calls at once as workers, all wait for ever. On machines of few cores that
# happens in any vmapped pipeline with a few eigen-solves. More workers than concurrent calls prevent it; read
# by XLA when the first computation starts, and left alone where the user has set it.
MIN_CPU_WORKERS = max(16, 8 * (os.cpu_count() or 1))  # each core may be a device with several such calls
os.environ.setdefault("PJRT_NPROC", str(MIN_CPU_WORKERS))
# The matrices here are small: a multi-threaded LAPACK under XLA's own threads made one eigen-solve of size
# 190 fifty times slower (on 2 cores). Read when SciPy's OpenBLAS is loaded; the user's setting stands.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from ufm_jax.branch_interface import prove_branch as prove_branch
    from ufm_jax.census_interface import census as census
    from ufm_jax.interface import Flow as Flow
    from ufm_jax.interface import Judged as Judged
    from ufm_jax.interface import Run as Run
    from ufm_jax.interface import Slice as Slice
    from ufm_jax.interface import classify as classify
    from ufm_jax.interface import flow_from as flow_from
    from ufm_jax.interface import load as load
    from ufm_jax.interface import slice as slice
    from ufm_jax.interface import sweep as sweep
    from ufm_jax.landscape.continuation import Followed as Followed
    from ufm_jax.landscape.continuation import follow as follow
    from ufm_jax.landscape.fields import static as static
    from ufm_jax.landscape.flat import hessian as hessian
    from ufm_jax.landscape.grid import Grid as Grid
    from ufm_jax.landscape.grid import grid as grid
    from ufm_jax.landscape.landscape import Landscape as Landscape
    from ufm_jax.landscape.proof import Proof as Proof
    from ufm_jax.landscape.proof import prove as prove
    from ufm_jax.landscape.proved_branch import ProvedBranch as ProvedBranch
    from ufm_jax.landscape.search import CriticalPoint as CriticalPoint
    from ufm_jax.landscape.search import EigenvectorFollowing as EigenvectorFollowing
    from ufm_jax.landscape.search import LevenbergMarquardt as LevenbergMarquardt
    from ufm_jax.landscape.search import Newton as Newton
    from ufm_jax.landscape.search import search as search
    from ufm_jax.landscape.units import Units as Units
    from ufm_jax.landscape.verdict import Reason as Reason
    from ufm_jax.landscape.verdict import Verdict as Verdict
    from ufm_jax.model_interface import Certified as Certified
    from ufm_jax.model_interface import certify as certify
    from ufm_jax.model_interface import predict as predict
    from ufm_jax.models.deep_linear import DeepLinear as DeepLinear
    from ufm_jax.models.factorisation import Factorisation as Factorisation
    from ufm_jax.models.frozen_classifier import FrozenClassifier as FrozenClassifier
    from ufm_jax.models.lennard_jones import LennardJones as LennardJones
    from ufm_jax.models.multi_label import MultiLabel as MultiLabel
    from ufm_jax.models.relu_features import ReLUFeatures as ReLUFeatures
    from ufm_jax.models.unconstrained.geometry import collapse_metrics as collapse_metrics
    from ufm_jax.models.unconstrained.geometry import simplex_etf as simplex_etf
    from ufm_jax.models.unconstrained.losses import CrossEntropy as CrossEntropy
    from ufm_jax.models.unconstrained.losses import Focal as Focal
    from ufm_jax.models.unconstrained.losses import Loss as Loss
    from ufm_jax.models.unconstrained.losses import Squared as Squared
    from ufm_jax.models.unconstrained.model import problem as problem
    from ufm_jax.models.unconstrained.objective import objective as objective
    from ufm_jax.models.unconstrained.problem import Params as Params
    from ufm_jax.models.unconstrained.problem import Problem as Problem
    from ufm_jax.models.unconstrained.reduction import collapse as collapse
    from ufm_jax.models.unconstrained.reduction import full_spectrum as full_spectrum
    from ufm_jax.models.unconstrained.reduction import lift as lift
    from ufm_jax.models.unconstrained.reduction import restrict as restrict
    from ufm_jax.models.unconstrained.theory import global_minimum as global_minimum
    from ufm_jax.models.unconstrained.unequal_classes import merged_groups as merged_groups
    from ufm_jax.models.unconstrained.unequal_classes import seli as seli
    from ufm_jax.models.unconstrained.unequal_losses import VectorScaling as VectorScaling
    from ufm_jax.models.unconstrained.unequal_losses import WeightedSquared as WeightedSquared
    from ufm_jax.models.unconstrained.unequal_losses import class_balanced as class_balanced
    from ufm_jax.models.unconstrained.unequal_losses import logit_adjusted as logit_adjusted
    from ufm_jax.models.unconstrained.unequal_losses import vector_scaling as vector_scaling
    from ufm_jax.models.unit_norm import UnitNorm as UnitNorm
    from ufm_jax.numerics.density import spectral_density as spectral_density
    from ufm_jax.numerics.derivatives import dense_hessian as dense_hessian
    from ufm_jax.numerics.derivatives import hvp as hvp
    from ufm_jax.numerics.derivatives import second_order as second_order
    from ufm_jax.numerics.descent import lbfgs as lbfgs
    from ufm_jax.numerics.descent import minimise as minimise
    from ufm_jax.numerics.descent import trust_region_newton as trust_region_newton
    from ufm_jax.numerics.flow import discrete_flow as discrete_flow
    from ufm_jax.numerics.flow import gradient_flow as gradient_flow
    from ufm_jax.numerics.following import eigenvector_following as eigenvector_following
    from ufm_jax.numerics.following import follow_to_index as follow_to_index
    from ufm_jax.numerics.lanczos import extreme_eigenpairs as extreme_eigenpairs
    from ufm_jax.numerics.rootfind import critical_point as critical_point
    from ufm_jax.numerics.rootfind import levenberg_marquardt as levenberg_marquardt
    from ufm_jax.numerics.status import Status as Status
    from ufm_jax.runs.orbits import Atlas as Atlas

_HOMES = {
    "interface": ("sweep", "load", "Run", "classify", "Judged", "flow_from", "Flow", "slice", "Slice"),
    "landscape.landscape": ("Landscape",),
    "landscape.fields": ("static",),
    "landscape.grid": ("grid", "Grid"),
    "landscape.flat": ("hessian",),
    "census_interface": ("census",),
    "model_interface": ("certify", "Certified", "predict"),
    "landscape.continuation": ("follow", "Followed"),
    "landscape.proof": ("prove", "Proof"),
    "branch_interface": ("prove_branch",),
    "landscape.proved_branch": ("ProvedBranch",),
    "landscape.search": ("search", "CriticalPoint", "Newton", "LevenbergMarquardt", "EigenvectorFollowing"),
    "landscape.units": ("Units",),
    "landscape.verdict": ("Verdict", "Reason"),
    "models.unconstrained.problem": ("Params", "Problem"),
    "models.unconstrained.model": ("problem",),
    "models.unconstrained.losses": ("CrossEntropy", "Focal", "Loss", "Squared"),
    "models.unconstrained.objective": ("objective",),
    "models.unconstrained.reduction": ("collapse", "lift", "restrict", "full_spectrum"),
    "models.unconstrained.geometry": ("simplex_etf", "collapse_metrics"),
    "models.unconstrained.theory": ("global_minimum",),
    "models.unconstrained.unequal_classes": ("seli", "merged_groups"),
    "models.unconstrained.unequal_losses": (
        *("class_balanced", "logit_adjusted", "vector_scaling"),
        *("VectorScaling", "WeightedSquared"),
    ),
    "models.multi_label": ("MultiLabel",),
    "models.unit_norm": ("UnitNorm",),
    "models.relu_features": ("ReLUFeatures",),
    "models.deep_linear": ("DeepLinear",),
    "models.lennard_jones": ("LennardJones",),
    "models.factorisation": ("Factorisation",),
    "models.frozen_classifier": ("FrozenClassifier",),
    "runs.orbits": ("Atlas",),
    "numerics.derivatives": ("hvp", "dense_hessian", "second_order"),
    "numerics.status": ("Status",),
    "numerics.lanczos": ("extreme_eigenpairs",),
    "numerics.density": ("spectral_density",),
    "numerics.descent": ("minimise", "lbfgs", "trust_region_newton"),
    "numerics.rootfind": ("critical_point", "levenberg_marquardt"),
    "numerics.following": ("follow_to_index", "eigenvector_following"),
    "numerics.flow": ("gradient_flow", "discrete_flow"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)
__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ufm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ufm_jax.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
