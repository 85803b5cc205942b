"""ImageNet's shape: the minimiser for 1000 classes, 1,281,167 samples and 2048 features, judged exactly.

    python -m experiments.imagenet_size --scale smoke|default|paper

963 classes of 1300 and 37 of 791. The collapsed problem is solved from the mean ETF; a duality gap shows how
far its minimiser can be from global, the curvature floor that its index is 0, and `invariant` gives
every distinct eigenvalue of the Hessian. Nothing of N columns is ever held. smoke: 60 classes; default and
paper are the same.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.common import Scale, cli, peak_mib, record, set_up
from ufm_jax.landscape.evidence import measured
from ufm_jax.landscape.landscape import Known
from ufm_jax.landscape.search import CriticalPoint, Newton, search_from
from ufm_jax.landscape.spectrum import NOT_COUNTED, Spectrum
from ufm_jax.landscape.units import zero_tolerance
from ufm_jax.landscape.verdict import Reason, Size, Verdict, judge
from ufm_jax.models.unconstrained.invariant import InvariantSpectrum, invariant_spectrum
from ufm_jax.models.unconstrained.model import problem
from ufm_jax.models.unconstrained.objective import logits
from ufm_jax.models.unconstrained.problem import Params, Problem
from ufm_jax.models.unconstrained.reduction import (
    class_columns,
    collapse,
    reduced,
    restrict,
    within_class_hessian,
)
from ufm_jax.models.unconstrained.starts import mean_etf
from ufm_jax.models.unconstrained.symmetry import balanced_rank, orbit_dimension

DECAY_W, DECAY_H = 5e-4, 5e-4 / 1281
BIAS_DECAYS = (1e-2, 0.0)


class Shape(NamedTuple):
    """Numbers of classes of 1300 and of 791 samples, and the feature dimension."""

    large: int
    small: int
    dim: int


IMAGENET = Shape(963, 37, 2048)
SCALES: dict[Scale, Shape] = {"smoke": Shape(57, 3, 128), "default": IMAGENET, "paper": IMAGENET}


class Stages:
    """Runs stages one after another, with a line and the seconds of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, stage: Callable[..., Any], *args: Any) -> Any:
        began = time.monotonic()
        result = jax.block_until_ready(stage(*args))
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"  {name}: {self.seconds[name]} s, peak {peak_memory():.2f} GiB", flush=True)
        return result


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in GiB."""
    return peak_mib() / 1024


def from_etf(prob: Problem) -> CriticalPoint:
    """Descend from the simplex ETF of the balanced problem with N/K samples a class: near the minimiser."""
    small = reduced(prob)
    return search_from(prob, small, mean_etf(small), Newton(radius=small.num_classes**0.5))


def certificates(prob: Problem, p: Params) -> Known:
    """Return bounds on the global minimum and on the Hessian's eigenvalues."""
    return prob.known(prob.evaluate(p), "certificate")


def examine_minimum(prob: Problem, stages: Stages) -> dict[str, Any]:
    """Find the minimiser of the collapsed problem and return all that was measured there."""
    found: CriticalPoint = stages("minimiser", jax.jit(from_etf), prob)
    p = found.params
    loss = prob.value(p)
    known: Known = stages("certificates", jax.jit(certificates), prob, p)
    gap, floor = loss - known.bound, known.floor
    units, slope = measured(prob, prob.evaluate(p))
    inside: InvariantSpectrum = stages("distinct eigenvalues", invariant_spectrum, prob, p)
    within = stages("within-class eigenvalues", within_class_range, prob, p)
    spec = evidence(prob, found, inside, floor, prob.doubt(units, slope))
    size = Size(slope / units.gradient, jnp.zeros_like(slope), gap / units.value, units.curvature)
    judgement = judge(size, spec.lambda_min, spec, floor)
    return {
        "loss": float(loss),
        "grad_norm": float(found.grad_norm),
        "newton_steps": int(found.num_steps),
        "verdict": Verdict(int(judgement.verdict)).name,
        "reason": Reason(int(judgement.reason)).name,
        "dual_gap": float(gap),
        "rank": inside.rank,
        "index": int(judgement.index),
        "curvature_floor": float(floor),
        "nullity": int(judgement.nullity),
        "orbit_dimension": int(spec.orbit_dim),
        "zero_tolerance": float(spec.tolerance),
        "lambda_min": min(inside.lowest.value, within[0]),  # modulo the orbit, of the full Hessian
        "lambda_max": max(inside.highest.value, within[1]),
        "lambda_min_collapsed": inside.lowest.value,
        "lambda_min_residual": inside.lowest.residual,
        "lambda_max_collapsed": inside.highest.value,
        "lambda_max_residual": inside.highest.residual,
        "within_class_range": within,
        "orbit_null_residual": inside.null_residual,
        "asymmetry": inside.deviation,
        "logit_gaps": logit_gaps(prob, p),
        "distinct_eigenvalues": inside.values.tolist(),
    }


def evidence(
    prob: Problem,
    found: CriticalPoint,
    inside: InvariantSpectrum,
    floor: Float[Array, ""],
    doubt: Float[Array, ""],
) -> Spectrum:
    """Return what `judge` asks for. Without multiplicities, the nullity is known if no eigenvalue is null.

    Zeros are told in the coordinates of f, whose decays are nearly even.
    """
    radius = balanced_rank(prob, found.params)[1]
    tolerance = zero_tolerance(jnp.asarray(max(abs(inside.values))), found.grad_norm, radius)
    lowest = jnp.asarray(inside.lowest.value)
    residual = jnp.asarray(inside.lowest.residual)
    orbit_dim = orbit_dimension(prob, inside.rank)
    null_elsewhere = np.any(abs(inside.values) <= tolerance)
    apart = np.all((abs(inside.values) <= tolerance) | (abs(inside.values) >= 10 * tolerance))
    clear = jnp.asarray(apart & (inside.null_residual <= tolerance))
    return Spectrum(
        lambda_min=lowest,
        residual=residual,
        direction=inside.lowest.direction,
        sound=residual <= 10 * tolerance,
        lowest=lowest,
        index=jnp.where(floor >= -tolerance, 0, NOT_COUNTED).astype(jnp.int32),
        nullity=jnp.where(null_elsewhere, NOT_COUNTED, orbit_dim).astype(jnp.int32),
        orbit_dim=orbit_dim,
        orbit_residual=jnp.asarray(inside.null_residual),
        tolerance=tolerance,
        doubt=doubt,
        null=tolerance,
        clear=clear,
        resolved=clear,
    )


def within_class_range(prob: Problem, p: Params) -> tuple[float, float]:
    """Return the ends of the spectrum on directions in which the features of a class differ.

    One class of each count stands for its equals. The lowest is λ_H: W leaves feature coordinates unused.
    """
    small = reduced(prob)  # the search used the first coordinates only
    q = restrict(small, p)
    Z, T = class_columns(small, q)
    top = jax.jit(lambda z, t: jnp.linalg.eigvalsh(within_class_hessian(small, q, z, t))[-1])
    return float(prob.decay_h), max(float(top(Z[k], T[k])) for k in one_of_each(prob))


def logit_gaps(prob: Problem, p: Params) -> dict[str, float]:
    """Return the least and the largest z_k − z_j of a sample of class k, by the counts of k and j."""
    Z, counts, gaps = np.asarray(logits(prob, p)), np.array(prob.counts), {}
    gap = np.diag(Z) - Z
    np.fill_diagonal(gap, np.nan)
    for k in one_of_each(prob):
        for j in one_of_each(prob):
            some = gap[np.ix_(counts == counts[j], counts == counts[k])]
            name = f"of {counts[k]} over {counts[j]}"
            gaps[name], gaps[f"{name}, spread"] = (
                float(np.nanmin(some)),
                float(np.nanmax(some) - np.nanmin(some)),
            )
    return gaps


def one_of_each(prob: Problem) -> list[int]:
    """Return the first class of each count, the largest count first."""
    return [prob.counts.index(count) for count in sorted(set(prob.counts), reverse=True)]


def main(scale: Scale = "default") -> None:
    """Examine the minimiser with and without decay of the bias, print what was found, and record it."""
    set_up()
    shape, results = SCALES[scale], []
    counts = (1300,) * shape.large + (791,) * shape.small
    for decay_b in BIAS_DECAYS:
        prob = collapse(
            problem(counts=counts, dim=shape.dim, decay_w=DECAY_W, decay_h=DECAY_H, decay_b=decay_b)
        )
        print(
            f"K = {prob.num_classes}, N = {prob.num_samples}, d = {prob.dim}, λ_W = {DECAY_W:g}, "
            f"λ_H = {DECAY_H:.4g}, λ_b = {decay_b:g}",
            flush=True,
        )
        stages = Stages()
        began = time.monotonic()
        measured = examine_minimum(prob, stages)
        total = round(time.monotonic() - began, 1)
        print(report(measured, total), flush=True)
        results.append(
            {"decay_b": decay_b, **measured, "seconds": {**stages.seconds, "total": total}}
            | {"peak_memory_gib": round(peak_memory(), 2)}
        )
    path = record(
        "imagenet_size",
        scale,
        counts=counts_of(counts),
        dim=shape.dim,
        decay_w=DECAY_W,
        decay_h=DECAY_H,
        runs=results,
    )
    print(f"wrote {path}")


def counts_of(counts: tuple[int, ...]) -> dict[str, int]:
    """Return how many classes have each count."""
    return {str(count): counts.count(count) for count in sorted(set(counts), reverse=True)}


def report(m: dict[str, Any], total: float) -> str:
    """Return the findings in words."""
    gaps = ", ".join(f"{k} {v:.6f}" for k, v in m["logit_gaps"].items() if "spread" not in k)
    spread = max(v for k, v in m["logit_gaps"].items() if "spread" in k)
    low, high = m["within_class_range"]
    others = "no other" if m["nullity"] == m["orbit_dimension"] else "and some other"
    lines = [
        f"loss {m['loss']:.12f}, ‖∇f‖ {m['grad_norm']:.1e} after {m['newton_steps']} Newton steps",
        f"{m['verdict']}: f − f* ≤ {m['dual_gap']:.1e}; index {m['index']}: no eigenvalue is below "
        f"{m['curvature_floor']:.1e}",
        f"rank {m['rank']}; orbit dimension {m['orbit_dimension']}, {others} eigenvalue is within "
        f"{m['zero_tolerance']:.1e} of 0",
        f"logit gaps {gaps}; each equal within {spread:.1e}",
        f"λ_min modulo the orbit {m['lambda_min']:.9e} (residual {m['lambda_min_residual']:.1e}), λ_max "
        f"{m['lambda_max']:.9e} (residual {m['lambda_max_residual']:.1e})",
        f"where features of a class differ, eigenvalues {low:.3e} to {high:.3e}",
        f"{total} s in all, peak memory {peak_memory():.2f} GiB",
    ]
    return "\n".join(f"  {line}" for line in lines)


if __name__ == "__main__":
    cli(main)
