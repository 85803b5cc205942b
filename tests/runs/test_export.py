"""Every hot program lowers for GPUs and TPUs, in the form that an accelerator would get.

Lowering alone: that it compiles and runs there is for `python -m experiments.accelerator` to show.
"""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from conftest import BALANCED, find_minimum, keys, make

from ufm_jax.landscape.evidence import examine
from ufm_jax.landscape.search import CriticalPoint
from ufm_jax.models.unconstrained import census, continuation
from ufm_jax.models.unconstrained.problem import Problem
from ufm_jax.models.unconstrained.reduction import collapse, reduced
from ufm_jax.runs import engine, pipeline

PLATFORMS = ("cuda", "rocm", "tpu")
# Whose compiled functions are all hot. (`downhill`'s ODE solver raises by calling back to Python: that is not
# exported.)
HOT = (pipeline, engine, census, continuation)
LANES = 8
FULL = make(BALANCED, 3)  # d = K: points have as many coordinates in every form
MEANS = collapse(FULL)


class Program(NamedTuple):
    """A compiled function of a module, and arguments that it might get."""

    of: Any
    args: tuple[Any, ...]
    static: dict[str, Any] = {}  # noqa: RUF012


def many(tree: Any) -> Any:
    """Return a tree with as many rows as there are lanes."""
    return jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[None], LANES, axis=0), tree)


def raveled(prob: Problem) -> jax.Array:
    return jnp.ones((LANES, reduced(prob).num_variables))


def programs() -> dict[str, Program]:
    """Return every hot program, by the name of its function and what it is used for."""
    counts = jnp.full(jax.local_device_count(), LANES // jax.local_device_count(), jnp.int32)
    low, key = jnp.arange(LANES, dtype=jnp.uint32), jax.random.key(0)
    small, row = reduced(MEANS), jnp.ones(LANES)
    none = jnp.zeros(LANES, jnp.int32)
    starts = low, jnp.zeros_like(low), none  # numbers in two words, ranks
    found: dict[str, Program] = {}
    for space, prob in (("means", MEANS), ("full", FULL)):
        point = many(prob.zeros())
        ended = CriticalPoint(point, row, none, none)
        here = many(prob)
        more = {
            "_searches minima": Program(
                pipeline._searches, (here, *starts, counts), {"key": key, "target": "minima"}
            ),
            "_further": Program(pipeline._further, (here, ended, counts)),
            "_descents": Program(
                pipeline._descents, (here, many(small.zeros()) if prob.collapsed else point, counts)
            ),
        }
        for method in (by_duality, by_escape, examine):
            more[f"_evidence {method.__name__}"] = Program(
                pipeline._evidence, (here, point, counts), {"method": method}
            )
        found |= {f"{name} {space}": program for name, program in more.items()}
    saddles = {"key": key, "target": "saddles"}
    return found | {
        "_searches saddles": Program(pipeline._searches, (many(MEANS), *starts, counts), saddles),
        "_closed_forms": Program(engine._closed_forms, (many(FULL),)),
        "_solve": Program(census._solve, (small, raveled(MEANS))),
        "_descend": Program(census._descend, (small, keys(0, LANES))),
        "_examine": Program(census._examine, (MEANS, raveled(MEANS))),
        "step": Program(continuation._step, (small, raveled(MEANS), row, row, row[0])),
        "solve": Program(continuation._solve, (small, raveled(MEANS))),
        "examine": Program(continuation._examine, (FULL, row, raveled(MEANS))),
        "find_minimum": Program(jax.jit(find_minimum), (FULL, FULL.zeros())),
    }


PROGRAMS = programs()


def is_compiled(thing: Any) -> bool:
    """Whether this is what `jax.jit` or `jit_small` returns."""
    code = getattr(thing, "__code__", None)
    return hasattr(thing, "lower") or (code is not None and code.co_qualname.startswith("jit_small."))


@pytest.mark.parametrize("name", PROGRAMS)
def test_hot_programs_lower_for_accelerators(monkeypatch, name):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = PROGRAMS[name]
    leaves, tree = jax.tree.flatten(program.args)  # records check the types of what they hold

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(inspect.unwrap(program.of)(*tree.unflatten(leaves), **program.static))

    exported = jax.export.export(jax.jit(flat), platforms=PLATFORMS)(*leaves)
    assert exported.platforms == PLATFORMS


def test_no_hot_program_is_forgotten():
    compiled = {
        thing
        for module in HOT
        for thing in vars(module).values()
        if is_compiled(thing) and getattr(thing, "__module__", None) == module.__name__
    }
    assert {"_searches", "_evidence", "_solve"} <= {thing.__name__ for thing in compiled}
    assert compiled <= {program.of for program in PROGRAMS.values()}
