"""Files that only we may read and that must survive a crash: private folders, exclusive locks, atomic writes.

Everything here blocks; call it from a worker thread, or where blocking is all right.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

__all__ = [
    "FileInUse",
    "lock_exclusively",
    "make_private_directory",
    "remove_leftovers",
    "sync_directory",
    "write_atomically",
]

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_TEMPORARY = ".tmp-"


class FileInUse(OSError):  # noqa: N818 - reads as a state, like BlockingIOError
    """Another process (or another part of this one) holds the lock."""


def make_private_directory(path: Path) -> None:
    """Make ``path`` and its parents, and close ``path`` itself to group and others.

    Raises:
        OSError: it can not be made, or is not ours to close.
    """
    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(PRIVATE_DIRECTORY)


def lock_exclusively(path: Path) -> int:
    """Take the lock that ``path`` stands for, until the descriptor is closed or the process ends.

    The lock belongs to the open file description, and the descriptor is closed on exec: a child process that
    is started later neither holds nor keeps it. The file stays when the lock is gone; removing it would race.

    Returns:
        The descriptor that holds the lock. Close it to release.

    Raises:
        FileInUse: somebody else holds it.
        OSError: the file can not be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FileInUse(error.errno, "another manahsm process uses it", str(path)) from None
    except OSError:  # pragma: no cover - a file system without locks
        os.close(descriptor)
        raise
    return descriptor


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable: a new or renamed file is not, until this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a private file so that it holds the old content or the new, whenever power fails.

    Raises:
        OSError: nothing was changed.
    """
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what :func:`write_atomically` left behind when a process was killed inside it."""
    for leftover in directory.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
