"""What supervisors and breakers report, as typed values for logs, metrics and tests.

The one thing to know: events tell what has happened and are handed to ``on_event`` synchronously; a hook that
raises is logged and changes nothing. All of them are frozen, and ``at`` is a time of the reporter's clock in
seconds.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from supervisors.exits import Exit

__all__ = [
    "BreakerAvailabilityChanged",
    "BreakerStateChanged",
    "ChildExited",
    "ChildStartFailed",
    "ChildStarted",
    "Escalated",
    "Event",
    "RestartScheduled",
    "SupervisorEnded",
    "SupervisorEvent",
    "SupervisorStarted",
    "WaitingForWedged",
    "WedgedChildEnded",
]


@frozen(kw_only=True)
class SupervisorStarted:
    """All fixed children are ready."""

    supervisor: str
    at: float


@frozen(kw_only=True)
class ChildStarted:
    """A child has called ``started()``."""

    supervisor: str
    child: str
    incarnation: int
    at: float


@frozen(kw_only=True)
class ChildStartFailed:
    """A child did not get ready; ``reason`` says why."""

    supervisor: str
    child: str
    incarnation: int
    reason: str
    at: float


@frozen(kw_only=True)
class ChildExited:
    """An incarnation has ended, or was given up as wedged, ``ran_for`` seconds after its launch."""

    supervisor: str
    child: str
    incarnation: int
    exit: Exit
    ran_for: float
    at: float


@frozen(kw_only=True)
class RestartScheduled:
    """A child failed; ``children`` will be stopped, and started in this order after ``delay`` seconds."""

    supervisor: str
    child: str
    children: tuple[str, ...]
    delay: float
    at: float


@frozen(kw_only=True)
class WedgedChildEnded:
    """The task of a child that had been given up as wedged has ended after all."""

    supervisor: str
    child: str
    incarnation: int
    exit: Exit
    at: float


@frozen(kw_only=True)
class WaitingForWedged:
    """The supervisor has stopped all it could; it can not return before these wedged children end."""

    supervisor: str
    children: tuple[str, ...]
    at: float


@frozen(kw_only=True)
class Escalated:
    """The supervisor gives up and passes ``error`` upwards."""

    supervisor: str
    child: str
    error: Exception
    at: float


@frozen(kw_only=True)
class SupervisorEnded:
    """All children have been stopped; ``reason`` says why."""

    supervisor: str
    reason: str
    at: float


@frozen(kw_only=True)
class BreakerStateChanged:
    """A circuit breaker changed its state. The states are the values of ``BreakerState``."""

    breaker: str
    previous: str
    state: str
    reason: str
    at: float


@frozen(kw_only=True)
class BreakerAvailabilityChanged:
    """Supervision has closed or opened a breaker's gate."""

    breaker: str
    available: bool
    reason: str
    at: float


SupervisorEvent: TypeAlias = (
    SupervisorStarted
    | ChildStarted
    | ChildStartFailed
    | ChildExited
    | RestartScheduled
    | WedgedChildEnded
    | WaitingForWedged
    | Escalated
    | SupervisorEnded
)
Event: TypeAlias = SupervisorEvent | BreakerStateChanged | BreakerAvailabilityChanged
