"""The calls that a host has not answered yet. No I/O.

The one thing to know: a call ends exactly once, by its reply or by the end of its host, and it stays in the table
when the caller stops waiting, because the token is still busy with it: it keeps its deadline, and its late reply is
recognised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import anyio

from manahsm.hsm.failures import HSMFailure

__all__ = ["Call", "CallTable"]


class Call:
    """One question to a host; await :meth:`wait` for the answer."""

    __slots__ = ("_answered", "_error", "_reply", "abandoned", "deadline", "id", "name", "pages")

    def __init__(self, call_id: int, name: str, deadline: float) -> None:
        self.id = call_id
        self.name = name
        self.deadline = deadline
        self.pages: list[Any] = []
        self.abandoned = False
        self._answered = anyio.Event()
        self._reply: Any = None
        self._error: HSMFailure | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its reply, or failed."""
        return self._answered.is_set()

    async def over(self) -> None:
        """Wait until it has ended; for those who wait for their turn after it."""
        await self._answered.wait()

    async def wait(self) -> Any:
        """Return the reply, or raise the failure that ended the call."""
        try:
            await self._answered.wait()
        except BaseException:
            self.abandoned = True
            raise
        if self._error is not None:
            raise self._error
        return self._reply

    def answer(self, reply: Any) -> None:
        """End it with a reply."""
        self._reply = reply
        self._answered.set()

    def fail(self, error: HSMFailure) -> None:
        """End it with a failure."""
        self._error = error
        self._answered.set()


class CallTable:
    """Calls by id."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def add(self, name: str, deadline: float) -> Call:
        """Begin a call; ids count from 0 and are never used twice."""
        call = self._calls[self._next_id] = Call(self._next_id, name, deadline)
        self._next_id += 1
        return call

    def get(self, call_id: int) -> Call | None:
        """Look at a call without ending it."""
        return self._calls.get(call_id)

    def take(self, call_id: int) -> Call | None:
        """Take a call out, to end it; ``None`` for one that is unknown."""
        return self._calls.pop(call_id, None)

    def next_deadline(self) -> float:
        """When the first call is due, or infinity."""
        return min((call.deadline for call in self._calls.values()), default=math.inf)

    def fail_all(self, error_for: Callable[[Call], HSMFailure]) -> None:
        """End every call."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(error_for(call))
