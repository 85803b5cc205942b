"""Ctrl-C ends a command soon, always, and with the words how to go on: whatever XLA is doing meanwhile.

Python raises KeyboardInterrupt only when its main thread is back from C++, which a compilation keeps for many
seconds; the exception is lost where it falls into a callback; and an interpreter that shuts down while XLA's
threads compile crashes. So a thread of its own learns of the signal, grants the command some time to end in
order, and ends the process itself otherwise. Files are written whole or not at all, and the kernel lets go of
locks: nothing needs the interpreter's own end.
"""

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GRACE = 2.0  # seconds that a command has to end in order
CLUSTER_GRACE = 20.0  # and one that has to cancel jobs
INTERRUPTED = 130  # exit status, as shells have it


class _State:
    """What the watching thread and the command tell each other."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()
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
def ending_soon() -> Iterator[None]:
    """Run a command so that SIGINT ends the process with status 130, in order if it can be within `GRACE`."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in a background job
        yield
        return
    ours, kernels = socket.socketpair()
    kernels.setblocking(False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except KeyboardInterrupt:
        say_how_to_go_on(sys.argv[1:])
        _end()
    except SystemExit:
        if _state.interrupted.is_set():
            _end()
        raise
    finally:
        signal.set_wakeup_fd(-1)
    if _state.interrupted.is_set():  # the exception was lost, and the command came to its end all the same
        say_how_to_go_on(sys.argv[1:])
        _end()


def _watch(ours: socket.socket) -> None:
    """Wait for a SIGINT, then for the process to end; a second one has no patience."""
    while signal.SIGINT not in ours.recv(64):
        pass
    _state.interrupted.set()
    ours.settimeout(CLUSTER_GRACE if "--cluster" in " ".join(sys.argv) else GRACE)
    try:
        while signal.SIGINT not in ours.recv(64):
            pass
    except TimeoutError:
        pass
    say_how_to_go_on(sys.argv[1:])
    _end()


def _end() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(INTERRUPTED)
