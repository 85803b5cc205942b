"""One problem over several devices: the same minimum, and no device holds H or the logits."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import find_minimum, make

from ufm_jax.landscape.verdict import Verdict
from ufm_jax.models.unconstrained import samples
from ufm_jax.numerics.status import Status

DEVICES = 4  # virtual, see conftest.py


def largest_array(compiled):
    """Entries of the largest array in a program, as one device sees it."""
    shapes = re.findall(r"\b(?:f64|f32|s32|s64|u32|pred)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def big(bias=True, counts=(16, 8, 8)):
    return make(counts, 4, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_minimum_over_devices_is_the_minimum(bias):
    prob = big(bias)
    where = samples.layout(prob)
    start = samples.gaussian(prob, jax.random.key(0), 0.5, where)
    assert len(start.H.sharding.device_set) == DEVICES
    assert {shard.data.shape for shard in start.H.addressable_shards} == {(4, 32 // DEVICES)}
    found = samples.find_minimum(prob, start)
    assert found.status == Status.CONVERGED
    assert {shard.data.shape for shard in found.params.H.addressable_shards} == {(4, 32 // DEVICES)}
    evidence = samples.judge(prob, found.params)
    assert evidence.verdict == Verdict.GLOBAL_MINIMUM
    alone = jax.tree.map(jnp.asarray, jax.device_get(start))
    other = samples.judge(prob, jax.jit(find_minimum)(prob, alone).params)
    one, two = evidence.columns(), other.columns()
    for name in ("loss", "dual_bound", "nc1", "nc2", "nc4"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-9, err_msg=name)


def test_no_device_ever_holds_the_features_or_the_logits():
    counts = (40_000, 20_000, 4_000)
    prob = make(counts, 3)
    where = samples.layout(prob)
    start = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), prob.zeros(), where)
    share = 3 * sum(counts) // DEVICES
    # The labels, one number a sample, are on every device; `judge` applies ∇²ℓ to K shares of logits at once.
    for run, most in ((samples.find_minimum, max(share, sum(counts))), (samples.judge, 3 * share)):
        program = jax.jit(partial(run.__wrapped__, prob)).lower(start).compile()
        assert share <= largest_array(program) <= most
    draw = jax.jit(partial(samples.starts.gaussian, prob), out_shardings=where)
    assert largest_array(draw.lower(jax.random.key(0)).compile()) <= share


def test_a_number_of_devices_that_does_not_divide_the_samples_is_refused():
    with pytest.raises(ValueError, match=r"^devices: .*divides the 33 columns.*3 would do"):
        samples.layout(big(counts=(16, 8, 9)))
