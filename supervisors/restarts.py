"""Restarts in progress: who is to be stopped and started again, and what to do when more fails.

The one thing to know: a restart takes time (siblings stop, a backoff runs out, children get ready one by
one), and children may fail, be stopped by an operator or be shut down during all of it. So each restart is a
*revival* that a newer one can supersede: what the older had left to do is merged into the newer, and the
older does nothing more. Two revivals never have a child in common.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio
from attrs import define, field

from supervisors.clock import Clock
from supervisors.errors import StartFailed
from supervisors.plan import Plan
from supervisors.roster import Record, Roster

__all__ = ["Hands", "Restarts"]


@define(eq=False)
class _Revival:
    """One restart: ``pending`` are the children it has not brought back yet, in start order."""

    pending: list[Record]
    stop: tuple[Record, ...]
    delay: float
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    superseded: bool = False
    starting: Record | None = None


class Hands(Protocol):
    """What restarts need done by the engine."""

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run a task in the room."""
        ...

    async def bring_up(self, record: Record) -> object:
        """Launch a child and wait until it is ready, or raise ``StartFailed``."""
        ...

    async def take_down(self, record: Record) -> None:
        """Stop a child and wait until it has ended or is given up as wedged."""
        ...

    def start_failed_again(self, record: Record, error: StartFailed) -> None:
        """Decide what to do about a child that did not get ready in a restart."""
        ...


class Restarts:
    """All restarts in progress of one run of a supervisor."""

    def __init__(self, roster: Roster, clock: Clock, hands: Hands) -> None:
        self._roster = roster
        self._clock = clock
        self._hands = hands
        self._revivals: list[_Revival] = []

    def covers(self, record: Record) -> bool:
        """Return whether a child is about to be restarted anyway, so that its exit changes nothing."""
        return any(record in revival.pending and revival.starting is not record for revival in self._revivals)

    def begin(self, plan: Plan, delay: float) -> tuple[str, ...]:
        """Carry out ``plan`` after ``delay`` seconds, together with what overlapping restarts had left to do.

        Returns:
            Names of the children that will be started, in order.
        """
        for name in plan.forget:
            self._roster[name].forgotten = True
        wanted = set(plan.start)
        fate = wanted.union(plan.stop, plan.forget)
        for old in self._revivals:
            names = {record.name for record in old.pending}
            if names & fate:
                self._supersede(old)
                wanted |= names
                fate |= names
        self._revivals = [revival for revival in self._revivals if not revival.superseded]
        in_order = [record for record in self._roster if record.name in fate]
        revival = _Revival(
            pending=[record for record in in_order if record.name in wanted],
            stop=tuple(reversed(in_order)),
            delay=delay,
        )
        for record in revival.pending:
            record.restarting = True
        self._revivals.append(revival)
        self._hands.spawn(self._revive, revival)
        return tuple(record.name for record in revival.pending)

    def leave_out(self, record: Record) -> None:
        """Take a child out of every restart: somebody else looks after it now."""
        record.restarting = False
        for revival in self._revivals:
            if record in revival.pending:
                revival.pending.remove(record)

    def cancel_all(self) -> None:
        """Give up all restarts; nothing is launched by them after this."""
        for revival in self._revivals:
            self._supersede(revival)
            for record in revival.pending:
                record.restarting = False
        self._revivals.clear()

    @staticmethod
    def _supersede(revival: _Revival) -> None:
        revival.superseded = True
        revival.scope.cancel()

    async def _revive(self, revival: _Revival) -> None:
        # A wait that was over when the scope was cancelled still returns: hence the look at ``superseded``
        # after each.
        with revival.scope:
            for record in revival.stop:
                await self._hands.take_down(record)
                if revival.superseded:
                    return
                if record.forgotten:
                    self._roster.forget(record)
            if revival.delay > 0:
                await self._clock.sleep(revival.delay)
            while revival.pending and not revival.superseded:
                if not await self._revive_one(revival, revival.pending[0]):
                    return
        if not revival.superseded:
            self._revivals.remove(revival)

    async def _revive_one(self, revival: _Revival, record: Record) -> bool:
        """Start one child; return whether to go on with the next."""
        revival.starting = record
        try:
            await self._hands.bring_up(record)
        except StartFailed as exc:
            if not revival.superseded and record in revival.pending:
                self._hands.start_failed_again(record, exc)
                return False
        if record in revival.pending and not revival.superseded:
            revival.pending.remove(record)
        return not revival.superseded
