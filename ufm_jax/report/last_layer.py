"""One readable page on a user's last layer, from the row that `ufm certify --json` prints."""

from typing import Any

MEANING = {
    "GLOBAL_MINIMUM": "no point of f is lower",
    "LOCAL_MINIMUM": "every small change raises f, and the gap to the lower bound is open",
    "STRICT_SADDLE": "critical, with a direction of negative curvature",
    "DEGENERATE": "critical, flat beyond the symmetry",
    "UNDECIDED": "the evidence is not enough",
    "NOT_CRITICAL": "the gradient is not zero: training has not ended here, or minimises something else",
}
COLLAPSE = {
    "nc1": ("NC1", "tr(Σ_W Σ_B†)/K: variability within classes over that between them"),
    "nc2": ("NC2", "WWᵀ to a simplex ETF, both of norm 1"),
    "nc3": ("NC3", "W times the centred class means to a simplex ETF, both of norm 1"),
    "nc4": ("NC4", "‖W h_G + b‖, h_G the mean of all features"),
    "cdnv": ("CDNV", "(v_j + v_k)/2‖h̄_j − h̄_k‖², mean over pairs of classes"),
    "ncc_mismatch": ("mismatch", "share of samples whose nearest class mean is not the largest logit"),
    "equinorm_w": ("equinorm W", "deviation of the lengths of W's rows, over their mean"),
    "equinorm_h": ("equinorm H", "the same of the centred class means"),
    "equiangle_w": ("equiangle W", "deviation of the cosines between W's rows"),
    "equiangle_h": ("equiangle H", "the same of the centred class means"),
}
WIDTH = 26


def page(row: dict[str, Any]) -> str:
    """Return the page; what is not known is a dash, and why is said at the end."""
    parts = [_head(row), _loss(row), _gains(row), _landscape(row), _collapse(row), _balance(row)]
    said = [f"warning: {text}" for text in row["warnings"]] + [f"note: {text}" for text in row["notes"]]
    reasons: dict[str, list[str]] = {}
    for name, why in row["unknown"].items():
        reasons.setdefault(why, []).append(name)
    said += [f"not known: {', '.join(names)} ({why})" for why, names in reasons.items()]
    return "\n\n".join("\n".join(part) for part in [*parts, said] if part)


def _head(row: dict[str, Any]) -> list[str]:
    K, here, N = row["num_classes"], row["classes_present"], row["num_samples"]
    classes = f"K = {K:,} classes" + ("" if here == K else f" ({here:,} of them with samples)")
    reason = "" if row["reason"] in ("NONE", None) else f", {row['reason']}"
    return [
        f"{row['verdict']}{reason}: {MEANING[row['verdict']]}",
        f"{classes}, d = {row['dim']:,}, N = {N:,} samples"
        + (", gone through in passes" if row["streamed"] else ""),
        f"decays λ_W = {row['decay_w']:.4g}, λ_H = {row['decay_h']:.4g}, λ_b = {row['decay_b']:.4g}",
    ]


def _loss(row: dict[str, Any]) -> list[str]:
    decay = row["loss"] - row["mean_loss"]
    return [
        _line("training accuracy", row["accuracy"], "share of samples whose own logit is the largest"),
        _line("mean loss", row["mean_loss"]),
        _line("f", row["loss"], f"mean loss and {decay:.6g} of decays: λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖²"),
        _line("f*", row["global_minimum"], _source(row)),
        _line("f − f*", row["excess_loss"], _share(row)),
        *_nonnegative(row),
    ]


def _nonnegative(row: dict[str, Any]) -> list[str]:
    """Say what features after a ReLU can come to, where these are such."""
    if row["nonnegative_minimum"] is None:
        return []
    what = "the lowest f of features ≥ 0, as these are, without a bias: f* needs both signs"
    return [_line("f* of ReLU features", row["nonnegative_minimum"], what)]


def _source(row: dict[str, Any]) -> str:
    """Say where f* is from, or what is known in its place."""
    source, lowest, bound = (
        row[name] for name in ("global_minimum_source", "lowest_found", "global_minimum_bound")
    )
    if row["global_minimum"] is not None:
        return source if source == "closed form" else f"{source}, certified by its duality gap"
    if lowest is None:
        return source
    below = "" if bound is None else f" and at least {bound:.8g}"
    return f"at most {lowest:.8g}{below}: {source}, not certified"


def _share(row: dict[str, Any]) -> str:
    if row["excess_loss"] is None:
        return "" if row["gain_both"] is None else f"at least {row['gain_both']:.6g}"
    least = row["global_minimum"]
    return f"{100 * row['excess_loss'] / least:.3g}% of f*" if least else ""


def _gains(row: dict[str, Any]) -> list[str]:
    return [
        "f could still fall by",
        _line("  last layer alone", row["gain_last_layer"], _error(row, "gain_last_layer", "features fixed")),
        _line("  features alone", row["gain_features"], _error(row, "gain_features", "W and b fixed")),
        _line("  both free", row["gain_both"]),
    ]


def _error(row: dict[str, Any], name: str, what: str) -> str:
    value, error = row[name], row[f"{name}_error"]
    if value is None or (error is not None and error <= 1e-3 * value):
        return what
    return what + (", and no more is known" if error is None else f", or up to {error:.2g} more")


def _landscape(row: dict[str, Any]) -> list[str]:
    curvature = row["negative_curvature"]
    along = "lowest vᵀ∇²f v found, ‖v‖ = 1; " + (
        "none is negative" if curvature is None or curvature >= 0 else "f curves down along it"
    )
    return [
        _line("gradient", row["grad_norm"], f"‖∇f‖; relative to √(f s) {_number(row['rel_grad_norm'])}"),
        _line("gap to the dual bound", row["dual_gap"], f"f* is at least {_number(row['dual_bound'])}"),
        _line("curvature", curvature, "" if curvature is None else along),
        _line("index, nullity", f"{_number(row['index'])}, {_number(row['nullity'])}", "of the Hessian"),
        _line("logit gap", row["logit_gap"], _predicted(row)),
    ]


def _predicted(row: dict[str, Any]) -> str:
    m = row["logit_gap_predicted"]
    return "own logit less the mean of the others" + ("" if m is None else f"; at the minimum m* = {m:.6g}")


def _collapse(row: dict[str, Any]) -> list[str]:
    lines = [_line(short, row.get(name), what) for name, (short, what) in COLLAPSE.items()]
    return ["neural collapse: all 0 where it is complete", *lines]


def _balance(row: dict[str, Any]) -> list[str]:
    norms = [f"‖{name}‖ = {_number(row[f'norm_{name.lower()}'])}" for name in ("W", "H", "b")]
    return [
        _line("norms", ", ".join(norms)),
        _line("balance", row["balance"], "λ_H‖H‖²/λ_W‖W‖², 1 at critical points"),
        _line("imbalance", row["imbalance"], "λ_W WᵀW against λ_H HHᵀ, relative: 0 at critical points"),
    ]


def _line(name: str, value: Any, what: str = "") -> str:
    shown = f"{_number(value):<14} "
    return f"{name:<{WIDTH}}{shown}{what}".rstrip()


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.8g}"
    return str(value)
