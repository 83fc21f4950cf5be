"""The audit log: append-only, chained, and written before anything is released.

:meth:`AuditLog.append` is one ``os.write`` to a file that only we have open, in the event loop: a record
costs a few microseconds, and when the call returns, the record survives the death of this process. Whether it
also survives the death of the machine is ``audit.fsync``. Any trouble raises ``AuditUnavailable``, so that
nothing leaves unrecorded; the next append tries again by itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import anyio.to_thread
from anyio import CancelScope, CapacityLimiter

from manahsm.audit.records import AuditEvent, AuditRecord, Head, seal
from manahsm.audit.segments import TornTail, find_tail, segment_path, set_aside
from manahsm.config.model import Fsync
from manahsm.errors import AuditUnavailable
from manahsm.files import (
    PRIVATE_FILE,
    FileInUse,
    lock_exclusively,
    make_private_directory,
    remove_leftovers,
    sync_directory,
)
from supervisors import ChildContext

__all__ = ["AuditLog"]

_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """An open log. Use it from the event loop's thread alone; open it with :meth:`open`.

    Attributes:
        head: sequence number and hash of the last record.
        path: the segment that is written now.
        problem: why the last write or sync failed, or ``None`` while all is well.
    """

    def __init__(
        self,
        path: Path,
        head: Head,
        size: int,
        *,
        lock: int,
        fsync: Fsync,
        fsync_interval: float,
        now: Callable[[], datetime],
    ) -> None:
        self.path = path
        self.head = head
        self.problem: str | None = None
        self._lock = lock
        self._fsync = fsync
        self._interval = fsync_interval
        self._now = now
        self._descriptor = _open_segment(path)
        self._size = size
        self._torn = 0  # bytes that a failed write left behind our last good record
        self._synced = head.seq
        self._closed = False
        self._thread = CapacityLimiter(1)
        # Held for the moment in which the descriptor is copied or replaced, never while the disk works.
        self._swapping = threading.Lock()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        fsync: Fsync = Fsync.INTERVAL,
        fsync_interval: float = 0.1,
        now: Callable[[], datetime] = _utc_now,
    ) -> AuditLog:
        """Open the log in ``directory``, making it where there is none. Blocks for a few file operations.

        What a crash tore off at the end is set aside in a file of its own, and a record says so.

        Args:
            directory: made, and closed to others.
            fsync: when records reach the disk.
            fsync_interval: seconds between two syncs of :meth:`run`.
            now: gives the time (UTC) of a record.

        Raises:
            AuditUnavailable: in use by another process, or not readable and writable.
        """
        try:
            make_private_directory(directory)
            lock = lock_exclusively(directory / "audit.lock")
        except FileInUse:
            raise AuditUnavailable(
                f"{directory}: another manahsm process writes this audit log; stop it, or set another audit.directory"
            ) from None
        except OSError as error:
            raise AuditUnavailable(_unavailable(directory, error)) from error
        try:
            remove_leftovers(directory)
            tail = find_tail(directory)
            torn = set_aside(tail)
            log = cls(
                tail.path,
                tail.head,
                tail.good_size,
                lock=lock,
                fsync=fsync,
                fsync_interval=fsync_interval,
                now=now,
            )
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise AuditUnavailable(_unavailable(directory, error)) from error
            raise
        if torn is not None:
            log._record_repair(torn)
        return log

    @property
    def unsynced(self) -> int:
        """How many records have not been forced to the disk yet; 0 says little with ``fsync = "never"``."""
        return self.head.seq - self._synced

    def append(self, record: AuditRecord) -> None:
        """Write one record. With ``fsync = "always"`` this waits for the disk; see :meth:`write`.

        Raises:
            AuditUnavailable: the record is not in the log. Do not release what it is about.
        """
        self._write(record)
        if self._fsync is Fsync.ALWAYS:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise self._failed(error) from error
            self._synced = self.head.seq

    async def write(self, record: AuditRecord) -> None:
        """Write one record as safely as :meth:`append` does, and never block the loop.

        With ``fsync = "always"`` a thread waits for the disk, and callers who come meanwhile share the next
        sync (group commit). Otherwise this is :meth:`append`, without a checkpoint.

        Raises:
            AuditUnavailable: the record is not safely in the log. Do not release what it is about.
        """
        self._write(record)
        if self._fsync is Fsync.ALWAYS:
            await self._sync(self.head.seq)

    async def run(self, context: ChildContext) -> None:
        """Force records to the disk every ``fsync_interval`` and watch that the file stays in place.

        A supervised child's body. Trouble ends up in :attr:`problem`, and appends are refused until it is
        over.
        """
        context.started(self)
        try:
            while not context.stopping:
                with context.clock.move_on_after(self._interval):
                    await context.wait_stopping()
                await self._look_after()
        finally:
            with CancelScope(shield=True):
                await self._look_after()

    def close(self) -> None:
        """Force what is left to the disk and let others open the log. Later appends are refused."""
        if self._closed:
            return
        self._closed = True
        self.problem = "it is closed"
        try:
            if self._fsync is not Fsync.NEVER:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise AuditUnavailable(_unavailable(self.path, error)) from error
        finally:
            with self._swapping:
                os.close(self._descriptor)
            os.close(self._lock)

    def _write(self, record: AuditRecord) -> None:
        if self.problem is not None:
            self._repair()
        self._put(record)

    def _put(self, record: AuditRecord) -> None:
        try:
            line, head = seal(record, self.head, self._now())
        except (TypeError, ValueError, RecursionError) as error:
            raise AuditUnavailable(f"the audit record can not be written as JSON: {error}") from error
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise self._failed(error) from error
        if written != len(line):
            self._torn = written
            raise self._failed(OSError("only a part of the record fitted"))
        self.head = head
        self._size += written

    def _failed(self, error: OSError) -> AuditUnavailable:
        self.problem = _unavailable(self.path, error)
        return AuditUnavailable(self.problem)

    def _repair(self) -> None:
        """Put things right after a failure, or raise ``AuditUnavailable`` again.

        Only a record that could be written proves that the trouble is over, so one is, and it tells of it.
        """
        if self._closed:
            raise AuditUnavailable(f"{self.path}: the audit log is closed")
        trouble = self.problem
        try:
            if not self._is_in_place(self._size + self._torn, exactly=True):
                self._start_segment()
                return
            if self._torn:
                os.ftruncate(self._descriptor, self._size)
                self._torn = 0
            if self._fsync is not Fsync.NEVER:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error
        self._put(AuditRecord(event=AuditEvent.LOG_RESUMED, reason=trouble))
        self.problem = None

    def _is_in_place(self, size: int, *, exactly: bool) -> bool:
        """Whether our file is still the one at our path, and holds what we wrote."""
        ours = os.fstat(self._descriptor)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        same = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        return same and (ours.st_size == size if exactly else ours.st_size >= size)

    def _start_segment(self) -> None:
        """Go on in a new file, chained to what the lost one held: its absence can be proved."""
        lost = self.path
        path = segment_path(lost.parent, self.head.seq + 1)
        make_private_directory(path.parent)
        # Wherever the lost file is now, it may hold records that were never synced; if it can not be, go on.
        with suppress(OSError):
            os.fdatasync(self._descriptor)
        descriptor = _open_segment(path, new=True)
        with self._swapping:
            os.close(self._descriptor)
            self._descriptor = descriptor
        self.path, self._size, self._torn = path, 0, 0
        self._put(
            AuditRecord(
                event=AuditEvent.LOG_REOPENED,
                reason="the file of the audit log was moved, removed or changed by somebody else",
                summary={"file": lost.name},
            )
        )
        self.problem = None

    def _record_repair(self, torn: TornTail) -> None:
        record = AuditRecord(
            event=AuditEvent.LOG_REPAIRED,
            reason="the end of the log was torn by a crash; it was set aside",
            summary={"bytes": torn.size, "sha256": torn.sha256, "file": torn.path.name},
        )
        try:
            self.append(record)
        except AuditUnavailable:
            self.close()
            raise

    async def _look_after(self) -> None:
        """One round of :meth:`run`; never raises for trouble with the disk."""
        try:
            if self._fsync is not Fsync.NEVER:
                await self._sync(self.head.seq)
            in_place = self._is_in_place(self._size, exactly=False)
            if self.problem is not None or not in_place:
                self._repair()
        except AuditUnavailable:
            return
        except OSError as error:
            self._failed(error)

    async def _sync(self, seq: int) -> None:
        """Return once every record up to ``seq`` is on the disk."""
        if self._synced >= seq:
            return
        await anyio.to_thread.run_sync(self._sync_in_thread, seq, limiter=self._thread)

    def _sync_in_thread(self, seq: int) -> None:
        if self._synced >= seq:  # somebody else's sync covered this one while it waited
            return
        upto = self.head.seq
        with self._swapping:
            descriptor = os.dup(self._descriptor)
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(descriptor)
        self._synced = max(self._synced, upto)


def _open_segment(path: Path, *, new: bool = False) -> int:
    descriptor = os.open(path, _NEW_FILE | (os.O_EXCL if new else 0), PRIVATE_FILE)
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
        sync_directory(path.parent)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unavailable(path: Path, error: OSError) -> str:
    return (
        f"{path}: the audit log can not be written ({error.strerror or error}): nothing is released until it "
        "can; check the disk's space and the folder's owner"
    )
