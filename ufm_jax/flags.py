"""What the commands of `ufm` are told: their flags, with defaults and help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

LossName = Annotated[str, tyro.conf.arg(metavar="NAME|MODULE:CLASS|FILE.py:CLASS")]
Settings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")]


@dataclass(frozen=True)
class ProblemFlags:
    """The unconstrained feature model. Sizes: --num-classes with --per-class, or --counts."""

    dim: int | None = None
    """Feature dimension d."""
    decay_w: tuple[float, ...] = ()
    """Weight decay of W; several values make a grid."""
    decay_h: tuple[float, ...] = ()
    """Weight decay of H; several values make a grid."""
    decay_b: tuple[float, ...] = (0.0,)
    """Weight decay of b; 0 trains an undecayed bias."""
    num_classes: int | None = None
    """Number of classes K."""
    per_class: int | None = None
    """Samples n of each class (default 1)."""
    counts: Annotated[str | None, tyro.conf.arg(metavar="N1,N2,...")] = None
    """Samples of each class, for unequal classes."""
    no_bias: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave the bias out."""
    loss: LossName = "cross-entropy"
    """Loss of one sample: cross-entropy, squared, focal, weighted-squared, or a class of your own.

    Made for the class counts: class-balanced, logit-adjusted, vector-scaling.
    """
    loss_set: Settings = ()
    """Parameters of the loss, as smoothing=0.1 class_weights=1,1,2 offsets=0,0,0.7 tau=1 power=0.25."""
    smoothing: float | None = None
    """Short for --loss-set smoothing=α."""
    gamma: float | None = None
    """Short for --loss-set gamma=γ, of the focal loss."""


@dataclass(frozen=True)
class LandscapeFlags(ProblemFlags):
    """The unconstrained feature model, or with --landscape any other."""

    landscape: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME|FILE.py:NAME")] = None
    """A landscape of your own in place of the model's flags: a class, or a function that returns one."""
    set: Settings = ()
    """Its parameters, as --set decay=0.1 rank=2; in a sweep, a name given several times makes a grid."""


@dataclass(frozen=True)
class Sweep(LandscapeFlags):
    """Search from many random starts, judge every point, and print the verdict table.

    Of the unconstrained feature model, or with --landscape of any other.
    """

    starts: int = 1000
    """Searches for each decay setting and target."""
    seed: int = 0
    target: Annotated[str, tyro.conf.arg(metavar="minima|saddles|both|INDEX")] = "minima"
    """minima: descend. saddles: critical points of any index. A number: saddles of that index."""
    space: Literal["auto", "full", "collapsed"] = "auto"
    """Where to search: on class means, which is exact (auto, collapsed), or over all N features (full)."""
    spectra: Literal["all", "needed"] = "all"
    """Eigenvalues of the Hessian for every row, once an orbit, or only where certificates do not decide."""
    search_dtype: Literal["auto", "float32", "float64"] = "auto"
    """float32: begin searches so, then go on and judge in float64. auto: only on devices without float64."""
    keep_points: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Store W, H and b of every row as tensors; on class means, H holds √n_k times the mean of class k."""
    out: Path = Path("runs/sweep")
    """Folder for manifest, Parquet files and summary; the same command resumes."""
    no_cache: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Neither keep compiled programs nor use those kept."""
    shard_size: int = 4096
    """Rows of a file: what a kill can lose. Part of the configuration, as --starts is."""
    repair: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read every finished file, move bad ones to DIR/bad, and compute just these again.

    A lost or edited manifest is written again, if the files there are of this very run.
    """
    cluster: Annotated[str | None, tyro.conf.arg(metavar="local:N|tcp://HOST:PORT|SLURM.yaml")] = None
    """Run shards on Dask: N processes of this machine, a scheduler that runs already, or Slurm jobs."""


@dataclass(frozen=True)
class Census(LandscapeFlags):
    """List all critical orbits, modulo rotations and class permutations, and test whether any is missing.

    Of the unconstrained feature model, or with --landscape of any other, modulo what it says of its symmetry.
    """

    starts: int | None = None
    """Searches at most; by default until twice as many again as were needed bring nothing new."""
    seed: int = 0
    prove: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prove each orbit found, and that they differ, by interval arithmetic, into DIR/proofs.json."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on although the estimate says that it will take hours."""
    repair: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Move a bad orbits.npz to DIR/bad and begin again; write a lost or edited manifest again.

    The manifest only if the orbits there are of this very census.
    """
    out: Path = Path("runs/census")
    """Folder for orbits.csv, orbits.npz, summary.json and manifest; the same command resumes."""
    no_cache: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Neither keep compiled programs nor use those kept."""


@dataclass(frozen=True)
class Certify:
    """Judge your own last layer: files that hold W (K,d), H (d,N) or (N,d), labels (N,) and perhaps b (K,).

    An .npz archive, .npy files or their folder, .safetensors; they may call them weight, features, labels and
    bias, or as a state dict does (module.fc.weight). The decays: --weight-decay, or --decay-w and others.
    """

    files: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]]
    names: Settings = ()
    """Which array is which where names leave that open, as --names W=encoder.out.weight H=penultimate."""
    weight_decay: float | None = None
    """Ordinary weight decay, of W and b."""
    decay_w: float | None = None
    decay_h: float | None = None
    """By default the one that balances the decays: decay_w ‖W‖² = decay_h ‖H‖²."""
    decay_b: float | None = None
    """By default --weight-decay or 0. Ignored where the file has no b."""
    samples: Literal["columns", "rows"] | None = None
    """What the samples are in H, where it is square (by default its columns)."""
    loss: LossName = "cross-entropy"
    loss_set: Settings = ()
    """Parameters of the loss."""
    smoothing: float | None = None
    """Short for --loss-set smoothing=α."""
    gamma: float | None = None
    """Short for --loss-set gamma=γ, of the focal loss."""
    grad_tol: float = 1e-8
    """Gradient norm above which a point is NOT_CRITICAL, relative to √(f s), s = √(decay_w decay_h)."""
    gap_tol: float = 1e-9
    """Duality gap below which a point is GLOBAL_MINIMUM, relative to f."""
    stream: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go through the samples in passes, as is done by itself where they are too many to be held."""
    prove: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Prove by interval arithmetic that a critical orbit is next to the point, and its index."""
    no_cache: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Neither keep compiled programs nor use those kept."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Predict(LandscapeFlags):
    """Print closed forms and thresholds.

    Of the unconstrained feature model, or with --landscape of any other that says what theory knows of it, as
    ufm_jax.models has them: unit_norm:UnitNorm, relu_features:ReLUFeatures, deep_linear:DeepLinear,
    multi_label:MultiLabel, frozen_classifier:frozen_simplex, factorisation:factorisation,
    lennard_jones:LennardJones.
    """

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Report:
    """Write DIR/report.html: one page on a sweep or census, finished or not, with figures."""

    dir: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """Folder of the run."""


Command = (
    Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Census, tyro.conf.subcommand("census")]
    | Annotated[Certify, tyro.conf.subcommand("certify")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
