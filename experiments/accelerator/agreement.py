"""Do two devices agree? Rows made on the CPU, beside what another device makes of the same starts and points.

`python -m experiments.accelerator.agreement FOLDER ROWS K,n,d ...` makes the rows of the CPU, in a process of
its own: what is compiled depends on the process's own backend (`numerics.lanes`, `stacked.batch_size`). Two
statements are checked. *Judged*: the CPU's points, judged by the other device, have the same verdict and
index, and the loss within `LOSS_TOL`; this must hold of every row. *Searched*: the other device's own search
from the same start ends in such a row. Another device rounds otherwise, and near the border of a basin that
decides where a search toward saddles ends; so the CPU does it again with decays changed in their last bits,
and as many rows may differ as then do, and three standard deviations more. Toward minima none may: all are
global where d ≥ K − 1.
"""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.benchmark.settings import setting
from experiments.common import set_up
from ufm_jax.files import write_file
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained.problem import Params
from ufm_jax.runs.pipeline import judge, search
from ufm_jax.runs.plan import Spectra, SweepConfig, Target
from ufm_jax.runs.work import work_of

Sizes = tuple[int, int, int]  # K, n, d
TARGETS: tuple[Target, ...] = ("minima", "saddles")
LOSS_TOL = 1e-10  # of a loss, relative to 1 + |f|
NUDGE = 2.0**-50  # relative change of the decays: four units in the last place
LISTED = 40  # rows that differ of which a report gives both sides


class Rows(NamedTuple):
    """What is compared of each start."""

    loss: Float[np.ndarray, " S"]
    verdict: Int[np.ndarray, " S"]
    index: Int[np.ndarray, " S"]  # type: ignore[assignment]  # or NOT_COUNTED


class Differences(NamedTuple):
    """Where two sets of rows differ, row by row, and of which rows loss and index were compared."""

    compared: Bool[np.ndarray, " S"]
    loss: Bool[np.ndarray, " S"]
    verdict: Bool[np.ndarray, " S"]
    index: Bool[np.ndarray, " S"]  # type: ignore[assignment]

    @property
    def anywhere(self) -> Bool[np.ndarray, " S"]:
        """Rows that differ in any of the three."""
        return self.loss | self.verdict | self.index


def plan(sizes: Sizes, target: Target, starts: int, spectra: Spectra = "all") -> SweepConfig:
    """Return the benchmark's sweep of these sizes, in one shard."""
    s = setting(*sizes)
    return SweepConfig(
        counts=(s.n,) * s.K,
        dim=s.d,
        decay_w=(s.decay_w,),
        decay_h=(s.decay_h,),
        decay_b=(s.decay_b,),
        starts=starts,
        target=target,
        spectra=spectra,
        shard_size=starts,
    )


def searched(config: SweepConfig, nudge: float = 0.0) -> tuple[Params, Rows]:
    """Search from the sweep's starts on this process's devices; decays are 1 + `nudge` times the sweep's."""
    prob, fields = _each(config, nudge)
    point = search(prob, fields, jax.random.key(config.seed), np.arange(config.starts), config.target)
    return point.x, _rows(config, point.x, nudge)


def judged(config: SweepConfig, points: Params) -> Rows:
    """Judge points on this process's devices, with their spectra."""
    return _rows(config, points)


def compare(ours: Rows, theirs: Rows, *, points_are_the_same: bool) -> Differences:
    """Compare rows; of searches, losses and indices only where both ended at a critical point.

    Elsewhere neither means anything: a search that met no critical point stops somewhere on a slope.
    """
    critical = (ours.verdict != Verdict.NOT_CRITICAL) & (theirs.verdict != Verdict.NOT_CRITICAL)
    compared = critical | points_are_the_same
    near = np.isclose(ours.loss, theirs.loss, rtol=LOSS_TOL, atol=LOSS_TOL, equal_nan=True)
    return Differences(
        compared, compared & ~near, ours.verdict != theirs.verdict, compared & (ours.index != theirs.index)
    )


def allowed(target: Target, last_bit: int) -> int:
    """Return how many searches may end elsewhere on another device, if `last_bit` do on the CPU, nudged.

    The difference of two Poisson counts of that mean has the standard deviation √(2 `last_bit`).
    """
    return 0 if target == "minima" else math.floor(last_bit + 3 * math.sqrt(2 * max(last_bit, 1)))


def report(ours: Rows, theirs: Rows, differ: Differences) -> dict[str, Any]:
    """Count what differs, and give both sides of the first `LISTED` such rows, ours first."""
    anywhere = differ.anywhere
    agreeing = differ.compared & ~anywhere & np.isfinite(ours.loss)
    apart = np.abs(ours.loss - theirs.loss)[agreeing]
    return {
        "rows": len(anywhere),
        "differ": int(anywhere.sum()),
        "in": {name: int(getattr(differ, name).sum()) for name in Rows._fields},
        # Two critical points, not one critical point and a search that met none.
        "at_another_critical_point": int((anywhere & ~_one_is_not_critical(ours, theirs)).sum()),
        "largest_loss_difference_of_the_others": float(apart.max()) if apart.size else None,
        "listed": [
            {
                "start": int(i),
                "loss": [_number(ours.loss[i]), _number(theirs.loss[i])],
                "verdict": [Verdict(int(r.verdict[i])).name for r in (ours, theirs)],
                "index": [int(ours.index[i]), int(theirs.index[i])],
            }
            for i in np.flatnonzero(anywhere)[:LISTED]
        ],
    }


def check_judged(config: SweepConfig, file: Path) -> dict[str, Any]:
    """Judge the CPU's points on this device and compare: every row must agree."""
    theirs, points, _ = load(file)
    ours = judged(config, points)
    found = report(ours, theirs, compare(ours, theirs, points_are_the_same=True))
    return {"allowed": 0, "holds": found["differ"] == 0, **found}


def check_searched(config: SweepConfig, file: Path, ours: Rows) -> dict[str, Any]:
    """Compare this device's own searches with the CPU's, within what is `allowed`."""
    theirs, _, last_bit = load(file)
    found = report(ours, theirs, compare(ours, theirs, points_are_the_same=False))
    limit = allowed(config.target, last_bit)
    return {"allowed": limit, "cpu_nudged": last_bit, "holds": found["differ"] <= limit, **found}


def file_of(folder: Path, sizes: Sizes, target: Target) -> Path:
    """Return where the CPU's rows of these sizes and target are."""
    return folder / f"{'_'.join(map(str, sizes))}_{target}.npz"


def make(config: SweepConfig, file: Path) -> None:
    """Search and judge on this process's devices, toward saddles also with nudged decays; write `file`."""
    points, rows = searched(config)
    moved = 0
    if config.target == "saddles":
        nudged = searched(config, NUDGE)[1]
        moved = int(compare(nudged, rows, points_are_the_same=False).anywhere.sum())
    arrays: dict[str, Any] = {
        name: np.asarray(a) for name, a in (*points._asdict().items(), *rows._asdict().items())
    }
    write_file(file, lambda out: np.savez(out, last_bit=moved, **arrays))


def load(file: Path) -> tuple[Rows, Params, int]:
    """Return the CPU's rows and points, and how many rows nudged decays change."""
    with np.load(file) as held:
        rows = Rows(*(held[name] for name in Rows._fields))
        return rows, Params(*(held[name] for name in Params._fields)), int(held["last_bit"])


def _each(config: SweepConfig, nudge: float) -> tuple[Landscape, dict[str, np.ndarray]]:
    """Return the sweep's landscape, and its decays with one entry a start."""
    work = work_of(config)
    return work.landscape, {
        name: np.repeat(values * (1.0 + nudge), config.starts) for name, values in work.settings.items()
    }


def _rows(config: SweepConfig, points: Params, nudge: float = 0.0) -> Rows:
    evidence = judge(*_each(config, nudge), points, config.target, "all")
    return Rows(*(np.asarray(getattr(evidence, name)) for name in Rows._fields))


def _one_is_not_critical(ours: Rows, theirs: Rows) -> Bool[np.ndarray, " S"]:
    return (ours.verdict == Verdict.NOT_CRITICAL) | (theirs.verdict == Verdict.NOT_CRITICAL)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def main() -> None:
    """Make the rows that the command line names, the cheapest first; each file is whole when it is there."""
    folder, rows, *each = sys.argv[1:]
    set_up()
    for text in each:
        K, n, d = map(int, text.split(","))
        for target in TARGETS:
            make(plan((K, n, d), target, int(rows)), file_of(Path(folder), (K, n, d), target))


if __name__ == "__main__":
    main()
