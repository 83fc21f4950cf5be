"""Many deadlines and one task that keeps them: for waits that nearly always end long before theirs.

The one thing to know: a cancel scope with a deadline costs as much as the rest of a request and its reply (7 us on
asyncio, 10 on trio), a timer here costs one. It calls back only while :meth:`Timers.run` runs, so that belongs to the
first children of a supervision tree, which end last.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

import anyio

from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.context import ChildContext

__all__ = ["Timer", "Timers"]

_FEW = 64


class Timer:
    """One deadline; from :meth:`Timers.call_at`."""

    __slots__ = ("_callback", "_timers")

    def __init__(self, timers: Timers, callback: Callable[[], object]) -> None:
        self._timers = timers
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not call back. Harmless when it has."""
        if self._callback is not None:
            self._callback = None
            self._timers._cancelled_one()  # noqa: SLF001 - a timer is a part of it

    def _ring(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    @property
    def pending(self) -> bool:
        """Whether it has neither called back nor been cancelled."""
        return self._callback is not None


class Timers:
    """Calls back at given times. Not thread-safe: use it from one event loop.

    Args:
        clock: its time.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []  # with some that were cancelled
        self._numbers = itertools.count()
        self._cancelled = 0
        self._wakes_at = math.inf
        self._earlier = anyio.Event()

    def __len__(self) -> int:
        """Deadlines that are still to come."""
        return len(self._heap) - self._cancelled

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback`` when the clock shows ``when``: soon, where that has passed. It must not raise."""
        timer = Timer(self, callback)
        heapq.heappush(self._heap, (when, next(self._numbers), timer))
        if when < self._wakes_at:
            self._earlier.set()
        return timer

    async def run(self, ctx: ChildContext) -> None:
        """Call back until cancelled: the body of a supervised task."""
        ctx.started()
        while True:
            self._ring_due()
            self._earlier = anyio.Event()
            self._wakes_at = self._heap[0][0] if self._heap else math.inf
            with self._clock.move_on_at(None if math.isinf(self._wakes_at) else self._wakes_at):
                await self._earlier.wait()

    def _ring_due(self) -> None:
        heap, now = self._heap, self._clock.now()
        while heap and (heap[0][0] <= now or not heap[0][2].pending):
            _, _, timer = heapq.heappop(heap)
            if timer.pending:
                timer._ring()  # noqa: SLF001 - a timer is a part of this
            else:
                self._cancelled -= 1

    def _cancelled_one(self) -> None:
        """Most are cancelled: sweep them out when they are the most that is kept, so that memory is bounded."""
        self._cancelled += 1
        if self._cancelled > len(self._heap) // 2 + _FEW:
            self._heap[:] = [entry for entry in self._heap if entry[2].pending]
            heapq.heapify(self._heap)
            self._cancelled = 0
