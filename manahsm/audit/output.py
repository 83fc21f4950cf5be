"""Where the lines of an open log go: the segment that is written now, and older ones that still have to reach the disk.

The one thing to know: lines are written by the event loop's thread alone, while :meth:`Output.sync` runs in any
thread. What they share is guarded by a lock that is never held while the disk works, so the loop never waits for it.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

from attrs import frozen

from manahsm.files import PRIVATE_FILE, sync_directory

__all__ = ["Output"]

_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class Output:
    """An open segment.

    Args:
        path: its file, which is made where there is none.
        size: bytes of whole lines in it.
        durable: :meth:`sync` will be called; without it, a finished segment is closed at once.

    Attributes:
        path: its file.
        size: bytes of whole lines in it.
        torn: bytes that a failed write left behind the last whole line.
    """

    def __init__(self, path: Path, size: int, *, durable: bool) -> None:
        self.path = path
        self.size = size
        self.torn = 0
        self._descriptor = _open(path)
        self._durable = durable
        self._finished: list[_Finished] = []
        self._new_names = True  # whether the folder has to be synced too
        # Held for the moment in which descriptors are copied or replaced, never while the disk works.
        self._swapping = threading.Lock()
        # Held while the disk works, so that whoever finds nothing left to sync knows that it is done.
        self._syncing = threading.Lock()

    def write(self, line: bytes) -> None:
        """Append a whole line: one ``os.write``.

        Raises:
            OSError: the line is not in the file; a part of it may be, and :attr:`torn` says so.
        """
        written = os.write(self._descriptor, line)
        if written != len(line):
            self.torn = written
            raise OSError("only a part of the record fitted")
        self.size += written

    def is_in_place(self, *, exactly: bool) -> bool:
        """Whether our file is still the one at our path, and holds what we wrote.

        Args:
            exactly: it may hold nothing else; otherwise it may be longer.

        Raises:
            OSError: that can not be found out.
        """
        ours = os.fstat(self._descriptor)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        same = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        size = self.size + self.torn
        return same and (ours.st_size == size if exactly else ours.st_size >= self.size)

    def untear(self) -> None:
        """Cut off what a failed write left behind.

        Raises:
            OSError: it is still there.
        """
        if self.torn:
            os.ftruncate(self._descriptor, self.size)
            self.torn = 0

    def go_on_in(self, path: Path, *, lost: bool = False) -> None:
        """Write to a new file from now on; the old one still reaches the disk with the next :meth:`sync`.

        Args:
            path: the new file; it must not exist.
            lost: the old file was taken away. It may hold records that were never synced, wherever it is now, but if
                it lets itself not be synced, that is nothing to wait for.

        Raises:
            OSError: it can not be made, and the old one is still written.
        """
        descriptor = _open(path, new=True)
        old = _Finished(self._descriptor, lost)
        with self._swapping:
            self._descriptor = descriptor
            self._new_names = True
            if self._durable:
                self._finished.append(old)
            else:
                os.close(old.descriptor)
        self.path, self.size, self.torn = path, 0, 0

    def sync(self) -> None:
        """Return once everything that was written before the call is on the disk, in older segments too.

        Raises:
            OSError: some of it may not be.
        """
        with self._syncing:
            with self._swapping:
                finished, current = tuple(self._finished), os.dup(self._descriptor)
                directory, new_names = self.path.parent, self._new_names
                self._new_names = False
            try:
                for old in finished:
                    old.sync()
                os.fdatasync(current)
                if new_names:
                    sync_directory(directory)
            except OSError:
                self._new_names |= new_names
                raise
            finally:
                os.close(current)
            with self._swapping:
                del self._finished[: len(finished)]
            for old in finished:
                os.close(old.descriptor)

    def close(self) -> None:
        """Close all files; sync first what has to last."""
        with self._syncing, self._swapping:
            for old in self._finished:
                os.close(old.descriptor)
            self._finished.clear()
            os.close(self._descriptor)


@frozen
class _Finished:
    """A segment that is complete and may not be on the disk yet."""

    descriptor: int
    lost: bool

    def sync(self) -> None:
        with suppress(OSError) if self.lost else nullcontext():
            os.fdatasync(self.descriptor)


def _open(path: Path, *, new: bool = False) -> int:
    descriptor = os.open(path, _NEW_FILE | (os.O_EXCL if new else 0), PRIVATE_FILE)
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
