"""The record of the configuration that is in force since a start, and of what changed since the one before.

The one thing to know: everything here is made of :meth:`~manahsm.config.model.Config.describe`, in which secrets are
stars. The last configuration that was recorded is kept beside the log, to compare with; its own digest is in the chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread

from manahsm.audit.journal import Journal
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.model import Config
from manahsm.files import write_atomically
from manahsm.logs import get_logger
from manahsm.nesting import too_deep

__all__ = ["CONFIGURATION_FILE", "configuration_summary", "record_configuration"]

CONFIGURATION_FILE = "configuration.json"
_log = get_logger("manahsm.audit")


async def record_configuration(journal: Journal, config: Config) -> None:
    """Write the record of a start's configuration, then keep it for the next start.

    Raises:
        AuditUnavailable: it is not in the log, and records are required.
    """
    if not config.audit.enabled:
        return
    path = config.audit_directory / CONFIGURATION_FILE
    now = encoded(config)
    before = await anyio.to_thread.run_sync(_read, path)
    await journal.write(
        AuditRecord(
            event=AuditEvent.CONFIG,
            summary=configuration_summary(before, now),
            outcome=AuditOutcome.DONE,
        )
    )
    if now != before:
        try:
            await anyio.to_thread.run_sync(write_atomically, path, now)
        except OSError as error:
            # The next start compares with an older one, and the digests in the chain show that.
            _log.error("the configuration can not be kept", path=str(path), reason=error.strerror)


def encoded(config: Config) -> bytes:
    """A configuration as it is hashed and kept: sorted JSON, secrets as stars."""
    return json.dumps(config.describe(), indent=1, sort_keys=True).encode() + b"\n"


def configuration_summary(before: bytes | None, now: bytes) -> dict[str, Any]:
    """What the record says (pure).

    Args:
        before: the kept form of the last one, ``None`` where there is none.
        now: the kept form of the one in force.

    Returns:
        ``sha256`` of ``now``; with one before, its digest as ``previous`` and ``changed``: dotted path ->
        ``[before, now]``, ``None`` standing for an option that is not set.
    """
    summary: dict[str, Any] = {"sha256": hashlib.sha256(now).hexdigest()}
    if before is None:
        return summary
    summary["previous"] = hashlib.sha256(before).hexdigest()
    try:
        old = None if too_deep(before) else dict(_flat(json.loads(before), "hsm"))
    except ValueError:
        old = None
    if old is None:  # somebody else wrote it
        return summary | {"previous_readable": False}
    new = dict(_flat(json.loads(now), "hsm"))
    summary["changed"] = {
        path: [old.get(path), new.get(path)] for path in sorted(old | new) if old.get(path) != new.get(path)
    }
    return summary


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    match value:
        case Mapping():
            for name, inner in value.items():
                yield from _flat(inner, f"{path}.{name}")
        case list() if any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                yield from _flat(item, f"{path}[{index}]")
        case _:
            yield path, value


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("the last configuration can not be read", path=str(path), reason=error.strerror)
        return None
