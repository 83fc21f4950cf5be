"""The log on disk: chained across restarts, and loud when it can not write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.audit import log as log_module
from manahsm.audit.log import AuditLog
from manahsm.audit.noted import HEAD_FILE
from manahsm.audit.records import GENESIS, AuditEvent, AuditRecord, head_of
from manahsm.audit.segments import find_tail, segments
from manahsm.config.model import Fsync
from manahsm.errors import AuditUnavailable
from supervisors import ChildContext, ChildSpec, ChildState, Supervisor
from supervisors.testing import ManualClock

FIRST = "audit-000000000001.jsonl"


async def begun(clock: ManualClock) -> None:
    """Wait until the log's loop waits for its next round: a thread of its own may still be at work."""
    with anyio.fail_after(30):
        while not clock.timers():
            await checkpoint()


async def one_round(clock: ManualClock) -> None:
    """Let the log's loop do one round, whole."""
    due = clock.timers()
    clock.advance(0.1)
    with anyio.fail_after(30):
        while clock.timers() in ([], due):
            await checkpoint()


def record(caller: str = "a", **fields: Any) -> AuditRecord:
    return AuditRecord(event=AuditEvent.SIGN, caller=caller, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit"


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[AuditLog]:
    log = AuditLog.open(folder, **options)
    try:
        yield log
    finally:
        log.close()


def chain(folder: Path) -> list[dict[str, Any]]:
    """Read every record of every segment, and see that each holds and follows from the one before."""
    read = []
    previous = GENESIS
    for path in segments(folder):
        for line in path.read_bytes().splitlines(keepends=True):
            head = head_of(line)
            assert head is not None, line
            content = json.loads(line)
            assert (content["seq"], content["prev"]) == (previous.seq + 1, previous.hash)
            read.append(content)
            previous = head
    return read


def callers(folder: Path) -> list[str]:
    return [content.get("caller", content["event"]) for content in chain(folder)]


@contextmanager
def files_may_have(size: int) -> Iterator[None]:
    """Let the kernel refuse to make files longer, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- writing and reopening ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", Fsync)
def test_the_chain_goes_on_over_restarts(folder: Path, fsync: Fsync) -> None:
    for run in range(3):
        with opened(folder, fsync=fsync) as log:
            log.append(record(f"{run}a"))
            log.append(record(f"{run}b"))
            assert log.head.seq == 2 * run + 2
    assert callers(folder) == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert [path.name for path in segments(folder)] == [FIRST]


def test_a_record_is_in_the_file_when_append_returns(folder: Path) -> None:
    with opened(folder, fsync=Fsync.NEVER) as log:
        log.append(record("now"))
        assert callers(folder) == ["now"]


def test_the_time_of_a_record_is_that_of_the_clock(folder: Path) -> None:
    times = iter([datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)])
    with opened(folder, now=lambda: next(times)) as log:
        log.append(record())
        log.append(record())
    assert [content["time"] for content in chain(folder)] == [
        "2025-01-01T00:00:00.000000Z",
        "2025-01-01T00:00:00.000001Z",
    ]


def test_files_and_folder_are_private(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    (folder / FIRST).touch(mode=0o644)
    with opened(folder) as log:
        log.append(record())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_second_writer_is_refused(folder: Path) -> None:
    with opened(folder) as log:
        with pytest.raises(AuditUnavailable, match="another manahsm process"):
            AuditLog.open(folder)
        log.append(record())
    assert callers(folder) == ["a"]


def test_opening_and_closing_leaves_no_descriptor(folder: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with opened(folder):
        pass
    before = descriptors()
    for _ in range(5):
        with opened(folder) as log:
            log.append(record())
    assert descriptors() == before


def test_a_closed_log_refuses_records_and_may_be_closed_again(folder: Path) -> None:
    log = AuditLog.open(folder)
    log.close()
    log.close()
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="closed"):
            log.append(record())
    assert chain(folder) == []


def test_a_folder_that_can_not_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AuditUnavailable, match="nothing is released until it can"):
        AuditLog.open(tmp_path / "file")
    (tmp_path / "audit" / FIRST).mkdir(parents=True)
    with pytest.raises(AuditUnavailable, match="nothing is released until it can"):
        AuditLog.open(tmp_path / "audit")
    (tmp_path / "audit" / FIRST).rmdir()
    with opened(tmp_path / "audit") as log:
        log.append(record())


def test_a_summary_that_json_can_not_hold_is_refused_and_harms_nothing(folder: Path) -> None:
    with opened(folder) as log:
        for value in (object(), "\ud800"):
            with pytest.raises(AuditUnavailable, match="as JSON"):
                log.append(record(summary={"x": value}))
        assert log.trouble is None
        log.append(record("after"))
    assert callers(folder) == ["after"]


# --- torn tails -----------------------------------------------------------------------------------------------------


def written(folder: Path, count: int) -> bytes:
    """Write some records as a process does that is killed before they reach the disk: no head is noted."""
    with opened(folder) as log:
        for number in range(count):
            log.append(record(str(number)))
    (folder / HEAD_FILE).unlink()
    return (folder / FIRST).read_bytes()


def torn_files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("torn-*"))]


@settings(deadline=None)
@given(st.data())
def test_a_cut_anywhere_keeps_all_whole_records_and_sets_the_rest_aside(data: st.DataObject) -> None:
    with TemporaryDirectory() as parent:  # tmp_path would be the same for all examples
        folder = Path(parent) / "audit"
        content = written(folder, 4)
        cut = data.draw(st.integers(0, len(content)))
        garbage = data.draw(st.binary(max_size=20))
        (folder / FIRST).write_bytes(content[:cut] + garbage)
        good = find_tail(folder).good_size  # garbage may happen to be just what was cut off
        whole = content[:good].count(b"\n")
        assert content.startswith((folder / FIRST).read_bytes()[:good])
        assert whole >= content[:cut].count(b"\n")
        tail = (content[:cut] + garbage)[good:]
        with opened(folder) as log:
            log.append(record("after"))
        assert torn_files(folder) == [tail] * bool(tail)
        expected = [str(number) for number in range(whole)] + ["recovery"] * bool(tail) + ["after"]
        assert callers(folder) == expected
        if tail:
            summary = chain(folder)[-2]["summary"]
            assert (summary["bytes"], summary["sha256"]) == (len(tail), hashlib.sha256(tail).hexdigest())


def test_a_tail_longer_than_any_window_is_found(folder: Path) -> None:
    content = written(folder, 3)
    tail = (b"x" * 1000 + b"\n") * 300 + b"y" * 300_000
    (folder / FIRST).write_bytes(content + tail)
    with opened(folder):
        pass
    assert torn_files(folder) == [tail]
    assert callers(folder) == ["0", "1", "2", "recovery"]


def test_a_record_longer_than_the_window_is_found(folder: Path) -> None:
    with opened(folder) as log:
        log.append(record(summary={"data": "z" * 300_000}))
    with opened(folder) as log:
        log.append(record("after"))
    assert callers(folder) == ["a", "after"]


def test_an_edit_in_the_middle_is_left_for_the_verifier_to_find(folder: Path) -> None:
    content = written(folder, 3)
    edited = content.replace(b'"caller":"1"', b'"caller":"X"')
    (folder / FIRST).write_bytes(edited)
    with opened(folder) as log:
        log.append(record("after"))
        assert log.head.seq == 4
    assert (folder / FIRST).read_bytes().startswith(edited)
    assert torn_files(folder) == []


def test_a_torn_tail_is_set_aside_once_though_the_repair_itself_was_cut_short(folder: Path) -> None:
    content = written(folder, 2)
    (folder / FIRST).write_bytes(content + b"torn")
    with opened(folder):
        pass
    (folder / FIRST).write_bytes(content + b"torn")  # as if the truncation had never reached the disk
    with opened(folder):
        pass
    assert torn_files(folder) == [b"torn"]


def test_a_repair_that_can_not_be_recorded_leaves_the_log_closed(folder: Path) -> None:
    content = written(folder, 2)
    (folder / FIRST).write_bytes(content + b"torn")
    with files_may_have(len(content) + 10), pytest.raises(AuditUnavailable):
        AuditLog.open(folder)
    with opened(folder) as log:
        log.append(record("after"))
    assert torn_files(folder)[0] == b"torn"
    assert callers(folder)[:2] == ["0", "1"]
    assert callers(folder)[-1] == "after"


def test_a_new_segment_without_a_whole_record_goes_on_from_the_one_before(folder: Path) -> None:
    written(folder, 2)
    (folder / "audit-000000000003.jsonl").write_bytes(b'{"seq":3')
    with opened(folder) as log:
        log.append(record("after"))
    assert callers(folder) == ["0", "1", "recovery", "after"]
    assert torn_files(folder) == [b'{"seq":3']


def test_an_empty_folder_begins_at_the_beginning(tmp_path: Path) -> None:
    tail = find_tail(tmp_path)
    assert (tail.path.name, tail.head, tail.size) == (FIRST, GENESIS, 0)


# --- a disk that refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", Fsync)
def test_on_a_full_disk_records_are_refused_and_it_recovers_by_itself(folder: Path, fsync: Fsync) -> None:
    with opened(folder, fsync=fsync) as log:
        log.append(record("before"))
        with files_may_have((folder / FIRST).stat().st_size):
            for _ in range(3):
                with pytest.raises(AuditUnavailable, match=r"File too large.*nothing is released"):
                    log.append(record("lost"))
            assert log.trouble is not None
        log.append(record("after"))
        assert log.trouble is None
    assert callers(folder) == ["before", "log_resumed", "after"]


def test_a_record_that_only_partly_fitted_is_taken_back(folder: Path) -> None:
    with opened(folder) as log:
        log.append(record("before"))
        with files_may_have((folder / FIRST).stat().st_size + 20):
            with pytest.raises(AuditUnavailable, match="only a part"):
                log.append(record("lost"))
            with pytest.raises(AuditUnavailable):
                log.append(record("lost too"))
        log.append(record("after"))
    assert callers(folder) == ["before", "log_resumed", "after"]


def test_a_crash_after_a_partial_write_leaves_a_tail_to_set_aside(folder: Path) -> None:
    log = AuditLog.open(folder)
    log.append(record("before"))
    size = (folder / FIRST).stat().st_size
    with files_may_have(size + 20), pytest.raises(AuditUnavailable):
        log.append(record("lost"))
    log.close()
    with opened(folder):
        pass
    assert callers(folder) == ["before", "recovery"]
    assert [len(torn) for torn in torn_files(folder)] == [20]


def fail_fdatasync(monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fdatasync)


def test_a_disk_that_does_not_sync_refuses_until_it_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder, fsync=Fsync.ALWAYS) as log:
        with monkeypatch.context() as patch:
            fail_fdatasync(patch)
            for _ in range(2):
                with pytest.raises(AuditUnavailable, match="Input/output error"):
                    log.append(record("not promised"))
        log.append(record("after"))
        assert log.unsynced_records == 0
    # The first one is in the file though its sync failed: a record too many is harmless, one too few is not.
    assert callers(folder) == ["not promised", "log_resumed", "after"]


def test_closing_tells_when_the_last_records_may_be_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog.open(folder)
    log.append(record())
    with monkeypatch.context() as patch:
        fail_fdatasync(patch)
        with pytest.raises(AuditUnavailable, match="Input/output error"):
            log.close()
    with opened(folder):
        pass


# --- a file that is taken away --------------------------------------------------------------------------------------


def lose(folder: Path) -> None:
    (folder / FIRST).unlink()


def replace(folder: Path) -> None:
    (folder / FIRST).rename(folder / "away")
    (folder / FIRST).write_bytes(b"")


def truncate(folder: Path) -> None:
    os.truncate(folder / FIRST, 10)


def remove_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.anyio
@pytest.mark.parametrize("harm", [lose, replace, truncate, remove_the_folder])
@pytest.mark.parametrize("fsync", Fsync)
async def test_a_file_that_was_taken_away_is_noticed_and_the_chain_goes_on_in_a_new_one(
    folder: Path, harm: Any, fsync: Fsync
) -> None:
    clock = ManualClock()
    context = ChildContext("audit log", clock=clock)
    with opened(folder, fsync=fsync, fsync_interval=0.1) as log:
        log.append(record())
        last = log.head
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, context)
            await begun(clock)
            harm(folder)
            await one_round(clock)
            assert log.trouble is None
            tasks.cancel_scope.cancel()
        log.append(record("after"))
    content = [json.loads(line) for line in (folder / "audit-000000000002.jsonl").read_text().splitlines()]
    assert [line["event"] for line in content] == ["log_reopened", "sign"]
    assert (content[0]["prev"], content[0]["summary"]) == (last.hash, {"file": FIRST})


# --- forcing to the disk --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_records_are_forced_to_the_disk_at_every_interval(folder: Path) -> None:
    clock = ManualClock()
    with opened(folder, fsync_interval=0.1) as log:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
            await begun(clock)
            for _ in range(3):
                log.append(record())
                log.append(record())
                assert log.unsynced_records == 2
                await one_round(clock)
                assert log.unsynced_records == 0
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_nothing_is_left_unsynced_when_the_loop_ends(folder: Path) -> None:
    clock = ManualClock()
    with opened(folder) as log:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
            await begun(clock)
            log.append(record())
            tasks.cancel_scope.cancel()
        assert log.unsynced_records == 0


@pytest.mark.anyio
async def test_the_loop_is_ready_at_once_and_stops_when_asked(folder: Path) -> None:
    with opened(folder) as log:
        spec = ChildSpec("audit log", log.run)
        with anyio.fail_after(30):
            async with Supervisor("root", [spec]).running() as supervisor:
                assert supervisor.child("audit log").state is ChildState.RUNNING
                log.append(record())
        assert log.unsynced_records == 0


@pytest.mark.anyio
async def test_trouble_is_shown_and_ends_by_itself_without_a_record_from_outside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    with opened(folder) as log:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
            await begun(clock)
            log.append(record())
            with monkeypatch.context() as patch:
                fail_fdatasync(patch)
                for _ in range(2):
                    await one_round(clock)
                    assert log.trouble is not None
                    assert "Input/output error" in log.trouble
            await one_round(clock)
            assert log.trouble is None
            tasks.cancel_scope.cancel()
    assert callers(folder) == ["a", "log_resumed"]


@pytest.mark.anyio
async def test_a_full_disk_stays_a_problem_until_a_record_fits_again(folder: Path) -> None:
    clock = ManualClock()
    with opened(folder) as log:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
            await begun(clock)
            with files_may_have(0):
                with pytest.raises(AuditUnavailable):
                    log.append(record("lost"))
                for _ in range(3):
                    await one_round(clock)
                    assert log.trouble is not None
            await one_round(clock)
            assert log.trouble is None
            tasks.cancel_scope.cancel()
    assert callers(folder) == ["log_resumed"]


@pytest.mark.anyio
async def test_a_folder_that_can_not_be_looked_at_is_a_problem(folder: Path) -> None:
    clock = ManualClock()
    with opened(folder) as log:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run, ChildContext("audit log", clock=clock))
            await begun(clock)
            folder.rename(folder.with_name("away"))
            folder.write_bytes(b"a file in its place")
            await one_round(clock)
            assert log.trouble is not None
            folder.unlink()
            folder.with_name("away").rename(folder)
            await one_round(clock)
            assert log.trouble is None
            log.append(record("after"))
            tasks.cancel_scope.cancel()
    assert callers(folder) == ["log_resumed", "after"]


def test_always_means_that_append_has_synced(folder: Path) -> None:
    with opened(folder, fsync=Fsync.ALWAYS) as log:
        log.append(record())
        assert log.unsynced_records == 0


@pytest.mark.anyio
async def test_writers_who_come_together_share_a_sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    fdatasync = os.fdatasync

    def counted(descriptor: int) -> None:
        syncs.append(descriptor)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    with opened(folder, fsync=Fsync.ALWAYS) as log:
        on_disk = []

        async def write(number: int) -> None:
            await log.write(record(str(number)))
            on_disk.append(log._synced.seq)
            assert log._synced.seq >= number

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(write, 1)
        assert log.unsynced_records == 0
        # All were appended before the first sync could end, so the second covers whatever the first did not.
        assert 1 <= len(syncs) <= 2
    assert len(chain(folder)) == 50


@pytest.mark.anyio
async def test_a_write_whose_sync_fails_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder, fsync=Fsync.ALWAYS) as log:
        with monkeypatch.context() as patch:
            fail_fdatasync(patch)
            with pytest.raises(AuditUnavailable):
                await log.write(record("not promised"))
        await log.write(record("after"))
        assert log.unsynced_records == 0
    assert callers(folder) == ["not promised", "log_resumed", "after"]


@pytest.mark.anyio
@pytest.mark.parametrize("fsync", [Fsync.INTERVAL, Fsync.NEVER])
async def test_write_is_append_where_nobody_waits_for_the_disk(folder: Path, fsync: Fsync) -> None:
    with opened(folder, fsync=fsync) as log:
        await log.write(record())
        assert log.unsynced_records == 1
    assert callers(folder) == ["a"]


# --- trouble while opening ------------------------------------------------------------------------------------------


def test_an_interrupted_opening_holds_no_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "recover", interrupted)
        with pytest.raises(KeyboardInterrupt):
            AuditLog.open(folder)
    with opened(folder) as log:
        log.append(record())


def test_an_opening_that_can_not_make_its_file_durable_leaves_nothing_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", fail)
        with pytest.raises(AuditUnavailable, match="not permitted"):
            AuditLog.open(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_chain_is_found_behind_several_segments_without_a_whole_record(folder: Path) -> None:
    written(folder, 2)
    (folder / "audit-000000000003.jsonl").write_bytes(b"")
    (folder / "audit-000000000004.jsonl").write_bytes(b"torn")
    with opened(folder) as log:
        assert log.head.seq == 3
    with opened(folder) as log:
        log.append(record("after"))
    assert callers(folder) == ["0", "1", "recovery", "after"]
