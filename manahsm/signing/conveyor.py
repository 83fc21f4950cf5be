"""Digests on their way through one session: sent, signed, checked and answered, without a task.

The one thing to know: everything here happens in the moment that brings it about, in the task of whoever sends a
request or in the call with which a host's answer arrives; that saves two tasks and four turns of the event loop a
signature. What takes time (a new login, ending a host, a pause) is put down as a :class:`Recovery` for the session's
task, the worker, and nothing is taken until that is done. An exception that nobody expected ends the conveyor, and the
worker with it, so that what it has in custody goes back to the slot's mailbox.

While the token has what was sent first, what comes next waits in the host already: up to two *shares* are under way.
What it has signed is released when it was checked, perhaps beside the event loop (:mod:`manahsm.signing.checks`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NoReturn

import anyio
from attrs import define, frozen

from manahsm.errors import SignatureMismatch
from manahsm.hsm.calls import Call
from manahsm.hsm.client import HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, Outcome, outcome_named
from manahsm.logs import get_logger
from manahsm.requests import Backend
from manahsm.signing.checks import Verdict
from manahsm.signing.decisions import never_tried, share_of
from manahsm.signing.jobs import Made
from manahsm.signing.slot import Slot
from supervisors import Permit, Receiver, Request

__all__ = ["Conveyor", "Recovery"]

_log = get_logger("manahsm.worker")

_SHARES = 2


@frozen
class Recovery:
    """What a failure asks to be done for the slot.

    Attributes:
        outcome: of the failure, escalated.
        then: to be called when it is done.
    """

    outcome: Outcome
    then: Callable[[], object]


@define(eq=False)
class _Sent:
    """A request whose digest the host has.

    Attributes:
        ends_share: it is the last of those that were taken at once.
        permit: for its call, once it is its turn in the token; ``None`` where the breaker has opened meanwhile, or has
            had its verdict.
        has_turn: nothing is ahead of it.
    """

    request: Request
    call: Call
    ends_share: bool
    permit: Permit | None = None
    has_turn: bool = False


class Conveyor:
    """The way through one session. Not thread-safe.

    Args:
        slot: whose mailbox, breaker and pulse it works with.
        session: signs for nobody else.
        holder: in whose custody requests are meanwhile.

    Attributes:
        broken: why the session may not be used any more, by the name of an outcome.
        idle_since: clock time since which nothing is under way; infinity while something is.
    """

    def __init__(self, slot: Slot, session: HostSession, holder: str) -> None:
        self.broken: str | None = None
        self.idle_since = slot.clock.now()
        self._slot = slot
        self._session = session
        self._holder = holder
        self._sent: deque[_Sent] = deque()
        self._answered: set[_Sent] = set()  # and not settled: what waits for its check
        self._shares = 0
        self._taken: list[Request] = []  # and not sent yet
        self._first: Receiver | None = None  # in line as one that is free
        self._reserve: Receiver | None = None  # in line as one that has something under way
        self._detached = False
        self._closed = False
        self._recoveries: deque[Recovery] = deque()
        self._fault: Exception | None = None
        self._news = anyio.Event()

    # ---- for the worker ----

    def start(self) -> None:
        """Take requests from now on."""
        self._slot.pool.when_detached(self._session, self._detach)
        self.go_on()

    def close(self) -> None:
        """Take nothing and answer nothing any more; what is in custody stays there."""
        self._closed = True
        self._leave_line()
        for sent in self._sent:
            sent.call.then(None)
            self._slot.pulse.end(sent.call)
        for sent in (*self._sent, *self._answered):
            if sent.permit is not None and not sent.permit.spent:
                sent.permit.release()

    def is_over(self) -> bool:
        """Return whether the session has done what it could: it takes nothing more, and nothing is under way.

        Raises:
            Exception: the fault that has ended it.
        """
        if self._fault is not None:
            raise self._fault
        return not (self._takes or self._has_work or self._recoveries)

    async def news(self) -> None:
        """Wait until there is a recovery or a fault, or it is over."""
        await self._news.wait()
        self._news = anyio.Event()

    def next_recovery(self) -> Recovery | None:
        """Return what is to be done for the slot; say :meth:`recovered` when it is."""
        return self._recoveries[0] if self._recoveries else None

    def recovered(self) -> None:
        """The first recovery is done."""
        self._recoveries.popleft().then()
        self.go_on()

    # ---- what happens ----

    def go_on(self) -> None:
        """Send as much as may be under way, and get in line for more."""
        self._guard(self._go_on)

    def _take_first(self, request: Request) -> None:
        self._first = None
        self._taken.append(request)
        self._guard(self._go_on)

    def _take_in_reserve(self, request: Request) -> None:
        self._reserve = None
        self._taken.append(request)
        self._guard(self._go_on)

    def _detach(self) -> None:
        self._detached = True
        self._guard(self._go_on)

    def _call_ended(self) -> None:
        self._guard(self._answer)

    def _guard(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step in whoever's task; a bug in it is the worker's."""
        if self._closed or self._fault is not None:
            return
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again in the worker
            self._fault = error
            self._leave_line()
            self._news.set()

    # ---- sending ----

    @property
    def _takes(self) -> bool:
        return self._session.usable and not self._detached

    @property
    def _has_work(self) -> bool:
        """Whether something is under way, or waits for its check."""
        return bool(self._sent or self._answered)

    def _go_on(self) -> None:
        while self._takes and not self._recoveries:
            # Whether digests may wait in the host for their turn: a probe is one call, and needs its permit first.
            ahead = self._slot.admits_all
            if self._shares >= _SHARES if ahead else self._has_work:
                return
            taken, self._taken = self._taken or self._receive(ahead=ahead), []
            if not taken:
                self._line_up()
                return
            self._send(taken, ahead=ahead)
        self._stop_taking()

    def _receive(self, *, ahead: bool) -> list[Request]:
        """Take a request from the queue, more than one where many wait."""
        mailbox = self._slot.mailbox
        request = mailbox.receive_nowait(self._holder)
        if request is None:
            return []
        more = share_of(len(mailbox), self._slot.pool.open) if ahead else 0
        queued = (mailbox.receive_nowait(self._holder) for _ in range(more))
        return [request, *(one for one in queued if one is not None)]

    def _send(self, requests: Sequence[Request], *, ahead: bool) -> None:
        """Send requests to the host, one call each. The first of a session with nothing under way has its turn."""
        probe: Permit | None = None
        if not ahead and (probe := self._slot.breaker.try_acquire()) is None:
            for request in requests:
                request.reply.fail(self._slot.unavailable())
            return
        items = [(request.payload.public_key, request.payload.digest) for request in requests]
        try:
            calls = self._session.begin_each(items, behind=len(self._sent))
        except HSMFailure as failure:
            for request in requests:
                self._failed(request, probe, failure)
            return
        self._shares += 1
        for request, call in zip(requests, calls, strict=True):
            call.then(self._call_ended)
            self._sent.append(_Sent(request, call, call is calls[-1], probe))
        self._begin_turn()

    def _begin_turn(self) -> None:
        """Let what was sent first have its turn, if it has not: nothing is ahead of it in the token."""
        first = self._sent[0]
        if first.has_turn:
            return
        first.has_turn = first.request.payload.begun = True
        # Where the breaker has opened meanwhile, a call that was sent before tells it nothing.
        first.permit = first.permit or self._slot.breaker.try_acquire()
        self._slot.pulse.begin(first.call)
        self.idle_since = math.inf

    def _line_up(self) -> None:
        mailbox = self._slot.mailbox
        if not self._sent and self._first is None:
            self._first = mailbox.line_up(self._holder, self._take_first)
        if self._reserve is None:
            self._reserve = mailbox.line_up(self._holder, self._take_in_reserve, reserve=True)

    def _leave_line(self) -> None:
        for receiver in (self._first, self._reserve):
            if receiver is not None:
                self._slot.mailbox.leave(receiver)
        self._first = self._reserve = None

    def _stop_taking(self) -> None:
        """Leave what is not in the token to other sessions; wake the worker when nothing is left."""
        self._leave_line()
        waiting = self._taken
        self._taken = []
        if not self._session.usable:
            for sent in [sent for sent in self._sent if not sent.has_turn]:
                sent.call.then(None)
                self._sent.remove(sent)
                waiting.append(sent.request)
        self._give_back(waiting)
        if not self._has_work:
            self._news.set()

    def _give_back(self, requests: Iterable[Request]) -> None:
        """Leave requests that were not tried to another session, unless nobody waits for them any more."""
        for request in requests:
            if request.reply.held:
                request.payload.begun = False
                self._slot.mailbox.give_back_one(request, count_attempt=False)

    # ---- answering ----

    def _answer(self) -> None:
        """Pass on what the host has answered, in the order in which it was sent."""
        while self._sent and self._sent[0].call.ended:
            sent = self._sent.popleft()
            self._shares -= sent.ends_share
            self._slot.pulse.end(sent.call)
            self._take_result(sent)
            self._note_idle()
            if self._sent and self._session.usable:
                self._session.its_turn(self._sent[0].call)
                self._begin_turn()
        self._go_on()

    def _note_idle(self) -> None:
        if not self._has_work:
            self.idle_since = self._slot.clock.now()

    def _take_result(self, sent: _Sent) -> None:
        """Take what has become of a call, and have it checked where it is a signature."""
        self._answered.add(sent)
        try:
            (result,) = self._session.signed(sent.call)
            self._slot.pulse.answered()
        except HSMFailure as failure:
            result = failure
        if isinstance(result, HSMFailure):
            self._settle(sent, _refused(result))
        else:
            if sent.permit is not None and self._slot.admits_all:
                # How long it waits for its check is not the token's fault. A probe has to be right, and waits.
                sent.permit.success()
                sent.permit = None
            self._slot.checks.add(result, sent.request.payload, partial(self._guard, self._checked, sent))

    def _checked(self, sent: _Sent, verdict: Verdict) -> None:
        self._settle(sent, verdict)
        self._note_idle()
        if not self._sent:  # else it goes on with the next answer anyway
            self._go_on()

    def _settle(self, sent: _Sent, verdict: Verdict) -> None:
        """Release a signature that is verified, and no other."""
        self._answered.remove(sent)
        request, permit = sent.request, sent.permit
        with permit or nullcontext():
            try:
                signature = verdict()
            except HSMFailure as failure:
                self._failed(request, permit, failure)
            except SignatureMismatch as mismatch:
                detail = f"a wrong signature was withheld: {mismatch}"
                self._failed(request, permit, HSMFailure(outcome_named("SIGNATURE_MISMATCH", "C_Sign"), detail))
            else:
                if permit is not None:
                    permit.success()
                request.reply.succeed(Made(signature, Backend.HSM, self._slot.name))

    def _failed(self, request: Request, permit: Permit | None, failure: HSMFailure) -> None:
        """Say what a failure means for the slot; what becomes of the request the router decides, who is told."""
        slot = self._slot
        self._leave_line()
        if never_tried(failure.outcome):
            if permit is not None:
                permit.release()
            self._give_back([request])
            return
        host = slot.pool.host_of(self._session)
        outcome = slot.happened(failure.outcome, host, request.payload.tries)
        _log.warning("signing failed", slot=slot.name, outcome=outcome.name, then=outcome.action.value)
        if outcome.discard_session:
            self.broken = outcome.name
        slot.judge(outcome, permit, str(failure))

        def tell() -> None:
            request.reply.fail(failure)

        # Where the login is gone another session of this host would fail alike: the request waits for a new one.
        if outcome.action is not Action.LOGIN_AGAIN:
            tell()
        self._recoveries.append(Recovery(outcome, tell))
        self._news.set()


def _refused(failure: HSMFailure) -> Verdict:
    def verdict() -> NoReturn:
        raise failure

    return verdict
