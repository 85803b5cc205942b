"""Clusters of Lennard-Jones atoms: a guest from another field, whose critical points are known.

V = 4 Σ_{i<j} (r_ij⁻¹² − r_ij⁻⁶), in units of the well's depth and of the distance at which it crosses zero.
The counts of minima and transition states are those of Doye & Wales (J. Chem. Phys. 116, 3777, 2002), modulo
rigid motions, reflections and permutations of the atoms.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm_jax.landscape.fields import static
from ufm_jax.landscape.landscape import Key, Landscape
from ufm_jax.numerics.checks import check_count

# Atoms: minima and transition states (critical points of index 1).
KNOWN = {4: (1, 1), 5: (1, 2), 6: (2, 3), 7: (4, 12), 8: (8, 42)}
# Energies of the lowest minima (Hoare & Pal 1971; the Cambridge Cluster Database).
LOWEST = {4: -6.0, 5: -9.103852, 6: -12.712062, 7: -16.505384, 8: -19.821489}

# Of starts: the cube's volume for each atom, the distance below which two push each other apart, how often.
VOLUME, TOUCHING, PUSHES = 1.0, 1.0, 50

AXES = np.array(  # generators of rotations about the three axes
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
    ],
    float,
)


class LennardJones(Landscape):
    """The energy of a cluster, a function of the positions (n, 3) of its atoms."""

    num_atoms: int = static()

    def __post_init__(self) -> None:
        check_count(2, num_atoms=self.num_atoms)

    def zeros(self) -> Float[Array, "n 3"]:
        return jnp.zeros((self.num_atoms, 3))

    def value(self, x: Float[Array, "n 3"]) -> Float[Array, ""]:
        attraction = 1 / self.squares(x) ** 3
        return 4 * jnp.sum(attraction**2 - attraction)

    def squares(self, x: Float[Array, "n 3"]) -> Float[Array, " pairs"]:
        """Return the squared distance of every pair."""
        i, j = np.triu_indices(self.num_atoms, 1)
        return jnp.sum((x[i] - x[j]) ** 2, axis=1)

    def start(self, key: Key) -> Float[Array, "n 3"]:
        """Return points of a cube made flatter by a random factor, pushed apart until hardly two overlap."""
        flat_key, point_key = jax.random.split(key)
        side = (VOLUME * self.num_atoms) ** (1 / 3)
        sides = jnp.asarray([side, side, 0.0]).at[2].set(side * jax.random.uniform(flat_key))
        x = sides * jax.random.uniform(point_key, (self.num_atoms, 3))
        overlap = lambda x: jnp.sum(jnp.maximum(TOUCHING - jnp.sqrt(self.squares(x)), 0) ** 2)
        return jax.lax.fori_loop(0, PUSHES, lambda _, x: x - jax.grad(overlap)(x) / 4, x)

    def tangents(self, x: Float[Array, "n 3"]) -> Float[Array, "6 n 3"]:
        shifts = jnp.broadcast_to(jnp.eye(3)[:, None, :], (3, *x.shape))
        return jnp.concatenate([shifts, jnp.einsum("aij,nj->ani", AXES, x)])

    def invariants(self, x: Float[Array, "n 3"]) -> Float[Array, " pairs"]:
        """Return the distances in order: equal also for mirror images and atoms in another order."""
        return jnp.sort(jnp.sqrt(self.squares(x)))

    def predictions(self) -> dict[str, Any]:
        """Return how many minima and transition states are known, and the lowest energy, of 4 to 8 atoms."""
        if self.num_atoms not in KNOWN:
            return {"regime": "known from 4 to 8 atoms"}
        minima, transition_states = KNOWN[self.num_atoms]
        lowest = {"lowest minimum": LOWEST[self.num_atoms]}
        return {"minima": minima, "transition_states": transition_states, "energies": lowest}
