"""Files that survive a kill, a full disk and a second process, and what made them. POSIX only.

Locks are `flock`s: the kernel lets go of them when their process ends, however it ends, so none is ever
stale. On NFS they hold between machines if the server locks; on a file system without locks (Lustre mounted
without `flock`) nobody is refused. Nothing can be mixed up there either: every file is written under a name
of its own and renamed whole, and two processes with one configuration write the same rows.
"""

import errno
import fcntl
import json
import os
import platform
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import ufm_jax
from ufm_jax.interrupt import whole

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LOCK = ".ufm.lock"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # names that `write_file` gives, and hardly anybody else


def write_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write under a temporary name, flush to disk, rename: the path never holds half a file.

    Raises:
        OSError: naming the path, if it cannot be written (a full disk, say); what it held is still there.
    """
    # Readers of a whole folder (pandas) pass over names that begin with a dot.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with whole:
        try:
            with temporary.open("xb") as file:
                _try_lock(file.fileno())  # while it is held, `remove_stale` leaves the file alone
                write(file)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            _flush_folder(path.parent)
        except OSError as error:
            raise OSError(
                f"out: cannot write {path}: {error.strerror or error}; make room and run the same command "
                "again, what is finished is intact"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which is the file `.ufm.lock` in it.

    Raises:
        ValueError: naming `out`, if another process holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _try_lock(descriptor) is False:
            raise ValueError(f"out: {folder} is in use by {_owner(descriptor)}; wait for it or end it")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # which lets go of the lock; the file stays: removing it would race with others


def _owner(descriptor: int) -> str:
    """Read who holds a lock; who has just taken it writes its name a moment later."""
    for _ in range(20):
        if owner := os.pread(descriptor, 200, 0).decode(errors="replace").strip():
            return owner
        time.sleep(0.05)
    return "another process"


def remove_stale(*folders: Path) -> None:
    """Remove temporaries that killed processes left; one that a live process writes is locked, and stays.

    Only in the folders themselves, and only what has a name that `write_file` gives.
    """
    there = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    for temporary in (file for file in there if _is_temporary(file)):
        try:
            descriptor = os.open(temporary, os.O_RDWR)
        except FileNotFoundError:  # renamed meanwhile
            continue
        try:
            if _try_lock(descriptor) is True:
                temporary.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def is_ours(file: Path) -> bool:
    """Say whether a file is a lock or a temporary: what a process killed at its very beginning leaves."""
    return file.name == LOCK or _is_temporary(file)


def _is_temporary(file: Path) -> bool:
    return TEMPORARY.fullmatch(file.name) is not None and file.is_file() and not file.is_symlink()


def _try_lock(descriptor: int) -> bool | None:
    """Lock; return False if another process has, None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _flush_folder(folder: Path) -> None:
    """Make a rename durable: it is an entry of the folder, which has to reach the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def provenance() -> dict[str, Any]:
    """Return versions, device and dtype, for manifests, shards and figures' sidecars."""
    import jax

    return {
        "versions": {
            "python": platform.python_version(),
            "ufm-jax": ufm_jax.__version__,  # the checkout's own, installed or not
            **{name: version(name) for name in ("jax", "jaxlib", "numpy")},
        },
        "device": str(jax.devices()[0].device_kind),
        "dtype": "float64" if jax.config.read("jax_enable_x64") else "float32",
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON under a temporary name, then rename."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_file(path, lambda file: file.write((text + "\n").encode()))
