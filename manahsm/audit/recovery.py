"""Finding where a log goes on when it is opened, and saying what happened to its end.

The one thing to know: nothing is lost in silence. What a crash tore off is kept in a file of its own; records that had
been on the disk and are gone leave a gap in the numbers that the verifier will always find; and both have a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve, frozen

from manahsm.audit.noted import HEAD_FILE, noted_head
from manahsm.audit.records import LONGEST_LINE, AuditEvent, AuditRecord, Head, link_of
from manahsm.audit.segments import TornTail, find_tail, segment_path, set_aside
from manahsm.files import remove_leftovers

__all__ = ["Recovered", "recover"]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@frozen(kw_only=True)
class Recovered:
    """Where a log goes on.

    Attributes:
        path: the segment to write to; it may not exist yet.
        size: bytes of whole lines in it.
        begun: when its first record was written (UTC); long ago where that can not be read.
        head: the record that the next one follows.
        torn: what was set aside.
        missing: the last record that is there, where later ones had been on the disk and are gone.
        note_damaged: the note of the log's head is not readable.
    """

    path: Path
    size: int
    begun: datetime
    head: Head
    torn: TornTail | None = None
    missing: Head | None = None
    note_damaged: bool = False

    def records(self) -> Iterator[AuditRecord]:
        """What there is to tell, to be written first of all."""
        if self.torn is not None:
            yield AuditRecord(
                event=AuditEvent.RECOVERY,
                reason="the end of the log was torn by a crash; it was set aside",
                summary={"bytes": self.torn.size, "sha256": self.torn.sha256, "file": self.torn.path.name},
            )
        if self.missing is not None:
            yield AuditRecord(
                event=AuditEvent.RECOVERY,
                reason="records at the end of the log that had been on the disk are gone",
                summary={"first_missing": self.missing.seq + 1, "last_missing": self.head.seq},
            )
        if self.note_damaged:
            yield AuditRecord(
                event=AuditEvent.RECOVERY,
                reason=f"{HEAD_FILE} could not be read: whether records at the end are gone can not be told",
            )


def recover(directory: Path) -> Recovered:
    """Find the end of the log, and set aside what a crash tore off.

    Done again after a crash in the middle, it does the same.

    Raises:
        OSError: it can not be read, or the tail can not be moved.
    """
    remove_leftovers(directory)
    tail = find_tail(directory)
    torn = set_aside(tail)
    found = Recovered(
        path=tail.path,
        size=tail.good_size,
        begun=_begin(tail.path) if tail.good_size else _LONG_AGO,
        head=tail.head,
        torn=torn,
    )
    try:
        noted = noted_head(directory)
    except ValueError:
        return evolve(found, note_damaged=True)
    if noted is None or noted.seq <= tail.head.seq:
        return found
    return evolve(found, path=segment_path(directory, noted.seq + 1), size=0, head=noted, missing=tail.head)


def _begin(path: Path) -> datetime:
    """When the first record of a segment was written."""
    with path.open("rb") as file:
        link = link_of(file.readline(LONGEST_LINE))
    try:
        return datetime.fromisoformat(link.time) if link is not None else _LONG_AGO
    except ValueError:
        return _LONG_AGO
