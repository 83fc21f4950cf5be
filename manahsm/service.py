"""The service and its in-process API: :func:`open_service` and :class:`Service`.

The one thing to know: leaving the ``async with`` stops it in order. New requests are refused at once, what was
accepted is finished or refused within ``service.shutdown_grace``, hosts log out, and no process is left behind.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, Unpack

from manahsm import channel
from manahsm.access import Access
from manahsm.assembly import Assembly, assembled
from manahsm.at_once import each
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.errors import InvalidRequest, ManaHSMError
from manahsm.ethereum.signatures import address_of, parse_private_key, public_key_of
from manahsm.keys.labels import is_reference
from manahsm.keys.roles import only_key
from manahsm.monitoring.alert_rules import Alert
from manahsm.monitoring.performance import PerformanceMetrics
from manahsm.monitoring.stats import ServiceStats
from manahsm.monitoring.values import HealthReport
from manahsm.requests import (
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
)
from manahsm.signing.payloads import Signed
from manahsm.signing.slot import SlotPhase
from manahsm.status import ServiceStatus
from manahsm.tree import Body
from supervisors import SYSTEM_CLOCK, ChildContext, Clock

__all__ = ["Interface", "Service", "open_service"]

_BATCH_AT_ONCE = 64  # more would keep the loop for long when all of them are prepared in one go
_FEW = 8  # of a batch for a token at once, however few sessions it has
_CHUNK = 16  # of a batch for a software key: prepared in one go, in half a millisecond
_CHUNKS_AT_ONCE = 6  # what the software host has under way, and those that are prepared meanwhile

S = TypeVar("S")
E = TypeVar("E", Role, Backend, Usage)
AnyKey = Any  # str, bytes or a key object of eth-keys, eth-account or coincurve


class Service:
    """A running service. Get one from :func:`open_service`; use it from that event loop."""

    def __init__(self, parts: Assembly) -> None:
        self.config = parts.config
        self._parts = parts
        self._clock = parts.clock
        self._registry = parts.registry
        self._slots = parts.slots
        self._gate = parts.gate
        self._journal = parts.journal
        self._keyring = parts.keyring
        self._signer = parts.signer

    # ---- signing ----

    async def sign(self, request: SignRequest, *, access: Access | None = None) -> Signed:
        """Sign one request.

        Args:
            request: what to sign, and with which key.
            access: what the caller may do, where the request came from outside; without it, everything.

        Raises:
            ManaHSMError: nothing was released; the type and its ``code`` say why, the message what to do.
        """
        return await self._signer.sign(request, access=access)

    async def sign_transaction(
        self,
        tx: Any,
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> SignedTransaction:
        """Sign a transaction, with a registered key or, as old code does it, with a raw private key.

        Args:
            tx: mapping with the field names of web3.py, eth-account and JSON-RPC, or a transaction of
                :mod:`manahsm.ethereum`.
            private_key_or_key: key id, label or 0x address; or a private key as 32 bytes, 0x and 64 hex digits,
                or a key object. With a raw key the result equals eth-account's byte for byte.
            chain_id: must agree with the transaction's own; a legacy transaction with neither is not bound to
                a chain (no EIP-155).
            **options: see :class:`~manahsm.requests.RequestOptions`.

        Raises:
            ManaHSMError: nothing was released.
        """
        signed = await self._sign_with(private_key_or_key, Operation.TRANSACTION, tx, chain_id, options)
        return _as(SignedTransaction, signed)

    async def sign_transaction_with_role(
        self, tx: Any, role: Role | str, chain_id: int | None = None, **options: Unpack[RequestOptions]
    ) -> SignedTransaction:
        """Sign a transaction with the one active key that has ``role``.

        Raises:
            InvalidRequest: no active key, or more than one, has this role; the message names them.
            ManaHSMError: as :meth:`sign_transaction`.
        """
        wanted = _member(Role, role, "role")
        key = only_key(self._registry.list(role=wanted, state="active"), wanted)
        return await self.sign_transaction(tx, key.key_id, chain_id, **options)

    async def batch_sign_transactions(
        self,
        txs: Iterable[Any],
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> list[SignedTransaction | ManaHSMError]:
        """Sign several transactions at once.

        Returns:
            One result or error for each transaction, in order; an error of one stops no other.
        """
        given = list(txs)
        most = self.config.service.queue_size

        def request(tx: Any) -> SignRequest:
            return SignRequest.transaction(tx, key, chain_id=chain_id, **options)

        try:
            key, private_key = _name_and_secret(private_key_or_key)
            request(None)  # what is wrong with the options is wrong for each
        except InvalidRequest as error:
            return [error for _ in given]

        async def sign(tx: Any) -> SignedTransaction | ManaHSMError:
            try:
                return _as(SignedTransaction, await self._signer.sign(request(tx)))
            except ManaHSMError as error:
                return error

        async def sign_chunk(start: int) -> list[Any]:
            return await self._signer.sign_all([request(tx) for tx in given[start : start + _CHUNK]], private_key)

        if private_key is None and not self._signer.signs_in_software(key):
            sessions = sum(slot.pool.size for slot in self._slots)
            return await each(sign, given, at_once=min(max(_FEW, 4 * sessions), _BATCH_AT_ONCE, most))
        chunks = await each(sign_chunk, range(0, len(given), _CHUNK), at_once=min(_CHUNKS_AT_ONCE, most))
        return [result for chunk in chunks for result in chunk]

    async def sign_hash(
        self,
        digest: bytes | str,
        private_key_or_key: AnyKey,
        **options: Unpack[RequestOptions],
    ) -> Signature:
        """Sign 32 bytes as they are. Whoever signs digests signs blindly: prefer the other operations.

        Raises:
            ManaHSMError: nothing was released.
        """
        return _as(Signature, await self._sign_with(private_key_or_key, Operation.HASH, digest, None, options))

    async def sign_message(
        self,
        message: bytes | str,
        private_key_or_key: AnyKey,
        **options: Unpack[RequestOptions],
    ) -> Signature:
        """Sign a message as ``personal_sign`` does (EIP-191); text is encoded as UTF-8.

        Raises:
            ManaHSMError: nothing was released.
        """
        return _as(Signature, await self._sign_with(private_key_or_key, Operation.MESSAGE, message, None, options))

    async def sign_typed_data(
        self,
        typed: Mapping[str, Any],
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Signature:
        """Sign typed structured data (EIP-712).

        Args:
            typed: the full message with ``types``, ``primaryType``, ``domain`` and ``message``.
            private_key_or_key: see :meth:`sign_transaction`.
            chain_id: where given, the domain must name the same.
            **options: see :class:`~manahsm.requests.RequestOptions`.

        Raises:
            ManaHSMError: nothing was released.
        """
        return _as(
            Signature,
            await self._sign_with(private_key_or_key, Operation.TYPED_DATA, typed, chain_id, options),
        )

    async def sign_authorization(
        self,
        authorization: Any,
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> SignedAuthorization:
        """Sign an EIP-7702 authorization ``{chainId, address, nonce}``.

        Raises:
            ManaHSMError: nothing was released.
        """
        signed = await self._sign_with(private_key_or_key, Operation.AUTHORIZATION, authorization, chain_id, options)
        return _as(SignedAuthorization, signed)

    async def answer(self, request: SignRequest) -> Outcome:
        """Sign one request and return how it ended, never raising a :class:`ManaHSMError`."""
        try:
            return Outcome(request_id=request.request_id, result=await self.sign(request))
        except ManaHSMError as error:
            return Outcome(request_id=request.request_id, error=error)

    def open_channel(self, *, capacity: int = channel.CAPACITY) -> AbstractAsyncContextManager[channel.SigningChannel]:
        """Open a channel: ``async with service.open_channel() as channel``.

        Args:
            capacity: requests that may be under way or wait to be received.
        """
        return channel.open_channel(
            self.answer,
            capacity=capacity,
            default_timeout=self.config.service.request_timeout,
            clock=self._clock,
        )

    # ---- keys ----

    async def generate_key(
        self,
        label: str,
        role: Role | str,
        backend: Backend | str | None = None,
        usage: Iterable[Usage | str] = (Usage.SIGNING,),
    ) -> KeyInfo:
        """Generate a key, in a token (never to leave it) or as an encrypted keystore file.

        Args:
            label: 1 to 64 characters, unique among keys.
            role: what the key is for.
            backend: ``hsm`` or ``software``; by default the policy decides.
            usage: what it may be used for.

        Raises:
            KeyExists, InvalidRequest, PolicyDenied, HSMUnavailable, KeystoreError: no key was made.
        """
        wanted = _member(Role, role, "role")
        where = None if backend is None else _member(Backend, backend, "backend")
        uses = tuple(_member(Usage, use, "usage") for use in usage)
        with self._gate.admit():
            return await self._journalled(
                AuditEvent.GENERATE_KEY, label, self._keyring.generate(label, wanted, where, uses)
            )

    async def import_key(
        self,
        private_key: AnyKey,
        label: str,
        role: Role | str,
        backend: Backend | str = Backend.HSM,
        *,
        keep_software_twin: bool = False,
    ) -> KeyInfo:
        """Import a private key; its address stays what it was.

        Args:
            private_key: 32 bytes, 0x hex, or a key object.
            label: 1 to 64 characters, unique among keys.
            role: what the key is for.
            backend: ``hsm`` puts it into every slot that is up, ``software`` into an encrypted keystore file.
            keep_software_twin: keep an encrypted keystore file of an HSM key, which may stand in for the token.

        Raises:
            KeyExists, InvalidRequest, PolicyDenied, HSMUnavailable, KeystoreError: nothing was imported.
        """
        secret = parse_private_key(private_key)
        wanted, where = _member(Role, role, "role"), _member(Backend, backend, "backend")
        with self._gate.admit():
            return await self._journalled(
                AuditEvent.IMPORT_KEY,
                label,
                self._keyring.import_key(secret, label, wanted, where, keep_software_twin=keep_software_twin),
            )

    async def list_keys(
        self,
        role: Role | str | None = None,
        backend: Backend | str | None = None,
        label: str | None = None,
        usage: Usage | str | None = None,
    ) -> list[KeyInfo]:
        """Return the keys that fit every filter given, oldest first, retired ones and those without a role too."""
        return self._registry.list(
            role=None if role is None else _member(Role, role, "role"),
            backend=None if backend is None else _member(Backend, backend, "backend"),
            label=label,
            usage=None if usage is None else _member(Usage, usage, "usage"),
        )

    async def get_key(self, reference: str) -> KeyInfo:
        """Return the key with this key id, label or 0x address.

        Raises:
            KeyNotFound: there is none.
        """
        return self._registry.get(reference)

    async def assign_role(self, reference: str, role: Role | str | None) -> KeyInfo:
        """Give a key a role; ``None`` takes it away, and the key signs nothing.

        Raises:
            KeyNotFound, RoleDenied, PolicyDenied: nothing was changed.
        """
        wanted = None if role is None else _member(Role, role, "role")
        with self._gate.admit():
            return await self._journalled(
                AuditEvent.ASSIGN_ROLE, reference, self._keyring.assign_role(reference, wanted)
            )

    async def rotate_key(self, reference: str) -> KeyInfo:
        """Generate a key that takes over label and role; the old one is retired and signs no more.

        Returns:
            The new key. Its address is a new one: nothing on chain moves by itself.

        Raises:
            KeyNotFound, PolicyDenied, HSMUnavailable, KeystoreError: nothing was changed.
        """
        with self._gate.admit():
            return await self._journalled(AuditEvent.ROTATE_KEY, reference, self._keyring.rotate(reference))

    async def delete_key(self, reference: str) -> KeyInfo:
        """Delete a software key for ever. Keys in tokens are refused.

        Raises:
            KeyNotFound, PolicyDenied, KeystoreError: nothing was deleted.
        """
        with self._gate.admit():
            return await self._journalled(AuditEvent.DELETE_KEY, reference, self._keyring.delete(reference))

    # ---- what operators do; each act has its audit record before it is done ----

    async def force_open(self, slot: str, reason: str = "by an operator") -> None:
        """Send nothing more to a slot until :meth:`reset_breaker`, however well it is.

        Raises:
            InvalidRequest: no such slot, or it is latched.
        """
        await self._parts.operators.force_open(slot, reason)

    async def force_closed(self, slot: str, reason: str = "by an operator") -> None:
        """Send digests to a slot whatever fails there, until :meth:`reset_breaker`.

        Raises:
            InvalidRequest: no such slot, or it is latched.
        """
        await self._parts.operators.force_closed(slot, reason)

    async def reset_breaker(self, slot: str) -> None:
        """Let a slot's circuit breaker decide again, with nothing counted.

        Raises:
            InvalidRequest: no such slot, or it is latched.
        """
        await self._parts.operators.reset_breaker(slot)

    async def unlatch(self, slot: str) -> None:
        """Take a latched slot back into service, on probation. Its PIN file is read anew, and tried once.

        Raises:
            InvalidRequest: no such slot, or it is not latched.
            ConfigError: the PIN file can not be used; the slot stays latched.
        """
        await self._parts.operators.unlatch(slot)

    async def allow_fallback(self) -> None:
        """Let software twins stand in until the outage is over, where ``auto_fallback_on_error`` is false."""
        await self._parts.operators.allow_fallback()

    async def withdraw_fallback(self) -> None:
        """Take that permission back."""
        await self._parts.operators.withdraw_fallback()

    # ---- what it is doing ----

    async def status(self) -> ServiceStatus:
        """Return what the service has and does at this moment."""
        return self._parts.status()

    async def health(self) -> HealthReport:
        """Return how the service and each of its components are, by the last health checks."""
        return await self._parts.watch.health.health()

    def why_not_ready(self) -> str | None:
        """Return why nothing can be signed at this moment, or ``None`` if it can: what ``/readyz`` answers."""
        return self._parts.meters.why_not_ready()

    async def trigger_health_check(self, component: str | None = None) -> HealthReport:
        """Look at one component, or all of them, now.

        Raises:
            InvalidRequest: there is no such component.
        """
        return await self._parts.watch.health.trigger(component)

    async def alerts(self, *, resolved: bool = False) -> list[Alert]:
        """Return the open alerts, oldest first; with ``resolved``, the last resolved ones before them."""
        return list(self._parts.watch.alerts.alerts(resolved=resolved))

    async def resolve_alert(self, alert_id: str) -> Alert:
        """Say that an alert is dealt with; while its cause lasts it stays silent.

        Raises:
            InvalidRequest: no open alert has this id.
        """
        return await self._parts.operators.resolve_alert(self._parts.watch.alerts, alert_id)

    def performance_metrics(self) -> PerformanceMetrics:
        """Return operations a second, error rates and response times by component and window."""
        return self._parts.meters.performance()

    def stats(self) -> ServiceStats:
        """Return what was counted since the start."""
        return self._parts.meters.stats()

    def prometheus_metrics(self) -> str:
        """Return all metrics in the text format of Prometheus."""
        return self._parts.meters.text()

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where the metrics endpoint listens, if it does."""
        return self._parts.metrics_address

    async def filled(self) -> None:
        """Wait until every slot that is up has all its sessions, at most as long as one call may take."""
        for slot in self._slots:
            if slot.phase is SlotPhase.UP:
                with self._clock.move_on_after(slot.config.connection_pool.call_timeout):
                    await slot.pool.filled()

    # ---- inside ----

    async def _sign_with(
        self,
        private_key_or_key: AnyKey,
        operation: Operation,
        payload: Any,
        chain_id: int | None,
        options: RequestOptions,
    ) -> Signed:
        key, private_key = _name_and_secret(private_key_or_key)
        request = SignRequest(operation=operation, key=key, payload=payload, chain_id=chain_id, **options)
        return await self._signer.sign(request, private_key)

    async def _journalled(self, event: AuditEvent, subject: str, work: Any) -> KeyInfo:
        """Await a change to keys and write its record, whether it was made or not."""
        try:
            key: KeyInfo = await work
        except ManaHSMError as error:
            await self._journal.note(
                AuditRecord(event=event, reason=f"{error.code}: {error}", outcome=AuditOutcome.FAILED)
            )
            raise
        await self._journal.write(
            AuditRecord(
                event=event,
                key_id=key.key_id,
                address=key.address,
                role=key.role,
                backend=key.backend,
                summary={"label": key.label, "asked_for": subject},
                outcome=AuditOutcome.DONE,
            )
        )
        return key


Interface = Callable[[Service, ChildContext], Awaitable[object]]
"""The body of a supervised task that lets the world talk to a service."""


@asynccontextmanager
async def open_service(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
    interfaces: Mapping[str, Interface] = MappingProxyType({}),
) -> AsyncIterator[Service]:
    """Run a service for as long as the context lasts.

    A token that does not answer is no error here: the service comes up without it and keeps trying.

    Args:
        config: a TOML or JSON file, a mapping, a :class:`~manahsm.config.model.Config`, or ``None`` to take
            ``MANAHSM_CONFIG`` or the defaults.
        environ: where the variables of the configuration are read.
        clock: the time of every timer; another one only in tests.
        interfaces: tasks that the world talks to, by name; they start last, end first, and are restarted for ever.

    Raises:
        ConfigError: everything that is wrong with the configuration, at once.
        RegistryError, AuditUnavailable, KeystoreError: ``state_dir`` can not be used.
        RestartIntensityExceeded: a part of the service kept crashing; raised out of the block.
    """
    source = Path(config) if isinstance(config, (str, os.PathLike)) else config
    loaded = load_config(source, environ=environ)

    def bodies(parts: Assembly) -> dict[str, Body]:
        return {name: partial(interface, Service(parts)) for name, interface in interfaces.items()}

    async with assembled(loaded, environ=environ, clock=clock, interfaces=bodies) as parts:
        yield Service(parts)


def _name_and_secret(private_key_or_key: AnyKey) -> tuple[str, bytes | None]:
    """The name of a registered key; or of a raw private key, and its 32 bytes.

    Raises:
        InvalidRequest: it is neither.
    """
    if is_reference(private_key_or_key):
        return private_key_or_key, None
    private_key = parse_private_key(private_key_or_key)
    return address_of(public_key_of(private_key)), private_key


def _member(kind: type[E], value: Any, name: str) -> E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise InvalidRequest(f"{name} must be one of {known}") from None


def _as(kind: type[S], value: object) -> S:
    if not isinstance(value, kind):  # pragma: no cover - the operation decides the type
        raise TypeError(f"expected {kind.__name__}")
    return value
