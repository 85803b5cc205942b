"""Every hot program lowers for GPUs and TPUs, in the form that an accelerator would get.

Lowering alone: that it compiles and runs there is for `python -m experiments.accelerator` to show.
"""

import inspect
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import pytest
from conftest import BALANCED, keys, make

from ufm_jax import devices, interface, slice_interface
from ufm_jax.landscape import census, search, sound, together
from ufm_jax.landscape import continuation as branches
from ufm_jax.landscape.landscape import Effort
from ufm_jax.landscape.search import CriticalPoint, EigenvectorFollowing, LevenbergMarquardt, Newton
from ufm_jax.models.factorisation import Factorisation
from ufm_jax.models.unconstrained import own_point, samples
from ufm_jax.models.unconstrained.reduction import collapse
from ufm_jax.runs import by_orbit, engine, pipeline, rough

PLATFORMS = ("cuda", "rocm", "tpu")
# Whose compiled functions are all hot, but for the flows: their ODE solver raises by calling back to Python,
# which is not exported.
HOT = (
    pipeline, rough, by_orbit, engine, together, census, interface, search, sound, branches, own_point,
    samples, slice_interface,
)  # fmt: skip
NOT_EXPORTED = {interface._flow}
LANES = 8
FULL = make(BALANCED, 3)  # d = K: points have as many coordinates in every form
MEANS = collapse(FULL)
ANY = Factorisation(M=jax.device_put(np.diag([3.0, 2.0, 1.0])), decay=0.1, rank=2)  # of which less is known
SOUGHT = ("minima", "saddles")
DECAYS = ("decay_w", "decay_h", "decay_b")


class Program(NamedTuple):
    """A compiled function of a module, and arguments that it might get."""

    of: Any
    args: tuple[Any, ...]
    static: dict[str, Any] = {}  # noqa: RUF012


def many(tree: Any) -> Any:
    """Return a tree with as many rows as there are lanes."""
    return jax.tree.map(lambda a: jax.device_put(np.repeat(np.asarray(a)[None], LANES, axis=0)), tree)


def ones(*shape: int, dtype: Any = float) -> jax.Array:
    """As `jnp.ones`, by NumPy, which compiles nothing."""
    return jax.device_put(np.ones(shape, dtype))


def programs() -> dict[str, Program]:
    """Return every hot program, by the name of its function and what it is used for."""
    counts = ones(jax.local_device_count(), dtype=np.int32)
    key, number = jax.random.key(0), ones(LANES, dtype=int)
    row = ones(LANES)
    none = ones(LANES, dtype=np.int32)
    decays = {name: many(getattr(MEANS, name)) for name in DECAYS}
    found: dict[str, Program] = {}
    for kind, prob, fields in (
        ("means", MEANS, decays),
        ("full", FULL, decays),
        ("any", ANY, {"M": many(ANY.M), "decay": many(ANY.decay)}),
        ("one setting", ANY, {}),
    ):
        point = many(prob.zeros())
        for target in ("minima", "saddles", 1):
            found[f"_drawn {target} {kind}"] = Program(
                pipeline._drawn, (prob, fields, number, counts), {"key": key, "target": target}
            )
            found[f"_searches {target} {kind}"] = Program(
                pipeline._searches,
                (prob, fields, many(prob.space(target).zeros()), counts),
                {"target": target},
            )
        descents = found[f"_searches minima {kind}"]
        found[f"_short_descents {kind}"] = descents._replace(of=pipeline._short_descents)
        single = rough._cast((prob, fields, many(prob.space("minima").zeros())), "float32")
        found[f"_descents {kind}"] = Program(rough._descents, (*single, counts))
        found[f"_restricted {kind}"] = Program(rough._restricted, (prob, point), {"target": "minima"})
        space = prob.space("saddles")
        if space.shift_size:
            found[f"_approaches {kind}"] = Program(
                together._approaches,
                (prob, space, fields, many(space.zeros()), counts),
                {"method": LevenbergMarquardt()},
            )
        found[f"_one_by_one {kind}"] = Program(
            together._one_by_one,
            (prob, fields, many(space.zeros()), counts),
            {"method": LevenbergMarquardt()},
        )
        found[f"_further {kind}"] = Program(
            pipeline._further, (prob, fields, CriticalPoint(point, row, none, none), counts)
        )
        for effort in get_args(Effort):
            found[f"_evidence {effort} {kind}"] = Program(
                pipeline._evidence, (prob, fields, point, counts), {"effort": effort}
            )
        for effort in (*get_args(Effort), None):
            found[f"_seen {effort} {kind}"] = Program(
                by_orbit._seen, (prob, fields, point, counts), {"effort": effort}
            )
        judged = (prob, fields, point, ones(LANES, dtype=bool), counts)
        other = jax.eval_shape(inspect.unwrap(by_orbit._judged), *judged)
        found |= {
            f"_invariants of orbits {kind}": Program(by_orbit._invariants, (prob, fields, point, counts)),
            f"_traces {kind}": Program(by_orbit._traces, (prob, fields, point, counts)),
            f"_judged {kind}": Program(by_orbit._judged, judged),
            f"_alike {kind}": Program(by_orbit._alike, (prob, fields, other.evidence, row, other, counts)),
        }
        found[f"_known_minima {kind}"] = Program(engine._known_minima, (prob, fields))
        one = {name: values[0] for name, values in fields.items()}
        found[f"_invariants {kind}"] = Program(interface._invariants, (prob, one, point))
    for kind, prob in (("model", FULL), ("any", ANY)):
        x = prob.zeros()
        for effort in get_args(Effort):
            found[f"classify {effort} {kind}"] = Program(
                interface._examine, (prob, x), {"effort": effort, "grad_tol": 1e-9, "gap_tol": 1e-9}
            )
        leaves = {name: getattr(prob, name) for name in prob.leaf_names()}
        path, flat, t = branches.Path(leaves, leaves), ones(prob.num_variables), ones()
        shapes = jax.eval_shape(branches._begin, prob, path, flat)[0]
        here = jax.tree.map(lambda a: ones(*a.shape, dtype=a.dtype), shapes)
        found |= {
            f"branch begins {kind}": Program(branches._begin, (prob, path, flat)),
            f"branch goes on {kind}": Program(branches._step, (prob, path, here, t, t)),
            f"branch judged {kind}": Program(branches._examine, (prob, leaves, x)),
        }
        space = census.space_of(prob)
        flats, lanes = ones(LANES, space.num_variables), (space, jax.random.split(key, LANES), number)
        found |= {
            **{f"census {t} {kind}": Program(census._drawn, lanes, {"target": t}) for t in SOUGHT},
            f"census evidence {kind}": Program(census._examine, (prob, flats)),
            f"census invariants {kind}": Program(census._invariants, (space, flats)),
            f"census located {kind}": Program(census._solved, (space, space.zeros())),
        }
        found[f"slice {kind}"] = Program(slice_interface._plane, (prob, x, x, x, ones(3), ones(3)))
        found[f"line {kind}"] = Program(slice_interface._line, (prob, x, x, ones(3)))
        turns = len(jax.tree.leaves(jax.eval_shape(prob.tangents, x))[0])
        carried = (prob, ones(prob.num_variables), ones(turns), ones())
        found[f"carried {kind}"] = Program(slice_interface._carried, carried)
        found[f"_slopes {kind}"] = Program(sound._slopes, (prob, keys(0, 2)))
        for method in (Newton(), LevenbergMarquardt(), EigenvectorFollowing(1)):
            for start, several in ((x, False), (many(x), True)):
                found[f"search {type(method).__name__} {several} {kind}"] = Program(
                    search._search, (prob, start), {"method": method, "many": several}
                )
    return found | {
        "certify": Program(own_point._examine, (FULL, FULL.zeros()), {"grad_tol": 1e-9, "gap_tol": 1e-9}),
        "certify, not critical": Program(
            own_point._examine_off_critical,
            (FULL, FULL.zeros()),
            {"grad_tol": 1e-9, "gap_tol": 1e-9, "direction": True},
        ),
        "minimum by samples": Program(samples.find_minimum, (FULL, FULL.zeros())),
        "verdict by samples": Program(samples.judge, (FULL, FULL.zeros())),
    }


PROGRAMS = programs()


def is_compiled(thing: Any) -> bool:
    """Whether this is what `jax.jit` or `jit_small` returns."""
    code = getattr(thing, "__code__", None)
    return hasattr(thing, "lower") or (code is not None and code.co_qualname.startswith("jit_small."))


@pytest.mark.parametrize("name", PROGRAMS)
def test_hot_programs_lower_for_accelerators(monkeypatch, name):
    monkeypatch.setattr(devices, "platform", lambda: "gpu")
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
    assert {"_each_search", "_evidence", "_drawn", "_search", "_approaches"} <= {
        thing.__name__ for thing in compiled
    }
    assert compiled - NOT_EXPORTED == {program.of for program in PROGRAMS.values()}
