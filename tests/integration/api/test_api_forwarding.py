"""Calls that are not ours, through the whole interface: what reaches the node, what comes back, and who hangs up."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from scripted_node import CLOSED, HttpRequest, Script, ScriptedNode, Wire, http_answer, rpc_answer, scripted_node
from served import Served, rpc, serving
from services import software_config

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-a-caller-0451"


@pytest.fixture
def anyio_backend() -> str:
    """The scripted node is for asyncio; that the interface serves a service on trio too, other tests see."""
    return "asyncio"


async def echo(request: HttpRequest, _wire: Wire) -> bytes:
    return rpc_answer(request, {"you asked": request.method, "n": 2**60 + 1})


@asynccontextmanager
async def before_a_node(
    directory: Path, script: Script = echo, **api: Any
) -> AsyncIterator[tuple[Served, ScriptedNode]]:
    async with (
        scripted_node(script) as node,
        serving(software_config(directory), downstream=node.url, **api) as served,
    ):
        yield served, node


async def test_a_call_that_is_not_ours_is_answered_by_the_node(tmp_path: Path) -> None:
    caller = {"name": "wallet", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    async with before_a_node(tmp_path, callers=[caller]) as (served, node):
        body = json.dumps(rpc("eth_gasPrice", [], "my id")).encode()
        credentials = {"authorization": f"Bearer {TOKEN}", "cookie": "session=1"}
        answer = await served.post(body, **credentials, x_forwarded_for="10.0.0.1", x_request_id="mine")
    assert answer.status_code == 200
    assert answer.json() == {"jsonrpc": "2.0", "id": "my id", "result": {"you asked": "eth_gasPrice", "n": 2**60 + 1}}
    request = node.requests[0]
    assert request.body == body
    assert not {"cookie", "authorization", "x-forwarded-for", "x-request-id"} & request.headers.keys()


async def test_a_batch_is_answered_here_and_there_in_the_order_of_its_calls(tmp_path: Path) -> None:
    async with before_a_node(tmp_path) as (served, node):
        calls = [
            rpc("eth_gasPrice", [], 1),
            rpc("eth_accounts", [], 2),
            rpc("admin_peers", [], 3),
            rpc("eth_call", [], 4),
        ]
        answer = (await served.post(json.dumps(calls).encode())).json()
    assert [part["id"] for part in answer] == [1, 2, 3, 4]
    assert answer[0]["result"]["you asked"] == "eth_gasPrice"
    assert answer[1]["result"] == []
    assert answer[2]["error"]["code"] == -32601
    assert answer[3]["result"] == {"you asked": "eth_call", "n": 2**60 + 1}
    assert sorted(node.methods) == ["eth_call", "eth_gasPrice"]


async def test_what_may_not_be_forwarded_is_a_method_that_is_not_there(tmp_path: Path) -> None:
    async with before_a_node(tmp_path) as (served, node):
        answer = await served.call("personal_unlockAccount", "0x00", "password")
    assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (-32601, "policy_denied")
    assert node.requests == []


async def test_a_node_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    async with before_a_node(tmp_path) as (served, node):
        node.script = hang_up
        answer = await served.call("eth_gasPrice")
        sent = await served.call("eth_accounts")
    assert answer["error"]["code"] == -32000
    assert answer["error"]["message"].startswith("downstream unreachable")
    assert sent["result"] == []


async def hang_up(_request: HttpRequest, _wire: Wire) -> bytes:
    return CLOSED


@pytest.mark.parametrize("more", [b"", b"x" * 64 * 2**20], ids=["while the node is silent", "while much is on its way"])
async def test_the_node_is_hung_up_on_when_the_caller_hangs_up(tmp_path: Path, more: bytes) -> None:
    ended = asyncio.Event()

    async def endless(_request: HttpRequest, wire: Wire) -> bytes:
        head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
        try:
            await wire.send(head.encode() + b"first" + more)
            await wire.closed_by_client.wait()
        finally:
            ended.set()
        return CLOSED

    async with before_a_node(tmp_path, endless) as (served, _):
        parts = urlsplit(served.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        body = json.dumps(rpc("eth_getLogs", [])).encode()
        head = f"POST / HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"first")
        writer.transport.abort()
        with anyio.fail_after(20):
            await ended.wait()


async def test_a_stream_that_the_node_breaks_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    async def break_off(_request: HttpRequest, wire: Wire) -> bytes:
        await wire.send(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\nfirst")
        return CLOSED

    async with before_a_node(tmp_path, break_off) as (served, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await served.call("eth_getLogs")
        assert (await served.call("eth_accounts"))["result"] == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"slow down"}}', "application/json"),
        (b"no", "text/plain"),
    ],
)
async def test_a_node_that_is_asked_too_much_says_so_to_the_caller_and_when_to_come_back(
    tmp_path: Path, body: bytes, kind: str
) -> None:
    async def refuse(_request: HttpRequest, _wire: Wire) -> bytes:
        return http_answer(body, 429, kind, "retry-after: 17")

    async with before_a_node(tmp_path, refuse) as (served, node):
        answer = await served.post(json.dumps(rpc("eth_call", [])).encode())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")
    assert (answer.json()["id"], answer.json()["error"]["code"]) == (1, -32005)
    assert len(node.requests) == 1


async def test_a_call_of_a_batch_for_which_the_node_was_asked_too_much_says_when_to_come_back(tmp_path: Path) -> None:
    async def refuse(_request: HttpRequest, _wire: Wire) -> bytes:
        return http_answer(b"no", 429, "text/plain", "retry-after: 17")

    async with before_a_node(tmp_path, refuse) as (served, node):
        answer = (await served.post(json.dumps([rpc("eth_call", [])]).encode())).json()
    assert answer[0]["error"]["data"] == {"code": "rate_limited", "retry_after": 17.0}
    assert len(node.requests) == 1
