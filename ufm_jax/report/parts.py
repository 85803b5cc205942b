"""What the pages of sweeps and censuses share: their frame, their main figure and where they come from."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.objects import Spec, assignments
from ufm_jax.report import figures
from ufm_jax.report.markup import code, contents, facts, figure, page, paragraph, section
from ufm_jax.report.progress import duration
from ufm_jax.runs.folder import Config
from ufm_jax.runs.plan import LandscapeCensusConfig, LandscapeConfig, loss_of, short_name

SIGNS = {"decay_w": "λ_W", "decay_h": "λ_H", "decay_b": "λ_b"}
LONG = 40  # characters of a parameter that a title shows


def frame(kind: str, config: Config, lead: list[str], sections: dict[str, str]) -> str:
    """Return a page on a run: its title, what leads, a table of contents, and the sections."""
    body = [section(name, content) for name, content in sections.items()]
    return page(f"{kind}: {_title(config)}", [*lead, contents(sections), *body])


def _title(config: Config) -> str:
    if isinstance(config, LandscapeConfig | LandscapeCensusConfig):
        grid = config.grid if isinstance(config, LandscapeConfig) else ()
        return ", ".join(
            [_called(config.landscape.name, config.landscape), *(_ranged(*pair) for pair in grid)]
        )
    counts, loss = sorted(set(config.counts)), loss_of(config)
    size = f"n = {counts[0]}" if len(counts) == 1 else f"n_k = {counts[0]} to {counts[-1]}"
    decays = [(SIGNS[name], getattr(config, name)) for name in SIGNS if config.bias or name != "decay_b"]
    told = (_ranged(sign, value if isinstance(value, tuple) else (value,)) for sign, value in decays)
    sizes = f"K = {len(config.counts)}, {size}, d = {config.dim}"
    return ", ".join([_called(short_name(loss), loss), sizes, *told])


def _ranged(name: str, values: Sequence[float]) -> str:
    """Return a name and its value, or from where to where its values go."""
    low, high = min(values), max(values)
    return f"{name} = {low:g}" if low == high else f"{name} = {low:g} to {high:g}"


def _called(name: str, spec: Spec) -> str:
    """Return a name and parameters, of a file without the folder; long ones are left out."""
    where, colon, inside = name.rpartition(":")
    short = [text for text in assignments(spec.settings) if len(text) <= LONG]
    return " ".join([f"{Path(where).name}{colon}{inside}", *short])


def index_figure(points: figures.Points, what: str, note: str = "") -> str:
    """Return the figure of loss against Morse index; `what` names the entries, `note` ends the caption."""
    counted = np.isfinite(points.morse) & np.isfinite(points.loss)
    if not counted.any():
        return paragraph(f"Loss against Morse index: no {what} whose index was counted.")
    drawn = points._replace(**{name: getattr(points, name)[counted] for name in points._fields[:-1]})
    index, loss = drawn.morse, drawn.loss
    levels = len(np.unique(np.round(loss, 9)))
    return figure(
        figures.data_uri(figures.draw_index, drawn, figures.panel()),
        f"Loss against Morse index: {counted.sum()} {what}, index {index.min():g} to {index.max():g}, "
        f"loss {loss.min():.6g} to {loss.max():.6g}.",
        f"Loss against Morse index of {counted.sum()} {what}, {levels} distinct losses (to nine decimals); "
        f"colour: {'rank of W' if drawn.colour == 'rank' else drawn.colour}; marker: verdict. {note}",
    )


def when(out: Path) -> str:
    """Return when a run was begun and last written to, as its files say, and how long that is."""
    begun = (out / "manifest.json").stat().st_mtime
    files = (path for path in (*out.glob("points/*.parquet"), out / "orbits.npz") if path.is_file())
    last = max((path.stat().st_mtime for path in files), default=begun)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun))
    return (
        f"Begun {day}; {duration(max(last - begun, 0.0))} until its last rows were written, pauses included."
    )


def origin(manifest: dict[str, Any], again: str) -> dict[str, str]:
    """Configuration, versions and device, and the command."""
    where = {k: v for k, v in manifest.items() if k not in ("config", "versions")} | manifest.get(
        "versions", {}
    )
    made = [(name, _listed(value)) for name, value in manifest["config"].items()]
    return {
        "Configuration": facts("As in manifest.json", made),
        "Versions and device": facts("Where the run was begun", where.items()),
        "How to reproduce": code(again)
        + paragraph(
            "The same command resumes this folder; with another --out it makes the run anew. A row depends "
            "on the seed, its start number, target and decays alone, up to rounding."
        ),
    }


def tally(verdicts: Iterable[str]) -> list[str]:
    """Return how many there are of each verdict, the most frequent first."""
    return [f"{count} {name}" for name, count in Counter(verdicts).most_common()]


def precise(loss: float | None) -> str | None:
    """Return a loss to ten digits; None where there is none."""
    return None if loss is None or np.isnan(loss) else f"{loss:.10g}"


def _listed(value: Any) -> Any:
    """Return a list as text; of equal entries, one and their number."""
    if not isinstance(value, list):
        return value
    if len(value) > 3 and len(set(map(str, value))) == 1:
        return f"{value[0]} ({len(value)} times)"
    return ", ".join(map(str, value))
