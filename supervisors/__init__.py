"""Supervision for anyio programs, on asyncio and trio alike.

* :class:`Supervisor` keeps children running by Erlang/OTP's rules: :class:`ChildSpec`, :class:`Strategy`,
  :class:`Restart`, :class:`Intensity`, :class:`Backoff`, :class:`Shutdown`, :class:`AutoShutdown`.
* :class:`Mailbox` keeps work safe across the crash of a worker: :class:`Request`, :class:`Reply`.
* :class:`CircuitBreaker` stops calls to what does not answer: :class:`BreakerSettings`, :class:`Permit`.
* :class:`Clock` makes time a parameter; :mod:`supervisors.testing` moves it. :class:`Timers` keeps many deadlines.

    async def worker(context):
        async with connect() as connection:
            context.started()
            while True:
                request = await mailbox.receive(context.name)
                request.reply.succeed(await connection.call(request.payload))

    mailbox = Mailbox("calls", capacity=1000)
    spec = ChildSpec("worker", worker, on_exit=lambda exit: mailbox.give_back("worker"))
    async with Supervisor("root", [spec]).running():
        answer = await mailbox.ask("question", timeout=5)
"""

from supervisors.backoff import Backoff
from supervisors.breaker import CircuitBreaker
from supervisors.breaker_rules import BreakerSettings, BreakerState
from supervisors.clock import SYSTEM_CLOCK, Clock, SystemClock
from supervisors.context import ChildContext
from supervisors.errors import (
    Abandoned,
    AlreadyStarted,
    BreakerError,
    CallRefused,
    DeadlinePassed,
    DuplicateChild,
    HookFailed,
    IllegalTransition,
    MailboxClosed,
    MailboxError,
    MailboxFull,
    PermitSpent,
    Poisoned,
    RestartIntensityExceeded,
    StartFailed,
    SupervisorError,
    SupervisorStopped,
    TooManyChildren,
    UnknownChild,
)
from supervisors.events import (
    BreakerAvailabilityChanged,
    BreakerStateChanged,
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    Escalated,
    Event,
    RestartScheduled,
    SupervisorEnded,
    SupervisorEvent,
    SupervisorStarted,
    WaitingForWedged,
    WedgedChildEnded,
)
from supervisors.exits import Crashed, Exit, Returned, Stopped, Wedged, cause_of, is_abnormal
from supervisors.intensity import Intensity
from supervisors.mailbox import Mailbox, MailboxStats, Receiver
from supervisors.permits import BreakerStats, Permit, Refusal
from supervisors.reply import Reply, ReplyState, Request
from supervisors.roster import ChildState, ChildStatus
from supervisors.specs import AutoShutdown, ChildSpec, Restart, Shutdown, Strategy
from supervisors.supervisor import Supervisor
from supervisors.timers import Timer, Timers
from supervisors.window import Counts

__all__ = [
    "SYSTEM_CLOCK",
    "Abandoned",
    "AlreadyStarted",
    "AutoShutdown",
    "Backoff",
    "BreakerAvailabilityChanged",
    "BreakerError",
    "BreakerSettings",
    "BreakerState",
    "BreakerStateChanged",
    "BreakerStats",
    "CallRefused",
    "ChildContext",
    "ChildExited",
    "ChildSpec",
    "ChildStartFailed",
    "ChildStarted",
    "ChildState",
    "ChildStatus",
    "CircuitBreaker",
    "Clock",
    "Counts",
    "Crashed",
    "DeadlinePassed",
    "DuplicateChild",
    "Escalated",
    "Event",
    "Exit",
    "HookFailed",
    "IllegalTransition",
    "Intensity",
    "Mailbox",
    "MailboxClosed",
    "MailboxError",
    "MailboxFull",
    "MailboxStats",
    "Permit",
    "PermitSpent",
    "Poisoned",
    "Receiver",
    "Refusal",
    "Reply",
    "ReplyState",
    "Request",
    "Restart",
    "RestartIntensityExceeded",
    "RestartScheduled",
    "Returned",
    "Shutdown",
    "StartFailed",
    "Stopped",
    "Strategy",
    "Supervisor",
    "SupervisorEnded",
    "SupervisorError",
    "SupervisorEvent",
    "SupervisorStarted",
    "SupervisorStopped",
    "SystemClock",
    "Timer",
    "Timers",
    "TooManyChildren",
    "UnknownChild",
    "WaitingForWedged",
    "Wedged",
    "WedgedChildEnded",
    "cause_of",
    "is_abnormal",
]
