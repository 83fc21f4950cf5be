"""An HSM signer worker: one task, one session, one digest after the other.

The one thing to know: a signature leaves only after it has recovered to the key it was asked of. Of a call that failed
the worker says what the failure means for the slot; what becomes of the request is for the router to decide, who is
told at once. What a worker that crashes has in hand goes back into the slot's mailbox.
"""

from __future__ import annotations

import random

from manahsm.errors import SignatureMismatch
from manahsm.ethereum.signatures import RecoverableSignature, complete
from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, Outcome, outcome_named
from manahsm.logs import get_logger
from manahsm.requests import Backend
from manahsm.signing.decisions import never_tried
from manahsm.signing.jobs import HSMJob, Made
from manahsm.signing.observed import HOST_GONE
from manahsm.signing.pool import OpenFailed
from manahsm.signing.slot import Slot
from supervisors import Backoff, ChildContext, Permit, Request

__all__ = ["HSMWorker"]

_log = get_logger("manahsm.worker")

_CLOSE_TIMEOUT = 2.0  # seconds; a host that does not answer is killed by its own deadline anyway
_OPEN_BACKOFF = Backoff(initial=0.02, factor=2.0, maximum=1.0, jitter=0.2)
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
            self._broken = None
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
        slot = self._slot
        patience = slot.config.connection_pool.idle_timeout if self._overflow else None
        while session.usable:
            request: Request | None = None
            with slot.pool.while_attached(session), ctx.clock.move_on_after(patience) as idle:
                request = await slot.mailbox.receive(ctx.name)
            if request is not None:
                await self._sign(session, request)
            if idle.cancelled_caught:
                return

    # ---- signing ----

    async def _sign(self, session: HostSession, request: Request) -> None:
        slot = self._slot
        if not session.usable:  # its host died as the request came
            slot.mailbox.give_back_one(request, count_attempt=False)
            return
        permit = slot.breaker.try_acquire()
        if permit is None:
            request.reply.fail(slot.unavailable())
            return
        with permit:
            try:
                signature = await self._call(session, request.payload)
            except HSMFailure as failure:
                await self._failed(session, request, permit, failure)
            else:
                permit.success()
                request.reply.succeed(Made(signature, Backend.HSM, slot.name))

    async def _call(self, session: HostSession, job: HSMJob) -> RecoverableSignature:
        """Have the token sign, and check what comes back.

        Raises:
            HSMFailure: there is no signature, or not one by this key: SIGNATURE_MISMATCH.
        """
        pulse = self._slot.pulse
        with pulse.call():
            (raw,) = await session.sign([(job.public_key, job.digest)])
            pulse.answered()
        if isinstance(raw, HSMFailure):
            raise raw
        try:
            return complete(raw, job.digest, job.public_key)
        except SignatureMismatch as mismatch:
            detail = f"a wrong signature was withheld: {mismatch}"
            raise HSMFailure(outcome_named("SIGNATURE_MISMATCH", "C_Sign"), detail) from None

    async def _failed(self, session: HostSession, request: Request, permit: Permit, failure: HSMFailure) -> None:
        slot = self._slot
        if never_tried(failure.outcome):
            permit.release()
            slot.mailbox.give_back_one(request, count_attempt=False)
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
