"""The service's side of the audit log: where there is one, and how much depends on it.

The one thing to know: :meth:`Journal.write` comes before a release and decides about it; :meth:`Journal.note`
comes after a refusal or failure, and must not hide its cause. Both also write the log lines of
:mod:`manahsm.audit.lines`, at level ``info`` of the logger ``manahsm.audit``, and nothing else does.
"""

from __future__ import annotations

import logging

import msgspec
import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict

from manahsm.access import asker
from manahsm.audit.lines import hsm_line, signing_line
from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditRecord
from manahsm.errors import AuditUnavailable
from manahsm.logs import get_logger

__all__ = ["Journal"]

_NAME = "manahsm.audit"
_log = get_logger(_NAME)
_logger = logging.getLogger(_NAME)


def _as_it_is(_logger: logging.Logger, _method: str, event: EventDict) -> str:
    """The lines are rendered already, and two are written for every signature: nothing else is to be done to them."""
    return str(event["event"])


_lines: BoundLogger = structlog.wrap_logger(_logger, processors=[_as_it_is], wrapper_class=BoundLogger).bind()


class Journal:
    """Writes records to the log, as strictly as the configuration asks.

    Args:
        log: ``None`` where ``audit.enabled`` is false; then there are no log lines either.
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
        record = _named(record)
        try:
            await self._write(record)
        except AuditUnavailable as error:
            if self._required:
                raise
            _lost(record, error)
            _say(record)

    async def note(self, record: AuditRecord) -> None:
        """Write the record of something that released nothing; trouble with the log is only logged."""
        record = _named(record)
        try:
            await self._write(record)
        except AuditUnavailable as error:
            _lost(record, error)
            _say(record)

    def note_now(self, record: AuditRecord) -> None:
        """Like :meth:`note`, without a checkpoint: for a task that is being cancelled."""
        if self._log is None:
            return
        record = _named(record)
        try:
            self._log.append(record)
        except AuditUnavailable as error:
            _lost(record, error)
        _say(record)

    async def _write(self, record: AuditRecord) -> None:
        if self._log is not None:
            await self._log.write(record)
            _say(record)


def _named(record: AuditRecord) -> AuditRecord:
    """Name who asks, where the record does not say and an interface does."""
    who = asker() if record.caller is None else None
    if who is None:
        return record
    return msgspec.structs.replace(record, caller=who.caller, request_id=record.request_id or who.request_id)


def _lost(record: AuditRecord, error: AuditUnavailable) -> None:
    _log.error("audit record lost", event_type=record.event.value, error=str(error))


def _say(record: AuditRecord) -> None:
    """Write the lines of a record. They are not even put together where nobody listens."""
    if not _logger.isEnabledFor(logging.INFO):
        return
    _lines.info(hsm_line(record))
    signing = signing_line(record)
    if signing is not None:
        _lines.info(signing)
