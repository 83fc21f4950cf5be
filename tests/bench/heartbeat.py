"""How late other tasks of the loop are: a task that wants to wake every millisecond while the service works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio
from attrs import define, field
from bench.figures import Figure, Spread, at_most, percentile

__all__ = ["Heartbeat"]

_BEAT = 0.001  # seconds
_LATEST = 5.0  # milliseconds, of 99 in 100 beats


@define
class Heartbeat:
    """Beats during turns of their own, so that it costs the other turns nothing."""

    turns: list[list[float]] = field(factory=list)
    """Milliseconds by which each beat was late, turn by turn."""

    def beside(self, work: Callable[[float], Awaitable[float]]) -> Callable[[float], Awaitable[float]]:
        """The same contestant with the heartbeat in its loop."""

        async def turn(seconds: float) -> float:
            late: list[float] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_beat, late)
                rate = await work(seconds)
                tasks.cancel_scope.cancel()
            self.turns.append(late)
            return rate

        return turn

    def figures(self, measure: str) -> list[Figure]:
        """What 99 of 100 beats were not later than, and the latest. The first turn is the warm-up."""
        turns = [turn for turn in self.turns[1:] if turn]
        everything = [late for turn in turns for late in turn]
        worst = Spread.of(percentile(turn, 99) for turn in turns)
        p99 = percentile(everything, 99)
        return [
            Figure(
                measure=measure,
                name="1 ms heartbeat beside it: p99 lateness",
                unit="ms",
                spread=worst,
                pooled=p99,
                target=at_most(_LATEST),
            ),
            Figure(
                measure=measure,
                name="1 ms heartbeat beside it: latest",
                unit="ms",
                spread=Spread.of(max(turn) for turn in turns),
                pooled=max(everything),
            ),
        ]


async def _beat(late: list[float]) -> None:
    while True:
        due = perf_counter() + _BEAT
        await anyio.sleep(_BEAT)
        late.append((perf_counter() - due) * 1000)
