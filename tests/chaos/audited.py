"""The callers' account held against the audit log: nothing unaudited has left, and nothing by the wrong hand.

The one thing to know: the log is read as an auditor reads it, from its files, and its chain is verified as the
command does it. How often software may stand in is counted from its times alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from attrs import define, field, frozen
from chaos.ledger import CANCELLED, NEVER_ENDED, SIGNED, Entry, Ledger, request_id
from chaos.sorts import Sort

import manahsm
from manahsm.audit.reading import read_lines
from manahsm.audit.verify import verify

__all__ = ["Limits", "Routes", "audit"]


@frozen
class Limits:
    """What was configured for stand-ins: so many in an outage, which ends after so many well seconds."""

    max_fallback_operations: int
    health_check_interval: float


@define
class Routes:
    """What signed, by sort of key: the first slot, another slot, or software."""

    primary: Counter[Sort] = field(factory=Counter)
    backup: Counter[Sort] = field(factory=Counter)
    software: Counter[Sort] = field(factory=Counter)

    def count(self, signed: list[_Record], sort: Sort) -> None:
        """Count what has signed."""
        for record in signed:
            if record.backend == "software":
                self.software[sort] += 1
            elif record.diverted:
                self.backup[sort] += 1
            else:
                self.primary[sort] += 1


class _Record(msgspec.Struct):
    time: str
    event: str
    request_id: str | None = None
    key_id: str | None = None
    digest: str | None = None
    backend: str | None = None
    slot: str | None = None
    diverted: bool = False
    outcome: str | None = None
    reason: str | None = None


_decode = msgspec.json.Decoder(_Record).decode


def audit(directory: Path, ledger: Ledger, keys: Mapping[Sort, manahsm.KeyInfo], limits: Limits, now: float) -> Routes:
    """Compare the log with the ledger; every difference is a violation there.

    Args:
        directory: the audit log's.
        ledger: the callers' account, complete.
        keys: what they used.
        limits: of stand-ins.
        now: seconds after the beginning, for the violations.
    """
    report = verify(directory)
    if report.failure is not None:
        ledger.violated("the audit chain holds", report.failure.text, now)
    records = _by_request(directory)
    routes, stand_ins = Routes(), []
    for caller in ledger.callers:
        for number, entry in enumerate(ledger.entries(caller)):
            identity = request_id(caller, number)
            found = records.pop(identity, [])
            signed = [record for record in found if record.outcome == SIGNED]
            routes.count(signed, entry.sort)
            stand_ins += [record for record in signed if entry.sort is Sort.TWIN and record.backend == "software"]
            for wrong in _wrong_hands(signed, entry.sort, keys[entry.sort]):
                ledger.violated("the same key or nothing", f"{identity}: {wrong}", now)
            for wrong in _misfits(entry, found, signed):
                ledger.violated("nothing unaudited leaves", f"{identity} ({entry.sort.value}): {wrong}", now)
    for identity in records:
        ledger.violated("nothing unaudited leaves", f"{identity}: there is a record, but nobody asked", now)
    for used in _outages(stand_ins, limits.health_check_interval):
        if used > limits.max_fallback_operations:
            detail = f"{used} stand-ins in one outage, {limits.max_fallback_operations} are allowed"
            ledger.violated("max_fallback_operations", detail, now)
    return routes


def _by_request(directory: Path) -> dict[str, list[_Record]]:
    records: dict[str, list[_Record]] = {}
    for record in _records(directory):
        if record.event == "sign" and record.request_id is not None and record.request_id.startswith("chaos-"):
            records.setdefault(record.request_id, []).append(record)
    return records


def _records(directory: Path) -> Iterator[_Record]:
    for line in read_lines(directory):
        yield _decode(line.content)


def _misfits(entry: Entry, found: list[_Record], signed: list[_Record]) -> Iterator[str]:
    """What is wrong with the records of one request."""
    if not found:
        yield f"{entry.outcome}, but there is no record"
    if entry.outcome in {CANCELLED, NEVER_ENDED} or not found:
        return  # a caller that was gone can not say how it ended
    record = found[0]
    if len(found) != 1:
        yield f"there are {len(found)} records"
    if (entry.outcome == SIGNED) != bool(signed):
        yield f"{entry.outcome}, but the record says {record.outcome} ({record.reason})"
    elif signed and not (record.digest or "").startswith("0x" + entry.digest.hex()):
        yield "the record has another digest"
    elif not signed and not (record.reason or "").startswith(f"{entry.outcome}:"):
        yield f"{entry.outcome}, but the record says {record.reason}"


def _wrong_hands(signed: list[_Record], sort: Sort, key: manahsm.KeyInfo) -> Iterator[str]:
    """Signatures that were made where they may not be."""
    for record in signed:
        if record.key_id != key.key_id:
            yield f"key {record.key_id} has signed for a key of the sort {sort.value!r}"
        if record.backend == "software":
            if not sort.software_may_sign:
                yield f"software has signed with a key of the sort {sort.value!r}"
        elif record.slot not in sort.slots:
            yield f"slot {record.slot} has signed with a key of the sort {sort.value!r}"
        elif record.diverted != (record.slot != sort.slots[0]):
            yield f"diverted is {record.diverted} for slot {record.slot}"


def _outages(stand_ins: list[_Record], interval: float) -> list[int]:
    """Stand-ins of each outage: between two outages the token is well for a whole check interval, at least."""
    times = sorted(datetime.fromisoformat(record.time).timestamp() for record in stand_ins)
    counts: list[int] = []
    before: float | None = None
    for time in times:
        # A record comes a little after what it is about.
        if before is None or time - before > 0.8 * interval:
            counts.append(0)
        counts[-1] += 1
        before = time
    return counts
