"""What all contenders share: the problems, how many starts the referee looks at, and points in one form."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark.peers import Setting

SMALL, LARGE = (4, 5, 6), (10, 20, 16)  # K, n, d
SEED = 0
DECAY_W, DECAY_B = 5e-4, 1e-2
REFEREED = 400  # points that the referee looks at, spread evenly over the starts
COMPARED = 200  # the first starts, which it looks at too, of saddles: the same for all that have so many

Points = tuple[Any, Any, Any]  # W (S,K,d), H (S,d,N), b (S,K)
Run = Callable[[], tuple[Points, list[str]]]  # points, and a verdict each


def setting(K: int, n: int, d: int) -> Setting:
    """Return the benchmark's problem of these sizes: λ_W = 5e-4, λ_H = λ_W/n, λ_b = 1e-2."""
    return Setting(K, n, d, DECAY_W, DECAY_W / n, DECAY_B)


def problem_of(s: Setting) -> Any:
    """Return the `Problem` of a setting. JAX is imported only here: SciPy's contenders have none."""
    from ufm_jax.models.unconstrained.model import problem

    return problem(
        num_classes=s.K, per_class=s.n, dim=s.d, decay_w=s.decay_w, decay_h=s.decay_h, decay_b=s.decay_b
    )


class LiftedRows:
    """Features of the full problem, made from class means one point at a time."""

    def __init__(self, means: Any, n: int):
        self.means, self.n = means, n

    def __getitem__(self, i: int) -> np.ndarray:
        return np.repeat(self.means[i] * self.n**-0.5, self.n, axis=1)
