"""This checkout beside another commit of it: a work tree for the time being, and commands run in both."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "ufm_jax"
LIMIT = 900.0  # seconds of one command; the longest of these takes a minute


class Tree(NamedTuple):
    """The files of one commit, and a folder for what its commands write."""

    name: str
    path: Path
    work: Path


class Ending(NamedTuple):
    """How a command ended: what it wrote, and one line on why it failed, empty if it did not."""

    stdout: str
    error: str
    seconds: float


@contextmanager
def trees(root: Path, commit: str) -> Iterator[tuple[Tree, Tree]]:
    """Yield a copy of the checkout's package as it is and a work tree of `commit`; both go whatever happens.

    A copy, so that the checkout may be worked on meanwhile, and nothing is written into it.

    Raises:
        ValueError: naming `with`, if there is no such commit; SystemExit at a signal to terminate.
    """
    asked = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", commit + "^{commit}")
    if asked.returncode:
        raise ValueError(f"with: need a commit of {root}, got {commit!r}")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            here, there = (Path(folder) / name / "tree" for name in ("here", "there"))
            shutil.copytree(root / PACKAGE, here / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
            there.parent.mkdir()
            made = _git(root, "worktree", "add", "--quiet", "--detach", str(there), asked.stdout.strip())
            try:
                if made.returncode:
                    raise ValueError(
                        f"with: git cannot make a work tree of {commit}: {one_line(made.stderr)}"
                    )
                yield Tree("here", here, here.parent), Tree(commit, there, there.parent)
            finally:
                _git(root, "worktree", "remove", "--force", "--force", str(there))
    finally:
        signal.signal(signal.SIGTERM, before)
        _git(root, "worktree", "prune")


def _git(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)


def check(tree: Tree) -> None:
    """Make sure that a tree's commands run its own package, not an installed one.

    Raises:
        ValueError: naming what they would run.
    """
    code = f"import {PACKAGE}; print({PACKAGE}.__file__)"
    (ended,) = side_by_side([(tree, ["-c", code])])
    if ended.error or not Path(ended.stdout.strip()).resolve().is_relative_to(tree.path.resolve()):
        raise ValueError(f"{tree.name}: {ended.error or f'runs {ended.stdout.strip()}'}, not {tree.path}")


def side_by_side(commands: Sequence[tuple[Tree, Sequence[str]]]) -> list[Ending]:
    """Run Python with these arguments in each tree, all at once; none outlives an error or an interrupt."""
    with ExitStack() as stack:
        running = [stack.enter_context(_started(tree, words)) for tree, words in commands]
        return [_ended(*parts) for parts in running]


@contextmanager
def _started(tree: Tree, words: Sequence[str]) -> Iterator[tuple[Any, Any, Any, float]]:
    paths = [str(tree.path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A cache of its own for each, for programs however small: the first run compiles, later ones do not.
        "JAX_COMPILATION_CACHE_DIR": str(tree.work / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=tree.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        try:
            yield process, out, err, time.perf_counter()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _ended(process: Any, out: Any, err: Any, began: float) -> Ending:
    try:
        code = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return Ending("", f"not done after {LIMIT:.0f} s", LIMIT)
    seconds = time.perf_counter() - began
    for file in (out, err):
        file.seek(0)
    return Ending(out.read(), f"status {code}: {one_line(err.read())}" if code else "", seconds)


def one_line(text: str) -> str:
    """Return the line of a failed command's standard error that says why."""
    lines = [line.strip(" \t│╭╮╰╯─") for line in text.splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)]
    telling = [line for line in lines if re.search(r"Error\b|error:|nrecognized|nvalid|ssing", line)]
    return (telling or lines or ["no message"])[-1]
