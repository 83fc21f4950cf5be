"""A running service from somewhere else: :func:`connect` gives an object with the methods of :class:`manahsm.Service`.

The one thing to know: errors come back as what they were, an ``HSMUnavailable`` there as an ``HSMUnavailable`` here.
What goes wrong on the way is a :class:`RemoteError`; a request that met one may have been signed all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, Unpack

import msgspec

import supervisors
from manahsm import channel
from manahsm.at_once import pieces
from manahsm.connection import Connection, RemoteError, connection_to, error_of
from manahsm.errors import InvalidRequest, ManaHSMError
from manahsm.ethereum.json_forms import (
    authorization_json,
    digest_json,
    message_json,
    transaction_json,
    typed_data_json,
)
from manahsm.ethereum.signatures import parse_private_key
from manahsm.keys.labels import is_reference
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.performance import PerformanceMetrics
from manahsm.monitoring.stats import ServiceStats
from manahsm.monitoring.values import HealthReport
from manahsm.requests import (
    EMBEDDED,
    Backend,
    KeyInfo,
    Operation,
    Outcome,
    RequestOptions,
    Role,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    SignRequest,
    Usage,
    is_request_id,
)
from manahsm.signing.payloads import Signed
from manahsm.status import ServiceStatus
from manahsm.wire import load

__all__ = ["ONLY_IN_PROCESS", "RemoteService", "connect"]

T = TypeVar("T")

ONLY_IN_PROCESS: Mapping[str, str] = {
    "config": "names files, addresses and limits of another machine",
    "filled": "waits for sessions, which those who measure in the same process need; status() tells how many there are",
    "metrics_address": "is an address of another machine; prometheus_metrics() has what is served there",
    "why_not_ready": "is what the metrics endpoint answers at /readyz",
    "block payloads": "(of sign) is asked for as an op-node does it, with opsigner_signBlockPayload",
    "access": "(of sign) follows from who asks, which the connection tells",
    "caller": "(of every request) is known by the connection",
    "private keys": "(in place of a key's name) are not sent; import_key alone sends one",
}
"""What :class:`manahsm.Service` has or takes and :class:`RemoteService` does not, and why."""

_MOST_IN_A_BATCH, _LARGEST_BATCH = 100, 2**19  # transactions, bytes: what hsm.api admits by default, with room
_TIMEOUT = 60.0  # seconds; longer than a request may take there by default

_Write = Callable[[Any, int | None], Any]
_OPERATIONS: Mapping[Operation, tuple[str, str, type[Any], _Write]] = {  # method, parameter, result, how it is written
    Operation.TRANSACTION: ("signTransaction", "tx", SignedTransaction, lambda tx, _: transaction_json(tx)),
    Operation.MESSAGE: ("signMessage", "message", Signature, lambda message, _: message_json(message)),
    Operation.TYPED_DATA: ("signTypedData", "typedData", Signature, lambda typed, _: typed_data_json(typed)),
    Operation.AUTHORIZATION: ("signAuthorization", "authorization", SignedAuthorization, authorization_json),
    Operation.HASH: ("signHash", "hash", Signature, lambda digest, _: digest_json(digest)),
}


class RemoteService:
    """A service behind its HTTP interface. Get one from :func:`connect`.

    Its methods are those of :class:`manahsm.Service`, with the same arguments, results and errors, and all of them are
    awaited. What is different has its reason in :data:`ONLY_IN_PROCESS`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # ---- signing ----

    async def sign(self, request: SignRequest) -> Signed:
        """See :meth:`manahsm.Service.sign`."""
        signed: Signed = _read(*await self._answer(request))
        return signed

    async def sign_transaction(
        self, tx: Any, key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedTransaction:
        """See :meth:`manahsm.Service.sign_transaction`; raw private keys are not taken, and never sent."""
        return await self._sign(SignedTransaction, SignRequest.transaction(tx, key, chain_id=chain_id, **options))

    async def sign_transaction_with_role(
        self, tx: Any, role: Role | str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedTransaction:
        """See :meth:`manahsm.Service.sign_transaction_with_role`."""
        request = SignRequest.transaction(tx, "", chain_id=chain_id, **options)
        params = {"tx": transaction_json(tx), "role": role, "chainId": chain_id}
        return _read(SignedTransaction, await self._ask("signTransactionWithRole", request, params))

    async def batch_sign_transactions(
        self,
        txs: Iterable[Any],
        key: str,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> list[SignedTransaction | ManaHSMError]:
        """See :meth:`manahsm.Service.batch_sign_transactions`. Many go in several requests, one after the other.

        Where one of those fails as a whole, each of its transactions has that error.
        """
        request = SignRequest.transaction(None, _reference(key), chain_id=chain_id, **options)
        results: dict[int, SignedTransaction | ManaHSMError] = {}
        forms: dict[int, dict[str, Any]] = {}
        for number, tx in enumerate(txs):
            try:
                forms[number] = transaction_json(tx)
            except ManaHSMError as error:
                results[number] = error
        sizes = {number: len(msgspec.json.encode(form)) for number, form in forms.items()}
        for piece in pieces(sizes, most=_MOST_IN_A_BATCH, largest=_LARGEST_BATCH):
            params = {"txs": [forms[number] for number in piece], "key": key, "chainId": chain_id}
            results |= zip(piece, await self._piece(request, params, len(piece)), strict=True)
        return [results[number] for number in range(len(results))]

    async def sign_hash(self, digest: bytes | str, key: str, **options: Unpack[RequestOptions]) -> Signature:
        """See :meth:`manahsm.Service.sign_hash`."""
        return await self._sign(Signature, SignRequest.hash(digest, key, **options))

    async def sign_message(self, message: bytes | str, key: str, **options: Unpack[RequestOptions]) -> Signature:
        """See :meth:`manahsm.Service.sign_message`."""
        return await self._sign(Signature, SignRequest.message(message, key, **options))

    async def sign_typed_data(
        self, typed: Mapping[str, Any], key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> Signature:
        """See :meth:`manahsm.Service.sign_typed_data`."""
        return await self._sign(Signature, SignRequest.typed_data(typed, key, chain_id=chain_id, **options))

    async def sign_authorization(
        self, authorization: Any, key: str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedAuthorization:
        """See :meth:`manahsm.Service.sign_authorization`."""
        request = SignRequest.authorization(authorization, key, chain_id=chain_id, **options)
        return await self._sign(SignedAuthorization, request)

    async def answer(self, request: SignRequest) -> Outcome:
        """See :meth:`manahsm.Service.answer`."""
        try:
            return Outcome(request_id=request.request_id, result=await self.sign(request))
        except ManaHSMError as error:
            return Outcome(request_id=request.request_id, error=error)

    def open_channel(self, *, capacity: int = channel.CAPACITY) -> AbstractAsyncContextManager[channel.SigningChannel]:
        """See :meth:`manahsm.Service.open_channel`."""
        return channel.open_channel(
            self.answer, capacity=capacity, default_timeout=self._connection.timeout, clock=supervisors.SYSTEM_CLOCK
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
        private_key: Any,
        label: str,
        role: Role | str,
        backend: Backend | str = Backend.HSM,
        *,
        keep_software_twin: bool = False,
    ) -> KeyInfo:
        """See :meth:`manahsm.Service.import_key`. The private key goes over the connection: have that be encrypted."""
        return await self._key(
            "importKey",
            privateKey=_hex(parse_private_key(private_key)),
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
        found = await self._call("listKeys", role=role, backend=backend, label=label, usage=usage)
        return [_read(KeyInfo, key) for key in found]

    async def get_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.get_key`."""
        return await self._key("getKey", key=_reference(reference))

    async def assign_role(self, reference: str, role: Role | str | None) -> KeyInfo:
        """See :meth:`manahsm.Service.assign_role`."""
        return _read(KeyInfo, await self._connection.call("assignRole", {"key": _reference(reference), "role": role}))

    async def rotate_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.rotate_key`."""
        return await self._key("rotateKey", key=_reference(reference))

    async def delete_key(self, reference: str) -> KeyInfo:
        """See :meth:`manahsm.Service.delete_key`."""
        return await self._key("deleteKey", key=_reference(reference))

    # ---- what operators do ----

    async def force_open(self, slot: str, reason: str = "by an operator") -> None:
        """See :meth:`manahsm.Service.force_open`."""
        await self._call("forceOpen", slot=slot, reason=reason)

    async def force_closed(self, slot: str, reason: str = "by an operator") -> None:
        """See :meth:`manahsm.Service.force_closed`."""
        await self._call("forceClosed", slot=slot, reason=reason)

    async def reset_breaker(self, slot: str) -> None:
        """See :meth:`manahsm.Service.reset_breaker`."""
        await self._call("resetBreaker", slot=slot)

    async def unlatch(self, slot: str) -> None:
        """See :meth:`manahsm.Service.unlatch`."""
        await self._call("unlatch", slot=slot)

    async def allow_fallback(self) -> None:
        """See :meth:`manahsm.Service.allow_fallback`."""
        await self._call("allowFallback")

    async def withdraw_fallback(self) -> None:
        """See :meth:`manahsm.Service.withdraw_fallback`."""
        await self._call("withdrawFallback")

    # ---- what it is doing ----

    async def status(self) -> ServiceStatus:
        """See :meth:`manahsm.Service.status`."""
        return _read(ServiceStatus, await self._call("status"))

    async def health(self) -> HealthReport:
        """See :meth:`manahsm.Service.health`."""
        return _read(HealthReport, await self._call("health"))

    async def trigger_health_check(self, component: str | None = None) -> HealthReport:
        """See :meth:`manahsm.Service.trigger_health_check`."""
        return _read(HealthReport, await self._call("triggerHealthCheck", component=component))

    async def alerts(self, *, resolved: bool = False) -> list[Alert]:
        """See :meth:`manahsm.Service.alerts`."""
        return [_read(Alert, alert) for alert in await self._call("alerts", resolved=resolved)]

    async def resolve_alert(self, alert_id: str) -> Alert:
        """See :meth:`manahsm.Service.resolve_alert`."""
        return _read(Alert, await self._call("resolveAlert", alertId=alert_id))

    async def performance_metrics(self) -> PerformanceMetrics:
        """See :meth:`manahsm.Service.performance_metrics`."""
        return _read(PerformanceMetrics, await self._call("performanceMetrics"))

    async def stats(self) -> ServiceStats:
        """See :meth:`manahsm.Service.stats`."""
        return _read(ServiceStats, await self._call("stats"))

    async def prometheus_metrics(self) -> str:
        """See :meth:`manahsm.Service.prometheus_metrics`."""
        return str(await self._call("prometheusMetrics"))

    # ---- inside ----

    async def _sign(self, kind: type[T], request: SignRequest) -> T:
        return _read(kind, (await self._answer(request))[1])

    async def _answer(self, request: SignRequest) -> tuple[type[Any], Any]:
        """The kind of what a request has signed, and its form."""
        chain_id = request.chain_id
        if request.operation not in _OPERATIONS:
            raise InvalidRequest(f"a {request.operation} {ONLY_IN_PROCESS['block payloads']}")
        method, name, kind, write = _OPERATIONS[request.operation]
        params = {name: write(request.payload, chain_id), "key": _reference(request.key), "chainId": chain_id}
        return kind, await self._ask(method, request, params)

    async def _piece(
        self, request: SignRequest, params: Mapping[str, Any], length: int
    ) -> list[SignedTransaction | ManaHSMError]:
        try:
            answers = await self._ask("batchSignTransactions", request, params)
        except ManaHSMError as error:
            return [error] * length
        if not isinstance(answers, list) or len(answers) != length:
            raise RemoteError("the service gave an answer that is not understood: one for each transaction is needed")
        return [
            error_of(answer["error"]) if "error" in answer else _read(SignedTransaction, answer["result"])
            for answer in answers
        ]

    async def _ask(self, method: str, request: SignRequest, params: Mapping[str, Any]) -> Any:
        """Call a method that signs, with what was said of the request."""
        if request.caller != EMBEDDED:
            raise InvalidRequest("who asks is known by the connection: leave caller out")
        if not is_request_id(request.request_id):
            raise InvalidRequest("request_id: over a connection it is 1 to 64 letters, digits and . _ : -")
        given = {name: value for name, value in params.items() if value is not None}
        if request.timeout is not None:
            given["timeout"] = request.timeout
        return await self._connection.call(method, given, request_id=request.request_id, within=request.timeout)

    async def _key(self, method: str, **params: Any) -> KeyInfo:
        return _read(KeyInfo, await self._call(method, **params))

    async def _call(self, method: str, **params: Any) -> Any:
        """Call a method with what is given; ``None`` is as good as left out."""
        return await self._connection.call(method, {name: value for name, value in params.items() if value is not None})


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
        timeout: seconds that a request may take, its way included; more where the request itself is given more.

    Raises:
        RemoteError: ``url`` is none, or a file can not be used. That nobody answers is found by the first request.
    """
    way = connection_to(url, token=token, certificate=certificate, ca=ca, timeout=timeout)
    async with way as connection:
        yield RemoteService(connection)


def _reference(key: object) -> str:
    """A key's name. What may be a private key goes nowhere."""
    if not is_reference(key):
        raise InvalidRequest("a key is named by key id, label or 0x address; private keys are never sent to a service")
    return key


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _read(kind: type[T], document: Any) -> T:
    try:
        return load(kind, document)
    except ValueError as error:
        raise RemoteError(f"the service gave an answer that is not understood: {error}") from None
