"""Answers that come in parts: the room that they take, how long they may take, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from attrs import define, field

from manahsm.api.accepting import accepting
from manahsm.api.app import Doors, make_app
from manahsm.api.calls import Answer, Visitor
from manahsm.api.sockets import Door, open_doors
from manahsm.config.api_tables import Api, Dialect
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

BODY = b'{"jsonrpc":"2.0","id":1,"method":"debug_traceBlock"}'
REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@pytest.fixture
def anyio_backend() -> str:
    """The HTTP interface lives on asyncio, whatever the service runs on."""
    return "asyncio"


@define
class Stream:
    """An answer whose parts a test lets go one by one."""

    parts: asyncio.Queue[bytes | None] = field(factory=asyncio.Queue)
    closed: asyncio.Event = field(factory=asyncio.Event)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        part = await self.parts.get()
        if part is None:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        self.closed.set()


@define
class Streams:
    """Answers every call with a stream of its own."""

    given: list[Stream] = field(factory=list)

    async def answer(self, _body: bytes, _visitor: Visitor) -> Answer:
        self.given.append(Stream())
        self.given[-1].parts.put_nowait(b"first")
        return Answer(body=self.given[-1])


@asynccontextmanager
async def streaming(clock: ManualClock, **options: Any) -> AsyncIterator[tuple[Door, Streams]]:
    api, streams = Api(port=0, **options), Streams()
    given: Any = streams
    nothing: Any = None
    app = make_app(api, Doors(rpc={tuple(Dialect): given}, rest=nothing), clock=clock)
    with open_doors(api) as doors:
        async with accepting(api, doors, app, lambda _: None):
            yield doors[0], streams


@asynccontextmanager
async def asked(door: Door) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*door.socket.getsockname()[:2])
    try:
        writer.write(REQUEST)
        yield reader, writer
    finally:
        writer.transport.abort()


async def status_of(door: Door) -> int:
    """What somebody else gets at this moment."""
    async with asked(door) as (reader, _):
        return int((await reader.readline()).split()[1])


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens on a socket, which no event announces."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def test_a_stream_keeps_its_room_until_its_last_part() -> None:
    async with streaming(ManualClock(), max_requests=1) as (door, streams), asked(door) as (reader, _):
        await reader.readuntil(b"first")
        assert await status_of(door) == 503
        streams.given[0].parts.put_nowait(None)
        await reader.readuntil(b"0\r\n\r\n")
        assert await status_of(door) == 200


async def test_a_caller_who_leaves_makes_room() -> None:
    async with streaming(ManualClock(), max_requests=1) as (door, streams):
        async with asked(door) as (reader, _):
            await reader.readuntil(b"first")
        with anyio.fail_after(20):
            await streams.given[0].closed.wait()
        assert await status_of(door) == 200


async def test_a_stream_that_never_ends_is_cut_off_however_often_a_part_comes() -> None:
    clock = ManualClock()
    async with streaming(clock, downstream_stream_timeout=60.0, max_requests=1) as (door, streams):
        async with asked(door) as (reader, _):
            for _ in range(6):
                await reader.readuntil(b"first")
                await clock.run_for(9.9)
                streams.given[0].parts.put_nowait(b"first")
            await reader.readuntil(b"first")
            await clock.run_for(0.7)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readuntil(b"0\r\n\r\n")
        assert streams.given[0].closed.is_set()
        assert await status_of(door) == 200


async def test_an_answer_that_is_cut_off_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with streaming(clock, downstream_stream_timeout=60.0) as (door, _), asked(door) as (reader, _):
        await reader.readuntil(b"first")
        await clock.run_for(61)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")
    assert [record.levelname for record in caplog.records if "cut off" in record.getMessage()] == ["WARNING"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_caller_who_does_not_read_is_cut_off_too() -> None:
    clock = ManualClock()
    async with streaming(clock, downstream_stream_timeout=60.0, max_requests=1) as (door, streams):
        async with asked(door):
            await until(lambda: streams.given)
            for _ in range(64):
                streams.given[0].parts.put_nowait(b"x" * 2**20)
            await clock.run_for(61)
            with anyio.fail_after(20):
                await streams.given[0].closed.wait()
        assert await status_of(door) == 200


async def test_an_answer_that_is_whole_makes_room_before_it_is_sent() -> None:
    class Whole(Streams):
        async def answer(self, _body: bytes, _visitor: Visitor) -> Answer:
            self.given.append(Stream())
            return Answer(body=json.dumps("x" * 2**26).encode())

    api, whole = Api(port=0, max_requests=1), Whole()
    given: Any = whole
    nothing: Any = None
    app = make_app(api, Doors(rpc={tuple(Dialect): given}, rest=nothing), clock=ManualClock())
    with open_doors(api) as doors:
        async with accepting(api, doors, app, lambda _: None), asked(doors[0]) as (reader, _):
            await reader.readline()
            assert await status_of(doors[0]) == 200
