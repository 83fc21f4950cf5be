"""The restart budget that all children of a supervisor share: at most so many restarts in so many seconds.

Pure, and OTP's rule (``supervisor:add_restart``): each restart, and each failed try of one, is one entry;
entries at most ``within`` seconds old count, the one on the edge included; more of them than ``restarts`` is
one too many.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import field, frozen, validators

__all__ = ["Intensity", "RestartWindow"]


@frozen
class Intensity:
    """At most ``restarts`` restarts within any ``within`` seconds (OTP's default: 1 in 5 s).

    Budgets multiply down a tree: a supervisor that allows 3, under one that allows 3, makes 15 tries in the
    worst case ((3+1) * (3+1) - 1) before the top gives up.
    """

    restarts: float = field(default=1, validator=validators.ge(0))
    within: float = field(default=5.0, validator=validators.gt(0))

    @classmethod
    def unlimited(cls) -> Intensity:
        """Return a budget that is never used up: the supervisor tries for ever, spaced by its backoff."""
        return cls(restarts=math.inf)

    def __str__(self) -> str:
        if self.restarts == math.inf:
            return "unlimited restarts"
        return f"{self.restarts:g} restart{'' if self.restarts == 1 else 's'} in {self.within:g} s"


class RestartWindow:
    """The restarts of one supervisor that still count."""

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._times: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Enter one restart at time ``now`` (seconds); return ``False`` if it is one too many."""
        if self._intensity.restarts == math.inf:
            return True  # nothing to remember
        self._times.append(now)
        while self._times[0] < now - self._intensity.within:
            self._times.popleft()
        return len(self._times) <= self._intensity.restarts
