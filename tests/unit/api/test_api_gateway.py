"""The way to a service on another loop, while that loop ends."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.from_thread import BlockingPortal

from manahsm.api.gateway import ThroughPortal
from manahsm.errors import ServiceStopping

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the service; with asyncio there is no portal."""
    return "trio"


async def never(_service: Any) -> None:
    await anyio.sleep_forever()


async def test_a_call_under_way_when_the_other_loop_ends_is_told_so() -> None:
    begun = anyio.Event()

    async def begin(_service: Any) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with BlockingPortal() as portal, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ServiceStopping, match="not known"):
                await anyio.to_thread.run_sync(asyncio.run, ThroughPortal(None, portal).run(begin))  # type: ignore[arg-type]

        tasks.start_soon(call)
        await begun.wait()
        await portal.stop(cancel_remaining=True)


async def test_a_call_after_the_other_loop_has_ended_is_told_so() -> None:
    async with BlockingPortal() as portal:
        await portal.stop()

    with pytest.raises(ServiceStopping, match="nothing was done"):
        await anyio.to_thread.run_sync(asyncio.run, ThroughPortal(None, portal).run(never))  # type: ignore[arg-type]


async def test_a_caller_who_gives_up_is_cancelled_and_not_told_anything() -> None:
    ended = anyio.Event()

    async def begin(_service: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with BlockingPortal() as portal:

        async def give_up() -> str:
            call = asyncio.ensure_future(ThroughPortal(None, portal).run(begin))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                return "cancelled"
            return "told"

        assert await anyio.to_thread.run_sync(asyncio.run, give_up()) == "cancelled"
        with anyio.fail_after(10):
            await ended.wait()
