"""The calls that a host has not answered yet. No I/O.

The one thing to know: a call ends exactly once, by its reply or by the end of its host, and it stays in the table
when the caller stops waiting, because the token is still busy with it: it keeps its deadline, and its late reply is
recognised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from manahsm.hsm.failures import HSMFailure
from supervisors.wakeup import new_wakeup

__all__ = ["Call", "CallTable"]


class Call:
    """One question to a host: await :meth:`wait` for the answer, or have :meth:`then` call back when it is there."""

    __slots__ = ("_error", "_reply", "_then", "abandoned", "deadline", "ended", "id", "name", "pages")

    def __init__(self, call_id: int, name: str, deadline: float) -> None:
        self.id = call_id
        self.name = name
        self.deadline = deadline
        self.pages: list[Any] = []
        self.abandoned = False
        self.ended = False
        """Whether it has its reply, or failed."""
        self._then: Callable[[], object] | None = None
        self._reply: Any = None
        self._error: HSMFailure | None = None

    def then(self, callback: Callable[[], object] | None) -> None:
        """Say what to call, once, when it has ended; ``None``: nothing any more. Not for one that has ended."""
        self._then = callback

    async def wait(self) -> Any:
        """Return the reply, or raise the failure that ended the call."""
        if not self.ended:
            wakeup = new_wakeup()
            self._then = wakeup.set
            try:
                await wakeup.wait()
            except BaseException:
                self.abandoned = True
                raise
        return self.result()

    def result(self) -> Any:
        """Return the reply, or raise the failure that ended the call; only when it has ended."""
        if self._error is not None:
            raise self._error
        return self._reply

    def answer(self, reply: Any) -> None:
        """End it with a reply."""
        self._end(reply, None)

    def fail(self, error: HSMFailure) -> None:
        """End it with a failure."""
        self._end(None, error)

    def _end(self, reply: Any, error: HSMFailure | None) -> None:
        self._reply, self._error, self.ended = reply, error, True
        then, self._then = self._then, None
        if then is not None:
            then()


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
