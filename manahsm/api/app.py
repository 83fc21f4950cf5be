"""What is done with an HTTP request before and after its meaning: who asks, how much they may send, and from where.

The one thing to know: the order. The Host header, the Origin, who asks, the room for one more request, the kind and
size of its body: nothing of a request is looked at before what comes earlier admits it. A request keeps its room until
its answer is made, and where that comes in parts, until the last one is sent or the caller has left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

import anyio
import msgspec
from attrs import frozen
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from manahsm.api.callers import Callers, Refused
from manahsm.api.calls import Answer, Parts, Visitor
from manahsm.api.connection import CUT_OFF, TOGETHER
from manahsm.api.dispatch import Dispatcher
from manahsm.api.peers import PEER, Peer
from manahsm.api.rest import Rest
from manahsm.config.addresses import host_of, is_loopback
from manahsm.config.api_tables import Api, Dialect
from manahsm.logs import get_logger
from manahsm.requests import is_request_id
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["Doors", "make_app"]

_log = get_logger("manahsm.api")

_JSON = "application/json"
_METHODS = ("GET", "HEAD", "POST")
_RETRY_AFTER = ("retry-after", "1")
_WRITTEN_WITH_ITS_HEAD = 65_536  # bytes of a body at most: copying it is cheaper than a second call of the system

Headers = Mapping[bytes, bytes]
"""Headers of a request: lower-case names, and of each name the first value."""


@frozen(kw_only=True)
class Doors:
    """What requests are handed to, by the dialects of the listener where they came in."""

    rpc: Mapping[tuple[Dialect, ...], Dispatcher]
    rest: Rest


class _Turned(Exception):  # noqa: N818
    """A request that goes no further."""

    def __init__(self, status: HTTPStatus, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        body = msgspec.json.encode({"error": {"code": status.phrase.lower().replace(" ", "_"), "message": message}})
        self.answer = Answer(status=status, body=body, headers=headers)


class _Porter:
    """Lets requests in; an ASGI application.

    It reads a request's head and writes an answer's by itself: by way of Starlette's routing, requests and responses,
    each took 20 us more.
    """

    def __init__(self, api: Api, doors: Doors, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._doors = doors
        self._callers = Callers(api)
        self._hosts = frozenset(name.lower() for name in api.allowed_hosts)
        self._inside = 0
        self._date = _Date()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever it is."""
        if scope["method"] not in _METHODS:
            await PlainTextResponse("Method Not Allowed", 405, {"allow": ", ".join(_METHODS)})(scope, receive, send)
            return
        headers = _first_of_each(scope)
        request_id = _request_id(headers)
        try:
            visitor = self._admit(scope, headers, request_id)
            self._check_room()
        except _Turned as turned:
            await self._send(_refusal(turned, request_id), request_id, scope, send)
            return
        self._inside += 1
        try:
            try:
                answer = await self._answer(scope, headers, receive, visitor)
            except _Turned as turned:
                answer = _refusal(turned, request_id)
            if not isinstance(answer.body, bytes):
                response = StreamingResponse(answer.body, answer.status)
                response.raw_headers = self._head(answer, request_id)
                if not await self._sent_in_time(response, answer.body, scope, receive, send):
                    _log.warning("answer cut off: it took too long", request_id=request_id)
                return
        finally:
            self._inside -= 1
        await self._send(answer, request_id, scope, send)

    async def _send(self, answer: Answer, request_id: str, scope: Scope, send: Send) -> None:
        """Send an answer that is whole."""
        body = answer.body
        assert isinstance(body, bytes)  # noqa: S101 - others are streamed
        head = self._head(answer, request_id)
        if answer.status != HTTPStatus.NO_CONTENT:
            head.append((b"content-length", b"%d" % len(body)))
        if scope["method"] != "HEAD" and len(body) <= _WRITTEN_WITH_ITS_HEAD:
            scope[TOGETHER]()
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _sent_in_time(
        self, response: StreamingResponse, parts: Parts, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Send an answer in parts, or end the connection when it takes too long: because of the node or the caller."""
        try:
            with self._clock.move_on_after(self._api.downstream_stream_timeout) as limit:
                await response(scope, receive, send)
            if limit.cancelled_caught:
                scope[CUT_OFF]()
                while (await receive())["type"] != "http.disconnect":
                    pass  # what uvicorn calls a fault is an answer that ends before its connection
            return not limit.cancelled_caught
        finally:
            with anyio.CancelScope(shield=True):
                await parts.aclose()

    def _head(self, answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
        return [
            (b"date", self._date.now()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id.encode()),
            *[(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers],
            (b"content-type", answer.content_type.encode("latin-1")),
        ]

    def _admit(self, scope: Scope, headers: Headers, request_id: str) -> Visitor:
        peer: Peer = scope[PEER]
        self._check_host(scope, peer)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._api.cors_origins:
            raise _Turned(HTTPStatus.FORBIDDEN, "web pages of this origin may not ask: see hsm.api.cors_origins")
        authorization = headers.get(b"authorization")
        try:
            known = self._callers.recognise(peer, None if authorization is None else authorization.decode("latin-1"))
        except Refused as refused:
            challenge = [("www-authenticate", "Bearer")] if refused.status is HTTPStatus.UNAUTHORIZED else []
            raise _Turned(refused.status, refused.message, *challenge) from None
        return Visitor(
            access=known.access, dialect=known.dialect, dialects=peer.listener.dialects, request_id=request_id
        )

    def _check_host(self, scope: Scope, peer: Peer) -> None:
        if peer.listener.socket is not None:
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1:
            host = host_of(hosts[0].decode("latin-1"))
            if host in self._hosts or host == peer.listener.host or (peer.local and is_loopback(host)):
                return
        raise _Turned(HTTPStatus.FORBIDDEN, "ask by a name or address of the signer: see hsm.api.allowed_hosts")

    def _check_room(self) -> None:
        if self._inside >= self._api.max_requests:
            raise _Turned(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once", _RETRY_AFTER)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, visitor: Visitor) -> Answer:
        method, path, body = scope["method"], scope["path"], b""
        if method == "POST":
            body = await self._body(headers, receive)
            if path == "/":
                return await self._doors.rpc[visitor.dialects].answer(body, visitor)
        answer = await self._doors.rest.answer("GET" if method == "HEAD" else method, path, body, visitor)
        if answer is None:
            raise _Turned(HTTPStatus.NOT_FOUND, "there is nothing here: JSON-RPC is served at /")
        return answer

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Read a body. Only JSON: what a web page can send without being asked for leave is something else."""
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._api.max_body:
            raise self._too_large()
        body, more = await _next_part(receive)
        if more or len(body) > self._api.max_body:
            body = await self._all_parts(body, receive, more=more)
        if body and not _is_json(headers):
            raise _Turned(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send JSON, with the header content-type: {_JSON}")
        return body

    async def _all_parts(self, first: bytes, receive: Receive, *, more: bool) -> bytes:
        body = bytearray(first)
        while len(body) <= self._api.max_body:
            if not more:
                return bytes(body)
            part, more = await _next_part(receive)
            body += part
        raise self._too_large()

    def _too_large(self) -> _Turned:
        most = self._api.max_body
        return _Turned(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {most} bytes: send less, or raise hsm.api.max_body",
            ("connection", "close"),
        )


class _Date:
    """The Date header, written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


def make_app(api: Api, doors: Doors, *, clock: Clock = SYSTEM_CLOCK) -> ASGIApp:
    """Return the ASGI application."""
    porter = _Porter(api, doors, clock)
    if not api.cors_origins:
        return porter
    return CORSMiddleware(
        porter,
        allow_origins=list(api.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["content-type", "authorization"],
    )


def _first_of_each(scope: Scope) -> Headers:
    return dict(reversed(scope["headers"]))


def _request_id(headers: Headers) -> str:
    """The caller's own, where it may stand in a log, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and is_request_id(text := given.decode("latin-1")):
        return text
    return os.urandom(16).hex()


def _is_json(headers: Headers) -> bool:
    kind = headers.get(b"content-type", b"")
    return kind == _JSON.encode() or kind.decode("latin-1").partition(";")[0].strip().lower() == _JSON


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    """A part of a body, and whether there are more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _Turned(HTTPStatus.BAD_REQUEST, "the request was not sent to its end")
    return message.get("body", b""), message.get("more_body", False)


def _refusal(turned: _Turned, request_id: str) -> Answer:
    _log.warning("request refused", request_id=request_id, status=turned.answer.status, reason=str(turned))
    return turned.answer
