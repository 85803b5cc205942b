"""The Python interface to a census: all critical orbits of a landscape."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from ufm_jax.landscape import census as censuses
from ufm_jax.landscape.grid import Grid
from ufm_jax.landscape.landscape import Landscape, check_is_landscape
from ufm_jax.landscape.orbits import Census
from ufm_jax.landscape.proof import can_prove
from ufm_jax.report.progress import Steps, census_progress
from ufm_jax.runs import orbits
from ufm_jax.runs.orbits import Atlas
from ufm_jax.runs.proofs import Listen
from ufm_jax.runs.recipe import census_config_of


def census(
    landscape: Landscape | Grid,
    *,
    starts: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool = False,
    force: bool = False,
    prove: bool = False,
) -> Atlas:
    """List all critical orbits of a landscape, and test whether any is missing, where it knows how.

    It ends when twice as many starts again as were needed bring nothing new and no test is violated, or after
    `starts`. With `out` it is kept in a folder after every round: the same call, or `ufm census`, goes on
    there, and `load` reads it. Without, an interruption loses it. With `prove` each orbit found is proved,
    and that they are pairwise different: `atlas.proved`, and DIR/proofs.json.

    Raises:
        ValueError: naming the landscape, if it is a grid, too large, or (of the unconstrained feature
            model) on class means; a decay that is not one number; the loss, if it is not convex; the
            counts or the landscape, if it would take hours and `force` is not given; what a folder cannot
            hold; `out`, if the folder holds another run; `starts`; `seed`; if 64-bit floating point is off;
            with `prove`, what cannot be evaluated over balls; python-flint, if it is missing.
    """
    if isinstance(landscape, Grid):
        raise ValueError("landscape: a census is of one setting, got a grid")
    check_is_landscape(landscape)
    if prove:
        can_prove(landscape)
    censuses.check(landscape, starts, seed=seed, force=force)
    listen = census_progress("census") if progress else None
    with Steps("census: proving") if progress else nullcontext() as proving:
        return _taken(landscape, starts, seed, out, listen, proving, force=force, prove=prove)


def _taken(
    landscape: Landscape,
    starts: int | None,
    seed: int,
    out: Path | str | None,
    listen: Callable[[Census], None] | None,
    proving: Listen | None,
    *,
    force: bool,
    prove: bool,
) -> Atlas:
    if out is not None:
        config = census_config_of(landscape, starts=starts, seed=seed)
        orbits.run(config, Path(out), listen, force=force, prove=prove, proving=proving)
        return orbits.atlas(config, Path(out))
    state = censuses.begin(landscape)
    if listen is not None:
        listen(state)
    for later in censuses.rounds(landscape, state, seed=seed, starts=starts):
        state = later
        if listen is not None:
            listen(state)
    return Atlas(landscape, state, orbits.proved_rows(landscape, state, proving) if prove else None)
