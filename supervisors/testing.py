"""What tests of supervised programs need: a clock that moves when told to, and a recorder of events.

The one thing to know: with a :class:`ManualClock` no test ever sleeps. ``await clock.run_for(s)`` lets
everything settle, moves to the next timer, lets everything settle again, and so on, for ``s`` seconds of its
time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from attrs import define, field

from supervisors.events import Event

__all__ = ["EventRecorder", "ManualClock", "settle", "wait_all_tasks_blocked"]

E = TypeVar("E")


_HOPS = 50


async def settle() -> None:
    """Let all tasks run until each of them waits for something.

    ``wait_all_tasks_blocked`` alone is exact on trio. On asyncio it does not see what a task that has just
    ended is about to wake, and it sleeps a tenth of a second when it finds a task that runs; so tasks are
    given a number of turns first. Work in threads and processes is not waited for.
    """
    for _ in range(_HOPS):
        await checkpoint()
    await wait_all_tasks_blocked()


@define(order=True)
class _Timer:
    when: float
    number: int
    fire: Callable[[], None] = field(order=False, eq=False)
    dead: bool = field(default=False, order=False, eq=False)


class ManualClock:
    """A :class:`supervisors.Clock` that stands still until it is moved, on asyncio and on trio.

    Args:
        start: the time it shows at first, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._timers: list[_Timer] = []
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g}, {len(self.timers())} timers>"

    def now(self) -> float:
        """Return the time it shows."""
        return self._now

    def timers(self) -> list[float]:
        """Return when the timers that are set will fire, in order."""
        return sorted(timer.when for timer in self._timers if not timer.dead)

    def advance(self, seconds: float) -> None:
        """Move by ``seconds`` at once and fire every timer that is due, in order.

        Tasks run only after the caller next waits: a task that sleeps twice wakes once. See :meth:`run_for`.
        """
        if seconds < 0:
            raise ValueError("time does not go back")
        until = self._now + seconds
        while self._step(until):
            pass
        self._now = until

    async def run_for(self, seconds: float) -> None:
        """Move by ``seconds`` timer by timer, and let all tasks settle before and after each."""
        until = self._now + seconds
        await settle()
        while self._step(until):
            await settle()
        self._now = until

    def _step(self, until: float) -> bool:
        """Fire the next timer that is due by ``until``; return whether there was one."""
        while self._timers and self._timers[0].when <= until:
            timer = heapq.heappop(self._timers)
            if not timer.dead:
                self._now = max(self._now, timer.when)
                timer.fire()
                return True
        return False

    def _set(self, when: float, fire: Callable[[], None]) -> _Timer:
        timer = _Timer(when, next(self._numbers), fire)
        heapq.heappush(self._timers, timer)
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved by ``seconds``."""
        await self.sleep_until(self._now + seconds)

    async def sleep_until(self, when: float) -> None:
        """Wait until the clock was moved to ``when``."""
        if when <= self._now:
            await checkpoint()
            return
        woken = anyio.Event()
        timer = self._set(when, woken.set)
        try:
            await woken.wait()
        finally:
            timer.dead = True

    @contextmanager
    def move_on_at(self, when: float | None, *, shield: bool = False) -> Iterator[anyio.CancelScope]:
        """Cancel the block when the clock is moved to ``when``."""
        with anyio.CancelScope(shield=shield) as scope:
            if when is None or when == math.inf:
                yield scope
                return
            if when <= self._now:
                scope.cancel()
            timer = self._set(when, scope.cancel)
            try:
                yield scope
            finally:
                timer.dead = True

    @contextmanager
    def move_on_after(self, seconds: float | None, *, shield: bool = False) -> Iterator[anyio.CancelScope]:
        """Cancel the block when the clock was moved by ``seconds``."""
        with self.move_on_at(None if seconds is None else self._now + seconds, shield=shield) as scope:
            yield scope

    @contextmanager
    def fail_after(self, seconds: float | None, *, shield: bool = False) -> Iterator[anyio.CancelScope]:
        """Cancel the block when the clock was moved by ``seconds``; raise ``TimeoutError`` then."""
        deadline = math.inf if seconds is None else self._now + seconds
        with self.move_on_at(deadline, shield=shield) as scope:
            yield scope
        if scope.cancelled_caught and self._now >= deadline:
            raise TimeoutError


class EventRecorder:
    """Collects events; pass it as ``on_event``.

    Attributes:
        events: everything reported so far.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = anyio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)
        news, self._news = self._news, anyio.Event()
        news.set()

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], count: int = 1) -> E:
        """Wait until there are ``count`` events of a type, and return the last of those."""
        while len(found := self.of(kind)) < count:
            await self._news.wait()
        return found[count - 1]
