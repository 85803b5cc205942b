"""How the cost of a sweep grows with the number of starts, classes, features and samples.

    python -m experiments.growth --scale smoke|default|paper

Each point is a process of its own, for its peak memory: the sweep from another seed first, so that everything
is compiled (sweeps of few starts are compiled otherwise), then the one that is timed. Rows are judged as
others are: what is drawn is the rate of judged starts. With `spectra` "needed" certificates decide minima,
and an eigenvalue is computed only for what they leave open; a whole spectrum of a saddle is of order
2K(K − 1) + K.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt

from experiments.common import COLOURS, MARKERS, STYLE, Scale, cli, peak_mib, save, set_up
from ufm_jax.report.progress import Reporter

DECAYS: dict[str, Any] = {"decay_w": (5e-4,), "decay_h": (1e-4,), "decay_b": (1e-2,)}
SHARD = 2**16  # rows of a file of the sweeps into folders


@dataclass(frozen=True)
class Point:
    """One sweep: K, d, n, starts; into a folder, as the command line does, where memory is the question."""

    axis: Literal["starts", "classes", "features", "samples"]
    num_classes: int = 4
    dim: int = 6
    per_class: int = 5
    starts: int = 1024
    target: Literal["minima", "saddles"] = "minima"
    spectra: Literal["needed", "all"] = "needed"


def of_starts(*counts: int) -> tuple[Point, ...]:
    """Return sweeps of more and more starts."""
    return tuple(Point("starts", starts=count) for count in counts)


def of_classes(kind: dict[str, Any], **counts: int) -> tuple[Point, ...]:
    """Return sweeps of more and more classes, K = d, each with its number of starts."""
    sizes = {int(name.removeprefix("K")): starts for name, starts in counts.items()}
    return tuple(Point("classes", num_classes=K, dim=K, starts=s, **kind) for K, s in sizes.items())


def of_sizes(dims: tuple[int, ...], samples: tuple[int, ...]) -> tuple[Point, ...]:
    """Return sweeps of more and more features, and samples a class."""
    return (
        *(Point("features", num_classes=10, dim=d) for d in dims),
        *(Point("samples", num_classes=10, dim=10, per_class=n) for n in samples),
    )


ALL, SADDLES = {"spectra": "all"}, {"target": "saddles"}
SCALES: dict[Scale, tuple[Point, ...]] = {
    "smoke": (*of_starts(64, 256), *of_classes({}, K3=64, K5=64), *of_sizes((64,), (1000,))),
    "default": (
        *of_starts(10**3, 10**4, 10**5, 10**6),
        *of_classes({}, K3=8192, K4=8192, K6=8192, K8=4096, K10=4096, K11=2048, K12=2048, K14=2048),
        *of_classes({}, K16=2048, K20=1024, K30=256, K50=64, K70=32, K100=16),
        *of_classes(ALL, K3=8192, K4=8192, K6=4096, K10=2048, K14=512, K20=128, K30=16),
        *of_classes(SADDLES, K3=4096, K4=4096, K6=1024, K8=512, K10=256, K12=64, K14=32, K17=16, K20=8),
        *of_sizes((4, 9, 10, 64, 512, 4096), (1, 10, 10**3, 10**6)),
    ),
    "paper": (*of_starts(10**3, 10**4, 10**5, 10**6, 10**7),),
}
SCALES["paper"] += SCALES["default"][4:]


def measured(point: Point) -> dict[str, Any]:
    """Return rate, memory and verdicts of one sweep, of which this process has done nothing before.

    `first_s` are the seconds of the sweep before it, in which everything is compiled.
    """
    from ufm_jax.files import provenance
    from ufm_jax.runs import engine, store
    from ufm_jax.runs.plan import SweepConfig

    set_up()

    def config(starts: int, seed: int) -> SweepConfig:
        return SweepConfig(
            counts=(point.per_class,) * point.num_classes,
            dim=point.dim,
            **DECAYS,
            target=point.target,
            spectra=point.spectra,
            starts=starts,
            seed=seed,
            shard_size=SHARD,
        )

    def run(starts: int, seed: int) -> Any:
        if point.axis != "starts":
            return engine.sweep(config(starts, seed))
        with tempfile.TemporaryDirectory() as out:
            return store.run(config(starts, seed), Path(out))

    clock = [time.perf_counter()]
    run(point.starts, 1)
    clock.append(time.perf_counter())
    verdicts = run(point.starts, 0)["verdict"].to_pylist()
    clock.append(time.perf_counter())
    return {
        **asdict(point),
        "first_s": clock[1] - clock[0],
        "warm_s": clock[2] - clock[1],
        "peak_mib": peak_mib(),
        "verdicts": dict(Counter(verdicts)),
        "made_by": provenance(),
    }


def run(points: tuple[Point, ...]) -> list[dict[str, Any]]:
    """Measure each point in a process of its own; one that failed says why in place of its numbers."""
    found = []
    with Reporter(len(points), "growth: sweeps measured") as reporter:
        for point in points:
            command = [sys.executable, "-m", "experiments.growth", "--point", json.dumps(asdict(point))]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                found.append(asdict(point) | {"failed": ended.stderr.strip().splitlines()[-1]})
            else:
                found.append(json.loads(ended.stdout.splitlines()[-1]))
            reporter(len(found), Counter(measured=sum("failed" not in one for one in found)))
    return found


def plot(found: list[dict[str, Any]]) -> plt.Figure:
    """Draw memory against starts, and rates against classes and against features and samples."""
    good = [one for one in found if "failed" not in one]
    with plt.rc_context(STYLE):
        figure, (memory, classes, sizes) = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
        _line(
            memory, [o for o in good if o["axis"] == "starts"], "starts", "peak_mib", 0, "sweep into a folder"
        )
        memory.set(xlabel="starts (K = 4, minima)", ylabel="peak memory (MiB)", yscale="linear")
        memory.set_ylim(bottom=0)
        kinds = (("minima", "needed", "minima"), ("minima", "all", "minima, spectra of all"))
        for number, (target, spectra, label) in enumerate((*kinds, ("saddles", "needed", "any index"))):
            ours = [
                o for o in good if o["axis"] == "classes" and (o["target"], o["spectra"]) == (target, spectra)
            ]
            _line(classes, ours, "num_classes", "rate", number, label)
        classes.set(xlabel="classes K = d", ylabel="judged starts a second", yscale="log")
        for number, (axis, name, label) in enumerate(
            (("features", "dim", "features d"), ("samples", "per_class", "samples a class n"))
        ):
            _line(sizes, [o for o in good if o["axis"] == axis], name, "rate", 3 + number, label)
        sizes.set(xlabel="d or n (K = 10, minima)", ylabel="judged starts a second", yscale="log")
        low, high = sizes.get_ylim()
        sizes.set_ylim(low / 10, high * 10)  # flat, and seen to be
        for axes in (memory, classes, sizes):
            axes.set_xscale("log")
            if axes.lines:
                axes.legend()
    return figure


def _line(axes: Any, points: list[dict[str, Any]], x: str, y: str, number: int, label: str) -> None:
    if not points:
        return
    rated = [(o[x], o["starts"] / o["warm_s"] if y == "rate" else o[y]) for o in points]
    axes.plot(*zip(*sorted(rated), strict=True), marker=MARKERS[number], color=COLOURS[number], label=label)


@dataclass(frozen=True)
class Command:
    """Measure how the cost of a sweep grows, and draw it."""

    scale: Scale = "default"
    point: str | None = None
    """Measure this one alone, as JSON, and print what came: what the experiment runs for each."""


def main() -> None:
    """Run the experiment that the command line names."""
    command = cli(Command)
    if command.point is not None:
        print(json.dumps(measured(Point(**json.loads(command.point)))))
        return
    set_up()
    found = run(SCALES[command.scale])
    made_by = next((one["made_by"] for one in found if "made_by" in one), None)
    for one in found:
        one.pop("made_by", None)
        rate = (
            "failed: " + one["failed"] if "failed" in one else f"{one['starts'] / one['warm_s']:.4g} starts/s"
        )
        memory = f"{one['peak_mib']:.0f} MiB" if "peak_mib" in one else ""
        kind = f"{one['target']:<8} spectra {one['spectra']:<7}"
        sizes = (
            f"K={one['num_classes']:<4} d={one['dim']:<5} n={one['per_class']:<8} {one['starts']:>9} starts"
        )
        print(f"{one['axis']:<9} {sizes} {kind} {rate} {memory}")
    save(partial(plot, found), "growth", command.scale, made_by, points=found)


if __name__ == "__main__":
    main()
