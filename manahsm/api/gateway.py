"""The way from the HTTP interface to the service, which may run on another event loop.

The one thing to know: uvicorn needs asyncio. Where the service runs on asyncio too, a hop is a plain ``await``; where
it runs on trio, the interface has an asyncio loop in a thread of its own, and each hop goes through a portal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from anyio.from_thread import BlockingPortal

from manahsm.errors import ServiceStopping
from manahsm.service import Service

__all__ = ["Direct", "Gateway", "ThroughPortal"]

T = TypeVar("T")


class Gateway(Protocol):
    """Runs code where the service lives."""

    async def run(self, work: Callable[[Service], Awaitable[T]]) -> T:
        """Await ``work(service)`` on the service's loop; cancelling this cancels it.

        Raises:
            ServiceStopping: that loop has ended, or ended meanwhile.
        """
        ...


class Direct:
    """The service is on this loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def run(self, work: Callable[[Service], Awaitable[T]]) -> T:
        """Await it."""
        return await work(self._service)


class ThroughPortal:
    """The service is on another loop, which ``portal`` reaches."""

    def __init__(self, service: Service, portal: BlockingPortal) -> None:
        self._service = service
        self._portal = portal

    async def run(self, work: Callable[[Service], Awaitable[T]]) -> T:
        """Have the other loop await it."""

        async def there() -> T:
            return await work(self._service)

        try:
            future = self._portal.start_task_soon(there)
        except RuntimeError:  # the portal takes nothing any more
            raise ServiceStopping("the service has stopped: nothing was done") from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled this caller: it was the other loop, which has ended.
            raise ServiceStopping("the service has stopped: what became of this call is not known") from None
