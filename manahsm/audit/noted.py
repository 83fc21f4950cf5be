"""The noted head: how far the log had come when it was last seen safe on the disk, in a file beside it.

The one thing to know: a chain alone can not show that its last records are missing, so their number and hash are noted
elsewhere. This note is against accidents and clumsy hands; whoever can rewrite the log can rewrite it too, and is
found out only by a checkpoint or by a head that was noted on another machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from manahsm.audit.records import Head
from manahsm.files import PRIVATE_FILE

__all__ = ["HEAD_FILE", "note_head", "noted_head"]

HEAD_FILE = "audit.head"
_SIZE = 20 + 1 + 64 + 1  # a number of fixed width, a colon, the hash and a newline


def note_head(directory: Path, head: Head) -> None:
    """Write the head over the one before. Blocks for one small write, and forces nothing to the disk.

    The line always has the same size and lies in one sector, so that it is the old one or the new one.

    Raises:
        OSError: the old one stays.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(directory / HEAD_FILE, flags, PRIVATE_FILE)
    try:
        os.pwrite(descriptor, f"{head.seq:020d}:{head.hash}\n".encode(), 0)
        os.ftruncate(descriptor, _SIZE)
    finally:
        os.close(descriptor)


def noted_head(directory: Path) -> Head | None:
    """The head that was noted last, or ``None`` where none was.

    Raises:
        ValueError: the file holds something else.
        OSError: it can not be read.
    """
    try:
        with (directory / HEAD_FILE).open("rb") as file:
            content = file.read(_SIZE + 1)
    except FileNotFoundError:
        return None
    if len(content) != _SIZE or not content.endswith(b"\n"):
        raise ValueError(f"{HEAD_FILE} does not hold one line SEQ:HASH")
    try:
        return Head.parse(content[:-1].decode("ascii"))
    except ValueError:
        raise ValueError(f"{HEAD_FILE} does not hold one line SEQ:HASH") from None
