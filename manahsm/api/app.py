"""What is done with an HTTP request before and after its meaning: who asks, how much they may send, and from where.

The one thing to know: the order. The Host header, the Origin, who asks, the room for one more request, the kind and
size of its body: nothing of a request is looked at before what comes earlier admits it. A request keeps its room until
its answer is made, and where that comes in parts, until the last one is sent or the caller has left.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http import HTTPStatus

import anyio
import msgspec
from attrs import frozen
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from manahsm.api.callers import Callers, Refused
from manahsm.api.calls import Answer, Parts, Visitor
from manahsm.api.connection import CUT_OFF
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
_METHODS = ["GET", "HEAD", "POST"]
_RETRY_AFTER = ("retry-after", "1")


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
    """Lets requests in; an ASGI application."""

    def __init__(self, api: Api, doors: Doors, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._doors = doors
        self._callers = Callers(api)
        self._hosts = frozenset(name.lower() for name in api.allowed_hosts)
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever it is."""
        request = Request(scope, receive)
        request_id = _request_id(request)
        with ExitStack() as room:
            try:
                visitor = self._admit(request, request_id)
                room.enter_context(self._room())
                answer = await self._answer(request, visitor)
            except _Turned as turned:
                answer = turned.answer
                _log.warning("request refused", request_id=request_id, status=answer.status, reason=str(turned))
            headers = _headers(answer, request_id)
            if isinstance(answer.body, bytes):
                room.close()
                await Response(answer.body, answer.status, headers, answer.content_type)(scope, receive, send)
                return
            response = StreamingResponse(answer.body, answer.status, headers, answer.content_type)
            if not await self._sent_in_time(response, answer.body, scope, receive, send):
                _log.warning("answer cut off: it took too long", request_id=request_id)

    async def _sent_in_time(self, response: Response, parts: Parts, scope: Scope, receive: Receive, send: Send) -> bool:
        """Send an answer in parts, or end the connection when it takes too long: because of the node or the caller."""
        try:
            with self._clock.move_on_after(self._api.downstream_stream_timeout) as time:
                await response(scope, receive, send)
            if time.cancelled_caught:
                scope[CUT_OFF]()
                while (await receive())["type"] != "http.disconnect":
                    pass  # what uvicorn calls a fault is an answer that ends before its connection
            return not time.cancelled_caught
        finally:
            with anyio.CancelScope(shield=True):
                await parts.aclose()

    def _admit(self, request: Request, request_id: str) -> Visitor:
        peer: Peer = request.scope[PEER]
        self._check_host(request, peer)
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._api.cors_origins:
            raise _Turned(HTTPStatus.FORBIDDEN, "web pages of this origin may not ask: see hsm.api.cors_origins")
        try:
            known = self._callers.recognise(peer, request.headers.get("authorization"))
        except Refused as refused:
            headers = [("www-authenticate", "Bearer")] if refused.status is HTTPStatus.UNAUTHORIZED else []
            raise _Turned(refused.status, refused.message, *headers) from None
        return Visitor(
            access=known.access, dialect=known.dialect, dialects=peer.listener.dialects, request_id=request_id
        )

    def _check_host(self, request: Request, peer: Peer) -> None:
        if peer.listener.socket is not None:
            return
        hosts = request.headers.getlist("host")
        if len(hosts) == 1:
            host = host_of(hosts[0])
            if host in self._hosts or host == peer.listener.host or (peer.local and is_loopback(host)):
                return
        raise _Turned(HTTPStatus.FORBIDDEN, "ask by a name or address of the signer: see hsm.api.allowed_hosts")

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self._inside >= self._api.max_requests:
            raise _Turned(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once", _RETRY_AFTER)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def _answer(self, request: Request, visitor: Visitor) -> Answer:
        method, path, body = request.method, request.scope["path"], b""
        if method == "POST":
            body = await self._body(request)
            if path == "/":
                return await self._doors.rpc[visitor.dialects].answer(body, visitor)
        answer = await self._doors.rest.answer("GET" if method == "HEAD" else method, path, body, visitor)
        if answer is None:
            raise _Turned(HTTPStatus.NOT_FOUND, "there is nothing here: JSON-RPC is served at /")
        return answer

    async def _body(self, request: Request) -> bytes:
        """Read a body. Only JSON: what a web page can send without being asked for leave is something else."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        length = request.headers.get("content-length")
        if length is not None and int(length) > self._api.max_body:
            raise self._too_large()
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > self._api.max_body:
                    raise self._too_large()
        except ClientDisconnect:
            raise _Turned(HTTPStatus.BAD_REQUEST, "the request was not sent to its end") from None
        if body and kind != _JSON:
            raise _Turned(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send JSON, with the header content-type: {_JSON}")
        return bytes(body)

    def _too_large(self) -> _Turned:
        most = self._api.max_body
        return _Turned(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {most} bytes: send less, or raise hsm.api.max_body",
            ("connection", "close"),
        )


def make_app(api: Api, doors: Doors, *, clock: Clock = SYSTEM_CLOCK) -> Callable[..., Awaitable[None]]:
    """Return the ASGI application."""
    middleware = []
    if api.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(api.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["content-type", "authorization"],
            )
        )
    porter = _Porter(api, doors, clock)
    return Starlette(routes=[Route("/{path:path}", porter, methods=_METHODS)], middleware=middleware)


def _request_id(request: Request) -> str:
    """The caller's own, where it may stand in a log, else a new one."""
    given = request.headers.get("x-request-id")
    return given if given is not None and is_request_id(given) else uuid.uuid4().hex


def _headers(answer: Answer, request_id: str) -> dict[str, str]:
    return {
        "date": formatdate(usegmt=True),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "x-request-id": request_id,
        **dict(answer.headers),
    }
