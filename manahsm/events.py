"""What the supervision tree reports, as log lines: the ordinary in detail only, trouble as warnings."""

from __future__ import annotations

from collections.abc import Callable

from manahsm.logs import get_logger
from manahsm.signing.observed import Observed, SessionEnded, SignEnded, StandInBegan
from supervisors import (
    BreakerAvailabilityChanged,
    BreakerStateChanged,
    ChildExited,
    ChildStartFailed,
    Crashed,
    Escalated,
    Event,
    RestartScheduled,
    WaitingForWedged,
    Wedged,
    cause_of,
)

__all__ = ["EventHub", "Happening", "log_event"]

_log = get_logger("manahsm.supervision")

Happening = Event | Observed


class EventHub:
    """Passes every event on to all who listen, in the order in which they came.

    Called synchronously from whatever happens, so listeners count and return. One that raises is a fault of ours: it
    is logged, and stops nobody else.
    """

    def __init__(self, *listeners: Callable[[Happening], None]) -> None:
        self._listeners = list(listeners)

    def subscribe(self, listener: Callable[[Happening], None]) -> None:
        """Tell ``listener`` of all that happens from now on."""
        self._listeners.append(listener)

    def __call__(self, event: Happening) -> None:
        """Take an event."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - whoever listens must not hurt what is listened to
                _log.exception("listener failed", event_type=type(event).__name__)


def log_event(event: Happening) -> None:
    """Write one event to the log."""
    match event:
        case SignEnded() | SessionEnded() | StandInBegan():
            pass  # the audit log and those who report them write these
        case ChildExited(exit=Crashed() | Wedged()):
            cause = cause_of(event.exit)
            _log.warning(
                "child failed",
                supervisor=event.supervisor,
                child=event.child,
                kind=type(event.exit).__name__.lower(),
                error=type(cause).__name__ if cause else None,
                detail=str(cause or ""),
            )
        case RestartScheduled():
            _log.info(
                "restart",
                supervisor=event.supervisor,
                children=" ".join(event.children),
                after=round(event.delay, 3),
            )
        case Escalated():
            _log.error("supervisor gave up", supervisor=event.supervisor, detail=str(event.error))
        case BreakerStateChanged():
            level = _log.info if event.state in {"closed", "half_open"} else _log.warning
            level("breaker", breaker=event.breaker, state=event.state, before=event.previous, reason=event.reason)
        case BreakerAvailabilityChanged():
            _log.info("available" if event.available else "unavailable", breaker=event.breaker, reason=event.reason)
        case ChildStartFailed() | WaitingForWedged():
            _log.warning(type(event).__name__, supervisor=event.supervisor, detail=str(event))
        case _:
            _log.debug(type(event).__name__, supervisor=getattr(event, "supervisor", None))
