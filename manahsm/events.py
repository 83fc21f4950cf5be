"""What the supervision tree reports, as log lines: the ordinary in detail only, trouble as warnings."""

from __future__ import annotations

from manahsm.logs import get_logger
from supervisors import (
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

__all__ = ["log_event"]

_log = get_logger("manahsm.supervision")


def log_event(event: Event) -> None:
    """Write one event to the log."""
    match event:
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
        case ChildStartFailed() | WaitingForWedged():
            _log.warning(type(event).__name__, supervisor=event.supervisor, detail=str(event))
        case _:
            _log.debug(type(event).__name__, supervisor=getattr(event, "supervisor", None))
