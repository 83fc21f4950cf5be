"""The path of a digest: which workers may sign it, in which order, and how long each is waited for.

The one thing to know: a route is only ever one with the same public key: the slots that hold it, in order of priority,
then its software twin. One route is asked at a time; what did not answer is given up before the next is asked, and
an answer that comes after that is dropped. Which routes there are and how long each may take are pure functions;
walking them is a loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import define, evolve, frozen

from manahsm.config.model import Priority
from manahsm.errors import (
    DeadlineExceeded,
    FallbackExhausted,
    HSMUnavailable,
    ManaHSMError,
    Overloaded,
    ServiceStopping,
    SignatureMismatch,
)
from manahsm.hsm.failures import HSMFailure
from manahsm.requests import KeyInfo
from manahsm.signing.decisions import may_try_again, refusal, speaks_against_slot
from manahsm.signing.jobs import HSMJob, Made, SoftwareJob, as_diverted, made_or_raised
from manahsm.signing.slot import Slot, SlotPhase
from manahsm.signing.stand_in import StandIn
from supervisors import Clock, DeadlinePassed, Mailbox, MailboxClosed, MailboxFull, Poisoned, Reply, Request, Timers

__all__ = ["Patience", "Router", "RouterStats", "Routes", "routes_of"]


_FOR_TOKENS = 0.8


@frozen
class Routes:
    """The slots that hold a key.

    Attributes:
        holding: all of them: primary ones first, else as configured.
        ready: those that may be asked now, in that order.
    """

    holding: tuple[Slot, ...]
    ready: tuple[Slot, ...]


def routes_of(key: KeyInfo, slots: Sequence[Slot]) -> Routes:
    """Return the slots that hold ``key``, by public key and never by label (pure)."""
    holding = [slot for slot in slots if slot.may_hold(key)]
    holding.sort(key=lambda slot: slot.config.priority is not Priority.PRIMARY)
    return Routes(tuple(holding), tuple(slot for slot in holding if slot.admits))


@frozen
class Patience:
    """How long one request waits for each of its routes (pure). Times are the clock's, lengths seconds.

    Attributes:
        began: when it began.
        deadline: when it is over.
        budget: how long tokens are waited for before another kind of route is tried (``fallback.fallback_timeout``).
        tokens: how many slots may be asked.
        more: whether software may stand in after them.
    """

    began: float
    deadline: float
    budget: float
    tokens: int
    more: bool

    def until(self, turn: int) -> float:
        """Return until when the slot with this number (from 0) is waited for.

        All slots together have the budget, in even shares; the last one has all that is left of the request, where
        nothing can follow it.
        """
        if turn + 1 >= self.tokens and not self.more:
            return self.deadline
        return min(self.deadline, self.began + self.share * (turn + 1))

    @property
    def share(self) -> float:
        """Seconds for each slot, where another route can follow it."""
        # A request that is in more of a hurry than the budget keeps some of its time for what comes after tokens.
        return min(self.budget, _FOR_TOKENS * (self.deadline - self.began)) / self.tokens

    @property
    def silence(self) -> float:
        """Seconds after which a silent token is at fault, and not the hurry of a caller."""
        return self.budget / self.tokens


@define
class RouterStats:
    """What became of requests for keys in tokens, since the start.

    Attributes:
        primary: signed by the first slot that holds the key.
        backup: signed by another slot.
        stand_in: signed by the software twin.
        retried: repeated once on the same slot.
    """

    primary: int = 0
    backup: int = 0
    stand_in: int = 0
    retried: int = 0


Unlock = Callable[[], Awaitable[SoftwareJob]]


class Router:
    """Hands digests to workers and waits for their answers.

    Args:
        slots: every configured slot, in order.
        software: mailbox of the software worker.
        stand_in: whether software may sign for a token.
        fallback_timeout: seconds that a request waits for tokens before it is diverted.
        clock: whose time deadlines are.
        timers: keep the deadlines of requests that wait.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        software: Mailbox,
        *,
        stand_in: StandIn,
        fallback_timeout: float,
        clock: Clock,
        timers: Timers | None = None,
    ) -> None:
        self._slots = tuple(slots)
        self._software = software
        self._stand_in = stand_in
        self._fallback_timeout = fallback_timeout
        self._clock = clock
        self._timers = timers
        self.stats = RouterStats()

    async def sign_on_token(self, key: KeyInfo, digest: bytes, deadline: float, unlock: Unlock) -> Made:
        """Have a token sign, or what may stand in for it.

        Args:
            key: a key of a token.
            digest: 32 bytes.
            deadline: clock time.
            unlock: unlocks the software twin; called only where it is going to sign.

        Raises:
            HSMUnavailable, FallbackExhausted, Overloaded, SignatureMismatch: no route signed; the last one's reason.
            DeadlineExceeded: no answer in time.
            PolicyDenied, ServiceStopping: from the route that said so.
        """
        routes = routes_of(key, self._slots)
        diverts = self._stand_in.refusal(key, routes.holding) is None
        patience = Patience(self._clock.now(), deadline, self._fallback_timeout, len(routes.ready), diverts)
        job = HSMJob(key.public_key, digest)
        try:
            return await self._walk(routes, routes.ready, job, patience)
        except _Refused as refusal_:
            refused = refusal_.error or _nothing_ready(key, routes)
        if isinstance(refused, Overloaded):
            raise refused  # being asked for much is no outage
        because = self._stand_in.refusal(key, routes.holding)
        if because is None:
            self._stand_in.spend(routes.holding)
            (answer,) = await self.sign_in_software((await unlock(),), deadline)
            made = made_or_raised(answer)
            self.stats.stand_in += 1
            return as_diverted(made)
        starting = (slot for slot in routes.holding if slot.may_be_waited_for)
        try:
            return await self._walk(routes, starting, job, evolve(patience, tokens=1, more=False))
        except _Refused as refusal_:
            raise _final(refusal_.error or refused, because) from None

    async def _walk(self, routes: Routes, slots: Iterable[Slot], job: HSMJob, patience: Patience) -> Made:
        """Ask some slots, one after the other.

        Raises:
            _Refused: none of them signed, for the last one's reason; without one where none was asked.
            ManaHSMError: none of them would.
        """
        refused: ManaHSMError | None = None
        for turn, slot in enumerate(slots):
            try:
                made = await self._on_slot(slot, job, patience, turn)
            except _Refused as refusal_:
                refused = refusal_.error
            else:
                diverted = slot is not routes.holding[0]
                self.stats.backup += diverted
                self.stats.primary += not diverted
                return as_diverted(made) if diverted else made
        raise _Refused(refused)

    async def sign_in_software(
        self, jobs: tuple[SoftwareJob, ...], deadline: float
    ) -> Sequence[Made | SignatureMismatch]:
        """Have the software worker sign with unlocked keys.

        Returns:
            What became of each job, in order.

        Raises:
            Overloaded, DeadlineExceeded, ServiceStopping, HSMUnavailable: it signed nothing.
        """
        mailbox = self._software
        try:
            made: Sequence[Made | SignatureMismatch] = await _send(mailbox, self._request(jobs, deadline)).wait()
        except DeadlinePassed:
            raise _too_late(mailbox) from None
        except Poisoned as poisoned:
            raise HSMUnavailable(f"{mailbox.name}: {poisoned}") from None
        return made

    def _request(self, payload: HSMJob | tuple[SoftwareJob, ...], deadline: float) -> Request:
        return Request(payload, deadline=deadline, clock=self._clock, timers=self._timers)

    # ---- one slot ----

    async def _on_slot(self, slot: Slot, job: HSMJob, patience: Patience, turn: int) -> Made:
        """Ask one slot, again where another of its sessions may do better.

        Raises:
            _Refused: another route may do better.
            ManaHSMError: none would.
        """
        last = patience.until(turn) == patience.deadline
        tries = 0
        while True:
            try:
                return await self._ask(slot, job, patience, turn)
            except HSMFailure as failure:
                tries += 1
                if may_try_again(failure.outcome, tries) and (slot.admits or (last and slot.may_be_waited_for)):
                    self.stats.retried += 1
                    job = evolve(job, tries=tries, begun=False)
                    continue
                error = refusal(failure, slot.name)
                if not speaks_against_slot(failure.outcome):
                    raise error from None
                raise _Refused(error) from None
            except (HSMUnavailable, Overloaded) as error:
                raise _Refused(error) from None
            except Poisoned as poisoned:
                raise _Refused(HSMUnavailable(f"slot {slot.name}: {poisoned}")) from None

    async def _ask(self, slot: Slot, job: HSMJob, patience: Patience, turn: int) -> Made:
        """Send a digest to a slot and wait: at most ``connection_pool.timeout`` for a session, and then its turn."""
        sent = self._clock.now()
        until = patience.until(turn)
        seated_by = sent + slot.config.connection_pool.timeout
        if not slot.mailbox.waiting_receivers:  # no session is free
            slot.press()
        reply = _send(slot.mailbox, self._request(job, patience.deadline))
        resolved = await reply.resolved_by(min(until, seated_by))
        if not resolved and seated_by < until:
            if not job.begun:
                reply.abandon()
                raise _no_session(slot)
            resolved = await reply.resolved_by(until)
        if resolved:
            try:
                made: Made = reply.result()
            except DeadlinePassed:
                pass
            else:
                return made
        raise self._gave_up(slot, reply, patience, sent)

    def _gave_up(self, slot: Slot, reply: Reply, patience: Patience, sent: float) -> ManaHSMError:
        """The slot's time is up: say so, and tell the slot, whose breaker opens where the token was silent."""
        reply.abandon()
        now = self._clock.now()
        if slot.no_answer(now - sent, patience.silence) or now < patience.deadline:
            return HSMUnavailable(
                f"slot {slot.name} did not answer within {now - sent:.1f} s: look at its status; nothing was released"
            )
        if slot.phase is not SlotPhase.UP:
            return slot.unavailable()  # it was starting all the while
        return _too_late(slot.mailbox)


class _Refused(Exception):  # noqa: N818
    """A route did not sign; another may."""

    def __init__(self, error: ManaHSMError | None) -> None:
        self.error = error
        super().__init__(str(error))


def _send(mailbox: Mailbox, request: Request) -> Reply:
    try:
        return mailbox.send_nowait(request)
    except MailboxFull as full:
        raise Overloaded(f"{full}; try again later, or raise service.queue_size") from None
    except MailboxClosed:
        raise ServiceStopping("the service is stopping and takes no new work") from None


def _no_session(slot: Slot) -> Overloaded:
    pool = slot.config.connection_pool
    return Overloaded(
        f"no session of slot {slot.name} became free within {pool.timeout:g} s (connection_pool.timeout): send less at "
        "once, or raise connection_pool.size or max_overflow as far as the token allows"
    )


def _too_late(mailbox: Mailbox) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"not signed in time: {mailbox.name} had no answer before the deadline; nothing was released"
    )


def _nothing_ready(key: KeyInfo, routes: Routes) -> ManaHSMError:
    if routes.holding:
        return routes.holding[0].unavailable()
    return HSMUnavailable(
        f"no configured slot holds the key {key.key_id}: configure the slot of its token, or plug it in"
    )


def _final(refused: ManaHSMError, because: ManaHSMError) -> ManaHSMError:
    """What to tell the caller: why no token signed, and why nothing stood in for it."""
    if isinstance(because, FallbackExhausted):
        return FallbackExhausted(f"{because} ({refused})")
    if isinstance(refused, HSMUnavailable):
        return HSMUnavailable(f"{refused}; {because}")
    return refused
