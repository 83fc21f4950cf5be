"""The node behind: what its answers become, whatever they are, and that its address stays secret."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from scripted_node import CLOSED, HttpRequest, ScriptedNode, Wire, http_answer, rpc_answer, scripted_node

from manahsm.api.calls import Answer, RPCError
from manahsm.api.codes import shown
from manahsm.api.downstream import Node, Throttled, Unanswered, hidden_parts
from manahsm.config.api_tables import Dialect
from manahsm.config.secret import Secret
from manahsm.errors import Overloaded
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

KEY = "k3y-0f-a-pr0v1der"
PASSWORD = "open-sesame-0451"


@pytest.fixture
def anyio_backend() -> str:
    """The HTTP interface lives on asyncio, whatever the service runs on."""
    return "asyncio"


@asynccontextmanager
async def node_that(
    answer: Callable[[HttpRequest], bytes], clock: ManualClock | None = None
) -> AsyncIterator[tuple[Node, ScriptedNode]]:
    async def script(request: HttpRequest, _wire: Wire) -> bytes:
        return answer(request)

    async with scripted_node(script) as server, connected_to(server, clock or ManualClock()) as node:
        yield node, server


@asynccontextmanager
async def connected_to(server: ScriptedNode, clock: ManualClock) -> AsyncIterator[Node]:
    url = f"http://user:{PASSWORD}@127.0.0.1:{server.port}/v3/{KEY}"
    async with Node(Secret(url), timeout=5.0, clock=clock) as node:
        yield node


async def body_of(answer: Answer) -> bytes:
    if isinstance(answer.body, bytes):
        return answer.body
    return b"".join([part async for part in answer.body])


def call_body(method: str = "eth_blockNumber") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": "a", "method": method, "params": []}).encode()


async def test_a_result_is_what_the_node_gave() -> None:
    result = {"number": "0x10", "list": [1, None, 2**70]}
    async with node_that(lambda request: rpc_answer(request, result)) as (node, server):
        assert await node.call("eth_getBlockByNumber", ["latest", False]) == result

    sent = server.requests[0]
    assert sent.json == {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", False]}
    assert sent.line == f"POST /v3/{KEY} HTTP/1.1"
    assert sent.headers["authorization"].startswith("Basic ")


async def test_a_result_that_is_passed_on_keeps_its_digits() -> None:
    number = b'{"n":0.1000000000000000055511151231257827,"m":123456789012345678901234567890}'
    answer = http_answer(b'{"id":1,"result":' + number + b"}")
    async with node_that(lambda _: answer) as (node, _):
        assert msgspec.json.encode({"result": await node.ask("debug_x", None)}) == b'{"result":' + number + b"}"


async def test_calls_share_connections() -> None:
    async with node_that(lambda request: rpc_answer(request, 1)) as (node, server):
        for _ in range(3):
            await node.call("eth_chainId", [])
    assert server.connections == 1


async def test_a_node_can_not_leave_cookies() -> None:
    async with node_that(lambda request: rpc_answer(request, 1).replace(b"\r\n", b"\r\nset-cookie: a=b\r\n", 1)) as (
        node,
        server,
    ):
        await node.call("eth_chainId", [])
        await node.call("eth_chainId", [])
    assert "cookie" not in server.requests[1].headers


async def test_an_error_of_the_node_is_passed_through() -> None:
    error = {"code": 3, "message": "execution reverted", "data": "0x08c379a0"}
    async with node_that(lambda request: rpc_answer(request, error=error)) as (node, _):
        with pytest.raises(RPCError) as caught:
            await node.call("eth_estimateGas", [{}])
    assert (caught.value.code, caught.value.message, caught.value.data) == (3, "execution reverted", "0x08c379a0")
    assert not isinstance(caught.value, Unanswered)


async def test_an_error_is_an_error_whatever_the_status() -> None:
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"too many requests"}}'
    async with node_that(lambda _: http_answer(body, 429)) as (node, _):
        with pytest.raises(RPCError) as caught:
            await node.call("eth_chainId", [])
    assert isinstance(caught.value, Throttled)
    assert (caught.value.code, caught.value.message) == (-32005, "too many requests")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http_answer(b"<html>502</html>", 502, "text/html"), id="a page"),
        pytest.param(http_answer(b"", 200), id="nothing"),
        pytest.param(http_answer(b"[]"), id="a batch"),
        pytest.param(http_answer(b'{"id":1}'), id="no result"),
        pytest.param(http_answer(b'{"id":7,"result":1}'), id="the answer to another call"),
        pytest.param(http_answer(b'{"id":1,"result":1}', 500), id="a result with a status of failure"),
        pytest.param(http_answer(b'{"id":1,"error":"no"}'), id="an error that is none"),
        pytest.param(http_answer(b'{"id":1,"result":"\xff"}'), id="no UTF-8"),
        pytest.param(http_answer(b'{"id":1,"result":"\\ud800"}'), id="half a character"),
        pytest.param(http_answer(b'{"id":1,"result":' + b"[" * 64 + b"]" * 64 + b"}"), id="depth"),
        pytest.param(http_answer(b'{"id":1,"result":' + b"[" * 100_000), id="endless depth"),
        pytest.param(http_answer(b'{"id":1,"result":"' + b"a" * 5 * 2**20 + b'"}'), id="too much"),
        pytest.param(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n{", id="half an answer"),
        pytest.param(b"\x00\x01garbage\r\n\r\n", id="no HTTP"),
        pytest.param(CLOSED, id="a closed connection"),
    ],
)
async def test_what_is_no_answer_leaves_the_outcome_open(answer: bytes) -> None:
    served: list[HttpRequest] = []

    async def script(request: HttpRequest, wire: Wire) -> bytes:
        served.append(request)
        if answer:
            await wire.send(answer)
        return CLOSED

    async with scripted_node(script) as server, connected_to(server, ManualClock()) as node:
        with pytest.raises(Unanswered) as caught:
            await node.call("eth_sendRawTransaction", ["0x00"])
    assert caught.value.code == -32000
    assert caught.value.message.startswith("downstream ")
    assert len(served) == 1


@pytest.mark.parametrize("way", ["call", "stream"])
async def test_nobody_is_followed_elsewhere(way: str) -> None:
    answer = http_answer(b"", 307, "application/json", "location: /elsewhere")
    async with node_that(lambda _: answer) as (node, server):
        with pytest.raises(Unanswered, match="status 307"):
            await (node.call("eth_chainId", []) if way == "call" else node.stream(call_body()))
    assert [request.line for request in server.requests] == [f"POST /v3/{KEY} HTTP/1.1"]


async def test_a_node_that_is_not_there_was_told_nothing() -> None:
    async with node_that(lambda request: rpc_answer(request, 1)) as (_, server):
        url = server.url
    async with Node(Secret(url), timeout=5.0, clock=ManualClock()) as node:
        with pytest.raises(RPCError, match="downstream unreachable") as caught:
            await node.call("eth_chainId", [])
        assert not isinstance(caught.value, Unanswered)
        with pytest.raises(RPCError, match="downstream unreachable"):
            await node.stream(call_body())


async def silence(_request: HttpRequest, wire: Wire) -> bytes:
    await wire.closed_by_client.wait()
    return CLOSED


@pytest.mark.parametrize("way", ["call", "stream"])
async def test_a_silent_node_is_waited_for_no_longer_than_configured(way: str) -> None:
    clock = ManualClock()
    caught: list[Unanswered] = []
    async with (
        scripted_node(silence) as server,
        connected_to(server, clock) as node,
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            with pytest.raises(Unanswered, match="downstream timeout: no answer within 5 s") as info:
                await (node.call("eth_chainId", []) if way == "call" else node.stream(call_body()))
            caught.append(info.value)

        tasks.start_soon(ask)
        await until(lambda: server.requests)
        await clock.run_for(4.9)
        assert caught == []
        await clock.run_for(0.2)
    assert len(caught) == 1


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens on a socket, which no event announces."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def test_calls_for_which_there_is_no_connection_are_refused_while_the_others_wait() -> None:
    refused: list[Overloaded] = []
    async with scripted_node(silence) as server:
        clock = ManualClock()  # in whose time no answer is ever late; the wait for a connection is in real time
        async with Node(Secret(server.url), timeout=0.2, clock=clock) as node, anyio.create_task_group() as tasks:

            async def ask() -> None:
                try:
                    await node.call("eth_chainId", [])
                except Overloaded as error:
                    refused.append(error)

            for _ in range(70):
                tasks.start_soon(ask)
            await until(lambda: len(refused) == 6 and len(server.requests) == 64)
            tasks.cancel_scope.cancel()
        assert server.connections == 64


# ---- streams ----


async def test_a_stream_is_passed_on_part_by_part() -> None:
    go_on = anyio.Event()

    async def script(_request: HttpRequest, wire: Wire) -> bytes:
        await wire.send(b"HTTP/1.1 200 X\r\ncontent-type: application/json; charset=utf-8\r\n")
        await wire.send(b"transfer-encoding: chunked\r\nx-secret-of-node: 1\r\n\r\n5\r\nfirst\r\n")
        await go_on.wait()
        return b"4\r\nlast\r\n0\r\n\r\n"

    async with scripted_node(script) as server, connected_to(server, ManualClock()) as node:
        answer = await node.stream(call_body("debug_traceBlock"))
        assert (answer.status, answer.content_type, answer.headers) == (200, "application/json", ())
        assert not isinstance(answer.body, bytes)
        parts = aiter(answer.body)
        assert await anext(parts) == b"first"
        go_on.set()
        assert [part async for part in parts] == [b"last"]
        assert server.requests[0].body == call_body("debug_traceBlock")


async def test_a_stream_may_be_larger_than_any_memory_allowed_for_a_call() -> None:
    body = b'"' + b"a" * 8 * 2**20 + b'"'
    async with node_that(lambda _: http_answer(body)) as (node, _):
        assert await body_of(await node.stream(call_body())) == body


async def test_a_compressed_answer_is_passed_on_as_it_was_before() -> None:
    answer = http_answer(gzip.compress(b'{"id":"a","result":1}'), 200, "application/json", "content-encoding: gzip")
    async with node_that(lambda _: answer) as (node, server):
        assert await body_of(await node.stream(call_body())) == b'{"id":"a","result":1}'
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("way", ["leaves", "is cancelled"])
async def test_the_connection_to_the_node_ends_with_the_caller(way: str) -> None:
    ended = anyio.Event()

    async def script(_request: HttpRequest, wire: Wire) -> bytes:
        await wire.send(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\nfirst")
        await wire.closed_by_client.wait()
        ended.set()
        return CLOSED

    async with scripted_node(script) as server, connected_to(server, ManualClock()) as node:
        answer = await node.stream(call_body())
        parts: Any = answer.body
        assert await anext(parts) == b"first"
        if way == "leaves":
            await parts.aclose()
        else:
            with anyio.move_on_after(0):
                await anext(parts)
        with anyio.fail_after(20):
            await ended.wait()


async def test_the_connection_to_a_node_whose_answer_can_not_be_decoded_is_given_up() -> None:
    ended = anyio.Event()

    async def script(_request: HttpRequest, wire: Wire) -> bytes:
        await wire.send(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n")
        await wire.send(b"content-length: 99\r\n\r\nthis is no gzip")
        await wire.closed_by_client.wait()
        ended.set()
        return CLOSED

    async with scripted_node(script) as server, connected_to(server, ManualClock()) as node:
        answer = await node.stream(call_body())
        with pytest.raises(Unanswered, match="in the middle"):
            await body_of(answer)
        with anyio.fail_after(20):
            await ended.wait()


async def test_a_stream_that_stops_in_the_middle_is_no_whole_answer() -> None:
    clock = ManualClock()

    async def script(_request: HttpRequest, wire: Wire) -> bytes:
        await wire.send(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\nfirst")
        return await silence(_request, wire)

    async with scripted_node(script) as server, connected_to(server, clock) as node, anyio.create_task_group() as tasks:

        async def read() -> None:
            with pytest.raises(Unanswered, match="in the middle"):
                await body_of(await node.stream(call_body()))

        tasks.start_soon(read)
        await until(lambda: server.requests)
        await until(lambda: len(clock.timers()) == 1)
        await clock.run_for(11)


async def test_a_refusal_in_json_keeps_its_status_and_when_to_come_back() -> None:
    body = b'{"jsonrpc":"2.0","id":"a","error":{"code":-32005,"message":"slow down"}}'
    async with node_that(lambda _: http_answer(body, 429, "application/json", "retry-after: 3", "x-a: b")) as (node, _):
        answer = await node.stream(call_body())
    assert answer == Answer(status=429, body=body, headers=(("retry-after", "3"),))


PAGE = http_answer(b"<h1>Slow down, " + KEY.encode(), 429, "text/html", "retry-after: 3")


@pytest.mark.parametrize("way", ["call", "stream"])
async def test_a_node_that_was_asked_too_much_has_done_nothing_and_says_when_to_come_back(way: str) -> None:
    async with node_that(lambda _: PAGE) as (node, _):
        with pytest.raises(Throttled, match="downstream was asked too much") as caught:
            await (node.call("eth_sendRawTransaction", ["0x00"]) if way == "call" else node.stream(call_body()))
    told = shown(caught.value, Dialect.WEB3SIGNER, "eth_blockNumber")
    assert (caught.value.retry_after, told.status, told.headers) == (3.0, 429, (("retry-after", "3"),))


async def test_a_node_that_does_not_say_when_to_come_back_is_left_alone_for_a_second() -> None:
    async with node_that(lambda _: http_answer(b"", 429, "text/plain")) as (node, _):
        with pytest.raises(Throttled) as caught:
            await node.stream(call_body())
    assert caught.value.retry_after is None
    assert shown(caught.value, Dialect.WEB3SIGNER, "eth_call").headers == (("retry-after", "1"),)


async def test_a_time_of_day_to_come_back_is_passed_on_as_seconds() -> None:
    long_ago = "retry-after: Thu, 01 Jan 1970 00:00:00 GMT"
    async with node_that(lambda _: http_answer(b'{"error":{}}', 503, "application/json", long_ago)) as (node, _):
        assert (await node.stream(call_body())).headers == (("retry-after", "0"),)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http_answer(b"<h1>Not found: /v3/" + KEY.encode(), 404, "text/html"), id="a page"),
        pytest.param(http_answer(b'{"error":"no project ' + KEY.encode() + b'"}', 404), id="its key"),
        pytest.param(http_answer(b'{"error":"log in"}', 401), id="a refusal of the signer"),
        pytest.param(http_answer(b"<h1>Welcome", 200, "text/html"), id="a page of success"),
    ],
)
async def test_what_says_more_of_the_node_than_of_the_call_is_not_shown(answer: bytes) -> None:
    async with node_that(lambda _: answer) as (node, server):
        with pytest.raises(Unanswered) as caught:
            await node.stream(call_body())
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


# ---- the address ----


async def test_the_address_is_in_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    error = {"code": -32600, "message": f"project {KEY} is not allowed", "data": {"url": f"/v3/{KEY}"}}
    caplog.set_level(logging.DEBUG)
    async with node_that(lambda request: rpc_answer(request, error=error)) as (node, server):
        with pytest.raises(RPCError) as caught:
            await node.call("eth_chainId", [])
        server.script = close
        with pytest.raises(Unanswered):
            await node.call("eth_chainId", [])
        seen = repr(node) + str(caught.value) + caplog.text
    assert caught.value.message == "project *** is not allowed"
    assert caught.value.data is None
    assert "127.0.0.1" not in seen
    assert KEY not in seen
    assert PASSWORD not in seen


async def close(_request: HttpRequest, _wire: Wire) -> bytes:
    return CLOSED


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("http://127.0.0.1:8545", ()),
        ("https://mainnet.example/v3/0123456789abcdef", ("0123456789abcdef",)),
        ("https://someone:a%20pass%20word@node/", ("a%20pass%20word", "a pass word")),
        ("https://node/rpc?apikey=0123456789&v=1", ("0123456789",)),
    ],
)
def test_the_parts_of_an_address_that_may_be_keys(url: str, hidden: tuple[str, ...]) -> None:
    assert hidden_parts(url) == hidden


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with node_that(lambda request: rpc_answer(request, "0x1")) as (node, _):
        assert await node.call("eth_chainId", []) == "0x1"
