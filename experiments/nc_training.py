"""Neural collapse while a network trains, by three optimisers, and where its last layer then stands.

    python -m experiments.nc_training --scale smoke|default|paper [--data-dir DIR]

Zhu et al. 2021, sec. 4.1: NC1–NC4 and accuracy after each epoch for SGD with momentum, Adam and L-BFGS, with
ordinary weight decay. A second figure puts the last layer into the landscape of its own peeled problem:
duality gap, gradient, negative curvature left, distances to the predicted logit gap and softmax value. There
λ_W = λ_b = λ, and λ_H is the one that balances λ_W‖W‖² = λ_H‖H‖², as at every critical point. `paper` needs a
GPU: ResNet18 at full width on all of Fashion-MNIST at 32 × 32 pixels, 200 epochs, no augmentation.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import partial

from tyro.conf import OmitArgPrefixes

from experiments.common import Scale, cli, folder, save, set_up
from experiments.networks_common import (
    COLLAPSE,
    EXTRA,
    LANDSCAPE,
    Source,
    available,
    built,
    cell,
    curves,
    images,
    plain,
    summary,
    table,
    write_histories,
)
from experiments.networks_runs import AS_THE_SCALE, Budget, Training, runs_of, trained_said
from ufm_jax.networks.design import Design
from ufm_jax.networks.run import Row
from ufm_jax.networks.training import Recipe

KEYS = ("train_accuracy", "test_accuracy", *COLLAPSE, *LANDSCAPE)


@dataclass(frozen=True)
class Config:
    """Images (a figure for each), the network, a recipe for each optimiser, seeds."""

    sources: tuple[Source, ...] = (Source(),)
    design: Design = field(default_factory=lambda: Design("mlp", 10, width=256, depth=3))
    recipes: tuple[Recipe, ...] = (
        Recipe(rate=0.1, decay=2e-3, epochs=120, batch=100),
        Recipe(optimiser="adam", rate=3e-3, decay=2e-3, epochs=120, batch=100),
        Recipe(optimiser="lbfgs", rate=1.0, decay=2e-3, epochs=200, batch=2000),
    )
    seeds: int = 3
    chunk: int = 500

    def design_for(self, recipe: Recipe) -> Design:
        """Return the network; averages over the long steps of L-BFGS would be no network's statistics."""
        return replace(self.design, norm_momentum=0.0) if recipe.optimiser == "lbfgs" else self.design


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        sources=(Source(per_class=10, test_per_class=5, pool=4, or_digits=True),),
        design=Design("mlp", 10, width=16, depth=2),
        recipes=(
            Recipe(epochs=3, batch=20, drop_every=1),
            Recipe(optimiser="adam", rate=1e-3, epochs=3, batch=20),
            Recipe(optimiser="lbfgs", rate=1.0, epochs=3, batch=100),
        ),
        seeds=1,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(
        sources=(Source("fashion-mnist", None, None, pool=1, rgb32=True),),
        design=Design("resnet18", 10),
        recipes=(
            Recipe(),
            Recipe(optimiser="adam", rate=1e-3),
            Recipe(optimiser="lbfgs", rate=0.1, memory=10, batch=2048),
        ),
        seeds=1,
    ),
}


def name_of(recipe: Recipe) -> str:
    """Name an optimiser and its rate."""
    names = {
        "sgd": f"SGD, momentum {recipe.momentum:g}",
        "adam": "Adam",
        "lbfgs": f"L-BFGS, memory {recipe.memory}, line search",
    }
    return f"{names[recipe.optimiser]}, rate {recipe.rate:g}, batch {recipe.batch}"


def shown(rows: dict[str, Row]) -> str:
    """Format mean ± deviation over seeds at the last epoch."""
    heads = ["optimiser", "train acc. (%)", "test acc. (%)", "NC1 first", "NC1", "NC2", "NC3", "NC4"]
    lines = [
        [
            name,
            cell(row["train_accuracy"], scale=100),
            cell(row["test_accuracy"], scale=100),
            cell(row["nc1_first"], -1),
            *(cell(row[key], -1) for key in (*COLLAPSE, "dual_gap", "grad_norm", "gap_distance")),
        ]
        for name, row in rows.items()
    ]
    return table([*heads, "dual gap", "|grad f|", "|gap - m*|"], lines)


def main(
    scale: Scale = "default",
    training: OmitArgPrefixes[Training] = AS_THE_SCALE,
    only: tuple[str, ...] = (),
) -> None:
    """Train by each optimiser, print a table and draw two figures for each set of images.

    `--only` are optimisers.
    """
    set_up()
    config, whole = training.applied_to(SCALES[scale]), Budget(training.budget, training.checkpoints)
    if only:
        if unknown := set(only) - {r.optimiser for r in config.recipes}:
            raise ValueError(f"only: need some of sgd, adam, lbfgs, got {', '.join(sorted(unknown))}")
        config = replace(config, recipes=tuple(r for r in config.recipes if r.optimiser in only))
    for number, asked in enumerate(config.sources):
        source = available(asked, training.data_dir)
        pair = images(source, training.data_dir)
        experiments = {
            name_of(recipe): built(config.design_for(recipe), recipe, pair, source.name, config.chunk)
            for recipe in config.recipes
        }
        budget = whole.part(len(config.sources) - number)
        budget.afford(experiments)
        groups = runs_of(experiments, config.seeds, budget, landscape=True)
        rows = {name: summary(runs, KEYS) for name, runs in groups.items()}
        what = f"{source.said(pair[0].pixels.shape)}, {trained_said(groups, experiments)}"
        print(f"\n{what}; mean ± standard deviation\n{shown(rows)}\n", flush=True)
        body = f"{config.design.architecture}, width {config.design.width}"
        ending = "" if number == 0 else f"_{source.name}"
        write_histories(folder(scale) / f"nc_training{ending}.csv", groups)
        facts = {"config": asdict(config), "images": what, "table": rows, "ends": plain(groups, KEYS)}
        title = f"Collapse and errors while training: {body}, {what}"
        save(partial(curves, COLLAPSE | EXTRA, groups, 4, title), f"nc_training{ending}", scale, **facts)
        title = f"The last layer in the landscape of its peeled problem, λ_H by balance: {body}, {what}"
        save(partial(curves, LANDSCAPE, groups, 3, title), f"nc_training_landscape{ending}", scale, **facts)


if __name__ == "__main__":
    cli(main)
