"""One process at a time writes into a run folder."""

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

from dsenv import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
GONE = (FileNotFoundError, PermissionError)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a run folder for oneself; what a killed process left half-written is removed.

    The system takes the lock back when its owner ends, also by `kill -9`. Where it has no such locks, a file
    with the owner's process number stands for one.

    Raises:
        ValueError: another process has it; the message says which one.
        OSError: the folder cannot be written to.
    """
    files.check_writable(folder)
    path = folder / NAME
    files.refuse_link(path)

    handle = _take(path)
    try:
        files.remove_partials(folder)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> int:
    """The open lock file.

    Raises:
        ValueError: another process has it.
    """
    if fcntl is None:
        return _take_by_process(path)

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise _in_use(path) from None
        except OSError:  # a network file system without locks
            os.close(handle)
            return _take_by_process(path)

        # The owner of before may have removed the file between the two calls
        if _is_the_file(path, handle):
            return _signed(handle)
        os.close(handle)


def _is_the_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _signed(handle: int) -> int:
    """The lock file, with its owner in it."""
    os.ftruncate(handle, 0)
    words = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    os.write(handle, f"{words}\n".encode())
    return handle


def _take_by_process(path: Path) -> int:
    """As `_take`, by the process number in the file."""
    while True:
        with contextlib.suppress(FileExistsError):
            return _signed(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
        owner = _owner(path)
        if owner and not _has_ended(owner):
            raise _in_use(path)
        with contextlib.suppress(*GONE):
            path.unlink()


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except GONE:
        return ""


def _has_ended(owner: str) -> bool:
    """Whether the process is known to have ended: one of this computer that is no more."""
    found = re.match(r"process (\d+) on (.*) since ", owner)
    if found is None:
        return True
    if found[2] != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _in_use(path: Path) -> ValueError:
    return ValueError(
        f"{path.parent} is in use: {_owner(path) or 'another process'} has it; wait until that is done, or "
        f"stop it (if it runs no more on that computer, delete {path})"
    )
