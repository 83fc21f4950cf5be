"""What one audit record says, and how it becomes a line that proves itself.

A line is JSON, and is hashed as bytes, so that nothing depends on how JSON is read back::

    {"seq":7,"time":"2025-01-02T03:04:05.678901Z","prev":"<64 hex>", ... ,"hash":"<64 hex>"}

``hash`` is the SHA-256 of every byte of the line before ``,"hash"``; ``prev`` is the ``hash`` of the line
before, 64 zeros in the very first. ``seq`` counts from 1 without gaps, over all segments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from attrs import frozen

from manahsm.requests import Backend, Operation, Role

__all__ = ["GENESIS", "AuditEvent", "AuditOutcome", "AuditRecord", "Decision", "Head", "head_of", "seal"]


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
    CHANGE_CONFIGURATION = "change_configuration"
    OPERATOR_ACTION = "operator_action"
    START = "start"
    STOP = "stop"
    LOG_REPAIRED = "log_repaired"  # a torn tail was set aside
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


GENESIS = Head(0, "0" * 64)

_encode = msgspec.json.Encoder().encode
_HASH_START = b',"hash":"'
_HASH_SIZE = 64
_LINE_END = b'"}\n'
_SUFFIX_SIZE = len(_HASH_START) + _HASH_SIZE + len(_LINE_END)


class _Prefix(msgspec.Struct):
    seq: int
    prev: str


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
        TypeError, ValueError, RecursionError: ``summary`` holds something that JSON can not.
    """
    seq = after.seq + 1
    moment = time.isoformat(timespec="microseconds")[:26]
    body = b'{"seq":%d,"time":"%bZ","prev":"%b",%b' % (
        seq,
        moment.encode(),
        after.hash.encode(),
        _encode(record)[1:-1],
    )
    digest = hashlib.sha256(body).hexdigest()
    return b"".join((body, _HASH_START, digest.encode(), _LINE_END)), Head(seq, digest)


def head_of(line: bytes) -> Head | None:
    """Return what a line (newline included) proves to be, or ``None`` where its hash does not fit it."""
    body, suffix = line[:-_SUFFIX_SIZE], line[-_SUFFIX_SIZE:]
    digest = hashlib.sha256(body).hexdigest()
    if suffix != b"".join((_HASH_START, digest.encode(), _LINE_END)):
        return None
    try:
        prefix = _read_prefix(line)
    except msgspec.DecodeError:
        return None
    return Head(prefix.seq, digest)
