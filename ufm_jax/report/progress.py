"""Progress: a bar on a terminal, a log line every few seconds elsewhere, and always for a census."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ufm_jax.landscape.census import Census

LOG_EVERY = 5.0  # seconds between log lines


class Reporter:
    """Call with (rows done, verdicts so far); use as a context manager. Writes to standard error."""

    def __init__(self, total: int, name: str) -> None:
        self.total, self.name = total, name
        self.began = self.logged = time.monotonic()
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=total, note="compiling")

    def __enter__(self) -> "Reporter":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, done: int, verdicts: Counter) -> None:
        now = time.monotonic()
        rate = done / (now - self.began)
        note = f"{rate:.0f}/s " + " ".join(f"{name} {count}" for name, count in verdicts.most_common(3))
        self.bar.update(self.task, completed=done, note=note)
        if not self.console.is_terminal and (now - self.logged > LOG_EVERY):
            self.logged = now
            left = (self.total - done) / rate
            print(f"{self.name}: {done}/{self.total} {note}, {left:.0f} s left", file=sys.stderr, flush=True)


def census_progress(name: str = "ufm census") -> Callable[["Census"], None]:
    """Build a listener that logs a census when `LOG_EVERY` seconds have passed; writes to standard error."""
    logged = began = time.monotonic()

    def listen(state: "Census") -> None:
        nonlocal logged
        if (now := time.monotonic()) - logged > LOG_EVERY:
            logged = now
            print(
                f"{name}: {len(state.hits)} orbits from {state.num_starts} starts, the last new one "
                f"within {state.last_new}; {now - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    return listen
