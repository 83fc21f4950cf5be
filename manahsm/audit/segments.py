"""The files of an audit log, and what a crash leaves at the end of the last one.

A segment is ``audit-<seq of its first record>.jsonl``; the chain runs on from one to the next. A process that
is killed while it writes leaves at most the beginning of one line; a power failure can leave more that was
never on the disk. Such a tail was never promised to anybody, but it is kept, in a file of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from attrs import frozen

from manahsm.audit.records import GENESIS, Head, head_of
from manahsm.files import write_atomically

__all__ = ["Tail", "TornTail", "find_tail", "segment_path", "segments", "set_aside"]

_SEGMENT = re.compile(r"audit-([0-9]{12,})\.jsonl")
_WINDOW = 64 * 1024


@frozen(kw_only=True)
class Tail:
    """Where a log ends.

    Attributes:
        path: the last segment, to be continued; it may not exist yet.
        head: the last good record, :data:`~manahsm.audit.records.GENESIS` in an empty log.
        good_size: bytes of ``path`` up to the end of its last good record.
        size: bytes of ``path``; more than ``good_size`` where it was torn.
    """

    path: Path
    head: Head
    good_size: int
    size: int


@frozen(kw_only=True)
class TornTail:
    """What was set aside: ``size`` bytes with this ``sha256`` (hex), now in ``path``."""

    path: Path
    size: int
    sha256: str


def segment_path(directory: Path, first_seq: int) -> Path:
    """The file of the segment that begins with this record."""
    return directory / f"audit-{first_seq:012d}.jsonl"


def segments(directory: Path) -> list[Path]:
    """The segments of a log, oldest first."""
    found = ((match, path) for path in directory.iterdir() if (match := _SEGMENT.fullmatch(path.name)))
    return [path for match, path in sorted(found, key=lambda pair: int(pair[0][1]))]


def find_tail(directory: Path) -> Tail:
    """Find where the log goes on.

    Only as much is read as it takes to find the last record whose own hash holds; whether the whole chain
    does is for the verifier.

    Raises:
        OSError: a segment can not be read.
    """
    present = segments(directory)
    if not present:
        return Tail(path=segment_path(directory, 1), head=GENESIS, good_size=0, size=0)
    last = present[-1]
    head, good_size = _last_good(last)
    for earlier in reversed(present[:-1]):
        if head is not None:
            break
        head, _ = _last_good(earlier)
    return Tail(path=last, head=head or GENESIS, good_size=good_size, size=last.stat().st_size)


def set_aside(tail: Tail) -> TornTail | None:
    """Move what follows the last good record into a file beside the log, which then ends cleanly.

    Done again after a crash in the middle, it does the same.

    Raises:
        OSError: it could not be moved; the log is as it was.
    """
    if tail.size == tail.good_size:
        return None
    with tail.path.open("r+b") as file:
        file.seek(tail.good_size)
        torn = file.read()
        digest = hashlib.sha256(torn).hexdigest()
        kept = tail.path.with_name(f"torn-{tail.head.seq + 1:012d}-{digest[:8]}.bin")
        write_atomically(kept, torn)
        file.truncate(tail.good_size)
        os.fsync(file.fileno())
    return TornTail(path=kept, size=len(torn), sha256=digest)


def _last_good(path: Path) -> tuple[Head | None, int]:
    """The last record that proves itself and where its line ends; reads backwards in growing windows."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        window = _WINDOW
        while True:
            start = max(0, size - window)
            file.seek(start)
            content = file.read(size - start)
            end = content.rfind(b"\n") + 1
            while end:  # a line that begins before the window proves nothing, and a wider one is read
                begin = content.rfind(b"\n", 0, end - 1) + 1
                if (head := head_of(content[begin:end])) is not None:
                    return head, start + end
                end = begin
            if start == 0:
                return None, 0
            window *= 4
