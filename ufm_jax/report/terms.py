"""What the words of a report mean, in a sentence each: shown where they are pointed at, and in a list."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ufm_jax.report.markup import Markup, escaped, explained

TERMS = {
    "orbit": "All points that the symmetry makes of one; numbered from 0 by loss, lowest first.",
    "loss": "The value of f there, in nats where f is a cross-entropy.",
    "name": "What a theorist calls the orbit: how its classes lie.",
    "index": "Negative eigenvalues of the Hessian: independent directions that lead down.",
    "nullity": "Zero eigenvalues of the Hessian; those along the orbit are among them.",
    "rank": "Rank of W: how many directions of feature space the point uses.",
    "orbit_dim": "Dimension of the orbit under the continuous symmetry.",
    "copies": "How many orbits permutations of classes make of it; 0: a continuum of orbits.",
    "stabiliser": "How many permutations of classes leave the orbit in place.",
    "hits": "Searches that ended there.",
    "verdict": "What was shown of the point, in floating point.",
    "proved": "Shown by interval arithmetic, no rounding left open.",
    "logits": "W H + b at class means: row j, column k is logit j of class k; blue above 0, orange below.",
    "lambda_min": "Lowest eigenvalue of the Hessian, the directions of the orbit left out.",
    "lambda_min_residual": "How far the eigenvalue may be off.",
    "grad_norm": "Length of the gradient where the search ended.",
    "max |grad|": "Longest gradient among the rows.",
    "dual_gap": "Loss less a proved lower bound on the global minimum; of a saddle it is open by nature.",
    "max gap": "Largest duality gap among the rows.",
    "largest gap": "Largest duality gap, of saddles and rows that are not critical none.",
    "closed form": "The global minimum as theory has it.",
    "lowest loss": "The lowest value found.",
    "target": "What the search looked for.",
    "start": "Number of the random start.",
    "status": "How the search ended.",
    "reason": "Why there is no verdict.",
    "num_steps": "Steps of the search.",
    "rows": "Searches: one a start, setting and target.",
    "decay_w": "Weight decay of the classifier, λ_W.",
    "decay_h": "Weight decay of the features, λ_H.",
    "decay_b": "Weight decay of the bias, λ_b.",
    "Morse–Bott inequalities": "Relations between indices and dimensions that a complete list fulfils.",
    "R(t)": "Coefficients of what is left of them at each degree: none is negative where they hold.",
    "Euler sum": "Sum over orbits of (−1)^index times their Euler numbers; 1 of a complete list.",
}


def heads(names: Iterable[str], more: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Return the heads of a table, explained where they are known: here, or in `more`, which comes first."""
    known = {**TERMS, **more}
    return [explained(name, known.get(name)) for name in names]


def glossary(names: Iterable[str], more: Mapping[str, str] = MappingProxyType({})) -> Markup:
    """Return a list of terms and what they mean, of those that are known as in `heads`, each once."""
    known = {**TERMS, **more}
    found = (name for name in dict.fromkeys(names) if name in known)
    return Markup(f"<dl>{''.join(f'<dt>{escaped(n)}</dt><dd>{escaped(known[n])}</dd>' for n in found)}</dl>")
