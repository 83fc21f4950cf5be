"""The Ethereum node behind the signer: calls of our own, and calls of others passed through.

The one thing to know: the node's address is a secret, because those of providers hold keys. It is in no message and no
log, answers that repeat a part of it are shown without, and a page that is no JSON (which may repeat it as well) is not
shown at all. Redirects are not followed and proxies of the environment not used.
"""

from __future__ import annotations

import itertools
import logging
import math
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import httpx
import msgspec

from manahsm.api.calls import Answer, RPCError
from manahsm.config.secret import Secret
from manahsm.errors import Overloaded, RateLimited
from manahsm.nesting import MAX_DEPTH, too_deep
from manahsm.times import utc_now
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["DOWNSTREAM_ERROR", "Node", "Throttled", "Unanswered", "hidden_parts", "seconds_to_wait"]

DOWNSTREAM_ERROR = -32000
"""The code for everything that the node did not say itself (JSON-RPC: implementation-defined server errors)."""

_CONNECTIONS = 64  # for calls of our own, and as many again for those that are passed through
_MOST_ANSWER = 4 * 2**20  # bytes of an answer that is held in memory; streams have no limit
_LONGEST_NUMBER = 9  # digits of a number of seconds that is meant
_COME_BACK = 1.0  # seconds, where a node that was asked too much does not say when
_LIMIT_EXCEEDED = -32005  # EIP-1474
_LEAST_HIDDEN = 8  # characters: shorter parts of an address, such as v3, are words of everyday answers
_JSON = "application/json"
_HEADERS = {"content-type": _JSON, "accept": _JSON, "accept-encoding": "identity", "user-agent": "manahsm"}
_SAYS_SOMETHING_OF_US = frozenset({401, 403, 407})  # the node does not take the signer: no caller can change that
_OK, _MULTIPLE_CHOICES, _BAD_REQUEST = 200, 300, 400


class Unanswered(RPCError):  # noqa: N818 - what became of it
    """The node gave no answer that tells what became of the call: it may have been done."""


class Throttled(RPCError):  # noqa: N818 - what became of it
    """The node was asked too much (429), and has done nothing.

    Args:
        code: of JSON-RPC, as the node gave it or -32005.
        message: for the caller.
        data: what the node said more.
        retry_after: seconds for which it wants to be left alone, where it says so.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, retry_after: float | None) -> None:
        after = _COME_BACK if retry_after is None else retry_after
        super().__init__(code, message, data, cause=RateLimited(message, retry_after=after))
        self.retry_after = retry_after


class _Reply(msgspec.Struct):
    """An answer of JSON-RPC, as far as it matters."""

    id: Any = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Any = None


class Node:
    """An Ethereum node, spoken to over JSON-RPC.

    Use it as an async context manager; connections are held open for as long as that lasts.

    Args:
        url: where it is.
        timeout: seconds for an answer; in a stream, for its beginning and for each part. Whoever takes a stream bounds
            the whole of it.
        clock: whose seconds they are.
    """

    def __init__(self, url: Secret, *, timeout: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url = url
        self._hidden = hidden_parts(url.reveal())
        self._timeout = timeout
        self._clock = clock
        self._ids = itertools.count(1)
        # Apart, so that slow queries of callers leave room for transactions.
        self._calls = self._client()
        self._streams = self._client()
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)  # what is below tells where requests go

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            # The certificates that the machine trusts, not a list that came with a package.
            verify=ssl.create_default_context(),
            headers=_HEADERS,
            # Callers share the client: it remembers nothing.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, pool=self._timeout / 2),
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        await self._streams.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._streams.__aexit__(kind, error, trace)
            await self._calls.__aexit__(kind, error, trace)

    async def call(self, method: str, params: list[Any] | dict[str, Any]) -> Any:
        """Call a method and return its result.

        Raises:
            RPCError: the node's error, as it gave it; or there is no connection, and nothing was sent.
            Throttled: it was asked too much.
            Unanswered: it did not answer, not in time, or not with JSON-RPC.
            Overloaded: too many calls wait for the node.
        """
        result = await self.ask(method, params)
        try:
            return msgspec.json.decode(result)
        except (msgspec.DecodeError, RecursionError):
            raise Unanswered(DOWNSTREAM_ERROR, "downstream answered with a result that can not be read") from None

    async def ask(self, method: str, params: list[Any] | dict[str, Any] | None) -> msgspec.Raw:
        """Call a method and return its result as the node wrote it, which :mod:`msgspec` writes as it is.

        Raises:
            RPCError, Throttled, Unanswered, Overloaded: see :meth:`call`.
        """
        number = next(self._ids)
        request = {"jsonrpc": "2.0", "id": number, "method": method}
        if params is not None:
            request["params"] = params
        try:
            with self._clock.fail_after(self._timeout):
                response = await self._send(self._calls, msgspec.json.encode(request))
                try:
                    body = await _whole(response)
                finally:
                    await _close(response)
        except TimeoutError:
            raise self._late() from None
        except httpx.HTTPError as error:
            raise _broken(error) from None
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            raise self._throttled(response, body)
        return self._result(response.status_code, body, number)

    async def stream(self, body: bytes) -> Answer:
        """Send the body of a request on; return the answer as it comes.

        Its body has an ``aclose``, for a caller who leaves before the end.

        Raises:
            RPCError, Throttled, Unanswered, Overloaded: see :meth:`call`; nothing of the answer was passed on.
        """
        try:
            with self._clock.fail_after(self._timeout):
                response = await self._send(self._streams, body)
                status = response.status_code
                if _OK <= status < _MULTIPLE_CHOICES and _is_json(response):
                    return Answer(status=status, body=_Parts(response, self._timeout, self._clock))
                try:
                    return self._refusal(response, await _whole(response))
                finally:
                    await _close(response)
        except TimeoutError:
            raise self._late() from None
        except httpx.HTTPError as error:
            raise _broken(error) from None

    async def _send(self, client: httpx.AsyncClient, body: bytes) -> httpx.Response:
        request = client.build_request("POST", self._url.reveal(), content=body)
        try:
            return await client.send(request, stream=True)
        except httpx.PoolTimeout:
            raise Overloaded("too many requests wait for the node: try again later") from None

    def _late(self) -> Unanswered:
        return Unanswered(DOWNSTREAM_ERROR, f"downstream timeout: no answer within {self._timeout:g} s")

    def _result(self, status: int, body: bytes, number: int) -> msgspec.Raw:
        if too_deep(body):
            raise Unanswered(
                DOWNSTREAM_ERROR, f"downstream answer is nested deeper than {MAX_DEPTH} levels: make this call alone"
            )
        try:
            body.decode()  # what is passed on unread is text too
            reply = msgspec.json.decode(body, type=_Reply)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unanswered(DOWNSTREAM_ERROR, f"downstream answered with status {status} and no JSON-RPC") from None
        if (error := self._error(reply.error)) is not None:
            raise error
        if not _OK <= status < _MULTIPLE_CHOICES or reply.result is msgspec.UNSET or reply.id != number:
            raise Unanswered(DOWNSTREAM_ERROR, f"downstream answered with status {status} and no result")
        return reply.result

    def _throttled(self, response: httpx.Response, body: bytes) -> Throttled:
        """What a node says that was asked too much, where it says it in JSON-RPC."""
        waits = _retry_after(response)
        try:
            said = None if too_deep(body) else self._error(msgspec.json.decode(body, type=_Reply).error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = None
        if said is not None:
            return Throttled(said.code, said.message, said.data, retry_after=waits)
        return Throttled(_LIMIT_EXCEEDED, "downstream was asked too much: try again later", retry_after=waits)

    def _error(self, error: Any) -> RPCError | None:
        match error:
            case {"code": int(code), "message": str(message)}:
                data = error.get("data")
                if self._tells(msgspec.json.encode(data).decode()):
                    data = None
                return RPCError(code, self._shown(message), data)
            case _:
                return None

    def _refusal(self, response: httpx.Response, body: bytes) -> Answer:
        """What a caller sees of an answer that is no success: JSON that gives nothing away."""
        status = response.status_code
        if status >= _BAD_REQUEST and status not in _SAYS_SOMETHING_OF_US and _is_json(response):
            text = body.decode(errors="replace")
            if not self._tells(text):
                waits = _retry_after(response)
                headers = () if waits is None else (("retry-after", str(math.ceil(waits))),)
                return Answer(status=status, body=body, headers=headers)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise self._throttled(response, body)
        raise Unanswered(DOWNSTREAM_ERROR, f"downstream answered with status {status} and no JSON-RPC")

    def _tells(self, text: str) -> bool:
        return any(part in text for part in self._hidden)

    def _shown(self, text: str) -> str:
        for part in self._hidden:
            text = text.replace(part, "***")
        return text


def seconds_to_wait(text: str, now: datetime) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3): seconds, or the time of day (pure)."""
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= _LONGEST_NUMBER else None
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def _retry_after(response: httpx.Response) -> float | None:
    return seconds_to_wait(response.headers.get("retry-after", ""), utc_now())


def hidden_parts(url: str) -> tuple[str, ...]:
    """The parts of an address that may be keys: user, password, path and query, longest first (pure)."""
    parts = urlsplit(url)
    values = [parts.username or "", parts.password or "", *parts.path.split("/")]
    values += [value for _, value in parse_qsl(parts.query)]
    forms = {form for value in values for form in (value, unquote(value)) if len(form) >= _LEAST_HIDDEN}
    return tuple(sorted(forms, key=len, reverse=True))


class _Parts:
    """The parts of an answer as they come. Whoever stops before the end must call :meth:`aclose`."""

    def __init__(self, response: httpx.Response, timeout: float, clock: Clock) -> None:
        self._response = response
        self._parts = response.aiter_bytes()
        self._timeout = timeout
        self._clock = clock

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            with self._clock.fail_after(self._timeout):
                return await anext(self._parts)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            await self.aclose()
            if isinstance(error, httpx.HTTPError | TimeoutError):
                raise Unanswered(DOWNSTREAM_ERROR, "downstream stopped in the middle of its answer") from None
            raise

    async def aclose(self) -> None:
        """Let go of the connection to the node."""
        with anyio.CancelScope(shield=True):
            await self._response.aclose()


async def _whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MOST_ANSWER:
            raise Unanswered(
                DOWNSTREAM_ERROR, f"downstream answer is larger than {_MOST_ANSWER} bytes: make this call alone"
            )
    return bytes(body)


async def _close(response: httpx.Response) -> None:
    with anyio.CancelScope(shield=True):
        await response.aclose()


def _broken(error: httpx.HTTPError) -> RPCError:
    kind = RPCError if isinstance(error, httpx.ConnectError) else Unanswered  # without a connection nothing was sent
    return kind(DOWNSTREAM_ERROR, f"downstream unreachable: {type(error).__name__}")


def _is_json(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == _JSON
