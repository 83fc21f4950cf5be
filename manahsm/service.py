"""The service and its in-process API: :func:`open_service` and :class:`Service`.

The one thing to know: leaving the ``async with`` stops it in order. New requests are refused at once, what was
accepted is finished or refused within ``service.shutdown_grace``, hosts log out, and no process is left behind.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

from manahsm import channel
from manahsm.audit.journal import Journal
from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.errors import InvalidRequest, ManaHSMError, RegistryError, ServiceStopping
from manahsm.ethereum.signatures import address_of, parse_private_key, public_key_of
from manahsm.events import log_event
from manahsm.keyring import Keyring
from manahsm.keys.keystore import Keystore
from manahsm.keys.registry import KeyRegistry
from manahsm.logs import get_logger
from manahsm.requests import (
    Backend,
    KeyInfo,
    Operation,
    Outcome,
    Role,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    SignRequest,
    Usage,
)
from manahsm.signing.gate import Gate
from manahsm.signing.limits import RateLimit
from manahsm.signing.payloads import Signed
from manahsm.signing.pipeline import Signer
from manahsm.signing.router import Router
from manahsm.signing.slot import Slot, SlotPhase
from manahsm.status import ServiceStatus, slot_status
from manahsm.tree import build_tree
from supervisors import SYSTEM_CLOCK, ChildContext, Clock, Mailbox

__all__ = ["Service", "open_service"]

_log = get_logger("manahsm.service")

_FLUSH_INTERVAL = 5.0  # seconds between two writes of use counters
_CHANNEL_CAPACITY = 1024
_BATCH_AT_ONCE = 64  # more would keep the loop for long when all of them are prepared in one go

S = TypeVar("S")
E = TypeVar("E", Role, Backend, Usage)
AnyKey = Any  # str, bytes or a key object of eth-keys, eth-account or coincurve


class Service:
    """A running service. Get one from :func:`open_service`; use it from that event loop."""

    def __init__(
        self,
        config: Config,
        registry: KeyRegistry,
        audit: AuditLog | None,
        slots: tuple[Slot, ...],
        clock: Clock,
    ) -> None:
        passphrase = config.passphrase()
        keystore = None
        if passphrase is not None:
            keystore = Keystore(
                config.keystore_directory,
                passphrase,
                kdf=config.keystore.kdf,
                iterations=config.keystore.iterations,
            )
        policy = config.security_policy
        self.config = config
        self._clock = clock
        self._registry = registry
        self._slots = slots
        self._software = Mailbox("software", config.service.queue_size, clock)
        self._gate = Gate()
        self._journal = Journal(audit, required=policy.audit_all_operations)
        self._keyring = Keyring(registry, keystore, slots, policy, self._journal)
        self._signer = Signer(
            registry=registry,
            keystore=keystore,
            router=Router(slots, self._software, clock),
            journal=self._journal,
            policy=policy,
            limit=RateLimit(policy.max_signing_rate, clock),
            gate=self._gate,
            default_timeout=config.service.request_timeout,
            clock=clock,
        )
        self._tree = build_tree(
            audit=audit.run if audit is not None else _idle,
            registry=self._flush_registry,
            software=self._software,
            slots=slots,
            record_keys=self._keyring.record_token,
            clock=clock,
            on_event=log_event,
        )

    # ---- signing ----

    async def sign(self, request: SignRequest) -> Signed:
        """Sign one request.

        Raises:
            ManaHSMError: nothing was released; the type and its ``code`` say why, the message what to do.
        """
        return await self._signer.sign(request)

    async def sign_transaction(
        self,
        tx: Any,
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the request
        caller: str = "embedded",
        request_id: str | None = None,
    ) -> SignedTransaction:
        """Sign a transaction, with a registered key or, as old code does it, with a raw private key.

        Args:
            tx: mapping with the field names of web3.py, eth-account and JSON-RPC, or a transaction of
                :mod:`manahsm.ethereum`.
            private_key_or_key: key id, label or 0x address; or a private key as 32 bytes, 0x and 64 hex digits,
                or a key object. With a raw key the result equals eth-account's byte for byte.
            chain_id: must agree with the transaction's own; a legacy transaction with neither is not bound to
                a chain (no EIP-155).
            timeout: seconds it may take; ``service.request_timeout`` by default.
            caller: who asks, for the audit log.
            request_id: for the audit log; made up by default.

        Raises:
            ManaHSMError: nothing was released.
        """
        options = _options(timeout, caller, request_id)
        signed = await self._sign_with(private_key_or_key, Operation.TRANSACTION, tx, chain_id, options)
        return _as(SignedTransaction, signed)

    async def sign_transaction_with_role(
        self, tx: Any, role: Role | str, chain_id: int | None = None, **options: Any
    ) -> SignedTransaction:
        """Sign a transaction with the one active key that has ``role``.

        Raises:
            InvalidRequest: no active key, or more than one, has this role; the message names them.
            ManaHSMError: as :meth:`sign_transaction`.
        """
        wanted = _member(Role, role, "role")
        keys = self._registry.list(role=wanted, state="active")
        if len(keys) != 1:
            found = ", ".join(key.label for key in keys) or "none"
            raise InvalidRequest(
                f"one active key with the role {wanted} is needed (found: {found}): name a key instead"
            )
        return await self.sign_transaction(tx, keys[0].key_id, chain_id, **options)

    async def batch_sign_transactions(
        self, txs: Iterable[Any], private_key_or_key: AnyKey, chain_id: int | None = None, **options: Any
    ) -> list[SignedTransaction | ManaHSMError]:
        """Sign several transactions at once.

        Returns:
            One result or error for each transaction, in order; an error of one stops no other.
        """
        transactions = list(txs)
        results: list[SignedTransaction | ManaHSMError | None] = [None] * len(transactions)
        ahead = iter(enumerate(transactions))

        async def sign_some() -> None:
            for position, tx in ahead:
                try:
                    results[position] = await self.sign_transaction(tx, private_key_or_key, chain_id, **options)
                except ManaHSMError as error:
                    results[position] = error

        async with anyio.create_task_group() as tasks:
            for _ in range(min(_BATCH_AT_ONCE, self.config.service.queue_size, len(transactions))):
                tasks.start_soon(sign_some)
        return [result for result in results if result is not None]

    async def sign_hash(
        self,
        digest: bytes | str,
        private_key_or_key: AnyKey,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        caller: str = "embedded",
        request_id: str | None = None,
    ) -> Signature:
        """Sign 32 bytes as they are. Whoever signs digests signs blindly: prefer the other operations.

        Raises:
            ManaHSMError: nothing was released.
        """
        options = _options(timeout, caller, request_id)
        return _as(Signature, await self._sign_with(private_key_or_key, Operation.HASH, digest, None, options))

    async def sign_message(
        self,
        message: bytes | str,
        private_key_or_key: AnyKey,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        caller: str = "embedded",
        request_id: str | None = None,
    ) -> Signature:
        """Sign a message as ``personal_sign`` does (EIP-191); text is encoded as UTF-8.

        Raises:
            ManaHSMError: nothing was released.
        """
        options = _options(timeout, caller, request_id)
        return _as(Signature, await self._sign_with(private_key_or_key, Operation.MESSAGE, message, None, options))

    async def sign_typed_data(
        self,
        typed: Mapping[str, Any],
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        caller: str = "embedded",
        request_id: str | None = None,
    ) -> Signature:
        """Sign typed structured data (EIP-712).

        Args:
            typed: the full message with ``types``, ``primaryType``, ``domain`` and ``message``.
            private_key_or_key: see :meth:`sign_transaction`.
            chain_id: where given, the domain must name the same.
            timeout: see :meth:`sign_transaction`, as for the next two.
            caller: who asks.
            request_id: for the audit log.

        Raises:
            ManaHSMError: nothing was released.
        """
        options = _options(timeout, caller, request_id)
        return _as(
            Signature,
            await self._sign_with(private_key_or_key, Operation.TYPED_DATA, typed, chain_id, options),
        )

    async def sign_authorization(
        self,
        authorization: Any,
        private_key_or_key: AnyKey,
        chain_id: int | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        caller: str = "embedded",
        request_id: str | None = None,
    ) -> SignedAuthorization:
        """Sign an EIP-7702 authorization ``{chainId, address, nonce}``.

        Raises:
            ManaHSMError: nothing was released.
        """
        options = _options(timeout, caller, request_id)
        signed = await self._sign_with(private_key_or_key, Operation.AUTHORIZATION, authorization, chain_id, options)
        return _as(SignedAuthorization, signed)

    async def answer(self, request: SignRequest) -> Outcome:
        """Sign one request and return how it ended, never raising a :class:`ManaHSMError`."""
        try:
            return Outcome(request_id=request.request_id, result=await self.sign(request))
        except ManaHSMError as error:
            return Outcome(request_id=request.request_id, error=error)

    def open_channel(self, *, capacity: int = _CHANNEL_CAPACITY) -> AbstractAsyncContextManager[channel.SigningChannel]:
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

    # ---- what it is doing ----

    async def status(self) -> ServiceStatus:
        """Return what the service has and does at this moment."""
        return ServiceStatus(
            accepting=not self._gate.closed,
            under_way=self._gate.inside,
            keys=len(self._registry),
            slots=tuple(slot_status(slot) for slot in self._slots),
            software=self._software.stats(),
        )

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
        options: dict[str, Any],
    ) -> Signed:
        if _is_reference(private_key_or_key):
            key, private_key = private_key_or_key, None
        else:
            private_key = parse_private_key(private_key_or_key)
            key = address_of(public_key_of(private_key))
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

    async def _flush_registry(self, ctx: ChildContext) -> None:
        ctx.started()
        while True:
            await ctx.clock.sleep(_FLUSH_INTERVAL)
            try:
                await self._registry.flush()
            except RegistryError as error:  # counters are kept and written later: no reason to sign nothing meanwhile
                _log.error("use counters not written", error=str(error))

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        try:
            async with self._tree.running():
                await self._journal.write(AuditRecord(event=AuditEvent.START, outcome=AuditOutcome.DONE))
                await self._settle()
                try:
                    yield
                finally:
                    await self._drain()
                    self._journal.note_now(AuditRecord(event=AuditEvent.STOP, outcome=AuditOutcome.DONE))
        finally:
            self._refuse_rest()

    async def _settle(self) -> None:
        """Wait until each slot is up or known not to be, but no longer than its own start may take."""
        async with anyio.create_task_group() as tasks:
            for slot in self._slots:
                tasks.start_soon(self._settle_slot, slot)

    async def _settle_slot(self, slot: Slot) -> None:
        with self._clock.move_on_after(slot.config.connection_pool.start_timeout):
            await slot.settled()
        if slot.reason is not None:
            _log.error("slot out of use", slot=slot.name, phase=slot.phase.value, reason=slot.reason)

    async def _drain(self) -> None:
        """Refuse new requests, and let those inside finish within the grace."""
        self._gate.close()
        with self._clock.move_on_after(self.config.service.shutdown_grace, shield=True):
            await self._gate.empty()

    def _refuse_rest(self) -> None:
        """Answer what no worker is left to answer."""
        self._gate.close()
        for mailbox in (self._software, *(slot.mailbox for slot in self._slots)):
            mailbox.close(lambda: ServiceStopping("the service stopped before this was signed"), held=True)


@asynccontextmanager
async def open_service(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncIterator[Service]:
    """Run a service for as long as the context lasts.

    A token that does not answer is no error here: the service comes up without it and keeps trying.

    Args:
        config: a TOML or JSON file, a mapping, a :class:`~manahsm.config.model.Config`, or ``None`` to take
            ``MANAHSM_CONFIG`` or the defaults.
        environ: where the variables of the configuration are read.
        clock: the time of every timer; another one only in tests.

    Raises:
        ConfigError: everything that is wrong with the configuration, at once.
        RegistryError, AuditUnavailable, KeystoreError: ``state_dir`` can not be used.
        RestartIntensityExceeded: a part of the service kept crashing; raised out of the block.
    """
    source = Path(config) if isinstance(config, (str, os.PathLike)) else config
    loaded = load_config(source, environ=environ)
    for notice in loaded.not_in_force():
        _log.warning("option not in force", notice=notice)
    slots = tuple(
        Slot(slot, queue_size=loaded.service.queue_size, clock=clock) for slot in loaded.resolved_slots(environ)
    )
    async with AsyncExitStack() as stack:
        audit = None
        if loaded.audit.enabled:
            audit = AuditLog.open(
                loaded.audit_directory, fsync=loaded.audit.fsync, fsync_interval=loaded.audit.fsync_interval
            )
            stack.callback(audit.close)
        registry = await stack.enter_async_context(KeyRegistry.open(loaded.state_dir / "registry.sqlite3"))
        service = Service(loaded, registry, audit, slots, clock)
        await stack.enter_async_context(service._running())  # noqa: SLF001 - two halves of one module
        yield service


async def _idle(ctx: ChildContext) -> None:
    """Stand in the tree where there is nothing to do."""
    ctx.started()
    await ctx.wait_stopping()


def _options(timeout: float | None, caller: str, request_id: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": timeout, "caller": caller}
    if request_id is not None:
        options["request_id"] = request_id
    return options


def _is_reference(value: AnyKey) -> bool:
    """Tell a key id, label or address from a private key: text that is not 64 hex digits is a reference."""
    if not isinstance(value, str):
        return False
    digits = value.removeprefix("0x").removeprefix("0X")
    return len(digits) != 64 or not all(c in "0123456789abcdefABCDEF" for c in digits)  # noqa: PLR2004


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
