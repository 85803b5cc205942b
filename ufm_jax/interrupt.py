"""Ctrl-C ends a command soon, always, and with the words how to go on: whatever XLA is doing meanwhile.

Python raises KeyboardInterrupt only when its main thread is back from C++, which a compilation keeps for many
seconds; where it falls into a callback it is lost, with a traceback; and an interpreter that shuts down while
XLA's threads compile crashes. So a command raises nothing: a thread of its own learns of the signal and ends
the process. Files are written whole or not at all, and the kernel lets go of locks, so nothing needs the
interpreter's own end. Only what must be undone elsewhere (a cluster's jobs) is given time: `orderly`.
"""

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE = 2.0  # seconds that a file which is being written has to be whole
ORDERLY_GRACE = 20.0  # seconds that `orderly` work has to be undone
INTERRUPTED = 130  # exit status, as shells have it

whole = threading.RLock()  # held while a file is written: the process does not end in the middle


class _State:
    """What the watching thread and the command tell each other."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()
        self.orderly = False
        self.said = False
        self.lock = threading.Lock()


_state = _State()


def say_how_to_go_on(words: list[str]) -> None:
    """Say on standard error that the command was stopped, and the command that goes on; once."""
    with _state.lock:
        if not _state.said:
            _state.said = True
            again = shlex.join(["ufm", *words])
            line = f"ufm: stopped; what is finished is kept, the same command goes on: {again}"
            print(line, file=sys.stderr, flush=True)


@contextmanager
def orderly() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt in here, and give what must be undone `ORDERLY_GRACE` seconds."""
    _state.orderly = True
    try:
        yield
    finally:
        _state.orderly = False


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if there was a SIGINT: for loops, as one that falls into a callback is lost."""
    if _state.interrupted.is_set():
        raise KeyboardInterrupt


def run_command(command: Callable[[], None]) -> NoReturn:
    """Run a command and end the process: with its status, or with 130 on SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a background job
        ours, kernels = socket.socketpair()
        kernels.setblocking(False)
        threading.Thread(target=_watch, args=(ours,), daemon=True).start()
        signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, _on_signal)
    try:
        command()
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        _end(error.code if isinstance(error.code, int) else 0 if error.code is None else 1)
    except KeyboardInterrupt:
        say_how_to_go_on(sys.argv[1:])
        _end(INTERRUPTED)
    _end(0)


def _on_signal(number: int, frame: object) -> None:
    if _state.orderly and not _state.interrupted.is_set():
        raise KeyboardInterrupt


def _watch(ours: socket.socket) -> None:
    """Wait for a SIGINT, then end the process; `orderly` work is given time, until a second one."""
    while signal.SIGINT not in ours.recv(64):
        pass
    if _state.orderly:
        # The main thread's handler comes first: it raises where this event is not yet set.
        threading.Timer(0.5, _state.interrupted.set).start()
        ours.settimeout(ORDERLY_GRACE)
        try:
            while signal.SIGINT not in ours.recv(64):
                pass
        except TimeoutError:
            pass
    _state.interrupted.set()
    say_how_to_go_on(sys.argv[1:])
    whole.acquire(timeout=GRACE)
    _end(INTERRUPTED)


def _end(status: int) -> NoReturn:
    if _state.interrupted.is_set():  # the command came to its end meanwhile
        say_how_to_go_on(sys.argv[1:])
        status = INTERRUPTED
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(status)
