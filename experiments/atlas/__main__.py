"""An atlas of the critical orbits: how many there are, what bifurcates as the decays grow, what flows where.

    python -m experiments.atlas --scale smoke|default|paper

A census for each K (d = K − 1, balanced cross-entropy), its orbit table, its completeness tests at every d;
every orbit of K = 3 to 5 followed over Kθ; and gradient flow from every saddle of K = 3 to 5 down to the
orbits it reaches (drawn for K = 3 and 4). The exit status is 1 if a completeness test is violated. Tables go
to atlas_K{K}.csv.
The orbits of some K, proved, go as data (`data`) and pages (`pages`) to a folder `atlas`: with --update to
the tracked one, else beside the other results. `--published 3 4 5 6` says which; a larger K takes longer.
"""

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from experiments.atlas import branches as atlas_branches
from experiments.atlas import data, pages
from experiments.atlas.branches import Continuation
from experiments.atlas.data import Surveyed
from experiments.atlas.figures import plot_branches, plot_graph, plot_orbits, relative_heights
from experiments.atlas.flows import Edge, Sampling, edges
from experiments.common import FIGURES, Scale, cli, folder, save, set_up
from ufm_jax.landscape import census
from ufm_jax.landscape.orbits import Census, rows
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.theory import global_minimum
from ufm_jax.report.progress import census_progress
from ufm_jax.report.table import census_report
from ufm_jax.runs.orbits import summarise, write_rows

ATLAS = Path("atlas")  # tracked


@dataclass(frozen=True)
class Config:
    """Sizes, decays, and how finely branches and flows are sampled."""

    sizes: tuple[int, ...] = (3, 4, 5, 6)
    followed: tuple[int, ...] = (3, 4, 5)  # over Kθ
    flowed: tuple[int, ...] = (3, 4, 5)  # down from every saddle
    drawn: tuple[int, ...] = (3, 4)  # of both
    published: tuple[int, ...] = (3, 4, 5)  # as data and pages
    per_class: int = 5
    decay_w: float = 5e-3
    decay_h: float = 1e-3
    decay_b: float = 1e-2
    grid: int = 60  # values of Kθ
    censuses: tuple[float, ...] = (0.3, 0.02, 0.9, 1e-3)  # near these Kθ
    flows: Sampling = field(default_factory=Sampling)
    seed: int = 0


SCALES: dict[Scale, Config] = {
    "smoke": Config((3, 4), (3,), (3,), (3,), grid=16, censuses=(0.02, 1e-3), flows=Sampling(6, 6)),
    "default": Config(),
    "paper": Config(sizes=(3, 4, 5, 6, 7, 8), flowed=(3, 4, 5), grid=120, flows=Sampling(200, 600)),
}


def make(config: Config, K: int) -> Problem:
    """Return the problem with K classes and d = K − 1."""
    return problem(
        num_classes=K,
        per_class=config.per_class,
        dim=K - 1,
        decay_w=config.decay_w,
        decay_h=config.decay_h,
        decay_b=config.decay_b,
    )


def take_census(prob: Problem, seed: int) -> Census:
    """Run a census until it has settled, reporting every few seconds."""
    tell, state = census_progress(f"K={prob.num_classes}"), census.begin(prob)
    tell(state)
    for later in census.rounds(prob, state, seed=seed):
        state = later
        tell(state)
    return state


def branches(config: Config, prob: Problem) -> Continuation:
    """Follow all orbits over Kθ and print what happens."""
    began, K = time.perf_counter(), prob.num_classes
    print(f"K={K}: following orbits over Kθ", flush=True)
    kt = atlas_branches.kt_grid(config.grid)
    censuses = tuple(int(np.argmin(abs(np.log(kt / near)))) for near in config.censuses)
    paths = atlas_branches.follow(prob, kt, censuses=censuses, seed=config.seed)
    print(f"K={K}: {len(paths.loss)} branches, {time.perf_counter() - began:.0f} s")
    for e in paths.events:
        print(f"  {e.low:.4g} < Kθ < {e.high:.4g}: {e.kind} of {', '.join(map(str, e.branches))}")
    violated = [f"{k:.3g}" for k, passed in zip(kt, paths.complete, strict=True) if passed is False]
    print(f"  Morse–Bott at every d violated at Kθ = {violated}\n" if violated else "", flush=True)
    return paths


def downhill(config: Config, prob: Problem, state: Census) -> tuple[list[Edge], int]:
    """Flow down from every saddle and print what was reached."""

    def tell(line: int, reached: list[int]) -> None:
        targets, unknown = sorted(set(reached) - {-1}), reached.count(-1)
        print(
            f"K={prob.num_classes}: orbit {line}, {len(reached)} flows reach {targets}, {unknown} unknown",
            flush=True,
        )

    return edges(prob, state, config.flows, seed=config.seed, progress=tell)


def publish(out: Path, surveyed: list[Surveyed]) -> None:
    """Write the data and the pages of some settings, beside those of others that are there."""
    for one in surveyed:
        print(f"wrote {data.write(out, one)}", flush=True)
    print(f"wrote {len(pages.write(out))} pages, the first is {out / 'index.html'}")


def main(scale: Scale = "default", published: tuple[int, ...] | None = None) -> None:
    """Take the censuses, follow the orbits, run the flows; exit with 1 if a completeness test fails.

    Args:
        scale: how large.
        published: numbers of classes whose orbits are written as data and pages; default: up to 5.
    """
    set_up()
    config = SCALES[scale]
    config = config if published is None else replace(config, published=published)
    config = replace(config, sizes=tuple(sorted({*config.sizes, *config.published})))
    problems = {K: make(config, K) for K in config.sizes}
    states, tables, best, facts, good = {}, {}, {}, {}, True
    for K, prob in problems.items():
        states[K] = take_census(prob, config.seed)
        tables[K], summary = rows(prob, states[K]), summarise(prob, states[K])
        best[K] = float(global_minimum(prob))
        print(f"\nK = {K}, d = {K - 1}\n{census_report(tables[K], summary, head=10)}\n", flush=True)
        write_rows(folder(scale) / f"atlas_K{K}.csv", tables[K])
        orbits = [row._asdict() for row in tables[K]]
        facts[str(K)] = {"closed_form": best[K], "summary": summary, "orbits": orbits}
        good &= summary["complete_as_tested"] is not False
    shared = {"config": asdict(config)}
    save(partial(plot_orbits, tables, best), "atlas", scale, **shared, sizes=facts)
    followed = {K: branches(config, problems[K]) for K in config.followed}
    records = {
        K: atlas_branches.recorded(paths, relative_heights(problems[K], paths))
        for K, paths in followed.items()
    }
    drawn = [K for K in config.drawn if K in followed]
    seen = {K: followed[K] for K in drawn}
    bifurcation = partial(plot_branches, {K: problems[K] for K in drawn}, seen)
    save(
        bifurcation,
        "atlas_bifurcation",
        scale,
        **shared,
        branches={str(K): held for K, held in records.items()},
    )
    flowed = {K: downhill(config, problems[K], states[K]) for K in config.flowed}
    graphs = {K: flowed[K][0] for K in drawn if K in flowed}
    notes = {
        str(K): {"edges": [e._asdict() for e in graph], "unknown": unknown}
        for K, (graph, unknown) in flowed.items()
    }
    save(partial(plot_graph, tables, graphs), "atlas_graph", scale, **shared, graphs=notes)
    out = ATLAS if folder(scale) == FIGURES else folder(scale) / ATLAS
    publish(out, [Surveyed(problems[K], states[K], flowed.get(K), records.get(K)) for K in config.published])
    good &= all(False not in paths.complete for paths in followed.values())
    if not good:
        sys.exit("a completeness test is VIOLATED: an orbit is missing or miscounted")


if __name__ == "__main__":
    cli(main)
