"""The way of a method to the service: who asks goes along, to its checks and into the audit log.

The one thing to know: a request that is refused before the service has seen it leaves a record too, written by
:meth:`Desk.note_refusal`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from manahsm.access import Access, Asker, asked_by
from manahsm.api.codes import MethodDenied
from manahsm.api.gateway import Gateway
from manahsm.api.specs import Asked, Kind
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord, Decision
from manahsm.errors import InvalidRequest, KeyNotFound, ManaHSMError, PolicyDenied, RoleDenied
from manahsm.keys.roles import only_key
from manahsm.requests import KeyInfo, KeyState, Operation, Role, SignRequest
from manahsm.service import Service
from manahsm.signing.payloads import Signed

__all__ = ["Desk", "covered_key", "may_sign", "one_key_with_role"]

T = TypeVar("T")
_REFUSALS = (InvalidRequest, KeyNotFound, PolicyDenied, RoleDenied)


class Desk:
    """Hands calls to the service behind ``gateway``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def sign(
        self,
        asked: Asked,
        operation: Operation,
        key: str,
        payload: Any,
        *,
        chain_id: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the service keeps it
    ) -> Signed:
        """Have something signed, for the caller and with what it may use.

        Raises:
            ManaHSMError: nothing was released.
        """
        call = asked.call
        request = SignRequest(
            operation=operation,
            key=key,
            payload=payload,
            chain_id=chain_id,
            timeout=timeout,
            caller=call.visitor.access.caller,
            request_id=call.request_id,
        )
        asked.recorded = True
        return await self._gateway.run(lambda service: service.sign(request, access=call.visitor.access))

    async def look(self, work: Callable[[Service], Awaitable[T]]) -> T:
        """Await ``work(service)``, which changes nothing."""
        return await self._gateway.run(work)

    async def change(self, asked: Asked, work: Callable[[Service], Awaitable[T]], *, recorded: bool = True) -> T:
        """Await ``work(service)`` for the caller, who is named in the records of what it does.

        Args:
            asked: for whom.
            work: changes something.
            recorded: whether the service writes a record even where it refuses.
        """
        who = Asker(caller=asked.call.visitor.access.caller, request_id=asked.call.request_id)
        asked.recorded = recorded

        async def for_them(service: Service) -> T:
            with asked_by(who):
                return await work(service)

        return await self._gateway.run(for_them)

    async def keep_refusal(self, asked: Asked, act: str, kind: Kind, error: ManaHSMError) -> None:
        """See that a refusal has an audit record, where it is worth one and the service wrote none.

        Args:
            asked: by whom.
            act: what they asked for.
            kind: its kind.
            error: why it was not done; most that can happen to an act is no refusal.
        """
        if isinstance(error, _REFUSALS) and not asked.recorded and kind is not Kind.READ:
            signing = kind is Kind.SIGN and not isinstance(error, MethodDenied)
            await self.note_refusal(asked, act, error, signing=signing)

    async def note_refusal(
        self, asked: Asked, act: str, error: ManaHSMError, *, signing: bool, operation: Operation | None = None
    ) -> None:
        """Write the audit record of something that was refused before the service has seen it.

        Args:
            asked: by whom.
            act: what they asked for.
            error: why not.
            signing: whether it was a signature that was malformed, and not an act that was not theirs to ask for.
            operation: what was to be signed, where that is known.
        """
        record = AuditRecord(
            event=AuditEvent.SIGN if signing else AuditEvent.OPERATOR,
            request_id=asked.call.request_id,
            caller=asked.call.visitor.access.caller,
            operation=operation,
            summary={"act": act},
            decision=Decision.REFUSED,
            reason=f"{error.code}: {error}",
            outcome=AuditOutcome.REFUSED,
        )
        await self._note(record)

    async def note_act(self, asked: Asked, act: str) -> None:
        """Write the audit record of an act that is none of the service's own."""
        record = AuditRecord(
            event=AuditEvent.OPERATOR,
            request_id=asked.call.request_id,
            caller=asked.call.visitor.access.caller,
            summary={"act": act},
            outcome=AuditOutcome.DONE,
        )
        await self._note(record)

    async def _note(self, record: AuditRecord) -> None:
        await self._gateway.run(lambda service: service._journal.note(record))  # noqa: SLF001 - no caller has a use for it


def may_sign(key: KeyInfo, access: Access) -> bool:
    """Whether a key is one that the caller can sign with."""
    return key.state is KeyState.ACTIVE and key.role is not None and access.covers(key)


async def covered_key(service: Service, reference: str, access: Access) -> KeyInfo:
    """The key that a caller names, where it may see it.

    Raises:
        KeyNotFound: there is none, or the caller may not know of it: both read the same.
    """
    try:
        key = await service.get_key(reference)
    except KeyNotFound:
        key = None
    if key is None or not access.covers(key):
        raise access.unknown(reference)
    return key


async def one_key_with_role(service: Service, role: Role, access: Access) -> KeyInfo:
    """The one active key with ``role`` that a caller may use.

    Raises:
        InvalidRequest: there is none, or more than one; the message names them.
    """
    return only_key([key for key in await service.list_keys(role=role) if may_sign(key, access)], role)
