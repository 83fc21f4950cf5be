"""Canary signatures: the only proof that a token signs, and signs rightly.

The one thing to know: a canary goes the way of every digest, through the slot's mailbox to a worker that checks the
signature in software and acts on a failure: one that is wrong latches the slot, as it would for a caller. Nothing of it
is released, so it has no audit record. What is signed is a fresh EIP-191 message each time: never a transaction, and
never something that a token has signed before.
"""

from __future__ import annotations

import secrets

from manahsm.errors import ManaHSMError
from manahsm.ethereum.messages import message_digest
from manahsm.hsm.failures import HSMFailure
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.roles import check_may_sign
from manahsm.monitoring.slot_rules import Canary, Signed
from manahsm.requests import KeyInfo, Operation
from manahsm.signing.decisions import may_try_again, speaks_against_slot
from manahsm.signing.jobs import HSMJob
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import BreakerState, Clock, DeadlinePassed, MailboxClosed, MailboxFull, Poisoned, Request

__all__ = ["CanaryKey", "idle_reason", "sign_canary"]


class CanaryKey:
    """The key of ``monitoring.canary_key``, looked up anew each time: it may be registered later, or retired.

    Args:
        reference: key id, label or address; ``None`` for no canary.
        registry: where it is found.
    """

    def __init__(self, reference: str | None, registry: KeyRegistry) -> None:
        self._reference = reference
        self._registry = registry

    @property
    def configured(self) -> bool:
        """Whether there is to be one."""
        return self._reference is not None

    def find(self) -> KeyInfo:
        """Return the key.

        Raises:
            KeyNotFound, RoleDenied: it is not registered, or may not sign.
        """
        key = self._registry.resolve(self._reference or "")
        check_may_sign(key, Operation.MESSAGE)
        return key

    def problem(self) -> str | None:
        """Why there is no such key, or ``None``."""
        if not self.configured:
            return None
        try:
            self.find()
        except ManaHSMError as error:
            return str(error)
        return None


def idle_reason(slot: Slot) -> str | None:
    """Why no canary should be signed in a slot now, or ``None`` where it takes nothing from callers.

    At least one session stays idle for them, or none of them is there. What they sign is evidence enough.
    """
    if slot.phase is not SlotPhase.UP:
        return f"the slot is {slot.phase.value}"
    if not slot.admits:
        return "the circuit breaker is open"
    idle = slot.mailbox.waiting_receivers
    if not idle or (idle == 1 and slot.mailbox.held):
        return "no session is idle"
    return None


async def sign_canary(slot: Slot, key: CanaryKey, deadline: float, clock: Clock) -> Canary:
    """Have a slot sign, where that harms nobody.

    A breaker that probes is given all the probes that it needs, so that a slot without traffic comes back too.

    Args:
        slot: where.
        key: with what.
        deadline: clock time.
        clock: its time.
    """
    if not key.configured:
        return Canary(signed=Signed.SKIPPED, detail="no canary key is configured")
    try:
        public_key = key.find().public_key
    except ManaHSMError as error:
        return Canary(signed=Signed.SKIPPED, detail=str(error))
    if public_key not in slot.public_keys:
        return Canary(signed=Signed.SKIPPED, detail="the token does not hold the canary key")
    canary = Canary(signed=Signed.SKIPPED)
    for _ in range(slot.breaker.settings.probes):
        busy = idle_reason(slot)
        if busy is not None:
            return canary if canary.signed is Signed.RIGHT else Canary(signed=Signed.SKIPPED, detail=busy)
        canary = await _sign(slot, public_key, deadline, clock)
        if canary.signed is not Signed.RIGHT or slot.breaker.state is not BreakerState.HALF_OPEN:
            break
    return canary


async def _sign(slot: Slot, public_key: bytes, deadline: float, clock: Clock) -> Canary:
    """Sign once, and once more where another session may do better: as the router does."""
    began, tries = clock.now(), 0
    while True:
        job = HSMJob(public_key, message_digest(f"manahsm canary {secrets.token_hex(16)}"))
        try:
            await slot.mailbox.send_nowait(Request(job, deadline=deadline, clock=clock)).wait()
        except HSMFailure as failure:
            tries += 1
            if not (may_try_again(failure.outcome, tries) and slot.admits):
                return _failed(failure)
        except DeadlinePassed:
            waited = clock.now() - began
            slot.no_answer(waited, waited)
            return Canary(signed=Signed.SILENT, detail=f"no canary signature within {waited:.1f} s")
        except (MailboxFull, MailboxClosed) as busy:
            return Canary(signed=Signed.SKIPPED, detail=str(busy))
        except (ManaHSMError, Poisoned) as error:  # the slot went out of use while this waited
            return Canary(signed=Signed.FAILED, detail=str(error))
        else:
            return Canary(signed=Signed.RIGHT, duration=clock.now() - began)


def _failed(failure: HSMFailure) -> Canary:
    outcome = failure.outcome
    if outcome.name == "SIGNATURE_MISMATCH":
        detail = f"the token signs wrongly though every call returned CKR_OK: {failure.detail}"
        return Canary(signed=Signed.WRONG, detail=detail)
    if outcome.name == "KEY_NOT_FOUND" or not speaks_against_slot(outcome):
        return Canary(signed=Signed.UNUSABLE, detail=str(failure))
    return Canary(signed=Signed.FAILED, detail=str(failure))
