"""The way to a service on trio, for an HTTP interface whose asyncio loop is in another thread.

The one thing to know: neither loop ever waits for the other, and what crosses together wakes the other side once. Calls
are put on a list, and so are their outcomes; whoever puts the first one there wakes the side that takes them all. There
are never more than callers who wait, and how many these may be is limited where requests are let in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio
from attrs import define

from manahsm.errors import ServiceStopping
from manahsm.service import Service

__all__ = ["Crossing", "crossing"]

T = TypeVar("T")

Wake = Callable[[Callable[[], None]], object]
"""Has a function called on a loop, soon. Raises ``RuntimeError`` where that loop has ended."""


@asynccontextmanager
async def crossing(service: Service) -> AsyncIterator[Crossing]:
    """The way to ``service``, which is on this loop, trio's. At the end, calls that are under way are waited for."""
    async with trio.open_nursery() as nursery:
        way = Crossing(service, nursery, trio.lowlevel.current_trio_token().run_sync_soon)
        try:
            yield way
        finally:
            way.close()


class Crossing:
    """The :class:`~manahsm.api.gateway.Gateway` to a service on trio; made by :func:`crossing`.

    A nursery and scopes are trio's own, because anyio's take 20 us more for each call.
    """

    def __init__(self, service: Service, nursery: trio.Nursery, wake: Wake) -> None:
        self._service = service
        self._nursery = nursery
        self._calls: _Handover[_Call] = _Handover(wake, self._take)
        self._returns: _Returns | None = None

    async def run(self, work: Callable[[Service], Awaitable[T]]) -> T:
        """Have the service's loop await ``work(service)``; called on an asyncio loop.

        Raises:
            ServiceStopping: that loop has ended, or ended meanwhile.
        """
        loop = asyncio.get_running_loop()
        call = _Call(work, loop.create_future(), self._returns_to(loop))
        if not self._calls.put(call):
            raise _nothing_done()
        try:
            outcome: T = await call.future
        except asyncio.CancelledError:
            call.given_up = True
            self._calls.put(call)
            raise
        return outcome

    def close(self) -> None:
        """Begin no more calls. On the service's loop."""
        for call in self._calls.close():
            call.end(error=_nothing_done())

    def _returns_to(self, loop: asyncio.AbstractEventLoop) -> _Returns:
        if self._returns is None or self._returns.loop is not loop:
            self._returns = _Returns(loop)
        return self._returns

    # ---- on the service's loop ----

    def _take(self, calls: list[_Call]) -> None:
        for call in calls:
            if not call.given_up:
                call.scope = trio.CancelScope()
                self._nursery.start_soon(self._do, call, call.scope)
            elif call.scope is not None:
                call.scope.cancel()

    async def _do(self, call: _Call, scope: trio.CancelScope) -> None:
        with scope:
            try:
                outcome = await call.work(self._service)
            except Exception as error:  # noqa: BLE001 - for whoever asked
                call.end(error=error)
            except BaseException:
                # Either this loop ends, or whoever asked has given up and is not told anything.
                call.end(error=ServiceStopping("the service has stopped: what became of this call is not known"))
                raise
            else:
                call.end(outcome)


@define(eq=False)
class _Call:
    """A call on its way.

    Attributes:
        work: what is to be done.
        future: of the loop where it comes from.
        returns: the way back there.
        scope: what is done is done in this one, once it has begun.
        given_up: nobody waits for it any more. A call is handed over again to say so.
    """

    work: Callable[[Service], Awaitable[Any]]
    future: asyncio.Future[Any]
    returns: _Returns
    scope: trio.CancelScope | None = None
    given_up: bool = False

    def end(self, outcome: Any = None, *, error: Exception | None = None) -> None:
        """Tell whoever waits. If their loop has ended, there is nobody."""
        self.returns.put((self.future, outcome, error))


_Outcome = tuple[asyncio.Future[Any], Any, Exception | None]
Item = TypeVar("Item")


class _Handover(Generic[Item]):
    """What is put down in one thread and taken in another, in its order.

    Args:
        wake: of the loop that takes.
        take: is called there with all that was put down.
    """

    def __init__(self, wake: Wake, take: Callable[[list[Item]], None]) -> None:
        self._wake = wake
        self._take = take
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._closed = False

    def put(self, item: Item) -> bool:
        """Put something down; returns whether anybody still takes it."""
        with self._lock:
            if self._closed:
                return False
            if not self._items:
                try:
                    self._wake(self._take_all)
                except RuntimeError:
                    self._closed = True
                    return False
            self._items.append(item)
            return True

    def close(self) -> list[Item]:
        """Take nothing from now on; returns what was put down and is not taken."""
        with self._lock:
            self._closed = True
            return self._all()

    def _take_all(self) -> None:
        with self._lock:
            items = self._all()
        self._take(items)

    def _all(self) -> list[Item]:
        items, self._items = self._items, []
        return items


class _Returns(_Handover[_Outcome]):
    """Outcomes on their way to an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop.call_soon_threadsafe, _set_all)
        self.loop = loop


def _set_all(outcomes: list[_Outcome]) -> None:
    for future, outcome, error in outcomes:
        if future.done():  # its caller has given up
            continue
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)


def _nothing_done() -> ServiceStopping:
    return ServiceStopping("the service has stopped: nothing was done")
