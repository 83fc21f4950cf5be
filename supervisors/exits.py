"""How a child ended, as a value that means the same on asyncio and on trio.

The one thing to know: an exit is judged by *who asked*, never by the type of the exception. A child that was
asked to stop has :class:`Stopped`, whatever it raised on its way out; only a child that nobody asked can have
:class:`Crashed`. The loops disagree too much for anything else: a cancelled child whose cleanup raises ends
with an ``ExceptionGroup`` on asyncio and with a ``BaseExceptionGroup`` that holds ``Cancelled`` on trio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from attrs import frozen

__all__ = [
    "Crashed",
    "Exit",
    "Returned",
    "Stopped",
    "Wedged",
    "cause_of",
    "is_abnormal",
    "leaves",
    "unwrapped",
]


@frozen
class Returned:
    """The child's function returned by itself. ``value`` is what it returned."""

    value: object = None


@frozen
class Crashed:
    """The child's function raised, and nobody had asked it to stop.

    Attributes:
        error: what it raised; a group that holds one exception only is opened.
    """

    error: BaseException


@frozen
class Stopped:
    """The child ended because it was asked to.

    Attributes:
        forced: it did not end by itself within its grace, so it was cancelled.
        error: what it raised on its way out, if it did; a bug in its cleanup, worth a look.
    """

    forced: bool = False
    error: BaseException | None = None


@frozen
class Wedged:
    """The child was cancelled and still runs: it is stuck in something that can not be cancelled.

    Its task is still there (no event loop can remove it), but the supervisor has stopped waiting for it.

    Attributes:
        reason: what is known about it.
    """

    reason: str


Exit: TypeAlias = Returned | Crashed | Stopped | Wedged


def is_abnormal(exit_: Exit) -> bool:
    """Return whether a transient child is restarted after it (OTP: not ``normal``, not ``shutdown``)."""
    return isinstance(exit_, Crashed | Wedged)


def cause_of(exit_: Exit) -> BaseException | None:
    """Return the exception behind an exit, where there is one."""
    return exit_.error if isinstance(exit_, Crashed | Stopped) else None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a (nested) group holds, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def unwrapped(error: BaseException) -> BaseException:
    """Return the only exception in a group of one, or ``error`` as it is.

    A crash inside of a task group arrives bare or in a group, depending on where it happened; nobody who
    reads the exit cares which.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
