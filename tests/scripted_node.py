"""A node that does what a test says: a small HTTP server on loopback, for what a real node can not be made to show.

The one thing to know: an answer is whatever a function makes of a request, so it can be late, broken or absent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field, frozen

__all__ = ["CLOSED", "HttpRequest", "Script", "ScriptedNode", "Wire", "http_answer", "rpc_answer", "scripted_node"]


@frozen
class HttpRequest:
    """What came in; names of headers in lower case."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def method(self) -> str:
        """Of JSON-RPC."""
        return str(self.json["method"])

    @property
    def json(self) -> dict[str, Any]:
        """The call."""
        call: dict[str, Any] = json.loads(self.body)
        return call


@define
class Wire:
    """The connection, for answers that come in parts."""

    writer: asyncio.StreamWriter
    closed_by_client: asyncio.Event = field(factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


CLOSED = b""
"""The answer of a node that hangs up."""

Script = Callable[[HttpRequest, Wire], Awaitable[bytes]]


def http_answer(body: bytes, status: int = 200, content_type: str = "application/json", *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def rpc_answer(request: HttpRequest, result: Any = None, *, error: Any = None) -> bytes:
    """An answer of JSON-RPC."""
    outcome = {"error": error} if error is not None else {"result": result}
    return http_answer(json.dumps({"jsonrpc": "2.0", "id": request.json["id"], **outcome}).encode())


@define
class ScriptedNode:
    """A server; ``script`` may be changed between requests."""

    script: Script
    port: int = 0
    requests: list[HttpRequest] = field(factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def methods(self) -> list[str]:
        """What was called, in order."""
        return [request.method for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                wire = Wire(writer)
                gone = asyncio.ensure_future(_watch(reader, wire))
                try:
                    answer = await self.script(request, wire)
                finally:
                    gone.cancel()
                    await asyncio.gather(gone, return_exceptions=True)
                if answer == CLOSED:
                    return
                await wire.send(answer)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _watch(reader: asyncio.StreamReader, wire: Wire) -> None:
    """Take note of a client that hangs up before it has its answer: nothing else comes from it meanwhile."""
    if not await reader.read(1):
        wire.closed_by_client.set()


async def _read(reader: asyncio.StreamReader) -> HttpRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in rest if text)}
    return HttpRequest(line, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@asynccontextmanager
async def scripted_node(script: Script) -> AsyncIterator[ScriptedNode]:
    """A node that is up inside the block; what it still answers at the end is cut off."""
    node = ScriptedNode(script)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(node.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    node.port = server.sockets[0].getsockname()[1]
    try:
        yield node
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
