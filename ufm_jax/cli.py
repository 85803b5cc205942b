"""The `ufm` command: flags to configurations, results to text. JAX is imported only once a command runs."""

import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

import tyro

from ufm_jax.flags import Census, Certify, Command, LandscapeFlags, Predict, ProblemFlags, Report, Sweep
from ufm_jax.interrupt import INTERRUPTED, say_how_to_go_on
from ufm_jax.objects import Spec, make, parsed

if TYPE_CHECKING:
    from ufm_jax.runs.plan import LandscapeConfig, SweepConfig


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on standard error and exit status 2."""
    command = tyro.cli(
        Command,
        prog="ufm",
        args=_gathered(sys.argv[1:] if args is None else args),
        description="Landscape explorer for the unconstrained feature model of neural collapse.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    gc.set_threshold(100_000, 50, 100)  # tracing makes many objects and no cycles: a tenth of a first sweep
    import jax

    from ufm_jax.devices import judge_on_host, use_all_cores
    from ufm_jax.programs import keep_programs

    try:
        jax.config.update("jax_enable_x64", True)
        use_all_cores()
        keep_programs(not getattr(command, "no_cache", False))
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # jaxlib has both for a platform that is not there
            said = _first_line(error) or f"cannot use {os.environ.get('JAX_PLATFORMS')!r}"
            raise ValueError(f"JAX_PLATFORMS: {said}") from error
        judge_on_host()
        match command:
            case Sweep():
                _sweep(command)
            case Census():
                _census(command)
            case Certify():
                _certify(command)
            case Predict():
                _predict(command)
            case Report():
                _report(command)
    except (ValueError, OSError) as error:
        _refuse(str(error))
    except MemoryError as error:
        _refuse(f"not enough memory: {_first_line(error) or 'Python could not allocate'}")
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        _refuse(f"not enough memory: {_first_line(error)}")
    except KeyboardInterrupt:
        say_how_to_go_on(list(sys.argv[1:] if args is None else args))
        raise SystemExit(INTERRUPTED) from None


def _gathered(args: Sequence[str]) -> list[str]:
    """Return arguments with all assignments behind one flag, which may be repeated."""
    others: list[str] = []
    given: dict[str, list[str]] = {}
    flag = None
    for arg in args:
        if arg.startswith("-"):
            flag = arg if arg in ("--set", "--loss-set", "--names") else None
        if flag is None:
            others.append(arg)
        else:
            given.setdefault(flag, []).extend([arg] if arg != flag else [])
    return others + [word for flag, words in given.items() for word in (flag, *words)]


def _refuse(why: str) -> NoReturn:
    """End with one line and status 2."""
    print(f"ufm: error: {why}", file=sys.stderr)
    raise SystemExit(2) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _counts(flags: ProblemFlags) -> tuple[int, ...]:
    from ufm_jax.models.unconstrained.problem import checked_counts

    counts = None
    if flags.counts is not None:
        try:
            counts = [int(n) for n in flags.counts.split(",")]
        except ValueError:
            raise ValueError(f"counts: need integers separated by commas, got {flags.counts!r}") from None
    per_class = flags.per_class
    if counts is None and per_class is None:
        per_class = 1
    return checked_counts(flags.num_classes, per_class, counts)


def _sweep(flags: Sweep) -> None:
    import jax
    import pyarrow as pa

    from ufm_jax.report.predicted import predicted
    from ufm_jax.report.progress import Reporter
    from ufm_jax.report.table import verdict_table
    from ufm_jax.runs import cluster, store
    from ufm_jax.runs.plan import Shard
    from ufm_jax.runs.work import check

    config = _plan(flags)
    check(config)  # before anything is said or written
    if flags.cluster is not None:
        cluster.check_where(flags.cluster)
    table: pa.Table | None
    failed: dict[Shard, str] = {}
    there = store.rows_there(config, flags.out, repair=flags.repair)
    rows = f"{config.num_rows} rows into {flags.out}, {there} of them there"
    print(f"searching {_where(config)}; {rows}", file=sys.stderr)
    with Reporter(config.num_rows, "ufm sweep", already=there) as reporter:
        if flags.cluster is None:
            table = store.run(config, flags.out, reporter, repair=flags.repair)
        else:
            jax.config.update("jax_platforms", "cpu")  # accelerators are the workers'
            table, failed = cluster.run(config, flags.out, flags.cluster, reporter, repair=flags.repair)
    if table is not None:
        print(verdict_table(table))
        if told := predicted(config, table):
            print(told)
    if failed:
        for shard, why in failed.items():
            print(f"ufm: shard {shard.number} was given up: {why}", file=sys.stderr)
        print("ufm: the same command tries these shards again", file=sys.stderr)
        raise SystemExit(1)


def _plan(flags: Sweep) -> "SweepConfig | LandscapeConfig":
    """Return the configuration that the flags say."""
    from ufm_jax.runs.plan import LandscapeConfig, SweepConfig

    names = ("starts", "seed", "spectra", "search_dtype", "keep_points", "shard_size")
    common: dict[str, Any] = {name: getattr(flags, name) for name in names}
    common["target"] = int(flags.target) if flags.target.isdecimal() else flags.target
    if (chosen := _chosen_landscape(flags)) is not None:
        return LandscapeConfig(**chosen, **common)
    decays = {name: getattr(flags, name) for name in ("decay_w", "decay_h", "decay_b")}
    return SweepConfig(**_sizes(flags), **decays, loss=_loss(flags), space=flags.space, **common)


def _chosen_landscape(flags: LandscapeFlags) -> dict[str, Any] | None:
    """Return the fields of a configuration that --landscape and --set say, or None without them."""
    from ufm_jax.runs.plan import chosen_landscape

    if flags.landscape is None:
        if flags.set:
            raise ValueError("set: these are parameters of --landscape, which is not given")
        return None
    for field in fields(flags):
        of_the_model = field.name == "space" or hasattr(ProblemFlags, field.name)
        if of_the_model and getattr(flags, field.name) != field.default:
            raise ValueError(
                f"{field.name}: this is a flag of the unconstrained feature model; with --landscape, "
                f"parameters are given by --set name=value"
            )
    return chosen_landscape(flags.landscape, flags.set)


def _where(config: "SweepConfig | LandscapeConfig") -> str:
    from ufm_jax.runs.plan import LandscapeConfig

    if isinstance(config, LandscapeConfig):
        return config.landscape.name
    return "over all features" if config.space == "full" else "on class means (exact: features collapse)"


def _census(flags: Census) -> None:
    from ufm_jax.landscape.proof import can_prove
    from ufm_jax.report.progress import Steps, census_progress
    from ufm_jax.report.table import census_report
    from ufm_jax.runs import orbits, proofs
    from ufm_jax.runs.plan import CensusConfig, LandscapeCensusConfig
    from ufm_jax.runs.recipe import landscape_of

    config: CensusConfig | LandscapeCensusConfig
    common: dict[str, Any] = {"seed": flags.seed, "starts": flags.starts}
    if (chosen := _chosen_landscape(flags)) is None:
        config = CensusConfig(**_sizes(flags), loss=_loss(flags), **_single_decays(flags), **common)
    elif several := [name for name, _ in chosen["grid"]]:
        raise ValueError(f"set: a census is of one setting, got several values of {', '.join(several)}")
    else:
        config = LandscapeCensusConfig(chosen["landscape"], **common)
    if flags.prove:
        can_prove(landscape_of(config))
    how = {name: getattr(flags, name) for name in ("force", "repair", "prove")}
    with Steps("ufm census: proving") as proving:
        found, summary = orbits.run(config, flags.out, census_progress(), proving=proving, **how)
    print(census_report(found, summary))
    if flags.prove:
        print(proofs.told(flags.out))
    if summary["complete_as_tested"] is False:
        print(
            "ufm: the list violates a completeness test: an orbit is missing or miscounted", file=sys.stderr
        )
        raise SystemExit(1)


def _sizes(flags: ProblemFlags) -> dict[str, Any]:
    for name in ("dim", "decay_w", "decay_h"):
        if not getattr(flags, name) and getattr(flags, name) != 0:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{name}: need {flag} of the unconstrained feature model")
    return {"counts": _counts(flags), "dim": flags.dim, "bias": not flags.no_bias}


def _loss(flags: ProblemFlags | Certify) -> Spec:
    from ufm_jax.models.unconstrained.loss_names import OF_COUNTS
    from ufm_jax.runs.plan import chosen_loss

    settings = parsed("loss-set", flags.loss_set)
    for name in ("smoothing", "gamma"):
        if (given := getattr(flags, name)) is not None:
            if name in settings:
                raise ValueError(f"{name}: give --{name} or --loss-set {name}=..., not both")
            settings[name] = given
    if flags.loss in OF_COUNTS and "counts" not in settings:
        if isinstance(flags, Certify):
            raise ValueError(f"loss: {flags.loss} needs the class counts, --loss-set counts=N1,N2,...")
        settings["counts"] = _counts(flags)
    return chosen_loss(flags.loss, settings)


def _single_decays(flags: ProblemFlags) -> dict[str, Any]:
    """Return the decays for a command that takes one value of each."""
    decays = {name: getattr(flags, name) for name in ("decay_w", "decay_h", "decay_b")}
    for name, values in decays.items():
        if len(values) != 1:
            raise ValueError(f"{name}: need one value, got {values}")
    return {name: value for name, (value,) in decays.items()}


def _certify(flags: Certify) -> None:
    from ufm_jax.models.unconstrained.last_layer import judge_files
    from ufm_jax.report.last_layer import page

    decays = ("weight_decay", "decay_w", "decay_h", "decay_b")
    found = judge_files(
        *flags.files,
        names=_named(flags.names),
        loss=make("loss", _loss(flags)),
        stream=flags.stream or None,
        say=lambda text: print(f"ufm: {text}", file=sys.stderr, flush=True),
        **{name: getattr(flags, name) for name in (*decays, "samples", "grad_tol", "gap_tol", "prove")},
    )
    row = found.row
    if flags.json:
        for text in (*row["warnings"], *row["notes"]):
            print(f"ufm: {text}", file=sys.stderr)
        print(json.dumps(row, allow_nan=False))
        return
    print(page(row))
    if found.proof is not None:
        print(f"\n{found.proof}")


def _named(settings: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE as a dictionary."""
    pairs = [setting.partition("=") for setting in settings]
    if wrong := [name for name, sign, value in pairs if not (sign and value)]:
        raise ValueError(f"names: need NAME=ARRAY, as W=fc.weight, got {wrong[0]!r}")
    return {name: value for name, _, value in pairs}


def _predict(flags: Predict) -> None:
    from ufm_jax.model_interface import predict
    from ufm_jax.models.unconstrained.model import problem
    from ufm_jax.runs.recipe import landscape_named

    if (chosen := _chosen_landscape(flags)) is None:
        prob = problem(**_sizes(flags), **_single_decays(flags), loss=make("loss", _loss(flags)))
        _print(predict(prob), flags.json)
    elif several := [name for name, _ in chosen["grid"]]:
        raise ValueError(f"set: predictions are of one setting, got several values of {', '.join(several)}")
    else:
        _print(predict(landscape_named(chosen["landscape"])), flags.json)


def _report(flags: Report) -> None:
    from ufm_jax.report.page import write

    print(write(flags.dir))


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    width = max(map(len, result))
    for name, value in result.items():
        if isinstance(value, dict) and value:
            print(name)
            inside = max(map(len, value))
            for one, number in value.items():
                print(f"  {one:<{inside}}  {'-' if number is None else number}")
        else:
            print(f"{name:<{width}}  {'-' if value is None else value}")
