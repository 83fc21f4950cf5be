"""Audit logs to harm: a log of some records over some segments, as bytes that can be changed and written anywhere.

The one thing to know: a log is held as ``{file name: content}``, the head's note included, so that each test harms a
copy of its own.
"""

from __future__ import annotations

from pathlib import Path

from coincurve import PrivateKey

from manahsm.audit.checkpoints import checkpoint_digest
from manahsm.audit.log import AuditLog
from manahsm.audit.noted import HEAD_FILE
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord, Head
from manahsm.ethereum.signatures import RecoverableSignature, address_of, public_key_of, sign
from manahsm.requests import Backend, Operation

__all__ = [
    "CHECKPOINT_ADDRESS",
    "CHECKPOINT_KEY",
    "Files",
    "a_record",
    "checkpoint_record",
    "make_log",
    "read_log",
    "segments_of",
    "signature_of",
    "write_log",
]

Files = dict[str, bytes]
CHECKPOINT_KEY = PrivateKey(b"\x07" * 32)
CHECKPOINT_ADDRESS = address_of(public_key_of(CHECKPOINT_KEY))


def a_record(number: int) -> AuditRecord:
    """A signature's record, as the service writes it."""
    return AuditRecord(
        event=AuditEvent.SIGN,
        request_id=f"r-{number}",
        caller=f"caller {number % 3}",
        operation=Operation.HASH,
        key_id="0123456789abcdef",
        backend=Backend.SOFTWARE,
        outcome=AuditOutcome.SIGNED,
        digest="0x" + number.to_bytes(32, "big").hex(),
    )


def signature_of(head: Head, key: PrivateKey = CHECKPOINT_KEY) -> RecoverableSignature:
    """What a checkpoint key makes of a head."""
    return sign(key, checkpoint_digest(head))


def checkpoint_record(head: Head, key: PrivateKey = CHECKPOINT_KEY) -> AuditRecord:
    """A checkpoint of a head."""
    return AuditRecord(
        event=AuditEvent.CHECKPOINT,
        summary={"seq": head.seq, "hash": head.hash, "signature": "0x" + signature_of(head, key).to_bytes().hex()},
    )


def make_log(directory: Path, records: int, *, segment_size: int = 2**20, checkpoint_every: int = 0) -> Files:
    """Write a log as a service does, and close it."""
    log = AuditLog.open(directory, max_segment_size=segment_size)
    for number in range(1, records + 1):
        due = checkpoint_every and number % checkpoint_every == 0
        log.append(checkpoint_record(log.head) if due else a_record(number))
    log.close()
    return read_log(directory)


def read_log(directory: Path) -> Files:
    """All that belongs to the log of a folder."""
    names = [*sorted(path.name for path in directory.glob("audit-*.jsonl")), HEAD_FILE]
    return {name: (directory / name).read_bytes() for name in names}


def write_log(directory: Path, files: Files) -> Path:
    """Write a log, and nothing else, into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.iterdir():
        stale.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def segments_of(files: Files) -> list[str]:
    """The names of the segments, oldest first."""
    return sorted(name for name in files if name.endswith(".jsonl"))
