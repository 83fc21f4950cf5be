"""One signature, step by step: the checklist that every request passes.

The one thing to know: nothing is released before its audit record is written, and a request that is refused, fails
or is cancelled has its record too. All of this runs in the caller's own task; only the signing itself is a hop.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define
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
    ServiceStopping,
)
from manahsm.ethereum.signatures import address_of, key_id_of, public_key_of
from manahsm.keys.keystore import Keystore, UnlockedKey, required
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.roles import check_may_sign, software_allowed
from manahsm.requests import Backend, KeyInfo, Operation, SignedTransaction, SignRequest
from manahsm.signing.gate import Gate
from manahsm.signing.jobs import Made, SoftwareJob, made_or_raised
from manahsm.signing.limits import RateLimit
from manahsm.signing.observed import CANCELLED, SIGNED, Observer, SignEnded
from manahsm.signing.payloads import Prepared, Signed, prepare_off_loop
from manahsm.signing.router import Router
from manahsm.times import utc_now
from supervisors import Clock

__all__ = ["Signer"]

_REFUSALS = (InvalidRequest, KeyNotFound, PolicyDenied, RateLimited, RoleDenied)
"""Errors that say that the rules did not admit the request; all others say that it could not be done."""


@define
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
    ended: bool = False


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
                subject, prepared = await self._admit(trail, private_key, access)
                return await self._release(trail, await self._make(subject, prepared.digest, self._deadline(trail)))
            except ManaHSMError as error:
                await self._failed(trail, error)
                raise
            except BaseException:
                self._cancelled(trail)
                raise

    async def sign_all(
        self, requests: Sequence[SignRequest], private_key: bytes | None = None
    ) -> list[Signed | ManaHSMError]:
        """Sign several requests for one software key, which make the hop to its worker together.

        Args:
            requests: a few, as they are prepared in one go; each has its own record. All name the same key.
            private_key: see :meth:`sign`.

        Returns:
            The result of each, in order, or why nothing was released.
        """
        try:
            with self._gate.admit():
                trails = [_Trail(request, self._clock.now()) for request in requests]
                try:
                    return await self._sign_all(trails, private_key)
                except BaseException:
                    for trail in trails:
                        if not trail.ended:
                            self._cancelled(trail)
                    raise
        except ServiceStopping as refusal:
            return [refusal] * len(requests)

    async def _sign_all(self, trails: Sequence[_Trail], private_key: bytes | None) -> list[Signed | ManaHSMError]:
        results: dict[int, Signed | ManaHSMError] = {}
        admitted: list[tuple[int, _Trail]] = []
        jobs: list[SoftwareJob] = []
        subject: _Subject | None = None  # found out once: with a raw key that costs as much as a signature
        for number, trail in enumerate(trails):
            try:
                subject, prepared = await self._admit(trail, private_key, None, subject)
                jobs.append(await self._job(subject, prepared.digest))
            except ManaHSMError as error:
                results[number] = await self._failed(trail, error)
            else:
                admitted.append((number, trail))
        made: Sequence[Made | ManaHSMError] = ()
        if jobs:
            try:
                made = await self._router.sign_in_software(tuple(jobs), self._deadline(admitted[0][1]))
            except ManaHSMError as error:
                made = [error] * len(jobs)
        for (number, trail), one in zip(admitted, made, strict=True):
            try:
                results[number] = await self._release(trail, made_or_raised(one))
            except ManaHSMError as error:
                results[number] = await self._failed(trail, error)
        return [results[number] for number in range(len(trails))]

    def signs_in_software(self, key: str) -> bool:
        """Whether the key of this name lives in software; ``False`` where there is no such key."""
        try:
            return self._registry.resolve(key).backend is Backend.SOFTWARE
        except KeyNotFound:
            return False

    # ---- what happens to a request ----

    async def _admit(
        self, trail: _Trail, private_key: bytes | None, access: Access | None, subject: _Subject | None = None
    ) -> tuple[_Subject, Prepared]:
        """Look at who is to sign (unless that is known), and what."""
        request = trail.request
        subject = trail.subject = subject or self._identify(request, private_key, access)
        if subject.info is not None:
            if access is not None:
                access.check(subject.info, request.key, request.operation)
            check_may_sign(subject.info, request.operation)
        prepared = trail.prepared = await prepare_off_loop(
            request.operation, request.payload, request.chain_id, subject.address
        )
        self._limit.spend()
        return subject, prepared

    async def _release(self, trail: _Trail, made: Made) -> Signed:
        """Make the result of a signature, and its record before anybody gets it."""
        subject, prepared = trail.subject, trail.prepared
        assert subject is not None  # noqa: S101 - it was admitted
        assert prepared is not None  # noqa: S101
        trail.made = made
        if subject.info is not None:
            # The key may have been retired, or have lost its role, while the request waited.
            check_may_sign(self._registry.resolve(subject.key_id), trail.request.operation)
        signed = prepared.finish(made.signature, made.backend, subject.key_id if subject.info else None)
        await self._journal.write(_record(trail, self._clock.now(), signed=signed))
        self._ended(trail, SIGNED)
        if subject.info is not None:
            self._registry.record_use(subject.key_id, utc_now())
        return signed

    async def _failed(self, trail: _Trail, error: ManaHSMError) -> ManaHSMError:
        await self._journal.note(_record(trail, self._clock.now(), error=error))
        self._ended(trail, error.code)
        return error

    def _cancelled(self, trail: _Trail) -> None:
        self._journal.note_now(_record(trail, self._clock.now(), reason="cancelled, or a fault of ours"))
        self._ended(trail, CANCELLED)

    def _deadline(self, trail: _Trail) -> float:
        return trail.started + (trail.request.timeout or self._default_timeout)

    def _ended(self, trail: _Trail, outcome: str) -> None:
        trail.ended = True
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
        if subject.info is not None and subject.info.backend is Backend.HSM:
            return await self._router.sign_on_token(subject.info, digest, deadline, lambda: self._job(subject, digest))
        (made,) = await self._router.sign_in_software((await self._job(subject, digest),), deadline)
        return made_or_raised(made)

    async def _job(self, subject: _Subject, digest: bytes) -> SoftwareJob:
        if subject.unlocked is None:
            subject.unlocked = await self._unlock(subject)
        return SoftwareJob(subject.unlocked.private_key, subject.unlocked.public_key, digest)

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
