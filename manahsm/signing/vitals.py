"""What a slot remembers of its past, to tell a hang from a queue, a habit from an accident, and health from luck.

Three small memories, each fed by whoever sees the event and asked by whoever decides. Pure: times are arguments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

from supervisors import Clock

__all__ = ["Pulse", "Repeats", "Wellness"]


class Pulse:
    """Calls that are out at a token, and when it last answered one.

    The one thing to know: a token that is slow because much is asked of it answers all the time; one that hangs is
    silent. Only silence speaks against it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._out: dict[object, float] = {}  # oldest first
        self._answered_at = -math.inf

    @property
    def busy(self) -> int:
        """Calls that are out now."""
        return len(self._out)

    def begin(self, call: object) -> None:
        """Note that a call is out, until :meth:`end`; both in the order of calls."""
        self._out[call] = self._clock.now()

    def end(self, call: object) -> None:
        """Note that it is out no more. Harmless when it was not."""
        self._out.pop(call, None)

    def answered(self) -> None:
        """Note that the token has answered a call, well or not."""
        self._answered_at = self._clock.now()

    def silent_for(self) -> float:
        """Seconds in which calls were out and nothing came back; 0 where nothing is out."""
        if not self._out:
            return 0.0
        oldest = next(iter(self._out.values()))
        return self._clock.now() - max(oldest, self._answered_at)


class Repeats:
    """Whether something has happened often lately.

    Args:
        often: so many times ...
        within: ... in so many seconds are often.
    """

    def __init__(self, often: int = 3, within: float = 10.0) -> None:
        self._often = often
        self._within = within
        self._seen: dict[Hashable, dict[str, deque[float]]] = {}

    def note(self, whose: Hashable, what: str, now: float) -> bool:
        """Note that it happened to somebody, and return whether that is often."""
        times = self._seen.setdefault(whose, {}).setdefault(what, deque(maxlen=self._often))
        times.append(now)
        return len(times) == self._often and now - times[0] <= self._within

    def forget(self, whose: Hashable) -> None:
        """Somebody is gone."""
        self._seen.pop(whose, None)


class Wellness:
    """How long something has been well, and whether it was so for a while since a given time.

    Args:
        a_while: seconds; shorter stretches are forgotten when they end.
    """

    def __init__(self, a_while: float) -> None:
        self.a_while = a_while
        self._since: float | None = None
        self._last: tuple[float, float] | None = None

    def note(self, *, well: bool, now: float) -> None:
        """Note how it is now; saying the same twice changes nothing."""
        if well and self._since is None:
            self._since = now
        elif not well and self._since is not None:
            if now - self._since >= self.a_while:
                self._last = (self._since, now)
            self._since = None

    def for_a_while_after(self, when: float, now: float) -> bool:
        """Whether it was well for a while without a break, all of it after ``when``."""
        stretches = [] if self._last is None else [self._last]
        if self._since is not None:
            stretches.append((self._since, now))
        return any(end - max(begin, when) >= self.a_while for begin, end in stretches)
