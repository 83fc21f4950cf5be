"""The way to a service on another loop: what crosses, in which order, and what becomes of it while that loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from manahsm.api.crossing import Crossing, crossing
from manahsm.errors import InvalidRequest, ServiceStopping

pytestmark = pytest.mark.anyio

NOBODY: Any = None


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the service; with asyncio there is nothing to cross."""
    return "trio"


async def never(_service: Any) -> None:
    await anyio.sleep_forever()


async def beside(work: Callable[[], Awaitable[Any]]) -> Any:
    """Await on an asyncio loop in a thread."""

    async def main() -> Any:
        return await work()

    return await anyio.to_thread.run_sync(asyncio.run, main())


async def test_results_and_errors_come_back_to_those_who_wait_for_them() -> None:
    async def work(number: int) -> int:
        for _ in range(number % 3):
            await anyio.lowlevel.checkpoint()
        if number % 2:
            raise InvalidRequest(str(number))
        return number

    async with crossing(NOBODY) as way:

        async def ask() -> list[Any]:
            calls = [way.run(lambda _, number=number: work(number)) for number in range(100)]
            return await asyncio.gather(*calls, return_exceptions=True)

        answers = await beside(ask)
    assert [int(str(answer)) for answer in answers] == list(range(100))
    assert [isinstance(answer, InvalidRequest) for answer in answers] == [False, True] * 50


async def test_calls_begin_in_the_order_in_which_they_come() -> None:
    begun = []

    async def work(number: int) -> None:
        begun.append(number)

    async with crossing(NOBODY) as way:

        async def ask() -> None:
            for number in range(20):
                await way.run(lambda _, number=number: work(number))

        await beside(ask)
    assert begun == list(range(20))


async def test_what_comes_together_wakes_the_other_loop_once() -> None:
    woken: list[Callable[[], None]] = []
    async with trio.open_nursery() as tasks:
        way = Crossing(NOBODY, tasks, woken.append)

        async def ask() -> None:
            calls = [asyncio.ensure_future(way.run(never)) for _ in range(64)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

        await beside(ask)
        assert len(woken) == 1
        woken[0]()  # all of them have been given up meanwhile, so nothing begins


async def test_a_call_under_way_when_the_other_loop_ends_is_told_so() -> None:
    begun = anyio.Event()

    async def begin(_service: Any) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as ending:
            async with crossing(NOBODY) as way:

                async def call() -> None:
                    with pytest.raises(ServiceStopping, match="not known"):
                        await beside(lambda: way.run(begin))

                tasks.start_soon(call)
                await begun.wait()
                ending.cancel()


async def test_a_call_after_the_other_loop_has_ended_is_told_so() -> None:
    async with crossing(NOBODY) as way:
        pass
    with pytest.raises(ServiceStopping, match="nothing was done"):
        await beside(lambda: way.run(never))


async def test_a_call_that_the_other_loop_has_not_begun_when_it_ends_is_told_so() -> None:
    woken: list[Callable[[], None]] = []
    async with trio.open_nursery() as tasks:
        way = Crossing(NOBODY, tasks, woken.append)
        told = anyio.Event()

        async def call() -> None:
            with pytest.raises(ServiceStopping, match="nothing was done"):
                await beside(lambda: way.run(never))
            told.set()

        tasks.start_soon(call)
        while not woken:  # noqa: ASYNC110 - by a thread
            await anyio.sleep(0.001)
        way.close()
        with anyio.fail_after(10):
            await told.wait()


async def test_a_loop_that_is_gone_without_having_said_so_does_nothing() -> None:
    def gone(_take: Callable[[], None]) -> None:
        raise RuntimeError("the run has finished")

    async with trio.open_nursery() as tasks:
        way = Crossing(NOBODY, tasks, gone)
        for _ in range(2):
            with pytest.raises(ServiceStopping, match="nothing was done"):
                await beside(lambda: way.run(never))


async def test_calls_that_go_on_are_waited_for_at_the_end() -> None:
    done = []

    async def slow(_service: Any) -> None:
        begun.set()
        await anyio.sleep(0.05)
        done.append(True)

    begun = anyio.Event()
    async with anyio.create_task_group() as tasks, crossing(NOBODY) as way:
        tasks.start_soon(beside, lambda: way.run(slow))
        await begun.wait()
    assert done == [True]


@pytest.mark.parametrize("loop_ends", [False, True])
async def test_whoever_asked_may_be_gone_when_there_is_an_answer(loop_ends: bool) -> None:
    begun, go_on, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def slow(_service: Any) -> None:
        begun.set()
        with anyio.CancelScope(shield=True):
            await go_on.wait()
        done.set()

    async def let_go(_service: Any) -> None:
        go_on.set()
        await done.wait()

    async with crossing(NOBODY) as way:

        async def leave() -> None:
            call = asyncio.ensure_future(way.run(slow))
            while not begun.is_set():  # noqa: ASYNC110 - of another loop
                await asyncio.sleep(0.001)
            if not loop_ends:
                call.cancel()
                await asyncio.wait([call])
                await way.run(let_go)

        await beside(leave)
        go_on.set()
        with anyio.fail_after(10):
            await done.wait()


async def test_a_caller_who_gives_up_is_cancelled_and_not_told_anything() -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def begin(_service: Any) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with crossing(NOBODY) as way:

        async def give_up() -> str:
            call = asyncio.ensure_future(way.run(begin))
            while not begun.is_set():  # noqa: ASYNC110 - of another loop
                await asyncio.sleep(0.001)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                return "cancelled"
            return "told"

        assert await beside(give_up) == "cancelled"
        with anyio.fail_after(10):
            await ended.wait()
