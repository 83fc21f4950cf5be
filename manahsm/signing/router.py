"""The path of a digest: which workers may sign it, in which order.

The one thing to know: a route is only ever one with the same public key. Which routes a key has is decided by a
pure function; walking them is a loop that passes on the first refusal that the key itself caused.
"""

from __future__ import annotations

from collections.abc import Sequence

from manahsm.config.model import Priority
from manahsm.errors import DeadlineExceeded, HSMUnavailable, Overloaded, ServiceStopping
from manahsm.requests import KeyInfo
from manahsm.signing.jobs import HSMJob, Made, SoftwareJob
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import (
    Clock,
    DeadlinePassed,
    Mailbox,
    MailboxClosed,
    MailboxFull,
    Poisoned,
    Request,
)

__all__ = ["Router", "routes_of"]

_ADMITTING = (SlotPhase.UP, SlotPhase.CONNECTING)


def routes_of(key: KeyInfo, slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """Return the slots that may be asked for ``key``: primary ones first, those that are up before the others.

    Raises:
        HSMUnavailable: no configured slot holds the key, or none of those that do can sign now.
    """
    holding = [slot for slot in slots if slot.may_hold(key)]
    if not holding:
        raise HSMUnavailable(
            f"no configured slot holds the key {key.key_id}: configure the slot of its token, or plug it in"
        )
    admitting = [slot for slot in holding if slot.phase in _ADMITTING]
    if not admitting:
        raise holding[0].unavailable()
    return tuple(
        sorted(
            admitting,
            key=lambda slot: (slot.phase is not SlotPhase.UP, slot.config.priority is not Priority.PRIMARY),
        )
    )


class Router:
    """Hands digests to workers and waits for their answers.

    Args:
        slots: every configured slot, in order.
        software: mailbox of the software worker.
        clock: whose time deadlines are.
    """

    def __init__(self, slots: Sequence[Slot], software: Mailbox, clock: Clock) -> None:
        self._slots = tuple(slots)
        self._software = software
        self._clock = clock

    async def sign_on_token(self, key: KeyInfo, digest: bytes, deadline: float) -> Made:
        """Have a token sign, trying each slot that holds the key until ``deadline`` (clock time).

        Raises:
            HSMUnavailable, Overloaded: what the last route refused with.
            DeadlineExceeded: no answer in time.
            PolicyDenied, SignatureMismatch, ServiceStopping: from the route that said so.
        """
        refused: HSMUnavailable | Overloaded | None = None
        for slot in routes_of(key, self._slots):
            try:
                return await self._ask(slot.mailbox, HSMJob(key.public_key, digest), deadline)
            except (HSMUnavailable, Overloaded) as refusal:
                refused = refusal
        if refused is None:  # pragma: no cover - routes_of never returns nothing
            raise AssertionError("a key has at least one route here")
        raise refused

    async def sign_in_software(self, job: SoftwareJob, deadline: float) -> Made:
        """Have the software worker sign with an unlocked key.

        Raises:
            Overloaded, DeadlineExceeded, ServiceStopping, SignatureMismatch: it did not.
        """
        return await self._ask(self._software, job, deadline)

    async def _ask(self, mailbox: Mailbox, job: HSMJob | SoftwareJob, deadline: float) -> Made:
        try:
            made: Made = await mailbox.send_nowait(Request(job, deadline=deadline, clock=self._clock)).wait()
        except MailboxFull as full:
            raise Overloaded(f"{full}; try again later, or raise service.queue_size") from None
        except MailboxClosed:
            raise ServiceStopping("the service is stopping and takes no new work") from None
        except DeadlinePassed:
            raise DeadlineExceeded(
                f"not signed in time: {mailbox.name} had no answer before the deadline; nothing was released"
            ) from None
        except Poisoned as poisoned:
            raise HSMUnavailable(f"{mailbox.name}: {poisoned}") from None
        return made
