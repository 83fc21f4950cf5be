"""The REST paths of Web3Signer: blind signing by public key, health, and reloading.

The one thing to know: ``eth1/sign`` signs what nobody can read, so it is for callers with ``blind_signing`` alone. In a
caller's list of methods these paths go by the names ``eth1_sign``, ``eth1_publicKeys`` and ``reload``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from attrs import define, field

from manahsm.api import params
from manahsm.api.calls import Answer, Call, Visitor
from manahsm.api.codes import http_status_of, retry_header
from manahsm.api.desk import Desk, may_sign
from manahsm.api.gateway import Gateway
from manahsm.api.specs import Asked, Kind
from manahsm.api.table import check_may_call
from manahsm.api.web3signer import signature_hex
from manahsm.config.api_tables import Dialect
from manahsm.errors import (
    AuditUnavailable,
    DeadlineExceeded,
    FallbackExhausted,
    InvalidRequest,
    KeyNotFound,
    ManaHSMError,
    PolicyDenied,
    RoleDenied,
)
from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.signatures import address_of, parse_public_key
from manahsm.logs import get_logger
from manahsm.monitoring.causes import HealthStatus
from manahsm.requests import Operation
from manahsm.service import Service
from manahsm.strict_json import NotStrict, read_json
from manahsm.times import utc_now

__all__ = ["Reload", "Rest"]

_log = get_logger("manahsm.api")

Reload = Callable[[], Awaitable[str]]
"""Reads anew what can be read anew, and says what came of it."""

_SIGN = "/api/v1/eth1/sign/"
_PUBLIC_KEYS = "/api/v1/eth1/publicKeys"
_TEXT = "text/plain; charset=utf-8"
_STATUSES: tuple[tuple[type[ManaHSMError], int], ...] = (
    (InvalidRequest, HTTPStatus.BAD_REQUEST),
    (KeyNotFound, HTTPStatus.NOT_FOUND),
    (PolicyDenied, HTTPStatus.FORBIDDEN),
    (RoleDenied, HTTPStatus.FORBIDDEN),
    (DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT),
    (FallbackExhausted, HTTPStatus.SERVICE_UNAVAILABLE),
    (AuditUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)


class Rest:
    """Answers what is no JSON-RPC.

    Args:
        gateway: to the service.
        reload: what ``POST /reload`` does.
    """

    def __init__(self, gateway: Gateway, *, reload: Reload) -> None:
        self._desk = Desk(gateway)
        self._reload = _Reloading(reload)
        self._pages = {
            "/upcheck": _Page(None, Kind.READ, {"GET": self._up}),
            "/healthcheck": _Page(None, Kind.READ, {"GET": self._health}),
            "/reload": _Page("reload", Kind.MANAGE, {"GET": self._reload.state, "POST": self._start_reload}),
        }

    async def answer(self, method: str, path: str, body: bytes, visitor: Visitor) -> Answer | None:
        """Answer a request, or return ``None`` where nothing of this is at ``path``.

        Args:
            method: of HTTP.
            path: without its query.
            body: all of it.
            visitor: who asks.
        """
        page = self._page(path, visitor)
        if page is None:
            return None
        if method not in page.methods:
            allowed = ", ".join(sorted(page.methods))
            return _problem(
                HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"use {allowed} here", (("allow", allowed),)
            )
        call = Call(method=page.name or path, params=None, visitor=visitor, request_id=visitor.request_id)
        try:
            return await self._admitted(page, method, Asked(call), body)
        except ManaHSMError as error:
            return _shown(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, this caller alone is told
            _log.error("a request failed for a fault of ours", request_id=visitor.request_id, exc_info=error)
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, ManaHSMError.code, f"internal error {visitor.request_id}")

    async def _admitted(self, page: _Page, method: str, asked: Asked, body: bytes) -> Answer:
        try:
            if page.name is not None:
                check_may_call(asked.call, page.kind)
            return await page.methods[method](asked, body)
        except ManaHSMError as error:
            await self._desk.keep_refusal(asked, asked.call.method, page.kind, error)
            raise

    def _page(self, path: str, visitor: Visitor) -> _Page | None:
        page = self._pages.get(path)
        if page is not None:
            return page
        if Dialect.WEB3SIGNER not in visitor.dialects:
            return None
        if path == _PUBLIC_KEYS:
            return _Page("eth1_publicKeys", Kind.READ, {"GET": self._public_keys})
        if path.startswith(_SIGN):
            identifier = path.removeprefix(_SIGN)
            return _Page("eth1_sign", Kind.SIGN, {"POST": lambda asked, body: self._sign(asked, identifier, body)})
        return None

    async def _sign(self, asked: Asked, identifier: str, body: bytes) -> Answer:
        """Sign keccak256 of the data with the key of a public key, and return r, s and v."""
        address = address_of(_public_key(identifier))
        digest = keccak256(_data(body))
        try:
            signed = await self._desk.sign(asked, Operation.HASH, address, digest)
        except KeyNotFound:  # its words name the address, which is not what the caller asked by
            raise KeyNotFound("no key that this caller may use has this public key") from None
        return Answer(body=signature_hex(signed).encode(), content_type=_TEXT)

    async def _public_keys(self, asked: Asked, _body: bytes) -> Answer:
        """The public keys that the caller can sign with: 0x and 64 bytes in hex."""
        access = asked.call.visitor.access

        async def find(service: Service) -> list[str]:
            return ["0x" + key.public_key[1:].hex() for key in await service.list_keys() if may_sign(key, access)]

        return _json(HTTPStatus.OK, sorted(await self._desk.look(find)))

    async def _up(self, _asked: Asked, _body: bytes) -> Answer:
        return Answer(body=b"OK", content_type=_TEXT)

    async def _health(self, _asked: Asked, _body: bytes) -> Answer:
        """The last health checks, as Vert.x writes them: ``UP`` is whatever still does its work."""
        report = await self._desk.look(lambda service: service.health())
        others = report.made_up_for
        checks = [
            {"id": component.name, "status": _up_or_down(component.status, made_up_for=component.name in others)}
            for component in report.components
        ]
        outcome = _up_or_down(report.status)
        status = HTTPStatus.OK if outcome == "UP" else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"status": outcome, "checks": checks, "outcome": outcome})

    async def _start_reload(self, asked: Asked, _body: bytes) -> Answer:
        await self._desk.note_act(asked, "reload")
        return await self._reload.run()


Do = Callable[[Asked, bytes], Awaitable[Answer]]


@define
class _Page:
    """What is at one path: the name by which callers are admitted, or none, for all; and what each HTTP method does."""

    name: str | None
    kind: Kind
    methods: dict[str, Do] = field(repr=False)


class _Reloading:
    """Reloads, and remembers how it went."""

    def __init__(self, reload: Reload) -> None:
        self._hook = reload
        self._state: dict[str, Any] = {"status": "idle"}

    async def run(self) -> Answer:
        try:
            outcome = await self._hook()
        except Exception:
            self._state = {"status": "failed", "at": _now()}
            raise
        self._state = {"status": "completed", "at": _now(), "message": outcome}
        return _json(HTTPStatus.ACCEPTED, self._state)

    async def state(self, _asked: Asked, _body: bytes) -> Answer:
        return _json(HTTPStatus.OK, self._state)


def _now() -> str:
    return utc_now().isoformat().replace("+00:00", "Z")


def _up_or_down(status: HealthStatus, *, made_up_for: bool = False) -> str:
    return "DOWN" if status is HealthStatus.UNHEALTHY and not made_up_for else "UP"


def _public_key(identifier: str) -> bytes:
    """A public key as the path names it; anything else names no key."""
    try:
        return parse_public_key(identifier)
    except InvalidRequest:
        raise KeyNotFound("no key has this public key: give its 64 bytes as 128 hex digits") from None


def _data(body: bytes) -> bytes:
    try:
        document = read_json(body)
    except NotStrict as problem:
        raise InvalidRequest(f"the body is {problem}") from None
    if not isinstance(document, dict) or document.keys() != {"data"}:
        raise InvalidRequest('the body must be {"data": "0x..."}')
    return params.data_of(document["data"])


def _shown(error: ManaHSMError) -> Answer:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), http_status_of(error))
    if status == HTTPStatus.OK:  # what JSON-RPC says in its own way
        status = HTTPStatus.SERVICE_UNAVAILABLE
    return _problem(status, error.code, str(error), retry_header(error))


def _problem(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(
        status=status, body=msgspec.json.encode({"error": {"code": code, "message": message}}), headers=headers
    )


def _json(status: int, document: Any) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(document))
