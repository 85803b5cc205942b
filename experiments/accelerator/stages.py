"""The stages of `experiments.accelerator`, in the process that has the device: one JSON object a line.

`python -m experiments.accelerator.stages PLAN` does the stages that the file PLAN names, in their order. It
says `begun`, `found` (a result, as soon as there is one) and `done` of each, `skipped` where the time left is
less than what a stage like it took, `too_large` of a batch that does not fit, and `failed` where one raised:
then this process ends, as its device may be unwell, and whoever started it starts another for the rest.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import jax
import numpy as np

from experiments import limits
from experiments.accelerator import agreement
from experiments.accelerator.plan import Kind, Plan, Stage
from experiments.common import set_up
from ufm_jax.files import provenance
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.runs import engine, pipeline
from ufm_jax.runs.plan import Spectra
from ufm_jax.runs.work import work_of

BUSY = 5.0  # seconds between two words of a stage that waits
GROWS = 1.2  # a larger batch must do this much better, or it was the last
NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")  # in errors: a batch that does not fit


class Missing(Exception):
    """The CPU's process made no such rows, or not in time."""


def say(word: str, **facts: Any) -> None:
    """Print one line of the protocol."""
    print(json.dumps({"word": word, "at": time.time(), **facts}), flush=True)


def do(plan: Plan) -> None:
    """Do the stages; raise what a stage raises, having said it."""
    cost: dict[str, float] = {}
    for stage in plan.stages:
        if time.time() + cost.get(stage.kind, 0.0) > plan.deadline:
            say("skipped", stage=stage.name, why=f"one like it took {cost[stage.kind]:.0f} s")
            continue
        say("begun", stage=stage.name)
        began = time.time()
        try:
            for result in DOING[stage.kind](stage, plan):
                say("found", stage=stage.name, kind=stage.kind, **_of(stage), result=result)
        except Missing as error:
            say("failed", stage=stage.name, error=_brief(error))
            continue
        except Exception as error:
            say("failed", stage=stage.name, error=_brief(error))
            raise
        cost[stage.kind] = time.time() - began
        say("done", stage=stage.name)


def device(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Measure the device's rates in float64: matrix products, large and of the sizes used, and copies."""
    on_cpu = jax.default_backend() == "cpu"
    size = min(plan.matrix, limits.MATRIX) if on_cpu else plan.matrix
    copied = min(plan.copied, limits.TRIAD) if on_cpu else plan.copied
    yield {"operations_per_s": {f"{size:,} x {size:,}": limits.product_rate((size, size, size))}}
    yield {"bytes_per_s": {"b = b/2 + c": limits.triad_rate(copied)}}
    if not on_cpu:  # whose memory is the host's
        yield {"bytes_per_s": _transfers(np.ones(copied))}
    for sizes in dict.fromkeys(s.sizes for s in plan.stages if s.kind != "device"):
        small = work_of(agreement.plan(sizes, "minima", 1)).landscape.space("minima")
        assert isinstance(small, Problem)
        K, r, D = small.num_classes, small.dim, small.num_variables
        few, many = (max(1, copied // (8 * numbers)) for numbers in (D * D, K * r))
        yield {
            "operations_per_s": {
                f"{many:,} of {K} x {r} by {r} x {K}": limits.product_rate((K, r, K), many),
                f"{many:,} of {K} x {r} by {r} x {K}, batch last": limits.product_rate(
                    (K, r, K), many, batch_last=True
                ),
                f"{few:,} of {D} x {D}": limits.product_rate((D, D, D), few),
            }
        }


def searched(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Search and judge here, then compare with what the CPU found from the same starts."""
    config = agreement.plan(stage.sizes, stage.target, plan.rows)
    began = time.time()
    _, rows = agreement.searched(config)
    took = time.time() - began
    file = _cpu_rows(stage, plan)
    yield {"seconds_with_compilation": took, **agreement.check_searched(config, file, rows)}


def judged(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Judge the CPU's points here."""
    file = _cpu_rows(stage, plan)
    yield agreement.check_judged(agreement.plan(stage.sizes, stage.target, plan.rows), file)


def rate(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Measure judged starts a second of one call, as the package batches here."""
    wait_for(Path(plan.folder) / "done", plan.deadline)  # the host is busy until then
    own = _own_lanes(stage)
    yield measured(stage, own, own, "needed", own=True)


def spectra(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Measure judged starts a second where every row's spectrum is taken."""
    wait_for(Path(plan.folder) / "done", plan.deadline)
    yield measured(stage, _own_lanes(stage), plan.with_spectra, "all", own=True)


def batches(stage: Stage, plan: Plan) -> Iterator[dict[str, Any]]:
    """Measure judged starts a second of one call over growing batches, until the rate grows no more."""
    wait_for(Path(plan.folder) / "done", plan.deadline)
    best = 0.0
    last: dict[str, Any] | None = None
    for lanes in plan.batches:
        needs = _expected(last, lanes)
        if time.time() + needs > plan.deadline:
            say("skipped", stage=f"{stage.name}, from {lanes:,} lanes", why=f"may take {needs:.0f} s")
            return
        with call_of(lanes):
            try:
                last = measured(stage, lanes, lanes, "needed", own=False)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not any(word in str(error) for word in NO_MEMORY):
                    raise
                say("too_large", stage=f"{stage.name}, {lanes:,} lanes", why=_brief(error))
                return
        yield last
        if last["starts_per_s"] < GROWS * best:
            return
        best = last["starts_per_s"]


DOING: dict[Kind, Callable[[Stage, Plan], Iterator[dict[str, Any]]]] = {
    "device": device,
    "searched": searched,
    "judged": judged,
    "rate": rate,
    "spectra": spectra,
    "batches": batches,
}
assert set(DOING) == set(get_args(Kind))


def measured(stage: Stage, lanes: int, starts: int, spectra: Spectra, *, own: bool) -> dict[str, Any]:
    """Time a sweep of `starts` a device twice, the first with compilation."""
    count = starts * jax.local_device_count()
    config = agreement.plan(stage.sizes, stage.target, count, spectra)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        table = engine.sweep(config)
        seconds.append(time.perf_counter() - began)
    first, warm = seconds
    return {
        "spectra": spectra,
        "lanes": lanes,
        "own": own,  # as the package batches here
        "starts": count,
        "first_s": first,
        "warm_s": warm,
        "starts_per_s": count / warm,
        "starts_per_s_first": count / first,
        "verdicts": {v["values"]: v["counts"] for v in table["verdict"].value_counts().to_pylist()},
        "peak_bytes_so_far": _peak_bytes(),
    }


@contextmanager
def call_of(lanes: int) -> Iterator[None]:
    """Have every compiled call of the pipeline take this many lanes a device, for a batch of another size."""
    with (
        mock.patch.object(pipeline, "_share", return_value=lanes),
        mock.patch.object(pipeline, "BATCH", lanes),
    ):
        yield


def wait_for(file: Path, deadline: float) -> bool:
    """Wait until `file` is there; False if the CPU's process has ended without it, or time is up."""
    while not file.exists() and time.time() < deadline and not (file.parent / "ended").exists():
        say("waits", file=file.name)
        began = time.time()
        while not file.exists() and time.time() < min(began + BUSY, deadline):
            time.sleep(0.1)
    return file.exists()


def _cpu_rows(stage: Stage, plan: Plan) -> Path:
    file = agreement.file_of(Path(plan.folder), stage.sizes, stage.target)
    if not wait_for(file, plan.deadline):
        raise Missing("the CPU's rows are not there to compare with")
    return file


def _own_lanes(stage: Stage) -> int:
    """Return how many lanes a device the package itself puts into one call."""
    prob = work_of(agreement.plan(stage.sizes, stage.target, 1)).landscape
    return pipeline.lanes_of_call(prob, stage.target) // jax.local_device_count()


def _transfers(numbers: np.ndarray) -> dict[str, float]:
    """Measure bytes a second to the device and back."""
    there, fresh = jax.device_put(numbers), jax.jit(lambda a: a + 1.0)  # an array keeps its copy on the host
    put = limits.seconds(jax.device_put, numbers, repeats=3)
    get = limits.seconds(lambda: np.asarray(fresh(there)), repeats=3)
    return {"host to device": numbers.nbytes / put, "device to host": numbers.nbytes / get}


def _expected(last: dict[str, Any] | None, lanes: int) -> float:
    """Return the seconds a batch may take, by the last one: as long to compile, in proportion to run."""
    if last is None:
        return 0.0
    return (last["first_s"] - last["warm_s"]) + 2 * last["warm_s"] * lanes / last["lanes"]


def _peak_bytes() -> int | None:
    with suppress(AttributeError, jax.errors.JaxRuntimeError):
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None


def _of(stage: Stage) -> dict[str, Any]:
    K, n, d = stage.sizes
    return {} if stage.kind == "device" else {"K": K, "n": n, "d": d, "target": stage.target}


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def main() -> None:
    """Do the stages that the command line's file names."""
    plan = Plan.read(Path(sys.argv[1]))
    set_up()
    made_by = provenance()  # finds the device
    say("started", made_by=made_by, devices=jax.local_device_count(), backend=jax.default_backend())
    if jax.default_backend() == "cpu":  # the same cores: one after the other
        wait_for(Path(plan.folder) / "done", plan.deadline)
    do(plan)


if __name__ == "__main__":
    main()
