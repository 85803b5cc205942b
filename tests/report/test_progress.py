"""Progress shows rate, verdicts and time left, on a terminal and in plain lines, however quick the run."""

import io
import re
import sys
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from conftest import make

from ufm_jax.landscape.census import begin
from ufm_jax.report import progress
from ufm_jax.report.progress import Reporter, Steps, describe, duration, measured_rate

VERDICTS = Counter({"GLOBAL_MINIMUM": 30, "STRICT_SADDLE": 9, "DEGENERATE": 1, "UNDECIDED": 2})
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_rate_is_that_of_the_samples():
    assert measured_rate([(1.0, 10), (2.0, 25), (3.0, 30)]) == 10.0
    assert measured_rate([(1.0, 10)]) is None
    assert measured_rate([(1.0, 10), (1.0, 20)]) is None  # no time has passed
    assert measured_rate([(1.0, 10), (2.0, 10)]) is None


def test_a_line_names_rate_time_left_and_every_verdict():
    line = describe(42, 142, 10.0, VERDICTS)
    assert line.startswith("10 starts/s, 10 s left, ")
    assert all(f"{name} {count}" in line for name, count in VERDICTS.items())
    assert "rate not known yet" in describe(0, 1, None, Counter())


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (3725.0, "1 h 02 min")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_resumed_run_begins_where_it_stands_and_counts_its_own_rows_alone(clock, capsys):
    reporter = Reporter(1000, "run", already=800)
    clock.now += 10.0
    reporter(50, VERDICTS)
    reporter._log()
    assert "run: 850/1000 5 starts/s, 30 s left" in capsys.readouterr().err


def test_the_rate_forgets_the_compilation(clock):
    reporter = Reporter(10_000, "run")
    clock.now += 60.0  # compiling
    for done in range(100, 4001, 100):
        clock.now += 1.0
        reporter(done, VERDICTS)
    assert reporter.rate == pytest.approx(100.0)


def test_a_run_that_takes_no_time_says_what_it_did(clock, capsys):
    with Reporter(5, "run") as reporter:
        reporter(5, Counter(GLOBAL_MINIMUM=5))
    assert capsys.readouterr().err == "run: 5/5 finished after 0 s, GLOBAL_MINIMUM 5\n"


def test_nothing_to_do_and_a_failure_are_said(capsys):
    with Reporter(0, "run"):
        pass
    with suppress(OSError), Reporter(9, "run") as reporter:
        reporter(3, VERDICTS)
        raise OSError("disk full")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "run: 0/0 finished after 0 s"
    assert second.startswith("run: 3/9 stopped after")


def test_lines_come_without_a_call_and_hold_no_control_characters(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.01)
    with Reporter(9, "run") as reporter:
        for _ in range(200):
            if reporter.ended.wait(0.02) or "compiling" in (said := capsys.readouterr().err):
                break
        reporter(3, VERDICTS)
        reporter.ended.wait(0.2)
    assert "run: 0/9 compiling, no row done yet" in said
    said += capsys.readouterr().err
    assert "run: 3/9" in said
    assert all(f"{name} {count}" in said for name, count in VERDICTS.items())
    assert not CONTROL.search(said)


def test_a_terminal_shows_the_same_three_things(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with Reporter(1000, "run", already=400) as reporter:
        reporter.began -= 10.0
        reporter.samples[0] = (reporter.began, 400)
        reporter(100, VERDICTS)
    shown = screen.getvalue()
    assert " 400/1000" in shown
    assert " 500/1000" in shown
    assert re.search(r"[\d.]+ starts/s, \d+ s left", shown)
    flat = " ".join(re.sub(r"\x1b\[[\d;?]*\w", "", shown).split())  # lines are wrapped at 80 columns
    assert all(f"{name} {count}" in flat for name, count in VERDICTS.items())


def test_a_census_says_starts_a_second_and_verdicts(clock, capsys):
    state = begin(make((2, 2, 2), 2))
    codes = np.array([0.0, 2.0, 2.0])
    tell = progress.census_progress("census")
    for starts in (5000, 5300, 5400, 6000):  # resumed: the rate counts the starts of this process
        clock.now += 3.0
        tell(state._replace(num_starts=starts, hits=np.ones(3), evidence={"verdict": codes}))
    compiling, first, last = capsys.readouterr().err.splitlines()
    assert compiling == "census: compiling; 5000 starts done before"
    assert "3 orbits from 5300 starts, 100 starts/s, the last" in first
    assert "6000 starts, 111 starts/s" in last
    assert last.endswith("STRICT_SADDLE 2 GLOBAL_MINIMUM 1")


def test_steps_are_told_at_once_and_at_the_end(capsys):
    with Steps("proving") as listen:
        listen(0, 3, "0 proved")
        listen(1, 3, "1 proved")  # too soon for a line
        listen(3, 3, "3 proved")
    assert capsys.readouterr().err.splitlines() == ["proving: 0/3 0 proved", "proving: 3/3 3 proved"]
