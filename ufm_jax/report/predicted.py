"""What theory predicted, beside what a sweep found."""

import numpy as np
import pyarrow as pa

from ufm_jax.report.table import floats
from ufm_jax.runs.plan import LandscapeConfig, SweepConfig
from ufm_jax.runs.recipe import landscape_named

# A row's value is a predicted one, relative to it: searches come down to ‖∇f‖ of 1e-10 in units, which leaves
# less of f.
MET = 1e-9
SHOWN = 12  # values listed


def predicted(config: SweepConfig | LandscapeConfig, table: pa.Table) -> str:
    """Return lines on f* and the critical values that theory knows, with rows at each, or nothing.

    Critical values only of a landscape other than the unconstrained feature model, at one setting.
    """
    lines, loss = [], floats(table["loss"])
    known = floats(table["closed_form_loss"])
    if np.isfinite(known).any():
        above = loss - known
        low, high = np.nanmin(known), np.nanmax(known)
        value = f"{low:.8g}" if low == high else f"{low:.8g}..{high:.8g}"
        met = int(np.sum(np.abs(above) <= MET * _size(config, known)))
        lines.append(
            f"closed form f* = {value}: met by {met} rows, lowest found − f* = {np.nanmin(above):.1e}"
        )
    for name, level in _critical_values(config)[:SHOWN]:
        met = int(np.sum(np.abs(loss - level) <= MET * _size(config, np.full(1, level))))
        lines.append(f"predicted {level:.8g}  {name}: met by {met} rows")
    return "\n".join(lines)


def _size(config: SweepConfig | LandscapeConfig, value: np.ndarray) -> np.ndarray:
    """Return a size of f: of the unconstrained feature model, whose f shrinks with its decays, f itself."""
    return np.abs(value) + (0.0 if isinstance(config, SweepConfig) else 1.0)


def _critical_values(config: SweepConfig | LandscapeConfig) -> list[tuple[str, float]]:
    if not isinstance(config, LandscapeConfig) or config.grid:
        return []
    try:
        said = landscape_named(config.landscape).predictions()
    except ValueError:  # where a landscape is out of its theory's reach, a finished sweep is no less good
        return []
    return list((said.get("critical_values") or {}).items())
