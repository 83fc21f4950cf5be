"""The audit log: append-only, chained, and written before anything is released.

The one thing to know: :meth:`AuditLog.append` is one ``os.write`` to a file that only we have open, in the event loop:
a record costs a few microseconds, and when the call returns, the record survives the death of this process. Whether it
also survives the death of the machine is ``audit.fsync``. Any trouble raises ``AuditUnavailable``, so that nothing
leaves unrecorded; the next append tries again by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import anyio.to_thread
from anyio import CancelScope, CapacityLimiter

from manahsm.audit.noted import note_head
from manahsm.audit.output import Output
from manahsm.audit.records import AuditEvent, AuditRecord, Head, seal
from manahsm.audit.recovery import Recovered, recover
from manahsm.audit.segments import segment_path
from manahsm.config.model import Fsync
from manahsm.errors import AuditUnavailable
from manahsm.files import FileInUse, lock_exclusively, make_private_directory
from manahsm.logs import get_logger
from manahsm.times import utc_now
from supervisors import ChildContext

__all__ = ["AuditLog"]

_log = get_logger("manahsm.audit")


class AuditLog:
    """An open log. Use it from the event loop's thread alone; open it with :meth:`open`.

    Attributes:
        directory: its folder.
        head: sequence number and hash of the last record.
        trouble: why the last write or sync failed, or ``None`` while all is well. It ends by itself.
        last_sync: when records were last forced to the disk (UTC); ``None`` before that, and with ``fsync = "never"``.
    """

    def __init__(
        self,
        directory: Path,
        found: Recovered,
        *,
        lock: int,
        fsync: Fsync,
        fsync_interval: float,
        max_segment_size: int,
        max_segment_age: float,
        now: Callable[[], datetime],
    ) -> None:
        self.directory = directory
        self.head = found.head
        self.trouble: str | None = None
        self.last_sync: datetime | None = None
        self._lock = lock
        self._fsync = fsync
        self._interval = fsync_interval
        self._largest = max_segment_size
        self._longest = timedelta(seconds=max_segment_age)
        self._now = now
        self._output = Output(found.path, found.size, durable=fsync is not Fsync.NEVER)
        self._ends = found.begun + self._longest
        self._synced = found.head
        self._noted = 0
        self._closed = False
        self._thread = CapacityLimiter(1)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        fsync: Fsync = Fsync.INTERVAL,
        fsync_interval: float = 0.1,
        max_segment_size: int = 64 * 2**20,
        max_segment_age: float = 86_400.0,
        now: Callable[[], datetime] = utc_now,
    ) -> AuditLog:
        """Open the log in ``directory``, making it where there is none. Blocks for a few file operations.

        What a crash tore off at the end is set aside in a file of its own, and a record says so. Where records are
        gone that had been on the disk, a record says that too, and the chain goes on behind them.

        Args:
            directory: made, and closed to others.
            fsync: when records reach the disk.
            fsync_interval: seconds between two syncs of :meth:`run`.
            max_segment_size: bytes after which records go to a new file.
            max_segment_age: seconds from a file's first record after which the next one goes to a new file.
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
            found = recover(directory)
            log = cls(
                directory,
                found,
                lock=lock,
                fsync=fsync,
                fsync_interval=fsync_interval,
                max_segment_size=max_segment_size,
                max_segment_age=max_segment_age,
                now=now,
            )
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise AuditUnavailable(_unavailable(directory, error)) from error
            raise
        log._record_recovery(found)
        return log

    @property
    def healthy(self) -> bool:
        """Whether the last write and the last sync went well."""
        return self.trouble is None

    @property
    def path(self) -> Path:
        """The segment that is written now."""
        return self._output.path

    @property
    def unsynced_records(self) -> int:
        """How many records have not been forced to the disk yet; says little with ``fsync = "never"``."""
        return self.head.seq - self._synced.seq

    def append(self, record: AuditRecord) -> None:
        """Write one record. With ``fsync = "always"`` this waits for the disk; see :meth:`write`.

        Raises:
            AuditUnavailable: the record is not in the log. Do not release what it is about.
        """
        self._write(record)
        if self._fsync is Fsync.ALWAYS:
            self._sync_now(self.head.seq)

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

        A supervised child's body. Trouble ends up in :attr:`trouble`, and appends are refused until it is
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
        """Force what is left to the disk and let others open the log. Later appends are refused.

        Raises:
            AuditUnavailable: the last records may not be on the disk; the log is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        self.trouble = "it is closed"
        try:
            if self._fsync is not Fsync.NEVER:
                self._output.sync()
            self._note(self.head)
        except OSError as error:
            raise AuditUnavailable(_unavailable(self.path, error)) from error
        finally:
            self._output.close()
            os.close(self._lock)

    # ---- writing ----

    def _write(self, record: AuditRecord) -> None:
        if self.trouble is not None:
            self._repair()
        self._put(record)

    def _put(self, record: AuditRecord) -> None:
        moment = self._now()
        try:
            line, head = seal(record, self.head, moment)
        except (TypeError, ValueError, RecursionError) as error:
            raise AuditUnavailable(f"the audit record can not be written as JSON: {error}") from error
        try:
            if self._is_full(len(line), moment):
                self._output.go_on_in(segment_path(self.directory, head.seq))
            if self._output.size == 0:
                self._ends = moment + self._longest
            self._output.write(line)
        except OSError as error:
            raise self._failed(error) from error
        self.head = head

    def _is_full(self, more: int, moment: datetime) -> bool:
        size = self._output.size
        return size > 0 and (size + more > self._largest or moment >= self._ends)

    # ---- trouble ----

    def _failed(self, error: OSError) -> AuditUnavailable:
        trouble = _unavailable(self.path, error)
        if self.trouble is None:
            _log.error("audit log in trouble", reason=trouble)
        self.trouble = trouble
        return AuditUnavailable(trouble)

    def _repair(self) -> None:
        """Put things right after a failure, or raise ``AuditUnavailable`` again.

        Only a record that could be written proves that the trouble is over, so one is, and it tells of it.
        """
        if self._closed:
            raise AuditUnavailable(f"{self.path}: the audit log is closed")
        trouble = self.trouble
        try:
            if not self._output.is_in_place(exactly=True):
                self._start_segment()
                return
            self._output.untear()
            if self._fsync is not Fsync.NEVER:
                self._output.sync()
        except OSError as error:
            raise self._failed(error) from error
        self._put(AuditRecord(event=AuditEvent.LOG_RESUMED, reason=trouble))
        self.trouble = None
        _log.warning("audit log resumed", path=str(self.path))

    def _start_segment(self) -> None:
        """Go on in a new file, chained to what the lost one held: its absence can be proved."""
        lost = self.path
        make_private_directory(self.directory)
        self._output.go_on_in(segment_path(self.directory, self.head.seq + 1), lost=True)
        self._put(
            AuditRecord(
                event=AuditEvent.LOG_REOPENED,
                reason="the file of the audit log was moved, removed or changed by somebody else",
                summary={"file": lost.name},
            )
        )
        self.trouble = None
        _log.warning("audit log goes on in a new file", lost=str(lost), path=str(self.path))

    def _record_recovery(self, found: Recovered) -> None:
        try:
            for record in found.records():
                _log.warning("audit log recovered", reason=record.reason, **(record.summary or {}))
                self.append(record)
        except AuditUnavailable:
            with suppress(AuditUnavailable):  # the first one says what is wrong
                self.close()
            raise

    # ---- the disk ----

    async def _look_after(self) -> None:
        """One round of :meth:`run`; never raises for trouble with the disk."""
        try:
            if self.trouble is not None or not self._output.is_in_place(exactly=False):
                self._repair()
            if self._fsync is Fsync.NEVER:
                self._note(self.head)
            else:
                await self._sync(self.head.seq)
        except AuditUnavailable:
            return
        except OSError as error:
            self._failed(error)

    async def _sync(self, seq: int) -> None:
        """Return once every record up to ``seq`` is on the disk."""
        if self._synced.seq >= seq:
            return
        await anyio.to_thread.run_sync(self._sync_now, seq, limiter=self._thread)

    def _sync_now(self, seq: int) -> None:
        """The same, in any thread: it blocks."""
        if self._synced.seq >= seq:  # somebody else's sync covered this one while it waited
            return
        upto = self.head
        try:
            self._output.sync()
        except OSError as error:
            raise self._failed(error) from error
        if upto.seq > self._synced.seq:
            self._synced = upto
        self.last_sync = self._now()
        self._note(upto)

    def _note(self, head: Head) -> None:
        """Note how far the log has come, for the verifier; a note that fails leaves the one before, which holds too."""
        if head.seq > self._noted:
            with suppress(OSError):
                note_head(self.directory, head)
                self._noted = head.seq


def _unavailable(path: Path, error: OSError) -> str:
    return (
        f"{path}: the audit log can not be written ({error.strerror or error}): nothing is released until it "
        "can; check the disk's space and the folder's owner"
    )
