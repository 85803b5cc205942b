"""One door to what a folder holds."""

from pathlib import Path

import pyarrow as pa

from ufm_jax.runs import orbits, store
from ufm_jax.runs.folder import configuration
from ufm_jax.runs.plan import CensusConfig


def load(out: Path | str) -> pa.Table | orbits.Atlas:
    """Return the finished rows of the sweep (`store.load`) or the orbits of the census (`Atlas`) in a folder.

    Raises:
        ValueError: naming `out`, if it holds no run, nothing finished, or what cannot be read or is not its
            own; of a census, if 64-bit floating point is off.
    """
    out = Path(out)
    config = configuration(out)
    return orbits.atlas(config, out) if isinstance(config, CensusConfig) else store.load(out)
