"""Something has changed: look again. A level-triggered notice that no sleeper can miss.

Readers remember the version that they looked at, and wait for a newer one; a change between the look and the
wait ends the wait at once.
"""

from __future__ import annotations

import anyio

__all__ = ["Changes"]


class Changes:
    """Counts changes and wakes those who wait for the next one."""

    def __init__(self) -> None:
        self.version = 0
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Note a change."""
        self.version += 1
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait_after(self, version: int) -> None:
        """Wait until there has been a change after ``version``."""
        while self.version == version:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
