"""Reading a log from the outside, a line at a time, while a service may be writing it.

The one thing to know: what is read is the log as it was when reading began. Segments that are begun later are left
out, and the last line of the last segment may be there in part only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from manahsm.audit.records import LONGEST_LINE
from manahsm.audit.segments import segments

__all__ = ["Line", "read_lines"]


@frozen
class Line:
    """One line of a segment.

    Attributes:
        path: the segment.
        number: counted from 1 in it.
        content: its bytes, newline included.
        growing: it has no end, and nothing comes after it in the whole log: being written, or torn.
    """

    path: Path
    number: int
    content: bytes
    growing: bool

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.path.name} line {self.number}"


def read_lines(directory: Path) -> Iterator[Line]:
    """Every line of every segment, oldest first; holds one line at a time.

    A line that is longer than any record may be is cut there, and what is left of it reads as another one.

    Raises:
        OSError: a segment can not be read.
    """
    present = segments(directory)
    for path in present:
        last = path == present[-1]
        with path.open("rb") as file:
            number = 0
            while content := file.readline(LONGEST_LINE):
                number += 1
                growing = last and not content.endswith(b"\n") and len(content) < LONGEST_LINE
                yield Line(path, number, content, growing)
