"""A run as one HTML page that needs nothing else: `write` puts DIR/report.html beside what it tells of."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from ufm_jax.files import write_file
from ufm_jax.report.census_page import census_page
from ufm_jax.report.orbit_table import PICTURED
from ufm_jax.report.sweep_page import sweep_page
from ufm_jax.runs.folder import configuration, manifest
from ufm_jax.runs.orbits import Config, atlas, results
from ufm_jax.runs.plan import CensusPlan


def write(out: Path) -> Path:
    """Write the report of the sweep or census in the folder `out`, finished or not; return its path.

    Raises:
        ValueError: naming `out`, if it holds no run, or one with no finished row, or cannot be read.
        OSError: if the page cannot be written.
    """
    config, held = configuration(out), manifest(out)
    if isinstance(config, CensusPlan):
        content = census_page(config, held, *results(config, out), out, _pictures(config, out))
    else:
        content = sweep_page(config, held, out)
    path = out / "report.html"
    write_file(path, lambda file: file.write(content.encode()))
    return path


def _pictures(config: Config, out: Path) -> list[Any]:
    """Return a matrix of each orbit, where the landscape pictures its points; else nothing."""
    with suppress(ValueError):  # no orbits yet
        held = atlas(config, out)
        return [held.landscape.picture(orbit.x) for orbit, _ in zip(held, range(PICTURED), strict=False)]
    return []
