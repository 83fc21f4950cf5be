"""Calls observers so that they can not hurt what they observe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

__all__ = ["report"]

E = TypeVar("E")

_log = logging.getLogger("supervisors")


def report(hook: Callable[[E], None] | None, event: E) -> None:
    """Hand ``event`` to ``hook`` if there is one; whatever it raises is logged and goes no further."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception:  # noqa: BLE001 - observers may fail in any way
        _log.exception("a hook failed on %s", type(event).__name__)
