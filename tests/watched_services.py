"""Services whose time is moved by hand, with tokens and hosts that are real: what happens within one interval.

The one thing to know: :func:`within` lets the service's clock go on by no more than it says, however long the machine
takes. What holds then has held within that time; a test never asserts how long anything took.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

import manahsm
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.values import ComponentHealth
from supervisors.testing import ManualClock

__all__ = ["INTERVAL", "Watched", "watched"]

INTERVAL = 4.0
"""Seconds between health checks, on the service's clock."""

_STEP, _REAL_STEP = 0.02, 0.005  # the clock goes four times as fast as the day, where it goes


class Watched:
    """A service and its clock."""

    def __init__(self, service: manahsm.Service, clock: ManualClock) -> None:
        self.service = service
        self.clock = clock

    async def within(self, seconds: float, condition: Callable[[], Awaitable[object]]) -> None:
        """Wait until ``condition`` holds, while the clock goes on by ``seconds`` and no more."""
        until = self.clock.now() + seconds
        with anyio.move_on_after(60):
            while not await condition():
                self.clock.advance(max(0.0, min(_STEP, until - self.clock.now())))
                await anyio.sleep(_REAL_STEP)
            return
        raise AssertionError(f"not within {seconds:g} s of the service's time: {await self.service.health()}")

    async def component(self, name: str) -> ComponentHealth:
        return (await self.service.health()).component(name)

    async def status(self) -> str:
        return (await self.service.health()).status

    async def alerts(self, *, resolved: bool = False) -> list[Alert]:
        return list(await self.service.alerts(resolved=resolved))

    async def causes(self) -> list[str]:
        return [alert.cause for alert in await self.service.alerts()]

    async def well(self) -> bool:
        """Everything has been looked at and is healthy."""
        return await self.status() == "healthy"

    async def to_be(self, status: str, *, within: float = INTERVAL) -> None:
        """Wait until the service has a status."""

        async def is_so() -> bool:
            return await self.status() == status

        await self.within(within, is_so)

    async def to_have(self, *causes: str, within: float = INTERVAL) -> None:
        """Wait until these alerts are open, and no others."""

        async def is_so() -> bool:
            return sorted(await self.causes()) == sorted(causes)

        await self.within(within, is_so)


@asynccontextmanager
async def watched(config: Mapping[str, Any], **monitoring: Any) -> AsyncIterator[Watched]:
    """Run a service with such a configuration, and wait until it is well where it can be."""
    clock = ManualClock()
    table = {**config["hsm"], "monitoring": {"health_check_interval": INTERVAL * 1000, **monitoring}}
    async with manahsm.open_service({"hsm": table}, clock=clock) as service:
        await service.filled()
        await service.trigger_health_check()
        try:
            yield Watched(service, clock)
        finally:
            clock.advance(0.0)
