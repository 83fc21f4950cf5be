"""The signing rate: one token bucket for the whole service (``security_policy.max_signing_rate``).

A bucket holds at most one second's worth of signatures, so that a burst after a calm time is no larger than
the rate itself.
"""

from __future__ import annotations

from attrs import define, field

from manahsm.errors import RateLimited
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["RateLimit"]


@define
class RateLimit:
    """Admits ``rate`` signatures a second; a rate of 0 admits all.

    Attributes:
        rate: signatures per second.
        clock: where the time comes from.
    """

    rate: float
    clock: Clock = SYSTEM_CLOCK
    _tokens: float = field(init=False)
    _filled_at: float | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._tokens = self._burst

    @property
    def _burst(self) -> float:
        return max(1.0, float(self.rate))

    def spend(self) -> None:
        """Take one token.

        Raises:
            RateLimited: none is left; ``retry_after`` says in how many seconds there will be one.
        """
        if self.rate == 0:
            return
        now = self.clock.now()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            wait = (1.0 - self._tokens) / self.rate
            raise RateLimited(
                f"the signing rate of {self.rate:g} a second is spent: try again in {wait:.3f} s, or raise "
                "security_policy.max_signing_rate",
                retry_after=wait,
            )
        self._tokens -= 1.0
