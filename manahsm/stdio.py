"""JSON lines over standard input and output, without threads and without blocking the event loop.

The one thing to know: a file descriptor is read only when the loop says that it is ready, so waiting for input
can be cancelled at any time. Regular files and /dev/null are always ready and cannot be waited for.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["LONGEST_LINE", "LineReader", "LineTooLong", "LineWriter", "replace_closed_streams"]

LONGEST_LINE = 8 * 1024 * 1024  # bytes; six blobs as hex need 1.6 million
_READ_SIZE = 65536
_WRITE_SIZE = 4096  # PIPE_BUF: a pipe that is ready for writing takes this much without blocking


def replace_closed_streams() -> None:
    """Open /dev/null where the caller closed standard input, output or error (``>&-``). To be called first of all.

    Otherwise the next file that is opened gets the number, and answers would go into a database. Reading finds the end
    of the input, writing answers fails, and logs go nowhere.
    """
    for fd, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(fd, "r" if name == "stdin" else "w", closefd=False))


class LineTooLong(Exception):  # noqa: N818 - a situation that the reader of lines answers
    """A line has more than ``LONGEST_LINE`` bytes. It was skipped to its end."""


def _can_wait(fd: int) -> bool:
    """Return whether the kernel can tell when ``fd`` is ready (epoll refuses regular files with EPERM)."""
    with select.epoll() as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
    return True


class LineReader:
    """Reads lines from a file descriptor. A cancelled read loses nothing.

    Args:
        fd: open for reading; not closed here.
        longest: most bytes in a line.
    """

    def __init__(self, fd: int, *, longest: int = LONGEST_LINE) -> None:
        self._fd = fd
        self._longest = longest
        self._can_wait = _can_wait(fd)
        self._whole: deque[bytes | LineTooLong] = deque()
        self._partial = bytearray()
        self._skipping = False
        self._ended = False

    async def read(self) -> bytes | LineTooLong | None:
        """Return the next line without its newline, or ``None`` at the end of the input.

        A last line without a newline counts; a line that is too long comes as a :class:`LineTooLong`.
        """
        while not self._whole:
            if self._ended:
                return None
            if self._can_wait:
                await anyio.wait_readable(self._fd)
            else:
                await checkpoint()
            self._take(os.read(self._fd, _READ_SIZE))
        return self._whole.popleft()

    def _take(self, chunk: bytes) -> None:
        if not chunk:
            self._ended = True
            if self._partial or self._skipping:
                self._end_line()
            return
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._grow(end)
            self._end_line()
        self._grow(rest)

    def _grow(self, part: bytes) -> None:
        self._skipping = self._skipping or len(self._partial) + len(part) > self._longest
        if self._skipping:
            self._partial.clear()
        else:
            self._partial += part

    def _end_line(self) -> None:
        long = LineTooLong(f"a line may have {self._longest} bytes at most")
        self._whole.append(long if self._skipping else bytes(self._partial))
        self._partial.clear()
        self._skipping = False


class LineWriter:
    """Writes whole lines to a file descriptor; a reader that is slow holds up only the task that writes.

    Args:
        fd: open for writing; not closed here.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._can_wait = _can_wait(fd)

    async def write(self, line: bytes) -> None:
        """Write ``line`` and a newline.

        Raises:
            OSError: e.g. ``BrokenPipeError`` where the reader has gone.
        """
        left = memoryview(line + b"\n")
        while left:
            if self._can_wait:
                await anyio.wait_writable(self._fd)
            else:
                await checkpoint()
            left = left[os.write(self._fd, left[:_WRITE_SIZE]) :]
