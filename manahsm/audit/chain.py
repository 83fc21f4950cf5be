"""Following a chain of records, one line after the other: the rules of what holds (pure).

The one thing to know: every rule looks at one line and at what came before, and the first that is broken ends it. So
memory is bounded, however long the log is, and the first record that does not hold is the one that is named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec
from attrs import define, field, frozen

from manahsm.audit.checkpoints import claim_of, signer_of
from manahsm.audit.lines import one_line
from manahsm.audit.reading import Line
from manahsm.audit.records import AuditEvent, Head, Link, link_of

__all__ = ["Chain", "Failure", "Fault"]

_RECENT = 65_536
"""How many records a checkpoint may lie behind the head that it signed; they come while the token signs."""
_MOST_NOTES = 20
_MOST_SIGNERS = 20
_OF_THE_LOG = frozenset({AuditEvent.RECOVERY, AuditEvent.LOG_REOPENED, AuditEvent.LOG_RESUMED})


class Fault(StrEnum):
    """What is wrong where a log does not hold."""

    EDITED = "edited"
    MISSING = "missing"
    OUT_OF_ORDER = "out of order"
    REPLACED = "replaced"
    CHECKPOINT = "checkpoint"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"


@frozen
class Failure:
    """The first thing that does not hold.

    Attributes:
        fault: its kind.
        seq: the record that is wrong or missing.
        text: a sentence for people, with the file and line.
    """

    fault: Fault
    seq: int
    text: str


class _Said(msgspec.Struct):
    reason: str = ""
    summary: dict[str, Any] = {}


_read_said = msgspec.json.Decoder(_Said).decode


@define
class Chain:
    """The records that hold so far, and what is still expected of the rest.

    Attributes:
        head: the last record that holds.
        addresses: who may have signed checkpoints, ``None`` for anybody.
        records: how many records hold.
        first, last: the times of the first and the last of them.
        checkpoints: how many were checked.
        signers: who signed them, in order of appearance.
        covered: the last record that a checkpoint covers, 0 for none.
        incomplete: the last line has no end.
    """

    head: Head
    addresses: frozenset[str] | None = None
    records: int = 0
    first: str | None = None
    last: str | None = None
    checkpoints: int = 0
    signers: list[str] = field(factory=list)
    covered: int = 0
    incomplete: bool = False
    _expected: deque[Head] = field(factory=deque)
    _recent: deque[str] = field(factory=lambda: deque(maxlen=_RECENT), repr=False)
    _notes: list[str] = field(factory=list)
    _more_notes: int = 0

    def note(self, text: str) -> None:
        """Tell something that is no failure."""
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text)
        else:
            self._more_notes += 1

    def notes(self) -> tuple[str, ...]:
        """All that was told, up to a limit."""
        more = (f"and {self._more_notes} more notes",) if self._more_notes else ()
        return (*self._notes, *more)

    def expect(self, heads: Iterable[Head]) -> Failure | None:
        """Demand that these records are in the log. Call it once, before the first line."""
        self._recent.append(self.head.hash)
        for head in sorted(heads, key=lambda each: each.seq):
            if head.seq > self.head.seq:
                self._expected.append(head)
            elif head.seq < self.head.seq:
                self.note(f"record {head.seq} was noted, but the log is read only from {self.head.seq + 1} on")
            elif head.hash != self.head.hash:
                return Failure(Fault.REPLACED, head.seq, f"record {head.seq} was noted with two different hashes")
        return None

    def follow(self, line: Line) -> Failure | None:
        """Take the next line, or say why it does not hold."""
        if line.growing:
            self.incomplete = True
            self.note(f"{line.place}: incomplete last line (being written, or torn): {len(line.content)} bytes")
            return None
        link = link_of(line.content)
        failure = self._misfit(link, line)
        if failure is not None or link is None:
            return failure
        self.head = link.head
        self.records += 1
        self.first = self.first or link.time
        self.last = link.time
        self._recent.append(link.head.hash)
        return self._compare(line) or self._listen(link, line)

    def _misfit(self, link: Link | None, line: Line) -> Failure | None:
        """Why a line is not the next record."""
        wanted = self.head.seq + 1
        if link is None:
            return Failure(Fault.EDITED, wanted, f"{line.place}: record {wanted} was edited, or is no record")
        seq = link.head.seq
        if seq > wanted:
            which = f"record {wanted} is" if seq == wanted + 1 else f"records {wanted} to {seq - 1} are"
            return Failure(Fault.MISSING, wanted, f"{line.place}: {which} missing; record {seq} comes next")
        if seq < wanted:
            text = f"{line.place}: record {seq} stands where record {wanted} belongs (repeated, or moved)"
            return Failure(Fault.OUT_OF_ORDER, wanted, text)
        if link.prev != self.head.hash:
            text = f"{line.place}: record {seq} does not follow the one before it: one of the two was replaced"
            return Failure(Fault.REPLACED, seq, text)
        return None

    def _compare(self, line: Line) -> Failure | None:
        """Whether this record is what was noted of it."""
        while self._expected and self._expected[0].seq == self.head.seq:
            noted = self._expected.popleft()
            if noted.hash != self.head.hash:
                text = f"{line.place}: record {noted.seq} is not the one that was noted ({noted})"
                return Failure(Fault.REPLACED, noted.seq, text)
        return None

    def _listen(self, link: Link, line: Line) -> Failure | None:
        """What a record says of the log itself."""
        if link.event == AuditEvent.CHECKPOINT:
            wrong = self._check(line)
            if wrong is not None:
                return Failure(Fault.CHECKPOINT, link.head.seq, f"{line.place}: the checkpoint {wrong}")
        if link.event in _OF_THE_LOG:
            said = _said(line)
            details = f" {one_line(said.summary)}" if said.summary else ""
            self.note(f"record {link.head.seq}, {link.event}: {one_line(said.reason)}{details}")
        return None

    def _check(self, line: Line) -> str | None:
        claim = claim_of(_said(line).summary)
        if claim is None:
            return "is not readable"
        signed, signature = claim
        behind = self.head.seq - signed.seq
        if behind >= len(self._recent):
            self.note(f"the checkpoint in record {self.head.seq} is of record {signed.seq}: too far back to be checked")
            return None
        if behind <= 0 or self._recent[-1 - behind] != signed.hash:
            return f"is of another log: record {signed.seq} of this one is not what it signed"
        signer = signer_of(signed, signature)
        if signer is None or (self.addresses is not None and signer not in self.addresses):
            return f"was signed by {signer or 'nobody'}"
        self.checkpoints += 1
        self.covered = signed.seq
        if signer not in self.signers and len(self.signers) < _MOST_SIGNERS:
            self.signers.append(signer)
        return None

    def end(self) -> Failure | None:
        """Take the end of the log, or say what is missing at it."""
        after = self.head.seq + 1
        if self._expected:
            last = self._expected[-1].seq
            which = f"record {last} is" if last == after else f"records {after} to {last} are"
            return Failure(Fault.TRUNCATED, after, f"the log ends with record {self.head.seq}, but {which} missing")
        if not self.records and not self.incomplete:
            return Failure(Fault.TRUNCATED, after, "there is no record here: is it the right folder?")
        if self.addresses is not None and not self.checkpoints:
            wanted = ", ".join(sorted(self.addresses))
            return Failure(Fault.CHECKPOINT, after, f"there is no checkpoint that was signed by {wanted}")
        return None


def _said(line: Line) -> _Said:
    try:
        return _read_said(line.content)
    except msgspec.DecodeError:  # its hash holds, but it is none of ours
        return _Said()
