"""What every experiment shares: its command line, scales, figure style, and figures with their sidecars.

`cli` gives each experiment two flags more than its own: `--redraw` draws the figures of its last run at that
scale again, and `--update` writes into the tracked `figures/`. Without it results go to `runs/SCALE/`.
"""

import argparse
import pickle
import re
import resource
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import ufm_jax  # noqa: F401  (before the first computation: sets XLA's CPU workers)

# isort: split
import jax
import matplotlib
import matplotlib.pyplot as plt
import tyro

from ufm_jax.devices import use_all_cores
from ufm_jax.files import provenance, write_file, write_json
from ufm_jax.interrupt import INTERRUPTED
from ufm_jax.report.style import COLOURS, MARKERS, STYLE

Scale = Literal["smoke", "default", "paper"]
FIGURES, RUNS = Path("figures"), Path("runs")  # the first is tracked
__all__ = [
    "COLOURS",
    "FIGURES",
    "MARKERS",
    "STYLE",
    "Scale",
    "cli",
    "folder",
    "peak_mib",
    "record",
    "save",
    "set_up",
]

_updating: ContextVar[bool] = ContextVar("updating", default=False)
FLAGS = (
    "--update: write into the tracked figures/, not into runs/SCALE/. --redraw: draw the figures of the last "
    "run at this scale again, compute nothing; with --update they and their .json go to figures/ (tables, "
    ".csv, stay as they are)."
)
NAMED = re.compile(r"[a-z_.]+: ")  # how errors begin that tell a user what to change


def cli(command: Callable[..., Any]) -> Any:
    """Return tyro's `cli` of an experiment's command, or of a record of its flags; heed `FLAGS` before.

    `--redraw` ends the process when it has drawn. An error that names a flag or an argument is said in a line
    without a traceback, and the exit status is 1; after Ctrl-C it is 130.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--redraw", action="store_true")
    told, rest = parser.parse_known_args()
    parser.add_argument("--scale", default="default")
    _updating.set(told.update)
    if told.redraw:
        set_up()
        sys.exit(redraw(parser.parse_known_args()[0].scale))
    name = _experiment() or "experiment"
    try:
        return tyro.cli(command, args=rest, description=f"{command.__doc__}\n\n{FLAGS}")
    except (ValueError, FloatingPointError) as error:
        if not NAMED.match(str(error)):  # a fault of the code's, whose place has to be known
            raise
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        goes_on = "the same command goes on from its checkpoints, if it keeps any"
        print(f"\n{name}: interrupted; {goes_on}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def set_up() -> None:
    """Turn on float64, use all cores, and draw without a display."""
    jax.config.update("jax_enable_x64", True)
    use_all_cores()
    matplotlib.use("Agg")


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    On Linux of this program alone: `getrusage` counts what the process held that started it, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def folder(scale: Scale) -> Path:
    """Return where results of this scale go, made if need be: runs/SCALE/, or figures/ where so told.

    Smoke runs never go to figures/.
    """
    path = FIGURES if _updating.get() and scale != "smoke" else RUNS / scale
    path.mkdir(parents=True, exist_ok=True)
    return path


def record(name: str, scale: Scale, made_by: Any = None, **facts: Any) -> Path:
    """Write NAME.json: command, scale, the facts, and where they come from (versions, device, dtype).

    They come from this process, or from the one that says `made_by`.
    """
    command = f"python -m {_experiment() or name} --scale {scale}"
    path = folder(scale) / f"{name}.json"
    write_json(path, {"command": command, "scale": scale, **facts, **(made_by or provenance())})
    return path


def save(draw: Callable[[], plt.Figure], name: str, scale: Scale, made_by: Any = None, **facts: Any) -> None:
    """Write what `draw` draws in the style as NAME.pdf and NAME.png, and their `record`, into `folder`.

    `draw` is a `functools.partial` of a function of a module and its results, which are kept for `--redraw`.
    """
    made_by = made_by or provenance()
    with plt.rc_context(STYLE):
        figure = draw()
        for kind in ("pdf", "png"):
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(folder(scale) / f"{name}.{kind}", metadata=metadata)
        plt.close(figure)
    record(name, scale, made_by, **facts)
    print(f"drew {folder(scale) / name}.pdf, .png, .json{_why_not(scale)}")
    _keep(name, scale, (draw, name, scale, made_by, facts))


def _why_not(scale: Scale) -> str:
    """Say why figures/ stays as it is, if that may surprise."""
    if scale == "smoke":
        return " (smoke runs never go to figures/)" if _updating.get() else ""
    return "" if _updating.get() else f" ({FIGURES}/ stays as it is: --update, or --redraw --update)"


def redraw(scale: Scale) -> str | None:
    """Draw the figures of this experiment's last run at a scale again; return what is wrong, if anything."""
    files = sorted(_kept(scale).glob("*.pickle"))
    for file in files:
        try:
            draw, name, scale, made_by, facts = pickle.loads(file.read_bytes())
        except (AttributeError, ImportError, TypeError, ValueError) as error:  # of a version before
            return f"cannot draw {file} again, run the experiment: {error}"
        save(draw, name, scale, made_by, **facts)
    return None if files else f"nothing is kept in {_kept(scale)}/ to be drawn again: run the experiment"


def _kept(scale: Scale) -> Path:
    """Return where this experiment keeps what its figures of a scale were drawn from."""
    return RUNS / scale / "redraw" / (_experiment() or "unnamed")


def _experiment() -> str:
    """Return the module that Python was asked to run, or nothing."""
    module = sys.modules["__main__"].__spec__
    return module.name.removesuffix(".__main__") if module else ""


def _keep(name: str, scale: Scale, content: Any) -> None:
    """Keep what a figure was drawn from; where it cannot be pickled, say so: the figure is there."""
    try:
        held = pickle.dumps(content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        print(f"{name} cannot be drawn again: {error}")
        return
    _kept(scale).mkdir(parents=True, exist_ok=True)
    write_file(_kept(scale) / f"{name}.pickle", lambda file: file.write(held))
