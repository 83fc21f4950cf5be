"""Alerts on disk, so that a restart neither forgets one nor raises it again.

The one thing to know: the file is a help and never a hindrance. One that can not be read is set aside under another
name and the service starts without it; one that can not be written is written when it can be again. Everything here
blocks, for a file of a few kilobytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec
from attrs import frozen

from manahsm.files import make_private_directory, write_atomically
from manahsm.logs import get_logger
from manahsm.monitoring.alert_rules import Alert

__all__ = ["ALERTS_FILE", "AlertStore", "Stored"]

_log = get_logger("manahsm.alerts")

ALERTS_FILE = "alerts.json"
_VERSION = 1
_LARGEST = 16 * 2**20  # bytes; we write far less


@frozen(kw_only=True)
class _File:
    """What the file holds."""

    version: int
    alerts: tuple[Alert, ...]
    configuration: str | None = None


@frozen(kw_only=True)
class Stored:
    """What was found at the start.

    Attributes:
        alerts: all that were stored, open and resolved.
        configuration: digest of the configuration of that time, or ``None`` where that is not known.
        damage: why the file could not be used and where it is now, or ``None``.
    """

    alerts: tuple[Alert, ...] = ()
    configuration: str | None = None
    damage: str | None = None


class AlertStore:
    """One file.

    Args:
        directory: ``state_dir``.
        configuration: digest of the configuration in force, kept with the alerts.
    """

    def __init__(self, directory: Path, configuration: str | None = None) -> None:
        self.path = directory / ALERTS_FILE
        self.configuration = configuration

    def load(self) -> Stored:
        """Read the file; never raises for what is wrong with it."""
        try:
            with self.path.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return Stored()
        except OSError as error:
            return Stored(damage=f"{self.path} can not be read: {error.strerror}")
        try:
            found = msgspec.json.decode(content, type=_File)
            if found.version != _VERSION or len(content) > _LARGEST:
                return self._set_aside(f"version {found.version} is not known")
        except (msgspec.DecodeError, RecursionError) as error:
            return self._set_aside(str(error))
        return Stored(alerts=found.alerts, configuration=found.configuration)

    def save(self, alerts: Iterable[Alert]) -> None:
        """Write the file, all or nothing.

        Raises:
            OSError: it could not be written; the old one is unchanged.
        """
        make_private_directory(self.path.parent)
        file = _File(version=_VERSION, alerts=tuple(alerts), configuration=self.configuration)
        write_atomically(self.path, msgspec.json.encode(file))

    def _set_aside(self, why: str) -> Stored:
        aside = self.path.with_name(f"{self.path.stem}.damaged-{secrets.token_hex(4)}.json")
        try:
            self.path.rename(aside)
        except OSError as error:
            return Stored(damage=f"{self.path}: {why}; it can not be set aside either: {error.strerror}")
        _log.error("stored alerts set aside", path=str(aside), reason=why)
        return Stored(damage=f"{why}; set aside as {aside.name}")
