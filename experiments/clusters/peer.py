"""One process of topsearch (Dicks & Pyzer-Knapp 2024) on a Lennard-Jones cluster; run by its own Python.

    PYTHON peer.py ATOMS SEED SECONDS

Prints JSON: each stationary point that it came upon, with the seconds of CPU and by the clock until then. As
in its example of seven atoms 150 steps of basin-hopping, and bands between each minimum and the nearest;
their maxima are refined by hybrid eigenvector following. Ours are the rounds until the time is over (then the
network forgets its edges, and every second round begins at minima shaken at random, by eigenvector following
alone), and the lengths of steps: its own left most searches of this potential unfinished.

Given to it, so that it shows its best: a vectorised potential, where its own is a Python loop over pairs; a
comparison that looks at energies before it aligns; and every point is counted that its searches return, where
its network keeps one transition state for each pair of minima. What the example leaves at the defaults and
does not suit this potential, whose eigenvalues are in the hundreds, is in `FOLLOWING`.
"""

# ruff: noqa: NPY002
# (topsearch draws from NumPy's global generator)

import json
import os
import random
import sys
import tempfile
import time
import warnings
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # one core

import numpy as np  # noqa: E402  (after the number of its threads)
from topsearch.data.coordinates import AtomicCoordinates  # noqa: E402
from topsearch.data.kinetic_transition_network import KineticTransitionNetwork  # noqa: E402
from topsearch.global_optimisation.basin_hopping import BasinHopping  # noqa: E402
from topsearch.global_optimisation.perturbations import AtomicPerturbation  # noqa: E402
from topsearch.potentials.atomic import LennardJones  # noqa: E402
from topsearch.sampling.exploration import NetworkSampling  # noqa: E402
from topsearch.similarity.molecular_similarity import MolecularSimilarity  # noqa: E402
from topsearch.transition_states.hybrid_eigenvector_following import HybridEigenvectorFollowing  # noqa: E402
from topsearch.transition_states.nudged_elastic_band import NudgedElasticBand  # noqa: E402

HOPS, TEMPERATURE, HOPPED = 150, 1.0, 1e-5  # its example's
BOX = 1.2  # the cube's side for each n^(1/3) of the first position
SHAKEN = 0.05  # the largest displacement of a coordinate before eigenvector following alone
FOLLOWING: dict[str, float] = {
    "ts_conv_crit": 1e-4,
    "ts_steps": 150,
    "pushoff": 0.1,
    "max_uphill_step_size": 0.1,
    "positive_eigenvalue_step": 0.1,
    "eigenvalue_conv_crit": 1.0,
    "steepest_descent_conv_crit": 1e-4,
}


class Vectorised(LennardJones):
    """Its potential, in NumPy over all pairs at once."""

    def __init__(self, atoms: int) -> None:
        super().__init__()
        self.i, self.j = np.triu_indices(atoms, 1)
        pair = np.arange(len(self.i))
        self.ends = np.zeros((atoms, len(pair)))
        self.ends[self.i, pair], self.ends[self.j, pair] = 1, -1

    def function(self, position: Any) -> float:
        """Return the energy."""
        return self.function_gradient(position)[0]

    def gradient(self, position: Any) -> Any:
        """Return the gradient, flat."""
        return self.function_gradient(position)[1]

    def function_gradient(self, position: Any) -> tuple[float, Any]:
        """Return both."""
        x = position.reshape(-1, 3)
        d = x[self.i] - x[self.j]
        u = np.einsum("pa,pa->p", d, d)
        v = u**-3.0
        return float(4 * np.sum(v * (v - 1))), (self.ends @ (d * (24 * (v - 2 * v**2) / u)[:, None])).ravel()


class EnergyFirst(MolecularSimilarity):
    """Its comparison, which aligns only points of equal energy."""

    def test_same(self, coords1: Any, coords2: Any, energy1: float, energy2: float) -> bool:
        """Return whether two points are the same."""
        near = abs(energy1 - energy2) < self.energy_criterion
        return bool(near and super().test_same(coords1, coords2, energy1, energy2))

    def optimal_alignment(self, coords1: Any, coords2: Any) -> tuple[Any, Any, Any, Any]:
        """Return its alignment, with a position where it returns the whole object (points that are one)."""
        distance, first, second, order = super().optimal_alignment(coords1, coords2)
        return distance, getattr(first, "position", first), second, order


class Told:
    """What was found, and when."""

    def __init__(self) -> None:
        self.begun = time.process_time(), time.perf_counter()
        self.found: list[tuple[int, float, float, list[float]]] = []

    def __call__(self, index: int, position: Any) -> None:
        """Note a point."""
        wall = time.perf_counter() - self.begun[1]
        self.found.append((index, self.seconds, wall, [float(a) for a in position]))

    @property
    def seconds(self) -> float:
        """CPU time so far."""
        return time.process_time() - self.begun[0]


def cluster(atoms: int) -> Any:
    """Return a random first position: connected, no two atoms too near."""
    while True:
        x = np.random.rand(3 * atoms) * BOX * atoms ** (1 / 3)
        coords = AtomicCoordinates(["C"] * atoms, x, bond_cutoff=1.5)
        if coords.same_bonds() and not coords.check_atom_clashes():
            return coords


def explorer(atoms: int, told: Told) -> Any:
    """Return its explorer, which tells of each point."""
    potential = Vectorised(atoms)
    similarity = EnergyFirst(0.1, 1e-3, weighted=False, allow_inversion=True)
    network = KineticTransitionNetwork()
    add, following = network.add_minimum, HybridEigenvectorFollowing(potential, **FOLLOWING)
    follow = following.run

    def added(coords: Any, energy: float) -> None:
        told(0, coords)
        add(coords, energy)

    def followed(coords: Any) -> Any:
        found = follow(coords)
        if found[0] is not None:
            told(1, found[0])
            told(0, found[2])
            told(0, found[4])
        return found

    network.add_minimum, following.run = added, followed
    hopping = BasinHopping(network, potential, similarity, AtomicPerturbation(0.5, 3))
    band = NudgedElasticBand(potential, 50.0, 10.0, 20, 1e-2)
    return NetworkSampling(network, cluster(atoms), hopping, following, band, similarity)


def between(explore: Any) -> None:
    """Search between each minimum and its nearest, whatever was found between them before."""
    network = explore.ktn
    network.G.remove_edges_from(list(network.G.edges))
    network.n_ts, network.pairlist = 0, np.empty((0, 2), dtype=int)
    explore.get_transition_states("ClosestEnumeration", 4, remove_bounds_minima=False)


def beside(explore: Any) -> None:
    """Search from beside each minimum."""
    coords, network = explore.coords, explore.ktn
    for number in range(network.n_minima):
        x = network.get_minimum_coords(number)
        coords.position = x + SHAKEN * (2 * np.random.rand(x.size) - 1)
        coords.remove_atom_clashes()
        found = explore.single_ended_search.run(coords)
        if found[0] is not None:
            for position, energy in (found[2:4], found[4:6]):
                coords.position = position
                explore.similarity.test_new_minimum(network, coords, energy)


def main(atoms: int, seed: int, seconds: float) -> None:
    """Explore for some seconds of CPU time, and print what was found."""
    np.random.seed(seed)
    random.seed(seed)
    os.chdir(tempfile.mkdtemp())  # it writes a log where it is
    warnings.simplefilter("ignore")
    told = Told()
    explore = explorer(atoms, told)
    while explore.ktn.n_minima == 0:
        explore.coords.position = cluster(atoms).position
        explore.get_minima(explore.coords, HOPS, HOPPED, TEMPERATURE)
    rounds = [between, beside] if explore.ktn.n_minima > 1 else [beside]
    number = 0
    while told.seconds < seconds:
        rounds[number % len(rounds)](explore)
        number += 1
    wall = time.perf_counter() - told.begun[1]
    print(json.dumps({"found": told.found, "cpu_s": told.seconds, "wall_s": wall, "rounds": number}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
