"""The endpoint on real sockets: what clients do to it stays theirs."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import pytest
from anyio.abc import SocketStream

from manahsm.config.tables import MetricsEndpoint
from manahsm.errors import ConfigError
from manahsm.monitoring.answers import Answer, Pages, pages_of
from manahsm.monitoring.endpoint import CONNECTIONS, Endpoint, listening
from supervisors import SYSTEM_CLOCK, ChildContext, Clock
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

GET = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def broken() -> Answer:
    raise RuntimeError("a fault of ours")


PAGES: Pages = {
    **pages_of(lambda: "a 1\n" * 50_000, lambda: None, lambda: (True, {"status": "healthy"})),
    "/broken": broken,
}


@asynccontextmanager
async def serving(clock: Clock = SYSTEM_CLOCK, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
    async with listening(MetricsEndpoint(host=host, port=0)) as endpoint, anyio.create_task_group() as tasks:
        tasks.start_soon(endpoint.serve, PAGES, ChildContext("metrics", clock=clock))
        yield endpoint
        tasks.cancel_scope.cancel()


async def connect(endpoint: Endpoint) -> SocketStream:
    host, port = endpoint.addresses[0]
    return await anyio.connect_tcp(host, port)


async def everything(stream: SocketStream) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    while True:
        try:
            received += await stream.receive()
        except anyio.EndOfStream:
            return received


async def ask(endpoint: Endpoint, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes; returns the status line and the body."""
    async with await connect(endpoint) as stream:
        await stream.send(request)
        head, _, body = (await everything(stream)).partition(b"\r\n\r\n")
    return head.splitlines()[0] if head else b"", body


async def test_a_page_comes_whole_and_the_connection_is_closed() -> None:
    async with serving() as endpoint:
        status, body = await ask(endpoint, GET % b"/metrics")

    assert (status, body) == (b"HTTP/1.1 200 OK", b"a 1\n" * 50_000)


async def test_head_has_the_length_and_no_body() -> None:
    async with serving() as endpoint, await connect(endpoint) as stream:
        await stream.send((GET % b"/metrics").replace(b"GET", b"HEAD"))
        head, _, body = (await everything(stream)).partition(b"\r\n\r\n")

    assert b"Content-Length: 200000" in head
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert body == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET % b"/nothing", b"404 Not Found"),
        (GET % b"/broken", b"500 Internal Server Error"),
        ((GET % b"/metrics").replace(b"GET", b"POST"), b"405 Method Not Allowed"),
        (b"POST /livez HTTP/1.1\r\nHost: ::1\r\nContent-Length: 5\r\n\r\nhello", b"405 Method Not Allowed"),
        ((GET % b"/livez").replace(b"127.0.0.1", b"evil.example"), b"421 Misdirected Request"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400 Bad Request"),  # HTTP/1.1 asks for a host
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400 Bad Request"),  # TLS
        (b"hello\r\n\r\n", b"400 Bad Request"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Y: z\r\n" * 2000, b"431 Request Header Fields Too Large"),
    ],
)
async def test_every_request_has_its_answer(request_: bytes, status: bytes) -> None:
    async with serving() as endpoint:
        assert (await ask(endpoint, request_))[0] == b"HTTP/1.1 " + status


async def test_a_client_that_leaves_without_asking_hurts_nobody() -> None:
    async with serving() as endpoint:
        for request in (b"", b"GET /li", GET % b"/metrics"):
            async with await connect(endpoint) as stream:
                await stream.send(request)
        with socket.create_connection(endpoint.addresses[0]) as client:  # and one that resets the connection
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.send(GET % b"/metrics")

        assert (await ask(endpoint, GET % b"/livez"))[0] == b"HTTP/1.1 200 OK"


async def test_a_client_that_says_nothing_is_cut_off() -> None:
    clock = ManualClock()
    async with serving(clock) as endpoint, await connect(endpoint) as stream:
        await stream.send(b"GET /livez HTTP/1.1\r\n")
        while not clock.timers():
            await settle()
        clock.advance(10.0)

        assert await everything(stream) == b""


async def test_more_connections_than_there_is_room_for_wait_their_turn() -> None:
    clock = ManualClock()  # each connection that is served has a timer on it
    async with serving(clock) as endpoint:
        silent = [await connect(endpoint) for _ in range(CONNECTIONS)]
        waiting = await connect(endpoint)
        await waiting.send(GET % b"/livez")
        while len(clock.timers()) < CONNECTIONS:
            await settle()
        await settle()
        assert len(clock.timers()) == CONNECTIONS
        await silent[0].aclose()

        assert (await everything(waiting)).startswith(b"HTTP/1.1 200 OK")
        for stream in (waiting, *silent):
            await stream.aclose()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let the process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_process_without_descriptors_serves_again_when_it_has_some() -> None:
    clock = ManualClock()
    async with listening(MetricsEndpoint(port=0)) as endpoint, anyio.create_task_group() as tasks:
        async with await connect(endpoint) as stream:
            await stream.send(GET % b"/livez")
            with no_more_descriptors():
                tasks.start_soon(endpoint.serve, PAGES, ChildContext("metrics", clock=clock))
                while not clock.timers():  # it waits until it tries again
                    await settle()
            clock.advance(1.0)

            assert (await everything(stream)).startswith(b"HTTP/1.1 200 OK")
        tasks.cancel_scope.cancel()


async def test_a_task_that_is_restarted_serves_the_same_port() -> None:
    async with listening(MetricsEndpoint(port=0)) as endpoint:
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(endpoint.serve, PAGES, ChildContext("metrics"))
                assert (await ask(endpoint, GET % b"/livez"))[0] == b"HTTP/1.1 200 OK"
                tasks.cancel_scope.cancel()


async def test_localhost_is_every_loopback_address_of_the_machine() -> None:
    async with serving(host="localhost") as endpoint:
        assert {port for _, port in endpoint.addresses} == {endpoint.addresses[0][1]}
        assert {host for host, _ in endpoint.addresses} <= {"127.0.0.1", "::1"}


async def test_a_port_in_use_is_an_error_that_helps() -> None:
    async with listening(MetricsEndpoint(port=0)) as endpoint:
        port = endpoint.addresses[0][1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} is in use: stop the program"):
            await partial(enter, MetricsEndpoint(port=port))()


async def test_an_address_of_another_machine_is_an_error_that_helps() -> None:
    with pytest.raises(ConfigError, match=r"hsm.monitoring.metrics.host: 192.0.2.7 port 0"):
        await enter(MetricsEndpoint(host="192.0.2.7", port=0, allow_remote=True))


async def enter(options: MetricsEndpoint) -> None:
    async with listening(options):
        raise AssertionError("it listens")
