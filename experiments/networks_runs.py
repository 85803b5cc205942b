"""Runs of the experiments with networks: their flags, a budget that they share, what of them is compared."""

import hashlib
import json
import time
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.networks_cost import epoch_seconds
from ufm_jax.networks.arguments import whole
from ufm_jax.networks.peeled import stand
from ufm_jax.networks.run import Experiment, Row, identity, line, run
from ufm_jax.networks.training import Recipe

Config = TypeVar("Config")  # an experiment's record of choices
Histories = dict[str, list[list[Row]]]  # by name: of each seed a row for each epoch


@dataclass(frozen=True)
class Training:
    """Flags of the experiments that train networks; None leaves what the scale says."""

    data_dir: Path | None = None  # where the images' files are
    checkpoints: Path | None = None  # a folder that makes runs resumable
    budget: float | None = None  # minutes; the same command goes on from its checkpoints
    epochs: int | None = None  # of every run; the rate falls at the same shares of them
    seeds: int | None = None
    precision: str | None = None  # of products in training: bfloat16, tensorfloat32 or float32

    def applied_to(self, config: Config) -> Config:
        """Return an experiment's record with these flags: its seeds, its `recipe` or all its `recipes`.

        Raises:
            ValueError: naming a flag that no training can have.
        """
        given: Any = config
        changed: dict[str, Any] = {}
        if self.seeds is not None:
            changed["seeds"] = whole("seeds", self.seeds, 1)
        for name in {"recipe", "recipes"} & {field.name for field in fields(given)}:
            recipes = getattr(given, name)
            changed[name] = self._recipe(recipes) if name == "recipe" else tuple(map(self._recipe, recipes))
        return replace(given, **changed)

    def _recipe(self, recipe: Recipe) -> Recipe:
        if self.epochs is not None:
            epochs = whole("epochs", self.epochs, 1)
            drop_every = max(1, round(recipe.drop_every * epochs / recipe.epochs))
            recipe = replace(recipe, epochs=epochs, drop_every=drop_every)
        return recipe if self.precision is None else replace(recipe, precision=self.precision)


AS_THE_SCALE = Training()


class Budget:
    """Minutes that an experiment may take; what was not finished goes on from its checkpoints next time."""

    def __init__(self, minutes: float | None = None, checkpoints: Path | None = None) -> None:
        if minutes is not None and not 0 < minutes < np.inf:
            raise ValueError(f"budget: need a number of minutes > 0, got {minutes}")
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.checkpoints = checkpoints if minutes is None else checkpoints or Path("runs/checkpoints")
        self.need = 0.0  # seconds that an epoch of each run takes, once `afford` knows

    @property
    def left(self) -> float:
        """Seconds until no run may go on."""
        return np.inf if self.deadline is None else self.deadline - time.monotonic()

    def afford(self, experiments: dict[str, Experiment]) -> None:
        """See to it that an epoch of each run can be done and its checkpoint written.

        Runs are compiled and timed one after the other, and no more of them than it takes to say no.

        Raises:
            ValueError: saying how long an epoch of each takes on this device, if that cannot be done; naming
                `checkpoints`, if that folder cannot be made.
        """
        if self.checkpoints is not None:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"checkpoints: cannot make the folder {self.checkpoints}: {error}") from None
        if self.deadline is None:
            return
        need, total = 0.0, len(experiments)
        for tried, exp in enumerate(experiments.values(), 1):
            need += epoch_seconds(exp)
            if need > self.left:
                device, left = jax.devices()[0].device_kind, max(0.0, self.left)
                which = f"each of {total}" if tried == total else f"the first {tried} of {total}"
                raise ValueError(
                    f"budget: an epoch of {which} runs takes about {need / 60:.3g} minutes on {device}, and "
                    f"after their compilation {left / 60:.3g} are left: give it more, or choose a smaller "
                    "--scale"
                )
        self.need = need

    def part(self, number: int) -> "Budget":
        """Return the budget of the next of so many groups of runs, which share what is left."""
        mine = Budget(None, self.checkpoints)
        mine.deadline = self.share(number)
        return mine

    def share(self, number: int) -> float | None:
        """Return the deadline of the next of so many runs that share what is left."""
        return None if self.deadline is None else time.monotonic() + max(0.0, self.left) / number


def trained(
    exp: Experiment,
    seed: int,
    label: str,
    checkpoints: Path | None = None,
    deadline: float | None = None,
    *,
    landscape: bool = False,
) -> list[Row]:
    """Run one seed with progress lines; add where the last layer stands in its landscape if asked."""
    every = max(1, exp.recipe.epochs // 10)

    def say(text: str) -> None:
        epoch = int(text[5:].split(":")[0])
        if epoch % every == 0 or epoch == 1:
            print(f"{label}, seed {seed}: {text}", flush=True)

    also = (lambda weights: stand(exp.net, exp.recipe, weights, exp.train)) if landscape else None
    file = checkpoints / checkpoint_name(exp, seed, label) if checkpoints else None
    rows = run(exp, seed, also=also, say=say, checkpoint=file, deadline=deadline)[1]
    print(f"{label}, seed {seed}: ends with {line(rows[-1])}", flush=True)
    return [row | derived(row) for row in rows]


def checkpoint_name(exp: Experiment, seed: int, label: str) -> str:
    """Return a file's name for this run and no other: another recipe or other images begin anew."""
    said = json.dumps(identity(exp, seed), sort_keys=True).encode()
    return f"{label.replace(' ', '_').replace(',', '')}-{seed}-{hashlib.sha256(said).hexdigest()[:8]}.npz"


def runs_of(
    experiments: dict[str, Experiment], seeds: int, budget: Budget, *, landscape: bool = False
) -> Histories:
    """Run all experiments from each seed, one seed after the other; return what of it can be compared.

    With a budget, the runs of a seed that are still to come share evenly what is left of it, so that none is
    trained at the cost of others; each does an epoch at least. A seed is begun where all runs of the one
    before came to their end, and an epoch of each can be done in time. `landscape`: say at each epoch where
    the last layer stands.
    """
    histories: Histories = {name: [] for name in experiments}
    for seed in range(seeds):
        cut = any(len(runs[-1]) < experiments[name].recipe.epochs for name, runs in histories.items() if runs)
        if cut or (seed > 0 and budget.left <= budget.need):
            break
        for number, (name, exp) in enumerate(experiments.items()):
            until = budget.share(len(experiments) - number)
            rows = trained(exp, seed, name, budget.checkpoints, until, landscape=landscape)
            histories[name].append(rows)
    return comparable(histories, {name: exp.recipe.epochs for name, exp in experiments.items()})


def comparable(histories: Histories, epochs: dict[str, int]) -> Histories:
    """Return the seeds from which all runs came to their last epoch; if none, one as far as all came."""
    ended = [
        all(len(rows) == epochs[name] for name, rows in zip(histories, of_seed, strict=True))
        for of_seed in zip(*histories.values(), strict=True)
    ]
    if whole_seeds := len(list(takewhile(bool, ended))):
        return {name: runs[:whole_seeds] for name, runs in histories.items()}
    shortest = min(len(runs[0]) for runs in histories.values())
    return {name: [runs[0][:shortest]] for name, runs in histories.items()}


def derived(row: Row) -> Row:
    """Add what is drawn and not measured as such."""
    more = {f"{split}_error": 1.0 - row[f"{split}_accuracy"] for split in ("train", "test")}
    if "dual_gap" in row:
        more["curvature_left"] = max(0.0, -row["negative_curvature"])
        more["gap_distance"] = abs(row["logit_gap"] - row["logit_gap_predicted"])
        more["probability_distance"] = abs(row["wrong_probability"] - row["wrong_probability_predicted"])
    return more


def seeds_said(count: int) -> str:
    """Say how many seeds."""
    return "one seed" if count == 1 else f"{count} seeds"


def trained_said(histories: Histories, experiments: dict[str, Experiment]) -> str:
    """Say how many seeds there are, and how far they came where a budget ended them."""
    ended = [len(runs[0]) == experiments[name].recipe.epochs for name, runs in histories.items()]
    asked = max(exp.recipe.epochs for exp in experiments.values())
    (first, *_) = histories.values()
    return seeds_said(len(first)) + ("" if all(ended) else f", {len(first[0])} of {asked} epochs")
