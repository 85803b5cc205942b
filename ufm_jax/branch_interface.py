"""The Python interface to proved branches."""

from contextlib import nullcontext
from typing import Any

from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.proved_branch import ProvedBranch, proved_over
from ufm_jax.report.progress import Steps


def prove_branch(landscape: Landscape, x: Any, *, progress: bool = False, **fields: Any) -> ProvedBranch:
    """Prove that a critical orbit goes on, with its index, over an interval of a field of its landscape.

    `fields` is one field by name and the ends of the interval, which holds the landscape's own value, where x
    is near the orbit: `prove_branch(prob, x, decay_w=(1e-3, 1e-2))`. It goes both ways from there as far as
    it can: at a bifurcation no piece can be proved. `progress` says on standard error how far it has come.

    Raises:
        ValueError: naming the field, if there is none or several, if the interval does not hold its value, or
            if it reaches where there is no such landscape, as for a decay of 0; as `prove`, if nothing is
            proved at x itself.
    """
    with Steps("prove_branch") if progress else nullcontext() as listen:
        return proved_over(landscape, x, fields, listen)
