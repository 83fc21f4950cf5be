"""Services whose time is moved by hand, with tokens and hosts that are real: what happens within one interval.

The one thing to know: :meth:`Watched.within` lets the service's clock go on by no more than it says, however long the
machine takes. What holds then has held within that time; a test never asserts how long anything took. The clock goes
fast at first, past timers, and slowly towards the end, while processes start; timeouts of calls are far beyond it.
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

INTERVAL = 40.0
"""Seconds between health checks, on the service's clock; longer than the longest pause between starts of a host."""

_FAST, _SLOW, _REAL_STEP = 0.25, 0.005, 0.005  # seconds of the clock, and of the day
_FAST_PART = 0.8
_NEVER = 3_600_000  # milliseconds
_UNHURRIED = {
    "check_timeout": _NEVER,
    "thresholds": {"response_time_warning": _NEVER, "response_time_critical": _NEVER},
}


class Watched:
    """A service and its clock."""

    def __init__(self, service: manahsm.Service, clock: ManualClock) -> None:
        self.service = service
        self.clock = clock

    async def within(self, seconds: float, condition: Callable[[], Awaitable[object]]) -> None:
        """Wait until ``condition`` holds, while the clock goes on by ``seconds`` and no more."""
        began = self.clock.now()
        with anyio.move_on_after(60):
            while not await condition():
                gone = self.clock.now() - began
                self.clock.advance(min(_FAST if gone < _FAST_PART * seconds else _SLOW, seconds - gone))
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
    pool = {"call_timeout": _NEVER, "start_timeout": _NEVER, **config["hsm"].get("connection_pool", {})}
    options = {"health_check_interval": INTERVAL * 1000, **_UNHURRIED, **monitoring}
    table = {**config["hsm"], "connection_pool": pool, "monitoring": options}
    async with manahsm.open_service({"hsm": table}, clock=clock) as service:
        await service.filled()
        await service.trigger_health_check()
        yield Watched(service, clock)
