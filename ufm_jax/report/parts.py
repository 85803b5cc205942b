"""What the pages of sweeps and censuses share: their frame, their main figure and where they come from."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.objects import Spec, assignments
from ufm_jax.report import figures
from ufm_jax.report.markup import code, contents, facts, figure, page, paragraph, section
from ufm_jax.runs.folder import Config
from ufm_jax.runs.plan import LandscapeCensusConfig, LandscapeConfig, loss_of, short_name

LONG = 40  # characters of a parameter that a title shows


def frame(kind: str, config: Config, lead: list[str], sections: dict[str, str]) -> str:
    """Return a page on a run: its title, what leads, a table of contents, and the sections."""
    body = [section(name, content) for name, content in sections.items()]
    return page(f"{kind}: {_title(config)}", [*lead, contents(sections), *body])


def _title(config: Config) -> str:
    if isinstance(config, LandscapeConfig | LandscapeCensusConfig):
        return _called(config.landscape.name, config.landscape)
    counts, loss = sorted(set(config.counts)), loss_of(config)
    size = f"n = {counts[0]}" if len(counts) == 1 else f"n_k = {counts[0]} to {counts[-1]}"
    return f"{_called(short_name(loss), loss)}, K = {len(config.counts)}, {size}, d = {config.dim}"


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
