"""An HSM signer worker: opens one session after the other, and puts right what failures there ask for.

The one thing to know: signatures do not pass through this task. They go through the session's
:class:`~manahsm.signing.conveyor.Conveyor`, which wakes the worker where something takes time: a new login, the end of
a host, a pause. What a worker that crashes has in custody goes back into the slot's mailbox.
"""

from __future__ import annotations

import random

from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, Outcome
from manahsm.logs import get_logger
from manahsm.signing.conveyor import Conveyor
from manahsm.signing.observed import HOST_GONE
from manahsm.signing.pool import OpenFailed
from manahsm.signing.slot import Slot
from supervisors import Backoff, ChildContext

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
            conveyor = Conveyor(slot, session, ctx.name)
            try:
                if self._overflow:
                    ctx.started()
                conveyor.start()
                await self._attend(ctx, session, conveyor)
            finally:
                conveyor.close()
                reason = conveyor.broken or (None if session.usable else HOST_GONE)
                with ctx.clock.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await slot.pool.release(session, reason)
                slot.session_ended(reason)
            if self._overflow:
                return

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

    async def _attend(self, ctx: ChildContext, session: HostSession, conveyor: Conveyor) -> None:
        """Do what failures ask for, until the session is of no use, or an overflow session idle for long."""
        host = self._slot.pool.host_of(session)
        patience = self._slot.config.connection_pool.idle_timeout if self._overflow else None
        while not conveyor.is_over():
            if (recovery := conveyor.next_recovery()) is not None:
                await self._recover(recovery.outcome, host, session.generation)
                conveyor.recovered()
            elif patience is None:
                await conveyor.news()
            elif (now := ctx.clock.now()) >= conveyor.idle_since + patience:
                return
            else:
                with ctx.clock.move_on_at(min(conveyor.idle_since, now) + patience):
                    await conveyor.news()

    # ---- what a failure asks for ----

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
