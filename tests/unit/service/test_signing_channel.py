"""The in-process channel: one outcome for each request that was accepted, and bounded everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

import manahsm
from manahsm.channel import SigningChannel, open_channel
from manahsm.requests import Outcome, SignRequest
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio


class Signer:
    """Answers a request once the test lets it."""

    def __init__(self) -> None:
        self.gates: dict[str, anyio.Event] = {}
        self.cancelled: list[str] = []

    async def answer(self, request: SignRequest) -> Outcome:
        gate = self.gates[request.request_id] = anyio.Event()
        try:
            await gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(request.request_id)
            raise
        return Outcome(request_id=request.request_id, error=manahsm.KeyNotFound("no such key"))

    def finish(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()


def request_called(name: str, timeout: float | None = None) -> SignRequest:
    return SignRequest.message(b"hello", "hot", request_id=name, timeout=timeout)


@asynccontextmanager
async def channel_of(signer: Signer, clock: ManualClock, *, capacity: int = 8) -> AsyncIterator[SigningChannel]:
    async with open_channel(signer.answer, capacity=capacity, default_timeout=30.0, clock=clock) as channel:
        yield channel


async def test_outcomes_come_in_the_order_in_which_requests_finish() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        for name in "abc":
            await channel.send(request_called(name))
        await settle()
        received = []
        for name in "cab":
            signer.finish(name)
            received.append((await channel.receive()).request_id)

    assert received == ["c", "a", "b"]


async def test_an_error_is_an_outcome() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        await channel.send(request_called("a"))
        await settle()
        signer.finish("a")
        outcome = await channel.receive()

    assert isinstance(outcome.error, manahsm.KeyNotFound)
    with pytest.raises(manahsm.KeyNotFound):
        outcome.unwrap()


async def test_a_full_channel_refuses_at_once_without_waiting() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock, capacity=2) as channel:
        for name in "ab":
            channel.send_nowait(request_called(name))
        with pytest.raises(manahsm.Overloaded, match="full"):
            channel.send_nowait(request_called("c"))
        await settle()
        signer.finish("a")
        await settle()
        with pytest.raises(manahsm.Overloaded):  # an outcome that nobody has received takes room, too
            channel.send_nowait(request_called("c"))
        await channel.receive()
        channel.send_nowait(request_called("c"))


async def test_a_sender_waits_for_room_no_longer_than_its_own_timeout() -> None:
    signer, clock = Signer(), ManualClock()
    errors: list[manahsm.ManaHSMError] = []

    async def send(channel: SigningChannel) -> None:
        try:
            await channel.send(request_called("b", timeout=2.0))
        except manahsm.Overloaded as error:
            errors.append(error)

    async with channel_of(signer, clock, capacity=1) as channel, anyio.create_task_group() as tasks:
        await channel.send(request_called("a"))
        tasks.start_soon(send, channel)
        await clock.run_for(1.9)
        assert errors == []
        await clock.run_for(0.2)
        assert len(errors) == 1
        assert set(signer.gates) == {"a"}


async def test_a_sender_that_waits_is_let_in_by_a_received_outcome() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock, capacity=1) as channel, anyio.create_task_group() as tasks:
        await channel.send(request_called("a"))
        tasks.start_soon(channel.send, request_called("b"))
        await settle()
        signer.finish("a")
        assert (await channel.receive()).request_id == "a"
        await settle()
        signer.finish("b")
        assert (await channel.receive()).request_id == "b"


async def test_a_finished_channel_ends_after_the_last_outcome() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        for name in "ab":
            await channel.send(request_called(name))
        await settle()
        channel.finish()
        with pytest.raises(manahsm.InvalidRequest, match="finished"):
            await channel.send(request_called("c"))
        signer.finish("a", "b")
        received = [outcome.request_id async for outcome in channel]
        with pytest.raises(manahsm.ServiceStopping):
            await channel.receive()

    assert sorted(received) == ["a", "b"]


async def test_senders_that_wait_for_room_are_all_told_when_it_is_finished_and_an_outcome_is_received() -> None:
    signer, clock, told = Signer(), ManualClock(), list[str]()

    async def send(channel: SigningChannel, name: str) -> None:
        with pytest.raises(manahsm.InvalidRequest, match="finished"):
            await channel.send(request_called(name))
        told.append(name)

    async with channel_of(signer, clock, capacity=1) as channel, anyio.create_task_group() as tasks:
        await channel.send(request_called("a"))
        for name in "bcd":
            tasks.start_soon(send, channel, name)
        await settle()
        channel.finish()
        signer.finish("a")
        await channel.receive()
        await settle()
        assert sorted(told) == ["b", "c", "d"]


async def test_a_receiver_that_waits_hears_of_the_end() -> None:
    signer, clock = Signer(), ManualClock()
    received: list[str] = []

    async def receive(channel: SigningChannel) -> None:
        received.extend([outcome.request_id async for outcome in channel])

    async with channel_of(signer, clock) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(receive, channel)
        await settle()
        channel.finish()

    assert received == []


async def test_a_sender_that_still_waits_when_the_channel_is_finished_is_not_accepted() -> None:
    signer, clock = Signer(), ManualClock()
    refused: list[manahsm.ManaHSMError] = []

    async def send(channel: SigningChannel) -> None:
        try:
            await channel.send(request_called("b"))
        except manahsm.InvalidRequest as error:
            refused.append(error)

    async with channel_of(signer, clock, capacity=1) as channel, anyio.create_task_group() as tasks:
        await channel.send(request_called("a"))
        tasks.start_soon(send, channel)
        await settle()
        channel.finish()
        signer.finish("a")
        received = [outcome.request_id async for outcome in channel]
        await settle()

    # Nobody receives any more, so an outcome of "b" would be lost.
    assert received == ["a"]
    assert len(refused) == 1
    assert set(signer.gates) == {"a"}


async def test_leaving_the_channel_cancels_what_is_under_way() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        for name in "ab":
            await channel.send(request_called(name))
        await settle()

    assert sorted(signer.cancelled) == ["a", "b"]


async def test_a_receiver_that_is_cancelled_loses_nothing() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        await channel.send(request_called("a"))
        await settle()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.receive)
            await settle()
            tasks.cancel_scope.cancel()
        signer.finish("a")
        assert (await channel.receive()).request_id == "a"


async def test_what_is_no_request_is_refused() -> None:
    async with channel_of(Signer(), ManualClock()) as channel:
        with pytest.raises(manahsm.InvalidRequest, match="not dict"):
            await channel.send({"key": "hot"})  # type: ignore[arg-type]


async def test_a_request_that_comes_when_another_is_through_needs_no_new_task() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        for number in range(50):
            await channel.send(request_called(str(number)))
            await settle()
            signer.finish(str(number))
            assert (await channel.receive()).request_id == str(number)
        await settle()
        assert len(channel._idle) == 1


async def test_requests_that_are_sent_at_once_are_under_way_at_once() -> None:
    signer, clock = Signer(), ManualClock()
    async with channel_of(signer, clock) as channel:
        for names in ("abc", "defgh"):  # the second time with three tasks that have nothing to do
            for name in names:
                channel.send_nowait(request_called(name))
            await settle()
            assert set(names) <= signer.gates.keys()
            signer.finish(*names)
            assert {(await channel.receive()).request_id for _ in names} == set(names)


async def test_a_sender_that_finds_room_each_time_lets_others_have_their_turn() -> None:
    signer, clock = Signer(), ManualClock()
    turns: list[int] = []
    async with channel_of(signer, clock, capacity=100) as channel, anyio.create_task_group() as tasks:

        async def other() -> None:
            while True:
                turns.append(len(turns))
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(other)
        for number in range(100):
            await channel.send(request_called(str(number)))
        tasks.cancel_scope.cancel()
    assert len(turns) >= 5
