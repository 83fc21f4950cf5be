"""One signature, step by step: the checklist that every request passes.

The one thing to know: nothing is released before its audit record is written, and a request that is refused, fails
or is cancelled has its record too. All of this runs in the caller's own task; only the signing itself is a hop.
"""

from __future__ import annotations

from attrs import define, frozen
from coincurve import PrivateKey

from manahsm.access import Access
from manahsm.audit.journal import Journal
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord, Decision
from manahsm.config.model import SecurityPolicy
from manahsm.errors import (
    InvalidRequest,
    KeyNotFound,
    ManaHSMError,
    PolicyDenied,
    RateLimited,
    RoleDenied,
)
from manahsm.ethereum.signatures import address_of, key_id_of, public_key_of
from manahsm.keys.keystore import Keystore, UnlockedKey, required
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.roles import check_may_sign, software_allowed
from manahsm.requests import Backend, KeyInfo, Operation, SignedTransaction, SignRequest
from manahsm.signing.gate import Gate
from manahsm.signing.jobs import Made, SoftwareJob
from manahsm.signing.limits import RateLimit
from manahsm.signing.observed import CANCELLED, SIGNED, Observer, SignEnded
from manahsm.signing.payloads import Prepared, Signed, prepare_off_loop
from manahsm.signing.router import Router
from manahsm.times import utc_now
from supervisors import Clock

__all__ = ["Signer"]

_REFUSALS = (InvalidRequest, KeyNotFound, PolicyDenied, RateLimited, RoleDenied)
"""Errors that say that the rules did not admit the request; all others say that it could not be done."""


@frozen
class _Subject:
    """Who signs: a registered key, or a private key that the caller brought along."""

    address: str
    key_id: str
    info: KeyInfo | None
    unlocked: UnlockedKey | None = None


@define
class _Trail:
    """What is known of one request so far, for its audit record."""

    request: SignRequest
    started: float
    subject: _Subject | None = None
    prepared: Prepared | None = None
    made: Made | None = None


class Signer:
    """Signs requests, for registered keys and, as old code does it, with raw private keys."""

    def __init__(
        self,
        *,
        registry: KeyRegistry,
        keystore: Keystore | None,
        router: Router,
        journal: Journal,
        policy: SecurityPolicy,
        limit: RateLimit,
        gate: Gate,
        default_timeout: float,
        clock: Clock,
        observe: Observer,
    ) -> None:
        self._registry = registry
        self._keystore = keystore
        self._router = router
        self._journal = journal
        self._policy = policy
        self._limit = limit
        self._gate = gate
        self._default_timeout = default_timeout
        self._clock = clock
        self._observe = observe

    async def sign(
        self, request: SignRequest, private_key: bytes | None = None, access: Access | None = None
    ) -> Signed:
        """Sign ``request`` with the key that it names, or with ``private_key`` where one is given.

        Args:
            request: what to sign; with a private key, ``request.key`` is only the name in the audit log.
            private_key: 32 bytes of the caller's own.
            access: what the caller may do; without it, everything.

        Raises:
            ManaHSMError: nothing was released; the type says why.
        """
        with self._gate.admit():
            trail = _Trail(request, self._clock.now())
            try:
                signed = await self._pass(trail, private_key, access)
                await self._journal.write(_record(trail, self._clock.now(), signed=signed))
            except ManaHSMError as error:
                await self._journal.note(_record(trail, self._clock.now(), error=error))
                self._ended(trail, error.code)
                raise
            except BaseException:
                self._journal.note_now(_record(trail, self._clock.now(), reason="cancelled, or a fault of ours"))
                self._ended(trail, CANCELLED)
                raise
            self._ended(trail, SIGNED)
            if trail.subject is not None and trail.subject.info is not None:
                self._registry.record_use(trail.subject.key_id, utc_now())
            return signed

    async def _pass(self, trail: _Trail, private_key: bytes | None, access: Access | None) -> Signed:
        request = trail.request
        deadline = trail.started + (request.timeout or self._default_timeout)
        subject = trail.subject = self._identify(request, private_key, access)
        if subject.info is not None:
            if access is not None:
                access.check(subject.info, request.key, request.operation)
            check_may_sign(subject.info, request.operation)
        prepared = trail.prepared = await prepare_off_loop(
            request.operation, request.payload, request.chain_id, subject.address
        )
        self._limit.spend()
        made = trail.made = await self._make(subject, prepared.digest, deadline)
        if subject.info is None:
            return prepared.finish(made.signature, made.backend, None)
        # The key may have been retired, or have lost its role, while the request waited.
        check_may_sign(self._registry.resolve(subject.key_id), request.operation)
        return prepared.finish(made.signature, made.backend, subject.key_id)

    def _ended(self, trail: _Trail, outcome: str) -> None:
        made = trail.made
        self._observe(
            SignEnded(
                operation=trail.request.operation,
                backend=made.backend if made else None,
                slot=made.slot if made else None,
                outcome=outcome,
                diverted=made.diverted if made else False,
                duration=self._clock.now() - trail.started,
            )
        )

    # ---- who ----

    def _identify(self, request: SignRequest, private_key: bytes | None, access: Access | None) -> _Subject:
        if private_key is None:
            info = self._resolve(request.key, access)
            return _Subject(info.address, info.key_id, info)
        key = PrivateKey(private_key)
        public_key = public_key_of(key)
        key_id = key_id_of(public_key)
        self._check_raw(key_id, request.operation)
        return _Subject(address_of(public_key), key_id, None, UnlockedKey(key_id, public_key, key))

    def _resolve(self, reference: str, access: Access | None) -> KeyInfo:
        try:
            return self._registry.resolve(reference)
        except KeyNotFound:
            if access is None:
                raise
        raise access.unknown(reference)

    def _check_raw(self, key_id: str, operation: Operation) -> None:
        """A raw private key is no way around the rules of a registered key."""
        try:
            info = self._registry.resolve(key_id)
        except KeyNotFound:
            return
        check_may_sign(info, operation)
        if info.role in self._policy.require_hsm_for_roles:
            raise RoleDenied(
                f"key {key_id} has the role {info.role} and is signed with in a token only "
                "(security_policy.require_hsm_for_roles): name it by id instead of passing its private key"
            )

    # ---- where ----

    async def _make(self, subject: _Subject, digest: bytes, deadline: float) -> Made:
        async def unlock() -> SoftwareJob:
            unlocked = subject.unlocked or await self._unlock(subject)
            return SoftwareJob(unlocked.private_key, unlocked.public_key, digest)

        if subject.info is not None and subject.info.backend is Backend.HSM:
            return await self._router.sign_on_token(subject.info, digest, deadline, unlock)
        return await self._router.sign_in_software(await unlock(), deadline)

    async def _unlock(self, subject: _Subject) -> UnlockedKey:
        if subject.info is not None and not software_allowed(subject.info, self._policy):
            raise RoleDenied(
                f"key {subject.key_id} may not be used in software: its role {subject.info.role} signs in a token only "
                "(security_policy.require_hsm_for_roles)"
            )
        return await required(self._keystore).unlock(subject.key_id)


def _record(
    trail: _Trail,
    now: float,
    *,
    signed: Signed | None = None,
    error: ManaHSMError | None = None,
    reason: str | None = None,
) -> AuditRecord:
    """Say how a request ended: exactly one of ``signed``, ``error`` and ``reason`` is given (pure)."""
    request, subject, prepared, made = trail.request, trail.subject, trail.prepared, trail.made
    info = subject.info if subject else None
    refused = isinstance(error, _REFUSALS)
    return AuditRecord(
        event=AuditEvent.SIGN,
        request_id=request.request_id,
        caller=request.caller,
        operation=request.operation,
        key_id=subject.key_id if subject else None,
        address=subject.address if subject else None,
        role=info.role if info else None,
        chain_id=prepared.chain_id if prepared else request.chain_id,
        summary=prepared.summarise() if prepared else None,
        digest="0x" + prepared.digest.hex() if prepared else None,
        decision=Decision.REFUSED if refused else Decision.ALLOWED,
        reason=f"{error.code}: {error}" if error else reason,
        backend=made.backend if made else None,
        slot=made.slot if made else None,
        diverted=made.diverted if made else False,
        outcome=AuditOutcome.SIGNED if signed is not None else AuditOutcome.REFUSED if refused else AuditOutcome.FAILED,
        duration=round(now - trail.started, 6),
        tx_hash="0x" + signed.hash.hex() if isinstance(signed, SignedTransaction) else None,
    )
