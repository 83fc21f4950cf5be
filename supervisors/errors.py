"""Every error that the kit raises, with whose fault it is and what to do next.

Three families: :class:`SupervisorError` (starting, stopping and restarting children), :class:`MailboxError`
(handing work over) and :class:`BreakerError` (asking a circuit breaker). Nothing else is raised on purpose,
apart from ``ValueError`` and ``TypeError`` for arguments that could never work.
"""

from __future__ import annotations

__all__ = [
    "Abandoned",
    "AlreadyStarted",
    "BreakerError",
    "CallRefused",
    "DeadlinePassed",
    "DuplicateChild",
    "HookFailed",
    "IllegalTransition",
    "MailboxClosed",
    "MailboxError",
    "MailboxFull",
    "PermitSpent",
    "Poisoned",
    "RestartIntensityExceeded",
    "StartFailed",
    "SupervisorError",
    "SupervisorStopped",
    "TooManyChildren",
    "UnknownChild",
]


class SupervisorError(Exception):
    """Base of what supervisors raise."""


class StartFailed(SupervisorError):  # noqa: N818 - names read as situations throughout the kit
    """A child ended, failed or ran out of time before it called ``started()``.

    The child's fault, as a rule: ``cause`` says what it raised. Everything that was started before it, in the
    same start of the supervisor, has been stopped again.

    Attributes:
        supervisor: name of the supervisor.
        child: name of the child.
        cause: what the child raised, or ``None`` where it just ended.
    """

    def __init__(self, supervisor: str, child: str, reason: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{supervisor}: child {child!r} did not start: {reason}")
        self.supervisor = supervisor
        self.child = child
        self.cause = cause
        self.__cause__ = cause


class RestartIntensityExceeded(SupervisorError):  # noqa: N818
    """Children failed more often than the restart budget allows; the supervisor stopped.

    Restarting did not help, so the fault is most likely outside of the child: in its configuration, or in
    something that both it and its siblings need. A parent supervisor treats this as a crash of this one.

    Attributes:
        supervisor: name of the supervisor that gave up.
        child: name of the child whose exit was one too many.
        cause: what that child raised, or ``None`` where it just ended.
    """

    def __init__(self, supervisor: str, child: str, budget: str, cause: BaseException | None) -> None:
        what = "ended" if cause is None else f"failed with {type(cause).__name__}: {cause}"
        super().__init__(f"{supervisor}: gave up after more than {budget}; last, child {child!r} {what}")
        self.supervisor = supervisor
        self.child = child
        self.cause = cause
        self.__cause__ = cause


class HookFailed(SupervisorError):  # noqa: N818
    """A child's ``on_exit`` hook raised: a bug in the hook.

    What the hook was to hand back may be lost, so the supervisor does not go on as if nothing had happened:
    it stops its children and passes this upwards.

    Attributes:
        supervisor: name of the supervisor.
        child: name of the child whose hook raised.
        cause: what the hook raised.
    """

    def __init__(self, supervisor: str, child: str, cause: BaseException) -> None:
        super().__init__(f"{supervisor}: on_exit of child {child!r} raised {type(cause).__name__}: {cause}")
        self.supervisor = supervisor
        self.child = child
        self.cause = cause
        self.__cause__ = cause


class DuplicateChild(SupervisorError):  # noqa: N818
    """A child of this name is there already. Stop it first, or choose another name."""


class UnknownChild(SupervisorError):  # noqa: N818
    """No child has this name. Dynamic children are forgotten once they have ended for good."""


class TooManyChildren(SupervisorError):  # noqa: N818
    """``max_children`` dynamic children are there already. Stop one first, or raise the limit."""


class SupervisorStopped(SupervisorError):  # noqa: N818
    """The supervisor is not running, or it is stopping: it starts nothing now."""


class AlreadyStarted(SupervisorError):  # noqa: N818
    """``started()`` was called twice in one incarnation, or a running supervisor was run: a caller's bug."""


class MailboxError(Exception):
    """Base of what mailboxes and replies raise."""


class MailboxFull(MailboxError):  # noqa: N818
    """As many requests wait as the mailbox has room for. Refuse the caller, or try another mailbox."""


class MailboxClosed(MailboxError):  # noqa: N818
    """The mailbox takes no more requests; what was queued when it closed fails with this, as a rule."""


class DeadlinePassed(MailboxError):  # noqa: N818
    """The deadline passed before there was an answer. A worker may still be busy; its answer is dropped."""


class Poisoned(MailboxError):  # noqa: N818
    """The request was handed out ``attempts`` times, and each holder failed. It is not tried again.

    Attributes:
        attempts: how often it was handed out.
        cause: why the last holder failed, where that is known.
    """

    def __init__(self, attempts: int, cause: BaseException | None = None) -> None:
        why = "" if cause is None else f"; the last one with {type(cause).__name__}: {cause}"
        super().__init__(f"given up: every one of {attempts} holders failed while it had this request{why}")
        self.attempts = attempts
        self.cause = cause
        self.__cause__ = cause


class Abandoned(MailboxError):  # noqa: N818
    """Someone asks for the answer to a request that its caller had abandoned: a bug in the second one."""


class BreakerError(Exception):
    """Base of what circuit breakers raise."""


class CallRefused(BreakerError):  # noqa: N818
    """The breaker admits no call now.

    Attributes:
        breaker: name of the breaker.
        reason: why, for people.
        retry_after: seconds until a call may be admitted, or ``None`` where only an operator or a restart
            helps.
    """

    def __init__(self, breaker: str, reason: str, retry_after: float | None) -> None:
        super().__init__(f"{breaker}: {reason}")
        self.breaker = breaker
        self.reason = reason
        self.retry_after = retry_after


class IllegalTransition(BreakerError):  # noqa: N818
    """The breaker can not do that in its state, and has not changed. A latched one is unlatched first."""


class PermitSpent(BreakerError):  # noqa: N818
    """The permit has had its one verdict already: a bug in the caller."""
