"""The service's side of the audit log: where there is one, and how much depends on it.

The one thing to know: :meth:`Journal.write` comes before a release and decides about it; :meth:`Journal.note`
comes after a refusal or failure, and must not hide its cause.
"""

from __future__ import annotations

from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditRecord
from manahsm.errors import AuditUnavailable
from manahsm.logs import get_logger

__all__ = ["Journal"]

_log = get_logger("manahsm.audit")


class Journal:
    """Writes records to the log, as strictly as the configuration asks.

    Args:
        log: ``None`` where ``audit.enabled`` is false.
        required: ``security_policy.audit_all_operations``: no record, no release.
    """

    def __init__(self, log: AuditLog | None, *, required: bool) -> None:
        self._log = log
        self._required = required

    async def write(self, record: AuditRecord) -> None:
        """Write the record of something that is about to be released.

        Raises:
            AuditUnavailable: it is not in the log, and records are required.
        """
        try:
            await self._write(record)
        except AuditUnavailable as error:
            if self._required:
                raise
            _lost(record, error)

    async def note(self, record: AuditRecord) -> None:
        """Write the record of something that released nothing; trouble with the log is only logged."""
        try:
            await self._write(record)
        except AuditUnavailable as error:
            _lost(record, error)

    def note_now(self, record: AuditRecord) -> None:
        """Like :meth:`note`, without a checkpoint: for a task that is being cancelled."""
        if self._log is None:
            return
        try:
            self._log.append(record)
        except AuditUnavailable as error:
            _lost(record, error)

    async def _write(self, record: AuditRecord) -> None:
        if self._log is not None:
            await self._log.write(record)


def _lost(record: AuditRecord, error: AuditUnavailable) -> None:
    _log.error("audit record lost", event_type=record.event.value, error=str(error))
