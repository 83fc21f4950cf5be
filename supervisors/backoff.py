"""How long to wait before a restart: exponential delays with jitter that start anew after a calm period.

Pure: the caller says how often the child has failed in a row and brings the source of randomness.
"""

from __future__ import annotations

import math
import random

from attrs import field, frozen, validators

__all__ = ["Backoff"]


@frozen
class Backoff:
    """Delays before restarts, in seconds.

    The n-th restart in a row waits ``initial * factor**n``, at most ``maximum``, of which a random share of
    up to ``jitter`` is taken off, so that children that failed together do not come back together.

    Attributes:
        initial: seconds before the first restart; 0 restarts at once, however often (as OTP does).
        maximum: no delay is longer.
        factor: growth from one failure to the next, 1 or more.
        jitter: 0 (none) to 1 (anything between nothing and the whole delay).
        reset_after: a child that ran this long since it was ready starts anew with ``initial``.
    """

    initial: float = field(default=0.1, validator=[validators.ge(0), validators.lt(math.inf)])
    maximum: float = field(default=30.0, validator=[validators.ge(0), validators.lt(math.inf)])
    factor: float = field(default=2.0, validator=[validators.ge(1), validators.lt(math.inf)])
    jitter: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    reset_after: float = field(default=60.0, validator=validators.ge(0))

    def __attrs_post_init__(self) -> None:
        if self.maximum < self.initial:
            raise ValueError(f"maximum ({self.maximum}) is below initial ({self.initial})")

    @classmethod
    def none(cls) -> Backoff:
        """Return a backoff that restarts at once, always."""
        return cls(initial=0.0, maximum=0.0)

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait before the next restart.

        Args:
            failures: restarts in a row before this one; 0 for the first.
            rng: where the jitter comes from.
        """
        try:
            full = min(self.maximum, self.initial * self.factor**failures)
        except OverflowError:
            full = self.maximum
        return full * (1.0 - self.jitter * rng.random())

    def has_calmed(self, ran_for: float) -> bool:
        """Return whether a child that was ready for ``ran_for`` seconds starts anew."""
        return ran_for >= self.reset_after
