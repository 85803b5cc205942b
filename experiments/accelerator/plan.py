"""What `experiments.accelerator` has to do, in which order, and what it tells the process that does it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from experiments.accelerator.agreement import TARGETS, Sizes
from ufm_jax.runs.plan import Target

Kind = Literal["device", "searched", "judged", "rate", "spectra", "batches"]


@dataclass(frozen=True)
class Stage:
    """One thing to do, and on which problem."""

    kind: Kind
    sizes: Sizes = (0, 0, 0)
    target: Target = "minima"

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.kind if self.kind == "device" else f"{self.kind} K={self.sizes[0]} {self.target}"


@dataclass(frozen=True)
class Plan:
    """What a process of stages is told; times are seconds since the epoch."""

    stages: tuple[Stage, ...]
    deadline: float
    folder: str  # where the CPU's rows are, or will be
    rows: int  # of each check
    batches: tuple[int, ...]  # lanes a device and call
    with_spectra: int  # starts whose spectra are all taken
    matrix: int  # size of the large matrix product
    copied: int  # numbers of each array of the triad

    @staticmethod
    def read(file: Path) -> "Plan":
        """Return the plan that a file holds."""
        held = json.loads(file.read_text())
        stages = tuple(Stage(s["kind"], tuple(s["sizes"]), s["target"]) for s in held.pop("stages"))
        return Plan(stages, batches=tuple(held.pop("batches")), **held)

    def text(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self))


def stages(sizes: tuple[Sizes, ...]) -> Iterator[Stage]:
    """Yield all stages, what is most worth knowing first, and what compiles most last."""
    yield Stage("device")
    checks: tuple[Kind, ...] = ("searched", "judged")
    rest: tuple[Kind, ...] = ("spectra", "batches")
    yield from (Stage(kind, sizes[0], target) for target in TARGETS for kind in checks)
    yield from (Stage("rate", K, "minima") for K in sizes)
    for K in sizes[1:]:
        yield from (Stage(kind, K, target) for target in TARGETS for kind in checks)
    yield from (Stage("rate", K, "saddles") for K in sizes)
    for kind in rest:
        yield from (Stage(kind, K, target) for target in TARGETS for K in sizes)
