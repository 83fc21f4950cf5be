"""What the signing path reports as it happens, as typed values: for metrics, alerts and whoever else listens.

The one thing to know: listeners are called synchronously from the path of a signature. They count and return.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from attrs import frozen

from manahsm.requests import Backend, Operation

__all__ = ["CANCELLED", "HOST_GONE", "SIGNED", "Observed", "Observer", "SessionEnded", "SignEnded", "StandInBegan"]

SIGNED = "signed"
CANCELLED = "cancelled"
"""How a request ends without an error; else it is the ``code`` of one."""
HOST_GONE = "HOST_GONE"
"""Why a session ends whose host has ended while it was idle; else it is the name of an outcome."""


# A Struct, for one is made for every signature: 0.2 us, where a frozen attrs class takes 0.7.
class SignEnded(msgspec.Struct, frozen=True, kw_only=True):
    """One signing request has ended, after its audit record was written (or could not be).

    Attributes:
        operation: what was to be signed.
        backend: what signed, or ``None`` where nothing did.
        slot: whose token signed, or ``None``.
        outcome: ``signed``, a ``code`` of :mod:`manahsm.errors`, or ``cancelled``.
        diverted: a backup slot or a software twin stood in.
        duration: seconds from the request to its end.
    """

    operation: Operation
    backend: Backend | None
    slot: str | None
    outcome: str
    diverted: bool
    duration: float


@frozen(kw_only=True)
class SessionEnded:
    """A session was closed.

    Attributes:
        slot: whose.
        reason: the name of an outcome or ``HOST_GONE``; ``None`` where it was good and no longer needed.
    """

    slot: str
    reason: str | None


@frozen(kw_only=True)
class StandInBegan:
    """An outage has made a software twin stand in for the first time.

    Attributes:
        slots: names of the slots that hold the key.
    """

    slots: tuple[str, ...]


Observed = SignEnded | SessionEnded | StandInBegan
Observer = Callable[[Observed], None]
