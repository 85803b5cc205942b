"""Regimes after the paper: what is predicted of each, beside blind descents from random starts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

import ufm_jax as ufm
from experiments import imbalance
from experiments.claims.finding import Finding
from ufm_jax.models.frozen_classifier import frozen_simplex

VALUE_TOL = 1e-9  # of f where descents end: they come down to ‖∇f‖ of 1e-11 in units
LIMIT = 0.05  # of Gram matrices of unit norm, at decays of 1e-8: they differ by about 1/log of it


def regimes(starts: int) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield a claim of each regime, in words, and its check."""
    known = {
        "unit norms at d = K − 1: the simplex": ufm.UnitNorm(temperature=jnp.asarray(4.0), num_classes=4),
        "a learned temperature ends at its closed form": ufm.UnitNorm(
            temperature=jnp.asarray(1.0), decay_t=jnp.asarray(0.01), learned=True, num_classes=3
        ),
        "features along a frozen simplex": frozen_simplex(counts=(4, 2, 1), decay_h=0.01, bias=False),
        "two linear layers of squared loss": ufm.DeepLinear(
            decay=jnp.asarray(0.02), num_classes=3, num_layers=2, loss="squared"
        ),
        "one label a sample or two: pairs at the sum of theirs": ufm.MultiLabel(
            decay_w=jnp.asarray(5e-3), decay_h=jnp.asarray(2e-3), num_classes=4
        ),
        "weighted squared loss decouples": ufm.problem(
            counts=(6, 3, 1),
            dim=3,
            decay_w=0.02,
            decay_h=0.02,
            bias=False,
            loss=ufm.WeightedSquared(class_weights=(1.0, 3.0, 0.5)),
        ),
    }
    for words, landscape in known.items():
        yield words, partial(lowest_is_predicted, landscape, starts)
    listed = {
        "non-negative features: some classes live, the others are dead": ufm.ReLUFeatures(
            decay_w=jnp.asarray(0.02), decay_h=jnp.asarray(0.03), counts=(4, 2, 1)
        ),
        "unit norms at K = 5, d = 3: simplices of three and two": ufm.UnitNorm(
            temperature=jnp.asarray(4.0), num_classes=5, dim=3
        ),
        "three linear layers, K = 4: pairs are lower than the simplex": ufm.DeepLinear(
            decay=jnp.asarray(2.0**-10), num_classes=4, num_layers=3
        ),
    }
    for words, landscape in listed.items():
        yield words, partial(ends_are_predicted, landscape, starts)
    yield "classes merge by groups, each at √n_c/N", partial(groups_merge, starts)
    yield "for weights ω, offsets and temperatures Δ: at ω Δ √n_c/N", losses_merge
    yield "geometry without decay, counts 10, 10, 1, 1", partial(seli_is_the_limit, starts)
    yield "five atoms: one minimum and two transition states", partial(five_atoms, 10 * starts)


def lowest_is_predicted(landscape: ufm.Landscape, starts: int) -> Finding:
    """Compare the lowest end of descents with f*."""
    loss, predicted = _losses(landscape, starts), float(ufm.predict(landscape)["loss"])
    met, above = int(np.sum(np.abs(loss - predicted) <= VALUE_TOL)), float(loss.min() - predicted)
    measured = f"{starts} descents: {met} at f* = {predicted:.10f}, the lowest {above:.1e} above it"
    return Finding(measured, abs(above) <= VALUE_TOL, {"loss": predicted, "met": met, "lowest": above})


def ends_are_predicted(landscape: ufm.Landscape, starts: int) -> Finding:
    """Compare all ends of descents with the critical values predicted, of which the lowest is to be met."""
    loss, values = _losses(landscape, starts), ufm.predict(landscape)["critical_values"]
    apart = np.abs(loss[:, None] - np.array([*values.values()]))
    nearest, error = apart.argmin(axis=1), float(apart.min(axis=1).max())
    met = {name: int(np.sum(nearest == i)) for i, name in enumerate(values) if np.any(nearest == i)}
    said = ", ".join(f"{name} {values[name]:.10f} ({hits})" for name, hits in met.items())
    holds = error <= VALUE_TOL and 0 in nearest
    return Finding(
        f"{starts} descents to {said}; at most {error:.1e} off", holds, {"met": met, "error": error}
    )


def groups_merge(starts: int) -> Finding:
    """Look on either side of each group's threshold which classes share a classifier row."""
    counts, wrong, looked = (4, 4, 2, 2, 1, 1), 0, 0
    settings = [factor * n**0.5 / sum(counts) for n in (1, 2, 4) for factor in (0.999, 1.001)]
    for s in settings:
        prob = ufm.problem(counts=counts, dim=5, decay_w=s, decay_h=s, decay_b=1e-2)
        run = ufm.sweep(prob, starts=max(1, starts // 20), target="minima")
        W = np.asarray(run.point(int(np.argmin(run.table["loss"].to_numpy()))).x.W)
        pairs = ((4, 0), (2, 2), (1, 4))
        merged = sorted(n for n, k in pairs if np.linalg.norm(W[k] - W[k + 1]) < 1e-6)
        looked, wrong = looked + 1, wrong + (merged != ufm.merged_groups(counts, s))
    measured = (
        f"counts 4, 4, 2, 2, 1, 1 at {looked} settings, 0.1% beside each threshold: {wrong} not as predicted"
    )
    return Finding(measured, wrong == 0, {"settings": looked, "wrong": wrong})


def losses_merge() -> Finding:
    """The same of losses for unequal counts, ten times as many samples in half of six classes."""
    looked, wrong, config = 0, 0, imbalance.SCALES["default"]
    for name in imbalance.LOSSES:
        landscape = replace(imbalance.landscape_of(config, name), ratio=jnp.asarray(10.0))
        small = float(landscape.thresholds[-1])
        told = imbalance.minima(ufm.grid(landscape, decay=[0.999 * small, 1.001 * small]), config)
        wrong += [apart < 1e-6 for apart in told["merged"]] != [False, True]
        looked += 1
    measured = f"{looked} losses, 0.1% beside the threshold of the small classes: {wrong} not as predicted"
    return Finding(measured, wrong == 0, {"losses": looked, "wrong": wrong})


def seli_is_the_limit(starts: int) -> Finding:
    """Compare the classifier's Gram matrix at small and smaller decays with that of the convex program."""
    counts, gram, apart = (10, 10, 1, 1), ufm.seli((10, 10, 1, 1)).gram_w, []
    for decay in (1e-4, 1e-8):
        prob = ufm.problem(counts=counts, dim=3, decay_w=decay, decay_h=decay, bias=False)
        run = ufm.sweep(prob, starts=max(1, starts // 20), target="minima")
        W = np.asarray(run.point(int(np.argmin(run.table["loss"].to_numpy()))).x.W)
        found = W @ W.T
        apart.append(float(np.linalg.norm(found / np.linalg.norm(found) - gram / np.linalg.norm(gram))))
    measured = (
        f"Gram matrices of unit norm are {apart[0]:.3f} apart at decays of 1e-4, {apart[1]:.3f} at 1e-8"
    )
    return Finding(measured, apart[1] < min(LIMIT, 0.65 * apart[0]), {"apart": apart})


def five_atoms(starts: int) -> Finding:
    """Count minima and transition states of five Lennard-Jones atoms."""
    landscape, counted = ufm.LennardJones(num_atoms=5), []
    for target, index in (("minima", 0), (1, 1)):
        rows = ufm.sweep(landscape, starts=starts, target=target).orbits.to_pylist()
        verdict = "STRICT_SADDLE" if index else "LOCAL_MINIMUM"
        counted.append(sum((r["verdict"], r["index"], r["nullity"]) == (verdict, index, 6) for r in rows))
    said = ufm.predict(landscape)
    measured = f"{starts} searches each: {counted[0]} minimum, {counted[1]} transition states"
    return Finding(measured, counted == [said["minima"], said["transition_states"]], {"counted": counted})


def _losses(landscape: ufm.Landscape, starts: int) -> np.ndarray:
    return np.asarray(ufm.sweep(landscape, starts=starts, target="minima").table["loss"].to_numpy())
