"""Contestants that take short turns, A B C A B C, so that whatever else the machine does happens to all of them.

The one thing to know: a turn counts what was finished between two finishes, the first after its ramp and the last
before its end. What is still under way then is awaited and not counted, so queues of any depth are measured alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter, process_time

import anyio
from attrs import define, field, frozen

__all__ = ["Contest", "Contestant", "Plan", "Window", "contest", "keep_busy", "loop_in_turns"]

Contestant = Callable[[float], Awaitable[float]]
"""Works for so many seconds and returns how much it did in one."""

_RAMP = 0.1  # of a turn: the queues fill
_PAUSE = 0.01  # seconds after a turn, for what it left to do


@frozen(kw_only=True)
class Plan:
    """How long everything takes.

    Attributes:
        rounds: turns of each contestant.
        seconds: of a turn.
        warm_up: seconds of the turn before the first, which is not counted.
    """

    rounds: int
    seconds: float
    warm_up: float


@frozen
class Contest:
    """What each contestant did, by name and round.

    Attributes:
        rates: how much in a second.
        processor: seconds of a processor that this process took for one; next to nothing for those in other processes.
        beside: what other processes of ours took for one.
    """

    rates: dict[str, list[float]]
    processor: dict[str, list[float]]
    beside: dict[str, list[float]]

    @classmethod
    def of(cls, names: Iterable[str]) -> Contest:
        """One that has not begun."""
        kept: list[dict[str, list[float]]] = [{name: [] for name in names} for _ in range(3)]
        return cls(*kept)


async def contest(
    contestants: Mapping[str, Contestant], plan: Plan, *, others: Callable[[], float] = lambda: 0.0
) -> Contest:
    """Let each take its turn in every round.

    Args:
        contestants: by name.
        plan: how long, and how often.
        others: the processor time so far of other processes that are ours, in seconds.
    """
    for work in contestants.values():
        await work(plan.warm_up)
    found = Contest.of(list(contestants))
    for _ in range(plan.rounds):
        for name, work in contestants.items():
            clock, processor, beside = perf_counter(), process_time(), others()
            rate = await work(plan.seconds)
            count = rate * (perf_counter() - clock)
            found.rates[name].append(rate)
            found.processor[name].append((process_time() - processor) / count)
            found.beside[name].append((others() - beside) / count)
            await anyio.sleep(_PAUSE)
    return found


@define
class Window:
    """Counts what is finished between two moments (pure).

    Attributes:
        begin: finishes before this are of the ramp.
        end: finishes after this are of the tail.
    """

    begin: float
    end: float
    _first: float | None = field(default=None, init=False)
    _last: float = field(default=0.0, init=False)
    _count: int = field(default=0, init=False)

    @classmethod
    def of(cls, seconds: float) -> Window:
        """One that begins soon."""
        now = perf_counter()
        return cls(now + _RAMP * seconds, now + seconds)

    def finished(self, now: float, count: int = 1) -> bool:
        """Something was finished; whether there is time for more. The first finish starts the clock, uncounted.

        A turn in which hardly anything is finished goes on until something can be said.
        """
        if now >= self.end and self._count:
            return False
        if self._first is not None:
            self._count += count
            self._last = now
        elif now >= self.begin:
            self._first = self._last = now
        return True

    @property
    def rate(self) -> float:
        """How many a second; 0 where nothing can be said."""
        if self._first is None or self._last == self._first:
            return 0.0
        return self._count / (self._last - self._first)


async def keep_busy(
    work: Callable[[int], Awaitable[object]], seconds: float, *, callers: int = 1, count: int = 1
) -> float:
    """Let so many callers ask again as soon as they are answered; returns what was finished in a second.

    Args:
        work: gets a number of its own each time.
        seconds: of the turn.
        callers: tasks that ask.
        count: how much one call does.
    """
    numbers = itertools.count()
    window = Window.of(seconds)

    async def call() -> None:
        while True:
            await work(next(numbers))
            if not window.finished(perf_counter(), count):
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(call)
    return window.rate


def loop_in_turns(work: Callable[[int], object]) -> Contestant:
    """A plain loop that nothing else runs beside: a contestant that is not asynchronous at all."""

    async def turn(seconds: float) -> float:
        number, window = 0, Window.of(seconds)
        while True:
            work(number)
            number += 1
            if not window.finished(perf_counter()):
                return window.rate

    return turn
