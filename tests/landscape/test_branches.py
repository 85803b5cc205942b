"""Branches of critical points against closed forms: where they go and end, and what changes on the way."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make
from matplotlib.figure import Figure

from ufm_jax.landscape.continuation import LEAST, follow
from ufm_jax.landscape.landscape import Landscape
from ufm_jax.landscape.spectrum import NOT_COUNTED
from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.factorisation import Factorisation, critical_point_of, critical_values
from ufm_jax.models.unconstrained.closed_forms import balanced_minimum, etf_minimiser
from ufm_jax.models.unconstrained.losses import Focal
from ufm_jax.models.unconstrained.objective import objective

M = np.diag([4.0, 3.0, 2.0, 1.0])
SECOND = (1,)  # the orbit of σ = 3 alone


class Well(Landscape):
    """x⁴/4 − a x²/2 + y²: the minima ±√a end on the origin at a = 0."""

    a: jax.Array

    def zeros(self):
        return jnp.zeros(2)

    def value(self, x):
        return x[0] ** 4 / 4 - self.a * x[0] ** 2 / 2 + x[1] ** 2


class Fold(Landscape):
    """x³/3 − a x: minimum √a and maximum −√a meet at a = 0."""

    a: jax.Array

    def zeros(self):
        return jnp.zeros(())

    def value(self, x):
        return x**3 / 3 - self.a * x


class Turning(Landscape):
    """(x − a²)²: the branch stands still at a = 0."""

    a: jax.Array

    def zeros(self):
        return jnp.zeros(())

    def value(self, x):
        return (x - self.a**2) ** 2


@pytest.fixture(scope="module")
def saddle():
    landscape = Factorisation(M=M, decay=0.1, rank=2)
    return landscape, critical_point_of(M, 0.1, 2, SECOND)


@pytest.mark.parametrize("dim", [2, 4])
def test_the_minimum_of_f_is_followed_along_its_closed_form(dim):
    prob = make((2, 2, 2), dim)
    p = etf_minimiser(prob)
    Q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (dim, dim)))
    p = p._replace(W=p.W @ Q, H=Q.T @ p.H)
    path = follow(prob, p, decay_w=1e-3)
    assert path.reached
    np.testing.assert_array_equal(path.fields["decay_w"][[0, -1]], [prob.decay_w, 1e-3])
    known = [balanced_minimum(replace(prob, decay_w=w)).loss for w in path.fields["decay_w"]]
    np.testing.assert_allclose(path.loss, known, rtol=1e-12)
    assert set(path.verdict) == {Verdict.GLOBAL_MINIMUM}
    # in the frame of the point given, of which only the length changes
    for name in ("W", "H"):
        here, there = (getattr(one, name) for one in (p, path.x))
        np.testing.assert_allclose(getattr(path.points, name)[0], here, atol=1e-9)
        np.testing.assert_allclose(here / jnp.linalg.norm(here), there / jnp.linalg.norm(there), atol=1e-7)
    np.testing.assert_allclose(objective(path.landscape)(path.x), path.loss[-1], rtol=1e-12)


def test_a_saddle_is_followed_until_it_vanishes_at_its_singular_value(saddle):
    path = follow(*saddle, decay=3.5)
    decay = path.fields["decay"]
    assert not path.reached
    assert 3 * (1 - 1e-4) < decay[-1] < 3
    np.testing.assert_allclose(path.loss, 3 * decay - decay**2 / 2 + (16 + 4 + 1) / 2, rtol=1e-12)
    counted = path.index != NOT_COUNTED
    larger = np.sum(np.diag(M) > decay[:, None], axis=1) - 1  # not counting its own, while it is there
    np.testing.assert_array_equal(path.index[counted], (larger + 1)[counted])
    assert [(change.before, change.after) for change in path.changes] == [(4, 3), (3, 2)]
    for change, where in zip(path.changes, (1.0, 2.0), strict=True):
        assert decay[change.low] < where < decay[change.high] < decay[change.low] * (1 + 1e-3)


def test_there_and_back_is_the_same_point(saddle):
    landscape, x = saddle
    there = follow(landscape, x, decay=1.7)
    back = follow(there.landscape, there.x, decay=0.1)
    assert there.reached
    assert back.reached
    for one, other in zip(back.x, x, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_several_fields_and_arrays_change_together(saddle):
    landscape, x = saddle
    path = follow(landscape, x, M=np.diag([5.0, 2.5, 2.0, 0.5]).tolist(), decay=0.2)
    (known,) = (c for c in critical_values(path.fields["M"][-1], 0.2, 2) if c.chosen == SECOND)
    np.testing.assert_allclose(path.loss[-1], known.value, rtol=1e-12)
    assert path.index[-1] == known.index
    assert path.fields["M"].shape == (len(path), 4, 4)


def test_a_branch_that_ends_on_another_is_not_continued_there():
    path = follow(Well(a=1.0), jnp.array([1.0, 0.0]), a=-1.0)
    assert not path.reached
    assert 0 < path.fields["a"][-1] < 100 * LEAST
    # a gradient of 1e-10 over a curvature of 2a, a ≥ 7e-6
    np.testing.assert_allclose(path.points[:, 0], np.sqrt(path.fields["a"]), rtol=1e-4)
    origin = follow(Well(a=1.0), jnp.zeros(2), a=-1.0)
    assert origin.reached
    (change,) = origin.changes
    assert (change.before, change.after) == (1, 0)


def test_a_fold_ends_a_branch_and_standing_still_does_not():
    assert not (fold := follow(Fold(a=1.0), jnp.array(1.0), a=-1.0)).reached
    assert 0 < fold.fields["a"][-1] < 100 * LEAST
    turning = follow(Turning(a=-1.0), jnp.array(1.0), a=1.0)
    assert turning.reached
    np.testing.assert_allclose(turning.points, turning.fields["a"] ** 2, atol=1e-9)


def test_a_loss_that_is_not_convex_is_followed_over_all_features():
    prob = make((2, 1), 1, loss=Focal(gamma=1.0), bias=False)
    path = follow(prob, prob.zeros(), decay_w=1e-2)
    assert path.reached
    assert path.points.H.shape == (len(path), 1, 3)


def test_a_path_prints_its_ends_and_where_the_index_changes(saddle):
    path = follow(*saddle, decay=1.5)
    assert repr(path) == f"Followed(Factorisation: decay 0.1 -> 1.5, reached, {len(path)} points)"
    lines = str(path).splitlines()
    assert lines[1].split() == ["decay", "loss", "verdict", "index", "nullity"]
    assert {line.split()[3] for line in lines[2:]} == {"4", "3"}
    assert float(lines[-1].split()[0]) == 1.5
    ax = path.plot(Figure().subplots())
    assert ax.get_xlabel() == "decay"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "fields"),
        ({"nope": 1.0}, "nope"),
        ({"rank": 1}, "rank"),
        ({"decay": [0.1, 0.2]}, "decay"),
        ({"decay": "much"}, "decay"),
        ({"decay": np.nan}, "decay"),
        ({"decay": 0.2, "max_steps": 0}, "max_steps"),
    ],
)
def test_what_cannot_be_followed_to_is_refused_by_name(saddle, fields, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        follow(*saddle, **fields)


def test_points_that_are_not_critical_or_do_not_fit_are_refused(saddle):
    landscape, x = saddle
    with pytest.raises(ValueError, match=r"^x: need a critical point"):
        follow(landscape, landscape.start(jax.random.key(0)), decay=0.2)
    with pytest.raises(ValueError, match=r"^U: need shape"):
        follow(landscape, x._replace(U=x.U.T), decay=0.2)
