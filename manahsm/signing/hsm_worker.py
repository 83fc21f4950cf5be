"""An HSM signer worker: one task, one session, one digest after the other.

The one thing to know: a signature leaves only after it has recovered to the key it was asked of. What a worker
holds when it fails goes back into the slot's mailbox, and another session signs it: a digest may be signed twice,
and only one signature leaves.
"""

from __future__ import annotations

from manahsm.errors import HSMUnavailable, ManaHSMError, PolicyDenied, SignatureMismatch
from manahsm.ethereum.signatures import complete
from manahsm.hsm.client import HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, Outcome
from manahsm.logs import get_logger
from manahsm.requests import Backend
from manahsm.signing.jobs import HSMJob, Made
from manahsm.signing.slot import Slot
from supervisors import ChildContext, Request

__all__ = ["HSMWorker", "refusal"]

_log = get_logger("manahsm.worker")

_CLOSE_TIMEOUT = 2.0  # seconds; a host that does not answer is killed by its own deadline anyway


def refusal(outcome: Outcome, slot: str) -> ManaHSMError | None:
    """What to answer after a failed call, or ``None`` where another session should try (pure)."""
    match outcome.action:
        case Action.TELL_CALLER:
            return PolicyDenied(f"the token in slot {slot} refuses this key or operation ({outcome.name})")
        case Action.NEXT_ROUTE:
            return HSMUnavailable(f"slot {slot} does not hold this key any more ({outcome.name})")
        case Action.LATCH | Action.FAIL_OVER:
            return HSMUnavailable(f"slot {slot} is out of use ({outcome.name}): look at its status")
        case _:
            return None


class HSMWorker:
    """Body of one supervised task.

    Args:
        slot: whose mailbox and pool it works with.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    async def run(self, ctx: ChildContext) -> None:
        """Sign until cancelled, on one session after the other.

        Raises:
            HSMFailure: a session could not be opened; the supervisor restarts the worker after a while.
        """
        ctx.started()
        slot = self._slot
        while True:
            session = await slot.pool.acquire()
            try:
                await self._serve(ctx.name, session)
            finally:
                with ctx.clock.move_on_after(_CLOSE_TIMEOUT, shield=True):
                    await slot.pool.release(session)

    async def _serve(self, name: str, session: HostSession) -> None:
        while session.usable:
            request: Request | None = None
            with self._slot.pool.while_attached(session):
                request = await self._slot.mailbox.receive(name)
            if request is not None:
                await self._sign(session, request)

    async def _sign(self, session: HostSession, request: Request) -> None:
        slot = self._slot
        job: HSMJob = request.payload
        if not session.usable:  # its host died as the request came
            slot.mailbox.give_back_one(request, count_attempt=False)
            return
        try:
            (raw,) = await session.sign([(job.public_key, job.digest)])
            if isinstance(raw, HSMFailure):
                raise raw
            signature = complete(raw, job.digest, job.public_key)
        except HSMFailure as failure:
            _log.warning("signing failed", slot=slot.name, outcome=failure.outcome.name)
            answer = refusal(failure.outcome, slot.name)
            if answer is None:
                slot.mailbox.give_back_one(request, failure)
            else:
                request.reply.fail(answer)
            await self._recover(session, failure)
        except SignatureMismatch as mismatch:
            # The device, or our idea of which key a handle is, can not be trusted any more.
            _log.critical("wrong signature withheld", slot=slot.name)
            slot.latch(f"its token returned a wrong signature: {mismatch}")
            request.reply.fail(mismatch)
        else:
            request.reply.succeed(Made(signature, Backend.HSM, slot.name))

    async def _recover(self, session: HostSession, failure: HSMFailure) -> None:
        """Do for the slot what the failure asks for; the request has been dealt with."""
        host = self._slot.pool.host_of(session)
        try:
            match failure.outcome.action:
                case Action.LATCH:
                    self._slot.latch(str(failure))
                case Action.LOGIN_AGAIN:
                    await host.log_in_again(session.generation)
                case Action.RESPAWN | Action.FAIL_OVER:
                    await host.stop()  # its keeper starts another, which looks for the token anew
        except HSMFailure as further:
            if further.outcome.action is Action.LATCH:
                self._slot.latch(str(further))
