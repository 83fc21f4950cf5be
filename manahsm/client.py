"""A running service from somewhere else: :func:`connect` gives an object with the methods of :class:`manahsm.Service`.

The one thing to know: errors come back as what they were, an ``HSMUnavailable`` there as an ``HSMUnavailable`` here.
What goes wrong on the way is a :class:`RemoteError`; a request that met one may have been signed all the same.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, Unpack
from urllib.parse import urlsplit

import httpx
import msgspec

from manahsm import errors
from manahsm.errors import InvalidRequest, ManaHSMError, RateLimited
from manahsm.http_body import one_piece
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.performance import PerformanceMetrics
from manahsm.monitoring.stats import ServiceStats
from manahsm.monitoring.values import HealthReport
from manahsm.requests import (
    Backend,
    KeyInfo,
    RequestOptions,
    Role,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    Usage,
)
from manahsm.status import ServiceStatus
from manahsm.wire import load, plain

__all__ = ["RemoteError", "RemoteService", "connect"]

T = TypeVar("T")

_TIMEOUT = 60.0  # seconds; longer than a request may take there by default
_CONNECTIONS = 64
_UNIX = "unix:"

_KINDS: Mapping[str, type[ManaHSMError]] = {
    kind.code: kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, ManaHSMError) and kind not in {ManaHSMError, errors.ConfigError, RateLimited}
}


class RemoteError(ManaHSMError):
    """The service was not reached, or what answered was not the service that was expected."""

    code = "remote_error"


class RemoteService:
    """A service behind its HTTP interface. Get one from :func:`connect`.

    Its methods are those of :class:`manahsm.Service`, with the same results and errors, and all of them are awaited.
    Options of requests are theirs too, but for ``caller``, which the interface knows by itself.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._ids = itertools.count(1)

    # ---- signing ----

    async def sign_transaction(
        self, tx: Mapping[str, Any], key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedTransaction:
        """See :meth:`manahsm.Service.sign_transaction`; raw private keys are not taken."""
        return await self._sign(SignedTransaction, "signTransaction", options, tx=tx, key=key, chainId=chain_id)

    async def sign_transaction_with_role(
        self, tx: Mapping[str, Any], role: Role | str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedTransaction:
        """See :meth:`manahsm.Service.sign_transaction_with_role`."""
        return await self._sign(
            SignedTransaction, "signTransactionWithRole", options, tx=tx, role=role, chainId=chain_id
        )

    async def batch_sign_transactions(
        self,
        txs: Iterable[Mapping[str, Any]],
        key: str,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> list[SignedTransaction | ManaHSMError]:
        """See :meth:`manahsm.Service.batch_sign_transactions`."""
        answers = await self._call("batchSignTransactions", options, txs=list(txs), key=key, chainId=chain_id)
        return [
            _error_of(answer["error"]) if "error" in answer else _read(SignedTransaction, answer["result"])
            for answer in answers
        ]

    async def sign_hash(self, digest: bytes | str, key: str, **options: Unpack[RequestOptions]) -> Signature:
        """See :meth:`manahsm.Service.sign_hash`."""
        return await self._sign(Signature, "signHash", options, hash=digest, key=key)

    async def sign_message(self, message: bytes | str, key: str, **options: Unpack[RequestOptions]) -> Signature:
        """See :meth:`manahsm.Service.sign_message`."""
        data = message.encode() if isinstance(message, str) else message
        return await self._sign(Signature, "signMessage", options, message=data, key=key)

    async def sign_typed_data(
        self, typed: Mapping[str, Any], key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> Signature:
        """See :meth:`manahsm.Service.sign_typed_data`."""
        return await self._sign(Signature, "signTypedData", options, typedData=typed, key=key, chainId=chain_id)

    async def sign_authorization(
        self, authorization: Any, key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedAuthorization:
        """See :meth:`manahsm.Service.sign_authorization`."""
        return await self._sign(
            SignedAuthorization,
            "signAuthorization",
            options,
            authorization=authorization,
            key=key,
            chainId=chain_id,
        )

    # ---- keys ----

    async def generate_key(
        self,
        label: str,
        role: Role | str,
        backend: Backend | str | None = None,
        usage: Iterable[Usage | str] = (Usage.SIGNING,),
    ) -> KeyInfo:
        """See :meth:`manahsm.Service.generate_key`."""
        return await self._key("generateKey", label=label, role=role, backend=backend, usage=list(usage))

    async def import_key(
        self,
        private_key: bytes | str,
        label: str,
        role: Role | str,
        backend: Backend | str = Backend.HSM,
        *,
        keep_software_twin: bool = False,
    ) -> KeyInfo:
        """See :meth:`manahsm.Service.import_key`. The private key goes over the connection: have that be encrypted."""
        return await self._key(
            "importKey",
            privateKey=private_key,
            label=label,
            role=role,
            backend=backend,
            keepSoftwareTwin=keep_software_twin,
        )

    async def list_keys(
        self,
        role: Role | str | None = None,
        backend: Backend | str | None = None,
        label: str | None = None,
        usage: Usage | str | None = None,
    ) -> list[KeyInfo]:
        """See :meth:`manahsm.Service.list_keys`; keys that the caller may not use are left out."""
        found = await self._call("listKeys", {}, role=role, backend=backend, label=label, usage=usage)
        return [_read(KeyInfo, key) for key in found]

    async def get_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.get_key`."""
        return await self._key("getKey", key=reference)

    async def assign_role(self, reference: str, role: Role | str | None) -> KeyInfo:
        """See :meth:`manahsm.Service.assign_role`."""
        return _read(KeyInfo, await self._send("assignRole", {"key": reference, "role": role}))

    async def rotate_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.rotate_key`."""
        return await self._key("rotateKey", key=reference)

    async def delete_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.delete_key`."""
        return await self._key("deleteKey", key=reference)

    # ---- what operators do ----

    async def force_open(self, slot: str, reason: str = "by an operator") -> None:
        """See :meth:`manahsm.Service.force_open`."""
        await self._call("forceOpen", {}, slot=slot, reason=reason)

    async def force_closed(self, slot: str, reason: str = "by an operator") -> None:
        """See :meth:`manahsm.Service.force_closed`."""
        await self._call("forceClosed", {}, slot=slot, reason=reason)

    async def reset_breaker(self, slot: str) -> None:
        """See :meth:`manahsm.Service.reset_breaker`."""
        await self._call("resetBreaker", {}, slot=slot)

    async def unlatch(self, slot: str) -> None:
        """See :meth:`manahsm.Service.unlatch`."""
        await self._call("unlatch", {}, slot=slot)

    async def allow_fallback(self) -> None:
        """See :meth:`manahsm.Service.allow_fallback`."""
        await self._call("allowFallback", {})

    async def withdraw_fallback(self) -> None:
        """See :meth:`manahsm.Service.withdraw_fallback`."""
        await self._call("withdrawFallback", {})

    # ---- what it is doing ----

    async def status(self) -> ServiceStatus:
        """See :meth:`manahsm.Service.status`."""
        return _read(ServiceStatus, await self._call("status", {}))

    async def health(self) -> HealthReport:
        """See :meth:`manahsm.Service.health`."""
        return _read(HealthReport, await self._call("health", {}))

    async def trigger_health_check(self, component: str | None = None) -> HealthReport:
        """See :meth:`manahsm.Service.trigger_health_check`."""
        return _read(HealthReport, await self._call("triggerHealthCheck", {}, component=component))

    async def alerts(self, *, resolved: bool = False) -> list[Alert]:
        """See :meth:`manahsm.Service.alerts`."""
        return [_read(Alert, alert) for alert in await self._call("alerts", {}, resolved=resolved)]

    async def resolve_alert(self, alert_id: str) -> Alert:
        """See :meth:`manahsm.Service.resolve_alert`."""
        return _read(Alert, await self._call("resolveAlert", {}, alertId=alert_id))

    async def performance_metrics(self) -> PerformanceMetrics:
        """See :meth:`manahsm.Service.performance_metrics`."""
        return _read(PerformanceMetrics, await self._call("performanceMetrics", {}))

    async def stats(self) -> ServiceStats:
        """See :meth:`manahsm.Service.stats`."""
        return _read(ServiceStats, await self._call("stats", {}))

    async def prometheus_metrics(self) -> str:
        """See :meth:`manahsm.Service.prometheus_metrics`."""
        return str(await self._call("prometheusMetrics", {}))

    # ---- inside ----

    async def _sign(self, kind: type[T], method: str, options: RequestOptions, **params: Any) -> T:
        return _read(kind, await self._call(method, options, **params))

    async def _key(self, method: str, **params: Any) -> KeyInfo:
        return _read(KeyInfo, await self._call(method, {}, **params))

    async def _call(self, method: str, options: RequestOptions, **params: Any) -> Any:
        """Call a method with what is given; ``None`` is as good as left out."""
        if "caller" in options:
            raise InvalidRequest("who asks is known by the connection: leave caller out")
        given = {name: value for name, value in params.items() if value is not None}
        if options.get("timeout") is not None:
            given["timeout"] = options["timeout"]
        return await self._send(method, given, options.get("request_id"))

    async def _send(self, method: str, params: Mapping[str, Any], request_id: str | None = None) -> Any:
        number = next(self._ids)
        call = {"jsonrpc": "2.0", "id": number, "method": f"manahsm_{method}", "params": params}
        headers = {"content-type": "application/json"}
        if request_id is not None:
            headers["x-request-id"] = request_id
        try:
            body = msgspec.json.encode(plain(call))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"this can not be sent as JSON: {error}") from None
        try:
            request = self._client.build_request("POST", "/", content=body, headers=headers)
            answer = await self._client.send(one_piece(request))
        except httpx.TimeoutException:
            raise RemoteError(
                "the service did not answer in time: the request may have been done all the same"
            ) from None
        except httpx.HTTPError as error:
            raise RemoteError(f"the service was not reached: {type(error).__name__}: {error}") from None
        return _result_of(answer, number)


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    ca: Path | None = None,
    timeout: float = _TIMEOUT,  # noqa: ASYNC109 - of each request
) -> AsyncIterator[RemoteService]:
    """Speak to a running service for as long as the context lasts.

    Args:
        url: where its HTTP interface listens: ``https://host:port``, ``http://127.0.0.1:9000``, or ``unix:/path``.
        token: bearer token of ours, where the service knows us by one.
        certificate: PEM files with our certificate and its key, where it knows us by them.
        ca: PEM file of the authority that signed the service's certificate; those of the system by default.
        timeout: seconds that a request may take, its way included.

    Raises:
        RemoteError: ``url`` is none, or a file can not be used. That nobody answers is found by the first request.
    """
    parts = urlsplit(url)
    path = url.removeprefix(_UNIX) if url.startswith(_UNIX) else None
    if path is None and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise RemoteError("an address such as https://signer.example:9000 or unix:/run/manahsm/api.sock is needed")
    secured = _trust(certificate, ca) if parts.scheme == "https" else False
    transport = httpx.AsyncHTTPTransport(
        verify=secured,
        uds=path,
        limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
    )
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    base = "http://localhost" if path is not None else url
    async with httpx.AsyncClient(
        base_url=base, transport=transport, headers=headers, timeout=timeout, trust_env=False
    ) as client:
        yield RemoteService(client)


def _trust(certificate: tuple[Path, Path] | None, ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
    except OSError as error:
        raise RemoteError(f"a certificate can not be used: {error.strerror or error}") from None
    return context


def _result_of(answer: httpx.Response, number: int) -> Any:
    """The result of a call, or its error."""
    try:
        document = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict):
        raise RemoteError(f"what answered is no manahsm service (HTTP {answer.status_code}, not JSON)")
    if isinstance(document.get("error"), dict):
        raise _error_of(document["error"])
    if document.get("id") != number or "result" not in document:
        raise RemoteError("what answered is no manahsm service: the answer is not that of the request")
    return document["result"]


def _read(kind: type[T], document: Any) -> T:
    try:
        return load(kind, document)
    except ValueError as error:
        raise RemoteError(f"the service gave an answer that is not understood: {error}") from None


def _error_of(error: Mapping[str, Any]) -> ManaHSMError:
    message, data = str(error.get("message", "")), error.get("data")
    said = data if isinstance(data, dict) else {}
    code = said.get("code")
    if code == RateLimited.code:
        return RateLimited(message, retry_after=float(said.get("retry_after", 1.0)))
    kind = _KINDS.get(code) if isinstance(code, str) else None
    return RemoteError(message) if kind is None else kind(message)
