"""Extreme eigenpairs of a symmetric operator by block Lanczos, and the tridiagonal of one start vector.

Inside, vectors are rows: a basis is an array (m, D) whose rows are orthonormal or zero (an empty place). Any
such basis is admissible in the Rayleigh-Ritz step, so a breakdown may cost steps, never correctness.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from ufm_jax.numerics.derivatives import floating
from ufm_jax.numerics.status import Status

Vector = Float[Array, " D"]
Matvec = Callable[[Vector], Vector]
Product = Callable[[Float[Array, "m D"]], Float[Array, "m D"]]

BREAKDOWN = 100  # in units of eps: what is left of a vector outside the basis is then rounding
SEPARATION = 1e-3  # in the check, a residual this small beside the gap to the pairs found is small enough


class RitzPairs(NamedTuple):
    """Approximate eigenpairs: unit columns v_i with ||A v_i - values_i v_i|| = residuals_i.

    Some eigenvalue of A lies within `residuals_i` of `values_i`, whatever the status.
    """

    values: Float[Array, " k"]  # ascending
    vectors: Float[Array, "D k"]
    residuals: Float[Array, " k"]  # measured with the operator at the end
    status: Int[Array, ""]
    num_matvecs: Int[Array, ""]
    norm: Float[Array, ""]  # largest |Ritz value| seen: at most ||A||, and close to it


class _Ritz(NamedTuple):
    """Ritz pairs, ascending; empty places come last, with value inf and zero rows."""

    values: Float[Array, " m"]
    rows: Float[Array, "m D"]
    images: Float[Array, "m D"]  # A applied to the rows


class _State(NamedTuple):
    """Between cycles: what is locked, and a Krylov decomposition in its orthogonal complement."""

    locked: _Ritz
    kept: _Ritz
    candidate: Float[Array, "b D"]  # the directions that continue the Krylov space; zero: draw one at random
    norm: Float[Array, ""]
    cycle: Int[Array, ""]
    status: Int[Array, ""]


def extreme_eigenpairs(
    matvec: Matvec,
    dim: int,
    num_pairs: int = 1,
    *,
    which: Literal["smallest", "largest"] = "smallest",
    key: PRNGKeyArray,
    rtol: float = 1e-10,
    block_size: int = 2,
    basis_size: int | None = None,
    max_restarts: int = 100,
    deflate: Float[Array, "D q"] | None = None,
    dtype: DTypeLike | None = None,
) -> RitzPairs:
    """Return the `num_pairs` smallest or largest eigenpairs of the symmetric operator `matvec` on R^dim.

    Block Lanczos with full reorthogonalisation and thick restarts (Wu & Simon 2000; Stewart 2001). Pairs
    found are locked, and a search from a fresh random block in their orthogonal complement must find nothing
    beyond them: a multiplicity above `block_size` costs about one search per `block_size` more copies.

    `deflate` holds orthonormal or zero columns that span an invariant subspace; the answer is the spectrum on
    its orthogonal complement. `basis_size` is the number of vectors a search holds: from dim + num_pairs on
    (the default up to dim 256) one cycle spans the whole space and the method is direct. `max_restarts`
    bounds the cycles of all searches together. The caller jits and vmaps: outside `jit` each call compiles.

    Status, per lane: CONVERGED if every residual is at most rtol ||A|| and the check found nothing; MAX_STEPS
    with the best pairs so far; NONFINITE if a product was not finite; STALLED if a residual measured at the
    end is larger (`deflate` is not invariant) or the complement has fewer than `num_pairs` dimensions. A pair
    that does not exist has value and residual NaN and a zero vector. `rtol` is raised to 10 eps sqrt(dim),
    the rounding of a product: for dim 300, 4e-14 in float64 and 2e-5 in float32. Residuals whose squares
    underflow (in float32, below about 1e-19) count as zero: scale such an operator.

    Raises:
        ValueError: if a size or `which` is impossible, or `dtype` is not floating-point.
    """
    dtype = floating_dtype(dtype)
    least = num_pairs + min(block_size, dim)
    for name, needed, ok, value in (
        ("dim", "at least 1", dim >= 1, dim),
        ("num_pairs", f"1 to dim = {dim}", 1 <= num_pairs <= dim, num_pairs),
        ("which", "'smallest' or 'largest'", which in ("smallest", "largest"), which),
        ("block_size", "at least 1", block_size >= 1, block_size),
        ("basis_size", f"at least {least}", basis_size is None or basis_size >= least, basis_size),
        ("max_restarts", "at least 1", max_restarts >= 1, max_restarts),
    ):
        if not ok:
            raise ValueError(f"{name}: need {needed}, got {value!r}")
    num_kept, num_steps = _sizes(basis_size, dim, num_pairs, block_size)
    known = jnp.zeros((0, dim), dtype) if deflate is None else deflate.T.astype(dtype)
    rtol = max(rtol, 10 * float(jnp.finfo(dtype).eps) * dim**0.5)

    def product(rows: Float[Array, "m D"]) -> Float[Array, "m D"]:
        return jax.vmap(matvec)(rows) * (1 if which == "smallest" else -1)

    def running(state: _State) -> Bool[Array, ""]:
        return (state.status == Status.RUNNING) & (state.cycle < max_restarts)

    # Half the tolerance inside leaves room for the rounding of the last measurement.
    cycle = partial(_cycle, product=product, known=known, key=key, rtol=rtol / 2, num_steps=num_steps)
    start = _State(
        locked=_empty(num_pairs, dim, dtype),
        kept=_empty(num_kept, dim, dtype),
        candidate=jnp.zeros((block_size, dim), dtype),
        norm=jnp.zeros((), dtype),
        cycle=jnp.zeros((), jnp.int32),
        status=jnp.asarray(Status.RUNNING, jnp.int32),
    )
    end = jax.lax.while_loop(running, cycle, start)
    pairs = _measured(end, product, rtol, num_matvecs=end.cycle * (num_steps * block_size) + num_pairs)
    if which == "smallest":
        return pairs
    values, vectors, residuals = (jnp.flip(x, axis=-1) for x in pairs[:3])
    return pairs._replace(values=-values, vectors=vectors, residuals=residuals)


def floating_dtype(dtype: DTypeLike | None) -> jnp.dtype:
    """Return a dtype, by default that of Python's floats.

    Raises:
        ValueError: if it is not floating-point.
    """
    found = jnp.zeros((), dtype).dtype
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"dtype: need a floating-point dtype, got {found}")
    return found


def _cycle(
    state: _State, *, product: Product, known: Array, key: PRNGKeyArray, rtol: float, num_steps: int
) -> _State:
    """Expand, take the best Ritz pairs, and if those wanted have converged lock them or finish."""
    key = jax.random.fold_in(key, state.cycle)
    basis, images, candidate, exhausted = _expand(state, product, known, key, num_steps)
    finite = jnp.all(jnp.isfinite(images))
    ritz, largest = _rayleigh_ritz(basis, jnp.where(finite, images, 0))
    norm = jnp.maximum(state.norm, largest)
    num_pairs, (num_kept, dim) = state.locked.values.size, state.kept.rows.shape
    kept, first = (jax.tree.map(lambda x, m=m: x[:m], ritz) for m in (num_kept, num_pairs))

    settled, converged, finished = _judge(state.locked.values, first, rtol * norm, exhausted)
    first = first._replace(values=jnp.where(settled, first.values, jnp.inf))
    new = _State(
        locked=_select(converged, _lowest(state.locked, first), state.locked),
        kept=_select(converged, _empty(num_kept, dim, basis.dtype), kept),
        candidate=jnp.where(converged, 0, candidate),
        norm=norm,
        cycle=state.cycle,
        status=jnp.where(finished, jnp.int32(Status.CONVERGED), state.status),
    )
    new = _select(finite, new, state._replace(status=jnp.full_like(state.status, Status.NONFINITE)))
    return new._replace(cycle=state.cycle + 1)


def _judge(
    locked: Float[Array, " k"], ritz: _Ritz, tol: Float[Array, ""], exhausted: Bool[Array, ""]
) -> tuple[Bool[Array, " k"], Bool[Array, ""], Bool[Array, ""]]:
    """Return which Ritz pairs have settled, if those wanted have, and if nothing is left to find.

    Wanted are as many as there are empty places, and when there are none, one: the check.
    """
    exists = jnp.isfinite(ritz.values)
    gap = jnp.where(exists, ritz.values - locked[-1], 0)
    settled = jnp.where(exists, _residuals(ritz) <= jnp.maximum(tol, SEPARATION * gap), exhausted)
    wanted = jnp.arange(locked.size) < jnp.maximum(jnp.sum(jnp.isinf(locked)), 1)
    converged = jnp.all(settled | ~wanted)
    return settled, converged, converged & (exhausted | (ritz.values[0] >= locked[-1] - tol))


def _expand(
    state: _State, product: Product, known: Float[Array, "q D"], key: PRNGKeyArray, num_steps: int
) -> tuple[Float[Array, "m D"], Float[Array, "m D"], Float[Array, "b D"], Bool[Array, ""]]:
    """Add `num_steps` Lanczos blocks to the kept vectors, all orthogonal to what is known or locked.

    Returns the basis, its images, the block that continues it, and whether the complement is used up.
    """
    held = jnp.concatenate([known, state.locked.rows])
    size, dim = state.candidate.shape
    num_kept, rounding = state.kept.values.size, BREAKDOWN * float(jnp.finfo(held.dtype).eps)

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array]) -> tuple[Any, None]:
        rows, images, block = carry
        at, random = inputs
        block = jnp.where(jnp.any(block != 0, axis=1, keepdims=True), block, random)
        block = _orthonormal(_orthonormal(block, rows, rounding), rows, 0.5)  # twice is enough
        image = _project(product(block), held)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, block, held.shape[0] + at, axis=0)
        images = jax.lax.dynamic_update_slice_in_dim(images, image, at, axis=0)
        return (rows, images, _orthonormal(image, rows, rounding)), None

    room = jnp.zeros((num_steps * size, dim), held.dtype)
    start = (
        jnp.concatenate([held, state.kept.rows, room]),
        jnp.concatenate([state.kept.images, room]),
        state.candidate,
    )
    places = num_kept + size * jnp.arange(num_steps)
    random = jax.random.normal(key, (num_steps, size, dim), held.dtype)
    (rows, images, candidate), _ = jax.lax.scan(step, start, (places, random))
    exhausted = jnp.sum(jnp.any(rows != 0, axis=1)) >= dim
    return rows[held.shape[0] :], images, candidate, exhausted


def _rayleigh_ritz(basis: Float[Array, "m D"], images: Float[Array, "m D"]) -> tuple[_Ritz, Float[Array, ""]]:
    """Return the Ritz pairs of the basis, and the largest |Ritz value|."""
    matrix = basis @ images.T
    bound = jnp.linalg.norm(matrix)
    above = jnp.where(bound > 0, 2 * bound, 1)  # puts the empty places last, at the matrix's own scale
    values, rotation = jnp.linalg.eigh(matrix + jnp.diag(jnp.where(jnp.any(basis != 0, axis=1), 0, above)))
    exists = values < 0.75 * above
    rotation = jnp.where(exists, rotation, 0).T
    largest = jnp.max(jnp.abs(jnp.where(exists, values, 0)))
    return _Ritz(jnp.where(exists, values, jnp.inf), rotation @ basis, rotation @ images), largest


def _measured(state: _State, product: Product, rtol: float, num_matvecs: Array) -> RitzPairs:
    """Return the best pairs of the last state, measured anew with the operator."""
    rows = _lowest(state.locked, state.kept).rows
    images = product(rows)
    finite = jnp.all(jnp.isfinite(images))
    ritz, largest = _rayleigh_ritz(rows, jnp.where(finite, images, 0))
    exists = finite & jnp.isfinite(ritz.values)
    values, residuals = (jnp.where(exists, x, jnp.nan) for x in (ritz.values, _residuals(ritz)))
    norm = jnp.maximum(state.norm, largest)
    met = jnp.all(residuals <= rtol * norm)
    status = jnp.where((state.status == Status.CONVERGED) & ~met, Status.STALLED, state.status)
    status = jnp.where(status == Status.RUNNING, Status.MAX_STEPS, status)
    status = jnp.where(finite, status, Status.NONFINITE)
    return RitzPairs(values, ritz.rows.T, residuals, status, num_matvecs, norm)


def _empty(size: int, dim: int, dtype: DTypeLike) -> _Ritz:
    rows = jnp.zeros((size, dim), dtype)
    return _Ritz(jnp.full(size, jnp.inf, dtype), rows, rows)


def _lowest(some: _Ritz, others: _Ritz) -> _Ritz:
    """Return the lowest of both, as many as in the first."""
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), some, others)
    order = jnp.argsort(both.values)[: some.values.size]
    return jax.tree.map(lambda x: x[order], both)


def _select(take: Bool[Array, ""], yes: Any, no: Any) -> Any:
    return jax.tree.map(partial(jnp.where, take), yes, no)


def _residuals(ritz: _Ritz) -> Float[Array, " m"]:
    shift = jnp.where(jnp.isfinite(ritz.values), ritz.values, 0)
    return jnp.linalg.norm(ritz.images - shift[:, None] * ritz.rows, axis=1)


def _project(block: Float[Array, "b D"], rows: Float[Array, "m D"]) -> Float[Array, "b D"]:
    return jnp.stack([row - (rows @ row) @ rows for row in block])  # row by row: faster when batched on a CPU


def _orthonormal(block: Float[Array, "b D"], rows: Float[Array, "m D"], cut: float) -> Float[Array, "b D"]:
    """Orthonormalise a block against `rows` and itself, in order; what shrinks below `cut` becomes zero."""
    smallest = cut * jnp.max(jnp.linalg.norm(block, axis=1))
    done: list[Array] = []
    for row in _project(block, rows):
        for other in done:
            row = row - (other @ row) * other
        norm = jnp.linalg.norm(row)
        done.append(jnp.where(norm > smallest, row / jnp.where(norm > 0, norm, 1), 0))
    return jnp.stack(done)


def tridiagonalise(
    matvec: Matvec, start: Shaped[Array, " D"], num_steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps_less_one"]]:
    """Return diagonal and off-diagonal of the Lanczos matrix T of a symmetric A from v = start / ||start||.

    Full reorthogonalisation, twice. (T^j)_11 = v^T A^j v for j < 2 num_steps (Golub & Meurant 2010, ch. 6).
    Where an invariant subspace ends the process, the off-diagonal is 0 and the diagonal goes on with v^T A v:
    the added nodes have no weight and lie inside the spectrum. A zero `start` gives zeros.

    Raises:
        ValueError: if `num_steps` is below 1, or `start` is not floating-point.
    """
    start = floating(start)
    if num_steps < 1:
        raise ValueError(f"num_steps: need at least 1, got {num_steps}")

    def step(carry: tuple[Array, Array, Array], at: Array) -> tuple[Any, tuple[Array, Array]]:
        basis, vector, scale = carry
        basis = jax.lax.dynamic_update_index_in_dim(basis, vector, at, axis=0)
        image = matvec(vector)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        left = _project(_project(image[None], basis), basis)[0]
        norm = jnp.linalg.norm(left)
        ended = norm <= BREAKDOWN * jnp.finfo(start.dtype).eps * scale
        following = jnp.where(ended, 0, left / jnp.where(ended, 1, norm))
        return (basis, following, scale), (vector @ image, jnp.where(ended, 0, norm))

    norm = jnp.linalg.norm(start)
    first = start / jnp.where(norm > 0, norm, 1)
    carry = (jnp.zeros((num_steps, start.size), start.dtype), first, jnp.zeros((), start.dtype))
    _, (alphas, betas) = jax.lax.scan(step, carry, jnp.arange(num_steps))
    reached = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(betas[:-1] != 0) != 0])
    return jnp.where(reached, alphas, alphas[0]), betas[:-1]


def _sizes(basis_size: int | None, dim: int, num_pairs: int, block_size: int) -> tuple[int, int]:
    """Return how many Ritz vectors a restart keeps and how many blocks a cycle adds."""
    if basis_size is None and dim > 256:
        basis_size = max(96, 2 * num_pairs + 32, num_pairs + 8 * block_size)
    if basis_size is None or basis_size >= dim + num_pairs:
        return num_pairs, -(-dim // block_size)  # the whole space fits: one cycle is enough
    num_kept = num_pairs + (basis_size - num_pairs - block_size) // 3
    return num_kept, (basis_size - num_kept) // block_size
