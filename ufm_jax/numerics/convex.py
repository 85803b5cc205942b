"""Minimum of a strongly convex function whose derivatives are dear: each may be a pass over data on a disk.

Plain Python around them, as nothing else counts then.
"""

from collections.abc import Callable

import numpy as np

Linear = Callable[[np.ndarray], np.ndarray]

# The change of f that a step must show, relative to f: sums of many numbers are rounded by less.
ROUNDING = 1e-14
ARMIJO = 1e-4  # share of the slope's promise that f has to fall by (Nocedal & Wright 2006, sec. 3.1)


def minimise_convex(
    whole: Callable[[np.ndarray], tuple[float, np.ndarray]],
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    inverse: Callable[[np.ndarray], Linear],
    start: np.ndarray,
    error: Callable[[np.ndarray], float],
    rtol: float,
    most: int = 10_000,
) -> tuple[np.ndarray, float, float]:
    """Minimise by Newton steps of preconditioned conjugate gradients (Nocedal & Wright 2006, alg. 7.1).

    `whole(x)` is f and its gradient, `product(x, v)` its Hessian times v, `inverse(x)` a preconditioner.
    `error(gradient)` bounds f above its minimum: it ends where that is at most `rtol` |f|, where rounding
    leaves nothing to gain, or after `most` calls of the first two. Returned are x, f and the error there.
    """
    x, calls = start, 1
    value, grad = whole(x)
    while error(grad) > rtol * abs(value) and calls < most:
        step, used = _newton_step(lambda v: product(x, v), grad, inverse(x), most - calls - 1)  # noqa: B023
        calls += used
        length, slope = 1.0, float(np.sum(grad * step))
        while True:
            new, new_grad = whole(x + length * step)
            calls += 1
            enough = new <= value + ARMIJO * length * slope + ROUNDING * abs(value)
            if enough or length < 1e-6 or calls >= most:
                break
            length /= 2
        # Where the fall in f drowns in rounding, the gradient says whether it was a step forward.
        drowned = abs(new - value) <= ROUNDING * abs(value)
        if not (new < value or drowned) or (drowned and not error(new_grad) < error(grad)):
            break
        x, value, grad = x + length * step, new, new_grad
    return x, value, error(grad)


def _newton_step(product: Linear, grad: np.ndarray, inverse: Linear, most: int) -> tuple[np.ndarray, int]:
    """Solve H p = −grad so far that Newton's convergence is superlinear; return p and the products taken."""
    p, r, used = np.zeros_like(grad), -grad, 0
    z = inverse(r)
    v, size = z, float(np.sum(r * z))
    enough = size * min(0.01, size)
    while size > enough and size > 0 and used < most:
        Hv = product(v)
        used += 1
        bend = float(np.sum(v * Hv))
        if not bend > 0:  # below the smallest numbers, as far from the minimum of data of any scale
            break
        alpha = size / bend
        p, r = p + alpha * v, r - alpha * Hv
        z = inverse(r)
        size, old = float(np.sum(r * z)), size
        v = z + size / old * v
    return (p if np.any(p) else z), used
