"""Ball arithmetic: what a landscape must say of itself to be proved about, and signs of eigenvalues.

A ball is a number known to lie within a radius of a centre; every operation encloses what it rounds (arb:
Johansson 2017, by python-flint). Balls and matrices of them are `flint.arb` and `flint.arb_mat`, columns are
matrices of one column. python-flint is an extra, imported when something is to be proved.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Ball = Any  # flint.arb
BallMatrix = Any  # flint.arb_mat

# Each pass leaves of a coupling between eigenvectors about its square, or rounding of float64 in the units of
# the two eigenvalues: three resolve what 40 decimal digits of a condition number would hide.
PASSES = 4
INFLATED = 2.0**-500  # an eigenvalue of exactly zero, as a scale


class Unproved(Exception):
    """What could not be shown, in words for the user."""


class Beyond(NamedTuple):
    """What holds at a critical point beyond the coordinates in which it is proved; see `Balls.beyond`."""

    index: int = 0  # type: ignore[assignment]  # negative eigenvalues in the coordinates left out
    nullity: int = 0  # zero ones
    rank: int | None = None  # of what the landscape calls its rank
    global_minimum: bool | None = None  # None: not shown


class Balls:
    """A landscape over balls, near one point, in flat coordinates that suit a proof: subclass and return it.

    `start` is the point, `dropped` its distance from the point of the landscape that was asked about.
    """

    start: Float[np.ndarray, " D"]
    dropped: float = 0.0
    affine: bool = False  # the gradient is affine in each field that is given as a ball
    bends: bool = False  # `series`, `third` and `given` are there: branches are proved in far fewer pieces

    def expand(self, x: BallMatrix) -> tuple[Ball, BallMatrix, BallMatrix]:
        """Return enclosures of f (a ball), its gradient (D x 1) and its Hessian (D x D) over x (D x 1)."""
        raise NotImplementedError(f"{type(self).__name__} needs a method expand(self, x)")

    def tangents(self, x: BallMatrix) -> BallMatrix:
        """Return rows, directions of the symmetry at x (m x D): by default there is none."""
        return flint().arb_mat(0, len(self.start))

    def given(self, **fields: Any) -> "Balls":
        """Return the same coordinates with other numbers or balls in place of fields."""
        raise NotImplementedError

    def series(
        self, path: Sequence[BallMatrix], order: int
    ) -> tuple[list[Ball], list[BallMatrix], list[BallMatrix]]:
        """Return Taylor coefficients, 0 to `order`, of f, gradient and Hessian along path[0] + path[1] τ + ….

        The field that is given is its value + τ there.
        """
        raise NotImplementedError

    def third(self, x: BallMatrix, v: BallMatrix) -> BallMatrix:
        """Return the derivative of the Hessian along v (D x 1, of balls too) over x."""
        raise NotImplementedError

    def beyond(self, x: BallMatrix, index: int) -> Beyond:
        """Return what more holds of the critical point in the box x, of this index in these coordinates.

        Raises:
            Unproved: saying what could not be shown.
        """
        return Beyond()

    def problem(self) -> dict[str, Any]:
        """Return the landscape in exact numbers (`hexed`), for a file that another program checks."""
        return {}

    def invariants(self, x: BallMatrix) -> list[Ball]:
        """Return numbers beside f that all symmetries leave alone, discrete ones too: to tell orbits."""
        return []


def flint() -> Any:
    """Return python-flint.

    Raises:
        ValueError: saying how to install it.
    """
    try:
        import flint
    except ImportError as error:
        raise ValueError(
            "prove: proofs need python-flint, which is not installed; pip install 'ufm-jax[proof]'"
        ) from error
    return flint


def column(entries: Sequence[Any]) -> BallMatrix:
    """Return numbers or balls as a matrix of one column."""
    return flint().arb_mat(len(entries), 1, list(entries))


def exact(numbers: Float[np.ndarray, "m n"]) -> BallMatrix:
    """Return a matrix of float64 numbers as balls of radius zero."""
    return flint().arb_mat(*numbers.shape, [float(value) for value in numbers.ravel()])


def centres(matrix: BallMatrix) -> Float[np.ndarray, "m n"]:
    """Return the centres of a matrix of balls, rounded to float64."""
    values = [float(value) for value in matrix.mid().entries()]
    return np.array(values).reshape(matrix.nrows(), matrix.ncols())


def around(centre: BallMatrix, radii: Sequence[Any]) -> BallMatrix:
    """Return the box of these radii around a column of numbers."""
    arb = flint().arb
    return column([value + arb(0, radius) for value, radius in zip(centre.entries(), radii, strict=True)])


def stacked(upper: BallMatrix, lower: BallMatrix) -> BallMatrix:
    """Return one column above another."""
    return column(upper.entries() + lower.entries())


def bordered(matrix: BallMatrix, rows: BallMatrix) -> BallMatrix:
    """Return [[A, Rᵀ], [R, 0]] of a symmetric A and rows R."""
    m = rows.nrows()
    upper = [a + r for a, r in zip(matrix.tolist(), rows.transpose().tolist(), strict=True)]
    return flint().arb_mat([*upper, *(row + [0] * m for row in rows.tolist())]) if upper else matrix


def identity(size: int) -> BallMatrix:
    """Return the identity matrix."""
    return exact(np.eye(size))


def signs(matrix: BallMatrix) -> tuple[int, int]:
    """Return how many eigenvalues are negative and positive, of every symmetric matrix in the enclosure.

    VᵀAV with V of approximate eigenvectors, scaled so that its diagonal is near ±1: congruence keeps signs
    (Sylvester), and they are the diagonal's if no Gershgorin disc meets zero. V is bettered by doing the same
    to VᵀAV.

    Raises:
        Unproved: if some eigenvalue cannot be told from zero.
    """
    size = matrix.nrows()
    V, moved = identity(size), matrix
    for _ in range(PASSES):
        if (found := _by_gershgorin(moved)) is not None:
            return found
        middle = centres(moved)
        if not np.all(np.isfinite(middle)):
            break
        values, vectors = np.linalg.eigh((middle + middle.T) / 2)
        V = (V * exact(vectors / np.sqrt(np.maximum(np.abs(values), INFLATED)))).mid()
        moved = V.transpose() * matrix * V
    if (found := _by_gershgorin(moved)) is not None:
        return found
    raise Unproved(f"an eigenvalue of a {size} x {size} matrix cannot be told from zero")


def _by_gershgorin(matrix: BallMatrix) -> tuple[int, int] | None:
    negative = 0
    for i, row in enumerate(matrix.tolist()):
        diagonal = row[i]
        row[i] = type(diagonal)(0)
        radius = sum((entry.abs_upper() for entry in row), type(diagonal)(0))
        if diagonal < -radius:
            negative += 1
        elif not diagonal > radius:
            return None
    return negative, matrix.nrows() - negative


def nonsingular(matrix: BallMatrix) -> bool:
    """Say whether every matrix of the enclosure is shown to be regular: ‖1 − YA‖ < 1, Y near the inverse."""
    if not matrix.nrows():
        return True
    try:
        near = matrix.mid().inv().mid()
    except ZeroDivisionError:
        return False
    left = (identity(matrix.nrows()) - near * matrix).tolist()
    return all(sum((a.abs_upper() for a in row), flint().arb(0)) < 1 for row in left)


def hexed(numbers: Any) -> Any:
    """Return numbers, or nested sequences of them, exactly as text; None stays None."""
    if isinstance(numbers, list | tuple):
        return [hexed(number) for number in numbers]
    return None if numbers is None else float(numbers).hex()


def lower_float(ball: Ball) -> float:
    """Return a float64 below the ball."""
    return _stepped(float(ball.lower()), -math.inf)


def upper_float(ball: Ball) -> float:
    """Return a float64 above the ball."""
    return _stepped(float(ball.upper()), math.inf)


def _stepped(value: float, toward: float) -> float:
    # `float` rounds to nearest: one step is outward, another leaves room for whoever encloses a bit wider.
    return math.nextafter(math.nextafter(value, toward), toward)


def written(number: Ball) -> str:
    """Return the centre of a ball exactly, as mantissa and binary exponent: "-0x1a2bp-90"."""
    mantissa, exponent = number.mid().man_exp()
    return f"{hex(int(mantissa))}p{int(exponent)}"
