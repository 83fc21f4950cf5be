"""Whether a device that answers CKR_DEVICE_ERROR is busy or broken. Host process only. Pure.

The one thing to know: a busy device still signs now and then. So the code means throttling only where the vendor says
that it may, and only until it has come many times in a row; after that it means what the standard says, and the host
is replaced.
"""

from __future__ import annotations

from manahsm.hsm.protocol import Failure
from manahsm.hsm.return_codes import CKR

__all__ = ["MOST_IN_A_ROW", "Throttle"]

MOST_IN_A_ROW = 32
"""Refusals without a signature in between that a busy device may give, all sessions of a host together."""


class Throttle:
    """What the signatures of one host came to lately. Its threads may miscount a little; nothing hangs on that.

    Args:
        possible: whether the vendor's CKR_DEVICE_ERROR may mean throttling at all.
    """

    def __init__(self, *, possible: bool) -> None:
        self._possible = possible
        self._in_a_row = 0

    def signed(self) -> None:
        """A signature was made."""
        self._in_a_row = 0

    def explain(self, failure: Failure) -> Failure:
        """Return the failure of a signature as what it means: DEVICE_THROTTLED, or as it is."""
        if not self._possible or failure.rv != CKR["CKR_DEVICE_ERROR"]:
            return failure
        self._in_a_row += 1
        if self._in_a_row > MOST_IN_A_ROW:
            return failure
        detail = f"{failure.name}: the device may be throttling; ask less of it at once, or add devices"
        return Failure("DEVICE_THROTTLED", None, failure.function, detail)
