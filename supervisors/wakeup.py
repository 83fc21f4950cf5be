"""Waking one task once: what is left of an event where it is known that a single task waits, and waits a single time.

The one thing to know: an ``anyio.Event`` serves any number of tasks and costs twice as much (5 us from its making to
the wake-up, this 2.5), which counts where every request has one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from sniffio import current_async_library

__all__ = ["Wakeup", "new_wakeup"]


class Wakeup(Protocol):
    """A wait that ends once. Not thread-safe."""

    def set(self) -> None:
        """Wake the task that waits; one that comes to wait later does not wait at all. Harmless when it was set."""
        ...

    async def wait(self) -> None:
        """Wait for :meth:`set`; for one task, which may be cancelled here. No checkpoint where it was set before."""
        ...


class _AsyncioWakeup:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


_kinds: dict[str, type[Wakeup]] = {"asyncio": _AsyncioWakeup}


def new_wakeup() -> Wakeup:
    """Return one for the event loop that runs now."""
    library = current_async_library()
    if library not in _kinds:
        from supervisors.wakeup_trio import TrioWakeup  # noqa: PLC0415 - it is loaded where it runs: that takes 0.1 s

        _kinds[library] = TrioWakeup
    return _kinds[library]()
