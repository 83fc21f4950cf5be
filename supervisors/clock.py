"""Time as a parameter: everything in this kit that waits takes a :class:`Clock`.

The one thing to know: times are seconds on the clock's own scale, comparable only with times of the same
clock. In production that is :data:`SYSTEM_CLOCK` (monotonic time, alike on asyncio and trio, readable without
a running loop); in tests it is :class:`supervisors.testing.ManualClock`, which moves only when told to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import anyio

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


@runtime_checkable
class Clock(Protocol):
    """What the kit asks of a clock. All times are seconds; none of the scopes may be entered twice."""

    def now(self) -> float:
        """Return the current time of this clock; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``; a checkpoint where that is zero or less."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Wait until the clock shows ``when``; a checkpoint where that has passed."""
        ...

    def move_on_at(self, when: float | None, *, shield: bool = False) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel the block when the clock shows ``when`` (``None``: never)."""
        ...

    def move_on_after(
        self, seconds: float | None, *, shield: bool = False
    ) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel the block after ``seconds`` (``None``: never); see ``cancelled_caught`` of the scope."""
        ...

    def fail_after(self, seconds: float | None, *, shield: bool = False) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel the block after ``seconds`` (``None``: never) and raise ``TimeoutError`` in its place."""
        ...


class SystemClock:
    """Real, monotonic time.

    ``now()`` is ``time.monotonic()`` rather than the loop's own time, because trio's starts at a random
    offset and neither can be read where no loop runs.
    """

    now = staticmethod(time.monotonic)  # itself, as it is asked twenty times a signature

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        await anyio.sleep(max(0.0, seconds))

    async def sleep_until(self, when: float) -> None:
        """Wait until the clock shows ``when``."""
        await anyio.sleep(max(0.0, when - time.monotonic()))

    def move_on_at(self, when: float | None, *, shield: bool = False) -> anyio.CancelScope:
        """Cancel the block when the clock shows ``when``."""
        if when is None:
            return anyio.CancelScope(shield=shield)
        return anyio.CancelScope(deadline=anyio.current_time() + when - time.monotonic(), shield=shield)

    def move_on_after(self, seconds: float | None, *, shield: bool = False) -> anyio.CancelScope:
        """Cancel the block after ``seconds``."""
        deadline = math.inf if seconds is None else anyio.current_time() + seconds
        return anyio.CancelScope(deadline=deadline, shield=shield)

    @contextmanager
    def fail_after(self, seconds: float | None, *, shield: bool = False) -> Iterator[anyio.CancelScope]:
        """Cancel the block after ``seconds`` and raise ``TimeoutError`` in its place."""
        with anyio.fail_after(seconds, shield=shield) as scope:
            yield scope


SYSTEM_CLOCK = SystemClock()
