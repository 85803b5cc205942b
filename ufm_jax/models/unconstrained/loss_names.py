"""Short names of losses, for command lines and landscapes. Without JAX, so that `--help` is quick."""

_WHERE = "ufm_jax.models.unconstrained"

LOSSES = {
    "cross-entropy": f"{_WHERE}.losses:CrossEntropy",
    "squared": f"{_WHERE}.losses:Squared",
    "focal": f"{_WHERE}.losses:Focal",
    "class-balanced": f"{_WHERE}.unequal_losses:class_balanced",
    "logit-adjusted": f"{_WHERE}.unequal_losses:logit_adjusted",
    "vector-scaling": f"{_WHERE}.unequal_losses:vector_scaling",
    "weighted-squared": f"{_WHERE}.unequal_losses:WeightedSquared",
}
OF_COUNTS = ("class-balanced", "logit-adjusted", "vector-scaling")  # made for given class counts
