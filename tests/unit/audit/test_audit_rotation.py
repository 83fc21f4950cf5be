"""The log goes on in new files, and what is missing at its end is noticed when it is opened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from audit_samples import a_record, make_log

from manahsm.audit.log import AuditLog
from manahsm.audit.noted import HEAD_FILE, note_head, noted_head
from manahsm.audit.records import GENESIS, Head
from manahsm.audit.segments import segments
from manahsm.audit.verify import verify
from manahsm.config.model import Fsync
from manahsm.errors import AuditUnavailable
from supervisors import ChildContext
from supervisors.testing import ManualClock

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
SMALL = 4096


def names(folder: Path) -> list[str]:
    return [path.name for path in segments(folder)]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in segments(folder) for line in path.read_bytes().splitlines()]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- size and age ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", Fsync)
def test_no_segment_is_larger_than_it_may_be_and_the_chain_runs_on(tmp_path: Path, fsync: Fsync) -> None:
    for _ in range(2):  # over a restart too
        log = AuditLog.open(tmp_path, fsync=fsync, max_segment_size=SMALL)
        for number in range(50):
            log.append(a_record(number))
        log.close()
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    largest_record = max(len(line) for path in segments(tmp_path) for line in path.read_bytes().splitlines(True))
    assert len(sizes) > 5
    assert max(sizes) <= SMALL
    assert all(size > SMALL - largest_record for size in sizes[:-1])
    report = verify(tmp_path)
    assert (report.failure, report.records) == (None, 100)


def test_a_segment_is_named_after_its_first_record(tmp_path: Path) -> None:
    make_log(tmp_path, 50, segment_size=SMALL)
    for path in segments(tmp_path):
        first = json.loads(path.read_bytes().splitlines()[0])
        assert path.name == f"audit-{first['seq']:012d}.jsonl"


def test_a_record_larger_than_a_segment_has_one_for_itself(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, max_segment_size=300)
    for number in range(3):
        log.append(a_record(number))
    log.close()
    assert len(names(tmp_path)) == 3
    assert verify(tmp_path).failure is None


def test_an_old_segment_is_followed_by_a_new_one_with_the_next_record(tmp_path: Path) -> None:
    now = NOON
    log = AuditLog.open(tmp_path, max_segment_age=60.0, now=lambda: now)
    for seconds in (0, 59, 60, 119, 120):
        now = NOON + timedelta(seconds=seconds)
        log.append(a_record(seconds))
    log.close()
    assert names(tmp_path) == [f"audit-{seq:012d}.jsonl" for seq in (1, 3, 5)]
    assert verify(tmp_path).failure is None


def test_the_age_of_a_segment_is_known_after_a_restart(tmp_path: Path) -> None:
    for seconds in (0, 30, 60):
        moment = NOON + timedelta(seconds=seconds)
        log = AuditLog.open(tmp_path, max_segment_age=60.0, now=lambda moment=moment: moment)
        log.append(a_record(seconds))
        log.close()
    assert names(tmp_path) == [f"audit-{seq:012d}.jsonl" for seq in (1, 3)]


def test_a_segment_whose_beginning_was_edited_is_not_written_any_further(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    segment = segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes().replace(b"r-1", b"r-X"))
    log = AuditLog.open(tmp_path)
    log.append(a_record(3))
    log.close()
    assert names(tmp_path) == [f"audit-{seq:012d}.jsonl" for seq in (1, 3)]


def test_a_segment_whose_first_time_is_no_time_is_not_written_any_further(tmp_path: Path) -> None:
    body = b'{"seq":1,"time":"noon","prev":"%b","event":"start"' % GENESIS.hash.encode()
    line = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    (tmp_path / "audit-000000000001.jsonl").write_bytes(line)
    log = AuditLog.open(tmp_path)
    log.append(a_record(2))
    log.close()
    assert names(tmp_path) == [f"audit-{seq:012d}.jsonl" for seq in (1, 2)]


@pytest.mark.parametrize("fsync", Fsync)
def test_old_segments_do_not_stay_open(tmp_path: Path, fsync: Fsync) -> None:
    before = descriptors()
    log = AuditLog.open(tmp_path, fsync=fsync, max_segment_size=300)
    opened = descriptors()
    for number in range(5):
        log.append(a_record(number))
    if fsync is Fsync.INTERVAL:
        log._sync_now(log.head.seq)
    assert descriptors() == opened
    log.append(a_record(6))
    log.close()
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_where_no_new_segment_can_be_made_records_are_refused_until_one_can(tmp_path: Path, kind: str) -> None:
    log = AuditLog.open(tmp_path, max_segment_size=300)
    log.append(a_record(1))
    in_the_way = tmp_path / "audit-000000000002.jsonl"
    if kind == "folder":
        in_the_way.mkdir()
    else:
        in_the_way.write_bytes(b"somebody else's")
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="nothing is released"):
            log.append(a_record(2))
        assert not log.healthy
    in_the_way.rename(tmp_path / "away")
    log.append(a_record(2))
    assert log.healthy
    log.close()
    assert [record["event"] for record in events(tmp_path)] == ["sign", "log_resumed", "sign"]


def sync_of(monkeypatch: pytest.MonkeyPatch, record: list[str], fail: set[str]) -> None:
    """Watch which files are synced, and let some of them fail."""
    true = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name in fail:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        true(descriptor)
        record.append(name)

    monkeypatch.setattr(os, "fdatasync", fdatasync)


def test_a_sync_covers_the_segments_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog.open(tmp_path, max_segment_size=300)
    for number in range(3):
        log.append(a_record(number))
    synced: list[str] = []
    fail: set[str] = {names(tmp_path)[1]}
    with monkeypatch.context() as patch:
        sync_of(patch, synced, fail)
        with pytest.raises(AuditUnavailable, match="Input/output"):
            log._sync_now(3)
        assert log.unsynced_records == 3
        assert noted_head(tmp_path) is None  # only what is safe is noted
        fail.clear()
        synced.clear()
        log._sync_now(3)
        assert synced == names(tmp_path)
    assert (log.unsynced_records, noted_head(tmp_path)) == (0, log.head)
    log.close()


# --- figures for health and metrics ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_lag_and_the_last_sync_are_shown(tmp_path: Path) -> None:
    clock, now = ManualClock(), NOON
    log = AuditLog.open(tmp_path, fsync_interval=0.1, now=lambda: now)
    assert (log.healthy, log.trouble, log.unsynced_records, log.last_sync) == (True, None, 0, None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
        with anyio.fail_after(30):
            while not clock.timers():
                await checkpoint()
            log.append(a_record(1))
            assert log.unsynced_records == 1
            now = NOON + timedelta(seconds=5)
            clock.advance(0.1)
            while log.unsynced_records:
                await checkpoint()
        assert log.last_sync == now
        tasks.cancel_scope.cancel()
    log.close()


# --- the noted head -------------------------------------------------------------------------------------------------


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    assert noted_head(tmp_path) is None
    for head in (Head(7, "ab" * 32), Head(10**17, "cd" * 32), Head(8, "ef" * 32)):
        note_head(tmp_path, head)
        assert noted_head(tmp_path) == head


def test_a_note_that_can_not_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / HEAD_FILE).symlink_to(tmp_path / "elsewhere")  # not followed: it would write somebody else's file
    log = AuditLog.open(tmp_path, fsync=Fsync.ALWAYS)
    log.append(a_record(1))
    log.close()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("left", [0, 1, 4])
def test_records_that_are_gone_at_the_next_start_leave_a_gap_for_ever(tmp_path: Path, left: int) -> None:
    make_log(tmp_path, 5)
    segment = segments(tmp_path)[0]
    kept = b"".join(segment.read_bytes().splitlines(keepends=True)[:left])
    segment.write_bytes(kept)
    for _ in range(2):
        log = AuditLog.open(tmp_path)
        log.append(a_record(0))
        log.close()
    recorded = [record for record in events(tmp_path) if record["event"] == "recovery"]
    assert [record["summary"] for record in recorded] == [{"first_missing": left + 1, "last_missing": 5}]
    assert recorded[0]["seq"] == 6
    failure = verify(tmp_path).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == ("missing", left + 1)


def test_segments_that_are_gone_at_the_next_start_leave_a_gap_for_ever(tmp_path: Path) -> None:
    make_log(tmp_path, 50, segment_size=SMALL)
    for path in segments(tmp_path):
        path.unlink()
    AuditLog.open(tmp_path).close()
    assert names(tmp_path) == ["audit-000000000051.jsonl"]
    failure = verify(tmp_path).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == ("missing", 1)


def test_a_torn_tail_over_records_that_were_noted_tells_both(tmp_path: Path) -> None:
    make_log(tmp_path, 5)
    segment = segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes()[:-10])
    AuditLog.open(tmp_path).close()
    reasons = [record["reason"] for record in events(tmp_path) if record["event"] == "recovery"]
    assert len(reasons) == 2
    assert "torn" in reasons[0]
    assert "gone" in reasons[1]


def test_a_damaged_note_is_recorded_and_written_anew(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    (tmp_path / HEAD_FILE).write_bytes(b"nonsense that is longer than a note may be" * 10)
    log = AuditLog.open(tmp_path)
    log.close()
    assert [record["event"] for record in events(tmp_path)] == ["sign", "sign", "recovery"]
    assert noted_head(tmp_path) == log.head
    assert verify(tmp_path).failure is None
