"""What an orbits.json of the atlas holds, as JSON Schema 2020-12: `atlas/atlas.schema.json`."""

from typing import Any


def _list(items: dict[str, Any], about: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": about}


def _matrix(about: str) -> dict[str, Any]:
    return _list({"type": "array", "items": {"type": "number"}}, f"{about}, rows first")


def _of(kind: Any, about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, **more}


def _record(properties: dict[str, Any], about: str) -> dict[str, Any]:
    required = list(properties)
    return _of("object", about, properties=properties, required=required, additionalProperties=False)


COUNT = {"minimum": 0}
DECIMAL = r"^-?\d+(\.\d+)?(e[+-]?\d+)?$"
FLOW = {
    "to": _of("integer", "line of the orbit reached", **COUNT),
    "generic": _of("number", "share of the flows in random negative directions", minimum=0, maximum=1),
    "other": _of("number", "share of those along eigenvectors and in symmetric ones", minimum=0, maximum=1),
    "flows": _of("integer", "how many flows ended there", minimum=1),
}
ORBIT = {
    "line": _of("integer", "number in the list, the lowest loss first, from 0", **COUNT),
    "name": _of("string", "how the classes lie (ufm_jax/models/unconstrained/names.py)"),
    "loss": _of("number", "f there, in float64"),
    "loss_digits": _of(["string", "null"], "f there in decimals; null where not proved", pattern=DECIMAL),
    "loss_radius": _of(["string", "null"], "|f - loss_digits| is proved to be at most this", pattern=DECIMAL),
    "verdict": _of("string", "what was shown in floating point"),
    "proved": _of("boolean", "one critical orbit of this rank, index and nullity is proved to be near"),
    "statement": _of("string", "what is proved, in words; centre and radius are in proofs.json"),
    "global_minimum": _of(["boolean", "null"], "proved; null: neither was shown"),
    "rank": _of("integer", "of W", **COUNT),
    "index": _of(["integer", "null"], "negative eigenvalues of the Hessian in the setting's d", **COUNT),
    "nullity": _of(["integer", "null"], "zero eigenvalues of it", **COUNT),
    "orbit_dim": _of("integer", "dimension of the orbit under rotations of features", **COUNT),
    "copies": _of(["integer", "null"], "orbits that permutations of classes make of it; 0: a continuum"),
    "stabiliser": _of(["integer", "null"], "order of the permutations that leave the orbit in place"),
    "hits": _of("integer", "searches of the census that ended there", **COUNT),
    "merged": _list({"type": "array", "items": {"type": "integer"}}, "classes, from 0, that share w and h"),
    "singular_values": _list({"type": "number"}, "of the logits at class means without the bias, descending"),
    "W": _matrix("classifier (K, d)"),
    "H": _matrix("features of the classes (d, K): every sample's of its class"),
    "b": _list({"type": "number"}, "bias (K)"),
    "logits": _matrix("W H + b at class means (K, K): row j, column k is logit j of class k"),
    "flows": {
        "type": ["array", "null"],
        "items": _record(FLOW, "gradient flows from here that ended at one orbit"),
        "description": "where flow leads; null: no flow was followed in this setting",
    },
    "branch": _of(["integer", "null"], "row of `branches` that it is on; null: not known"),
}
BRANCHES = {
    "kt": _list({"type": "number"}, "values of K θ, θ = √(n λ_W λ_H)"),
    "loss": _list({"type": "array", "items": {"type": ["number", "null"]}}, "f of each branch; null: absent"),
    "relative_height": _list(
        {"type": "array", "items": {"type": ["number", "null"]}}, "(f - f*) / (log K - f*) of each branch"
    ),
    "index": _list({"type": "array", "items": {"type": "integer"}}, "index of each branch; -1: not counted"),
    "events": _list(
        _record(
            {
                "kind": _of("string", "birth, split, death, merge, rank or index, with K θ growing"),
                "low": _of("number", "K θ is above this"),
                "high": _of("number", "and below this"),
                "branches": _list({"type": "integer"}, "that it happens to, then those that it meets"),
            },
            "what happens to branches between two values of K θ",
        ),
        "in the order of K θ",
    ),
}
SETTING = {
    "model": _of("string", "name of the function"),
    "num_classes": _of("integer", "K", minimum=2),
    "dim": _of("integer", "d", minimum=1),
    "counts": _list({"type": "integer"}, "samples of each class"),
    "loss": _of("string", "loss function"),
    "bias": _of("boolean", "whether there is one"),
    "decay_w": _of("number", "λ_W"),
    "decay_h": _of("number", "λ_H"),
    "decay_b": _of("number", "λ_b"),
    "kt": _of("number", "K θ, where the origin becomes the only critical point at 1"),
}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Critical orbits of one setting",
    **_record(
        {
            "format": {"const": "ufm atlas 1"},
            "version": _of("string", "of the data", pattern=r"^\d+\.\d+\.\d+$"),
            "license": {"const": "CC-BY-4.0"},
            "made_by": _of("object", "versions of what made it, device and dtype"),
            "setting": _record(SETTING, "the function: f(W, H, b), see the README"),
            "settled": _of("boolean", "the census ended by itself"),
            "complete_as_tested": _of(["boolean", "null"], "no test of completeness is violated"),
            "complete_as_proved": _of(
                ["boolean", "null"],
                "a theorem says that there is no other orbit (docs/theorem.md); null: none does",
            ),
            "num_starts": _of("integer", "searches made", **COUNT),
            "alike": _list(
                {"type": "array", "items": {"type": "integer"}},
                "pairs of lines not shown to be different orbits",
            ),
            "unknown_flows": _of(["integer", "null"], "flows that ended at no orbit of the list", **COUNT),
            "branches": {
                "anyOf": [_record(BRANCHES, "orbits followed over K θ"), {"type": "null"}],
                "description": "null: not followed in this setting",
            },
            "orbits": _list(_record(ORBIT, "a critical orbit"), "the lowest loss first"),
        },
        "Critical points of the unconstrained feature model, up to rotations and permutations of classes.",
    ),
}
