"""Does training with narrower products change neural collapse? The same runs in float32 and in bfloat16.

    python -m experiments.precision --scale smoke|default|paper [--data-dir DIR]

`training.objective` says what is rounded. Runs of one seed start from the same weights and see the same
images in the same order, so they are compared seed by seed: the change of accuracies, and the ratio of each
metric of collapse, its geometric mean with the deviation of its logarithm over seeds. What a seed alone
changes stands beside it. On a GPU TensorFloat-32 is a third; on a CPU it does not round. Metrics are measured
in float32 always. Default scale is `fixed_etf`'s first design; `paper` needs a GPU.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial

import jax
import numpy as np
from tyro.conf import OmitArgPrefixes

from experiments import fixed_etf
from experiments.common import Scale, cli, folder, save
from experiments.networks_common import (
    COLLAPSE,
    EXTRA,
    begun,
    built,
    cell,
    curves,
    images,
    spread,
    summary,
    table,
    write_histories,
)
from experiments.networks_cost import step_times
from experiments.networks_runs import AS_THE_SCALE, Budget, Histories, Training, runs_of, trained_said
from ufm_jax.networks.run import Row

ACCURACIES = ("train_accuracy", "test_accuracy")
RATIOS = (*COLLAPSE, "cdnv")


@dataclass(frozen=True)
class Config(fixed_etf.Config):
    """That of `fixed_etf`, whose first design is trained in these precisions: the first is compared with."""

    precisions: tuple[str, ...] = ("float32", "bfloat16", "tensorfloat32")

    def here(self) -> tuple[str, ...]:
        """Return the precisions that this device knows."""
        return tuple(p for p in self.precisions if p != "tensorfloat32" or jax.default_backend() == "gpu")


def config_of(scale: Scale) -> Config:
    """Return that of `fixed_etf`; two or three precisions need less time than its six designs."""
    like = vars(fixed_etf.SCALES[scale])
    return Config(**like | {"timed": like["timed"] / 3})


def ratio(values: Iterable[float], first: Iterable[float]) -> dict[str, float | None]:
    """Return the geometric mean of ratios, and the standard deviation of their natural logarithms."""
    logs = spread(np.log(a / b) for a, b in zip(values, first, strict=True))
    return {"mean": float(np.exp(logs["mean"] or 0.0)), "sd": logs["sd"]}


def compared(histories: Histories) -> dict[str, Row]:
    """Return a row for each precision: its ends, and what it changes from the first, seed by seed."""
    ends = {name: [rows[-1] for rows in runs] for name, runs in histories.items()}
    (first, *_) = ends.values()
    of = lambda rows, key: [row[key] for row in rows]
    return {
        name: summary(histories[name], (*ACCURACIES, *RATIOS))
        | {f"{key}_change": spread(np.subtract(of(rows, key), of(first, key))) for key in ACCURACIES}
        | {f"{key}_ratio": ratio(of(rows, key), of(first, key)) for key in RATIOS}
        | {f"{key}_log_sd_of_seeds": spread(np.log(of(rows, key)))["sd"] for key in RATIOS}
        for name, rows in ends.items()
    }


def shown(rows: dict[str, Row]) -> str:
    """Format ends, changes of accuracy in points, and ratios ± the deviation of their logarithm."""
    heads = ["products", "test acc. (%)", "change (points)", "NC1", "seeds' spread"]
    lines = [
        [name, cell(row["test_accuracy"], scale=100), cell(row["test_accuracy_change"], scale=100)]
        + [cell(row["nc1"], -1), f"{row['nc1_log_sd_of_seeds'] or 0:.2f}"]
        + [cell(row[f"{key}_ratio"]) for key in RATIOS]
        + [f"{1e3 * row['step_seconds']:.1f}"]
        for name, row in rows.items()
    ]
    return table([*heads, *(f"{key.upper()} ratio" for key in RATIOS), "step (ms)"], lines)


def main(scale: Scale = "default", training: OmitArgPrefixes[Training] = AS_THE_SCALE) -> None:
    """Train in each precision from the same seeds, print what it changes and draw the curves."""
    budget = Budget(training.budget, training.checkpoints)
    config = begun(config_of(scale), replace(training, precision=None))
    if training.precision:
        if training.precision not in config.here()[1:]:
            need = " or ".join(config.here()[1:])
            raise ValueError(
                f"precision: need {need} on {jax.default_backend()}, to be compared with {config.here()[0]}, "
                f"got {training.precision!r}"
            )
        config = replace(config, precisions=("float32", training.precision))
    pair = images(config.source, training.data_dir)
    experiments = {
        name: built(
            config.body, replace(config.recipe, precision=name), pair, config.source.name, config.chunk
        )
        for name in config.here()
    }
    budget.afford(experiments)
    seconds = step_times(experiments, min(config.timed, fixed_etf.TIMED * budget.left))
    histories = runs_of(experiments, config.seeds, budget)
    rows = {name: row | {"step_seconds": seconds[name]} for name, row in compared(histories).items()}
    what = f"{config.source.said(pair[0].pixels.shape)}, {trained_said(histories, experiments)}"
    print(f"\n{what}; mean ± standard deviation, last epoch\n{shown(rows)}\n", flush=True)
    write_histories(folder(scale) / "precision.csv", histories)
    body = f"{config.body.architecture}, width {config.body.width}"
    title = f"Products in training rounded or not: {body}, {what}"
    facts = {"config": asdict(config), "images": what, "table": rows}
    save(partial(curves, COLLAPSE | EXTRA, histories, 4, title), "precision", scale, **facts)


if __name__ == "__main__":
    cli(main)
