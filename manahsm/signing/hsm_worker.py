"""An HSM signer worker: one session, one digest after the other, and the next one waiting in its host.

The one thing to know: a signature leaves only after it has recovered to the key it was asked of. Of a call that failed
the worker says what the failure means for the slot; what becomes of the request is for the router to decide, who is
told at once. What a worker that crashes has in hand goes back into the slot's mailbox.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext

import anyio

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import RecoverableSignature, complete
from manahsm.hsm.calls import Call
from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, Outcome, outcome_named
from manahsm.logs import get_logger
from manahsm.requests import Backend
from manahsm.signing.decisions import never_tried, share_of
from manahsm.signing.jobs import HSMJob, Made
from manahsm.signing.observed import HOST_GONE
from manahsm.signing.pool import OpenFailed
from manahsm.signing.slot import Slot
from supervisors import Backoff, BreakerState, ChildContext, Permit, Request

__all__ = ["HSMWorker"]

_log = get_logger("manahsm.worker")

_CLOSE_TIMEOUT = 2.0  # seconds; a host that does not answer is killed by its own deadline anyway
_OPEN_BACKOFF = Backoff(initial=0.02, factor=2.0, maximum=1.0, jitter=0.2)
_HANDS = 2  # of a session: while the token has what one sent, what the other sent waits in the host already
_ADMITS_ALL = frozenset({BreakerState.CLOSED, BreakerState.FORCED_CLOSED})
_REST = 0.1  # seconds, after the token said that something is exhausted
_JITTER = random.Random()  # noqa: S311 - jitter is no secret


class HSMWorker:
    """Body of one supervised task.

    Args:
        slot: whose mailbox and pool it works with.
        overflow: work on a session beyond the pool's size, and end when there was nothing to do for a while.
    """

    def __init__(self, slot: Slot, *, overflow: bool = False) -> None:
        self._slot = slot
        self._overflow = overflow
        self._broken: str | None = None  # why the session in hand may not be used any more
        self._sent: Call | None = None  # what was sent last on this session
        self._signing = 0  # hands that have requests
        self._first_waits = False  # a hand waits as one with a free session

    async def run(self, ctx: ChildContext) -> None:
        """Sign on one session after the other until cancelled; an overflow worker, on one until it is idle.

        Raises:
            NoRoom, OpenFailed: an overflow session could not be opened.
        """
        slot = self._slot
        if not self._overflow:
            ctx.started()
        while True:
            session = await self._open(ctx)
            self._broken = self._sent = None
            try:
                if self._overflow:
                    ctx.started()
                await self._serve(ctx, session)
            finally:
                reason = self._broken or (None if session.usable else HOST_GONE)
                with ctx.clock.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await slot.pool.release(session, reason)
                slot.session_ended(reason)
            if self._overflow:
                return

    # ---- sessions ----

    async def _open(self, ctx: ChildContext) -> HostSession:
        """Open a session, however often it takes; an overflow session is tried once."""
        slot, failures = self._slot, 0
        while True:
            try:
                session = await slot.pool.acquire(overflow=self._overflow)
            except OpenFailed as failed:
                failure, host = failed.failure, failed.host
                _log.warning("no session opened", slot=slot.name, outcome=failure.outcome.name)
                slot.session_refused(failure)
                outcome = slot.happened(failure.outcome, host)
                slot.judge(outcome, None, str(failure))
                await self._recover(outcome, host, host.generation)
                if self._overflow:
                    raise
                await ctx.clock.sleep(_OPEN_BACKOFF.delay(failures, _JITTER))
                failures += 1
            else:
                slot.session_opened()
                return session

    async def _serve(self, ctx: ChildContext, session: HostSession) -> None:
        """Sign with both hands until the session or its host is of no use, or an overflow session idle for long."""
        async with anyio.create_task_group() as hands:
            for _ in range(_HANDS):
                hands.start_soon(self._hand, ctx, session)

    # ---- a hand: while the token has what it sent, what the other hand sent waits in the host ----

    async def _hand(self, ctx: ChildContext, session: HostSession) -> None:
        while session.usable:
            requests = await self._next(ctx, session)
            if not requests:
                break
            self._signing += 1
            try:
                await self._sign(session, requests)
            finally:
                self._signing -= 1
        self._slot.pool.call_off(session)

    async def _next(self, ctx: ChildContext, session: HostSession) -> list[Request]:
        """Wait for requests, more than one where many wait; none: the session is not to be used any more."""
        mailbox = self._slot.mailbox
        request = mailbox.receive_nowait(ctx.name) or await self._wait(ctx, session)
        if request is None:
            return []
        more = share_of(len(mailbox), self._slot.pool.open) if self._may_send_ahead else 0
        queued = (mailbox.receive_nowait(ctx.name) for _ in range(more))
        return [request, *(one for one in queued if one is not None)]

    async def _wait(self, ctx: ChildContext, session: HostSession) -> Request | None:
        """Wait for a request; a hand takes one that has to wait behind the other's only where no session is free."""
        slot = self._slot
        first = not (self._signing or self._first_waits)
        patience = slot.config.connection_pool.idle_timeout if self._overflow and first else None
        request: Request | None = None
        self._first_waits |= first
        try:
            with slot.pool.while_attached(session), ctx.clock.move_on_after(patience):
                request = await slot.mailbox.receive(ctx.name, reserve=not first)
        finally:
            self._first_waits &= not first
        return request

    # ---- signing ----

    @property
    def _may_send_ahead(self) -> bool:
        """Whether digests may wait in the host for their turn; a probe is one call, and needs its permit first."""
        return self._slot.breaker.state in _ADMITS_ALL

    async def _sign(self, session: HostSession, requests: Sequence[Request]) -> None:
        """Sign some requests, one after the other, and after what the other hand has sent."""
        slot, ahead = self._slot, self._sent
        calls: Sequence[Call] = ()
        if session.usable and self._may_send_ahead:
            try:
                calls = self._send(session, requests)
            except HSMFailure as failure:
                for request in requests:
                    await self._failed(session, request, None, failure)
                return
        for number, request in enumerate(requests):
            if ahead is not None and not ahead.ended:
                await ahead.over()
            if not session.usable:  # because of what was ahead, or its host died as the requests came
                self._give_back(*requests[number:])
                return
            permit = slot.breaker.try_acquire()
            if calls:
                # Where the breaker has opened meanwhile, a call that was sent before tells it nothing.
                ahead = calls[number]
                await self._settle(session, request, permit, ahead)
            elif permit is None:
                request.reply.fail(slot.unavailable())
            else:
                await self._probe(session, request, permit)

    async def _probe(self, session: HostSession, request: Request, permit: Permit) -> None:
        with permit:
            try:
                (call,) = self._send(session, [request])
            except HSMFailure as failure:
                await self._failed(session, request, permit, failure)
            else:
                await self._settle(session, request, permit, call)

    def _send(self, session: HostSession, requests: Sequence[Request]) -> Sequence[Call]:
        """Send digests to the host, one call each.

        Raises:
            HSMFailure: none was sent.
        """
        calls = session.begin_each([(request.payload.public_key, request.payload.digest) for request in requests])
        self._sent = calls[-1]
        return calls

    async def _settle(self, session: HostSession, request: Request, permit: Permit | None, call: Call) -> None:
        """Wait for the token, whose turn with a call it is, and say how it went."""
        request.payload.begun = True
        with permit or nullcontext():
            try:
                signature = await self._finish(session, call, request.payload)
            except HSMFailure as failure:
                await self._failed(session, request, permit, failure)
            else:
                if permit is not None:
                    permit.success()
                request.reply.succeed(Made(signature, Backend.HSM, self._slot.name))

    async def _finish(self, session: HostSession, call: Call, job: HSMJob) -> RecoverableSignature:
        """Take what the token has made of a digest, and check it.

        Raises:
            HSMFailure: there is no signature, or not one by this key: SIGNATURE_MISMATCH.
        """
        pulse = self._slot.pulse
        session.its_turn(call)
        with pulse.call():
            (raw,) = await session.finish(call)
            pulse.answered()
        if isinstance(raw, HSMFailure):
            raise raw
        try:
            return complete(raw, job.digest, job.public_key)
        except SignatureMismatch as mismatch:
            detail = f"a wrong signature was withheld: {mismatch}"
            raise HSMFailure(outcome_named("SIGNATURE_MISMATCH", "C_Sign"), detail) from None

    async def _failed(self, session: HostSession, request: Request, permit: Permit | None, failure: HSMFailure) -> None:
        slot = self._slot
        if never_tried(failure.outcome):
            if permit is not None:
                permit.release()
            self._give_back(request)
            return
        host = slot.pool.host_of(session)
        outcome = slot.happened(failure.outcome, host, request.payload.tries)
        _log.warning("signing failed", slot=slot.name, outcome=outcome.name, then=outcome.action.value)
        if outcome.discard_session:
            self._broken = outcome.name
        slot.judge(outcome, permit, str(failure))
        if outcome.action is Action.LOGIN_AGAIN:
            # Another session of this host would fail alike: the request may be tried again after the login.
            await self._recover(outcome, host, session.generation)
            request.reply.fail(failure)
        else:
            request.reply.fail(failure)
            await self._recover(outcome, host, session.generation)

    def _give_back(self, *requests: Request) -> None:
        """Leave requests that were not tried to another session, unless nobody waits for them any more."""
        for request in requests:
            if request.reply.held:
                request.payload.begun = False
                self._slot.mailbox.give_back_one(request, count_attempt=False)

    async def _recover(self, outcome: Outcome, host: HostProcess, generation: int) -> None:
        """Do for the slot what a failure asks for."""
        match outcome.action:
            case Action.LOGIN_AGAIN:
                await self._log_in_again(host, generation)
            case Action.RESPAWN:
                await self._slot.end_hosts(host)
            case Action.FAIL_OVER:  # what any host knows of the token is of no use: the next ones look for it anew
                await self._slot.end_hosts(*self._slot.ready_hosts.values())
            case Action.BACK_OFF:
                await self._slot.clock.sleep(_REST)
            case _:
                pass

    async def _log_in_again(self, host: HostProcess, generation: int) -> None:
        slot = self._slot
        slot.pool.open_carefully()
        try:
            await host.log_in_again(generation)
        except HSMFailure as failure:
            outcome = slot.happened(failure.outcome, host)
            _log.warning("login not renewed", slot=slot.name, outcome=outcome.name)
            slot.judge(outcome, None, str(failure))
            await slot.end_hosts(host)
