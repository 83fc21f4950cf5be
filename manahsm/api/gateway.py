"""The way from the HTTP interface to the service, which may run on another event loop.

The one thing to know: uvicorn needs asyncio. Where the service runs on asyncio too, a hop is a plain ``await``; where
it runs on trio, the interface has an asyncio loop in a thread of its own, and :mod:`manahsm.api.crossing` is the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from manahsm.service import Service

__all__ = ["Direct", "Gateway"]

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
