"""Methods of our own: everything that :class:`~manahsm.service.Service` does, in camel case after ``manahsm_``.

The one thing to know: signing and looking at keys is for every caller, within what they may use; all else is for
administrators. Results are in the form of :mod:`manahsm.wire`, which :mod:`manahsm.client` reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from manahsm import wire
from manahsm.access import Access
from manahsm.api import params
from manahsm.api.codes import shown
from manahsm.api.desk import Desk, covered_key, one_key_with_role
from manahsm.api.specs import Asked, Do, Kind, Spec
from manahsm.at_once import each
from manahsm.config.model import Config
from manahsm.errors import ManaHSMError
from manahsm.requests import Backend, KeyInfo, Operation, Role, Usage
from manahsm.service import Service

__all__ = ["manahsm_specs"]

_AT_ONCE = 64  # transactions of one list
_BY_DEFAULT = "by an operator"
_OBJECT = {"type": "object"}
_LIST = {"type": "array", "items": _OBJECT}
_NOTHING = {"type": "null"}
_KEY_REFERENCE = "key id, label or 0x address"


def manahsm_specs(desk: Desk, config: Config) -> tuple[Spec, ...]:
    """Every ``manahsm_`` method."""
    return (*_signing(desk, config), *_keys(desk), *_operating(desk), *_looking(desk))


def _spec(name: str, kind: Kind, summary: str, result: params.Schema, do: Do, *taken: params.Param) -> Spec:
    return Spec(name=f"manahsm_{name}", kind=kind, summary=summary, result=result, do=do, params=taken)


# ---- signing ----


def _signing(desk: Desk, config: Config) -> tuple[Spec, ...]:
    methods = _Signing(desk, min(_AT_ONCE, config.service.queue_size))
    key, chain, timeout = params.text("key", about=_KEY_REFERENCE), params.chain_id(), params.timeout()

    def spec(name: str, summary: str, do: Do, *taken: params.Param, result: params.Schema = _OBJECT) -> Spec:
        return _spec(name, Kind.SIGN, summary, result, do, *taken, timeout)

    return (
        spec(
            "signTransaction",
            "Sign a transaction; without any chain id, one that is valid on every chain.",
            methods.with_chain(Operation.TRANSACTION),
            params.transaction("tx"),
            key,
            chain,
        ),
        spec(
            "signTransactionWithRole",
            "Sign a transaction with the one key of this role that the caller may use.",
            methods.transaction_with_role,
            params.transaction("tx"),
            params.choice("role", Role),
            chain,
        ),
        spec(
            "batchSignTransactions",
            "Sign several transactions: {result} or {error} for each, in order.",
            methods.transactions,
            params.transactions("txs", most=config.api.max_batch),
            key,
            chain,
            result=_LIST,
        ),
        spec(
            "signHash",
            "Sign 32 bytes as they are, for callers who may have digests signed.",
            methods.plain(Operation.HASH),
            params.data("hash"),
            key,
        ),
        spec(
            "signMessage", "Sign a message (EIP-191).", methods.plain(Operation.MESSAGE), params.message("message"), key
        ),
        spec(
            "signTypedData",
            "Sign typed data (EIP-712).",
            methods.with_chain(Operation.TYPED_DATA),
            params.typed_data(),
            key,
            chain,
        ),
        spec(
            "signAuthorization",
            "Sign an authorization {chainId, address, nonce} (EIP-7702).",
            methods.with_chain(Operation.AUTHORIZATION),
            params.transaction("authorization"),
            key,
            params.chain_id(least=0),
        ),
    )


class _Signing:
    def __init__(self, desk: Desk, at_once: int) -> None:
        self._desk = desk
        self._at_once = at_once

    def plain(self, operation: Operation) -> Do:
        async def sign(asked: Asked, payload: Any, key: str, timeout: float | None) -> Any:  # noqa: ASYNC109
            return wire.plain(await self._desk.sign(asked, operation, key, payload, timeout=timeout))

        return sign

    def with_chain(self, operation: Operation) -> Do:
        async def sign(
            asked: Asked,
            payload: Any,
            key: str,
            chain_id: int | None,
            timeout: float | None,  # noqa: ASYNC109
        ) -> Any:
            signed = await self._desk.sign(asked, operation, key, payload, chain_id=chain_id, timeout=timeout)
            return wire.plain(signed)

        return sign

    async def transaction_with_role(
        self,
        asked: Asked,
        tx: dict[str, Any],
        role: Role,
        chain_id: int | None,
        timeout: float | None,  # noqa: ASYNC109
    ) -> Any:
        access = asked.call.visitor.access
        key = await self._desk.look(lambda service: one_key_with_role(service, role, access))
        sign = self.with_chain(Operation.TRANSACTION)
        return await sign(asked, tx, key.key_id, chain_id, timeout)

    async def transactions(
        self,
        asked: Asked,
        txs: Sequence[dict[str, Any]],
        key: str,
        chain_id: int | None,
        timeout: float | None,  # noqa: ASYNC109 - the service keeps it
    ) -> Any:
        sign = self.with_chain(Operation.TRANSACTION)

        async def answer(tx: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"result": await sign(asked, tx, key, chain_id, timeout)}
            except ManaHSMError as error:
                return {"error": _error(asked, error)}

        return await each(answer, txs, at_once=self._at_once)


def _error(asked: Asked, error: ManaHSMError) -> dict[str, Any]:
    said = shown(error, asked.call.visitor.dialect, asked.call.method)
    return {"code": said.code, "message": said.message, "data": said.data}


# ---- keys ----


def _keys(desk: Desk) -> tuple[Spec, ...]:
    methods = _Keys(desk)
    key, label, role = params.text("key", about=_KEY_REFERENCE), params.text("label"), params.choice("role", Role)
    backend = params.choice("backend", Backend, required=False)
    return (
        _spec(
            "listKeys",
            Kind.READ,
            "The keys that the caller may use and that fit every filter given.",
            _LIST,
            methods.list_keys,
            params.choice("role", Role, required=False),
            backend,
            params.text("label", required=False),
            params.choice("usage", Usage, required=False),
        ),
        _spec("getKey", Kind.READ, "One key that the caller may use.", _OBJECT, methods.get_key, key),
        _spec(
            "generateKey",
            Kind.MANAGE,
            "Generate a key.",
            _OBJECT,
            methods.generate_key,
            label,
            role,
            backend,
            params.choices("usage", Usage),
        ),
        _spec(
            "importKey",
            Kind.MANAGE,
            "Import a private key; its address stays what it was.",
            _OBJECT,
            methods.import_key,
            params.private_key(),
            label,
            role,
            backend,
            params.flag("keepSoftwareTwin"),
        ),
        _spec(
            "assignRole",
            Kind.MANAGE,
            "Give a key a role; null takes it away, and the key signs nothing.",
            _OBJECT,
            methods.assign_role,
            key,
            params.choice("role", Role, nullable=True),
        ),
        _spec(
            "rotateKey",
            Kind.MANAGE,
            "Generate a key that takes over label and role; the old one signs no more.",
            _OBJECT,
            methods.change(Service.rotate_key),
            key,
        ),
        _spec(
            "deleteKey",
            Kind.MANAGE,
            "Delete a software key for ever.",
            _OBJECT,
            methods.change(Service.delete_key),
            key,
        ),
    )


class _Keys:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list_keys(
        self, asked: Asked, role: Role | None, backend: Backend | None, label: str | None, usage: Usage | None
    ) -> Any:
        access = _access(asked)

        async def find(service: Service) -> list[KeyInfo]:
            found = await service.list_keys(role=role, backend=backend, label=label, usage=usage)
            return [key for key in found if access.covers(key)]

        return wire.plain(await self._desk.look(find))

    async def get_key(self, asked: Asked, key: str) -> Any:
        access = _access(asked)
        return wire.plain(await self._desk.look(lambda service: covered_key(service, key, access)))

    async def generate_key(
        self, asked: Asked, label: str, role: Role, backend: Backend | None, usage: tuple[Usage, ...] | None
    ) -> Any:
        uses = (Usage.SIGNING,) if usage is None else usage
        key = await self._desk.change(asked, lambda service: service.generate_key(label, role, backend, uses))
        return wire.plain(key)

    async def import_key(  # noqa: PLR0917 - they come in the order of the method's parameters
        self, asked: Asked, private_key: bytes, label: str, role: Role, backend: Backend | None, twin: bool | None
    ) -> Any:
        where = Backend.HSM if backend is None else backend
        key = await self._desk.change(
            asked,
            lambda service: service.import_key(private_key, label, role, where, keep_software_twin=bool(twin)),
        )
        return wire.plain(key)

    async def assign_role(self, asked: Asked, key: str, role: Role | None) -> Any:
        return wire.plain(await self._desk.change(asked, lambda service: service.assign_role(key, role)))

    def change(self, work: Callable[[Service, str], Awaitable[KeyInfo]]) -> Do:
        async def do(asked: Asked, key: str) -> Any:
            return wire.plain(await self._desk.change(asked, lambda service: work(service, key)))

        return do


def _access(asked: Asked) -> Access:
    return asked.call.visitor.access


# ---- what operators do ----


def _operating(desk: Desk) -> tuple[Spec, ...]:
    slot, reason = params.text("slot"), params.text("reason", required=False)

    def acting(work: Callable[..., Awaitable[object]]) -> Do:
        async def do(asked: Asked, *values: Any) -> Any:
            done = await desk.change(asked, lambda service: work(service, *values), recorded=False)
            return wire.plain(done)

        return do

    def forcing(work: Callable[[Service, str, str], Awaitable[None]]) -> Do:
        return acting(lambda service, name, why: work(service, name, _BY_DEFAULT if why is None else why))

    def spec(name: str, summary: str, do: Do, *taken: params.Param, result: params.Schema = _NOTHING) -> Spec:
        return _spec(name, Kind.MANAGE, summary, result, do, *taken)

    return (
        spec("forceOpen", "Send nothing more to a slot.", forcing(Service.force_open), slot, reason),
        spec(
            "forceClosed", "Send digests to a slot whatever fails there.", forcing(Service.force_closed), slot, reason
        ),
        spec("resetBreaker", "Let a slot's circuit breaker decide again.", acting(Service.reset_breaker), slot),
        spec("unlatch", "Take a latched slot back into service.", acting(Service.unlatch), slot),
        spec("allowFallback", "Let software twins stand in until the outage is over.", acting(Service.allow_fallback)),
        spec("withdrawFallback", "Take that permission back.", acting(Service.withdraw_fallback)),
        spec(
            "resolveAlert",
            "Say that an alert is dealt with.",
            acting(Service.resolve_alert),
            params.text("alertId"),
            result=_OBJECT,
        ),
        spec(
            "triggerHealthCheck",
            "Look at one component, or all of them, now.",
            acting(Service.trigger_health_check),
            params.text("component", required=False),
            result=_OBJECT,
        ),
    )


# ---- what the service is doing ----


def _looking(desk: Desk) -> tuple[Spec, ...]:
    def look(work: Callable[..., Any]) -> Do:
        async def do(_asked: Asked, *values: Any) -> Any:
            async def there(service: Service) -> Any:
                found = work(service, *values)
                return await found if isinstance(found, Awaitable) else found

            return wire.plain(await desk.look(there))

        return do

    def spec(name: str, summary: str, result: params.Schema, do: Do, *taken: params.Param) -> Spec:
        return _spec(name, Kind.MANAGE, summary, result, do, *taken)

    return (
        spec("status", "What the service has and does at this moment.", _OBJECT, look(Service.status)),
        spec("health", "How the service and its components are.", _OBJECT, look(Service.health)),
        spec(
            "alerts",
            "The open alerts, oldest first; with resolved, the last resolved ones before them.",
            _LIST,
            look(lambda service, resolved: service.alerts(resolved=bool(resolved))),
            params.flag("resolved"),
        ),
        spec(
            "performanceMetrics",
            "Operations a second, error rates and response times.",
            _OBJECT,
            look(Service.performance_metrics),
        ),
        spec("stats", "What was counted since the start.", _OBJECT, look(Service.stats)),
        spec("prometheusMetrics", "All metrics, as text.", {"type": "string"}, look(Service.prometheus_metrics)),
    )
