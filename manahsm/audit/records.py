"""What one audit record says, and how it becomes a line that proves itself.

A line is JSON, and is hashed as bytes, so that nothing depends on how JSON is read back::

    {"seq":7,"time":"2025-01-02T03:04:05.678901Z","prev":"<64 hex>", ... ,"hash":"<64 hex>"}

``hash`` is the SHA-256 of every byte of the line before ``,"hash"``; ``prev`` is the ``hash`` of the line
before, 64 zeros in the very first. ``seq`` counts from 1 without gaps, over all segments.

The one thing to know: nothing that a caller asked for is in a record, no signature, no raw transaction, no key and
no PIN. The only signature in a log is that of a checkpoint, and it is one of the log itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from attrs import frozen

from manahsm.nesting import MAX_DEPTH, too_deep
from manahsm.requests import Backend, Operation, Role

__all__ = [
    "GENESIS",
    "LONGEST_LINE",
    "AuditEvent",
    "AuditOutcome",
    "AuditRecord",
    "Decision",
    "Head",
    "Link",
    "head_of",
    "link_of",
    "seal",
]

LONGEST_LINE = 16 * 2**20
"""Bytes; far more than any record takes, and a bound on what a reader of the log has to hold."""


class AuditEvent(StrEnum):
    """What happened."""

    SIGN = "sign"
    GENERATE_KEY = "generate_key"
    IMPORT_KEY = "import_key"
    DISCOVER_KEY = "discover_key"
    ASSIGN_ROLE = "assign_role"
    RELABEL_KEY = "relabel_key"
    ROTATE_KEY = "rotate_key"
    DELETE_KEY = "delete_key"
    CONFIG = "configuration"  # what is in force since this start, and what changed
    OPERATOR = "operator_action"  # breakers forced, PIN latches released, diverting allowed, ...
    START = "start"
    STOP = "stop"
    CHECKPOINT = "checkpoint"  # our own key signed the log up to here
    RECOVERY = "recovery"  # a torn tail was set aside
    LOG_REOPENED = "log_reopened"  # the file was taken away; this is a new one
    LOG_RESUMED = "log_resumed"  # records could not be written for a while


class Decision(StrEnum):
    """Whether the rules admitted it."""

    ALLOWED = "allowed"
    REFUSED = "refused"


class AuditOutcome(StrEnum):
    """How it ended."""

    SIGNED = "signed"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


# A msgspec Struct and not an attrs class: a record is made for every signature, this one is four times
# cheaper to make, and fields that say nothing are left out of the line.
class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. No field is for a signature, a PIN or a key; never put one into another.

    Attributes:
        event: what happened.
        request_id: the caller's id of the request.
        caller: who asked, as far as the interface knows.
        operation: what was to be signed.
        key_id: the key.
        address: its EIP-55 address.
        role: its role at the time.
        chain_id: the chain it was signed for.
        summary: what was signed in readable fields, or other details; JSON values, no bytes.
        digest: the 32 bytes that were signed, 0x hex.
        decision: whether the rules admitted it.
        reason: why not, or why it failed: the ``code`` of the error and its message.
        backend: what made the signature.
        slot: the slot that did.
        diverted: whether another route than the first made it.
        outcome: how it ended.
        duration: seconds from acceptance to here.
        tx_hash: 0x hex hash of the signed transaction.
    """

    event: AuditEvent
    request_id: str | None = None
    caller: str | None = None
    operation: Operation | None = None
    key_id: str | None = None
    address: str | None = None
    role: Role | None = None
    chain_id: int | None = None
    summary: Mapping[str, Any] | None = None
    digest: str | None = None
    decision: Decision | None = None
    reason: str | None = None
    backend: Backend | None = None
    slot: str | None = None
    diverted: bool = False
    outcome: AuditOutcome | None = None
    duration: float | None = None
    tx_hash: str | None = None


@frozen
class Head:
    """The last record of a log: what the next one is chained to."""

    seq: int
    hash: str

    def __str__(self) -> str:
        """``SEQ:HASH``, as it is noted and as the verifier takes it."""
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``SEQ:HASH``.

        Raises:
            ValueError: it is something else.
        """
        found = _HEAD.fullmatch(text)
        if found is None:
            raise ValueError("expected SEQ:HASH: a number, a colon and 64 hex digits")
        return cls(int(found[1]), found[2].lower())


_HEAD = re.compile(r"(0*[0-9]{1,18}):([0-9a-fA-F]{64})")
GENESIS = Head(0, "0" * 64)


@frozen
class Link:
    """What a line proves to be.

    Attributes:
        head: its own sequence number and hash.
        prev: the hash of the record that it follows.
        time: when it was written, ISO 8601 in UTC with microseconds.
        event: what happened; a word that :class:`AuditEvent` may not know yet.
    """

    head: Head
    prev: str
    time: str
    event: str


_encode = msgspec.json.Encoder().encode
_HASH_START = b',"hash":"'
_HASH_SIZE = 64
_LINE_END = b'"}\n'
_SUFFIX_SIZE = len(_HASH_START) + _HASH_SIZE + len(_LINE_END)


class _Prefix(msgspec.Struct):
    seq: int
    time: str
    prev: str
    event: str


_read_prefix = msgspec.json.Decoder(_Prefix).decode


def seal(record: AuditRecord, after: Head, time: datetime) -> tuple[bytes, Head]:
    """Chain a record to the one before.

    Args:
        record: what happened.
        after: the last record so far.
        time: when, in UTC.

    Returns:
        The line, newline included, and the new head.

    Raises:
        TypeError, ValueError, RecursionError: ``summary`` holds something that JSON can not, or far too much, or is
            nested too deep to be read back everywhere.
    """
    seq = after.seq + 1
    moment = _encode(time) if time.microsecond else b'"%bZ"' % time.isoformat(timespec="microseconds")[:26].encode()
    body = b'{"seq":%d,"time":%b,"prev":"%b",%b' % (seq, moment, after.hash.encode(), _encode(record)[1:-1])
    if len(body) + _SUFFIX_SIZE > LONGEST_LINE:
        raise ValueError(f"it would be longer than {LONGEST_LINE} bytes")
    if too_deep(body):
        raise ValueError(f"it would be nested deeper than {MAX_DEPTH} levels")
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body, _HASH_START, digest.encode(), _LINE_END)), Head(seq, digest)


def head_of(line: bytes) -> Head | None:
    """Return what a line (newline included) proves to be, or ``None`` where its hash does not fit it."""
    link = link_of(line)
    return None if link is None else link.head


def link_of(line: bytes) -> Link | None:
    """Like :func:`head_of`, with what the line says of its place in the chain."""
    body, suffix = line[:-_SUFFIX_SIZE], line[-_SUFFIX_SIZE:]
    digest = hashlib.sha256(body).hexdigest()
    if suffix != b"".join((_HASH_START, digest.encode(), _LINE_END)) or too_deep(body):
        return None
    try:
        prefix = _read_prefix(line)
    except msgspec.DecodeError:
        return None
    return Link(Head(prefix.seq, digest), prefix.prev, prefix.time, prefix.event)
