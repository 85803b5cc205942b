"""What every experiment shares: scales, JAX in float64, figure style, and figures with their sidecars."""

import sys
from pathlib import Path
from typing import Any, Literal

import ufm_jax  # noqa: F401  (before the first computation: sets XLA's CPU workers)

# isort: split
import jax
import matplotlib
import matplotlib.pyplot as plt

from ufm_jax.devices import use_all_cores
from ufm_jax.files import provenance, write_json
from ufm_jax.report.style import COLOURS, MARKERS, STYLE

Scale = Literal["smoke", "default", "paper"]
FIGURES = Path("figures")
__all__ = ["COLOURS", "FIGURES", "MARKERS", "STYLE", "Scale", "folder", "record", "save", "set_up"]


def set_up() -> None:
    """Turn on float64, use all cores, and draw without a display."""
    jax.config.update("jax_enable_x64", True)
    use_all_cores()
    matplotlib.use("Agg")


def folder(scale: Scale) -> Path:
    """Return where results of this scale go, made if need be: figures/; for smoke, runs/smoke/."""
    path = FIGURES if scale != "smoke" else Path("runs/smoke")
    path.mkdir(parents=True, exist_ok=True)
    return path


def record(name: str, scale: Scale, made_by: Any = None, **facts: Any) -> Path:
    """Write NAME.json: command, scale, the facts, and where they come from (versions, device, dtype).

    They come from this process, or from the one that says `made_by`.
    """
    module = sys.modules["__main__"].__spec__
    of = module.name.removesuffix(".__main__") if module else name
    command = f"python -m {of} --scale {scale}"
    path = folder(scale) / f"{name}.json"
    write_json(path, {"command": command, "scale": scale, **facts, **(made_by or provenance())})
    return path


def save(figure: plt.Figure, name: str, scale: Scale, made_by: Any = None, **facts: Any) -> None:
    """Write NAME.pdf, NAME.png and their `record` into `folder(scale)`."""
    for kind in ("pdf", "png"):
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(folder(scale) / f"{name}.{kind}", metadata=metadata)
    plt.close(figure)
    record(name, scale, made_by, **facts)
    print(f"drew {folder(scale) / name}.pdf, .png, .json")
