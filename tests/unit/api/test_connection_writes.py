"""How requests are read and answers written: what comes or goes in pieces, and how long a connection is waited for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import ref

import pytest
from uvicorn.server import ServerState

from manahsm.api.app import Doors, make_app
from manahsm.api.calls import Answer
from manahsm.api.connection import Connection, Limits, make_config
from manahsm.config.api_tables import Api, Dialect, Listener

pytestmark = pytest.mark.anyio

IDLE = 60.0
MOST = 1024  # bytes of a body


@pytest.fixture
def anyio_backend() -> str:
    """Uvicorn needs asyncio."""
    return "asyncio"


class Written(asyncio.Transport):
    """A transport that keeps what is written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Says:
    """Answers everything with ``body``."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self._answer = Answer(body=body, status=status)
        self.heard: list[bytes] = []

    async def answer(self, *asked: Any) -> Answer:
        self.heard.append(asked[0])
        return self._answer


class Lines:
    """Connections to an application that says one thing."""

    def __init__(self, says: Says) -> None:
        given: Any = says
        app = make_app(Api(port=0, max_body=MOST), Doors(rpc={tuple(Dialect): given}, rest=given))
        self._config, self._state = make_config(app, idle=IDLE), ServerState()

    def unmade(self) -> tuple[Connection, Written]:
        limits = Limits(connections=9, idle=IDLE)
        return Connection(self._config, self._state, Listener(port=1), limits), Written()

    async def pieces(self, *requests: bytes) -> tuple[list[bytes], Written]:
        connection, transport = self.unmade()
        connection.connection_made(transport)
        for request in requests:
            connection.data_received(request)
            await settled()
        connection.connection_lost(None)
        await settled()
        return transport.pieces, transport


class Clockwork:
    """What a connection asks of its loop, with a time that stands still."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, do: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers.append(asyncio.TimerHandle(when, do, (), self._loop))
        return self.timers[-1]

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        task.cancel()
        return task

    def run_until(self, when: float) -> None:
        while due := [timer for timer in self.timers if timer.when() <= when]:
            first = min(due)
            self.timers.remove(first)
            self._now = max(self._now, first.when())
            first._run()
        self._now = when


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def request(method: str = "POST", *lines: str) -> bytes:
    return "\r\n".join([f"{method} / HTTP/1.1", "host: localhost", *(lines or ["content-length: 0"]), "", ""]).encode()


JSON = "content-type: application/json"
CHUNKED = request("POST", JSON, "transfer-encoding: chunked")
FULL = b"[%b]" % (b" " * (MOST - 2))


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([request("POST", JSON, f"content-length: {MOST}") + FULL], id="whole"),
        pytest.param([request("POST", JSON, f"content-length: {MOST}"), FULL[:9], FULL[9:]], id="as it comes"),
        pytest.param([CHUNKED, chunk(FULL[:9]), chunk(FULL[9:]), chunk(b"")], id="chunked"),
    ],
)
async def test_a_body_is_read_to_its_end_however_it_comes(parts: list[bytes]) -> None:
    says = Says(b"said")
    (piece,), _ = await Lines(says).pieces(*parts)
    assert piece.startswith(b"HTTP/1.1 200")
    assert says.heard == [FULL]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([request("POST", JSON, f"content-length: {MOST + 1}")], id="said to be"),
        pytest.param([CHUNKED + chunk(FULL + b" ") + chunk(b"")], id="whole"),
        pytest.param([CHUNKED, chunk(FULL[:9]), chunk(FULL[9:] + b" ")], id="in parts"),
    ],
)
async def test_a_body_that_is_too_large_is_not_read_on(parts: list[bytes]) -> None:
    says = Says(b"said")
    pieces, transport = await Lines(says).pieces(*parts)
    assert pieces[0].startswith(b"HTTP/1.1 413")
    assert transport.closed
    assert says.heard == []


async def test_half_a_body_asks_for_nothing() -> None:
    says = Says(b"said")
    assert (await Lines(says).pieces(CHUNKED, chunk(FULL[:9])))[0] == []
    assert says.heard == []


async def test_what_is_not_said_to_be_json_is_not_read() -> None:
    says = Says(b"said")
    (piece,), _ = await Lines(says).pieces(request("POST", "content-type: text/plain", "content-length: 2") + b"[]")
    assert piece.startswith(b"HTTP/1.1 415")
    (piece,), _ = await Lines(says).pieces(
        request("POST", "content-type: Application/JSON; charset=utf-8", "content-length: 2") + b"[]"
    )
    assert piece.startswith(b"HTTP/1.1 200")
    assert says.heard == [b"[]"]


async def test_an_answer_goes_out_in_one_piece() -> None:
    (piece,), _ = await Lines(Says(b"said")).pieces(request())
    assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
    assert piece.endswith(b"content-length: 4\r\n\r\nsaid")


async def test_each_of_two_requests_that_come_together_has_its_own() -> None:
    pieces, _ = await Lines(Says(b"said")).pieces(request() + request())
    assert [piece[-8:] for piece in pieces] == [b"\r\n\r\nsaid"] * 2


async def test_what_a_request_needed_is_free_once_it_is_answered() -> None:
    connection, transport = Lines(Says(b"said")).unmade()
    connection.connection_made(transport)
    gc.disable()  # it is not to be found by the collector, but to end
    try:
        connection.data_received(request())
        await settled()
        answered = ref(connection.cycle)
        connection.data_received(request())
        await settled()
        assert answered() is None
    finally:
        gc.enable()
        connection.connection_lost(None)


async def test_a_head_alone_is_written_where_only_that_is_asked_for() -> None:
    (piece,), _ = await Lines(Says(b"said")).pieces(request("HEAD"))
    assert piece.endswith(b"content-length: 4\r\n\r\n")


async def test_an_answer_without_content_is_written_too() -> None:
    (piece,), _ = await Lines(Says(b"", 204)).pieces(request())
    assert piece.startswith(b"HTTP/1.1 204")
    assert b"content-length" not in piece


async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    head, body = (await Lines(Says(b"x" * 2**20)).pieces(request()))[0]
    assert head.endswith(b"\r\n\r\n")
    assert len(body) == 2**20


async def test_a_connection_that_is_not_kept_ends_behind_its_answer() -> None:
    (piece,), transport = await Lines(Says(b"said")).pieces(request("POST", "connection: close", "content-length: 0"))
    assert piece.endswith(b"said")
    assert transport.closed


async def test_what_is_no_method_of_ours_is_refused() -> None:
    pieces, _ = await Lines(Says(b"said")).pieces(request("DELETE"))
    answer = b"".join(pieces)
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"allow: GET, HEAD, POST\r\n" in answer


class TestPatience:
    """One timer looks again, when it goes off, what is awaited by then."""

    @pytest.fixture
    async def line(self) -> tuple[Connection, Written, Clockwork]:
        connection, transport = Lines(Says(b"said")).unmade()
        clock = Clockwork()
        connection.loop = clock  # type: ignore[assignment]
        connection.connection_made(transport)
        return connection, transport, clock

    async def test_who_sends_nothing_is_cut_off(self, line: tuple[Connection, Written, Clockwork]) -> None:
        _, transport, clock = line
        clock.run_until(IDLE - 1)
        assert not transport.closed
        clock.run_until(IDLE)
        assert transport.closed

    async def test_half_a_request_has_time_from_its_begin(self, line: tuple[Connection, Written, Clockwork]) -> None:
        connection, transport, clock = line
        clock.run_until(IDLE - 1)
        connection.data_received(request()[:-1])
        clock.run_until(2 * IDLE - 2)
        assert not transport.closed
        clock.run_until(2 * IDLE - 1)
        assert transport.closed

    async def test_an_answer_may_take_longer(self, line: tuple[Connection, Written, Clockwork]) -> None:
        connection, transport, clock = line
        connection.data_received(request())
        clock.run_until(10 * IDLE)
        assert not transport.closed
        assert clock.timers == []

    async def test_a_lost_connection_leaves_no_timer(self, line: tuple[Connection, Written, Clockwork]) -> None:
        connection, _, clock = line
        connection.connection_lost(None)
        assert [timer for timer in clock.timers if not timer.cancelled()] == []
