"""Weight decay on all parameters against decay on the last layer and its features, the peeled objective.

    python -m experiments.feature_decay --scale smoke|default|paper [--data-dir DIR]

Zhu et al. 2021, sec. 4.2, on the raw features: mean cross-entropy + λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖²,
with no decay of the other parameters, is the unconstrained feature model's f of what the network makes. So
its last layer is judged by the decays that it was trained with; that of ordinary weight decay by
λ_W = λ_b = λ and the λ_H that balances λ_W‖W‖² = λ_H‖H‖². `paper` needs a GPU.
"""

from dataclasses import asdict, dataclass, field
from functools import partial

from tyro.conf import OmitArgPrefixes

from experiments.common import Scale, cli, folder, save
from experiments.nc_training import KEYS, shown
from experiments.networks_common import (
    COLLAPSE,
    EXTRA,
    LANDSCAPE,
    Source,
    begun,
    built,
    curves,
    images,
    plain,
    summary,
    write_histories,
)
from experiments.networks_runs import AS_THE_SCALE, Budget, Training, runs_of, trained_said
from ufm_jax.networks.design import Design
from ufm_jax.networks.training import Recipe


@dataclass(frozen=True)
class Config:
    """Images, the network, a recipe for each form of decay, seeds. λ_H is 1/N of a sample's share."""

    source: Source = field(default_factory=Source)
    design: Design = field(default_factory=lambda: Design("mlp", 10, width=256, depth=3))
    recipes: tuple[Recipe, ...] = (
        Recipe(rate=0.1, decay=2e-3, epochs=160, batch=100, drop_every=50),
        Recipe(
            rate=0.1,
            form="peeled",
            decay_w=5e-3,
            decay_h=1e-3 / 2000,
            epochs=160,
            batch=100,
            drop_every=50,
        ),
    )
    seeds: int = 3
    chunk: int = 500


SCALES: dict[Scale, Config] = {
    "smoke": Config(
        source=Source(per_class=10, test_per_class=5, pool=4, or_digits=True),
        design=Design("mlp", 10, width=16, depth=2),
        recipes=(
            Recipe(epochs=3, batch=20),
            Recipe(epochs=3, batch=20, form="peeled", decay_w=5e-3, decay_h=1e-5),
        ),
        seeds=1,
        chunk=50,
    ),
    "default": Config(),
    "paper": Config(
        source=Source("fashion-mnist", None, None, pool=1, rgb32=True),
        design=Design("resnet18", 10),
        recipes=(Recipe(), Recipe(form="peeled", decay_w=5e-4, decay_h=5e-4 / 60_000, decay_b=5e-4)),
        seeds=1,
    ),
}


def name_of(recipe: Recipe, num_samples: int) -> str:
    """Say what decays."""
    if recipe.form == "parameters":
        return f"all parameters, λ = {recipe.decay:g}"
    h = num_samples * recipe.decay_h
    return f"W, H, b: λ_W = {recipe.decay_w:g}, Nλ_H = {h:g}, λ_b = {recipe.decay_b:g}"


def main(scale: Scale = "default", training: OmitArgPrefixes[Training] = AS_THE_SCALE) -> None:
    """Train with each form of decay from the same seeds, print a table and draw the curves."""
    budget = Budget(training.budget, training.checkpoints)
    config = begun(SCALES[scale], training)
    pair = images(config.source, training.data_dir)
    experiments = {
        name_of(recipe, len(pair[0].labels)): built(
            config.design, recipe, pair, config.source.name, config.chunk
        )
        for recipe in config.recipes
    }
    budget.afford(experiments)
    groups = runs_of(experiments, config.seeds, budget, landscape=True)
    rows = {name: summary(runs, KEYS) for name, runs in groups.items()}
    what = f"{config.source.said(pair[0].pixels.shape)}, {trained_said(groups, experiments)}"
    print(f"\n{what}; mean ± standard deviation\n{shown(rows)}\n", flush=True)
    write_histories(folder(scale) / "feature_decay.csv", groups)
    body = f"{config.design.architecture}, width {config.design.width}"
    title = f"Decay of all parameters, or of W, H and b only: {body}, {what}"
    draw = partial(curves, COLLAPSE | EXTRA | LANDSCAPE, groups, 5, title)
    facts = {"config": asdict(config), "images": what, "table": rows, "ends": plain(groups, KEYS)}
    save(draw, "feature_decay", scale, **facts)


if __name__ == "__main__":
    cli(main)
