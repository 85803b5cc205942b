"""What fixing the classifier and narrowing the features to d = K save: parameters and memory of training.

    python -m experiments.parameter_table --scale smoke|default|paper

Zhu et al. 2021, sec. 4.3, for ResNet18 and ResNet50 with the 7 x 7 stem and K = 10, 100, 1000. Optimiser: SGD
with momentum, one float32 number for each parameter and a count of steps. Temporary memory: activations,
gradients and workspace of one training step together, as XLA reports it, compiled for this device and never
run (`networks_cost`). No ETF exists for d < K − 1: those rows are left out and named. `smoke` counts
parameters and compiles nothing. `fixed_etf` trains such designs.
"""

import csv
import time
from dataclasses import dataclass
from typing import Any

from experiments.common import Scale, cli, folder, record, set_up
from experiments.networks_cost import held_bytes, state_shapes, temporary_bytes
from ufm_jax.networks.design import Design
from ufm_jax.networks.models import network, num_parameters
from ufm_jax.networks.training import Recipe


@dataclass(frozen=True)
class Config:
    """Networks, numbers of classes, and the step whose memory is asked for (none for `batch` 0)."""

    architectures: tuple[str, ...] = ("resnet18", "resnet50")
    classes: tuple[int, ...] = (10, 100, 1000)
    batch: int = 32
    pixels: int = 32


SCALES: dict[Scale, Config] = {
    "smoke": Config(batch=0),
    "default": Config(),
    "paper": Config(batch=256, pixels=224),
}


def designs(config: Config) -> tuple[list[Design], list[str]]:
    """Return every design of the table, and what cannot be built with why."""
    found, impossible = [], []
    for architecture in config.architectures:
        for K in config.classes:
            for etf in (False, True):
                for dim in (None, K):
                    try:
                        found.append(Design(architecture, K, dim=dim, etf=etf, stem="imagenet"))
                    except ValueError as error:
                        impossible.append(f"{architecture}, K = {K}, fixed ETF, full d: {error}")
    return found, impossible


def rows(config: Config) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each design, and what cannot be built."""
    found, impossible = designs(config)
    table: list[dict[str, Any]] = []
    base = 0
    for design in found:
        began = time.perf_counter()
        net, recipe = network(design, 3), Recipe(batch=max(1, config.batch))
        parameters = num_parameters(design)
        base = parameters if not design.etf and design.dim is None else base
        row = {
            "network": design.architecture,
            "K": design.num_classes,
            "classifier": "fixed ETF" if design.etf else "learned",
            "d": design.feature_dim,
            "parameters": parameters,
            "change_percent": round(100 * (parameters / base - 1), 2),
            "optimiser_bytes": held_bytes(state_shapes(net, recipe).optimiser),
            "temporary_bytes": None,
        }
        if config.batch:
            pixels = (config.pixels, config.pixels, 3)
            row["temporary_bytes"] = temporary_bytes(net, recipe, pixels, config.batch)
            print(
                f"{design.architecture}, K = {design.num_classes}: {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        table.append(row)
    return table, impossible


def shown(table: list[dict[str, Any]]) -> str:
    """Format the table; memory in MiB."""
    lines = ["network   K     classifier  d     parameters   change (%)  optimiser (MiB)  temporary (MiB)"]
    for row in table:
        held = row["temporary_bytes"]
        memory = "-" if held is None else f"{held / 2**20:.1f}"
        lines.append(
            f"{row['network']:9} {row['K']:<5} {row['classifier']:11} {row['d']:<5} {row['parameters']:>11,}"
            f"  {row['change_percent']:>+10.2f}  {row['optimiser_bytes'] / 2**20:>15.1f}  {memory:>15}"
        )
    return "\n".join(lines)


def main(scale: Scale = "default") -> None:
    """Print the table and write it as CSV and JSON."""
    set_up()
    config = SCALES[scale]
    table, impossible = rows(config)
    print(
        f"\nstem 7 x 7, learned bias, float32; temporary memory at batch {config.batch} of "
        f"{config.pixels} x {config.pixels} pixels"
    )
    print(shown(table))
    print("\n".join(f"left out: {line}" for line in impossible))
    path = folder(scale) / "parameter_table.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    facts = {"batch": config.batch, "pixels": config.pixels, "table": table, "left_out": impossible}
    print(f"wrote {path}, {record('parameter_table', scale, **facts)}")


if __name__ == "__main__":
    cli(main)
