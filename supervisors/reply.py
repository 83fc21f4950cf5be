"""A request for a worker, and the promise of its one answer.

The one thing to know: a reply is resolved once. The first of ``succeed``, ``fail``, ``abandon`` and the
deadline counts; what comes later is told so by ``False`` and dropped.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.errors import Abandoned, DeadlinePassed
from supervisors.timers import Timers
from supervisors.wakeup import Wakeup, new_wakeup

if TYPE_CHECKING:
    from supervisors.mailbox import Mailbox

__all__ = ["Reply", "ReplyState", "Request"]


class ReplyState(Enum):
    """Where a reply stands."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Reply:
    """The one answer to a request. Workers resolve it, one caller waits for it."""

    __slots__ = (
        "_arrival",
        "_clock",
        "_custodian",
        "_deadline",
        "_error",
        "_handout",
        "_holder",
        "_state",
        "_timers",
        "_value",
        "_wakeup",
    )

    def __init__(
        self, deadline: float | None = None, clock: Clock = SYSTEM_CLOCK, timers: Timers | None = None
    ) -> None:
        self._state = ReplyState.PENDING
        self._value: Any = None
        self._error: BaseException | None = None
        self._wakeup: Wakeup | None = None
        self._deadline = deadline
        self._clock = clock
        self._timers = timers
        # What the mailbox that has the request keeps here, so that it needs no table of its own:
        self._custodian: Mailbox | None = None
        self._holder: str | None = None
        self._arrival = 0
        self._handout = 0

    def __repr__(self) -> str:
        return f"<Reply {self._state.value}>"

    @property
    def state(self) -> ReplyState:
        """Where it stands."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether an answer would be dropped: it is resolved, or nobody waits for it any more."""
        return self._state is not ReplyState.PENDING

    @property
    def abandoned(self) -> bool:
        """Whether the caller has stopped waiting."""
        return self._state is ReplyState.ABANDONED

    def succeed(self, value: Any) -> bool:
        """Answer with ``value``; return ``False`` if it was resolved already."""
        if self._state is not ReplyState.PENDING:
            return False
        self._value = value
        self._resolve(ReplyState.SUCCEEDED)
        return True

    def fail(self, error: BaseException) -> bool:
        """Answer with an exception for the caller; return ``False`` if it was resolved already."""
        if self._state is not ReplyState.PENDING:
            return False
        self._error = error
        self._resolve(ReplyState.FAILED)
        return True

    def abandon(self) -> bool:
        """Say that nobody waits any more: workers skip the request. ``False`` if it was resolved already."""
        if self._state is not ReplyState.PENDING:
            return False
        self._resolve(ReplyState.ABANDONED)
        return True

    def _resolve(self, state: ReplyState) -> None:
        self._state = state
        custodian, self._custodian = self._custodian, None
        if custodian is not None:
            custodian._settled(self)  # noqa: SLF001 - mailbox and reply are two halves of one thing
        if self._wakeup is not None:
            self._wakeup.set()

    @property
    def held(self) -> bool:
        """Whether a receiver has the request in hand now."""
        return self._holder is not None

    async def wait(self) -> Any:
        """Wait for the answer until the request's deadline, and return or raise it.

        For the one caller that waits. A caller that is cancelled here has abandoned the request. The deadline
        is kept here, whether or not any worker ever looks at the request.

        Raises:
            DeadlinePassed: the deadline passed first.
            Abandoned: the reply had been abandoned before.
            RuntimeError: somebody else is waiting already.
            BaseException: what the worker failed it with.
        """
        await self.resolved_by(None)
        return self.result()

    async def resolved_by(self, when: float | None) -> bool:
        """Wait for the answer as :meth:`wait` does, but no longer than until ``when``; return whether it is there.

        For a caller whose patience ends before the deadline: the request goes on, and the caller may wait again or
        :meth:`abandon` it.

        Args:
            when: a time of the request's clock; ``None``: the deadline alone.

        Raises:
            RuntimeError: somebody else is waiting already.
        """
        if self._state is ReplyState.PENDING:
            if self._wakeup is not None:
                raise RuntimeError("two tasks wait for the same reply")
            deadline = self._deadline
            until = deadline if when is None or (deadline is not None and deadline <= when) else when
            self._wakeup = new_wakeup()
            try:
                await self._wait(self._wakeup, until)
            except BaseException:
                self.abandon()
                raise
            finally:
                self._wakeup = None
            if until == deadline:
                self.fail(DeadlinePassed("the deadline passed before there was an answer"))
        return self.done

    async def _wait(self, wakeup: Wakeup, until: float | None) -> None:
        if until is None:
            await wakeup.wait()
        elif self._timers is None:
            with self._clock.move_on_at(until):
                await wakeup.wait()
        else:
            timer = self._timers.call_at(until, wakeup.set)
            try:
                await wakeup.wait()
            finally:
                timer.cancel()

    def result(self) -> Any:
        """Return or raise the answer of a resolved reply.

        Raises:
            Abandoned: it was abandoned.
            RuntimeError: there is no answer yet.
            BaseException: what the worker failed it with.
        """
        match self._state:
            case ReplyState.SUCCEEDED:
                return self._value
            case ReplyState.FAILED if self._error is not None:
                raise self._error
            case ReplyState.ABANDONED:
                raise Abandoned("the caller had stopped waiting for this reply")
            case _:
                raise RuntimeError("there is no answer yet")


class Request:
    """Something to be done, and the reply for it.

    Attributes:
        payload: what is to be done; the worker's own affair.
        deadline: when nobody waits any more, as a time of ``clock``; ``None``: never.
        timers: keep the deadline of whoever waits, cheaper than ``clock`` would; of the same clock.
        attempts: holders that it has outlived so far.
        reply: the promise of an answer.
    """

    __slots__ = ("attempts", "clock", "deadline", "payload", "reply")

    def __init__(
        self,
        payload: Any,
        *,
        deadline: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
        timers: Timers | None = None,
    ) -> None:
        self.payload = payload
        self.deadline = deadline
        self.clock = clock
        self.attempts = 0
        self.reply = Reply(deadline, clock, timers)

    def __repr__(self) -> str:
        return f"<Request, {self.reply.state.value}, {self.attempts} attempts>"

    @property
    def overdue(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and self.clock.now() >= self.deadline

    async def wait(self) -> Any:
        """Wait for the answer; see :meth:`Reply.wait`."""
        return await self.reply.wait()
