"""The time of day: what records, alerts and keys are dated with. Timers take a clock instead."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_now"]


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)
