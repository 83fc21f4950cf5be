"""The two places where a mailbox keeps requests: in line, and in custody of those who received them.

The one thing to know: both only keep; who waits, who is refused and what fails is the mailbox's affair. A
request that was resolved while it stood in line is not searched for: it is passed over when its turn comes,
and swept out when such requests are the most.
"""

# ruff: noqa: SLF001 - what is kept here is marked on the replies, so that no table is needed

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from supervisors.reply import Reply, Request

__all__ = ["Custody", "Line"]

_FEW = 16


class Line:
    """Requests in order of arrival; those that come back take their old place."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()  # may hold a few resolved ones
        self._pending = 0
        self._next_expiry = math.inf  # none in line expires earlier

    def __len__(self) -> int:
        return self._pending

    def __iter__(self) -> Iterator[Request]:
        return (request for request in tuple(self._requests) if not request.reply.done)

    def put(self, request: Request) -> None:
        """Put a request at its place: last if it is new, before all that came later if it comes back."""
        arrival, requests = request.reply._arrival, self._requests
        if requests and requests[-1].reply._arrival > arrival:
            earlier = []
            while requests[0].reply._arrival < arrival:
                earlier.append(requests.popleft())
            requests.appendleft(request)
            requests.extendleft(reversed(earlier))
        else:
            requests.append(request)
        self._pending += 1
        if request.deadline is not None:
            self._next_expiry = min(self._next_expiry, request.deadline)

    def first(self) -> Request | None:
        """Return the first pending request without taking it."""
        while self._requests:
            if not self._requests[0].reply.done:
                return self._requests[0]
            self._requests.popleft()
        return None

    def take_first(self) -> None:
        """Take out what :meth:`first` returned."""
        self._requests.popleft()
        self._pending -= 1

    def resolved(self) -> None:
        """Take note that one in line was resolved."""
        self._pending -= 1
        if len(self._requests) > 2 * self._pending + _FEW:
            self._requests = deque(self)

    def may_have_expired(self, now: float) -> bool:
        """Return whether it can be worth while to look through all of it for overdue requests."""
        return now >= self._next_expiry

    def looked_through(self) -> None:
        """Take note that all that is overdue was resolved."""
        self._next_expiry = min(
            (request.deadline for request in self if request.deadline is not None), default=math.inf
        )

    def take_all(self) -> list[Request]:
        """Take out everything pending."""
        requests = list(self)
        self._requests.clear()
        self._pending = 0
        self._next_expiry = math.inf
        return requests


class Custody:
    """Requests by holder, and by arrival for each."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, Request]] = {}
        self._count = 0
        self.handouts = 0

    def __len__(self) -> int:
        return self._count

    def take(self, request: Request, holder: str) -> None:
        """Give a request to ``holder``; the hand-out gets a number, to tell it from later ones of the same request."""
        self.handouts += 1
        reply = request.reply
        reply._holder = holder
        reply._handout = self.handouts
        self._held.setdefault(holder, {})[reply._arrival] = request
        self._count += 1

    def end(self, reply: Reply) -> None:
        """Take a request from its holder."""
        holder, reply._holder = reply._holder, None
        assert holder is not None  # noqa: S101 - the mailbox looked
        held = self._held[holder]
        del held[reply._arrival]
        if not held:
            del self._held[holder]
        self._count -= 1

    def of(self, holder: str) -> tuple[Request, ...]:
        """Return what ``holder`` has, in order of arrival."""
        held = self._held.get(holder, {})
        return tuple(held[arrival] for arrival in sorted(held))

    def everything(self) -> tuple[Request, ...]:
        """Return what all holders have."""
        return tuple(request for held in self._held.values() for request in held.values())
