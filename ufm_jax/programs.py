"""Compiled programs kept between commands, in JAX's own cache on disk; for the command line alone to say.

JAX's key of an entry covers the program, jaxlib's version, the compiler's options and `XLA_FLAGS`, but of a
processor hardly more than that it is one: a folder that two machines share would give one the other's
instructions. So programs lie in a folder for each digest of all that decides what code comes out, and what
was used longest ago is deleted when the folders are too large together. (JAX's own bound on size needs a
package beside it, and a lock that a killed process may leave.)
"""

import hashlib
import os
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jaxlib

import ufm_jax
from ufm_jax.numerics import lanes
from ufm_jax.numerics.kept import Kept, source

LARGEST = 2**28  # bytes of all programs: a command has one or two MB of them
# Lines of /proc/cpuinfo, on Intel's and AMD's processors and on ARM's.
TELLING: tuple[str, ...] = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
TELLING += ("Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")
MARK = "Error (reading|writing) persistent compilation cache entry for '(.*?)'"  # as JAX warns


def keep_programs(wanted: bool = True) -> None:
    """Have JAX keep compiled programs on disk and find them there: under `folder()`, small ones, too.

    The user's `JAX_COMPILATION_CACHE_DIR` stands as it is. Where the folder cannot be written one line on
    standard error says so, and nothing is kept. Entries that cannot be read are compiled and written again.
    Not `wanted`: no program is read or written, whatever the environment says.
    """
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
    lanes.keep(Kept(None))  # this process's at least, for all its threads
    given = jax.config.values
    if given["jax_compilation_cache_dir"] or not given["jax_enable_compilation_cache"]:
        return
    try:
        kept = folder()
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_room(kept.parent)
        if not os.access(kept, os.W_OK | os.X_OK):
            raise PermissionError(f"cannot write there: {kept}")
    except OSError as error:
        print(f"ufm: compiled programs are not kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(kept))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _mend(kept)
    lanes.keep(Kept(kept))


def folder() -> Path:
    """Return where this machine's programs belong: $XDG_CACHE_HOME/ufm_jax/DIGEST, by default in ~/.cache.

    Raises:
        OSError: if neither says an absolute path, as in a container whose user has no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # any other is ignored, as the standard has it
        return Path(chosen) / "ufm_jax" / digest()
    home = os.environ.get("HOME", os.path.expanduser("~"))  # an empty one would be expanded to /
    if not os.path.isabs(home):
        raise OSError(f"no home folder is known (HOME is {home!r}); XDG_CACHE_HOME=/a/folder says where")
    return Path(home) / ".cache" / "ufm_jax" / digest()


def digest() -> str:
    """Return a name for all that decides what code comes of a program, and whether it runs here.

    The source is in it because `Kept` cannot store what JAX's cache beside it has from another source.
    """
    made_by = (ufm_jax.__version__, jax.__version__, jaxlib.__version__, platform.python_version())
    chosen = (os.environ.get(name, "") for name in ("XLA_FLAGS", "PJRT_NPROC", "JAX_PLATFORMS"))
    text = "\n".join([*made_by, *chosen, *_processor(), source()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> tuple[str, ...]:
    """Return the processor's model and instruction sets, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.machine(), platform.processor()
    told = (line for line in lines if line.partition(":")[0].strip() in TELLING)
    return platform.machine(), *sorted(set(told))


def _make_room(base: Path) -> None:
    """Delete the entries used longest ago, until the others are at most half of `LARGEST`."""
    there = []
    for file in base.glob("*/*-cache"):
        with_times = file.stat()
        there.append((max(with_times.st_atime, with_times.st_mtime), with_times.st_size, file))
    size = sum(entry[1] for entry in there)
    if size <= LARGEST:
        return
    for _, bytes_, file in sorted(there):
        file.unlink(missing_ok=True)
        size -= bytes_
        if size <= LARGEST / 2:
            break
    for emptied in base.iterdir():
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def _mend(kept: Path) -> None:
    """Delete entries that JAX cannot read, which it warns of and would leave; say once if it cannot write."""
    show, said = warnings.showwarning, False

    def heard(message: Any, category: Any, *where: Any, **how: Any) -> None:
        nonlocal said
        found = re.search(MARK, str(message))
        if found is None:
            show(message, category, *where, **how)
        elif found[1] == "reading":
            for file in kept.glob(f"{found[2]}-*-cache"):
                file.unlink(missing_ok=True)
        elif not said:
            said = True
            print(f"ufm: compiled programs are not kept: {str(message).splitlines()[0]}", file=sys.stderr)

    warnings.showwarning = heard
    warnings.filterwarnings("always", message=MARK)
