"""Progress on standard error: a bar on a terminal, a plain line every few seconds elsewhere.

Both say how many rows are done, starts per second, the verdicts so far and the time left. A thread keeps
speaking while XLA compiles, so that nothing is silent for longer than `LOG_EVERY`.
"""

import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from ufm_jax.landscape.orbits import Census

LOG_EVERY = 5.0  # seconds between log lines
WINDOW = 30.0  # seconds over which the rate is measured: the compilation before them is forgotten


def measured_rate(samples: Iterable[tuple[float, int]]) -> float | None:
    """Return rows per second between the first and the last (time, rows done), None where unknown."""
    (first, before), *_, (last, after) = [*samples, *samples]  # twice, as there may be one alone
    return (after - before) / (last - first) if last > first and after > before else None


def describe(done: int, total: int, rate: float | None, verdicts: Counter) -> str:
    """Return starts per second, time left and verdicts so far, as one line."""
    left = "" if rate is None else f", {duration((total - done) / rate)} left"
    speed = "rate not known yet" if rate is None else f"{rate:.3g} starts/s"
    return ", ".join([speed + left, counted(verdicts)] if verdicts else [speed + left])


def counted(verdicts: Counter) -> str:
    """Return the verdicts and their counts, the most frequent first."""
    return " ".join(f"{name} {count}" for name, count in verdicts.most_common())


def duration(seconds: float) -> str:
    """Return a time as 12 s, 3 min 05 s or 2 h 07 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"


class Reporter:
    """Call with (rows done by this process, verdicts so far); use as a context manager.

    `total` counts all rows of the run, `already` those that an earlier process has done: the bar begins
    there, and the rate leaves them out.
    """

    def __init__(self, total: int, name: str, *, already: int = 0) -> None:
        self.total, self.name, self.already = total, name, already
        self.done, self.verdicts = already, Counter[str]()
        self.began = time.monotonic()
        self.samples = deque([(self.began, already)])
        self.rate: float | None = None
        self.console = Console(stderr=True)
        self.on_terminal = sys.stderr.isatty() and not self.console.is_dumb_terminal
        self.bar: _Bar | None = None
        self.ended = threading.Event()
        self.speaker = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> "Reporter":
        if self.on_terminal:
            self.bar = _Bar(self.console, self.name, self.total, self.already, self._note)
            self.bar.start()
        else:
            self.speaker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        if self.bar is not None:
            self.bar.stop()
        else:
            self.speaker.join()
            self._log("finished" if kind is None else "stopped")

    def __call__(self, done: int, verdicts: Counter) -> None:
        self.done, self.verdicts = self.already + done, Counter(verdicts)
        now = time.monotonic()
        self.samples.append((now, self.done))
        while len(self.samples) > 2 and now - self.samples[0][0] > WINDOW:
            self.samples.popleft()
        self.rate = measured_rate(self.samples)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)

    def _note(self) -> str:
        if self.done == self.already:
            return "compiling, no row done yet"
        return describe(self.done, self.total, self.rate, self.verdicts)

    def _log(self, how: str = "") -> None:
        """Print one line; the last one gives the mean rate of the whole run."""
        seconds, mine = time.monotonic() - self.began, self.done - self.already
        if how:
            mean = f", {mine / seconds:.3g} starts/s" if mine and seconds > 0 else ""
            note = f"{how} after {duration(seconds)}{mean}, {counted(self.verdicts)}".removesuffix(", ")
        else:
            note = f"{self._note()}; {duration(seconds)} so far"
        print(f"{self.name}: {self.done}/{self.total} {note}", file=sys.stderr, flush=True)

    def _speak(self) -> None:
        while not self.ended.wait(LOG_EVERY):
            self._log()


class Steps:
    """Call with (steps done, of how many, what to say); use as a context manager. For proofs.

    A bar on a terminal, from the first call on; elsewhere a line at once and every `LOG_EVERY` seconds.
    """

    def __init__(self, name: str) -> None:
        self.name, self.note, self.logged = name, "", -math.inf
        self.console = Console(stderr=True)
        self.on_terminal = sys.stderr.isatty() and not self.console.is_dumb_terminal
        self.bar: _Bar | None = None

    def __enter__(self) -> "Steps":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.note, now = note, time.monotonic()
        if not self.on_terminal:
            if now - self.logged >= LOG_EVERY or done == total:
                self.logged = now
                print(f"{self.name}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)
            return
        if self.bar is None:
            self.bar = _Bar(self.console, self.name, total, 0, lambda: self.note)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=done)


class _Bar(Progress):
    """A bar, and below it a line of its own for what does not fit beside it."""

    def __init__(self, console: Console, name: str, total: int, already: int, note: Callable[[], str]):
        self.note = note
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=console)
        self.add_task(name, total=total, completed=already)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.note(), style="dim")


def census_progress(name: str = "ufm census") -> Callable[["Census"], None]:
    """Build a listener that logs a census every `LOG_EVERY` seconds, and at once; writes to standard error.

    It is first called before the first round, which compiles.
    """
    logged: float | None = None
    first = (0.0, 0)  # time and starts when first called: an earlier process may have done some

    def listen(state: "Census") -> None:
        nonlocal logged, first
        now = time.monotonic()
        if logged is None:
            logged, first = -math.inf, (now, state.num_starts)
            print(f"{name}: compiling; {state.num_starts} starts done before", file=sys.stderr, flush=True)
            return
        if now - logged < LOG_EVERY:
            return
        logged = now
        rate = measured_rate([first, (now, state.num_starts)])
        speed = "" if rate is None else f", {rate:.3g} starts/s"
        print(
            f"{name}: {len(state.hits)} orbits from {state.num_starts} starts{speed}, the last new one "
            f"within {state.last_new}; {_verdict_names(state.evidence['verdict'].tolist())}",
            file=sys.stderr,
            flush=True,
        )

    return listen


def _verdict_names(codes: Iterable[int | float]) -> str:
    """Return counts of verdicts given by their codes."""
    from ufm_jax.landscape.verdict import Verdict

    return counted(Counter(Verdict(int(code)).name for code in codes))
